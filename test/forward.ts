// The architectures llama, qwen2, qwen3, qwen3moe, phi3 and gemma3 in float64, formula by formula, and how far the
// engine's number formats may lead away from it.
//
// The oracle of whole models: it shares the GGUF reader and dequantize() with the engine and nothing else. Every value
// carries the variance of what the engine adds to it. Three things do: a matrix input is rounded to int8 (one step is
// max|x| / 127 of its block of 32 or 256, so its variance is step^2 / 12), keys and values are rounded to f16, and each
// float operation rounds its result (ROUNDING times the result squared). Variances go through linear maps by squared
// coefficients and through everything else by its slope: errors count as independent of each other, so this is an
// estimate (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"), not a worst case. The
// tests hold it to account in both directions: errors much smaller than it says are a failure as well.

import { readFileSync } from "node:fs"
import { dequantize } from "../src/gguf/dequantize.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { type GgufHeader, TENSOR_TYPES } from "../src/gguf/types.ts"

/** A vector with the variance of each element's error. */
export interface Moments {
  readonly values: Float64Array
  readonly variances: Float64Array
}

export interface ForwardResult {
  /** The residual stream after the last layer, before the output norm. */
  readonly hidden: Moments[] // (tokens) of dim
  readonly logits: Moments[] // (tokens) of vocabulary
}

/** Whose formats the variances are of. llama.cpp rounds the inputs of F16 and BF16 matrices to the matrix' own type, and,
 * where the cache is f16, queries and the weights of values too: ggml computes a product in its first operand's type. */
export type Engine = "asdsl" | "llama.cpp"

interface Matrix {
  readonly weights: Float32Array // (rows, cols)
  readonly rows: number
  readonly cols: number
  /** Inputs that share a scale when they are rounded to int8; 0: they stay floats. */
  readonly block: number
  /** Mantissa bits of its own elements where they are floats. */
  readonly mantissaBits: number
  /** Weights after which the engine rounds its running sum. */
  readonly run: number
}

// Mean square of a float32 rounding's relative error, over mantissas as they usually are: ulp^2 / 12 with a
// logarithmically even mantissa.
const ROUNDING = 0.18 * 2 ** -48
// Likewise of the engine's exp and tanh, whose relative errors stay below 2e-7 and 5e-7: simd_math.h.
const EXP = 1e-14
const TANH = 6e-14

/** What rounding to float32 takes from x, squared, in units of ROUNDING: nothing where x is a float. */
function lost(x: number): number {
  return Math.fround(x) === x ? 0 : x * x
}

function blank(n: number): Moments {
  return { values: new Float64Array(n), variances: new Float64Array(n) }
}

/** What storing x in a float format of so many mantissa bits adds; f16 ends at 2^-14. */
function storageVariance(x: number, mantissaBits: number): number {
  if (mantissaBits >= 23) return 0 // counted with the operation that made x
  const least = mantissaBits === 10 ? -14 : -126
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x) || 2 ** least)), least)
  return 2 ** (2 * (exponent - mantissaBits)) / 12
}

/** As a float format of so many mantissa bits keeps it. */
function stored(x: Moments, mantissaBits: number): Moments {
  if (mantissaBits >= 23) return x
  return { values: x.values, variances: x.variances.map((s, i) => s + storageVariance(x.values[i]!, mantissaBits)) }
}

/** x as a matrix takes it: float64 values stay, other formats show in the variance. */
function quantized(x: Moments, { block, mantissaBits }: Matrix, engine: Engine): Moments {
  if (block === 0) return engine === "asdsl" ? x : stored(x, mantissaBits)
  const variances = x.variances.slice()
  for (let begin = 0; begin < variances.length; begin += block) {
    const end = begin + block
    const largest = x.values.subarray(begin, end).reduce((max, value) => Math.max(max, Math.abs(value)), 0)
    for (let i = begin; i < end; i++) variances[i]! += (largest / 127) ** 2 / 12
  }
  return { values: x.values, variances }
}

/** W x (+ bias). */
function product(m: Matrix, input: Moments, engine: Engine, bias?: Float32Array): Moments {
  const x = quantized(input, m, engine)
  const y = blank(m.rows)
  for (let r = 0; r < m.rows; r++) {
    const at = r * m.cols
    let sum = 0
    let variance = 0
    let rounded = 0
    for (let i = 0; i < m.cols; i++) {
      const w = m.weights[at + i]!
      sum += w * x.values[i]!
      variance += w * w * x.variances[i]!
      if ((i + 1) % m.run === 0) rounded += lost(sum)
    }
    y.values[r] = sum + (bias?.[r] ?? 0)
    if (bias !== undefined) rounded += lost(y.values[r]!)
    y.variances[r] = variance + ROUNDING * rounded
  }
  return y
}

function sum(a: Moments, b: Moments): Moments {
  const values = a.values.map((x, i) => x + b.values[i]!)
  return { values, variances: a.variances.map((s, i) => s + b.variances[i]! + ROUNDING * lost(values[i]!)) }
}

/** x / sqrt(mean(x^2) + eps) * weight */
function rmsNorm(x: Moments, weight: Float32Array, eps: number): Moments {
  const n = x.values.length
  const scale = 1 / Math.sqrt(x.values.reduce((a, b) => a + b * b, 0) / n + eps)
  const values = x.values.map((v, i) => v * scale * weight[i]!)
  // dy_i = w_i scale (dx_i - x_i scale^2 mean(x dx))
  const common = x.values.reduce((a, v, i) => a + v * v * x.variances[i]!, 0) * (scale ** 2 / n) ** 2
  const variances = x.variances.map((s, i) => {
    const own = s * (1 - (2 * (x.values[i]! * scale) ** 2) / n)
    return (weight[i]! * scale) ** 2 * (Math.max(own, 0) + x.values[i]! ** 2 * common) + 4 * ROUNDING * values[i]! ** 2
  })
  return { values, variances }
}

/** A gate's function, its slope, and the variance of what the engine adds to it. */
interface Gate {
  value: number
  slope: number
  variance: number
}

function silu(x: number): Gate {
  const sigmoid = 1 / (1 + Math.exp(-x))
  const value = x * sigmoid
  return { value, slope: sigmoid * (1 + x * (1 - sigmoid)), variance: (EXP + 2 * ROUNDING) * value ** 2 }
}

/** In its tanh form. llama.cpp looks it up by x as an f16 in a table of f16 (ggml_table_gelu_f16). */
function gelu(engine: Engine): (x: number) => Gate {
  const [a, b] = [Math.sqrt(2 / Math.PI), 0.044715]
  return (x) => {
    const tanh = Math.tanh(a * (x + b * x ** 3))
    const value = 0.5 * x * (1 + tanh)
    const slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * a * (1 + 3 * b * x * x)
    const looked = slope ** 2 * storageVariance(x, 10) + storageVariance(value, 10)
    return { value, slope, variance: engine === "asdsl" ? (EXP + 3 * ROUNDING) * value ** 2 : looked }
  }
}

/** f(g) * u */
function gated(g: Moments, u: Moments, f: (x: number) => Gate): Moments {
  const out = blank(g.values.length)
  for (let i = 0; i < out.values.length; i++) {
    const { value, slope, variance } = f(g.values[i]!)
    const y = u.values[i]!
    out.values[i] = value * y
    out.variances[i] =
      y ** 2 * (slope ** 2 * g.variances[i]! + variance) + value ** 2 * u.variances[i]! + ROUNDING * out.values[i]! ** 2
  }
  return out
}

/** cap * tanh(x / cap) */
function softcapped(x: Moments, cap: number): Moments {
  if (cap === 0) return x
  const out = blank(x.values.length)
  for (const [i, value] of x.values.entries()) {
    const tanh = Math.tanh(value / cap)
    out.values[i] = cap * tanh
    out.variances[i] = x.variances[i]! * (1 - tanh * tanh) ** 2 + (TANH + 2 * ROUNDING) * out.values[i]! ** 2
  }
  return out
}

/** How far apart the last expert that is chosen and the first that is not have to be, in standard deviations of the error
 * of their difference, for the choice to be the same in every engine. */
const CLEAR_CHOICE = 6

/** The nUsed experts with the largest logits. Which they are must not hang on rounding: a choice that does is an error of
 * whoever made the model, for nothing can be compared with it. */
function chosen(logits: Moments, nUsed: number): number[] {
  const { values, variances } = logits
  const order = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!)
  const [last, next] = [order[nUsed - 1]!, order[nUsed]]
  if (next !== undefined) {
    const gap = (values[last]! - values[next]!) / Math.sqrt(variances[last]! + variances[next]!)
    if (!(gap > CLEAR_CHOICE)) {
      throw new Error(`experts ${last} and ${next} are ${gap.toFixed(1)} deviations apart: take another seed`)
    }
  }
  return order.slice(0, nUsed)
}

/** Sum of the chosen experts' results by their part in a softmax over the `among`. An error of a logit moves the sum
 * towards or away from what its expert made, as in attention. */
function mixed(logits: Moments, among: readonly number[], scale: number, made: ReadonlyMap<number, Moments>): Moments {
  const max = among.reduce((a, e) => Math.max(a, logits.values[e]!), -Infinity)
  const sizes = among.map((e) => Math.exp(logits.values[e]! - max))
  const total = sizes.reduce((a, b) => a + b)
  const cols = made.values().next().value!.values.length
  const out = blank(cols)
  for (let i = 0; i < cols; i++) {
    let mean = 0
    let rounded = 0
    for (const [j, e] of among.entries()) {
      mean += (sizes[j]! / total) * (made.get(e)?.values[i] ?? 0)
      rounded += lost(mean)
    }
    let variance = ROUNDING * (rounded + (4 + among.length / 16) * mean * mean)
    for (const [j, e] of among.entries()) {
      const relative = logits.variances[e]! + ROUNDING * lost(logits.values[e]! - max) + EXP
      const [value, own] = [made.get(e)?.values[i] ?? 0, made.get(e)?.variances[i] ?? 0]
      variance += (sizes[j]! / total) ** 2 * (relative * (value - mean) ** 2 + own)
    }
    out.values[i] = scale * mean
    out.variances[i] = scale * scale * variance
  }
  return out
}

/** The norm of each head by itself. */
function headNorms(x: Moments, weight: Float32Array, eps: number): Moments {
  const out = blank(x.values.length)
  for (let at = 0; at < x.values.length; at += weight.length) {
    const end = at + weight.length
    const head = { values: x.values.subarray(at, end), variances: x.variances.subarray(at, end) }
    const normed = rmsNorm(head, weight, eps)
    out.values.set(normed.values, at)
    out.variances.set(normed.variances, at)
  }
  return out
}

interface Rotation {
  /** Which dimensions of a head turn together. */
  readonly pairs: "neighbours" | "halves"
  /** Radians per token of each pair; the format that the engine keeps them in is float32. */
  readonly frequencies: Float64Array
  /** What turns is multiplied by it too. */
  readonly magnitude: number
}

/** Turns pairs of the first 2 * frequencies.length dimensions of each head by position * frequency. */
function rotated(x: Moments, headDim: number, position: number, rotation: Rotation): Moments {
  const { frequencies, magnitude, pairs } = rotation
  const out = { values: x.values.slice(), variances: x.variances.slice() }
  for (let head = 0; head < x.values.length; head += headDim) {
    for (const [j, frequency] of frequencies.entries()) {
      const [first, second] = pairs === "neighbours" ? [2 * j, 2 * j + 1] : [j, j + frequencies.length]
      const [a, b] = [head + first, head + second]
      const [cos, sin] = [Math.cos, Math.sin].map((f) => magnitude * f(position * frequency)) as [number, number]
      const [u, v] = [x.values[a]!, x.values[b]!]
      const [su, sv] = [x.variances[a]!, x.variances[b]!]
      out.values[a] = u * cos - v * sin
      out.values[b] = u * sin + v * cos
      const rounded = 2 * ROUNDING * magnitude ** 2 * (u * u + v * v)
      out.variances[a] = su * cos ** 2 + sv * sin ** 2 + rounded
      out.variances[b] = su * sin ** 2 + sv * cos ** 2 + rounded
    }
  }
  return out
}

/** What a head attends to: the keys and values of some positions, its own part of each beginning at `at`. */
export interface Attended {
  readonly keys: readonly Moments[]
  readonly values: readonly Moments[]
  readonly at: number
  readonly headDim: number
  readonly scale: number
  /** scores = softcap * tanh(score / softcap); absent or 0: as they are. */
  readonly softcap?: number
  /** Mantissa bits of the weights that values are multiplied with; absent: float32. */
  readonly weightBits?: number
}

function scoresOf(q: Moments, qAt: number, { keys, at, headDim, scale, softcap = 0 }: Attended): Moments {
  const scores = blank(keys.length)
  for (const [j, k] of keys.entries()) {
    let sum = 0
    let variance = 0
    let rounded = 0
    for (let i = 0; i < headDim; i++) {
      const [a, b] = [q.values[qAt + i]!, k.values[at + i]!]
      sum += a * b
      variance += a * a * k.variances[at + i]! + b * b * q.variances[qAt + i]!
      rounded += lost(sum)
    }
    scores.values[j] = sum * scale
    scores.variances[j] = scale ** 2 * (variance + ROUNDING * rounded) + ROUNDING * lost(sum * scale)
  }
  return softcapped(scores, softcap)
}

/** softmax(scale * q k) v of the query head that begins at qAt. */
export function attendHead(q: Moments, qAt: number, attended: Attended): Moments {
  const { values, at, headDim, weightBits = 23 } = attended
  const scores = scoresOf(q, qAt, attended)
  const n = values.length
  const max = scores.values.reduce((a, b) => Math.max(a, b))
  const weights = scores.values.map((score) => Math.exp(score - max))
  const total = weights.reduce((a, b) => a + b)
  // Of a weight, relative: its score, the difference from the largest one, exp.
  const relative = scores.variances.map((s, j) => s + ROUNDING * lost(scores.values[j]! - max) + EXP)
  const stored = weights.map((weight) => storageVariance(weight / total, weightBits))
  const out = blank(headDim)
  for (let i = 0; i < headDim; i++) {
    let sum = 0
    let rounded = 0
    for (let j = 0; j < n; j++) {
      sum += (weights[j]! / total) * values[j]!.values[at + i]!
      rounded += lost(sum)
    }
    let variance = ROUNDING * (rounded + (4 + n / 32) * sum * sum)
    for (let j = 0; j < n; j++) {
      const share = (weights[j]! / total) ** 2
      const value = values[j]!.values[at + i]!
      variance += share * (relative[j]! * (value - sum) ** 2 + values[j]!.variances[at + i]!) + stored[j]! * value ** 2
    }
    out.values[i] = sum
    out.variances[i] = variance
  }
  return out
}

export class Forward {
  readonly #header: GgufHeader
  readonly #file: Uint8Array
  readonly #tensors = new Map<string, Float32Array>()
  readonly nLayers: number
  readonly nVocab: number
  readonly #nHeads: number
  readonly #nKvHeads: number
  readonly #headDim: number
  readonly #eps: number
  readonly #engine: Engine
  readonly #arch: string
  readonly #nCtx: number
  /** Sees what each matrix of a tensor, or of one of its experts, takes. */
  onInput: ((tensor: string, expert: number, input: Moments) => void) | undefined

  /** nCtx: the context that the cache is made for; absent: the model's. */
  constructor(path: string, engine: Engine = "asdsl", nCtx?: number) {
    this.#engine = engine
    this.#header = readGguf(path)
    this.#file = readFileSync(path)
    this.#arch = String(this.#header.metadata.get("general.architecture"))
    const dim = this.#number("embedding_length")
    this.nLayers = this.#number("block_count")
    this.#nHeads = this.#number("attention.head_count")
    this.#nKvHeads = this.#number("attention.head_count_kv", this.#nHeads)
    this.#headDim = this.#number("attention.key_length", dim / this.#nHeads)
    this.#eps = this.#number("attention.layer_norm_rms_epsilon")
    this.#nCtx = nCtx ?? this.#number("context_length")
    this.nVocab = this.#header.tensors.get("token_embd.weight")!.shape[1]!
  }

  #number(key: string, fallback?: number): number {
    const value = this.#header.metadata.get(`${this.#arch}.${key}`) ?? fallback
    if (typeof value !== "number") throw new Error(`${this.#arch}.${key} is ${value}`)
    return value
  }

  #has(name: string): boolean {
    return this.#header.tensors.has(name)
  }

  #vector(name: string): Float32Array {
    let values = this.#tensors.get(name)
    if (values === undefined) {
      const { type, shape, offset, bytes } = this.#header.tensors.get(name)!
      values = dequantize(
        type,
        this.#file.subarray(offset, offset + bytes),
        shape.reduce((a, b) => a * b, 1),
      )
      this.#tensors.set(name, values)
    }
    return values
  }

  /** A matrix, or that of one expert. */
  #matrix(name: string, expert = 0): Matrix {
    const { type, shape } = this.#header.tensors.get(name)!
    const [cols, rows] = [shape[0]!, shape[1]!]
    const weights = this.#vector(name).subarray(expert * rows * cols, (expert + 1) * rows * cols)
    const run = Object.values(TENSOR_TYPES).find(({ id }) => id === type)!.block
    const mantissaBits = type === TENSOR_TYPES.F16.id ? 10 : type === TENSOR_TYPES.BF16.id ? 7 : 23
    return { weights, rows, cols, block: run === 1 ? 0 : run, mantissaBits, run }
  }

  #linear(name: string, x: Moments): Moments {
    const bias = this.#has(`${name}.bias`) ? this.#vector(`${name}.bias`) : undefined
    const matrix = this.#matrix(`${name}.weight`)
    this.onInput?.(`${name}.weight`, 0, quantized(x, matrix, this.#engine))
    return product(matrix, x, this.#engine, bias)
  }

  /** The same for rows [first, first + rows) of a tensor. */
  #someRows(name: string, first: number, rows: number, x: Moments): Moments {
    const whole = this.#matrix(`${name}.weight`)
    const weights = whole.weights.subarray(first * whole.cols, (first + rows) * whole.cols)
    if (first === 0) this.onInput?.(`${name}.weight`, 0, quantized(x, whole, this.#engine))
    return product({ ...whole, weights, rows }, x, this.#engine)
  }

  #ropeFactors(): Float32Array | undefined {
    if (this.#has("rope_freqs.weight")) return this.#vector("rope_freqs.weight")
    if (!this.#has("rope_factors_long.weight")) return undefined
    const isLong = this.#nCtx > this.#number("rope.scaling.original_context_length")
    return this.#vector(`rope_factors_${isLong ? "long" : "short"}.weight`)
  }

  /** Keys that a layer sees. gemma3's every sixth layer sees all, where the file says nothing else. */
  #window(layer: number): number {
    const window = this.#number("attention.sliding_window", 0) || Number.MAX_SAFE_INTEGER
    if (this.#arch !== "gemma3") return window
    const flags = this.#header.metadata.get("gemma3.attention.sliding_window_pattern")
    const isGlobal =
      flags instanceof Uint8Array ? flags[layer] === 0 : layer % Number(flags ?? 6) === Number(flags ?? 6) - 1
    return isGlobal ? Number.MAX_SAFE_INTEGER : window
  }

  #rotation(layer: number): Rotation {
    const nRot = this.#number("rope.dimension_count", this.#headDim)
    const isLocal = this.#arch === "gemma3" && this.#window(layer) < Number.MAX_SAFE_INTEGER
    const base = isLocal ? this.#number("rope.freq_base_swa", 10000) : this.#number("rope.freq_base", 10000)
    const isLinear = this.#header.metadata.get(`${this.#arch}.rope.scaling.type`) === "linear" && !isLocal
    const stretch = isLinear ? this.#number("rope.scaling.factor") : 1
    const factors = this.#ropeFactors()
    return {
      pairs: this.#arch === "llama" ? "neighbours" : "halves",
      frequencies: Float64Array.from({ length: nRot / 2 }, (_, j) =>
        Math.fround(base ** ((-2 * j) / nRot) / stretch / (factors?.[j] ?? 1)),
      ),
      magnitude: this.#number("rope.scaling.attn_factor", 1),
    }
  }

  /** Queries, keys or values of a layer: matrices of their own, or rows of one, in this order. */
  #projected(name: "q" | "k" | "v", prefix: string, h: Moments): Moments {
    if (!this.#has(`${prefix}_qkv.weight`)) return this.#linear(`${prefix}_${name}`, h)
    const [q, kv] = [this.#nHeads * this.#headDim, this.#nKvHeads * this.#headDim]
    const [first, rows] = { q: [0, q], k: [q, kv], v: [q + kv, kv] }[name] as [number, number]
    return this.#someRows(`${prefix}_qkv`, first, rows, h)
  }

  /** Of attention: one over the root of the heads' width, except for gemma3's 27 B, which has 62 layers. */
  #scale(): number {
    const is27B = this.#arch === "gemma3" && this.nLayers === 62
    return 1 / Math.sqrt(is27B ? this.#number("embedding_length") / this.#nHeads : this.#headDim)
  }

  /** x + y, or x + the norm of y where the layer has one. */
  #added(x: Moments, y: Moments, norm: string): Moments {
    return sum(x, this.#has(norm) ? rmsNorm(y, this.#vector(norm), this.#eps) : y)
  }

  /** Rows before `first` are given to the cache and come back as they are. */
  #attention(x: Moments[], layer: number, kvBits: number, first: number): Moments[] {
    const rotation = this.#rotation(layer)
    const weightBits = this.#engine === "asdsl" ? 23 : kvBits
    const prefix = `blk.${layer}.attn`
    const window = Math.min(this.#window(layer), x.length)
    const softcap = this.#number("attn_logit_softcapping", 0)
    const turned = (name: "q" | "k", h: Moments, position: number) => {
      const y = this.#projected(name, prefix, h)
      const norm = `${prefix}_${name}_norm.weight`
      const normed = this.#has(norm) ? headNorms(y, this.#vector(norm), this.#eps) : y
      return rotated(normed, this.#headDim, position, rotation)
    }
    const keys: Moments[] = []
    const values: Moments[] = []
    return x.map((row, t) => {
      const h = rmsNorm(row, this.#vector(`${prefix}_norm.weight`), this.#eps)
      keys.push(stored(turned("k", h, t), kvBits))
      values.push(stored(this.#projected("v", prefix, h), kvBits))
      if (t < first) return row
      const q = stored(turned("q", h, t), weightBits)
      const seen = { keys: keys.slice(-window), values: values.slice(-window) }
      const out = blank(this.#nHeads * this.#headDim)
      for (let head = 0; head < this.#nHeads; head++) {
        const at = Math.floor((head * this.#nKvHeads) / this.#nHeads) * this.#headDim
        const attended = { ...seen, at, headDim: this.#headDim, scale: this.#scale(), softcap, weightBits }
        const part = attendHead(q, head * this.#headDim, attended)
        out.values.set(part.values, head * this.#headDim)
        out.variances.set(part.variances, head * this.#headDim)
      }
      return this.#added(row, this.#linear(`${prefix}_output`, out), `blk.${layer}.post_attention_norm.weight`)
    })
  }

  #feedForward(row: Moments, layer: number): Moments {
    const prefix = `blk.${layer}.ffn`
    const f = rmsNorm(row, this.#vector(`${prefix}_norm.weight`), this.#eps)
    if (this.#has(`${prefix}_gate_inp.weight`)) return sum(row, this.#experts(f, prefix))
    const n = this.#number("feed_forward_length")
    const [gate, up] = this.#has(`${prefix}_gate.weight`)
      ? [this.#linear(`${prefix}_gate`, f), this.#linear(`${prefix}_up`, f)]
      : [this.#someRows(`${prefix}_up`, 0, n, f), this.#someRows(`${prefix}_up`, n, n, f)]
    const u = gated(gate, up, this.#arch === "gemma3" ? gelu(this.#engine) : silu)
    return this.#added(row, this.#linear(`${prefix}_down`, u), `blk.${layer}.post_ffw_norm.weight`)
  }

  #experts(f: Moments, prefix: string): Moments {
    const logits = this.#linear(`${prefix}_gate_inp`, f)
    const experts = chosen(logits, this.#number("expert_used_count"))
    const through = (part: string, x: Moments, e: number) => {
      const matrix = this.#matrix(`${prefix}_${part}_exps.weight`, e)
      this.onInput?.(`${prefix}_${part}_exps.weight`, e, quantized(x, matrix, this.#engine))
      return product(matrix, x, this.#engine)
    }
    const made = experts.map(
      (e) => [e, through("down", gated(through("gate", f, e), through("up", f, e), silu), e)] as const,
    )
    const isNormalised = this.#header.metadata.get(`${this.#arch}.expert_weights_norm`) !== false
    const among = isNormalised ? experts : Array.from(logits.values.keys())
    return mixed(logits, among, this.#number("expert_weights_scale", 1), new Map(made))
  }

  /** Tokens at positions 0, 1, 2 ... with a cache of the given type; results of the last `nWanted` of them. */
  run(tokens: readonly number[], typeKv: "f16" | "f32", nWanted = tokens.length): ForwardResult {
    const { weights, cols } = this.#matrix("token_embd.weight")
    const scale = this.#arch === "gemma3" ? Math.fround(Math.sqrt(cols)) : 1
    let x = tokens.map((token) => {
      const values = Float64Array.from(weights.subarray(token * cols, (token + 1) * cols), (w) => scale * w)
      return { values, variances: values.map((value) => ROUNDING * lost(value)) } as Moments
    })
    for (let layer = 0; layer < this.nLayers; layer++) {
      const first = layer === this.nLayers - 1 ? tokens.length - nWanted : 0
      const attended = this.#attention(x, layer, typeKv === "f16" ? 10 : 23, first).slice(first)
      x = attended.map((row) => this.#feedForward(row, layer))
    }
    const output = this.#matrix(this.#has("output.weight") ? "output.weight" : "token_embd.weight")
    const norm = this.#vector("output_norm.weight")
    const cap = this.#number("final_logit_softcapping", 0)
    const logits = x.map((row) => softcapped(product(output, rmsNorm(row, norm, this.#eps), this.#engine), cap))
    return { hidden: x, logits }
  }
}

/** log softmax */
export function logProbabilities(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits)
  const max = values.reduce((a, b) => Math.max(a, b))
  const total = Math.log(values.reduce((a, b) => a + Math.exp(b - max), 0)) + max
  return values.map((x) => x - total)
}
