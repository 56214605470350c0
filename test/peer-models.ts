// The random models on which llama.cpp's probabilities are stored: what they are, and a program that writes them.
// Usage: bun test/peer-models.ts FOLDER; bench/peers/oracle/random.mjs and peer-random.test.ts work on the same files.

import { join } from "node:path"
import { type RandomModel, writeRandomModel } from "./fixtures/random-model.ts"

const small = { nLayers: 2, nVocab: 200, nCtx: 128, tied: true, biases: false }
const narrow = { ...small, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 160 }
const wide = { ...small, dim: 256, nHeads: 4, nKvHeads: 2, nFfn: 512 }
const q6k = (name: string) => (/attn_v|ffn_down|output\.w/.test(name) ? "Q6_K" : "Q4_K")
// Llama 3.1's rule: high frequencies stay, low ones are divided by 8, those between by something between.
const phi3 = { ...narrow, arch: "phi3", nKvHeads: 3 } as const
const ofContext = {
  short: Array.from({ length: 12 }, (_, j) => 1 + j / 16),
  long: Array.from({ length: 12 }, (_, j) => 1 + j ** 1.5),
}
// llama.cpp's contexts are multiples of 256 tokens: the length at which factors change has to be far from N_CTX.
const longRope = (nCtxOriginal: number) => ({
  "phi3.rope.dimension_count": 24,
  "phi3.rope.scaling.attn_factor": Math.fround(1.19),
  "phi3.rope.scaling.original_context_length": nCtxOriginal,
  "phi3.attention.sliding_window": 2047,
})
const gemma3 = { ...narrow, arch: "gemma3", nKvHeads: 1, nLayers: 7 } as const
const local = { "gemma3.attention.sliding_window": 9, "gemma3.rope.freq_base": 1e6 }
const factors = Array.from({ length: 16 }, (_, j) => Math.min(8, Math.max(1, (j - 4) * 1.1)))

const moe = { ...narrow, arch: "qwen3moe", tied: false } as const

export const PEER_MODELS: Readonly<Record<string, RandomModel>> = {
  f32: { ...narrow, seed: 101, type: "F32" },
  "f32-untied": { ...narrow, seed: 102, type: "F32", tied: false },
  f16: { ...narrow, seed: 103, type: "F16" },
  bf16: { ...narrow, seed: 104, type: "BF16" },
  q8_0: { ...narrow, seed: 105, type: "Q8_0" },
  q4_0: { ...narrow, seed: 106, type: "Q4_0" },
  q4_1: { ...narrow, seed: 107, type: "Q4_1", tied: false },
  q5_0: { ...narrow, seed: 120, type: "Q5_0" },
  q5_1: { ...narrow, seed: 124, type: "Q5_1" },
  iq4_nl: { ...narrow, seed: 125, type: "IQ4_NL", tied: false },
  q2_k: { ...wide, seed: 121, type: "Q2_K" },
  q3_k: { ...wide, seed: 122, type: "Q3_K", tied: false },
  iq4_xs: { ...wide, seed: 123, type: "IQ4_XS" },
  "q5_k-q6_k": { ...wide, seed: 120, type: "Q5_K", types: (name) => (q6k(name) === "Q6_K" ? "Q6_K" : "Q5_K") },
  q6_k: { ...wide, seed: 108, type: "Q6_K" },
  "q4_k-q6_k": { ...wide, seed: 109, type: "Q4_K", types: q6k, tied: false },
  "biases-q8_0": { ...narrow, seed: 110, type: "Q8_0", biases: true },
  "rope-factors": { ...narrow, seed: 111, type: "F32", ropeFactors: factors },
  "rope-linear": {
    ...{ ...narrow, seed: 112, type: "F32" },
    metadata: { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4 },
  },
  "rope-base": { ...narrow, seed: 113, type: "F32", metadata: { "llama.rope.freq_base": 500000 } },
  "smollm2-shape": { ...small, seed: 114, type: "Q4_1", dim: 576, nHeads: 9, nKvHeads: 3, nFfn: 224, nVocab: 131 },
  qwen2: { ...narrow, arch: "qwen2", seed: 116, type: "F32", biases: true },
  "qwen2-q4_k-q6_k": { ...wide, arch: "qwen2", seed: 117, type: "Q4_K", types: q6k, biases: true },
  qwen3: { ...narrow, arch: "qwen3", seed: 118, type: "F32", headDim: 48, tied: false },
  "qwen3-q8_0": { ...narrow, arch: "qwen3", seed: 119, type: "Q8_0", headDim: 64, nHeads: 4, nKvHeads: 2 },
  phi3: { ...phi3, seed: 120, type: "F32", tied: false },
  "phi3-long": { ...phi3, seed: 121, type: "F32", contextFactors: ofContext, metadata: longRope(64) },
  "phi3-short": { ...phi3, seed: 122, type: "F32", contextFactors: ofContext, nCtx: 8192, metadata: longRope(4096) },
  "phi3-q4_k": { ...wide, arch: "phi3", seed: 123, type: "Q4_K", metadata: { "phi3.rope.dimension_count": 48 } },
  // Seeds with which no choice of experts hangs on rounding: forward.ts says so where it does.
  qwen3moe: { ...moe, seed: 1, type: "F32", headDim: 48, experts: { nExperts: 5, nUsed: 2, nFfn: 40 } },
  "qwen3moe-bf16": { ...moe, seed: 2, type: "BF16", headDim: 48, experts: { nExperts: 9, nUsed: 4, nFfn: 56 } },
  "qwen3moe-q4_1": { ...moe, seed: 6, type: "Q4_1", experts: { nExperts: 3, nUsed: 1, nFfn: 64 } },
  "qwen3moe-q8_0": { ...moe, seed: 13, type: "Q8_0", experts: { nExperts: 7, nUsed: 3, nFfn: 96 } },
  "qwen3moe-q4_k-q6_k": {
    ...{ ...wide, arch: "qwen3moe", tied: false, seed: 62, type: "Q4_K", types: q6k },
    experts: { nExperts: 6, nUsed: 2, nFfn: 256 },
  },
  gemma3: { ...gemma3, seed: 124, type: "F32", headDim: 48, metadata: local },
  "gemma3-scaled": {
    ...{ ...gemma3, seed: 125, type: "F16", headDim: 256, nLayers: 6 },
    metadata: { ...local, "gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8 },
  },
  "gemma3-softcap": {
    ...{ ...gemma3, seed: 126, type: "F32", nLayers: 2, tied: false },
    metadata: { "gemma3.final_logit_softcapping": 1.5, "gemma3.rope.freq_base": 1e6 },
  },
  "gemma3-q4_k-q6_k": { ...wide, arch: "gemma3", seed: 127, type: "Q4_K", types: q6k, nLayers: 6, metadata: local },
  "head-dim-64": { ...narrow, seed: 115, type: "F32", headDim: 64, nHeads: 4, nKvHeads: 2 },
}

/** Tokens of the context, for which llama.cpp takes 256. */
export const N_CTX = 128
/** Positions whose probabilities are stored, and the tokens at them. */
export const N_POSITIONS = 48
export const peerTokens = ({ nVocab, seed }: RandomModel) =>
  Array.from({ length: N_POSITIONS }, (_, i) => (i * 31 + seed) % nVocab)

export function writePeerModel(folder: string, name: string): string {
  const path = join(folder, `${name}.gguf`)
  writeRandomModel(path, PEER_MODELS[name]!)
  return path
}

if (import.meta.main) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error("usage: bun test/peer-models.ts FOLDER")
  for (const [name, model] of Object.entries(PEER_MODELS)) {
    const path = writePeerModel(folder, name)
    console.log(JSON.stringify({ name, path, tokens: peerTokens(model) }))
  }
}
