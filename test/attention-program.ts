// The two KV operations by themselves: a program of kv_append and attention over one buffer, and what they should give.
//
// Rows lie further apart than they are wide and the gaps hold NaN: a kernel that reads one gives NaN, one that writes one
// is found out after each pass. What attention should give comes from forward.ts, with the variance of float rounding.

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
import { attendHead, type Moments } from "./forward.ts"

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

/** What query row `t` should give, over keys and values as the cache stores them. */
export function expectRow(shape: AttentionShape, rows: Rows, t: number): Moments {
  const { nHeads, nKvHeads, headDim, scale, window = 0, softcap = 0 } = shape
  const cols = nHeads * headDim
  const first = window > 0 ? Math.max(0, t - window + 1) : 0
  const exactRows = (values: Float32Array) =>
    Array.from({ length: t + 1 - first }, (_, j) => {
      const width = nKvHeads * headDim
      return exact(values.subarray((first + j) * width, (first + j + 1) * width))
    })
  const [keys, values] = [exactRows(rows.k), exactRows(rows.v)]
  const q = exact(rows.q.subarray(t * cols, (t + 1) * cols))
  const out = exact(new Float32Array(cols))
  for (let head = 0; head < nHeads; head++) {
    const at = Math.floor((head * nKvHeads) / nHeads) * headDim
    const part = attendHead(q, head * headDim, { keys, values, at, headDim, scale, softcap })
    out.values.set(part.values, head * headDim)
    out.variances.set(part.variances, head * headDim)
  }
  return out
}

function exact(values: Float32Array): Moments {
  return { values: Float64Array.from(values), variances: new Float64Array(values.length) }
}
