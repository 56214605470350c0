// Rotary positions of config.json: base, scaling, and the tensors of factors that follow from them.
// Sources: llama.cpp's conversion/ (base.py set_gguf_parameters; llama.py and phi.py generate_extra_tensors) and
// transformers' modeling_rope_utils.py.

import { UnsupportedError } from "../errors.ts"
import type { CheckpointShape } from "./config.ts"
import type { Entries } from "./entries.ts"
import type { Fields } from "./fields.ts"

export interface RopeTensor {
  readonly name: string
  readonly values: Float32Array
}

const MAX_CONTEXT = 2 ** 30
const KNOWN = "default, linear, llama3, yarn, longrope (phi3)"

/** Adds base and scaling; returns rope_freqs or rope_factors where the scaling has them. */
export function addRope(entries: Entries, config: Fields, shape: CheckpointShape, nCtx: number): RopeTensor[] {
  const { arch, dim, nHeads, headDim } = shape
  const rope = ropeFields(config)
  const type = rope.string("rope_type") ?? rope.string("type") ?? "default"
  const base = rope.number("rope_theta", 1, 1e12, 10000)
  const part = rope.number("partial_rotary_factor", 0, 1, 1)
  if (rope.has("mrope_section") || rope.has("full_attention")) {
    throw new UnsupportedError(`${rope.place}: several sets of rotary positions are not supported`)
  }
  entries.f32(`${arch}.rope.freq_base`, base)
  if (arch === "phi3") {
    const nRot = Math.floor(Math.floor(part * dim) / nHeads)
    entries.u32("phi3.rope.dimension_count", nRot)
    return addPhi3(entries, rope, type, nRot, nCtx)
  }
  if (part !== 1) rope.fail("partial_rotary_factor", `1 (as ${arch} has it)`)
  switch (type) {
    case "default":
      return []
    case "linear":
      entries.string(`${arch}.rope.scaling.type`, "linear")
      entries.f32(`${arch}.rope.scaling.factor`, rope.number("factor", 1e-3, 1e6))
      return []
    case "llama3":
      return [{ name: "rope_freqs.weight", values: llama3Factors(rope, base, headDim) }]
    case "yarn":
      addYarn(entries, rope, arch, nCtx)
      return []
    default:
      throw unknownType(rope, type)
  }
}

function unknownType(rope: Fields, type: string): UnsupportedError {
  return new UnsupportedError(`${rope.place}: rope_type ${type} is not supported; known: ${KNOWN}`)
}

/** transformers 5 keeps everything in rope_parameters, older versions the scaling in rope_scaling and the rest outside. */
function ropeFields(config: Fields): Fields {
  const outer = Object.fromEntries(
    ["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"].map((key) => [key, config.get(key)]),
  )
  const inner = config.object("rope_parameters") ?? config.object("rope_scaling") ?? config.fresh("rope_scaling")
  return inner.or(config.fresh("rope_scaling", outer))
}

/** The divisor of each pair's frequency: 1 for short wavelengths, `factor` for those longer than the original context,
 * in between something between (transformers, _compute_llama3_parameters). Floats as torch has them. */
function llama3Factors(rope: Fields, base: number, headDim: number): Float32Array {
  const factor = rope.number("factor", 1e-3, 1e6, 8)
  const low = rope.number("low_freq_factor", 1e-6, 1e6, 1)
  const high = rope.number("high_freq_factor", 1e-6, 1e6, 4)
  if (high <= low) rope.fail("high_freq_factor", `a number above low_freq_factor, ${low},`)
  const nCtxOriginal = rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT, 8192)
  const { fround } = Math
  return Float32Array.from({ length: headDim / 2 }, (_, j) => {
    const frequency = fround(1 / fround(base ** fround((2 * j) / headDim)))
    const wavelength = fround((2 * Math.PI) / frequency)
    if (wavelength < nCtxOriginal / high) return 1
    if (wavelength > nCtxOriginal / low) return factor
    const smooth = fround(fround(fround(nCtxOriginal / wavelength) - low) / (high - low))
    return fround(1 / fround(fround(fround(1 - smooth) / factor) + smooth))
  })
}

function addYarn(entries: Entries, rope: Fields, arch: string, nCtx: number): void {
  const factor = rope.number("factor", 1, 1e6)
  const attentionFactor = rope.get("attention_factor") ?? rope.get("attn_factor")
  if (attentionFactor !== undefined && attentionFactor !== 0.1 * Math.log(factor) + 1) {
    // GGUF's factor multiplies this one, so its own meaning differs between writers.
    throw new UnsupportedError(`${rope.place}: an attention_factor of its own is not supported`)
  }
  for (const key of ["mscale", "mscale_all_dim", "extrapolation_factor"]) {
    if (rope.has(key)) throw new UnsupportedError(`${rope.place}: ${key} is not supported`)
  }
  if (rope.boolean("truncate") === false) throw new UnsupportedError(`${rope.place}: truncate = false is not supported`)
  entries.string(`${arch}.rope.scaling.type`, "yarn")
  entries.f32(`${arch}.rope.scaling.factor`, factor)
  const nCtxOriginal = rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT, nCtx)
  entries.u32(`${arch}.rope.scaling.original_context_length`, nCtxOriginal)
  for (const key of ["beta_fast", "beta_slow"]) {
    if (rope.has(key)) entries.f32(`${arch}.rope.scaling.yarn_${key}`, rope.number(key, 1e-3, 1e6))
  }
}

/** Two sets of divisors, for contexts up to the original length and for longer ones, and a factor for cosines and sines
 * that grows with the ratio of the lengths (transformers, _compute_longrope_parameters). */
function addPhi3(entries: Entries, rope: Fields, type: string, nRot: number, nCtx: number): RopeTensor[] {
  const nCtxOriginal = rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT, nCtx)
  entries.u32("phi3.rope.scaling.original_context_length", nCtxOriginal)
  if (type === "default") return []
  if (type !== "longrope" && type !== "su" && type !== "yarn") throw unknownType(rope, type)
  const factors = (key: string) => {
    const values = rope.array(key) ?? rope.fail(key, `an array of ${nRot / 2} numbers`)
    const isSound = values.every((value) => typeof value === "number" && value > 0)
    if (values.length !== nRot / 2 || !isSound) {
      rope.fail(key, `an array of ${nRot / 2} positive numbers (it has ${values.length})`)
    }
    return Float32Array.from(values as number[])
  }
  const scale = nCtx / nCtxOriginal
  const own = type === "yarn" ? 0.1 * Math.log(scale) + 1 : Math.sqrt(1 + Math.log(scale) / Math.log(nCtxOriginal))
  const magnitude = scale > 1 ? own : 1
  entries.f32("phi3.rope.scaling.attn_factor", rope.number("attention_factor", 1e-6, 1e6, magnitude))
  return [
    { name: "rope_factors_long.weight", values: factors("long_factor") },
    { name: "rope_factors_short.weight", values: factors("short_factor") },
  ]
}
