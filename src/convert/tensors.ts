// The tensors of a checkpoint under their GGUF names: what a family must have, may have and never has, in the order of
// execution. Shapes follow from the configuration and are compared with the files'.
// Source of names: llama.cpp's gguf-py/gguf/tensor_mapping.py.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { CheckpointShape } from "./config.ts"
import type { StoredTensor } from "./safetensors.ts"
import { some } from "./shards.ts"

/** A stored tensor and what becomes of it. */
export interface MappedTensor {
  /** As in a GGUF file. */
  readonly name: string
  readonly stored: StoredTensor
  /** Heads whose rows change places: see permutedRow. */
  readonly nPermutedHeads?: number
}

interface Expected {
  readonly name: string
  /** In the checkpoint. */
  readonly source: string
  /** Outermost dimension first. */
  readonly shape: readonly number[]
  readonly isOptional?: boolean
  readonly nPermutedHeads?: number
}

const FLOATS = ["F32", "F16", "BF16"]

// Buffers that old checkpoints hold and nobody reads.
const IGNORED = /\.(rotary_emb\.inv_freq|attention\.masked_bias|attention\.bias)$/

/** Throws FormatError where a tensor is missing or has another shape than the configuration says, UnsupportedError where
 * one is left over (the model would compute something else) or is not of floats. */
export function mapTensors(
  place: string,
  stored: ReadonlyMap<string, StoredTensor>,
  shape: CheckpointShape,
): MappedTensor[] {
  const expected = expectedTensors(shape)
  const missing = expected.filter(({ source, isOptional }) => isOptional !== true && !stored.has(source))
  if (missing.length > 0) {
    throw new FormatError(`${place}: tensors are missing: ${some(missing.map(({ source }) => source))}`)
  }
  const mapped: MappedTensor[] = []
  for (const { name, source, shape: wanted, nPermutedHeads = 0 } of expected) {
    const tensor = stored.get(source)
    if (tensor === undefined) continue
    if (!FLOATS.includes(tensor.dtype)) {
      throw new UnsupportedError(`${place}: ${source} is of type ${tensor.dtype}; known: ${FLOATS.join(", ")}`)
    }
    if (tensor.shape.join() !== wanted.join()) {
      throw new FormatError(
        `${place}: ${source} has the shape [${tensor.shape.join(", ")}], config.json says [${wanted.join(", ")}]`,
      )
    }
    mapped.push({ name, stored: tensor, nPermutedHeads })
  }
  refuseOthers(place, stored, expected, shape)
  return mapped
}

function refuseOthers(
  place: string,
  stored: ReadonlyMap<string, StoredTensor>,
  expected: readonly Expected[],
  { arch, isTied }: CheckpointShape,
): void {
  const known = new Set(expected.map(({ source }) => source))
  if (isTied === true) known.add("lm_head.weight") // a copy of the table, which stands for it
  const others = [...stored.keys()].filter((name) => !known.has(name) && !IGNORED.test(name))
  if (others.length === 0) return
  throw new UnsupportedError(`${place}: tensors that ${arch} does not have: ${some(others)}`)
}

function expectedTensors(shape: CheckpointShape): Expected[] {
  const { nLayers, dim, nVocab, isTied } = shape
  const table = { name: "token_embd.weight", source: "model.embed_tokens.weight", shape: [nVocab, dim] }
  const norm = { name: "output_norm.weight", source: "model.norm.weight", shape: [dim] }
  const layers = Array.from({ length: nLayers }, (_, l) => layerTensors(shape, l)).flat()
  if (isTied === true) return [table, ...layers, norm]
  const isOptional = isTied === undefined
  const output = { name: "output.weight", source: "lm_head.weight", shape: [nVocab, dim], isOptional }
  return [table, ...layers, norm, output]
}

function layerTensors({ arch, dim, nHeads, nKvHeads, headDim, nFfn }: CheckpointShape, layer: number): Expected[] {
  const [qRows, kvRows] = [nHeads * headDim, nKvHeads * headDim]
  const tensors: Expected[] = []
  const vector = (name: string, source: string, n = dim, more: Partial<Expected> = {}) => {
    tensors.push({ name: `blk.${layer}.${name}`, source: `model.layers.${layer}.${source}`, shape: [n], ...more })
  }
  const matrix = (name: string, source: string, rows: number, cols: number, nPermutedHeads = 0) => {
    const shape = [rows, cols]
    const [from, to] = [`model.layers.${layer}.${source}.weight`, `blk.${layer}.${name}.weight`]
    tensors.push({ name: to, source: from, shape, nPermutedHeads })
  }
  const bias = (name: string, source: string, rows: number, nPermutedHeads = 0) => {
    vector(`${name}.bias`, `${source}.bias`, rows, { isOptional: true, nPermutedHeads })
  }
  // transformers turns the halves of a head against each other, GGUF's llama its neighbours.
  const permuted = (heads: number) => (arch === "llama" ? heads : 0)
  vector("attn_norm.weight", "input_layernorm.weight")
  if (arch === "phi3") {
    matrix("attn_qkv", "self_attn.qkv_proj", qRows + 2 * kvRows, dim)
  } else {
    matrix("attn_q", "self_attn.q_proj", qRows, dim, permuted(nHeads))
    bias("attn_q", "self_attn.q_proj", qRows, permuted(nHeads))
    matrix("attn_k", "self_attn.k_proj", kvRows, dim, permuted(nKvHeads))
    bias("attn_k", "self_attn.k_proj", kvRows, permuted(nKvHeads))
    matrix("attn_v", "self_attn.v_proj", kvRows, dim)
    bias("attn_v", "self_attn.v_proj", kvRows)
  }
  if (arch === "qwen3") {
    vector("attn_q_norm.weight", "self_attn.q_norm.weight", headDim)
    vector("attn_k_norm.weight", "self_attn.k_norm.weight", headDim)
  }
  matrix("attn_output", "self_attn.o_proj", dim, qRows)
  if (arch !== "phi3") bias("attn_output", "self_attn.o_proj", dim)
  vector("ffn_norm.weight", "post_attention_layernorm.weight")
  if (arch === "phi3") {
    matrix("ffn_up", "mlp.gate_up_proj", 2 * nFfn, dim)
  } else {
    matrix("ffn_gate", "mlp.gate_proj", nFfn, dim)
    matrix("ffn_up", "mlp.up_proj", nFfn, dim)
  }
  matrix("ffn_down", "mlp.down_proj", dim, nFfn)
  if (arch === "llama") bias("ffn_down", "mlp.down_proj", dim)
  return tensors
}
