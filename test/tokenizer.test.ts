// Tokenizers. Oracles: naive string-merging BPE and SPM written here, the published regular expressions of the
// pre-tokenizers, TextDecoder, and the round trip. What needs the shared vocabularies or a peer's tokens is in
// conformance/tokenizer.test.ts.

import { describe, expect, test } from "bun:test"
import { FormatError, UnsupportedError } from "../src/errors.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { openBytes } from "../src/tokenizer/decode.ts"
import { createTokenizer } from "../src/tokenizer/index.ts"
import { cutPieces, preTokenizer } from "../src/tokenizer/pretokenizer.ts"
import type { Tokenizer } from "../src/tokenizer/types.ts"
import { CodePoints } from "../src/tokenizer/unicode.ts"
import {
  bpeMetadata,
  defaultModelPath,
  hasDefaultModel,
  random,
  randomText,
  spmMetadata,
  storedForm,
  stringArrayOf,
  tokenizerOf,
} from "./tokenizer-fixtures.ts"

const MERGES = ["l o", "lo w", "e r", "Ġ lo", "Ġlo w", "n e", "ne w", "a a", "aa aa", "aaaa aaaa", "Ċ Ċ", "Ġ Ġ", "Ã ©"]
const SCORED: [string, number][] = [
  ["▁", -1],
  ["a", -2],
  ["b", -3],
  ["l", -4],
  ["o", -5],
  ["w", -6],
  ["é", -7],
  ["\n", -8],
  ["lo", -20],
  ["low", -21],
  ["▁lo", -19.5],
  ["▁low", -30],
  ["aa", -22],
  ["aaa", -22],
  ["ab", -18],
  ["▁▁", -17],
  ["▁▁▁▁", -16],
]

/** BPE by repeated search for the lowest rank, leftmost. */
function naiveBpe(word: string, merges: readonly string[]): string[] {
  const symbols = Array.from(storedForm(word))
  for (;;) {
    let best = -1
    let bestRank = Number.POSITIVE_INFINITY
    for (let i = 0; i + 1 < symbols.length; i++) {
      const rank = merges.indexOf(`${symbols[i]} ${symbols[i + 1]}`)
      if (rank >= 0 && rank < bestRank) {
        best = i
        bestRank = rank
      }
    }
    if (best < 0) return symbols
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!)
  }
}

/** SPM over the whole text: the highest score, leftmost; characters without a token become bytes. */
function naiveSpm(text: string, scored: readonly (readonly [string, number])[]): string[] {
  const scores = new Map(scored)
  const symbols = Array.from(` ${text}`.replaceAll(" ", "▁"))
  for (;;) {
    let best = -1
    let bestScore = Number.NEGATIVE_INFINITY
    for (let i = 0; i + 1 < symbols.length; i++) {
      const score = scores.get(symbols[i]! + symbols[i + 1]!)
      if (score !== undefined && score > bestScore) {
        best = i
        bestScore = score
      }
    }
    if (best < 0) break
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!)
  }
  return symbols.flatMap((s) =>
    scores.has(s)
      ? [s]
      : Array.from(new TextEncoder().encode(s), (b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`),
  )
}

/** Bytes below 0x80 that the default model has no token for: its training text had none. llama.cpp drops them too. */
const UNSAYABLE = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1d]

/** The text without characters that have such a byte; above, the lead bytes 0xF1 and 0xF2 have no token. */
function withoutUnsayable(text: string): string {
  let rest = text
  for (const code of UNSAYABLE) rest = rest.replaceAll(String.fromCharCode(code), "")
  return rest.replace(/[\u{40000}-\u{bffff}]/gu, "")
}

const texts = (t: Tokenizer, tokens: Int32Array) => Array.from(tokens, (id) => t.tokenText(id))

describe("merging", () => {
  test("BPE equals naive merging", () => {
    const t = createTokenizer(bpeMetadata(MERGES))
    const next = random(1)
    const letters = ["l", "o", "w", "e", "r", "n", "a", "a", "a", "é"]
    for (let round = 0; round < 300; round++) {
      let word = ""
      for (let n = 1 + Math.floor(next() * 40); n > 0; n--) word += letters[Math.floor(next() * letters.length)]
      expect(texts(t, t.encode(word))).toEqual(naiveBpe(word, MERGES))
      expect(texts(t, t.encode(` ${word}`))).toEqual(naiveBpe(` ${word}`, MERGES))
    }
  })

  test("SPM equals naive merging of the whole text", () => {
    // With "b▁l" a merge crosses words, so text may no longer be cut at blanks behind b.
    for (const scored of [SCORED, [...SCORED, ["b▁", -15], ["b▁l", -10]] as [string, number][]]) {
      const t = createTokenizer(spmMetadata(scored))
      const next = random(2)
      const letters = ["l", "o", "w", "a", "a", "b", " ", " ", "é", "ß", "\n", "😀"]
      for (let round = 0; round < 300; round++) {
        let text = ""
        for (let n = 1 + Math.floor(next() * 40); n > 0; n--) text += letters[Math.floor(next() * letters.length)]
        expect(texts(t, t.encode(text))).toEqual(naiveSpm(text, scored))
      }
    }
  })

  test("a piece that is a token wins over the merges where the pre-tokenizer says so", () => {
    const metadata = bpeMetadata(["a b"], [{ text: "abc", kind: 1 }])
    expect(texts(createTokenizer(metadata), createTokenizer(metadata).encode("abc"))).toEqual(["ab", "c"])
    metadata.set("tokenizer.ggml.pre", "llama-bpe")
    expect(texts(createTokenizer(metadata), createTokenizer(metadata).encode("abc"))).toEqual(["abc"])
  })

  test("the same text gives the same tokens when the memory of pieces is full or emptied", () => {
    const t = createTokenizer(bpeMetadata(MERGES))
    const before = t.encode("lower newer lower")
    let many = ""
    for (let i = 0; i < 40_000; i++) many += ` w${i.toString(36)}`
    expect(t.decode(t.encode(many))).toBe(many)
    expect(t.encode("lower newer lower")).toEqual(before)
  })
})

// Published forms, one regular expression a stage, in the `isolated` behaviour: matches and what lies between them.
// \s is written S: White_Space, since JavaScript's own \s has U+FEFF and lacks U+0085.
const CONTRACTIONS = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\S\\p{L}\\p{N}]+|\\S+(?!\\N)|\\S+"
const LLAMA3 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\S\\p{L}\\p{N}]+[\\r\\n]*|\\S*[\\r\\n]+|\\S+(?!\\N)|\\S+`
const U = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
const L = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
const PUBLISHED: Record<string, string[]> = {
  "gpt-2": [GPT2],
  smollm: ["\\p{N}", GPT2],
  "llama-bpe": [LLAMA3],
  qwen2: [LLAMA3.replace("{1,3}", "")],
  qwen35: [
    `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\S\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\S*[\\r\\n]+|\\S+(?!\\N)|\\S+`,
  ],
  "seed-coder": [LLAMA3.replace("{1,3}", "").replace("[\\r\\n]*", "")],
  laguna: ["[^\\n]+|[\\n]+", LLAMA3.replace("{1,3}", "")],
  "gpt-4o": [
    `[^\\r\\n\\p{L}\\p{N}]?${U}*${L}+(?:${CONTRACTIONS})?|[^\\r\\n\\p{L}\\p{N}]?${U}+${L}*(?:${CONTRACTIONS})?|\\p{N}{1,3}| ?[^\\S\\p{L}\\p{N}]+[\\r\\n/]*|\\S*[\\r\\n]+|\\S+(?!\\N)|\\S+`,
  ],
  tekken: [
    `[^\\r\\n\\p{L}\\p{N}]?${U}*${L}+|[^\\r\\n\\p{L}\\p{N}]?${U}+${L}*|\\p{N}| ?[^\\S\\p{L}\\p{N}]+[\\r\\n/]*|\\S*[\\r\\n]+|\\S+(?!\\N)|\\S+`,
  ],
  "deepseek-coder": ["[\\r\\n]", "\\S?\\p{L}+", "\\S?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"],
  "deepseek-v3": [
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\S*[\\r\\n]+|\\S+(?!\\N)|\\S+",
  ],
  falcon: ["[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"],
  bloom: [" ?[^(\\S|.,!?…。，、।۔،)]+"],
  viking: [" ?[^(\\S|.,!?…。，、।۔،)]+", "\\p{N}"],
  default: ["[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"],
}

function publishedPieces(expressions: readonly string[], text: string): string[] {
  let pieces = [text]
  for (const source of expressions) {
    const expression = new RegExp(
      source.replaceAll("\\S", "\\p{White_Space}").replaceAll("\\N", "\\P{White_Space}"),
      "gu",
    )
    pieces = pieces.flatMap((piece) => {
      const cut: string[] = []
      let from = 0
      for (const match of piece.matchAll(expression)) {
        if (match.index > from) cut.push(piece.slice(from, match.index))
        if (match[0] !== "") cut.push(match[0])
        from = match.index + match[0].length
      }
      if (from < piece.length) cut.push(piece.slice(from))
      return cut
    })
  }
  return pieces
}

function scannedPieces(name: string, text: string): string[] {
  const bytes = new TextEncoder().encode(text)
  const points = new CodePoints()
  points.load(bytes, 0, bytes.length)
  const cuts = new Uint8Array(points.length + 1)
  cutPieces(preTokenizer(name).stages, points, cuts)
  const pieces: string[] = []
  let from = 0
  for (let i = 1; i <= points.length; i++) {
    if (cuts[i] === 0) continue
    pieces.push(
      new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(points.offsets[from]!, points.offsets[i]!)),
    )
    from = i
  }
  return pieces
}

describe("pre-tokenizers equal their published regular expressions", () => {
  for (const [name, expressions] of Object.entries(PUBLISHED)) {
    test(name, () => {
      const next = random(3)
      const cases = [
        "I've 'told HE'S  1234567 times;\r\n\n  ok.\t\tYes!!\n",
        "aǅB ʰX éÀ'LL x'ſ",
        "   ",
        "\n \n  a",
        "$+<=>^~|`12",
      ]
      for (let i = 0; i < 400; i++) cases.push(randomText(next, 1 + Math.floor(next() * 40)).toWellFormed())
      for (const text of cases) expect(scannedPieces(name, text)).toEqual(publishedPieces(expressions, text))
    })
  }
})

describe("round trip", () => {
  test("BPE over all bytes: any text, lone surrogates become U+FFFD", () => {
    const t = createTokenizer(bpeMetadata(MERGES))
    const next = random(4)
    for (let i = 0; i < 500; i++) {
      const text = randomText(next, Math.floor(next() * 60))
      expect(t.decode(t.encode(text))).toBe(text.toWellFormed())
    }
  })

  test("SPM with byte tokens: any text without U+2581, which is its blank", () => {
    for (const prefix of [true, false]) {
      const t = createTokenizer(spmMetadata(SCORED, [], { "tokenizer.ggml.add_space_prefix": prefix }))
      const next = random(5)
      for (let i = 0; i < 500; i++) {
        const text = randomText(next, Math.floor(next() * 60))
        expect(t.decode(t.encode(text))).toBe(text.toWellFormed())
      }
      expect(t.decode(t.encode("  a  b "))).toBe("  a  b ")
      expect(t.decode(t.encode("▁"))).toBe(" ")
    }
  })

  test.skipIf(!hasDefaultModel)("the default model: any text whose bytes it has tokens for", () => {
    const t = tokenizerOf(defaultModelPath)
    const missing: number[] = []
    for (let b = 0; b < 0x80; b++) if (t.encode(String.fromCharCode(b)).length === 0) missing.push(b)
    expect(missing).toEqual(UNSAYABLE)
    const next = random(6)
    for (let i = 0; i < 500; i++) {
      const text = withoutUnsayable(randomText(next, Math.floor(next() * 80)).toWellFormed())
      expect(t.decode(t.encode(text))).toBe(text)
    }
    expect(t.decode(t.encode("a\u0004b"))).toBe("ab")
  })
})

describe("streaming decoder", () => {
  // One token a byte: every split of a character across tokens occurs.
  const bytes = createTokenizer(bpeMetadata([]))
  const stream = (t: Tokenizer, tokens: ArrayLike<number>) => {
    const decoder = t.decoder()
    const parts: string[] = []
    for (let i = 0; i < tokens.length; i++) parts.push(decoder.push(tokens[i]!))
    parts.push(decoder.end())
    return parts
  }

  test("random bytes: the same text as decoding at once, and never a half character", () => {
    const next = random(7)
    const leads = [0x41, 0x80, 0xbf, 0xc0, 0xc3, 0xe0, 0xe2, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff, 0x9f, 0xa0, 0x90]
    for (let i = 0; i < 2000; i++) {
      const raw = Array.from({ length: Math.floor(next() * 12) }, () =>
        next() < 0.3 ? Math.floor(next() * 256) : leads[Math.floor(next() * leads.length)]!,
      )
      const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(raw))
      const parts = stream(bytes, raw)
      expect(parts.join("")).toBe(whole)
      expect(bytes.decode(raw)).toBe(whole)
    }
  })

  test("characters appear with their last byte", () => {
    expect(stream(bytes, new TextEncoder().encode("a€😀"))).toEqual(["a", "", "", "€", "", "", "", "😀", ""])
    expect(stream(bytes, [0xe2, 0x82])).toEqual(["", "", "�"])
    expect(stream(bytes, [0xe2, 0x41])).toEqual(["", "�A", ""])
  })

  test("what is held back is exactly what TextDecoder would wait for", () => {
    const wait = (raw: Uint8Array) => {
      const held = openBytes(raw)
      const sound = new TextDecoder("utf-8", { ignoreBOM: true })
      const streamed = new TextDecoder("utf-8", { ignoreBOM: true }).decode(raw, { stream: true })
      expect(sound.decode(raw.subarray(0, raw.length - held))).toBe(streamed)
    }
    for (let lead = 0x80; lead < 0x100; lead++) {
      wait(Uint8Array.of(lead))
      for (let second = 0x80; second < 0xc0; second++) wait(Uint8Array.of(lead, second))
      for (const [a, b] of [
        [0x90, 0x80],
        [0xa0, 0x80],
        [0x80, 0xbf],
      ]) {
        wait(Uint8Array.of(lead, a!, b!))
      }
    }
  })

  test("SPM: the stream equals the whole, byte tokens and blanks included", () => {
    const t = createTokenizer(spmMetadata(SCORED))
    const next = random(8)
    for (let i = 0; i < 300; i++) {
      const tokens = Array.from({ length: Math.floor(next() * 20) }, () => Math.floor(next() * (t.nVocab + 2)) - 1)
      expect(stream(t, tokens).join("")).toBe(t.decode(tokens))
    }
  })

  test("a continuation keeps its first blank", () => {
    const t = createTokenizer(spmMetadata(SCORED))
    const tokens = t.encode("low low")
    expect(t.decode(tokens)).toBe("low low")
    expect(t.decode(tokens, { continuation: true })).toBe(" low low")
    const decoder = t.decoder({ continuation: true })
    expect(Array.from(tokens, (id) => decoder.push(id)).join("") + decoder.end()).toBe(" low low")
  })
})

describe("special tokens", () => {
  const specials = [
    { text: "<|im_start|>", kind: 3 },
    { text: "<|im_end|>", kind: 3 },
    { text: "<tool>", kind: 4 },
    { text: "<tool>x", kind: 4 },
  ]

  test("text cannot inject control tokens, parseSpecial finds them", () => {
    const t = createTokenizer(bpeMetadata(MERGES, specials))
    const text = "<|im_start|>low<|im_end|>"
    expect(Array.from(t.encode(text)).some((id) => t.isSpecial(id))).toBe(false)
    expect(t.decode(t.encode(text))).toBe(text)
    const parsed = t.encode(text, { parseSpecial: true })
    expect(texts(t, parsed)).toEqual(["<|im_start|>", "low", "<|im_end|>"])
    expect(t.decode(parsed)).toBe("low")
    expect(t.decode(parsed, { special: true })).toBe(text)
  })

  test("merges cannot build a control token out of text", () => {
    const metadata = bpeMetadata(["e s", "es t"])
    const bpe = createTokenizer(metadata)
    expect(texts(bpe, bpe.encode("est"))).toEqual(["est"])
    const kinds = metadata.get("tokenizer.ggml.token_type") as Int32Array
    kinds[257] = 3 // "est", a merge's product, is a control token now
    const guarded = createTokenizer(metadata)
    expect(texts(guarded, guarded.encode("est"))).toEqual(["es", "t"])
    const spm = createTokenizer(
      spmMetadata([
        ["▁", -0.5],
        ["<", -1],
        ["/", -2],
        ["s", -3],
        [">", -4],
        ["</", -5],
        ["</s", -6],
      ]),
    )
    expect(Array.from(spm.encode("</s>"))).not.toContain(2)
    expect(spm.decode(spm.encode("</s><0x41>"))).toBe("</s><0x41>")
  })

  test("user-defined tokens are always split out, longer ones first", () => {
    const t = createTokenizer(bpeMetadata(MERGES, specials))
    expect(texts(t, t.encode("a<tool>b<tool>x"))).toEqual(["a", "<tool>", "b", "<tool>x"])
    expect(t.decode(t.encode("a<tool>b<tool>x"))).toBe("a<tool>b<tool>x")
  })

  test("a longer token elsewhere goes first, and a shorter one fills the place of one it overlaps", () => {
    const nested = ["ab", "abc", "cdef", "b"].map((text) => ({ text, kind: 4 }))
    const t = createTokenizer(bpeMetadata([], nested))
    expect(texts(t, t.encode("abcdef abc b"))).toEqual(["ab", "cdef", "Ġ", "abc", "Ġ", "b"])
    const many = Array.from({ length: 50 }, (_, i) => ({ text: "a".repeat(i + 1), kind: 4 }))
    const runs = createTokenizer(bpeMetadata([], many))
    expect(runs.decode(runs.encode("a".repeat(100_007)))).toBe("a".repeat(100_007))
    expect(texts(runs, runs.encode("a".repeat(101))).map((x) => x.length)).toEqual([50, 50, 1])
  })

  test("BOS and EOS as the metadata says", () => {
    const ids = (more: Record<string, number | boolean | string>) => {
      const t = createTokenizer(bpeMetadata([], specials, more))
      return texts(t, t.encode("a", { addSpecial: true }))
    }
    const named = { "tokenizer.ggml.bos_token_id": 256, "tokenizer.ggml.eos_token_id": 257 }
    expect(ids(named)).toEqual(["a"])
    expect(ids({ ...named, "tokenizer.ggml.pre": "llama-bpe" })).toEqual(["<|im_start|>", "a"])
    expect(ids({ ...named, "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true })).toEqual([
      "<|im_start|>",
      "a",
      "<|im_end|>",
    ])
    expect(ids({ "tokenizer.ggml.add_bos_token": true })).toEqual(["a"])
    expect(ids({ ...named, "tokenizer.ggml.bos_token_id": 9999, "tokenizer.ggml.add_bos_token": true })).toEqual(["a"])
    const spm = createTokenizer(spmMetadata(SCORED))
    expect([spm.bos, spm.eos, spm.addBos, spm.addEos]).toEqual([1, 2, true, false])
    expect(Array.from(spm.encode("", { addSpecial: true }))).toEqual([1])
    expect(Array.from(spm.encode(""))).toEqual([])
    const plain = createTokenizer(bpeMetadata([]))
    expect([plain.bos, plain.eos, plain.addBos]).toEqual([undefined, undefined, false])
  })

  test("ends of generation by id and by name", () => {
    const t = createTokenizer(
      bpeMetadata([], [...specials, { text: "<|eot_id|>", kind: 1 }, { text: "<end_of_turn>", kind: 4 }], {
        "tokenizer.ggml.eom_token_id": 65,
      }),
    )
    const ends = Array.from({ length: t.nVocab }, (_, id) => id).filter((id) => t.isEndOfGeneration(id))
    expect(ends.map((id) => t.tokenText(id))).toEqual(["A", "<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
    expect(t.isSpecial(t.find("<|eot_id|>")!)).toBe(true)
    expect(t.isEndOfGeneration(-1) || t.isEndOfGeneration(t.nVocab)).toBe(false)
  })

  test("harmony's <|end|> closes a message only", () => {
    const names = ["<|return|>", "<|call|>", "<|end|>", "<|channel|>"]
    const t = createTokenizer(
      bpeMetadata(
        [],
        names.map((text) => ({ text, kind: 3 })),
      ),
    )
    expect(names.map((n) => t.isEndOfGeneration(t.find(n)!))).toEqual([true, true, false, false])
    expect(t.isSpecial(t.find("<|channel|>")!)).toBe(false)
  })

  test("Phi-3 swallows white space after its special tokens", () => {
    const metadata = (name: string) => spmMetadata(SCORED, [{ text: "<|end|>", kind: 3 }], { "general.name": name })
    const parsed = (name: string, text: string) => {
      const t = createTokenizer(metadata(name))
      return texts(t, t.encode(text, { parseSpecial: true }))
    }
    expect(parsed("Phi3", "<|end|> \n low")).toEqual(["<|end|>", "▁low"])
    expect(parsed("Phi3", "<s> low")).toEqual(["<s>", "▁▁", "low"])
    expect(parsed("other", "<|end|> \nlow")).toEqual(["<|end|>", "▁▁", "\n", "low"])
  })

  test("extra white space goes where the metadata says so", () => {
    const t = createTokenizer(spmMetadata(SCORED, [], { "tokenizer.ggml.remove_extra_whitespaces": true }))
    expect(t.decode(t.encode("  low   low  "))).toBe("low low")
  })

  test("find, tokenText, tokenBytes", () => {
    const t = createTokenizer(bpeMetadata(MERGES, specials))
    expect(t.find("<|im_end|>")).toBe(t.nVocab - 3)
    expect(t.find("Ġlow")).toBeGreaterThan(255)
    expect(t.find("nothing of the kind")).toBeUndefined()
    expect(new TextDecoder().decode(t.tokenBytes(t.find("Ġlow")!))).toBe(" low")
    expect([t.tokenText(-1), t.tokenText(t.nVocab)]).toEqual(["", ""])
    expect(t.tokenBytes(t.nVocab).length).toBe(0)
    const spm = createTokenizer(spmMetadata(SCORED))
    expect(new TextDecoder().decode(spm.tokenBytes(spm.find("▁low")!))).toBe(" low")
    expect(Array.from(spm.tokenBytes(spm.find("<0x41>")!))).toEqual([0x41])
  })
})

describe("damaged or unknown metadata", () => {
  test("unknown names are refused, with the known ones listed", () => {
    expect(() => createTokenizer(bpeMetadata([], [], { "tokenizer.ggml.pre": "klingon" }))).toThrow(
      /"klingon"; known: .*gpt-2.*llama-bpe.*qwen2.*smollm/,
    )
    expect(() => createTokenizer(bpeMetadata([], [], { "tokenizer.ggml.pre": "klingon" }))).toThrow(UnsupportedError)
    expect(() => createTokenizer(bpeMetadata([], [], { "tokenizer.ggml.model": "rwkv" }))).toThrow(
      /"rwkv"; known: llama, gpt2/,
    )
  })

  test("missing and mistyped fields are format errors", () => {
    const without = (key: string) => {
      const metadata = bpeMetadata(MERGES)
      metadata.delete(key)
      return () => createTokenizer(metadata)
    }
    for (const key of ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]) {
      expect(without(key)).toThrow(FormatError)
    }
    const wrong = (key: string, value: number | Int32Array) => () =>
      createTokenizer(bpeMetadata(MERGES, [], { [key]: value }))
    expect(wrong("tokenizer.ggml.tokens", 5)).toThrow(FormatError)
    expect(wrong("tokenizer.ggml.merges", new Int32Array(3))).toThrow(FormatError)
    expect(wrong("tokenizer.ggml.token_type", new Int32Array(3))).toThrow(/3 entries for \d+ tokens/)
  })

  test("odd vocabularies: empty, without bytes, with broken merges", () => {
    const odd = bpeMetadata(MERGES)
    odd.set("tokenizer.ggml.merges", stringArrayOf(["", " ", "a", "zz zz", "a  b", "l o"]))
    const t = createTokenizer(odd)
    expect(t.decode(t.encode("low zz"))).toBe("low zz")
    odd.set("tokenizer.ggml.tokens", stringArrayOf([]))
    odd.set("tokenizer.ggml.token_type", new Int32Array(0))
    expect(createTokenizer(odd).encode("low").length).toBe(0)
    const bare = createTokenizer(
      new Map([
        ["tokenizer.ggml.model", "llama"],
        ["tokenizer.ggml.tokens", stringArrayOf(["<unk>", "a"])],
      ] as [string, string][]),
    )
    expect(Array.from(bare.encode("ab"))).toEqual([0, 1, 0])
  })

  test("a hundred thousand equal tokens cost no quadratic time", () => {
    const metadata = bpeMetadata(MERGES)
    const tokens = Array.from({ length: 256 }, (_, b) => storedForm(String.fromCharCode(b)))
    metadata.set("tokenizer.ggml.tokens", stringArrayOf([...tokens, ...new Array(100_000).fill("[PAD]")]))
    metadata.delete("tokenizer.ggml.token_type")
    const start = performance.now()
    expect(createTokenizer(metadata).find("[PAD]")).toBe(256)
    expect(performance.now() - start).toBeLessThan(3000)
  })
})

// Measured: 4 ms to make it, 11 to the first tokens (Zen 4 VM). What it may never become again is a second: flat tables
// are filled in one pass, and only for who encodes.
test.skipIf(!hasDefaultModel)("a vocabulary of 49,152 tokens does not hold up the start", () => {
  const { metadata } = readGguf(defaultModelPath)
  const elapsed = Array.from({ length: 3 }, () => {
    const start = performance.now()
    const t = createTokenizer(metadata)
    const made = performance.now() - start
    expect(t.encode("Hello, world!").length).toBeGreaterThan(2)
    return { made, encoded: performance.now() - start }
  })
  expect(Math.min(...elapsed.map(({ made }) => made))).toBeLessThan(30)
  expect(Math.min(...elapsed.map(({ encoded }) => encoded))).toBeLessThan(150)
})

describe("a megabyte of anything takes seconds at most", () => {
  const MEGABYTE = 1_000_000
  const next = random(9)
  const repeated = (make: () => string, length: number) => {
    const parts: string[] = []
    for (let n = 0; n < length; n += parts.at(-1)!.length) parts.push(make())
    return parts.join("")
  }
  const inputs: Record<string, string> = {
    "one letter": "a".repeat(MEGABYTE),
    blanks: " ".repeat(MEGABYTE),
    "blanks and a letter at the end": `${" ".repeat(MEGABYTE)}x`,
    newlines: "\n".repeat(MEGABYTE),
    "blanks and newlines": "  \n".repeat(MEGABYTE / 3),
    digits: "7".repeat(MEGABYTE),
    emoji: "😀".repeat(MEGABYTE / 4),
    "capitals and marks": "A\u0301B".repeat(MEGABYTE / 4),
    "random bytes": new TextDecoder().decode(Uint8Array.from({ length: MEGABYTE }, () => Math.floor(next() * 256))),
    "random Latin-1": repeated(() => String.fromCharCode(Math.floor(next() * 256)), MEGABYTE),
    "half special tokens": "<|im_start".repeat(MEGABYTE / 10),
    signs: "=".repeat(MEGABYTE),
  }
  const check = (t: Tokenizer, sayable: (text: string) => string) => {
    for (const [name, text] of Object.entries(inputs)) {
      const input = sayable(text)
      const start = performance.now()
      const tokens = t.encode(input, { parseSpecial: true })
      const elapsed = performance.now() - start
      expect({ name, inTime: elapsed < 5000 }).toEqual({ name, inTime: true })
      expect(t.decode(tokens) === input).toBe(true)
    }
  }

  test.skipIf(!hasDefaultModel)(
    "BPE, the default model",
    () => check(tokenizerOf(defaultModelPath), withoutUnsayable),
    60_000,
  )

  test("SPM", () => check(createTokenizer(spmMetadata(SCORED)), (text) => text), 60_000)
})
