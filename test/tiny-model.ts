// Random-weight models for tests of the engine, small enough to run in milliseconds at every level.

import type { TensorTypeName } from "../src/gguf/types.ts"
import { TENSOR_TYPES } from "../src/gguf/types.ts"
import { cpuInfo } from "../src/native/handles.ts"
import { executes, hiddenLevels } from "../src/native/hidden-level.ts"
import { levelNumber } from "../src/native/library.ts"
import { type RandomModel, writeRandomModel } from "./fixtures/random-model.ts"

/** Instruction-set levels that run here, the oracle apart; one that CPUID hides and that executes is among them. */
export const LEVELS = [
  ...cpuInfo().levels.filter((level) => level !== "reference"),
  ...hiddenLevels(cpuInfo().levels).filter((level) => executes(levelNumber(level))),
]

/** A level that only another architecture has. */
export const FOREIGN_LEVEL = process.arch === "arm64" ? "avx2" : "neon"

export const TYPES = Object.keys(TENSOR_TYPES) as TensorTypeName[]

export type TinyModel = { path: string; type: TensorTypeName } & Partial<RandomModel>

/** Part of each head turns, by factors of long contexts, and a window of keys ends before the sequence does. */
const PHI3 = {
  "phi3.rope.dimension_count": 24,
  "phi3.rope.scaling.attn_factor": Math.fround(1.2),
  "phi3.rope.scaling.original_context_length": 64,
  "phi3.attention.sliding_window": 21,
}
/** Three layers of four see 11 keys; both soft caps. */
const GEMMA3 = {
  "gemma3.attention.sliding_window": 11,
  "gemma3.attention.sliding_window_pattern": 4,
  "gemma3.rope.freq_base": 1e6,
  "gemma3.attn_logit_softcapping": 3,
  "gemma3.final_logit_softcapping": 2,
}
const factors = (n: number) => ({
  short: Array.from({ length: n }, (_, j) => 1 + j / 16),
  long: Array.from({ length: n }, (_, j) => 1 + j ** 1.5),
})

/** Every tensor type by itself, and mixtures as real files have them: by name. */
export const TINY_MODELS: Record<string, Omit<TinyModel, "path">> = {
  ...Object.fromEntries(TYPES.map((type) => [type, { type }])),
  "Q4_K with Q6_K, untied": {
    type: "Q4_K",
    types: (name) => (/attn_v|ffn_down|output\.w/.test(name) ? "Q6_K" : "Q4_K"),
    tied: false,
  },
  "Q4_0 with biases and other types": {
    type: "Q4_0",
    types: (name) => (name.includes("attn_k") ? "F16" : name.includes("attn_v") ? "Q8_0" : "Q4_0"),
    biases: true,
  },
  "gemma3, Q8_0": { type: "Q8_0", arch: "gemma3", metadata: GEMMA3, nLayers: 4 },
  "gemma3, F32, heads of 256": { type: "F32", arch: "gemma3", metadata: GEMMA3, headDim: 256, nLayers: 4 },
  "gemma3, Q4_K": { type: "Q4_K", arch: "gemma3", metadata: GEMMA3, nLayers: 4 },
  "phi3, Q4_0": { type: "Q4_0", arch: "phi3", metadata: PHI3, contextFactors: factors(12) },
  "phi3, Q4_K, untied": { type: "Q4_K", arch: "phi3", metadata: PHI3, contextFactors: factors(12), tied: false },
  "2 of 5 experts, F32": { type: "F32", arch: "qwen3moe", experts: { nExperts: 5, nUsed: 2, nFfn: 40 } },
  "3 of 7 experts, Q8_0 with Q4_1": {
    type: "Q8_0",
    types: (name) => (name.includes("down_exps") ? "Q4_1" : "Q8_0"),
    arch: "qwen3moe",
    experts: { nExperts: 7, nUsed: 3, nFfn: 96 },
  },
  "4 of 6 experts, Q4_K with Q6_K": {
    type: "Q4_K",
    types: (name) => (/attn_v|ffn_down|output\.w/.test(name) ? "Q6_K" : "Q4_K"),
    arch: "qwen3moe",
    experts: { nExperts: 6, nUsed: 4, nFfn: 256 },
  },
  "1 of 3 experts, Q4_0": { type: "Q4_0", arch: "qwen3moe", experts: { nExperts: 3, nUsed: 1, nFfn: 64 } },
}

/** Writes a model: 200 tokens, 2 layers, 3 query heads to 1 key head of 32 (K-quants: 4 to 2 of 64), context 128. */
export function writeTinyModel(model: TinyModel): string {
  const names = [model.type, model.types?.("blk.0.attn_v.weight"), model.types?.("blk.0.ffn_down.weight")]
  const isWide = names.some((name) => name !== undefined && TENSOR_TYPES[name].block === 256)
  const [dim, nHeads, nKvHeads] = isWide ? [256, 4, 2] : [96, 3, 1]
  const { path, ...given } = model
  writeRandomModel(path, {
    ...{ seed: 1, nLayers: 2, dim, nHeads, nKvHeads, nFfn: 2 * dim, nVocab: 200, nCtx: 128, tied: true, biases: false },
    ...given,
  })
  return model.path
}

/** Reproducible tokens of the tiny vocabulary. */
export function tinyTokens(n: number, seed = 0): number[] {
  return Array.from({ length: n }, (_, i) => (i * 7919 + 13 + seed * 104729) % 200)
}

/** The bits of a row of logits, as a short text. */
export function bits(logits: Float32Array): string {
  return Bun.hash(logits).toString(16)
}
