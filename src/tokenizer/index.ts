// A tokenizer out of a GGUF's metadata. Owns the rules that metadata sets (BOS, EOS, special tokens, prefixes) and
// builds the encoder only when text is first encoded.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { MetadataValue } from "../gguf/types.ts"
import { BpeEncoder } from "./bpe.ts"
import { decodeTokens, type Storage, tokenBytes, Utf8StreamDecoder } from "./decode.ts"
import { preTokenizer } from "./pretokenizer.ts"
import { SpecialMatcher } from "./special.ts"
import { escapeBlanks, removeExtraBlanks, SpmEncoder } from "./spm.ts"
import { TokenList } from "./token-list.ts"
import type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "./types.ts"
import { KIND, stringArray, Vocabulary } from "./vocabulary.ts"

type Metadata = ReadonlyMap<string, MetadataValue>
type Fragment = (bytes: Uint8Array, begin: number, end: number, afterSpecial: boolean, out: TokenList) => void

// Merge ranks and ids share the 53 bits of a double with other numbers (merge.ts, spm.ts).
const MAX_ENTRIES = 2 ** 21

const MODELS = new Map<string, "spm" | "bpe">([
  ["llama", "spm"],
  ["gpt2", "bpe"],
])

const utf8 = new TextEncoder()

/** The tokenizer that the metadata describes. Vocabulary-only files are enough. */
export function createTokenizer(metadata: Metadata): Tokenizer {
  const model = metadata.get("tokenizer.ggml.model")
  if (typeof model !== "string") throw new FormatError("tokenizer.ggml.model is missing: the file holds no tokenizer")
  const kind = MODELS.get(model)
  if (kind === undefined) {
    throw new UnsupportedError(`unknown tokenizer model "${model}"; known: ${[...MODELS.keys()].join(", ")}`)
  }
  const vocabulary = new Vocabulary(metadata)
  if (vocabulary.nTokens > MAX_ENTRIES) {
    throw new UnsupportedError(`the vocabulary has ${vocabulary.nTokens} tokens, at most ${MAX_ENTRIES} are supported`)
  }
  return kind === "spm" ? createSpm(metadata, vocabulary) : createBpe(metadata, vocabulary)
}

function createSpm(metadata: Metadata, vocabulary: Vocabulary): Tokenizer {
  const blankPrefix = flag(metadata, "tokenizer.ggml.add_space_prefix", true)
  const removesBlanks = flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", false)
  const existing = (id: number) => (id < vocabulary.nTokens ? id : undefined)
  let encoder: SpmEncoder | undefined
  const fragment: Fragment = (bytes, begin, end, afterSpecial, out) => {
    encoder ??= new SpmEncoder(vocabulary, vocabulary.idFrom(metadata, "unknown") ?? existing(0))
    const text = removesBlanks ? removeExtraBlanks(bytes.subarray(begin, end)) : bytes.subarray(begin, end)
    encoder.encode(escapeBlanks(text, 0, text.length, blankPrefix && afterSpecial), out)
  }
  return new MetadataTokenizer(metadata, { vocabulary, kind: "spm", blankPrefix }, fragment, {
    bos: vocabulary.idFrom(metadata, "bos") ?? existing(1),
    eos: vocabulary.idFrom(metadata, "eos") ?? existing(2),
    addBos: true,
  })
}

function createBpe(metadata: Metadata, vocabulary: Vocabulary): Tokenizer {
  const name = metadata.get("tokenizer.ggml.pre") ?? "default"
  const pre = preTokenizer(String(name))
  const merges = stringArray(metadata, "tokenizer.ggml.merges")
  if (merges === undefined) throw new FormatError("tokenizer.ggml.merges is missing")
  if (merges.length > MAX_ENTRIES) {
    throw new UnsupportedError(`the vocabulary has ${merges.length} merges, at most ${MAX_ENTRIES} are supported`)
  }
  let encoder: BpeEncoder | undefined
  const fragment: Fragment = (bytes, begin, end, _afterSpecial, out) => {
    encoder ??= new BpeEncoder(vocabulary, pre, merges)
    encoder.encode(bytes, begin, end, out)
  }
  return new MetadataTokenizer(metadata, { vocabulary, kind: "bpe", blankPrefix: false }, fragment, {
    bos: vocabulary.idFrom(metadata, "bos"),
    eos: vocabulary.idFrom(metadata, "eos"),
    addBos: pre.addBos,
  })
}

interface Frame {
  bos: number | undefined
  eos: number | undefined
  /** Where the metadata does not say. */
  addBos: boolean
}

class MetadataTokenizer implements Tokenizer {
  readonly bos: number | undefined
  readonly eos: number | undefined
  readonly addBos: boolean
  readonly addEos: boolean
  #storage: Storage
  #fragment: Fragment
  #stripsRight: (token: number) => boolean
  #userDefined: SpecialMatcher | undefined
  #allSpecial: SpecialMatcher | undefined

  constructor(metadata: Metadata, storage: Storage, fragment: Fragment, frame: Frame) {
    this.#storage = storage
    this.#fragment = fragment
    this.bos = frame.bos
    this.eos = frame.eos
    this.addBos = frame.bos !== undefined && flag(metadata, "tokenizer.ggml.add_bos_token", frame.addBos)
    this.addEos = frame.eos !== undefined && flag(metadata, "tokenizer.ggml.add_eos_token", false)
    this.#stripsRight = rightStripRule(metadata, storage.vocabulary)
  }

  get kind(): string {
    return this.#storage.kind
  }

  get nVocab(): number {
    return this.#storage.vocabulary.nTokens
  }

  encode(text: string, options: EncodeOptions = {}): Int32Array {
    const bytes = utf8.encode(text) // lone surrogates become U+FFFD
    const out = new TokenList()
    const addSpecial = options.addSpecial ?? false
    if (addSpecial && this.addBos) out.push(this.bos!)
    let begin = 0
    let afterSpecial = true
    const literal = byteOffsets(text, options.literal ?? [])
    for (const match of this.#matcher(options.parseSpecial ?? false).find(bytes, literal)) {
      if (match.begin > begin) this.#fragment(bytes, begin, match.begin, afterSpecial, out)
      out.push(match.token)
      afterSpecial = true
      begin = match.end
    }
    if (begin < bytes.length) this.#fragment(bytes, begin, bytes.length, afterSpecial, out)
    if (addSpecial && this.addEos) out.push(this.eos!)
    return out.toArray()
  }

  decode(tokens: ArrayLike<number>, options: DecodeOptions = {}): string {
    return decodeTokens(this.#storage, tokens, options)
  }

  decoder(options: DecodeOptions = {}): StreamDecoder {
    return new Utf8StreamDecoder(this.#storage, options)
  }

  tokenBytes(token: number): Uint8Array {
    return this.#has(token) ? tokenBytes(this.#storage, token) : new Uint8Array(0)
  }

  tokenText(token: number): string {
    return this.#has(token) ? this.#storage.vocabulary.text(token) : ""
  }

  find(text: string): number | undefined {
    return this.#storage.vocabulary.find(text)
  }

  isSpecial(token: number): boolean {
    const kind = this.#storage.vocabulary.kinds[token]
    return kind === KIND.control || kind === KIND.unknown
  }

  isEndOfGeneration(token: number): boolean {
    return this.#storage.vocabulary.ends.has(token)
  }

  #has(token: number): boolean {
    return token >= 0 && token < this.nVocab
  }

  #matcher(parseSpecial: boolean): SpecialMatcher {
    const { vocabulary } = this.#storage
    const rules = { parseSpecial, stripsRight: this.#stripsRight }
    if (parseSpecial) {
      this.#allSpecial ??= new SpecialMatcher(vocabulary, rules)
      return this.#allSpecial
    }
    this.#userDefined ??= new SpecialMatcher(vocabulary, rules)
    return this.#userDefined
  }
}

/** Where characters of a text begin in its UTF-8 bytes. */
function byteOffsets(text: string, indices: readonly number[]): number[] {
  let at = 0
  let offset = 0
  return indices.map((index) => {
    offset += Buffer.byteLength(text.slice(at, index))
    at = index
    return offset
  })
}

function flag(metadata: Metadata, key: string, otherwise: boolean): boolean {
  const value = metadata.get(key)
  return typeof value === "boolean" ? value : otherwise
}

// Phi-3 swallows white space after its special tokens; the metadata has no field for it, so llama.cpp goes by the name.
function rightStripRule(metadata: Metadata, vocabulary: Vocabulary): (token: number) => boolean {
  const name = String(metadata.get("general.name") ?? "").toLowerCase()
  if (!name.includes("phi-3") && !name.includes("phi3")) return () => false
  const kept = new Set(["<unk>", "<s>", "<|endoftext|>"])
  return (token) => !kept.has(vocabulary.text(token))
}
