// Types of tensors by mixture. Oracle: llama.cpp's own snapshot of what it gives every tensor of Qwen3-0.6B
// (data/quant-types).

import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { TensorTypeName } from "../../src/gguf/types.ts"
import { planTypes } from "../../src/quantize/policy.ts"
import { MIXTURES, type MixtureName } from "../../src/quantize/types.ts"

const DATA = process.env.ASDSL_TEST_DATA ?? ""

interface Tensor {
  readonly name: string
  readonly type: TensorTypeName
  readonly shape: readonly number[]
}

/** Of Qwen3-0.6B, with an output matrix of its own as the snapshot assumes. */
function tensorsOf(nLayers: number): Tensor[] {
  const [dim, nFfn, nVocab, width, kvWidth] = [1024, 3072, 151936, 2048, 1024]
  const matrix = (name: string, cols: number, rows: number): Tensor => ({ name, type: "F16", shape: [cols, rows] })
  const vector = (name: string, n: number): Tensor => ({ name, type: "F32", shape: [n] })
  const layers = Array.from({ length: nLayers }, (_, i) => [
    vector(`blk.${i}.attn_norm.weight`, dim),
    matrix(`blk.${i}.attn_q.weight`, dim, width),
    matrix(`blk.${i}.attn_k.weight`, dim, kvWidth),
    matrix(`blk.${i}.attn_v.weight`, dim, kvWidth),
    vector(`blk.${i}.attn_q_norm.weight`, 128),
    matrix(`blk.${i}.attn_output.weight`, width, dim),
    vector(`blk.${i}.ffn_norm.weight`, dim),
    matrix(`blk.${i}.ffn_gate.weight`, dim, nFfn),
    matrix(`blk.${i}.ffn_up.weight`, dim, nFfn),
    matrix(`blk.${i}.ffn_down.weight`, nFfn, dim),
  ])
  const ends = [matrix("output.weight", dim, nVocab), vector("output_norm.weight", dim)]
  return [matrix("token_embd.weight", dim, nVocab), ...layers.flat(), ...ends]
}

/** "[Q4_K_M] q4_K" and the tensors that differ, a line each. */
function sections(text: string): Map<string, { base: string; others: Map<string, string> }> {
  const found = new Map<string, { base: string; others: Map<string, string> }>()
  let others = new Map<string, string>()
  for (const line of text.split("\n")) {
    const head = /^\[(\S+)\] (\S+)$/.exec(line)
    const [name, type] = line.split(" ")
    if (head !== null) {
      others = new Map()
      found.set(head[1]!, { base: head[2]!, others })
    } else if (type !== undefined && !line.startsWith("#")) others.set(name!, type)
  }
  return found
}

describe.skipIf(DATA === "")("the types of Qwen3-0.6B", () => {
  const snapshot = sections(DATA === "" ? "" : readFileSync(join(DATA, "quant-types/qwen3-0.6b.schema"), "utf8"))
  const tensors = tensorsOf(28)
  const metadata = new Map<string, string | number>([
    ["general.architecture", "qwen3"],
    ["qwen3.block_count", 28],
    ["qwen3.attention.head_count", 16],
    ["qwen3.attention.head_count_kv", 8],
  ])
  for (const mixture of Object.keys(MIXTURES) as MixtureName[]) {
    test(mixture, () => {
      const { base, others } = snapshot.get(mixture)!
      const types = planTypes(tensors, metadata, { mixture })
      const wanted = tensors.map(({ name, type, shape }) => {
        return shape.length < 2 ? type : (others.get(name) ?? base).toUpperCase()
      })
      expect(tensors.map(({ name }, i) => `${name} ${types[i]}`)).toEqual(
        tensors.map(({ name }, i) => `${name} ${wanted[i]}`),
      )
      for (const name of others.keys()) expect(tensors.some((tensor) => tensor.name === name)).toBe(true)
    })
  }
})
