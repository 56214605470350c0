// Vocabulary, special tokens and templates of a checkpoint folder. Oracle for vocabularies: the GGUF metadata that the
// tokenizer.json was written from (the default model's among it), and tokens of both on the same text. For what files say
// of special tokens: the rules of llama.cpp's gguf-py/gguf/vocab.py and of transformers, case by case.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { Entries } from "../src/convert/entries.ts"
import { Fields } from "../src/convert/fields.ts"
import { openCheckpoint } from "../src/convert/index.ts"
import { preTokenizerName } from "../src/convert/pre-tokenizer.ts"
import { addTokenizer } from "../src/convert/tokenizer.ts"
import { FormatError, UnsupportedError } from "../src/errors.ts"
import { readGguf } from "../src/gguf/reader.ts"
import type { MetadataValue, StringArray } from "../src/gguf/types.ts"
import { createTokenizer } from "../src/tokenizer/index.ts"
import {
  bosTemplate,
  bpeTokenizer,
  type CheckpointFiles,
  type Json,
  splitPreTokenizer,
  spmTokenizer,
  writeCheckpoint,
} from "./fixtures/checkpoint.ts"
import {
  bpeMetadata,
  defaultModelPath,
  hasDefaultModel,
  random,
  randomText,
  spmMetadata,
} from "./tokenizer-fixtures.ts"

const root = mkdtempSync(join(tmpdir(), "asdsl-convert-tokenizer-"))
afterAll(() => rmSync(root, { recursive: true }))

type Metadata = ReadonlyMap<string, MetadataValue>

interface Given {
  tokenizer: Json
  tokenizerConfig?: Json
  config?: Json
  generationConfig?: Json
  nVocab?: number
}

/** Metadata that comes of a tokenizer.json, and warnings. */
function convert({ tokenizer, tokenizerConfig, config, generationConfig, nVocab }: Given) {
  const entries = new Entries()
  const warnings: string[] = []
  const fields = (name: string, json: Json | undefined) => (json === undefined ? undefined : new Fields(name, json))
  const sources = {
    tokenizer: new Fields("tokenizer.json", tokenizer),
    tokenizerConfig: fields("tokenizer_config.json", tokenizerConfig),
    config: new Fields("config.json", config ?? {}),
    generationConfig: fields("generation_config.json", generationConfig),
  }
  const { vocab } = tokenizer.model as { vocab: Json }
  const added = (tokenizer.added_tokens ?? []) as { id: number }[]
  const ids = [...Object.values(vocab).map(Number), ...added.map(({ id }) => id)]
  addTokenizer(entries, sources, nVocab ?? Math.max(...ids) + 1, (text) => warnings.push(text))
  return { metadata: entries.values as Metadata, warnings }
}

const texts = (metadata: Metadata, key = "tokens") => {
  const strings = metadata.get(`tokenizer.ggml.${key}`) as StringArray
  return Array.from({ length: strings.length }, (_, i) => strings.at(i))
}

function expectSameVocabulary(ours: Metadata, theirs: Metadata): void {
  expect(texts(ours)).toEqual(texts(theirs))
  expect(ours.get("tokenizer.ggml.token_type")).toEqual(theirs.get("tokenizer.ggml.token_type")!)
}

function expectSameTokens(ours: Metadata, theirs: Metadata): void {
  const [a, b] = [createTokenizer(ours), createTokenizer(theirs)]
  const next = random(3)
  for (let i = 0; i < 150; i++) {
    const text = i % 2 === 0 ? randomText(next, 50) : `${"ab abab bab  aabb".slice(i % 9)} ${randomText(next, 10)}`
    for (const parseSpecial of [true, false]) {
      expect(a.encode(text, { parseSpecial })).toEqual(b.encode(text, { parseSpecial }))
    }
  }
}

const GPT2 = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
const MERGES = ["a b", "Ġ ab", "ab ab", "1 2", "12 3"]
const SPECIALS = [
  { text: "<|endoftext|>", kind: 3 },
  { text: "<think>", kind: 4 },
]

describe("byte-level BPE", () => {
  test("is the vocabulary that it was made from", () => {
    const theirs = bpeMetadata(MERGES, SPECIALS)
    const { metadata, warnings } = convert({ tokenizer: bpeTokenizer(theirs, GPT2) })
    expect(warnings).toEqual([])
    expectSameVocabulary(metadata, theirs)
    expect(texts(metadata, "merges")).toEqual(MERGES)
    expect([metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")]).toEqual(["gpt2", "gpt-2"])
    expectSameTokens(metadata, theirs)
  })

  test.skipIf(!hasDefaultModel)("the default model's vocabulary", () => {
    const theirs = readGguf(defaultModelPath).metadata
    const digits = { type: "Digits", individual_digits: true }
    const pre = { type: "Sequence", pretokenizers: [digits, GPT2] }
    const { metadata } = convert({ tokenizer: bpeTokenizer(theirs, pre) })
    expectSameVocabulary(metadata, theirs)
    expect(texts(metadata, "merges")).toEqual(texts(theirs, "merges"))
    expect(metadata.get("tokenizer.ggml.pre")).toEqual(theirs.get("tokenizer.ggml.pre")!)
  })

  test("merges as texts, the older form", () => {
    const tokenizer = bpeTokenizer(bpeMetadata(MERGES), GPT2)
    const model = { ...(tokenizer.model as Json), merges: MERGES }
    expect(texts(convert({ tokenizer: { ...tokenizer, model } }).metadata, "merges")).toEqual(MERGES)
  })

  test("rows without a token are unused; added tokens without a row are left out", () => {
    const theirs = bpeMetadata(MERGES, SPECIALS)
    const n = texts(theirs).length
    const { metadata } = convert({ tokenizer: bpeTokenizer(theirs, GPT2), nVocab: n + 2 })
    expect(texts(metadata).slice(n)).toEqual([`[PAD${n}]`, `[PAD${n + 1}]`])
    expect([...(metadata.get("tokenizer.ggml.token_type") as Int32Array).slice(n)]).toEqual([5, 5])
    const short = convert({ tokenizer: bpeTokenizer(theirs, GPT2), nVocab: n - 1 })
    expect(texts(short.metadata).length).toBe(n - 1)
    expect(short.warnings).toEqual([
      `added tokens without a row of the embedding table, which has ${n - 1}, are left out: <think> (${n - 1})`,
    ])
    const less = () => convert({ tokenizer: bpeTokenizer(theirs, GPT2), nVocab: n - 3 })
    expect(less).toThrow(`embedding table has rows 0 to ${n - 4}`)
  })

  test("control tokens that are not marked as special, and those of tokenizer_config.json alone", () => {
    const tokenizer = bpeTokenizer(bpeMetadata(MERGES, SPECIALS), GPT2)
    const added = (tokenizer.added_tokens as Json[]).map((token) => ({ ...token, special: false }))
    const id = 256 + MERGES.length
    const tokenizerConfig = { added_tokens_decoder: { [id + 2]: { content: "<\uff5cend\uff5c>", special: false } } }
    const { metadata } = convert({ tokenizer: { ...tokenizer, added_tokens: added }, tokenizerConfig, nVocab: id + 3 })
    expect(texts(metadata).slice(id)).toEqual(["<|endoftext|>", "<think>", "<\uff5cend\uff5c>"])
    expect([...(metadata.get("tokenizer.ggml.token_type") as Int32Array).slice(id)]).toEqual([3, 4, 3])
  })

  const damaged: [string, (model: Json) => Json, RegExp][] = [
    ["a merge of one", () => ({ merges: ["a"] }), /merge 0 is "a", not two tokens/],
    ["a merge of three", () => ({ merges: [["a", "b", "c"]] }), /merge 0 is \["a","b","c"\], not two tokens/],
    ["a merge that makes nothing", () => ({ merges: ["a c"] }), /merge 0: "ac" is not in model.vocab/],
    ["no merges", () => ({ merges: null }), /model.merges is missing/],
    ["no vocabulary", () => ({ vocab: null }), /model.vocab is missing/],
    ["an id twice", ({ vocab }) => ({ vocab: { ...(vocab as Json), zz: 0 } }), /token 0 is both "." and "zz"/],
    [
      "an id that is none",
      ({ vocab }) => ({ vocab: { ...(vocab as Json), zz: -1 } }),
      /id of "zz" is -1, the embedding/,
    ],
  ]
  for (const [name, edit, message] of damaged) {
    test(name, () => {
      const tokenizer = bpeTokenizer(bpeMetadata(MERGES), GPT2)
      const model = { ...(tokenizer.model as Json) }
      const nVocab = 256 + MERGES.length
      Object.assign(model, edit(model))
      const given = { tokenizer: { ...tokenizer, model } }
      const entries = new Entries()
      const sources = {
        ...{ tokenizer: new Fields("tokenizer.json", given.tokenizer), tokenizerConfig: undefined },
        ...{ config: new Fields("config.json", {}), generationConfig: undefined },
      }
      let caught: unknown
      try {
        addTokenizer(entries, sources, nVocab, () => {})
      } catch (error) {
        caught = error
      }
      expect(caught).toBeInstanceOf(FormatError)
      expect((caught as Error).message).toMatch(message)
    })
  }
})

describe("pre-tokenizers by content", () => {
  const words = (digits: string) =>
    `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`
  const nameOf = (json: Json, ignoreMerges = false) => preTokenizerName(new Fields("pre", json), ignoreMerges)
  const sequence = (...pretokenizers: Json[]): Json => ({ type: "Sequence", pretokenizers })
  const digits = { type: "Digits", individual_digits: true }
  const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false }
  const split = (expression: string, behavior = "Isolated", invert = false): Json => {
    return { type: "Split", pattern: { Regex: expression }, behavior, invert }
  }

  test("known ones", () => {
    expect(nameOf(GPT2)).toBe("gpt-2")
    expect(nameOf(sequence(GPT2))).toBe("gpt-2")
    expect(nameOf({ type: "ByteLevel" })).toBe("gpt-2")
    expect(nameOf(sequence(digits, GPT2))).toBe("smollm")
    expect(nameOf(splitPreTokenizer(words("\\p{N}")))).toBe("qwen2")
    expect(nameOf(splitPreTokenizer(words("\\p{N}{1,3}")), true)).toBe("llama-bpe")
    expect(nameOf(splitPreTokenizer(words("\\p{N}{1,3}")), false)).toBe("dbrx")
    expect(nameOf(sequence(split(words("\\p{N}"), "Removed", true), bytes))).toBe("qwen2")
  })

  test("all others are refused with their steps", () => {
    const unknown: [Json, boolean, RegExp][] = [
      [
        sequence(GPT2, digits),
        false,
        /steps \[ByteLevel\], \[Digits\] with ignore_merges = false; known: gpt-2, smollm/,
      ],
      [sequence({ ...digits, individual_digits: false }, GPT2), false, /\[Digits in runs\]/],
      [{ ...GPT2, add_prefix_space: true }, false, /ByteLevel with add_prefix_space/],
      [sequence(split(words("\\p{N}"), "Removed"), bytes), false, /Split .* Removed\]/],
      [sequence(split("\\w+"), bytes), false, /\[Split \\w\+\]/],
      [splitPreTokenizer(words("\\p{N}")), true, /ignore_merges = true/],
      [bytes, false, /steps \[\]/],
      [{ type: "Whitespace" }, false, /\[Whitespace\]/],
    ]
    for (const [json, ignoreMerges, message] of unknown) {
      expect(() => nameOf(json, ignoreMerges)).toThrow(UnsupportedError)
      expect(() => nameOf(json, ignoreMerges)).toThrow(message)
    }
  })
})

describe("BPE over characters", () => {
  const scored: [string, number][] = [
    ...["\u2581", "a", "b", "c", "\u4f60"].map((text, i): [string, number] => [text, -100 - i]),
    ...["ab", "\u2581a", "\u2581ab", "abab", "bc", "\u2581\u2581"].map((text, i): [string, number] => [text, -i]),
  ]

  test("is the vocabulary that it was made from; merges become scores", () => {
    const theirs = spmMetadata(scored, [{ text: "<|end|>", kind: 3 }])
    const { metadata, warnings } = convert({ tokenizer: spmTokenizer(theirs) })
    expect(warnings).toEqual([])
    expectSameVocabulary(metadata, theirs)
    expect([metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")]).toEqual(["llama", "default"])
    expectSameTokens(metadata, theirs)
    // SentencePiece's numbers: merged tokens by rank, those without a merge behind them.
    const scores = metadata.get("tokenizer.ggml.scores") as Float32Array
    const byText = Object.fromEntries(texts(metadata).map((text, id) => [text, scores[id]]))
    expect([byText.ab, byText["\u2581a"], byText["\u2581\u2581"]]).toEqual([-0, -1, -5])
    expect([byText["\u2581"], byText["\u4f60"], byText["<0x41>"], byText["<|end|>"]]).toEqual([-6, -10, 0, -1000])
  })

  test("a blank in front: by normalizer or Metaspace", () => {
    const tokenizer = spmTokenizer(spmMetadata(scored))
    const prefixed = (more: Json) =>
      convert({ tokenizer: { ...tokenizer, ...more } }).metadata.get("tokenizer.ggml.add_space_prefix")
    const replace = { type: "Replace", pattern: { String: " " }, content: "\u2581" }
    const metaspace = { type: "Metaspace", replacement: "\u2581" }
    expect(prefixed({})).toBe(true)
    expect(prefixed({ normalizer: replace })).toBe(false)
    expect(prefixed({ normalizer: null, pre_tokenizer: { ...metaspace, prepend_scheme: "first", split: false } })).toBe(
      true,
    )
    expect(prefixed({ normalizer: null, pre_tokenizer: { ...metaspace, prepend_scheme: "never" } })).toBe(false)
    expect(prefixed({ normalizer: null, pre_tokenizer: { ...metaspace, add_prefix_space: true } })).toBe(true)
    expect(prefixed({ normalizer: null, pre_tokenizer: { ...metaspace, add_prefix_space: false } })).toBe(false)
  })

  test("what has no place in GGUF is said", () => {
    const tokenizer = spmTokenizer(spmMetadata(scored))
    const model = tokenizer.model as { merges: string[][] }
    const [first, ...others] = model.merges
    const unmerged = { ...tokenizer, model: { ...model, merges: others } }
    expect(convert({ tokenizer: unmerged }).warnings).toEqual([
      `tokenizer.json: 0 of ${others.length} merges are out of their tokens' order, and 1 pairs of tokens make another one without a merge; GGUF cannot say so, and some text will be cut otherwise`,
    ])
    const apart = {
      ...tokenizer,
      model: { ...model, merges: [["ab", "ab"], first, ...others.filter(([a]) => a !== "ab")] },
    }
    expect(convert({ tokenizer: apart }).warnings.length).toBe(0)
    const spread = model.merges.toSorted(([a], [b]) => (a! < b! ? -1 : 1))
    const nApart = convert({ tokenizer: { ...tokenizer, model: { ...model, merges: spread } } }).warnings
    expect(nApart[0] ?? "").toMatch(/[1-9]\d* of \d+ merges are out of their tokens' order/)
    const normalizer = { type: "NFKC" }
    expect(convert({ tokenizer: { ...tokenizer, normalizer } }).warnings).toEqual([
      "tokenizer.json: normalizer: the step NFKC has no place in GGUF and is left out",
    ])
  })

  test("other models are refused", () => {
    const tokenizer = spmTokenizer(spmMetadata(scored))
    const refuse = (model: Json) => () =>
      convert({ tokenizer: { ...tokenizer, model: { ...(tokenizer.model as Json), ...model } } })
    expect(refuse({ type: "Unigram" })).toThrow(/model Unigram is not supported; known: BPE/)
    expect(refuse({ byte_fallback: false })).toThrow(/neither byte-level nor with byte_fallback/)
    expect(refuse({ end_of_word_suffix: "</w>" })).toThrow(/end_of_word_suffix is not supported/)
  })
})

describe("special tokens", () => {
  const names = ["<|bos|>", "<|eos|>", "<|pad|>", "<|stop|>", "<|im_end|>"]
  const first = 256 + MERGES.length
  const [BOS, EOS, PAD, STOP] = [first, first + 1, first + 2, first + 3]
  const tokenizer = bpeTokenizer(
    bpeMetadata(
      MERGES,
      names.map((text) => ({ text, kind: 3 })),
    ),
    GPT2,
  )
  const idsOf = (given: Omit<Given, "tokenizer">, more: Json = {}): Json => {
    const { metadata, warnings } = convert({ tokenizer: { ...tokenizer, ...more }, ...given })
    const ids = [...metadata].flatMap(([key, value]) => {
      const name = /^tokenizer\.ggml\.(.+)_token(_id)?$/.exec(key)?.[1]
      return name === undefined || value === false ? [] : [[name, value] as const]
    })
    return { ...Object.fromEntries(ids), ...(warnings.length > 0 ? { warnings } : {}) }
  }

  test("by text, also of an object; else by number; tokenizer_config.json before config.json", () => {
    expect(idsOf({})).toEqual({})
    expect(
      idsOf({ tokenizerConfig: { eos_token: "<|eos|>", pad_token: { content: "<|pad|>" }, bos_token: null } }),
    ).toEqual({
      eos: EOS,
      padding: PAD,
    })
    expect(idsOf({ config: { eos_token_id: EOS, bos_token_id: BOS } })).toEqual({ eos: EOS, bos: BOS })
    expect(idsOf({ tokenizerConfig: { eos_token: "<|stop|>" }, config: { eos_token_id: EOS } })).toEqual({
      eos: STOP,
      eot: EOS,
    })
    expect(idsOf({ generationConfig: { eos_token_id: EOS } })).toEqual({ eos: EOS })
    expect(idsOf({ config: { eos_token_id: 1e6, pad_token_id: -1, bos_token_id: "x" } })).toEqual({})
  })

  test("several ends: those that readers do not know by name", () => {
    expect(idsOf({ config: { eos_token_id: [EOS, STOP, first + 4] } })).toEqual({ eos: EOS, eot: STOP })
    expect(idsOf({ config: { eos_token_id: EOS }, generationConfig: { eos_token_id: [PAD, EOS, STOP] } })).toEqual({
      eos: EOS,
      eot: PAD,
      eom: STOP,
    })
    const four = idsOf({ config: { eos_token_id: [EOS, STOP, PAD, BOS] } })
    expect(four).toEqual({
      eos: EOS,
      eot: STOP,
      eom: PAD,
      warnings: ["1 of 4 tokens that end a generation have no place in GGUF"],
    })
  })

  test("what a text gets in front of it and behind it", () => {
    const template = bosTemplate("<|bos|>", BOS)
    const sequence = { type: "Sequence", processors: [{ type: "ByteLevel" }, template] }
    expect(idsOf({ config: { bos_token_id: BOS } }, { post_processor: template })).toEqual({ bos: BOS, add_bos: true })
    expect(idsOf({}, { post_processor: sequence })).toEqual({ bos: BOS, add_bos: true })
    const off = { tokenizerConfig: { bos_token: "<|bos|>", add_bos_token: false } }
    expect(idsOf(off, { post_processor: template })).toEqual({ bos: BOS })
    expect(idsOf({ tokenizerConfig: { bos_token: "<|bos|>", add_bos_token: true } })).toEqual({
      bos: BOS,
      add_bos: true,
    })
    expect(idsOf({ tokenizerConfig: { add_bos_token: true } })).toEqual({})
    const a = { Sequence: { id: "A", type_id: 0 } }
    const behind = { type: "TemplateProcessing", single: [a, { SpecialToken: { id: "<|eos|>", type_id: 0 } }] }
    expect(idsOf({ config: { eos_token_id: EOS } }, { post_processor: behind })).toEqual({ eos: EOS, add_eos: true })
    expect(idsOf({ config: { eos_token_id: STOP } }, { post_processor: behind })).toEqual({
      eos: STOP,
      warnings: ["the post_processor adds <|eos|>, which is not the eos token: left out"],
    })
  })
})

describe("a folder", () => {
  const shape = { nLayers: 1, dim: 32, nHeads: 2, nKvHeads: 1, nFfn: 32, nVocab: 400, nCtx: 64 }
  const model = { ...shape, arch: "llama", seed: 4, type: "F16", tied: true, biases: false } as const
  const open = (
    name: string,
    files: CheckpointFiles,
    extra: Record<string, string> = {},
    arch: "llama" | "phi3" = "llama",
  ) => {
    const folder = join(root, name)
    writeCheckpoint(folder, { ...model, arch }, files)
    for (const [file, text] of Object.entries(extra)) {
      mkdirSync(dirname(join(folder, file)), { recursive: true })
      writeFileSync(join(folder, file), text)
    }
    using source = openCheckpoint(folder)
    return source.metadata
  }
  const templatesOf = (metadata: Metadata) => {
    return Object.fromEntries([...metadata].filter(([key]) => key.startsWith("tokenizer.chat_template")))
  }

  test("chat templates, from the first file that has them", () => {
    const inConfig = { chat_template: "config" }
    expect(templatesOf(open("t1", { tokenizerConfig: inConfig }))).toEqual({ "tokenizer.chat_template": "config" })
    const json = { "chat_template.json": JSON.stringify({ chat_template: "json" }) }
    expect(templatesOf(open("t2", { tokenizerConfig: inConfig }, json))).toEqual({ "tokenizer.chat_template": "json" })
    const jinja = { ...json, "chat_template.jinja": "jinja\n" }
    expect(templatesOf(open("t3", { tokenizerConfig: inConfig }, jinja))).toEqual({
      "tokenizer.chat_template": "jinja\n",
    })
    expect(templatesOf(open("t4", {}))).toEqual({})
  })

  test("chat templates with names", () => {
    const list = [
      { name: "default", template: "a" },
      { name: "tool-use", template: "b" },
    ]
    for (const metadata of [
      open("n1", { tokenizerConfig: { chat_template: list } }),
      open("n2", {}, { "chat_template.jinja": "a", "additional_chat_templates/tool-use.jinja": "b" }),
    ]) {
      expect(templatesOf(metadata)).toMatchObject({
        "tokenizer.chat_template": "a",
        "tokenizer.chat_template.tool_use": "b",
      })
      expect((metadata.get("tokenizer.chat_templates") as StringArray).at(0)).toBe("tool_use")
    }
  })

  test("its name, in the hub's cache the repository's", () => {
    expect(open("Some-Model-1B", {}).get("general.name")).toBe("Some-Model-1B")
    expect(open("models--user--My-Model/snapshots/0123abc", {}).get("general.name")).toBe("My-Model")
  })

  test("white space behind special tokens: readers go by phi3 in the name", () => {
    const stripping = (arch: "llama" | "phi3", name: string, rstrip: boolean) => {
      const tokenizer = spmTokenizer(spmMetadata([["a", -1]]))
      const added = (tokenizer.added_tokens as Json[]).map((token) => ({ ...token, rstrip }))
      return open(name, { tokenizer: { ...tokenizer, added_tokens: added } }, {}, arch).get("general.name")
    }
    expect(stripping("phi3", "Phi-3-mini", true)).toBe("Phi-3-mini")
    expect(stripping("phi3", "mine", true)).toBe("phi3 mine")
    expect(stripping("phi3", "my-phi3-mini", false)).toBe("my-phi 3-mini")
    expect(stripping("llama", "like-Phi-3", true)).toBe("like-Phi 3")
  })
})
