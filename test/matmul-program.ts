// One operation of the matmul family by itself: a program of its quantisation and itself, run by asdsl_run as a model's
// passes are. What the result should be is not its business.
//
// Around every weight, activation and output lie NaNs: a kernel that uses what is not its own gives NaN, one that writes it
// is found out after each run. (csrc/test/kernels_matmul.c has pages that may not be touched at all.)

import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
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
import { activationType, Buffer, type Engine, Program, tensorBytes } from "../src/native/handles.ts"

/** A matrix as a GGUF file has it: rows (outputs) of cols (inputs). */
export interface Matrix {
  readonly type: TensorTypeName
  readonly rows: number
  readonly cols: number
  readonly bytes: Uint8Array
}

export interface MatmulSpec {
  readonly operation: "matmul" | "matmul_add" | "gate_up"
  /** matmul: one to three, side by side in the output; gate_up: gate and up. All of one width and activation format. */
  readonly weights: readonly Matrix[]
  /** Of matmul and matmul_add, by weight. */
  readonly biases?: readonly Float32Array[]
  /** Of matmul; 0: none. */
  readonly softcap?: number
  /** Of gate_up. */
  readonly activation?: "silu" | "gelu"
}

const ALIGNMENT = 64
const MOAT = 4096 // bytes around each weight
const GAP = 5 // floats between two rows: they begin at any address
const [WEIGHTS, ARENA] = [0, 1]

type OperandFields = Partial<Record<keyof typeof Operand.fields, number>>

const roundUp = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

/** Outputs of a spec in each row. */
export function outputsOf({ operation, weights }: MatmulSpec): number {
  return operation === "gate_up" ? weights[0]!.rows : weights.reduce((sum, { rows }) => sum + rows, 0)
}

export class MatmulProgram {
  readonly #maxColumns: number
  readonly #cols: number
  readonly #rows: number
  readonly #program: Program
  readonly #weights: Buffer
  readonly #arena: Buffer
  readonly #in: Float32Array // (maxColumns, cols + GAP)
  readonly #out: Float32Array // GAP, then (maxColumns, rows + GAP)

  constructor(engine: Engine, spec: MatmulSpec, maxColumns: number) {
    const [first] = spec.weights
    const act = activationType(TENSOR_TYPES[first!.type].id)
    this.#maxColumns = maxColumns
    this.#cols = first!.cols
    this.#rows = outputsOf(spec)
    const inBytes = 4 * maxColumns * (this.#cols + GAP)
    const actBytes = act === Type.ACT_F32 ? 0 : tensorBytes(act, Layout.ROWS, maxColumns, this.#cols)
    const actAt = roundUp(inBytes)
    const outAt = actAt + roundUp(actBytes) + ALIGNMENT
    const outBytes = 4 * maxColumns * (this.#rows + GAP)
    const places = loadWeights(engine, spec)
    this.#weights = places.buffer
    this.#arena = Buffer.create(outAt + outBytes)
    this.#in = new Float32Array(this.#arena.view(0, inBytes)).fill(Number.NaN)
    this.#out = new Float32Array(this.#arena.view(outAt - ALIGNMENT, ALIGNMENT + outBytes)).fill(Number.NaN)

    const input = { buffer: ARENA, type: Type.F32, offset: 0, rows: maxColumns, cols: this.#cols }
    const floats = { ...input, stride: this.#cols + GAP, layout: Layout.ROWS }
    const rows = act === Type.ACT_F32 ? floats : { ...floats, type: act, offset: actAt, stride: 0 }
    const out = { ...floats, offset: outAt, cols: this.#rows, stride: this.#rows + GAP }
    const ops: [string, (OperandFields | undefined)[]][] = []
    if (act === Type.ACT_Q8_32) ops.push(["quantize", [floats, rows]])
    if (act === Type.ACT_Q8_256) ops.push(["quantize", [floats, undefined, rows]])
    ops.push([spec.operation, [out, rows, ...places.weights, ...places.biases]])
    const records = encode(ops)
    const number = { softcap: spec.softcap ?? 0, activation: spec.activation === "gelu" ? 1 : 0 }
    writeStruct(viewOf(records), (ops.length - 1) * Op.bytes, Op, { i: [number.activation], f: [number.softcap] })
    const limits = { maxTokens: maxColumns, maxOutputs: 0, maxTopK: 0, nVocab: 1 }
    this.#program = Program.create(engine, records, [this.#weights, this.#arena], limits)
  }

  /** The op over rows [0, n) of x, (n, cols); `before`: what the output holds, (n, outputs). Returns (n, outputs). */
  run(x: Float32Array, n: number, before?: Float32Array): Float32Array {
    const [cols, rows] = [this.#cols, this.#rows]
    this.#out.fill(Number.NaN)
    for (let t = 0; t < n; t++) {
      this.#in.set(x.subarray(t * cols, (t + 1) * cols), t * (cols + GAP))
      if (before !== undefined) this.#out.set(before.subarray(t * rows, (t + 1) * rows), this.#outAt(t))
    }
    this.#program.head.set([n, 0, 0, 0])
    this.#program.run(undefined, 0, this.#program.nOps)
    const out = new Float32Array(n * rows)
    for (let t = 0; t < n; t++) out.set(this.#out.subarray(this.#outAt(t), this.#outAt(t) + rows), t * rows)
    this.#checkGaps(n)
    return out
  }

  /** The kernel slot that the op ran in. */
  get slot(): string {
    return this.#program.slot(this.#program.nOps - 1)
  }

  /** Place of row t in #out. */
  #outAt(t: number): number {
    return ALIGNMENT / 4 + t * (this.#rows + GAP)
  }

  #checkGaps(n: number): void {
    const check = (from: number, to: number) => {
      for (let i = from; i < to; i++) {
        if (!Number.isNaN(this.#out[i]))
          throw new Error(`float ${i - this.#outAt(0)} of the output, no result, was written`)
      }
    }
    check(0, this.#outAt(0))
    for (let t = 0; t < n; t++) check(this.#outAt(t) + this.#rows, this.#outAt(t + 1))
    check(this.#outAt(n), this.#outAt(this.#maxColumns))
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]()
    this.#weights[Symbol.dispose]()
    this.#arena[Symbol.dispose]()
  }
}

/** All weights and biases in one buffer, NaNs before and behind each. */
function loadWeights(engine: Engine, { operation, weights, biases }: MatmulSpec) {
  const sizes = weights.map(({ type, rows, cols }) => {
    return roundUp(tensorBytes(TENSOR_TYPES[type].id, Layout.INTERLEAVED, rows, cols))
  })
  const total = sizes.reduce((sum, bytes) => sum + bytes + MOAT, MOAT)
  const buffer = Buffer.create(total + (biases ?? []).reduce((sum, bias) => sum + roundUp(4 * bias.length) + MOAT, 0))
  const all = new Uint8Array(buffer.view(0, buffer.bytes)).fill(0xff) // NaN in every float format
  let offset = MOAT
  const places: (OperandFields | undefined)[] = weights.map((matrix, i) => {
    const { type, rows, cols, bytes } = matrix
    const { id } = TENSOR_TYPES[type]
    using source = Buffer.create(bytes.length)
    new Uint8Array(source.view(0, bytes.length)).set(bytes)
    const layouts = { sourceLayout: Layout.ROWS, targetLayout: Layout.INTERLEAVED }
    engine.repack({ source, sourceOffset: 0, target: buffer, targetOffset: offset, type: id, rows, cols, ...layouts })
    const place = { buffer: WEIGHTS, type: id, offset, rows, cols, stride: 0, layout: Layout.INTERLEAVED }
    offset += sizes[i]! + MOAT
    return place
  })
  const biasPlaces = (biases ?? []).map((bias) => {
    all.set(new Uint8Array(bias.buffer, bias.byteOffset, bias.byteLength), offset)
    const shape = { rows: 1, cols: bias.length, stride: 0, layout: Layout.ROWS }
    const place = { buffer: WEIGHTS, type: Type.F32, offset, ...shape }
    offset += roundUp(4 * bias.length) + MOAT
    return place
  })
  while (operation !== "gate_up" && places.length < 3) places.push(undefined)
  return { buffer, weights: places, biases: biasPlaces }
}

function encode(ops: readonly [string, readonly (OperandFields | undefined)[]][]): Uint8Array {
  const records = new Uint8Array(ops.length * Op.bytes)
  const view = viewOf(records)
  for (const [index, [operation, operands]] of ops.entries()) {
    const base = index * Op.bytes
    const code = operationCode(operation as Parameters<typeof operationCode>[0])
    writeStruct(view, base, Op, { code, flags: 0, layer: 0, reserved: 0 })
    for (let i = 0; i < Op.fields.operand.count; i++) {
      const at = base + Op.fields.operand.offset + i * Operand.bytes
      const operand = operands[i]
      if (operand === undefined) writeField(view, at, Operand, "buffer", NO_BUFFER)
      else writeStruct(view, at, Operand, operand)
    }
  }
  return records
}
