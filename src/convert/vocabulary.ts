// The tokens of a tokenizer.json by id, whichever of its lists they are in, up to the rows of the embedding table.
// Owns kinds and padding. Knows no merges.
// Source: llama.cpp's conversion/base.py (get_vocab_base, _create_vocab_sentencepiece, does_token_look_special).

import { FormatError } from "../errors.ts"
import { KIND } from "../tokenizer/vocabulary.ts"
import type { Fields } from "./fields.ts"
import { some } from "./shards.ts"

export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly isSpecial: boolean
  /** White space after it belongs to it. */
  readonly stripsRight: boolean
}

export interface TokenTable {
  readonly texts: string[] // (nVocab)
  readonly kinds: Int32Array // (nVocab)
  /** Of model.vocab. */
  readonly ids: ReadonlyMap<string, number>
  readonly added: readonly AddedToken[]
}

const MAX_TOKENS = 2 ** 21 // of the tokenizer

/** All tokens. Ids without one become "[PADn]", unused; added ones beyond the table are left out with a warning. */
export function readTokens(
  tokenizer: Fields,
  tokenizerConfig: Fields | undefined,
  nVocab: number,
  warn: (text: string) => void,
): TokenTable {
  if (nVocab > MAX_TOKENS) throw new FormatError(`vocab_size is ${nVocab}, at most ${MAX_TOKENS} tokens are supported`)
  const texts = Array.from({ length: nVocab }, (_, id) => `[PAD${id}]`)
  const kinds = new Int32Array(nVocab).fill(KIND.unused)
  const ids = readVocab(tokenizer, nVocab)
  for (const [text, id] of ids) {
    if (kinds[id] !== KIND.unused) {
      throw new FormatError(
        `${tokenizer.place}: token ${id} is both ${JSON.stringify(texts[id])} and ${JSON.stringify(text)}`,
      )
    }
    texts[id] = text
    kinds[id] = KIND.normal
  }
  const added = addedTokens(tokenizer, tokenizerConfig)
  const fitting = added.filter(({ id }) => id < nVocab)
  if (fitting.length < added.length) {
    const others = added.filter(({ id }) => id >= nVocab).map(({ content, id }) => `${content} (${id})`)
    warn(`added tokens without a row of the embedding table, which has ${nVocab}, are left out: ${some(others)}`)
  }
  for (const { id, content, isSpecial } of fitting) {
    const isControl = isSpecial || looksSpecial(content)
    kinds[id] = isControl ? KIND.control : KIND.userDefined
    texts[id] = isControl ? content : content.replaceAll("\u2581", " ")
  }
  return { texts, kinds, ids, added: fitting }
}

function readVocab(tokenizer: Fields, nVocab: number): Map<string, number> {
  const vocab = tokenizer.object("model")?.object("vocab")
  if (vocab === undefined) throw new FormatError(`${tokenizer.place}: model.vocab is missing`)
  const ids = new Map<string, number>()
  for (const [text, id] of vocab.entries()) {
    const isId = typeof id === "number" && Number.isInteger(id) && id >= 0 && id < nVocab
    if (!isId) {
      const place = `${vocab.place}: the id of ${JSON.stringify(text)}`
      throw new FormatError(`${place} is ${JSON.stringify(id)}, the embedding table has rows 0 to ${nVocab - 1}`)
    }
    ids.set(text, id)
  }
  return ids
}

/** Those of tokenizer.json, and those that tokenizer_config.json adds to them. */
function addedTokens(tokenizer: Fields, tokenizerConfig: Fields | undefined): AddedToken[] {
  const tokens = new Map<number, AddedToken>()
  const decoder = tokenizerConfig?.object("added_tokens_decoder")
  for (const [id, value] of decoder?.entries() ?? []) {
    const token = tokenizerConfig!.fresh(`added_tokens_decoder ${id}`, value as object)
    if (/^\d{1,9}$/.test(id)) tokens.set(Number(id), readAdded(token, Number(id)))
  }
  for (const token of tokenizer.objects("added_tokens")) {
    const id = token.integer("id", 0, 2 ** 30)
    tokens.set(id, readAdded(token, id))
  }
  return [...tokens.values()].sort((a, b) => a.id - b.id)
}

function readAdded(token: Fields, id: number): AddedToken {
  const content = token.string("content") ?? token.fail("content", "a string")
  const [isSpecial, stripsRight] = [token.boolean("special") === true, token.boolean("rstrip") === true]
  return { id, content, isSpecial, stripsRight }
}

/** Control tokens that files do not mark as special. */
function looksSpecial(text: string): boolean {
  if (text === "<pad>" || text === "<mask>") return true
  return (text.startsWith("<|") && text.endsWith("|>")) || (text.startsWith("<｜") && text.endsWith("｜>"))
}

/** model.merges as pairs, in order; checks that what they name exists. */
export function readMerges(tokenizer: Fields, ids: ReadonlyMap<string, number>): [string, string][] {
  const model = tokenizer.object("model")
  const merges = model?.array("merges")
  if (merges === undefined) throw new FormatError(`${tokenizer.place}: model.merges is missing`)
  return merges.map((merge, rank) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge
    const isPair = Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === "string")
    if (!isPair) throw new FormatError(`${tokenizer.place}: merge ${rank} is ${JSON.stringify(merge)}, not two tokens`)
    const [left, right] = pair as [string, string]
    const absent = [left, right, left + right].find((text) => !ids.has(text))
    if (absent === undefined) return [left, right]
    throw new FormatError(`${tokenizer.place}: merge ${rank}: ${JSON.stringify(absent)} is not in model.vocab`)
  })
}
