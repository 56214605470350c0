// What each operation has to compute, in float64 from the engine's own inputs, and how far rounding may lead it astray.
//
// Bounds are first-order rounding analysis: a chain of n float operations is off by at most n * EPS times the sum of the
// absolute terms; SLACK covers second-order terms and the polynomial of exp (relative error below 2^-21, simd_math.h).

import type { Executor } from "../src/executor.ts"
import type { PlannedOp } from "../src/graph.ts"
import { OPERATIONS, Op, readField, Type, viewOf } from "../src/native/abi.ts"
import type { Place } from "../src/tensors.ts"
import type { Weight } from "../src/weights.ts"

const EPS = 2 ** -24 // half an ulp, relative
const SLACK = 8
const EXP_EPS = 2 ** -21
const TANH_EPS = 2 ** -20

/** Rows of float64 values with the largest error that each may have. */
export interface Expected {
  readonly values: Float64Array[]
  readonly bounds: Float64Array[]
}

/** Keys and values that the cache should hold: [layer][position]. */
export type KvHistory = { k: Float64Array; v: Float64Array }[][]

export interface OpContext {
  readonly executor: Executor
  readonly op: PlannedOp
  readonly index: number
  /** Dequantised weights, row-major. */
  readonly weight: (weight: Weight) => Float32Array
  readonly tokens: readonly number[]
  readonly position: number
  readonly outputs: readonly number[]
  readonly kv: KvHistory
}

/** Rows of a tensor as float64, whatever its format: int8 formats as scale * q. */
export function readRows(executor: Executor, place: Place, nRows: number): Float64Array[] {
  const bytes = executor.memory(place)
  const view = viewOf(bytes)
  return Array.from({ length: nRows }, (_, t) => {
    const row = new Float64Array(place.cols)
    if (place.type === Type.I32) {
      for (let i = 0; i < place.cols; i++) row[i] = view.getInt32(4 * (t * place.stride + i), true)
      return row
    }
    if (place.type === Type.F32) {
      for (let i = 0; i < place.cols; i++) row[i] = view.getFloat32(4 * (t * place.stride + i), true)
      return row
    }
    // csrc/kernels/layout.h: struct act_q8_32 and struct act_q8_256
    const [block, size, dAt] = place.type === Type.ACT_Q8_32 ? [32, 48, 32] : [256, 416, 400]
    const base = t * (bytes.length / place.rows)
    for (let i = 0; i < place.cols; i++) {
      const at = base + Math.floor(i / block) * size
      row[i] = view.getInt8(at + (i % block)) * view.getFloat32(at + dAt, true)
    }
    return row
  })
}

type Rows = Float64Array[]

/** A row with the largest error that each value may have. */
interface Row {
  values: Float64Array
  bounds: Float64Array
}

function blank(rows: Rows | number, cols: number): Rows {
  return Array.from({ length: typeof rows === "number" ? rows : rows.length }, () => new Float64Array(cols))
}

const silu = (x: number) => x / (1 + Math.exp(-x))
const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))

/** W x with its bound; `w` is (rows, x.length). */
function product(w: Float32Array, x: Float64Array, rows: number): Row {
  const cols = x.length
  const values = new Float64Array(rows)
  const bounds = new Float64Array(rows)
  for (let r = 0; r < rows; r++) {
    let sum = 0
    let size = 0
    for (let i = 0; i < cols; i++) {
      const term = w[r * cols + i]! * x[i]!
      sum += term
      size += Math.abs(term)
    }
    values[r] = sum
    bounds[r] = (cols + SLACK) * EPS * size
  }
  return { values, bounds }
}

/** f(gate x) * (up x) with its bound. f: silu for activation 0, gelu for 1. */
function gateUp(gate: Float32Array, up: Float32Array, x: Float64Array, nRows: number, activation = 0): Row {
  const [g, u] = [product(gate, x, nRows), product(up, x, nRows)]
  const f = activation === 1 ? gelu : silu
  const values = g.values.map((y, i) => f(y) * u.values[i]!)
  // The slopes are below 1.13. gelu's argument of exp is as uncertain as it is large.
  const bounds = g.values.map((y, i) => {
    const size = Math.abs(f(y))
    const relative = EXP_EPS + SLACK * EPS * (1 + (activation === 1 ? Math.abs(y) + Math.abs(y) ** 3 : 0))
    const fBound = 1.13 * g.bounds[i]! + relative * size
    return fBound * (Math.abs(u.values[i]!) + u.bounds[i]!) + size * u.bounds[i]! + EPS * Math.abs(values[i]!)
  })
  return { values, bounds }
}

function joined(rows: readonly Row[]): Expected {
  return { values: rows.map((row) => row.values), bounds: rows.map((row) => row.bounds) }
}

function exactly(values: Rows): Expected {
  return { values, bounds: values.map((row) => new Float64Array(row.length)) }
}

/** The slots of a pass by expert, then by row: ops.h. `place`: among the row's experts. */
function slotsOf(experts: Rows): { row: number; place: number; expert: number }[] {
  const slots = experts.flatMap((ids, row) => Array.from(ids, (expert, place) => ({ row, place, expert })))
  return slots.sort((a, b) => a.expert - b.expert || a.row - b.row || a.place - b.place)
}

/** The experts of each row, exactly, and their weights. */
function route(logits: Rows, nUsed: number, n: Record<string, number>): Record<string, Expected> {
  const experts = logits.map((row) => {
    const order = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b)
    return Float64Array.from(order.slice(0, nUsed))
  })
  const values = logits.map((row, t) => {
    const size = (ids: Iterable<number>) =>
      [...ids].reduce((sum, id) => sum + Math.exp(row[id]! - row[experts[t]![0]!]!), 0)
    const total = n.normalise === 1 ? size(experts[t]!) : size(row.keys())
    return experts[t]!.map((id) => (n.scale! * size([id])) / total)
  })
  // An exponential of a difference, a sum of them, a quotient.
  const relative = (row: Float64Array) => {
    const spread = Math.max(...row) - Math.min(...row)
    return 2 * EXP_EPS + (2 * spread + row.length + SLACK) * EPS
  }
  const bounds = values.map((row, t) => row.map((w) => relative(logits[t]!) * w))
  return { experts: exactly(experts), weights: { values, bounds } }
}

/** The numbers of an op by name: integers and floats of its record. */
function numbers({ executor, index }: OpContext): Record<string, number> {
  const view = viewOf(executor.plan.records)
  const base = index * Op.bytes
  const { ints, floats } = OPERATIONS[readField(view, base, Op, "code")]!
  return Object.fromEntries([
    ...ints.map((name, i) => [name, readField(view, base, Op, "i", i)] as const),
    ...floats.map((name, i) => [name, readField(view, base, Op, "f", i)] as const),
  ])
}

/** What the op should leave in each place that it writes. Inputs have to be read before it runs: call this first. */
export function expectOp(context: OpContext): Record<string, Expected> {
  const { executor, op, tokens, outputs } = context
  const { places, weights } = op
  const nRows = (places.out ?? places.in ?? places.x ?? places.k)!.isPerOutput ? outputs.length : tokens.length
  const read = (role: string) => readRows(executor, places[role]!, nRows)
  const matrix = (i: number) => context.weight(weights[i]!)
  const n = numbers(context)

  switch (op.operation) {
    case "embed": {
      const { cols } = weights[0]!
      const values = tokens.map((token) => {
        return Float64Array.from(matrix(0).subarray(token * cols, (token + 1) * cols), (x) => n.scale! * x)
      })
      return { out: { values, bounds: values.map((row) => row.map((x) => (n.scale === 1 ? 0 : EPS * Math.abs(x)))) } }
    }
    case "rms_norm": {
      const x = read("in")
      const values = x.map((row) => rmsNorm(row, matrix(0), n.heads!, n.eps!))
      const bounds = values.map((row) => row.map((y) => (row.length / 16 + SLACK) * EPS * Math.abs(y)))
      return everyFormat(places, { values, bounds })
    }
    case "rms_norm_add": {
      const before = read("out")
      const norms = read("in").map((row) => rmsNorm(row, matrix(0), 1, n.eps!))
      const values = norms.map((row, t) => row.map((y, i) => y + before[t]![i]!))
      const bounds = norms.map((row, t) => {
        return row.map((y, i) => (row.length / 16 + SLACK) * EPS * Math.abs(y) + EPS * Math.abs(values[t]![i]!))
      })
      return { out: { values, bounds } }
    }
    case "quantize":
      return everyFormat(places, exactly(readRows(executor, places.in!, nRows * Math.max(n.slots!, 1))))
    case "matmul":
    case "matmul_add": {
      const matrices = weights.filter(({ rows }) => rows > 1)
      const biases = weights.filter(({ rows }) => rows === 1)
      const before = op.operation === "matmul_add" ? read("out") : blank(nRows, places.out!.cols)
      const rows = read("in").map((x, t) => {
        const parts = matrices.map((weight) => product(context.weight(weight), x, weight.rows))
        const values = Float64Array.from(parts.flatMap((part) => [...part.values]))
        const bounds = Float64Array.from(parts.flatMap((part) => [...part.bounds]))
        const bias = biases.flatMap((weight) => [...context.weight(weight)])
        for (let i = 0; i < values.length; i++) {
          const size = Math.abs(values[i]!) + Math.abs(bias[i] ?? 0) + Math.abs(before[t]![i]!)
          values[i] = values[i]! + (bias[i] ?? 0) + before[t]![i]!
          bounds[i] = bounds[i]! + 2 * EPS * size
          if (!n.softcap) continue
          values[i] = n.softcap * Math.tanh(values[i]! / n.softcap) // of slope 1 at most
          bounds[i] = bounds[i]! + (TANH_EPS + SLACK * EPS) * Math.abs(values[i]!)
        }
        return { values, bounds }
      })
      return { out: joined(rows) }
    }
    case "gate_up": {
      return { out: joined(read("in").map((x) => gateUp(matrix(0), matrix(1), x, weights[0]!.rows, n.activation))) }
    }
    case "moe_route":
      return route(read("in"), places.experts!.cols, n)
    case "moe_gate_up": {
      const [x, { rows, cols }] = [read("in"), weights[0]!]
      const slots = slotsOf(read("experts"))
      const part = (i: number, expert: number) => matrix(i).subarray(expert * rows * cols, (expert + 1) * rows * cols)
      return { out: joined(slots.map(({ row, expert }) => gateUp(part(0, expert), part(1, expert), x[row]!, rows))) }
    }
    case "moe_down": {
      const { rows, cols } = weights[0]!
      const slots = slotsOf(read("experts"))
      const x = readRows(executor, places.in!, slots.length)
      const part = (expert: number) => matrix(0).subarray(expert * rows * cols, (expert + 1) * rows * cols)
      return { out: joined(slots.map(({ expert }, i) => product(part(expert), x[i]!, rows))) }
    }
    case "moe_combine": {
      const slots = slotsOf(read("experts"))
      const made = readRows(executor, places.in!, slots.length)
      const w = read("weights")
      const values = read("x")
      const bounds = values.map((row) => row.map((y) => EPS * Math.abs(y)))
      for (const [i, { row, place }] of slots.entries()) {
        for (let j = 0; j < values[row]!.length; j++) {
          const term = w[row]![place]! * made[i]![j]!
          values[row]![j]! += term
          bounds[row]![j]! += (w[row]!.length + 2) * EPS * Math.abs(term)
        }
      }
      return { x: { values, bounds } }
    }
    case "rope_table": {
      const frequencies = matrix(0)
      const values = tokens.map((_, t) => {
        return Float64Array.from({ length: 2 * frequencies.length }, (_, i) => {
          const angle = (context.position + t) * frequencies[i >> 1]!
          return n.magnitude! * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle))
        })
      })
      return { out: { values, bounds: values.map((row) => row.map((y) => 2 * EPS * Math.abs(y) + 1e-12)) } }
    }
    case "rope":
      return { x: rotate(read("x"), read("table"), n) }
    case "kv_append":
      return {} // seen by attention
    case "attention":
      return { out: attend(context, read("q"), n) }
    case "gather_outputs": {
      const all = readRows(executor, places.in!, tokens.length)
      const values = outputs.map((t) => all[t]!)
      return { out: exactly(values) }
    }
    case "top_k":
      return {} // compared with the logits in session.test.ts
  }
}

function rmsNorm(x: Float64Array, weight: Float32Array, heads: number, eps: number): Float64Array {
  const cols = x.length / Math.max(heads, 1)
  const y = new Float64Array(x.length)
  for (let begin = 0; begin < x.length; begin += cols) {
    let sum = 0
    for (let i = 0; i < cols; i++) sum += x[begin + i]! ** 2
    for (let i = 0; i < cols; i++) y[begin + i] = (x[begin + i]! / Math.sqrt(sum / cols + eps)) * weight[i]!
  }
  return y
}

/** Outputs in several formats: floats within the bound, int8 within half a step of the block's scale more. */
function everyFormat(places: PlannedOp["places"], exact: Expected): Record<string, Expected> {
  const expected: Record<string, Expected> = {}
  if (places.out_f32 !== undefined) expected.out_f32 = exact
  for (const [role, block] of [
    ["out_q8_32", 32],
    ["out_q8_256", 256],
  ] as const) {
    if (places[role] === undefined) continue
    const bounds = exact.values.map((row, t) => {
      return row.map((_, i) => {
        const begin = i - (i % block)
        const largest = row.subarray(begin, begin + block).reduce((max, x) => Math.max(max, Math.abs(x)), 0)
        return (largest / 127) * (0.5 + 2 ** -14) + 2 * exact.bounds[t]![i]!
      })
    })
    expected[role] = { values: exact.values, bounds }
  }
  return expected
}

function rotate(x: Rows, table: Rows, n: Record<string, number>): Expected {
  const values = x.map((row) => row.slice())
  const bounds = blank(x, x[0]!.length)
  for (const [t, row] of values.entries()) {
    for (let h = 0; h < n.heads!; h++) {
      for (let j = 0; j < n.n_rot! / 2; j++) {
        const base = n.heads_offset! + h * n.head_dim!
        const [a, b] = n.mode === 0 ? [base + 2 * j, base + 2 * j + 1] : [base + j, base + j + n.n_rot! / 2]
        const [cos, sin] = [table[t]![2 * j]!, table[t]![2 * j + 1]!]
        const [u, v] = [x[t]![a]!, x[t]![b]!]
        row[a] = u * cos - v * sin
        row[b] = u * sin + v * cos
        bounds[t]![a] = bounds[t]![b] = 3 * EPS * (Math.abs(u) + Math.abs(v))
      }
    }
  }
  return { values, bounds }
}

function attend({ op, kv, position }: OpContext, q: Rows, n: Record<string, number>): Expected {
  const [headDim, group] = [n.head_dim!, n.n_heads! / n.n_kv_heads!]
  const values = blank(q, q[0]!.length)
  const bounds = blank(q, q[0]!.length)
  for (const [t, row] of q.entries()) {
    const end = position + t + 1
    const held = kv[op.layer]!.slice(n.window! > 0 ? Math.max(0, end - n.window!) : 0, end)
    for (let h = 0; h < n.n_heads!; h++) {
      const [qAt, kvAt] = [h * headDim, Math.floor(h / group) * headDim]
      let scoreBound = 0
      const scores = held.map(({ k }) => {
        let [sum, size] = [0, 0]
        for (let i = 0; i < headDim; i++) {
          const term = row[qAt + i]! * k[kvAt + i]! * n.scale!
          sum += term
          size += Math.abs(term)
        }
        const capped = n.softcap! > 0 ? n.softcap! * Math.tanh(sum / n.softcap!) : sum
        const capBound = n.softcap! > 0 ? (TANH_EPS + SLACK * EPS) * Math.abs(capped) : 0
        scoreBound = Math.max(scoreBound, (headDim + SLACK) * EPS * size + capBound)
        return capped
      })
      const max = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - max))
      const total = weights.reduce((a, b) => a + b, 0)
      for (let i = 0; i < headDim; i++) {
        let [sum, size] = [0, 0]
        for (const [j, { v }] of held.entries()) {
          sum += (weights[j]! / total) * v[kvAt + i]!
          size += (weights[j]! / total) * Math.abs(v[kvAt + i]!)
        }
        values[t]![qAt + i] = sum
        // Every weight and the total are off by the scores' error, by exp and by their own sums.
        const relative = 2 * (scoreBound + EXP_EPS) + 2 * (held.length + SLACK) * EPS
        bounds[t]![qAt + i] = relative * size
      }
    }
  }
  return { values, bounds }
}
