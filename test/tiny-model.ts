// Random-weight llama models for tests of the engine, small enough to run in milliseconds at every level.

import type { TensorTypeName } from "../src/gguf/types.ts"
import { TENSOR_TYPES } from "../src/gguf/types.ts"
import { cpuInfo } from "../src/native/handles.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"

/** Instruction-set levels that run here, the oracle apart. */
export const LEVELS = cpuInfo().levels.filter((level) => level !== "reference")

export const TYPES = Object.keys(TENSOR_TYPES) as TensorTypeName[]

export interface TinyModel {
  path: string
  seed?: number
  type: TensorTypeName
  types?: (name: string) => TensorTypeName
  tied?: boolean
  biases?: boolean
  nLayers?: number
}

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
}

/** Writes a model: 200 tokens, 2 layers, 3 query heads to 1 key head of 32 (K-quants: 4 to 2 of 64), context 128. */
export function writeTinyModel(model: TinyModel): string {
  const names = [model.type, model.types?.("blk.0.attn_v.weight"), model.types?.("blk.0.ffn_down.weight")]
  const isWide = names.some((name) => name !== undefined && TENSOR_TYPES[name].block === 256)
  const [dim, nHeads, nKvHeads] = isWide ? [256, 4, 2] : [96, 3, 1]
  writeRandomModel(model.path, {
    ...{ seed: model.seed ?? 1, type: model.type, nLayers: model.nLayers ?? 2, dim, nHeads, nKvHeads, nFfn: 2 * dim },
    ...{ nVocab: 200, nCtx: 128, tied: model.tied ?? true, biases: model.biases ?? false },
    ...(model.types ? { types: model.types } : {}),
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
