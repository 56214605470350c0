// The name that GGUF has for a tokenizer.json's pre_tokenizer, found by its content: the steps that cut text.
// Source of names and expressions: llama.cpp's src/llama-vocab.cpp, where the expressions of tokenizer.json stand in
// comments. A list of steps that is not here has no name there that is known to mean the same.

import { UnsupportedError } from "../errors.ts"
import { preTokenizer } from "../tokenizer/pretokenizer.ts"
import type { Fields } from "./fields.ts"

const SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const SIGNS_AND_SPACES = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
const SIGNS_SLASHES_AND_SPACES = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Letters with what is before them; so many digits. */
const words = (digits: string) => `${SUFFIX}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}|${SIGNS_AND_SPACES}`
/** Words break before capitals. */
const casedWords = (digits: string, suffix: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${suffix}|` +
  `${digits}|${SIGNS_SLASHES_AND_SPACES}`

const GPT2 = "ByteLevel"
const DIGIT = "Digits"
const split = (expression: string) => `Split ${expression}`

interface Known {
  readonly name: string
  readonly steps: readonly string[]
}

const KNOWN: readonly Known[] = [
  { name: "gpt-2", steps: [GPT2] },
  { name: "smollm", steps: [DIGIT, GPT2] },
  { name: "llama-bpe", steps: [split(words("\\p{N}{1,3}"))] },
  { name: "dbrx", steps: [split(words("\\p{N}{1,3}"))] },
  { name: "qwen2", steps: [split(words("\\p{N}"))] },
  {
    name: "qwen35",
    steps: [
      split(
        `${SUFFIX}|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|` +
          "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      ),
    ],
  },
  { name: "gpt-4o", steps: [split(casedWords("\\p{N}{1,3}", `${SUFFIX}?`))] },
  { name: "tekken", steps: [split(casedWords("\\p{N}", ""))] },
  {
    name: "deepseek-coder",
    steps: [split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGIT],
  },
]

/** The name of a byte-level tokenizer's `pre_tokenizer`. Throws UnsupportedError, with the steps, for one without. */
export function preTokenizerName(pre: Fields | undefined, ignoreMerges: boolean): string {
  const steps = pre === undefined ? [] : stepsOf(pre)
  const found = KNOWN.find(({ name, steps: known }) => {
    return known.join("\n") === steps.join("\n") && preTokenizer(name).ignoreMerges === ignoreMerges
  })
  if (found !== undefined) return found.name
  const names = KNOWN.map(({ name }) => name).join(", ")
  throw new UnsupportedError(
    `${pre?.place ?? "tokenizer.json: pre_tokenizer"}: no name is known for the steps [${steps.join("], [")}] with ` +
      `ignore_merges = ${ignoreMerges}; known: ${names}`,
  )
}

/** What cuts, in order. */
function stepsOf(pre: Fields): string[] {
  const type = pre.string("type")
  switch (type) {
    case "Sequence":
      return pre.objects("pretokenizers").flatMap(stepsOf)
    case "ByteLevel":
      if (pre.boolean("add_prefix_space") === true) return [`${GPT2} with add_prefix_space`]
      return pre.boolean("use_regex") === false ? [] : [GPT2]
    case "Digits":
      return [pre.boolean("individual_digits") === true ? DIGIT : "Digits in runs"]
    case "Split":
      return [splitStep(pre)]
    default:
      return [String(type)]
  }
}

/** The expressions above match every character or leave runs whole, so keeping matches, isolated or as what is not
 * removed, is the same. */
function splitStep(pre: Fields): string {
  const expression = pre.object("pattern")?.get("Regex")
  const behavior = pre.string("behavior")
  const isInverted = pre.boolean("invert") === true
  const isUsual = (behavior === "Isolated" && !isInverted) || (behavior === "Removed" && isInverted)
  if (typeof expression === "string" && isUsual) return split(expression)
  return `Split ${JSON.stringify(pre.get("pattern"))} ${behavior}${isInverted ? " inverted" : ""}`
}
