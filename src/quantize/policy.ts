// Which type each tensor of a model gets: llama.cpp's mixtures as a table of rules, the types that a row's length forces,
// and what a caller asks for by name. Reads names and shapes, never data.
// Source of the mixtures: llama.cpp, src/llama-quant.cpp; test/conformance/quantize compares with its own snapshots.

import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"
import { rowLength, type TensorSource } from "./source.ts"
import { MIXTURES, type MixtureName } from "./types.ts"

export interface Override {
  /** Searched in tensors' names. */
  readonly pattern: RegExp
  readonly type: TensorTypeName
}

export interface PolicyOptions {
  readonly mixture: MixtureName
  /** The mixture's type for every matrix. */
  readonly isPure?: boolean
  /** The first whose pattern is found decides; before every rule but that of a row's length. */
  readonly overrides?: readonly Override[]
  /** 4.5 bits a weight, and 3.4 in the second matrix of feed-forward nets, whatever the mixture. */
  readonly forDraft?: boolean
  readonly hasImportance?: boolean
}

type Shaped = Pick<TensorSource, "name" | "type" | "shape">

/** What rules ask of a model. */
interface Facts {
  readonly nLayers: number
  readonly nExperts: number
  readonly isTied: boolean
  /** 80 layers with grouped heads: values are an eighth of queries, and a bit more for them costs little. */
  readonly is70B: boolean
  /** Of tensors that make values, by name: their places in the order of layers. */
  readonly valueOrder: ReadonlyMap<string, number>
}

/** The type of every tensor, in their order. */
export function planTypes(
  tensors: readonly Shaped[],
  metadata: ReadonlyMap<string, MetadataValue>,
  options: PolicyOptions,
): TensorTypeName[] {
  const facts = factsOf(tensors, metadata)
  return tensors.map((tensor) => (isQuantised(tensor) ? typeOf(tensor, facts, options) : tensor.type))
}

/** Vectors, and small matrices on which much hangs, stay as they are. */
export function isQuantised({ name, shape }: Shaped): boolean {
  const isMatrix = shape.length > 1 && shape.slice(1).some((size) => size > 1)
  return isMatrix && name.endsWith("weight") && !/_norm\.weight|ffn_gate_inp\.weight/.test(name)
}

function factsOf(tensors: readonly Shaped[], metadata: ReadonlyMap<string, MetadataValue>): Facts {
  const arch = String(metadata.get("general.architecture"))
  const count = (key: string) => Number(metadata.get(`${arch}.${key}`) ?? 0)
  const nLayers = count("block_count")
  const isGrouped =
    count("attention.head_count") !== (count("attention.head_count_kv") || count("attention.head_count"))
  const values = tensors.filter(({ name }) => makesValues(name)).sort((a, b) => layerOf(a.name) - layerOf(b.name))
  return {
    nLayers,
    nExperts: count("expert_count"),
    isTied: !tensors.some(({ name }) => name === "output.weight"),
    is70B: nLayers === 80 && (arch === "qwen2" || (arch === "llama" && isGrouped)),
    valueOrder: new Map(values.map(({ name }, i) => [name, i])),
  }
}

function layerOf(name: string): number {
  return Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? 0)
}

function makesValues(name: string): boolean {
  return /attn_(v|qkv|kv_b)\.weight/.test(name)
}

function typeOf(tensor: Shaped, facts: Facts, options: PolicyOptions): TensorTypeName {
  const override = options.overrides?.find(({ pattern }) => pattern.test(tensor.name))
  if (override !== undefined) return fitting(tensor, override.type)
  if (options.forDraft) return draftType(tensor)
  const { base } = MIXTURES[options.mixture]
  const isFloat = TENSOR_TYPES[base].block === 1
  return fitting(tensor, isFloat || options.isPure ? base : mixedType(tensor, facts, options))
}

/** The layers that mixtures of medium size give more bits: the first and the last eighth, and every third between. */
function isMiddling(layer: number, nLayers: number): boolean {
  const eighth = Math.floor(nLayers / 8)
  return layer < eighth || layer >= Math.floor((7 * nLayers) / 8) || (layer - eighth) % 3 === 2
}

function mixedType(tensor: Shaped, facts: Facts, { mixture, hasImportance }: PolicyOptions): TensorTypeName {
  const { name } = tensor
  const { base } = MIXTURES[mixture]
  if (name === "output.weight" || (facts.isTied && name === "token_embd.weight")) return outputType(tensor, base)
  if (makesValues(name)) return valueType(name, facts, mixture)
  if (facts.nExperts === 8 && name.includes("attn_k.weight")) return "Q8_0"
  if (name.includes("attn_output.weight") && facts.nExperts === 8 && /^Q4_K/.test(mixture)) return "Q5_K"
  return name.includes("ffn_down") ? downType(name, facts, mixture, hasImportance === true) : base
}

function outputType(tensor: Shaped, base: TensorTypeName): TensorTypeName {
  return base === "Q8_0" || rowLength(tensor) % TENSOR_TYPES[base].block !== 0 ? "Q8_0" : "Q6_K"
}

function valueType(name: string, facts: Facts, mixture: MixtureName): TensorTypeName {
  if (facts.nExperts === 8) return "Q8_0"
  const order = facts.valueOrder.get(name)!
  const isMedium = mixture === "Q4_K_M" || mixture === "Q5_K_M"
  let type: TensorTypeName = MIXTURES[mixture].base
  if (isMedium && isMiddling(order, facts.valueOrder.size)) type = "Q6_K"
  else if (mixture === "Q4_K_S" && order < 4) type = "Q5_K"
  return facts.is70B && type === "Q4_K" ? "Q5_K" : type
}

function downType(name: string, { nLayers }: Facts, mixture: MixtureName, hasImportance: boolean): TensorTypeName {
  const layer = layerOf(name)
  const isFirst = layer < Math.floor(nLayers / 8)
  const isMedium = mixture === "Q4_K_M" || mixture === "Q5_K_M"
  if (isMedium && isMiddling(layer, nLayers)) return "Q6_K"
  if (mixture === "Q4_K_S" && isFirst) return "Q5_K"
  if (mixture === "Q4_0" && hasImportance && isFirst) return "Q4_1"
  if (mixture === "Q5_0" && hasImportance && isFirst) return "Q5_1"
  return MIXTURES[mixture].base
}

/** What takes the place of a type whose blocks do not divide a row. */
const FALLBACKS: Partial<Record<TensorTypeName, TensorTypeName>> = { Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" }

function fitting(tensor: Shaped, type: TensorTypeName): TensorTypeName {
  const fits = (candidate: TensorTypeName) => rowLength(tensor) % TENSOR_TYPES[candidate].block === 0
  if (fits(type)) return type
  const fallback = FALLBACKS[type]
  return fallback !== undefined && fits(fallback) ? fallback : "F16"
}

/** 4.5 bits where 32 divides a row, and 3.4 for ffn_down where 256 does: a step of Qwen2.5-Coder-0.5B is 0.21 of a pass of
 * the 1.5B instead of 0.24 (2 threads of Zen 3), of its drafts of two tokens 85, 83, 80 and 62 % are accepted in math,
 * coding, extraction and stem instead of 88, 84, 81 and 61 (bench/speculative.ts, 4 prompts of each, seen once). */
function draftType(tensor: Shaped): TensorTypeName {
  if (rowLength(tensor) % 256 !== 0) return fitting(tensor, "IQ4_NL")
  return tensor.name.includes("ffn_down") ? "Q3_K" : "Q4_K"
}
