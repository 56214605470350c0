// Whole models with random weights, and single layers of them. Oracle: the float64 forward pass of forward.ts, and the
// standard deviation that it derives for each logit from the engine's number formats.
//
// Deviations are errors in units of that. The largest of some 10^4 nearly normal ones is about 4.5 and must stay below 8.
// Their root mean square is 1 if the derivation is right (0.93 to 1.06 seen) and is bounded on both sides. Float weights
// are the sharp test of the graph (logits of order 1 to about 10^-6), quantised ones show that int8 costs what it must.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { load, type Model } from "../src/index.ts"
import { Type } from "../src/native/abi.ts"
import { KvCache } from "../src/native/handles.ts"
import { type RandomModel, writeRandomModel } from "./fixtures/random-model.ts"
import { Forward, type Moments } from "./forward.ts"
import { readRows } from "./op-oracle.ts"
import { TYPES } from "./tiny-model.ts"

setDefaultTimeout(60_000) // seconds each; two workers on busy cores wait for each other

const folder = mkdtempSync(join(tmpdir(), "asdsl-forward-"))
afterAll(() => rmSync(folder, { recursive: true }))

const N_TOKENS = 40

type Shape = Partial<RandomModel> & { type: TensorTypeName }

function write(name: string, shape: Shape): string {
  const path = join(folder, `${name.replaceAll(/\W/g, "-")}.gguf`)
  const isWide = TENSOR_TYPES[shape.type].block === 256
  writeRandomModel(path, {
    ...{ seed: 7, nLayers: 2, dim: isWide ? 256 : 96, nHeads: isWide ? 4 : 3, nKvHeads: 1, nFfn: isWide ? 512 : 160 },
    ...{ nVocab: 200, nCtx: 128, tied: true, biases: false, ...shape },
  })
  return path
}

/** Different tokens, so that no rounding of the first layer happens twice. */
const tokensOf = (nVocab: number, n = N_TOKENS) => Array.from({ length: n }, (_, i) => (i * 31 + 5) % nVocab)

interface Deviations {
  largest: number
  rms: number
}

function deviations(got: readonly ArrayLike<number>[], expected: readonly Moments[]): Deviations {
  let largest = 0
  let squares = 0
  let n = 0
  for (const [t, { values, variances }] of expected.entries()) {
    for (let i = 0; i < values.length; i++) {
      const deviation = Math.abs(got[t]![i]! - values[i]!) / Math.sqrt(variances[i]!)
      largest = Number.isNaN(deviation) ? deviation : Math.max(largest, deviation)
      squares += deviation ** 2
      n++
    }
  }
  return { largest, rms: Math.sqrt(squares / n) }
}

function check({ largest, rms }: Deviations): void {
  expect(largest).toBeLessThan(8)
  expect(rms).toBeGreaterThan(0.8)
  expect(rms).toBeLessThan(1.2)
}

/** Logits of every position; the first passes are single tokens, then a few, then all that is left. */
function logitsOf(model: Model, tokens: number[]): Float32Array[] {
  using session = model.createSession()
  const rows: Float32Array[] = []
  for (const [from, to] of [
    [0, 1],
    [1, 2],
    [2, 7],
    [7, tokens.length],
  ] as const) {
    session.extend(tokens.slice(from, to), {
      outputs: "all",
      onRows(_, n) {
        for (let j = 0; j < n; j++) rows.push(session.row(j).logits.slice())
      },
    })
  }
  return rows
}

async function compare(
  path: string,
  type: "f16" | "f32",
  { nTokens = N_TOKENS, typeV = type, nCtx = 0 }: { nTokens?: number; typeV?: "f16" | "f32"; nCtx?: number } = {},
): Promise<Deviations> {
  const forward = new Forward(path, "asdsl", nCtx || undefined)
  const tokens = tokensOf(forward.nVocab, nTokens)
  using model = await load(path, { nThreads: 2, nCtx, typeK: type, typeV })
  return deviations(logitsOf(model, tokens), forward.run(tokens, type).logits)
}

describe("every tensor type", () => {
  for (const type of TYPES) {
    for (const tied of [true, false]) {
      for (const typeKv of ["f16", "f32"] as const) {
        test(`${type}, ${tied ? "tied" : "untied"}, ${typeKv} cache`, async () => {
          check(await compare(write(`${type}${tied}`, { type, tied }), typeKv))
        })
      }
    }
  }
})

const q4kMix = (name: string) => (/attn_v|ffn_down|output\.w/.test(name) ? "Q6_K" : "Q4_K")
const anyTypes = (name: string): TensorTypeName => {
  if (name.includes("attn_k")) return "F16"
  if (name.includes("attn_v")) return "Q8_0"
  if (name.includes("ffn_down")) return "Q4_1"
  return name.includes("token_embd") ? "BF16" : "Q4_0"
}

// Seeds are such that no choice of experts hangs on rounding: forward.ts says so where it does.
const moe = { arch: "qwen3moe", tied: false } as const
const twoOfFive = { ...moe, type: "F32", experts: { nExperts: 5, nUsed: 2, nFfn: 40 } } as const
const MIXTURES: Record<string, Shape> = {
  "2 of 5 experts, F32": twoOfFive,
  "2 of 5 experts, softmax over all, scaled": {
    ...twoOfFive,
    metadata: { "qwen3moe.expert_weights_norm": false, "qwen3moe.expert_weights_scale": 2.5 },
  },
  "4 of 9 experts, BF16": { ...moe, type: "BF16", experts: { nExperts: 9, nUsed: 4, nFfn: 56 } },
  "1 of 3 experts, Q4_1": { ...moe, type: "Q4_1", experts: { nExperts: 3, nUsed: 1, nFfn: 64 } },
  "3 of 7 experts, Q8_0": { ...moe, type: "Q8_0", seed: 19, experts: { nExperts: 7, nUsed: 3, nFfn: 96 } },
  "2 of 6 experts, Q4_K with Q6_K": {
    ...moe,
    ...{ type: "Q4_K", types: q4kMix, seed: 9, experts: { nExperts: 6, nUsed: 2, nFfn: 256 } },
  },
}

// Rows of 576, 96 and 160 inputs are odd numbers of blocks of 32; 201 and 40 outputs are not whole groups of 16 rows.
const SHAPES: Record<string, Shape> = {
  "Q4_K with Q6_K": { type: "Q4_K", types: q4kMix, tied: false },
  "Q4_K with Q6_K, biases": { type: "Q4_K", types: q4kMix, biases: true, nVocab: 201 },
  "many types in one model": { type: "Q4_0", types: anyTypes, biases: true, tied: false },
  "biases, F32": { type: "F32", biases: true, tied: false },
  "biases, Q4_1": { type: "Q4_1", biases: true },
  "SmolLM2's width": { type: "Q4_1", dim: 576, nHeads: 9, nKvHeads: 3, nFfn: 224, nVocab: 131, nLayers: 1 },
  "SmolLM2's width, Q4_0": { type: "Q4_0", dim: 576, nHeads: 9, nKvHeads: 3, nFfn: 224, nVocab: 131, nLayers: 1 },
  "SmolLM2's width, Q8_0": { type: "Q8_0", dim: 576, nHeads: 9, nKvHeads: 3, nFfn: 224, nVocab: 131, nLayers: 1 },
  "one head to each": { type: "F32", dim: 128, nHeads: 4, nKvHeads: 4 },
  "heads of 32, 2 to 1": { type: "Q8_0", dim: 128, nHeads: 4, nKvHeads: 2 },
  "heads of 32, 3 to 1": { type: "F16", dim: 192, nHeads: 6, nKvHeads: 2 },
  "heads of 64, 4 to 1": { type: "Q4_1", dim: 256, nHeads: 4, nKvHeads: 1 },
  "heads of 80, 5 to 1": { type: "F32", dim: 160, nHeads: 5, nKvHeads: 1, headDim: 80 },
  "heads of 96, 6 to 1": { type: "BF16", dim: 128, nHeads: 6, nKvHeads: 1, headDim: 96 },
  "heads of 128, 7 to 1": { type: "Q8_0", dim: 96, nHeads: 7, nKvHeads: 1, headDim: 128 },
  "heads of 16, 8 to 1": { type: "F32", dim: 128, nHeads: 8, nKvHeads: 1 },
  "heads of 40, 4 to 1": { type: "Q4_0", dim: 160, nHeads: 4, nKvHeads: 1, nVocab: 201 },
  "nothing divides anything": { type: "F32", dim: 60, nHeads: 3, nKvHeads: 3, headDim: 22, nFfn: 77, nVocab: 163 },
  "half of each head turns": { type: "F32", metadata: { "llama.rope.dimension_count": 16 } },
  "another base": { type: "F16", metadata: { "llama.rope.freq_base": 500000 } },
  "factors of Llama 3": { type: "F32", ropeFactors: Array.from({ length: 16 }, (_, j) => 1 + j ** 1.2) },
  "linear scaling": { type: "F32", metadata: { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4 } },
  "a large epsilon": { type: "F32", metadata: { "llama.attention.layer_norm_rms_epsilon": 0.01 } },
  "qwen2, F32": { type: "F32", arch: "qwen2", biases: true },
  "qwen2, Q4_K with Q6_K": { type: "Q4_K", types: q4kMix, arch: "qwen2", biases: true, tied: false },
  "qwen3, F32": { type: "F32", arch: "qwen3", headDim: 48 },
  "qwen3, Q8_0": { type: "Q8_0", arch: "qwen3", headDim: 128, nHeads: 4, nKvHeads: 2, tied: false },
  "phi3, F32": { type: "F32", arch: "phi3" },
  "phi3, Q4_K, untied": { type: "Q4_K", arch: "phi3", tied: false, metadata: { "phi3.rope.dimension_count": 48 } },
  "phi3, rows that are no whole groups": { type: "F16", arch: "phi3", headDim: 24, nFfn: 75, nVocab: 131 },
  "phi3, a window of 9 keys": { type: "F32", arch: "phi3", metadata: { "phi3.attention.sliding_window": 9 } },
  ...MIXTURES,
  "gemma3, F32: six local layers, one global": {
    ...{ type: "F32", arch: "gemma3", headDim: 48, nLayers: 7 },
    metadata: { "gemma3.attention.sliding_window": 7, "gemma3.rope.freq_base": 1e6 },
  },
  "gemma3, Q4_K with Q6_K": {
    ...{ type: "Q4_K", types: q4kMix, arch: "gemma3", nLayers: 3 },
    metadata: { "gemma3.attention.sliding_window": 7, "gemma3.attention.sliding_window_pattern": 2 },
  },
  "gemma3, F16: all layers see all, heads of 256": { type: "F16", arch: "gemma3", headDim: 256, tied: false },
  "gemma3, F32: flags for layers, linear scaling, another local base, soft caps": {
    ...{ type: "F32", arch: "gemma3", nLayers: 3 },
    metadata: {
      "gemma3.attention.sliding_window": 13,
      "gemma3.attention.sliding_window_pattern": new Uint8Array([1, 0, 1]),
      "gemma3.rope.freq_base": 1e6,
      "gemma3.rope.freq_base_swa": 20000,
      "gemma3.rope.scaling.type": "linear",
      "gemma3.rope.scaling.factor": 8,
      "gemma3.attn_logit_softcapping": 2,
      "gemma3.final_logit_softcapping": 1.5,
    },
  },
  "four layers": { type: "Q8_0", nLayers: 4 },
  "four layers, F32": { type: "F32", nLayers: 4 },
}

describe("factors of phi3", () => {
  const shape: Shape = {
    ...{ type: "F32", arch: "phi3" },
    contextFactors: {
      short: Array.from({ length: 12 }, (_, j) => 1 + j / 16),
      long: Array.from({ length: 12 }, (_, j) => 1 + j ** 1.5),
    },
    metadata: {
      "phi3.rope.dimension_count": 24,
      "phi3.rope.scaling.attn_factor": Math.fround(1.19),
      "phi3.rope.scaling.original_context_length": 64,
    },
  }
  for (const nCtx of [64, 65]) {
    test(`contexts of ${nCtx} tokens, the original ones have 64`, async () => {
      check(await compare(write("factors of phi3", shape), "f32", { nCtx }))
    })
  }

  test("a session on the other side of the original length is refused, with the numbers", async () => {
    using model = await load(write("factors of phi3", shape), { nThreads: 1, nCtx: 64 })
    expect(() => model.createSession({ nCtx: 65 })).toThrow(
      "the model was loaded for contexts of 64 tokens, and its rotary factors for those of more than 64 are others: load it with nCtx 65",
    )
    using session = model.createSession({ nCtx: 50 })
    expect(session.nCtx).toBe(50)
  })
})

describe("every shape", () => {
  for (const [name, shape] of Object.entries(SHAPES)) {
    test(name, async () => check(await compare(write(name, shape), "f16")))
  }

  for (const type of ["F32", "Q8_0"] as const) {
    test(`600 tokens, ${type}: positions and chunks of attention far from the start`, async () => {
      check(await compare(write(`long ${type}`, { type, nVocab: 601, nCtx: 1024 }), "f16", { nTokens: 600 }))
    })
  }

  test("gemma3 of 62 layers: attention is scaled by the width", async () => {
    // After so many layers the errors are no longer independent of each other, as the oracle has them: 1.3 seen. The scale
    // of other depths, off by the root of two here, makes it 220,000.
    const path = write("gemma3 of 62 layers", { type: "F32", arch: "gemma3", headDim: 16, nLayers: 62 })
    const { rms } = await compare(path, "f32", { nTokens: 12 })
    expect(rms).toBeGreaterThan(0.8)
    expect(rms).toBeLessThan(2)
  })

  test("keys in f32, values in f16", async () => {
    // The oracle takes one type for both: what f16 keys would add makes the difference.
    const path = write("mixed cache", { type: "F32" })
    const { rms } = await compare(path, "f32", { typeV: "f16" })
    expect(rms).toBeGreaterThan(3)
    const both = await compare(path, "f16", { typeV: "f32" })
    expect(both.rms).toBeLessThan(1)
  })
})

/** The residual stream after the last layer, before the output norm, through the op door. */
async function lastLayer(path: string, typeKv: "f16" | "f32"): Promise<Deviations> {
  const forward = new Forward(path)
  const tokens = tokensOf(forward.nVocab)
  using model = await load(path, { nThreads: 1, maxOutputs: N_TOKENS })
  const { nLayers, nKvHeads, headDim } = model.config
  const type = typeKv === "f16" ? Type.F16 : Type.F32
  using kv = KvCache.create({ nLayers, nKvHeads, headDim, capacity: N_TOKENS, typeK: type, typeV: type })
  const executor = model.executorFor(N_TOKENS)
  executor.prepare(tokens, 0, N_TOKENS, 0, 0, 0)
  const last = executor.plan.ops.findLastIndex(({ operation }) => operation === "matmul_add")
  for (let index = 0; index <= last; index++) executor.runOp(index, kv)
  const hidden = readRows(executor, executor.plan.ops[last]!.places.out!, N_TOKENS)
  return deviations(hidden, forward.run(tokens, typeKv).hidden)
}

describe("a single layer, op by op", () => {
  for (const type of TYPES) {
    for (const typeKv of ["f16", "f32"] as const) {
      test(`${type}, ${typeKv} cache`, async () => {
        check(await lastLayer(write(`layer ${type}`, { type, nLayers: 1, biases: true, seed: 8 }), typeKv))
      })
    }
  }
})

describe("the bounds are sharp: a model that differs a little is found out", () => {
  const others: Record<string, Record<string, number>> = {
    "rotary base 10,001, not 10,000": { "llama.rope.freq_base": 10001 },
    "epsilon 0.0000101, not 0.00001": { "llama.attention.layer_norm_rms_epsilon": 1.01e-5 },
  }
  for (const [name, metadata] of Object.entries(others)) {
    test(name, async () => {
      const forward = new Forward(write("sharp", { type: "F32" }))
      const tokens = tokensOf(forward.nVocab)
      using model = await load(write(name, { type: "F32", metadata }), { nThreads: 2, typeK: "f32", typeV: "f32" })
      const { rms } = deviations(logitsOf(model, tokens), forward.run(tokens, "f32").logits)
      expect(rms).toBeGreaterThan(2)
    })
  }
})
