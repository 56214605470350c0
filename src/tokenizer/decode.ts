// Tokens back into text, at once or as a stream. Knows how a token's bytes are stored, nothing of encoding.

import { bytesOfStored } from "./bpe.ts"
import { byteOfStored, unescapeBlanks } from "./spm.ts"
import type { DecodeOptions, StreamDecoder } from "./types.ts"
import { KIND, type Vocabulary } from "./vocabulary.ts"

const NOTHING = new Uint8Array(0)
const BLANK = 0x20

// A byte order mark is text like any other.
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })

/** How a vocabulary stores its tokens. */
export interface Storage {
  readonly vocabulary: Vocabulary
  readonly kind: "spm" | "bpe"
  /** Encoding puts a blank before the text and after each special token. */
  readonly blankPrefix: boolean
}

/** The bytes a token stands for; a special token's are its text. */
export function tokenBytes({ vocabulary, kind }: Storage, token: number): Uint8Array {
  const stored = vocabulary.stored(token)
  switch (vocabulary.kinds[token]) {
    case KIND.control:
    case KIND.unknown:
    case KIND.userDefined:
      return stored.slice()
    case KIND.byte: {
      const byte = byteOfStored(stored)
      return byte < 0 ? stored.slice() : Uint8Array.of(byte)
    }
    default:
      return kind === "bpe" ? bytesOfStored(stored) : unescapeBlanks(stored)
  }
}

/** The bytes of tokens one after another, with SPM's blanks taken away where encoding had put them. */
export class ByteStream {
  #storage: Storage
  #special: boolean | ReadonlySet<number>
  #continuation: boolean
  #dropBlank: boolean

  constructor(storage: Storage, options: DecodeOptions) {
    this.#storage = storage
    this.#special = options.special ?? false
    this.#continuation = options.continuation ?? false
    this.#dropBlank = storage.blankPrefix && !this.#continuation
  }

  next(token: number): Uint8Array {
    const { vocabulary, blankPrefix } = this.#storage
    if (!(token >= 0 && token < vocabulary.nTokens)) return NOTHING
    const kind = vocabulary.kinds[token]
    const special = kind === KIND.control || kind === KIND.unknown
    if (special || kind === KIND.userDefined) {
      this.#dropBlank = blankPrefix
      return special && !this.#shows(token) ? NOTHING : tokenBytes(this.#storage, token)
    }
    const bytes = tokenBytes(this.#storage, token)
    if (!this.#dropBlank || bytes.length === 0) return bytes
    this.#dropBlank = false
    return bytes[0] === BLANK ? bytes.subarray(1) : bytes
  }

  #shows(token: number): boolean {
    return typeof this.#special === "boolean" ? this.#special : this.#special.has(token)
  }

  reset(): void {
    this.#dropBlank = this.#storage.blankPrefix && !this.#continuation
  }
}

export function decodeTokens(storage: Storage, tokens: ArrayLike<number>, options: DecodeOptions): string {
  const stream = new ByteStream(storage, options)
  let bytes = new Uint8Array(4 * tokens.length + 64)
  let n = 0
  for (let i = 0; i < tokens.length; i++) {
    const piece = stream.next(tokens[i]!)
    if (n + piece.length > bytes.length) {
      const grown = new Uint8Array(2 * (n + piece.length))
      grown.set(bytes)
      bytes = grown
    }
    bytes.set(piece, n)
    n += piece.length
  }
  return utf8.decode(bytes.subarray(0, n))
}

/** How many bytes at the end are the sound beginning of a character that is not complete: 0 to 3. */
export function openBytes(bytes: Uint8Array): number {
  const n = bytes.length
  for (let back = 1; back <= Math.min(3, n); back++) {
    const lead = bytes[n - back]!
    if (lead >= 0x80 && lead < 0xc0) continue
    if (lead < 0xc2 || lead > 0xf4) return 0
    const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
    if (back >= size) return 0
    // The second byte of some leads has a narrower range (no surrogates, nothing overlong or past U+10FFFF): outside it
    // the lead is invalid already and is not waited for.
    if (back >= 2) {
      const second = bytes[n - back + 1]!
      if (lead === 0xe0 && second < 0xa0) return 0
      if (lead === 0xed && second > 0x9f) return 0
      if (lead === 0xf0 && second < 0x90) return 0
      if (lead === 0xf4 && second > 0x8f) return 0
    }
    return back
  }
  return 0
}

export class Utf8StreamDecoder implements StreamDecoder {
  #bytes: ByteStream
  #open: Uint8Array = NOTHING

  constructor(storage: Storage, options: DecodeOptions) {
    this.#bytes = new ByteStream(storage, options)
  }

  push(token: number): string {
    const piece = this.#bytes.next(token)
    if (piece.length === 0) return ""
    let bytes = piece
    if (this.#open.length > 0) {
      bytes = new Uint8Array(this.#open.length + piece.length)
      bytes.set(this.#open)
      bytes.set(piece, this.#open.length)
    }
    const open = openBytes(bytes)
    this.#open = open === 0 ? NOTHING : bytes.slice(bytes.length - open)
    return utf8.decode(open === 0 ? bytes : bytes.subarray(0, bytes.length - open))
  }

  end(): string {
    const rest = utf8.decode(this.#open)
    this.#open = NOTHING
    this.#bytes.reset()
    return rest
  }
}
