// Rotary positions: what metadata says of them, and the frequencies that follow. An architecture says which values of a
// head turn together.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { GraphBuilder } from "../graph.ts"
import type { Tensor } from "../tensors.ts"
import type { Metadata, ModelConfig } from "./config.ts"

/** YaRN (Peng et al. 2023): pairs that turn often within the original context keep their frequency, those that turn seldom
 * are slowed down by `factor`, and between the two it goes over evenly. */
export interface Yarn {
  readonly factor: number
  readonly nCtxOriginal: number
  /** Turns within the original context: pairs with more of them keep their frequency. */
  readonly betaFast: number
  /** Pairs with fewer are slowed down by the whole factor. */
  readonly betaSlow: number
}

type RopeConfig = Pick<ModelConfig, "ropeBase" | "ropeScale" | "ropeMagnitude" | "yarn">

/** Base and scaling. */
export function ropeConfig(m: Metadata): RopeConfig {
  const ropeBase = m.number("rope.freq_base", 1, 1e12, 10000)
  const ropeMagnitude = m.number("rope.scaling.attn_factor", 1e-6, 1e6, 1)
  const type = m.string("rope.scaling.type", "linear")
  switch (type) {
    case "none":
      return { ropeBase, ropeScale: 1, ropeMagnitude }
    case "linear":
    case "longrope":
      // As files say it, and old files said it.
      return { ropeBase, ropeScale: scalingFactor(m, m.number("rope.scale_linear", 1e-3, 1e6, 1)), ropeMagnitude }
    case "yarn":
      return yarnConfig(m, ropeBase, ropeMagnitude)
    default:
      throw new UnsupportedError(
        `${m.arch}.rope.scaling.type ${type} is not supported; known: none, linear, longrope, yarn`,
      )
  }
}

function scalingFactor(m: Metadata, fallback?: number): number {
  return m.number("rope.scaling.factor", 1e-3, 1e6, fallback)
}

/** Attention over longer contexts is sharpened by 1 + ln(factor) / 10, whatever yarn_attn_factor says: so in llama.cpp and,
 * where a configuration has no factor of its own, in transformers. */
function yarnConfig(m: Metadata, ropeBase: number, magnitude: number): RopeConfig {
  if (m.get("rope.scaling.yarn_log_multiplier") !== undefined) {
    throw new UnsupportedError(`${m.arch}.rope.scaling.yarn_log_multiplier is not supported`)
  }
  const factor = scalingFactor(m)
  const yarn = {
    factor,
    nCtxOriginal: m.integer(
      "rope.scaling.original_context_length",
      1,
      2 ** 30,
      m.integer("context_length", 1, 2 ** 30),
    ),
    betaFast: m.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32),
    betaSlow: m.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1),
  }
  return { ropeBase, ropeScale: 1, ropeMagnitude: magnitude * (1 + 0.1 * Math.log(factor)), yarn }
}

/** A divisor of each pair's frequency. Source: ggml_rope_yarn_corr_dims and rope_yarn_ramp of ggml-org/ggml, and
 * _compute_yarn_parameters of transformers. */
function yarnDivisors({ factor, nCtxOriginal, betaFast, betaSlow }: Yarn, base: number, nRot: number): Float32Array {
  const pairOf = (turns: number) => (nRot * Math.log(nCtxOriginal / (turns * 2 * Math.PI))) / (2 * Math.log(base))
  const first = Math.max(0, Math.floor(pairOf(betaFast)))
  const last = Math.min(nRot - 1, Math.ceil(pairOf(betaSlow)))
  return Float32Array.from({ length: nRot / 2 }, (_, j) => {
    const slowed = Math.min(1, Math.max(0, (j - first) / Math.max(0.001, last - first)))
    return 1 / (slowed / factor + 1 - slowed)
  })
}

/** A divisor for each rotated pair, from which longer contexts follow. Llama 3 has one set of them, Phi-3 one for contexts
 * up to nCtxOriginal and another one beyond. */
function ropeDivisors(g: GraphBuilder, c: ModelConfig): Float32Array | undefined {
  const read = (set: string) => {
    const name = `rope_${set}.weight`
    const divisors = g.weights.values(name, c.nRot / 2)
    const wrong = divisors.findIndex((divisor) => !(divisor > 0) || !Number.isFinite(divisor))
    if (wrong < 0) return divisors
    throw new FormatError(`${name}: factor ${wrong} is ${divisors[wrong]}, a positive number is needed`)
  }
  if (c.yarn !== undefined) return yarnDivisors(c.yarn, c.ropeBase, c.nRot)
  if (c.nCtxOriginal === undefined) return g.weights.has("rope_freqs.weight") ? read("freqs") : undefined
  const [short, long] = [read("factors_short"), read("factors_long")]
  return g.limits.nCtx > c.nCtxOriginal ? long : short
}

/** Radians per token of each of n rotated pairs. */
function ropeFrequencies(n: number, base: number, scale: number, divisors?: Float32Array): Float32Array {
  return Float32Array.from({ length: n }, (_, j) => base ** (-j / n) / ((divisors?.[j] ?? 1) * scale))
}

/** Cosines and sines, (tokens, nRot), as a layer takes them. */
export function ropeTables(g: GraphBuilder, c: ModelConfig): (layer: number) => Tensor {
  const n = c.nRot / 2
  const frequencies = ropeFrequencies(n, c.ropeBase, c.ropeScale, ropeDivisors(g, c))
  const table = g.ropeTable("rope_frequencies", frequencies, c.ropeMagnitude)
  if (c.ropeBaseLocal === undefined) return () => table
  const local = g.ropeTable("rope_frequencies_local", ropeFrequencies(n, c.ropeBaseLocal, 1), c.ropeMagnitude)
  return (layer) => (c.windows[layer]! > 0 ? local : table)
}
