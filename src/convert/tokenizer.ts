// tokenizer.json as GGUF's vocabulary: "gpt2" for byte-level BPE, "llama" for BPE over characters with tokens for bytes.

import { FormatError, UnsupportedError } from "../errors.ts"
import { KIND } from "../tokenizer/vocabulary.ts"
import type { Entries } from "./entries.ts"
import type { Fields } from "./fields.ts"
import { preTokenizerName } from "./pre-tokenizer.ts"
import { scoresOf } from "./scores.ts"
import { addSpecialTokens, type SpecialSources } from "./special.ts"
import { readMerges, readTokens, type TokenTable } from "./vocabulary.ts"

const MARK = "\u2581"

type Warn = (text: string) => void

/** Adds the vocabulary, one token for each of the `nVocab` rows of the embedding table, and the special tokens. Throws
 * UnsupportedError for a tokenizer that GGUF has no form for, FormatError for one that contradicts itself. */
export function addTokenizer(entries: Entries, sources: SpecialSources, nVocab: number, warn: Warn): TokenTable {
  const { tokenizer, tokenizerConfig } = sources
  const model = tokenizer.object("model")
  if (model === undefined) throw new FormatError(`${tokenizer.place}: model is missing`)
  const type = model.string("type") ?? (model.has("merges") ? "BPE" : "of no type")
  if (type !== "BPE") throw new UnsupportedError(`${tokenizer.place}: model ${type} is not supported; known: BPE`)
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model.get(key)) throw new UnsupportedError(`${model.place}: ${key} is not supported`)
  }
  const table = readTokens(tokenizer, tokenizerConfig, nVocab, warn)
  if (model.boolean("byte_fallback") === true) addCharacterBpe(entries, tokenizer, table, warn)
  else if (isByteLevel(tokenizer)) addByteLevelBpe(entries, tokenizer, table, warn)
  else throw new UnsupportedError(`${tokenizer.place}: BPE neither byte-level nor with byte_fallback is not supported`)
  addSpecialTokens(entries, sources, table, warn)
  return table
}

function isByteLevel(tokenizer: Fields): boolean {
  const types = ["pre_tokenizer", "decoder"].flatMap((key) => steps(tokenizer.object(key)))
  return types.some((step) => step.string("type") === "ByteLevel")
}

/** A step, or those of a sequence. */
function steps(step: Fields | undefined): Fields[] {
  if (step === undefined) return []
  if (step.string("type") !== "Sequence") return [step]
  const lists = ["normalizers", "pretokenizers", "decoders"].map((key) => step.objects(key))
  return lists.flat().flatMap(steps)
}

function addByteLevelBpe(entries: Entries, tokenizer: Fields, table: TokenTable, warn: Warn): void {
  const ignoreMerges = tokenizer.object("model")!.boolean("ignore_merges") === true
  const pre = preTokenizerName(tokenizer.object("pre_tokenizer"), ignoreMerges)
  for (const step of steps(tokenizer.object("normalizer"))) {
    // Composed characters are what texts are made of already; llama.cpp leaves this step out as well.
    if (step.string("type") !== "NFC") warnOfStep(step, warn)
  }
  const merges = readMerges(tokenizer, table.ids).map((pair) => pair.join(" "))
  entries.string("tokenizer.ggml.model", "gpt2")
  entries.string("tokenizer.ggml.pre", pre)
  entries.strings("tokenizer.ggml.tokens", table.texts)
  entries.i32s("tokenizer.ggml.token_type", table.kinds)
  entries.strings("tokenizer.ggml.merges", merges)
}

function addCharacterBpe(entries: Entries, tokenizer: Fields, table: TokenTable, warn: Warn): void {
  const unknown = tokenizer.object("model")!.string("unk_token")
  for (const [text, id] of table.ids) {
    if (/^<0x[0-9A-F]{2}>$/.test(text)) table.kinds[id] = KIND.byte
    if (text === unknown) table.kinds[id] = KIND.unknown
  }
  const merges = readMerges(tokenizer, table.ids)
  entries.string("tokenizer.ggml.model", "llama")
  entries.string("tokenizer.ggml.pre", "default")
  entries.strings("tokenizer.ggml.tokens", table.texts)
  entries.f32s("tokenizer.ggml.scores", scoresOf(table, merges, warn))
  entries.i32s("tokenizer.ggml.token_type", table.kinds)
  entries.bool("tokenizer.ggml.add_space_prefix", hasBlankPrefix(tokenizer, warn))
}

/** Whether a text gets a blank in front of it. What else a normalizer or pre_tokenizer does has no place in GGUF. */
function hasBlankPrefix(tokenizer: Fields, warn: Warn): boolean {
  let isPrefixed = false
  for (const step of steps(tokenizer.object("normalizer"))) {
    const type = step.string("type")
    const isPrepend = type === "Prepend" && step.string("prepend") === MARK
    const isReplace = type === "Replace" && step.object("pattern")?.get("String") === " "
    if (isPrepend) isPrefixed = true
    else if (!(isReplace && step.string("content") === MARK)) warnOfStep(step, warn)
  }
  for (const step of steps(tokenizer.object("pre_tokenizer"))) {
    const type = step.string("type")
    if (type === "Metaspace") {
      const scheme = step.string("prepend_scheme")
      isPrefixed ||= scheme === undefined ? step.boolean("add_prefix_space") !== false : scheme !== "never"
    } else if (!(type === "Split" && step.object("pattern")?.get("String") === " ")) {
      warnOfStep(step, warn) // blanks are marks by now, so that splitting at them is no step at all
    }
  }
  return isPrefixed
}

function warnOfStep(step: Fields, warn: Warn): void {
  warn(`${step.place}: the step ${step.string("type")} has no place in GGUF and is left out`)
}
