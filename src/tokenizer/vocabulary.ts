// The vocabulary: each token's stored bytes, kind and score, in flat typed arrays, and the way from bytes to id.
// The table from bytes to id is built at its first use, so that decoding never pays for it. Knows no merging rules.

import { FormatError } from "../errors.ts"
import type { MetadataValue, StringArray } from "../gguf/types.ts"
import { bytesEqual, StringTable } from "./string-table.ts"

/** tokenizer.ggml.token_type, by the GGUF specification. */
export const KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** Text that stands for an end of generation whatever its kind says; the same list as llama.cpp's. */
const END_NAMES = new Set([
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|calls|>",
  "<|flush|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "</s>",
  "<|eom_id|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<|end_of_text|>",
  "<end_of_utterance>",
  "<eos>",
  "<turn|>",
  "<|tool_response>",
  "<｜end▁of▁sentence｜>",
  "[e~[",
])

/** Whether a token of this text ends a generation whatever the metadata says of it. */
export function isEndName(text: string): boolean {
  return END_NAMES.has(text)
}

/** Names of the padding, repository and file separator tokens of infilling: they end a generation too. */
const INFILL_NAMES = {
  fim_pad: new Set(["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
  fim_rep: new Set(["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
  fim_sep: new Set(["<|file_sep|>"]),
}

/** Tokens of gpt-oss that carry structure a reader wants to see. */
const SHOWN_NAMES = new Set(["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"])

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
const encoder = new TextEncoder()

export class Vocabulary {
  readonly nTokens: number
  /** Token i is data[starts[i]] to data[starts[i] + lengths[i] - 1]. */
  readonly data: Uint8Array
  readonly starts: Uint32Array // (nTokens)
  readonly lengths: Uint32Array // (nTokens), bytes
  readonly kinds: Uint8Array // (nTokens), KIND
  readonly scores: Float32Array | undefined // (nTokens)
  readonly ends: ReadonlySet<number>
  #table: StringTable | undefined

  constructor(metadata: ReadonlyMap<string, MetadataValue>) {
    const tokens = stringArray(metadata, "tokenizer.ggml.tokens")
    if (tokens === undefined) throw new FormatError("tokenizer.ggml.tokens is missing: the file holds no vocabulary")
    this.nTokens = tokens.length
    this.data = tokens.data
    this.starts = tokens.starts
    this.lengths = tokens.lengths
    this.kinds = readKinds(metadata, tokens.length)
    this.scores = readScores(metadata, tokens.length)
    this.ends = this.#findEnds(metadata)
  }

  /** The token's bytes as stored; a view. */
  stored(id: number): Uint8Array {
    const start = this.starts[id]!
    return this.data.subarray(start, start + this.lengths[id]!)
  }

  text(id: number): string {
    return decoder.decode(this.stored(id))
  }

  /** The id of the token stored as bytes[begin, end), or -1. */
  lookup(bytes: Uint8Array, begin: number, end: number): number {
    this.#table ??= new StringTable(this.data, this.starts, this.lengths, this.nTokens)
    return this.#table.find(bytes, begin, end)
  }

  /** Whether token `id` exists and is stored as bytes[0, n). */
  isStoredAs(id: number, bytes: Uint8Array, n: number): boolean {
    return (
      id >= 0 && id < this.nTokens && this.lengths[id] === n && bytesEqual(this.data, this.starts[id]!, bytes, 0, n)
    )
  }

  find(text: string): number | undefined {
    const bytes = encoder.encode(text)
    const id = this.lookup(bytes, 0, bytes.length)
    return id < 0 ? undefined : id
  }

  /** Whether plain text may become this token: never a control, unknown or byte token, or text could inject them. */
  isPlain(id: number): boolean {
    const kind = this.kinds[id]!
    return kind !== KIND.control && kind !== KIND.unknown && kind !== KIND.byte
  }

  /** A token id in the metadata, undefined when it is absent or outside the vocabulary. */
  idFrom(metadata: ReadonlyMap<string, MetadataValue>, name: string): number | undefined {
    const value = metadata.get(`tokenizer.ggml.${name}_token_id`)
    return typeof value === "number" && value >= 0 && value < this.nTokens ? value : undefined
  }

  // Reads only tokens that can be markers (first byte <, [ or _, at most 32 bytes): no table is needed at start-up.
  #findEnds(metadata: ReadonlyMap<string, MetadataValue>): Set<number> {
    const { data, starts, lengths, kinds } = this
    const ends = new Set<number>()
    const named = new Map<string, number>()
    const infill = new Map<string, number>()
    for (const name of ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"]) {
      const id = this.idFrom(metadata, name)
      if (id === undefined) continue
      ends.add(id)
      infill.set(name, id)
    }
    for (let id = 0; id < this.nTokens; id++) {
      const n = lengths[id]!
      if (n < 4 || n > 32) continue
      const first = data[starts[id]!]
      if (first !== 0x3c && first !== 0x5b && first !== 0x5f) continue
      const last = data[starts[id]! + n - 1]
      if (last !== 0x3e && last !== 0x5d && last !== 0x5b) continue
      const text = this.text(id)
      if (END_NAMES.has(text)) {
        named.set(text, id)
        ends.add(id)
        kinds[id] = KIND.control
      }
      if (SHOWN_NAMES.has(text)) kinds[id] = KIND.userDefined
      for (const [name, names] of Object.entries(INFILL_NAMES)) {
        if (!names.has(text) || infill.has(name)) continue
        infill.set(name, id)
        ends.add(id)
        kinds[id] = KIND.control
      }
    }
    // In the harmony and solar-open formats <|end|> closes a message, not the generation.
    const end = named.get("<|end|>")
    const calls = named.has("<|call|>") || named.has("<|calls|>")
    if (end !== undefined && calls && (named.has("<|return|>") || named.has("<|flush|>"))) {
      ends.delete(end)
      kinds[end] = KIND.userDefined
    }
    const s = named.get("</s>")
    if (s !== undefined && named.has("<|tool_response>")) {
      ends.delete(s)
      kinds[s] = KIND.normal
    }
    return ends
  }
}

function isStringArray(value: MetadataValue): value is StringArray {
  return typeof value === "object" && "bytes" in value && "starts" in value
}

export function stringArray(metadata: ReadonlyMap<string, MetadataValue>, key: string): StringArray | undefined {
  const value = metadata.get(key)
  if (value === undefined) return undefined
  if (!isStringArray(value)) throw new FormatError(`${key} is not an array of strings`)
  return value
}

function numberArray(
  metadata: ReadonlyMap<string, MetadataValue>,
  key: string,
  n: number,
): ArrayLike<number> | undefined {
  const value = metadata.get(key)
  if (value === undefined) return undefined
  if (!ArrayBuffer.isView(value) || value instanceof BigInt64Array || value instanceof BigUint64Array) {
    throw new FormatError(`${key} is not an array of numbers`)
  }
  if (value.length < n) throw new FormatError(`${key} has ${value.length} entries for ${n} tokens`)
  return value
}

function readKinds(metadata: ReadonlyMap<string, MetadataValue>, n: number): Uint8Array {
  const values = numberArray(metadata, "tokenizer.ggml.token_type", n)
  const kinds = new Uint8Array(n).fill(KIND.normal)
  if (values instanceof Int32Array) kinds.set(values.subarray(0, n))
  else if (values !== undefined) for (let i = 0; i < n; i++) kinds[i] = values[i]!
  return kinds
}

function readScores(metadata: ReadonlyMap<string, MetadataValue>, n: number): Float32Array | undefined {
  const values = numberArray(metadata, "tokenizer.ggml.scores", n)
  if (values === undefined) return undefined
  return values instanceof Float32Array ? values : Float32Array.from(values)
}
