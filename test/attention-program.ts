// The two KV operations by themselves: a program of kv_append and attention over one buffer, and what they should give.
//
// Rows lie further apart than they are wide and the gaps hold NaN: a kernel that reads one gives NaN, one that writes one
// is found out after each pass. Bounds are first-order rounding analysis, as in op-oracle.ts.

import {
  Layout,
  NO_BUFFER,
  Op,
  Operand,
  operationCode,
  Type,
  viewOf,
  writeField,
  writeStruct,
} from "../src/native/abi.ts"
import { Buffer, type Engine, type KvCache, Program } from "../src/native/handles.ts"

export interface AttentionShape {
  nHeads: number
  nKvHeads: number
  headDim: number
  scale: number
  window?: number
  softcap?: number
}

/** Queries, keys and values of consecutive tokens, row-major without gaps. */
export interface Rows {
  n: number
  q: Float32Array // (n, nHeads * headDim)
  k: Float32Array // (n, nKvHeads * headDim)
  v: Float32Array // (n, nKvHeads * headDim)
}

const GAP = 5 // floats
const ROLES = ["q", "out", "k", "v"] as const
type Role = (typeof ROLES)[number]

export class AttentionProgram {
  readonly shape: AttentionShape
  readonly #maxTokens: number
  readonly #program: Program
  readonly #floats: Float32Array
  readonly #places = {} as Record<Role, { at: number; cols: number; stride: number }> // in floats

  constructor(engine: Engine, shape: AttentionShape, maxTokens: number, layer = 0) {
    this.shape = shape
    this.#maxTokens = maxTokens
    const [wide, narrow] = [shape.nHeads * shape.headDim, shape.nKvHeads * shape.headDim]
    let end = 0
    for (const role of ROLES) {
      const cols = role === "q" || role === "out" ? wide : narrow
      this.#places[role] = { at: end, cols, stride: cols + GAP }
      end = Math.ceil((end + maxTokens * (cols + GAP)) / 16) * 16
    }
    const buffer = Buffer.create(4 * end)
    this.#floats = new Float32Array(buffer.view(0, 4 * end)).fill(Number.NaN)
    const limits = { maxTokens, maxOutputs: 1, maxTopK: 0, nVocab: 1 }
    this.#program = Program.create(engine, this.#records(layer), [buffer], limits)
  }

  #records(layer: number): Uint8Array {
    const { nHeads, nKvHeads, headDim, scale, window = 0, softcap = 0 } = this.shape
    const records = new Uint8Array(2 * Op.bytes)
    const view = viewOf(records)
    for (const [index, roles] of (["k v", "q out"] as const).entries()) {
      const base = index * Op.bytes
      const code = operationCode(index === 0 ? "kv_append" : "attention")
      writeStruct(view, base, Op, { code, flags: 0, layer, reserved: 0 })
      for (let i = 0; i < 8; i++) {
        const at = base + Op.fields.operand.offset + i * Operand.bytes
        const role = roles.split(" ")[i] as Role | undefined
        writeField(view, at, Operand, "buffer", role === undefined ? NO_BUFFER : 0)
        if (role === undefined) continue
        const { at: offset, cols, stride } = this.#places[role]
        const common = { type: Type.F32, rows: this.#maxTokens, layout: Layout.ROWS }
        writeStruct(view, at, Operand, { ...common, offset: 4 * offset, cols, stride })
      }
    }
    writeStruct(view, 0, Op, { i: [nKvHeads, headDim] })
    writeStruct(view, Op.bytes, Op, { i: [nHeads, nKvHeads, headDim, window], f: [scale, softcap] })
    return records
  }

  /** Appends rows [from, from + n) and attends with their queries; returns (n, nHeads * headDim). */
  run(kv: KvCache, rows: Rows, from: number, n: number): Float32Array {
    for (const role of ["q", "k", "v"] as const) {
      const { at, cols, stride } = this.#places[role]
      for (let t = 0; t < n; t++) {
        this.#floats.set(rows[role].subarray((from + t) * cols, (from + t + 1) * cols), at + t * stride)
      }
    }
    const { head, tokens } = this.#program
    head.set([n, 0, kv.length, 0])
    tokens.fill(0)
    this.#program.run(kv, 0, 2)
    this.#checkGaps()
    const { at, cols, stride } = this.#places.out
    const out = new Float32Array(n * cols)
    for (let t = 0; t < n; t++) out.set(this.#floats.subarray(at + t * stride, at + t * stride + cols), t * cols)
    return out
  }

  #checkGaps(): void {
    for (const role of ROLES) {
      const { at, cols, stride } = this.#places[role]
      for (let t = 0; t < this.#maxTokens; t++) {
        for (let i = cols; i < stride; i++) {
          const value = this.#floats[at + t * stride + i]
          if (!Number.isNaN(value)) throw new Error(`column ${i} of ${role}, past its ${cols}, became ${value}`)
        }
      }
    }
  }

  /** Runs passes of the given sizes over all rows, from an empty cache on. */
  runAll(kv: KvCache, rows: Rows, sizes: readonly number[]): Float32Array {
    const cols = this.shape.nHeads * this.shape.headDim
    const all = new Float32Array(rows.n * cols)
    for (let from = 0, pass = 0; from < rows.n; pass++) {
      const n = Math.min(sizes[pass % sizes.length]!, rows.n - from, this.#maxTokens)
      all.set(this.run(kv, rows, from, n), from * cols)
      from += n
    }
    return all
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]()
  }
}

const EPS = 2 ** -24
const SLACK = 8
const EXP_EPS = 2 ** -21 // relative, as for tanh: simd_math.h
const VANISHING = Math.exp(-87) // weights below this may count as 0

/** Attention of query row `t` in float64 over keys and values as the cache stores them: values and rounding's bounds. */
export function attend(shape: AttentionShape, rows: Rows, t: number): { values: Float64Array; bounds: Float64Array } {
  const { nHeads, nKvHeads, headDim, scale, window = 0, softcap = 0 } = shape
  const [qCols, kvCols] = [nHeads * headDim, nKvHeads * headDim]
  const first = window > 0 ? Math.max(0, t - window + 1) : 0
  const values = new Float64Array(qCols)
  const bounds = new Float64Array(qCols)
  const n = t + 1 - first
  const weights = new Float64Array(n)
  const errors = new Float64Array(n)
  for (let h = 0; h < nHeads; h++) {
    const qAt = t * qCols + h * headDim
    const kvAt = Math.floor((h * nKvHeads) / nHeads) * headDim
    let max = Number.NEGATIVE_INFINITY
    for (let j = 0; j < n; j++) {
      const kAt = (first + j) * kvCols + kvAt
      let sum = 0
      let size = 0
      for (let i = 0; i < headDim; i++) {
        const term = rows.q[qAt + i]! * rows.k[kAt + i]!
        sum += term
        size += Math.abs(term)
      }
      const score = sum * scale
      errors[j] = (headDim + SLACK) * EPS * size * Math.abs(scale)
      weights[j] = softcap > 0 ? softcap * Math.tanh(score / softcap) : score
      if (softcap > 0) errors[j]! += 2 * EXP_EPS * Math.abs(weights[j]!)
      max = Math.max(max, weights[j]!)
    }
    let total = 0
    for (let j = 0; j < n; j++) {
      const below = max - weights[j]!
      // Differences are rounded, and exp twice: against a chunk's maximum, and when chunks are merged.
      errors[j]! += 4 * EPS * below + 2 * EXP_EPS
      weights[j] = Math.exp(-below)
      total += weights[j]!
    }
    const worst = errors.subarray(0, n).reduce((a, b, j) => (weights[j]! > VANISHING ? Math.max(a, b) : a), 0)
    for (let i = 0; i < headDim; i++) {
      let sum = 0
      for (let j = 0; j < n; j++) sum += (weights[j]! / total) * rows.v[(first + j) * kvCols + kvAt + i]!
      let spread = 0
      for (let j = 0; j < n; j++) {
        const size = Math.abs(rows.v[(first + j) * kvCols + kvAt + i]!) + Math.abs(sum)
        spread += size * (Math.expm1(errors[j]! + worst) * (weights[j]! / total) + VANISHING)
        spread += size * (weights[j]! / total) * 2 * (n + SLACK) * EPS
      }
      values[h * headDim + i] = sum
      bounds[h * headDim + i] = spread
    }
  }
  return { values, bounds }
}
