// The tokens for which a draft model keeps its output matrix: those that occur, likeliest first. Zhao et al. 2025, "FR-Spec:
// accelerating large-vocabulary language models via frequency-ranked speculative sampling". A token that is not in the list
// is never drafted, and costs a rejection at most; the text is the target's in any case.
//
// The list is a file beside the model, or made from the vocabulary alone: merges are learnt by frequency, so low ids are
// frequent tokens. It knows no model and no text; src/cli/draft-vocab.ts makes lists of texts.

import { existsSync, readFileSync } from "node:fs"
import { FormatError } from "../errors.ts"
import type { GgufHeader } from "../gguf/types.ts"
import { KIND, Vocabulary } from "../tokenizer/vocabulary.ts"

/** Tokens of a list where nothing else is said. */
export const DEFAULT_LIST_LENGTH = 32768

/** A smaller vocabulary is kept whole. */
const MIN_VOCABULARY = 2 * DEFAULT_LIST_LENGTH

const FORMAT = "asdsl draft vocabulary"

/** A list as a file holds it. */
export interface VocabularyList {
  readonly format: typeof FORMAT
  /** Of the model that it was made for. */
  readonly nVocab: number
  /** The share of the texts it was made of that it covers; undefined where it was made without. */
  readonly coverage?: number
  readonly tokens: readonly number[]
}

/** Where a model's list is looked for. */
export function listPath(modelPath: string): string {
  return `${modelPath.replace(/\.gguf$/i, "")}.draft-vocab.json`
}

/** The tokens that have logits, ascending; undefined: all.
 * @param given a list's path, or "all"; absent: the one beside the file, else DEFAULT_LIST_LENGTH ids of the vocabulary. */
export function readDraftVocabulary(header: GgufHeader, nVocab: number, given?: string): Int32Array | undefined {
  if (given === "all") return undefined
  const path = given ?? listPath(header.path)
  const vocabulary = new Vocabulary(header.metadata)
  if (given === undefined && !existsSync(path)) {
    return nVocab < MIN_VOCABULARY ? undefined : listed([], vocabulary, DEFAULT_LIST_LENGTH)
  }
  const tokens = parseList(readFileSync(path, "utf8"), path, nVocab)
  return Int32Array.from(tokens).sort()
}

/** Counted tokens by frequency, then the rest by id, `n` of them with those that end a generation, ascending. */
export function listed(ranked: Iterable<number>, { nTokens, kinds, ends }: Vocabulary, n: number): Int32Array {
  const tokens = new Set(ends)
  const add = (token: number) => {
    if (tokens.size < n && kinds[token] !== KIND.unused) tokens.add(token)
  }
  for (const token of ranked) add(token)
  for (let token = 0; token < nTokens && tokens.size < n; token++) add(token)
  return Int32Array.from(tokens).sort()
}

export function formatList(tokens: Int32Array, nVocab: number, coverage: number): string {
  const list: VocabularyList = { format: FORMAT, nVocab, coverage, tokens: [...tokens] }
  return `${JSON.stringify(list)}\n`
}

function parseList(text: string, path: string, nVocab: number): readonly number[] {
  let list: Partial<VocabularyList>
  try {
    list = JSON.parse(text)
  } catch (cause) {
    throw new FormatError(`${path} is not JSON`, { cause })
  }
  const { format, nVocab: made, tokens } = list ?? {}
  if (format !== FORMAT || !Array.isArray(tokens)) throw new FormatError(`${path} is no list of asdsl draft-vocab`)
  if (made !== nVocab) throw new FormatError(`${path} was made for ${made} tokens, the model has ${nVocab}`)
  const wrong = tokens.findIndex((token) => !Number.isInteger(token) || token < 0 || token >= nVocab)
  if (wrong >= 0) throw new FormatError(`${path}: token ${wrong} is ${tokens[wrong]}, 0 to ${nVocab - 1} are possible`)
  if (tokens.length === 0 || new Set(tokens).size < tokens.length) {
    throw new FormatError(`${path} lists ${tokens.length} tokens, ${new Set(tokens).size} of them different`)
  }
  return tokens
}
