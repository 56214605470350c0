// Small vocabularies on which llama.cpp's tokens are stored: what they are, the texts, and a program that writes them.
// Usage: bun test/peer-vocabularies.ts FOLDER; bench/peers/oracle/tokens.mjs and conformance/tokenizer.test.ts work on the
// same files. Each is a whole model, of random weights: llama.cpp loads no less.
//
// The merges are learnt from text that nothing has cut, so they join what a pre-tokenizer has to keep apart.

import { join } from "node:path"
import type { MetadataValue } from "../src/gguf/types.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { bpeMetadata, random, randomText, type Special, spmMetadata, storedForm } from "./tokenizer-fixtures.ts"

export interface PeerVocabulary {
  readonly metadata: ReadonlyMap<string, MetadataValue>
  readonly texts: readonly string[]
}

const CONTROL = 3
const USER_DEFINED = 4

const WORDS = [
  ..."Hello| world|'LL|'re|'S|don't|123|4567890|\n\n|\r\n| \n |   |\t|/|//path/|...|!?\n|aBC|CamelCaseHTTPServer".split(
    "|",
  ),
  ..."\u00dcn\u00ef|\u00c0B|\u03a3\u03c3\u03c2|\u01c5|\u02b0|e\u0301|\u0939\u093f\u0928\u094d\u0926\u0940|\u4f60\u597d|\u3053\u3093\u306b\u3061\u306f|\uc548\ub155".split(
    "|",
  ),
  ..."\u0627\u0644\u0639\u0631\u0628\u064a\u0629|\u0661\u0662\u0663|\u00bd|\u{1f642}|\u{1f469}\u200d\u{1f467}|\u00a0|\u3000|\u20ac|\ufeff".split(
    "|",
  ),
  ..."<|x|>|<|im_end|>|<b>|</b>|<table>|_|__init__|=|==|{|}|$|`|^^|~|+1|-1|x=1;|def f(a, b):\n    return a".split("|"),
]

function texts(seed: number): string[] {
  const next = random(seed)
  return Array.from({ length: 120 }, (_, i) => {
    if (i % 2 === 0) return randomText(next, Math.floor(next() * 40)).toWellFormed()
    const words = Array.from({ length: Math.floor(next() * 12) }, () => WORDS[Math.floor(next() * WORDS.length)]!)
    return words.join(next() < 0.5 ? "" : " ")
  })
}

/** What the likeliest pairs of neighbours are, one after another. */
function learn(text: readonly string[], n: number): [string, string][] {
  let symbols = [...text]
  const merges: [string, string][] = []
  while (merges.length < n) {
    const counts = new Map<string, number>()
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]}\0${symbols[i]}`
      counts.set(pair, (counts.get(pair) ?? 0) + 1)
    }
    const [best] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))
    const [left, right] = best.split("\0") as [string, string]
    merges.push([left, right])
    const joined: string[] = []
    for (let i = 0; i < symbols.length; i++) {
      const isPair = symbols[i] === left && symbols[i + 1] === right
      joined.push(isPair ? left + right : symbols[i]!)
      if (isPair) i++
    }
    symbols = joined
  }
  return merges
}

const CORPUS = texts(1).join("").concat(texts(2).join(" "))
const MERGES = learn([...storedForm(CORPUS)], 500).map((pair) => pair.join(" "))
const PIECES = learn([...CORPUS.replaceAll("\u2581", "").replaceAll(" ", "\u2581")], 400)

// Where llama.cpp only comes near to the published expressions (pretokenizer.ts) texts do without the difference: marks and
// letters with case beyond ASCII for the GPT-4o kind, white space beyond ASCII inside DeepSeek's lists of characters.
const caseless = (text: string) =>
  text.replace(/[\p{M}\u0100-\u{10ffff}\u00b5-\u00ff]/gu, (c) => (/[\p{M}\p{Lu}\p{Ll}\p{Lt}]/u.test(c) ? "x" : c))
const narrow = (text: string) => text.replace(/[^\S\t-\r ]/g, " ")

const same = (text: string) => text
const BPE: readonly (readonly [string, (text: string) => string])[] = [
  ...["gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "stablelm2", "falcon", "bloom", "default"].map(
    (name) => [name, same] as const,
  ),
  ...["seed-coder", "minicpm5", "laguna", "deepseek-v3"].map((name) => [name, same] as const),
  ...["gpt-4o", "tekken"].map((name) => [name, caseless] as const),
  ...["deepseek-llm", "deepseek-coder"].map((name) => [name, narrow] as const),
]

const specials = (texts: readonly string[], kind: number): Special[] => texts.map((text) => ({ text, kind }))

function bpe(pre: string, change: (text: string) => string): PeerVocabulary {
  const list = [...specials(["<s>", "</s>", "<|im_end|>"], CONTROL), ...specials(["<b>", "\n\n\n"], USER_DEFINED)]
  const taken = new Set(list.map(({ text }) => storedForm(text)))
  const merges = MERGES.filter((merge) => !taken.has(merge.replace(" ", "")))
  return { metadata: bpeMetadata(merges, list, { "tokenizer.ggml.pre": pre }), texts: texts(3).map(change) }
}

function spm(extra: readonly Special[], more: Record<string, MetadataValue>): PeerVocabulary {
  const characters = [...new Set(PIECES.flat().join(""))].map((c) => [c, -1000] as const)
  const scored = [...characters, ...PIECES.map((pair, i) => [pair.join(""), -i - 1] as const)]
  const unique = [...new Map(scored.map(([text, score]) => [text, score]))]
  const taken = new Set(extra.map(({ text }) => text))
  const scores = unique.filter(([text]) => !taken.has(text))
  return { metadata: spmMetadata(scores, extra, more), texts: texts(3) }
}

// Gemma: no blank before the text; runs of lines and blanks and HTML are tokens whatever stands around them.
const GEMMA = [
  ...specials(["<start_of_turn>", "<|im_end|>"], CONTROL),
  ...specials(["<b>", "</b>", "<table>", "\n\n", "\n\n\n", "  ", "   ", "\t\t"], USER_DEFINED),
]

export const PEER_VOCABULARIES: Readonly<Record<string, PeerVocabulary>> = {
  ...Object.fromEntries(BPE.map(([name, change]) => [name, bpe(name, change)])),
  "spm llama": spm(specials(["<|im_end|>"], CONTROL), {}),
  "spm gemma": spm(GEMMA, { "tokenizer.ggml.add_space_prefix": false }),
  "spm phi-3": spm(specials(["<|endoftext|>", "<|im_end|>", "<|x|>"], CONTROL), { "general.name": "Phi-3 mini" }),
}

export function writePeerVocabulary(folder: string, name: string): string {
  const path = join(folder, `${name.replace(" ", "-")}.gguf`)
  const { metadata } = PEER_VOCABULARIES[name]!
  const tokens = metadata.get("tokenizer.ggml.tokens") as { readonly length: number }
  writeRandomModel(path, {
    ...{ seed: 1, type: "F16", nLayers: 1, dim: 32, nHeads: 1, nKvHeads: 1, nFfn: 32 },
    ...{ nVocab: tokens.length, nCtx: 64, tied: true, biases: false },
    metadata: Object.fromEntries(metadata),
  })
  return path
}

if (import.meta.main) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error("usage: bun test/peer-vocabularies.ts FOLDER")
  for (const [name, { texts }] of Object.entries(PEER_VOCABULARIES)) {
    console.log(JSON.stringify({ name, path: writePeerVocabulary(folder, name), texts }))
  }
}
