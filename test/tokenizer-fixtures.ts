// Small tokenizers written by the tests, and the default model's metadata.

import { existsSync } from "node:fs"
import { readGguf } from "../src/gguf/reader.ts"
import { FlatStrings } from "../src/gguf/strings.ts"
import type { MetadataValue, StringArray } from "../src/gguf/types.ts"
import { defaultModelName, modelPath } from "../src/models/index.ts"
import { CODE_OF_BYTE } from "../src/tokenizer/bytes.ts"
import { createTokenizer } from "../src/tokenizer/index.ts"
import type { Tokenizer } from "../src/tokenizer/types.ts"

export const defaultModelPath = modelPath(defaultModelName)
export const hasDefaultModel = existsSync(defaultModelPath)

export function tokenizerOf(path: string): Tokenizer {
  return createTokenizer(readGguf(path).metadata)
}

export const stringArrayOf = (strings: readonly string[]): StringArray => FlatStrings.from(strings)

/** A character of the byte alphabet for each byte: the stored form of byte-level BPE. */
export function storedForm(text: string): string {
  return Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(CODE_OF_BYTE[b]!)).join("")
}

export interface Special {
  text: string
  kind: number
}

/** Metadata of a BPE tokenizer over all bytes with the given merges ("a b" in stored form) and special tokens. */
export function bpeMetadata(
  merges: readonly string[],
  specials: readonly Special[] = [],
  more: Record<string, MetadataValue> = {},
): Map<string, MetadataValue> {
  const tokens = Array.from({ length: 256 }, (_, b) => String.fromCharCode(CODE_OF_BYTE[b]!))
  const kinds = tokens.map(() => 1)
  for (const merge of merges) {
    const merged = merge.replace(" ", "")
    if (tokens.includes(merged)) continue
    tokens.push(merged)
    kinds.push(1)
  }
  for (const { text, kind } of specials) {
    tokens.push(text)
    kinds.push(kind)
  }
  return new Map<string, MetadataValue>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", "gpt-2"],
    ["tokenizer.ggml.tokens", stringArrayOf(tokens)],
    ["tokenizer.ggml.token_type", Int32Array.from(kinds)],
    ["tokenizer.ggml.merges", stringArrayOf(merges)],
    ...Object.entries(more),
  ])
}

/** Metadata of an SPM tokenizer: <unk> <s> </s>, the 256 byte tokens, then the given tokens with their scores. */
export function spmMetadata(
  scored: readonly (readonly [string, number])[],
  specials: readonly Special[] = [],
  more: Record<string, MetadataValue> = {},
): Map<string, MetadataValue> {
  const tokens = ["<unk>", "<s>", "</s>"]
  const kinds = [2, 3, 3]
  const scores = [0, 0, 0]
  for (let b = 0; b < 256; b++) {
    tokens.push(`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`)
    kinds.push(6)
    scores.push(0)
  }
  for (const [text, score] of scored) {
    tokens.push(text)
    kinds.push(1)
    scores.push(score)
  }
  for (const { text, kind } of specials) {
    tokens.push(text)
    kinds.push(kind)
    scores.push(0)
  }
  return new Map<string, MetadataValue>([
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", stringArrayOf(tokens)],
    ["tokenizer.ggml.token_type", Int32Array.from(kinds)],
    ["tokenizer.ggml.scores", Float32Array.from(scores)],
    ...Object.entries(more),
  ])
}

/** A small generator (mulberry32): tests must repeat. */
export function random(seed: number): () => number {
  let s = seed
  return () => {
    s = (s + 0x6d2b79f5) | 0
    let t = Math.imul(s ^ (s >>> 15), 1 | s)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Text of many scripts: letters with case, marks, digits, blanks, signs, astral and control characters, lone surrogates. */
export function randomText(next: () => number, length: number): string {
  const pick = (from: number, to: number) => from + Math.floor(next() * (to - from))
  const alphabets: (() => number)[] = [
    () => pick(0x20, 0x7f),
    () => pick(0x61, 0x67),
    () => pick(0x41, 0x47),
    () => pick(0x30, 0x3a),
    () => 0x20,
    () => [0x09, 0x0a, 0x0d, 0x85, 0xa0, 0x3000, 0x2028][pick(0, 7)]!,
    () => [0x27, 0x73, 0x74, 0x4c, 0x6c, 0x52, 0x65, 0x2f][pick(0, 8)]!,
    () => pick(0, 0x20),
    () => pick(0xa0, 0x250),
    () => pick(0x300, 0x370),
    () => pick(0x370, 0x530),
    () => pick(0x600, 0x700),
    () => pick(0x900, 0xe80),
    () => pick(0x3040, 0x3100),
    () => pick(0x4e00, 0x9fff),
    () => pick(0x1f300, 0x1f650),
    () => pick(0x10000, 0x10ffff),
    () => pick(0xd800, 0xe000),
    () => [0xfeff, 0x200d, 0xfffd, 0x661, 0x2155, 0x1c5, 0x2b0][pick(0, 7)]!,
  ]
  let text = ""
  while (text.length < length) {
    const alphabet = alphabets[pick(0, alphabets.length)]!
    for (let n = pick(1, 5); n > 0; n--) text += String.fromCodePoint(alphabet())
  }
  return text
}
