// config.json as GGUF metadata: which family a checkpoint belongs to, its shape, and what of it a GGUF file can say.
// Keys and defaults are those of llama.cpp's conversion/ (base.py, llama.py, qwen.py, phi.py) and of the families'
// configuration classes in transformers.

import { UnsupportedError } from "../errors.ts"
import type { Entries } from "./entries.ts"
import type { Fields } from "./fields.ts"
import { addRope, type RopeTensor } from "./rope.ts"

export type FamilyName = "llama" | "qwen2" | "qwen3" | "phi3"

/** By config.json's `architectures`; transformers' `model_type` stands in where that is missing. */
const FAMILIES: readonly { arch: FamilyName; architecture: string; modelType: string }[] = [
  { arch: "llama", architecture: "LlamaForCausalLM", modelType: "llama" },
  { arch: "llama", architecture: "MistralForCausalLM", modelType: "mistral" },
  { arch: "qwen2", architecture: "Qwen2ForCausalLM", modelType: "qwen2" },
  { arch: "qwen3", architecture: "Qwen3ForCausalLM", modelType: "qwen3" },
  { arch: "phi3", architecture: "Phi3ForCausalLM", modelType: "phi3" },
]

/** What of a configuration the tensors are checked against. */
export interface CheckpointShape {
  readonly arch: FamilyName
  readonly nLayers: number
  readonly dim: number
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
  readonly nFfn: number
  readonly nVocab: number
  /** undefined: config.json does not say. */
  readonly isTied: boolean | undefined
}

export interface Configured {
  readonly shape: CheckpointShape
  /** Tensors that the configuration gives rise to. */
  readonly tensors: readonly RopeTensor[]
}

const MAX_SIZE = 2 ** 24
const MAX_LAYERS = 65536
const MAX_HEADS = 65536
const MAX_HEAD_DIM = 1024
const MAX_CONTEXT = 2 ** 30

/** Adds the metadata of the architecture. Throws UnsupportedError for what asdsl would compute differently, FormatError
 * for a configuration that contradicts itself. */
export function addConfig(entries: Entries, config: Fields, warn: (text: string) => void): Configured {
  refuseOthers(config)
  const arch = familyOf(config)
  const shape = shapeOf(arch, config)
  const { nLayers, dim, nHeads, nKvHeads, headDim, nFfn, nVocab } = shape
  const nCtx = contextLength(arch, config, warn)
  entries.string("general.architecture", arch)
  entries.u32(`${arch}.block_count`, nLayers)
  entries.u32(`${arch}.context_length`, nCtx)
  entries.u32(`${arch}.embedding_length`, dim)
  entries.u32(`${arch}.feed_forward_length`, nFfn)
  entries.u32(`${arch}.attention.head_count`, nHeads)
  entries.u32(`${arch}.attention.head_count_kv`, nKvHeads)
  if (config.has("head_dim") || arch === "llama" || arch === "qwen3") {
    entries.u32(`${arch}.attention.key_length`, headDim)
    entries.u32(`${arch}.attention.value_length`, headDim)
  }
  entries.f32(`${arch}.attention.layer_norm_rms_epsilon`, config.number("rms_norm_eps", 0, 1))
  if (arch === "llama") {
    entries.u32("llama.vocab_size", nVocab)
    entries.u32("llama.rope.dimension_count", headDim)
  }
  if (arch === "phi3") entries.u32("phi3.attention.sliding_window", config.integer("sliding_window", 0, MAX_CONTEXT, 0))
  return { shape, tensors: addRope(entries, config, shape, nCtx) }
}

function familyOf(config: Fields): FamilyName {
  const [architecture] = config.array("architectures") ?? []
  const modelType = config.string("model_type")
  const found = FAMILIES.find((family) =>
    architecture === undefined ? family.modelType === modelType : family.architecture === architecture,
  )
  if (found !== undefined) return found.arch
  const known = FAMILIES.map((family) => family.architecture).join(", ")
  throw new UnsupportedError(
    `${config.place}: architecture ${String(architecture ?? modelType)} cannot be converted; known: ${known}`,
  )
}

/** What a plain decoder of these families does not have. */
function refuseOthers(config: Fields): void {
  const refuse = (what: string): never => {
    throw new UnsupportedError(`${config.place}: ${what}`)
  }
  const quantization = config.object("quantization_config")
  if (quantization !== undefined) {
    refuse(
      `the weights are quantised (${quantization.string("quant_method") ?? "quantization_config"}); ` +
        "checkpoints of F32, F16 and BF16 are supported",
    )
  }
  const activation = config.string("hidden_act") ?? "silu"
  if (activation !== "silu" && activation !== "swish") refuse(`hidden_act ${activation} is not supported; known: silu`)
  if (config.boolean("mlp_bias") === true) refuse("mlp_bias is not supported")
  for (const type of config.array("layer_types") ?? []) {
    const isKnown = type === "full_attention" || type === "sliding_attention"
    if (!isKnown) refuse(`layers of type ${String(type)} are not supported; known: full_attention, sliding_attention`)
  }
}

function shapeOf(arch: FamilyName, config: Fields): CheckpointShape {
  const dim = config.integer("hidden_size", 1, MAX_SIZE)
  const nHeads = config.integer("num_attention_heads", 1, MAX_HEADS)
  const isQwen = arch === "qwen2" || arch === "qwen3" // whose defaults are sizes of one of their models
  const nKvHeads = config.integer("num_key_value_heads", 1, MAX_HEADS, isQwen ? undefined : nHeads)
  if (nHeads % nKvHeads !== 0) config.fail("num_key_value_heads", `a divisor of num_attention_heads, ${nHeads},`)
  const headDim = config.integer("head_dim", 2, MAX_HEAD_DIM, arch === "qwen3" ? 128 : dim / nHeads)
  if (headDim % 2 !== 0) config.fail("head_dim", `an even size of heads (it is ${headDim})`)
  return {
    arch,
    nLayers: config.integer("num_hidden_layers", 1, MAX_LAYERS),
    dim,
    nHeads,
    nKvHeads,
    headDim,
    nFfn: config.integer("intermediate_size", 1, MAX_SIZE),
    nVocab: config.integer("vocab_size", 1, MAX_SIZE),
    isTied: config.boolean("tie_word_embeddings"),
  }
}

/** Windows of llama and qwen checkpoints are not in their GGUF form: up to the window's length they make no difference. */
function contextLength(arch: FamilyName, config: Fields, warn: (text: string) => void): number {
  const nCtx = config.integer("max_position_embeddings", 1, MAX_CONTEXT)
  if (arch === "phi3" || !config.has("sliding_window") || config.boolean("use_sliding_window") === false) return nCtx
  const types = config.array("layer_types")
  if (types !== undefined && !types.includes("sliding_attention")) return nCtx
  const window = config.integer("sliding_window", 1, MAX_CONTEXT)
  if (window >= nCtx) return nCtx
  warn(`sliding_window ${window} is not supported: the context ends there, instead of at ${nCtx}`)
  return window
}
