// What the tests of attention share: engines of every level, random rows, what a cache holds of them, and the comparison
// with float64 attention over that (attention-program.ts).
//
// q8_0 rounds by csrc/kernels/quantize.h's rule, repeated here in float32 steps, so that what is left to explain is the
// kernels' own rounding: of float32, and of weights to integers, the largest of 64 keys' being 255.

import { expect } from "bun:test"
import { Type } from "../src/native/abi.ts"
import { Engine, KvCache } from "../src/native/handles.ts"
import { AttentionProgram, type AttentionShape, expectRow, type Rows } from "./attention-program.ts"
import { LEVELS } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

export type Stored = "f16" | "f32" | "q8_0"
/** Types of keys and of values. */
export type Kinds = Stored | readonly [Stored, Stored]
const CODES = { f16: Type.F16, f32: Type.F32, q8_0: Type.Q8_0 } as const
const WEIGHT_MAX = 255
const BLOCK = 64 // tokens that share the unit of their weights
const { fround } = Math

/** One engine per level and number of threads. */
export const engines = LEVELS.flatMap((level) =>
  [1, 2].map((nThreads) => ({ name: `${level}, ${nThreads} threads`, engine: Engine.create({ level, nThreads }) })),
)
export const MAX_TOKENS = 64

const kindsOf = (kinds: Kinds): readonly [Stored, Stored] => (typeof kinds === "string" ? [kinds, kinds] : kinds)

export function cacheOf(shape: AttentionShape, capacity: number, kinds: Kinds, nLayers = 1): KvCache {
  const [k, v] = kindsOf(kinds)
  const { nKvHeads, headDim } = shape
  return KvCache.create({ nLayers, nKvHeads, headDim, capacity, typeK: CODES[k], typeV: CODES[v] })
}

/** Roughly normal values, scaled. */
function values(next: () => number, n: number, scale: number): Float32Array {
  return Float32Array.from({ length: n }, () => scale * (next() + next() + next() + next() - 2) * 1.7)
}

export function randomRows(shape: AttentionShape, n: number, seed: number, scale = 1): Rows {
  const next = random(seed)
  const { nHeads, nKvHeads, headDim } = shape
  return {
    n,
    q: values(next, n * nHeads * headDim, scale),
    k: values(next, n * nKvHeads * headDim, scale),
    v: values(next, n * nKvHeads * headDim, 1),
  }
}

/** Times the Hadamard matrix, not normalised, in blocks of the largest power of two in the row's length. */
function rotate(row: Float32Array): void {
  const n = row.length & -row.length
  for (let stride = 1; stride < n; stride *= 2) {
    for (let i = 0; i < row.length; i++) {
      if ((i & stride) !== 0) continue
      const [a, b] = [row[i]!, row[i + stride]!]
      row[i] = a + b
      row[i + stride] = a - b
    }
  }
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor
}

/** Rows of `dim` values as int8 and one scale each. */
function rounded(
  values: Float32Array,
  dim: number,
  isRotated: boolean,
): { values: Float32Array; scales: Float64Array } {
  const out = new Float32Array(values.length)
  const scales = new Float64Array(values.length / dim)
  for (let at = 0; at < values.length; at += dim) {
    const row = values.slice(at, at + dim)
    if (isRotated) rotate(row)
    const largest = row.reduce((a, b) => Math.max(a, Math.abs(b)), 0)
    const inverse = largest < 2 ** -100 ? 0 : fround(127 / largest)
    const scale = largest < 2 ** -100 ? 0 : fround(largest / 127)
    scales[at / dim] = scale
    for (let i = 0; i < dim; i++) out[at + i] = roundHalfEven(fround(row[i]! * inverse)) * scale
  }
  return { values: out, scales }
}

interface Held {
  shape: AttentionShape
  rows: Rows
  /** Of q8_0 values, one a token and head. */
  valueScales?: Float64Array
}

/** Rotated keys as a cache holds them: differences from anchors, rounded, and the anchors. */
function anchored(k: Float32Array, nKvHeads: number, headDim: number): { rests: Float32Array; anchors: Float32Array } {
  const rests = k.slice()
  const anchors = new Float32Array(k.length)
  const cols = nKvHeads * headDim
  for (let at = 0; at < rests.length; at += headDim) rotate(rests.subarray(at, at + headDim))
  const bits = new Uint32Array(rests.slice().buffer).map((x) => x & 0xffff0000)
  const tops = new Float32Array(bits.buffer)
  for (let t = 1; t < k.length / cols; t++) {
    const source = t < 64 ? 1 : t - (t % 64)
    anchors.set(tops.subarray(source * cols, (source + 1) * cols), t * cols)
  }
  for (let i = 0; i < rests.length; i++) rests[i]! -= anchors[i]!
  return { rests: rounded(rests, headDim, false).values, anchors }
}

/** Rows of a with the row of b behind each. */
function beside(a: Float32Array, b: Float32Array, dim: number): Float32Array {
  const out = new Float32Array(2 * a.length)
  for (let at = 0; at < a.length; at += dim) {
    out.set(a.subarray(at, at + dim), 2 * at)
    out.set(b.subarray(at, at + dim), 2 * at + dim)
  }
  return out
}

/**
 * What attention works on: queries, keys and values as they are stored, and the scale that goes with them. With q8_0 keys
 * heads are twice as long: a score is a rounded query times a key's rest, and the query itself times its anchor.
 */
function held(shape: AttentionShape, { n, q, k, v }: Rows, kinds: Kinds): Held {
  const [kindK, kindV] = kindsOf(kinds)
  const { headDim } = shape
  const half = (values: Float32Array) => values.map((x) => Math.f16round(x))
  const values = kindV === "q8_0" ? rounded(v, headDim, false) : undefined
  const storedV = values?.values ?? (kindV === "f16" ? half(v) : v)
  const more = values === undefined ? {} : { valueScales: values.scales }
  if (kindK !== "q8_0") return { shape, rows: { n, q, k: kindK === "f16" ? half(k) : k, v: storedV }, ...more }
  const exact = q.slice()
  for (let at = 0; at < q.length; at += headDim) rotate(exact.subarray(at, at + headDim))
  const { rests, anchors } = anchored(k, shape.nKvHeads, headDim)
  const rows = {
    n,
    q: beside(rounded(q, headDim, true).values, exact, headDim),
    k: beside(rests, anchors, headDim),
    v: beside(storedV, new Float32Array(v.length), headDim),
  }
  return { shape: { ...shape, headDim: 2 * headDim, scale: shape.scale / (headDim & -headDim) }, rows, ...more }
}

/** Variance of the output that integer weights bring: uniform rounding of each, of 64 keys after 64. */
function weightVariance({ shape, rows, valueScales }: Held, t: number, head: number): Float64Array {
  const { nHeads, nKvHeads, headDim, window = 0, softcap = 0, scale } = shape
  const out = new Float64Array(headDim)
  if (valueScales === undefined) return out
  const kvHead = Math.floor((head * nKvHeads) / nHeads)
  const first = window > 0 ? Math.max(0, t - window + 1) : 0
  const q = rows.q.subarray((t * nHeads + head) * headDim, (t * nHeads + head + 1) * headDim)
  const scores = new Map<number, number>()
  for (let j = first; j <= t; j++) {
    const k = rows.k.subarray((j * nKvHeads + kvHead) * headDim, (j * nKvHeads + kvHead + 1) * headDim)
    const score = scale * q.reduce((sum, x, d) => sum + x * k[d]!, 0)
    scores.set(j, softcap > 0 ? softcap * Math.tanh(score / softcap) : score)
  }
  const max = Math.max(...scores.values())
  const total = [...scores.values()].reduce((sum, score) => sum + Math.exp(score - max), 0)
  for (const group of Map.groupBy(scores, ([j]) => Math.floor(j / BLOCK)).values()) {
    const weights = group.map(([j, score]) => valueScales[j * nKvHeads + kvHead]! * Math.exp(score - max))
    const unit = Math.max(...weights) / WEIGHT_MAX / total
    for (const j of group.map(([j]) => j)) {
      const rowScale = valueScales[j * nKvHeads + kvHead]!
      for (let d = 0; d < headDim && rowScale > 0; d++) {
        out[d]! += (unit * (rows.v[(j * nKvHeads + kvHead) * headDim + d]! / rowScale)) ** 2 / 12
      }
    }
  }
  return out
}

/** Every level and thread count gives the same bits; they are returned. */
export function everyEngine(shape: AttentionShape, rows: Rows, kinds: Kinds, sizes: readonly number[]): Float32Array {
  let first: Float32Array | undefined
  const differing: string[] = []
  for (const { name, engine } of engines) {
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    using kv = cacheOf(shape, rows.n, kinds)
    const out = program.runAll(kv, rows, sizes)
    first ??= out
    if (Bun.hash(out) !== Bun.hash(first)) differing.push(name)
  }
  expect(differing).toEqual([])
  return first!
}

/** No element is further from float64 than rounding explains: deviations are counted in its standard deviation, and the
 * largest of 10^5 normal ones is below 5. Returns their root mean square, about 1 where values are random. */
export function compare(
  shape: AttentionShape,
  rows: Rows,
  kinds: Kinds,
  out: Float32Array,
  check: readonly number[],
): number {
  const stored = held(shape, rows, kinds)
  const cols = shape.nHeads * shape.headDim
  let worst = { deviations: 0, at: "none" }
  let squares = 0
  for (const t of check) {
    const expected = expectRow(stored.shape, stored.rows, t)
    const rounding = Array.from({ length: shape.nHeads }, (_, head) => [...weightVariance(stored, t, head)]).flat()
    const dim = stored.shape.headDim
    for (let i = 0; i < cols; i++) {
      const at = Math.floor(i / shape.headDim) * dim + (i % shape.headDim)
      const error = out[t * cols + i]! - expected.values[at]!
      // A value that is 0 of all keys has no variance.
      const deviations = error === 0 ? 0 : Math.abs(error) / Math.sqrt(expected.variances[at]! + rounding[at]!)
      squares += deviations ** 2
      if (deviations <= worst.deviations) continue
      worst = { deviations, at: `row ${t}, column ${i}: ${out[t * cols + i]}, not ${expected.values[at]}` }
      if (Number.isNaN(deviations)) break
    }
  }
  expect(worst.deviations, worst.at).toBeLessThan(8)
  return Math.sqrt(squares / check.length / cols)
}

export const all = (n: number) => Array.from({ length: n }, (_, t) => t)
/** Rows about the borders of chunks of 256 keys, the first and the last ones, and some between. */
export const borders = (n: number) =>
  all(n).filter((t) => t < 3 || t > n - 4 || t % 256 < 2 || t % 256 > 253 || t % 97 === 0)

export const shapeOf = (nHeads: number, nKvHeads: number, headDim: number, more: Partial<AttentionShape> = {}) => ({
  ...{ nHeads, nKvHeads, headDim, scale: 1 / Math.sqrt(headDim) },
  ...more,
})
