// Cutting text into the pieces that BPE merges may not cross, for each name of tokenizer.ggml.pre. Knows no vocabulary.
// The published form of a pre-tokenizer is a list of regular expressions; here each is a scanner over categories that
// reads every character a bounded number of times. A stage cuts only inside the pieces of the stages before it, and its
// lookaheads end where the piece ends.

import { UnsupportedError } from "../errors.ts"
import { type CodePoints, LETTER, LOWER, MARK, NUMBER, PUNCTUATION, SPACE, SYMBOL, UPPER } from "./unicode.ts"

/** Sets cuts[i] = 1 for every i inside (begin, end) where a new piece begins. */
type Stage = (text: CodePoints, begin: number, end: number, cuts: Uint8Array) => void
type Test = (code: number, category: number) => boolean

export interface PreTokenizer {
  readonly stages: readonly Stage[]
  /** A piece that is itself a token is that token, whatever the merges say. */
  readonly ignoreMerges: boolean
  /** The default of tokenizer.ggml.add_bos_token. */
  readonly addBos: boolean
}

const LF = 0x0a
const CR = 0x0d
const BLANK = 0x20
const QUOTE = 0x27
const SLASH = 0x2f

function lower(code: number): number {
  return code >= 0x41 && code <= 0x5a ? code + 32 : code
}

/** The length of 's 't 'm 'd 're 've 'll at i, or 0; `fold` ignores case. */
function contraction(text: CodePoints, i: number, end: number, fold: boolean): number {
  const { codes } = text
  if (i + 1 >= end || codes[i] !== QUOTE) return 0
  const a = fold ? lower(codes[i + 1]!) : codes[i + 1]!
  if (a === 0x73 || a === 0x74 || a === 0x6d || a === 0x64) return 2
  if (i + 2 >= end) return 0
  const b = fold ? lower(codes[i + 2]!) : codes[i + 2]!
  if ((a === 0x72 || a === 0x76) && b === 0x65) return 3
  return a === 0x6c && b === 0x6c ? 3 : 0
}

/** The end of the run of characters from i on that have a bit of `want` and none of `avoid`. */
function runOf(text: CodePoints, i: number, end: number, want: number): number {
  const { categories } = text
  while (i < end && (categories[i]! & want) !== 0) i++
  return i
}

function runOutside(text: CodePoints, i: number, end: number, avoid: number): number {
  const { categories } = text
  while (i < end && (categories[i]! & avoid) === 0) i++
  return i
}

/** \s+(?!\S)|\s+ : of a run before other text, the last character is left to that text. */
function spaces(text: CodePoints, i: number, end: number): number {
  const stop = runOf(text, i, end, SPACE)
  return stop < end && stop - i > 1 ? stop - 1 : stop
}

/** \s*[\r\n]+|\s+(?!\S)|\s+ */
function spacesAndLines(text: CodePoints, i: number, end: number): number {
  const stop = runOf(text, i, end, SPACE)
  for (let j = stop - 1; j >= i; j--) if (text.codes[j] === LF || text.codes[j] === CR) return j + 1
  return stop < end && stop - i > 1 ? stop - 1 : stop
}

/** GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
function gpt2(text: CodePoints, begin: number, end: number, cuts: Uint8Array): void {
  const { codes, categories } = text
  let i = begin
  while (i < end) {
    let stop = i + contraction(text, i, end, false)
    if (stop === i) {
      const j = codes[i] === BLANK && i + 1 < end ? i + 1 : i
      const bits = categories[j]!
      if ((bits & LETTER) !== 0) stop = runOf(text, j, end, LETTER)
      else if ((bits & NUMBER) !== 0) stop = runOf(text, j, end, NUMBER)
      else if ((bits & SPACE) === 0) stop = runOutside(text, j, end, SPACE | LETTER | NUMBER)
      else stop = spaces(text, i, end)
    }
    i = stop
    cuts[i] = 1
  }
}

interface WordRules {
  /** Most digits in one piece. */
  digits: number
  contractions?: boolean
  /** Combining marks count as letters. */
  marks?: boolean
  /** Punctuation takes the line ends that follow it. Default true. */
  punctuationTakesLines?: boolean
}

/** The GPT-4 kind: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ */
function words(rules: WordRules): Stage {
  const letters = rules.marks === true ? LETTER | MARK : LETTER
  const takesLines = rules.punctuationTakesLines ?? true
  return (text, begin, end, cuts) => {
    const { codes, categories } = text
    let i = begin
    while (i < end) {
      const code = codes[i]!
      const bits = categories[i]!
      let stop = i
      if (rules.contractions !== false) stop += contraction(text, i, end, true)
      if (stop === i) {
        if ((bits & letters) !== 0) {
          stop = runOf(text, i, end, letters)
        } else if ((bits & NUMBER) !== 0) {
          stop = runOf(text, i, Math.min(end, i + rules.digits), NUMBER)
        } else if (code !== CR && code !== LF && i + 1 < end && (categories[i + 1]! & letters) !== 0) {
          stop = runOf(text, i + 1, end, letters)
        } else {
          stop = punctuationOrSpaces(text, i, end, letters, takesLines, false)
        }
      }
      i = stop
      cuts[i] = 1
    }
  }
}

/** ' ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+' at a character that is no letter and no number */
function punctuationOrSpaces(
  text: CodePoints,
  i: number,
  end: number,
  letters: number,
  takesLines: boolean,
  takesSlashes: boolean,
): number {
  const { codes, categories } = text
  const j = codes[i] === BLANK && i + 1 < end ? i + 1 : i
  const avoid = SPACE | NUMBER | letters
  if ((categories[j]! & avoid) !== 0) return spacesAndLines(text, i, end)
  let stop = runOutside(text, j, end, avoid)
  if (takesLines) {
    while (stop < end && (codes[stop] === LF || codes[stop] === CR || (takesSlashes && codes[stop] === SLASH))) stop++
  }
  return stop
}

// In the cased kind, Lm, Lo and marks count as both upper and lower.
function isUpper(bits: number): boolean {
  return (bits & (UPPER | MARK)) !== 0 || (bits & (LETTER | LOWER)) === LETTER
}

function isLower(bits: number): boolean {
  return (bits & (LOWER | MARK)) !== 0 || (bits & (LETTER | UPPER)) === LETTER
}

/** The end of upper* lower+ at i, or i where it does not match. */
function upperThenLower(text: CodePoints, i: number, end: number): number {
  const { categories } = text
  let lastBoth = -1
  let j = i
  while (j < end && isUpper(categories[j]!)) {
    if (isLower(categories[j]!)) lastBoth = j
    j++
  }
  if (j < end && isLower(categories[j]!)) {
    while (j < end && isLower(categories[j]!)) j++
    return j
  }
  // Backtracking: upper* gives back characters until lower+ finds one that is both; it finds no second one.
  return lastBoth < 0 ? i : lastBoth + 1
}

function upperRun(text: CodePoints, i: number, end: number): number {
  while (i < end && isUpper(text.categories[i]!)) i++
  return i
}

/** The GPT-4o kind, where words break before a capital: [^\r\n\p{L}\p{N}]?U*L+(suffix)?|[^\r\n\p{L}\p{N}]?U+L*(suffix)?|
 * \p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ with U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}],
 * L = [\p{Ll}\p{Lm}\p{Lo}\p{M}] and the contractions as suffix. llama.cpp comes near to it only: there U is \p{L} without
 * a to z, L without A to Z, and marks are in neither. */
function casedWords(digits: number, suffix: boolean): Stage {
  return (text, begin, end, cuts) => {
    const { codes, categories } = text
    let i = begin
    while (i < end) {
      const code = codes[i]!
      const bits = categories[i]!
      let stop = i
      const prefixed = code !== CR && code !== LF && (bits & (LETTER | NUMBER)) === 0
      if (prefixed) {
        const word = upperThenLower(text, i + 1, end)
        if (word > i + 1) stop = word
      }
      if (stop === i) stop = upperThenLower(text, i, end)
      if (stop === i && prefixed) {
        const word = upperRun(text, i + 1, end)
        if (word > i + 1) stop = word
      }
      if (stop === i) stop = upperRun(text, i, end)
      if (stop > i) {
        if (suffix) stop += contraction(text, stop, end, true)
      } else if ((bits & NUMBER) !== 0) {
        stop = runOf(text, i, Math.min(end, i + digits), NUMBER)
      } else {
        stop = punctuationOrSpaces(text, i, end, LETTER, true, true)
      }
      i = stop
      cuts[i] = 1
    }
  }
}

interface RunRules {
  /** Shortest and longest piece; runs shorter than `least` stay with what surrounds them. */
  least?: number
  most?: number
  /** One space character (`anySpace`: any \s) before the run belongs to it. */
  lead?: "blank" | "anySpace"
}

/** Every run of characters that pass the test becomes a piece; what lies between stays whole. */
function runs(test: Test, rules: RunRules = {}): Stage {
  const least = rules.least ?? 1
  const most = rules.most ?? Number.POSITIVE_INFINITY
  return (text, begin, end, cuts) => {
    const { codes, categories } = text
    let i = begin
    while (i < end) {
      let from = i
      if (rules.lead === "blank" ? codes[i] === BLANK : rules.lead === "anySpace" && (categories[i]! & SPACE) !== 0) {
        from = i + 1
      }
      let stop = from
      while (stop < end && stop - from < most && test(codes[stop]!, categories[stop]!)) stop++
      if (stop - from < least && from > i) {
        // Without the leading space the run may still begin at i itself.
        from = i
        stop = i
        while (stop < end && stop - from < most && test(codes[stop]!, categories[stop]!)) stop++
      }
      if (stop - from < least) {
        i += 1
        continue
      }
      cuts[i] = 1
      cuts[stop] = 1
      i = stop
    }
  }
}

/** DeepSeek-V3: [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ ; what matches nothing stays whole */
function deepseek3(text: CodePoints, begin: number, end: number, cuts: Uint8Array): void {
  const { codes, categories } = text
  const isAsciiLetter = (code: number) => lower(code) >= 0x61 && lower(code) <= 0x7a
  const signs = PUNCTUATION | SYMBOL
  let i = begin
  while (i < end) {
    const code = codes[i]!
    const bits = categories[i]!
    let stop = i
    if (code < 0x80 && (bits & signs) !== 0 && i + 1 < end && isAsciiLetter(codes[i + 1]!)) {
      stop = i + 1
      while (stop < end && isAsciiLetter(codes[stop]!)) stop++
    } else if ((bits & (LETTER | MARK)) !== 0) {
      stop = runOf(text, i, end, LETTER | MARK)
    } else if (
      code !== CR &&
      code !== LF &&
      (bits & signs) === 0 &&
      i + 1 < end &&
      (categories[i + 1]! & (LETTER | MARK)) !== 0
    ) {
      stop = runOf(text, i + 1, end, LETTER | MARK)
    } else {
      const j = code === BLANK && i + 1 < end ? i + 1 : i
      if ((categories[j]! & signs) !== 0) {
        stop = runOf(text, j, end, signs)
        while (stop < end && (codes[stop] === LF || codes[stop] === CR)) stop++
      } else if ((bits & SPACE) !== 0) {
        stop = spacesAndLines(text, i, end)
      } else {
        i += 1
        continue
      }
    }
    cuts[i] = 1
    cuts[stop] = 1
    i = stop
  }
}

/** \s+$ : white space that a piece ends in. */
function spacesAtEnd(text: CodePoints, begin: number, end: number, cuts: Uint8Array): void {
  let from = end
  while (from > begin && (text.categories[from - 1]! & SPACE) !== 0) from--
  cuts[from] = 1
}

const isNumber: Test = (_code, bits) => (bits & NUMBER) !== 0
const isAsciiDigit: Test = (code) => code >= 0x30 && code <= 0x39
const isLineEnd: Test = (code) => code === LF || code === CR
const isLetter: Test = (_code, bits) => (bits & LETTER) !== 0
const isPunctuation: Test = (_code, bits) => (bits & PUNCTUATION) !== 0
const isFalconSign: Test = (code, bits) =>
  (bits & PUNCTUATION) !== 0 || "$+<=>^~|`".includes(String.fromCodePoint(code))
const isDefaultSign: Test = (code, bits) =>
  (bits & PUNCTUATION) !== 0 || "$+<=>^~|".includes(String.fromCodePoint(code))
const isBloomWord: Test = (code, bits) =>
  (bits & SPACE) === 0 && !"(|.,!?…。，、।۔،)".includes(String.fromCodePoint(code))
const isHanOrKana: Test = (code) => (code >= 0x4e00 && code <= 0x9fa5) || (code >= 0x3040 && code <= 0x30ff)
const isDeepseekCoderCjk: Test = (code) =>
  (code >= 0x4e00 && code <= 0x9fa5) || (code >= 0x0800 && code <= 0x4e00) || (code >= 0xac00 && code <= 0xd7ff)

// DeepSeek's list of letters: those with case, without the blocks that its authors' table had as something else.
const UNCASED = /[\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c8f\u2d00-\u2d2d\ua790-\ua7ff\uab30-\uab68]/
const UNCASED_ASTRAL =
  /[\u{10570}-\u{105bf}\u{10d50}-\u{10d8f}\u{16e40}-\u{16ebf}\u{1d400}-\u{1d7ff}\u{1df00}-\u{1dfff}]/u
const isDeepseekLetter: Test = (code, bits) => {
  if ((bits & (UPPER | LOWER)) === 0) return false
  return code < 0x560 || !(code < 0x10000 ? UNCASED : UNCASED_ASTRAL).test(String.fromCodePoint(code))
}
const isDeepseekSign: Test = (code) =>
  (code >= 0x21 && code <= 0x2f) ||
  (code >= 0x3a && code <= 0x7e) ||
  (code >= 0xff01 && code <= 0xff0f) ||
  (code >= 0xff1a && code <= 0xff5e) ||
  (code >= 0x2018 && code <= 0x201f) ||
  (code >= 0x3000 && code <= 0x3002)

const eachNumber = runs(isNumber, { most: 1 })
const numberTriples = runs(isNumber, { most: 3 })

type Description = { stages: Stage[]; names: string[]; ignoreMerges?: boolean; addBos?: boolean }

const FAMILIES: readonly Description[] = [
  {
    names: [
      "gpt-2",
      "phi-2",
      "mpt",
      "olmo",
      "jais",
      "trillion",
      "granite-docling",
      "gigachat",
      "a.x-4.0",
      "mellum",
      "exaone4",
      "modern-bert",
      "jina-es",
      "jina-de",
      "jina-v2-es",
      "jina-v2-de",
    ],
    stages: [gpt2],
  },
  {
    names: ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
    stages: [eachNumber, gpt2],
  },
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
    stages: [words({ digits: 3 })],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ["minicpm5"], stages: [numberTriples, words({ digits: 3 })], ignoreMerges: true },
  { names: ["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], stages: [words({ digits: 3 })] },
  {
    names: [
      "qwen2",
      "deepseek-r1-qwen",
      "stablelm2",
      "hunyuan",
      "solar-open",
      "megrez",
      "kormo",
      "f2llmv2",
      "grok-2",
      "bailingmoe",
      "bailingmoe2",
      "llada-moe",
    ],
    stages: [words({ digits: 1 })],
  },
  { names: ["qwen35"], stages: [words({ digits: 1, marks: true })] },
  { names: ["seed-coder"], stages: [words({ digits: 1, punctuationTakesLines: false })] },
  { names: ["laguna"], stages: [runs((code) => code === LF), words({ digits: 1 })] },
  { names: ["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], stages: [casedWords(3, true)] },
  { names: ["tekken"], stages: [casedWords(1, false)], ignoreMerges: true, addBos: true },
  {
    names: ["deepseek-coder"],
    stages: [
      runs(isLineEnd, { most: 1 }),
      runs(isLetter, { lead: "anySpace" }),
      runs(isPunctuation, { lead: "anySpace" }),
      runs(isDeepseekCoderCjk),
      eachNumber,
    ],
  },
  {
    names: ["deepseek-llm"],
    stages: [
      runs(isLineEnd, { most: 1 }),
      runs(isDeepseekLetter, { lead: "anySpace" }),
      runs(isDeepseekSign, { lead: "anySpace" }),
      spacesAtEnd,
      runs(isDeepseekCoderCjk),
      runs(isNumber),
    ],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
    stages: [numberTriples, runs(isHanOrKana), deepseek3],
  },
  {
    names: ["falcon"],
    stages: [runs(isFalconSign), gpt2, runs(isAsciiDigit, { least: 3, most: 3 })],
  },
  { names: ["bloom", "poro-chat", "gpt3-finnish"], stages: [runs(isBloomWord, { lead: "blank" })] },
  { names: ["viking"], stages: [runs(isBloomWord, { lead: "blank" }), eachNumber] },
  {
    names: ["default"],
    stages: [runs(isDefaultSign), gpt2, runs(isNumber), runs(isAsciiDigit, { least: 3, most: 3 })],
  },
]

const KNOWN = new Map<string, PreTokenizer>()
for (const { names, stages, ignoreMerges, addBos } of FAMILIES) {
  for (const name of names) KNOWN.set(name, { stages, ignoreMerges: ignoreMerges ?? false, addBos: addBos ?? false })
}

/** The pre-tokenizer by its name in tokenizer.ggml.pre. */
export function preTokenizer(name: string): PreTokenizer {
  const found = KNOWN.get(name)
  if (found === undefined) {
    throw new UnsupportedError(`unknown pre-tokenizer "${name}"; known: ${[...KNOWN.keys()].sort().join(", ")}`)
  }
  return found
}

/** Marks in cuts[0, text.length] where pieces begin; cuts[0] and cuts[text.length] are always set. */
export function cutPieces(stages: readonly Stage[], text: CodePoints, cuts: Uint8Array): void {
  const n = text.length
  cuts.fill(0, 0, n + 1)
  cuts[0] = 1
  cuts[n] = 1
  for (const stage of stages) {
    let begin = 0
    while (begin < n) {
      let end = begin + 1
      while (cuts[end] === 0) end++
      stage(text, begin, end, cuts)
      begin = end
    }
  }
}
