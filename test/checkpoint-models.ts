// The checkpoint folders on which other programs' results are stored: what they are, and a program that writes them.
// Usage: bun test/checkpoint-models.ts FOLDER; test/fixtures/make-checkpoint-expected.py and convert-peers.test.ts work on
// the same folders. Prints their names as JSON.

import { join } from "node:path"
import {
  bosTemplate,
  bpeTokenizer,
  type CheckpointFiles,
  type CheckpointModel,
  type Json,
  splitPreTokenizer,
  writeCheckpoint,
} from "./fixtures/checkpoint.ts"
import { bpeMetadata } from "./tokenizer-fixtures.ts"

export interface CheckpointCase {
  readonly model: CheckpointModel
  readonly files: CheckpointFiles
}

// ---- vocabularies ----

const GPT4_WORDS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const QWEN_WORDS = GPT4_WORDS.replace("{1,3}", "")
const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
const SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
const CASED_WORDS =
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${SUFFIX}|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${SUFFIX}|` +
  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Pairs that show where pieces end: digits, blanks, line ends, signs, letters with a blank, capitals. */
const MERGES = [
  ...["Ġ Ġ", "ĠĠ ĠĠ", "Ċ Ċ", "1 2", "12 3", "123 4", ". .", ". Ċ", "' s", "Ġ (", "A B", "b C", "/ /"],
  ...Array.from("etaoinshr", (letter) => `Ġ ${letter}`),
  ...Array.from("etaoinshr").flatMap((a) => Array.from("etaoin", (b) => `${a} ${b}`)),
  ...["Ġt he", "t he", "Ġ the", "an d", "Ġa nd", "Ġth e", "in g", "i ng"],
].filter((merge, i, all) => all.indexOf(merge) === i)

/** Merges whose parts exist where their turn comes. */
function soundMerges(): string[] {
  const known = new Set(Array.from("etaoinshrd.'()/ABCbgĠĊ123456789", (text) => text))
  return MERGES.filter((merge) => {
    const parts = merge.split(" ")
    if (!parts.every((part) => known.has(part))) return false
    known.add(parts.join(""))
    return true
  })
}

const specials = (names: readonly string[]) => names.map((text) => ({ text, kind: 3 }))

/** 256 bytes, the merges' products, special tokens. */
function bpe(names: readonly string[], preTokenizer: Json, ignoreMerges: boolean, userDefined: readonly string[] = []) {
  const added = [...specials(names), ...userDefined.map((text) => ({ text, kind: 4 }))]
  const metadata = bpeMetadata(soundMerges(), added)
  return bpeTokenizer(metadata, preTokenizer, ignoreMerges)
}

const LLAMA3 = bpe(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], splitPreTokenizer(GPT4_WORDS), true)
const QWEN = bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], splitPreTokenizer(QWEN_WORDS), false, ["<think>"])
/** White space behind Phi-3's special tokens belongs to them, but for this one. */
const PHI3 = withStripping(
  bpe(["<|endoftext|>", "<|end|>", "<|user|>"], splitPreTokenizer(CASED_WORDS), false),
  "<|endoftext|>",
)
const SMOLLM = bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], smollmPreTokenizer(), false)

function withStripping(tokenizer: Json, kept: string): Json {
  const added = tokenizer.added_tokens as { content: string }[]
  return { ...tokenizer, added_tokens: added.map((token) => ({ ...token, rstrip: token.content !== kept })) }
}

function smollmPreTokenizer(): Json {
  const digits = { type: "Digits", individual_digits: true }
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  return { type: "Sequence", pretokenizers: [digits, bytes] }
}

const idOf = (tokenizer: Json, content: string) => {
  return (tokenizer.added_tokens as { id: number; content: string }[]).find((token) => token.content === content)!.id
}

/** Ends in its name, so that llama.cpp's converter does not look for SentencePiece's file. */
const config = (eos: string, more: Json = {}): Json => ({
  ...{ tokenizer_class: "PreTrainedTokenizerFast", eos_token: eos, clean_up_tokenization_spaces: false, ...more },
})

// ---- models ----

const narrow = { nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 160, nVocab: 400, nCtx: 256 }
const base = { ...narrow, type: "F32", tied: false, biases: false } as const
const llama3Scaling = {
  ...{ rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
  original_max_position_embeddings: 32,
}
const phiFactors = (grow: number) => Array.from({ length: 12 }, (_, j) => 1 + grow * j ** 1.25)
const eosIds = (tokenizer: Json, eos: string) => ({ eos_token_id: idOf(tokenizer, eos), bos_token_id: null })

export const CHECKPOINTS: Readonly<Record<string, CheckpointCase>> = {
  "llama-spm": { model: { ...base, arch: "llama", seed: 201 }, files: {} },
  "llama-smollm-tied": {
    model: { ...base, arch: "llama", seed: 202, type: "BF16", tied: true },
    files: {
      tokenizer: SMOLLM,
      tokenizerConfig: config("<|im_end|>", { bos_token: "<|im_start|>", chat_template: "{{ messages }}" }),
      config: { ...eosIds(SMOLLM, "<|im_end|>"), rope_theta: 100000, rope_scaling: { type: "linear", factor: 2 } },
    },
  },
  "llama3-sharded": {
    model: { ...base, arch: "llama", seed: 203, headDim: 64, nKvHeads: 3 },
    files: {
      nShards: 3,
      tokenizer: {
        ...LLAMA3,
        post_processor: bosTemplate("<|begin_of_text|>", idOf(LLAMA3, "<|begin_of_text|>")),
      },
      tokenizerConfig: config("<|eot_id|>", { bos_token: "<|begin_of_text|>" }),
      config: { ...eosIds(LLAMA3, "<|eot_id|>"), rope_scaling: llama3Scaling, rope_theta: 500000 },
      more: { "chat_template.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}" },
    },
  },
  "qwen2-biases": {
    model: { ...base, arch: "qwen2", seed: 204, biases: true },
    files: {
      tokenizer: { ...QWEN, normalizer: { type: "NFC" } },
      tokenizerConfig: config("<|im_end|>", { pad_token: "<|endoftext|>", add_bos_token: false }),
      config: { ...eosIds(QWEN, "<|im_end|>"), bos_token_id: idOf(QWEN, "<|endoftext|>") },
      more: { "generation_config.json": { temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.05 } },
    },
  },
  "qwen3-yarn": {
    model: { ...base, arch: "qwen3", seed: 205, headDim: 64, nHeads: 4, nKvHeads: 2 },
    files: {
      tokenizer: QWEN,
      tokenizerConfig: config("<|im_end|>"),
      config: {
        ...{ ...eosIds(QWEN, "<|im_end|>"), rope_theta: 1000000 },
        rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
      },
    },
  },
  "phi3-longrope-short": phi3(206, 128),
  "phi3-longrope-long": phi3(207, 32),
}

/** Up to the original length one set of factors, from there on another one, for all tokens of a text. */
function phi3(seed: number, nCtxOriginal: number): CheckpointCase {
  const files = {
    tokenizer: PHI3,
    tokenizerConfig: config("<|endoftext|>", { tokenizer_class: "GPT2Tokenizer", bos_token: "<|endoftext|>" }),
    config: {
      ...{ ...eosIds(PHI3, "<|endoftext|>"), partial_rotary_factor: 0.75 },
      original_max_position_embeddings: nCtxOriginal,
      rope_scaling: { type: "longrope", short_factor: phiFactors(0.02), long_factor: phiFactors(1) },
    },
  }
  return { model: { ...base, arch: "phi3", seed, type: "F16", tied: true }, files }
}

/** What transformers evaluates: more tokens than the shortest original context. */
export const N_POSITIONS = 48
/** The context that they are evaluated in: it decides between Phi-3's factors here, the text's length there. */
export const N_CTX = 64
/** Positions whose logits are stored. */
export const STORED_POSITIONS = [0, 17, 47]

export function checkpointTokens(): number[] {
  return Array.from({ length: N_POSITIONS }, (_, i) => (i * 7919 + 13) % 256)
}

/** Texts to cut; with special tokens in some. */
export const TEXTS: readonly string[] = [
  "",
  " ",
  "the one",
  "  the  oneAB bCd (12345) 1 2  3\n\n\n  x's they're I'LL",
  "\tan and\r\n   \nthe.\n..  //\n/ end ",
  "h\u00e9llo w\u00f6rld \u4f60\u597d \u{1f600}\u{1f600} \u0645\u0631\u062d\u0628\u0627 \u4e00 caf\u00c9S",
  "<|im_start|>the<|im_end|> one <think> x</think><|endoftext|>",
  "<s> the</s> tie <unk>x <|eot_id|>\n<|user|> an",
  "tttttt hhhhh eeeee ran ten ton tin the other",
  "1234 12 123 1234567 \u0663\u0664\u0665 \u00bd x1y2",
]

export function writeCheckpointCase(folder: string, name: string): string {
  const { model, files } = CHECKPOINTS[name]!
  const path = join(folder, name)
  writeCheckpoint(path, model, files)
  return path
}

if (import.meta.main) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error("usage: bun test/checkpoint-models.ts FOLDER")
  for (const name of Object.keys(CHECKPOINTS)) writeCheckpointCase(folder, name)
  const cases = {
    names: Object.keys(CHECKPOINTS),
    texts: TEXTS,
    tokens: checkpointTokens(),
    positions: STORED_POSITIONS,
  }
  console.log(JSON.stringify(cases))
}
