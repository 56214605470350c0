// A program of one kind of operation: many different matrices of one type and shape, and activations for them.
//
// What it measures is what a model's passes run: the same operation, slots, workers and barriers, through asdsl_run. The
// matrices have the same content in places of their own; their activations stay in cache. Knows nothing of rounds,
// comparisons or reports.

import { TENSOR_TYPES, type TensorTypeName } from "../../src/gguf/types.ts"
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
} from "../../src/native/abi.ts"
import { activationType, Buffer, Engine, Program, tensorBytes } from "../../src/native/handles.ts"

export interface MatmulCase {
  readonly type: TensorTypeName
  readonly rows: number
  readonly cols: number
  readonly level: string
  readonly nThreads: number
  /** Of all matrices together, about: beyond any cache, or so little that they stay in one. */
  readonly weightBytes: number
  readonly maxColumns: number
}

/** One measurement: runs for at least the asked-for time. */
export interface MatmulSample {
  /** Of one product. */
  readonly nanoseconds: number
  readonly slot: string
}

const ALIGNMENT = 4096

type OperandFields = Partial<Record<keyof typeof Operand.fields, number>>

/** Where a block's f16 scales are, in the ROWS layout (GGUF). */
const SCALE_OFFSETS: Partial<Record<TensorTypeName, readonly number[]>> = {
  ...{ Q4_0: [0], Q4_1: [0, 2], Q5_0: [0], Q5_1: [0, 2], Q8_0: [0], IQ4_NL: [0] },
  ...{ Q2_K: [80, 82], Q3_K: [108], Q4_K: [0, 2], Q5_K: [0, 2], Q6_K: [208], IQ4_XS: [0] },
}

function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state
  }
}

/** A matrix of random bytes as a file has it; f16 and bf16 scales and weights are near 2^-5, so that sums stay finite. */
function randomMatrix(type: TensorTypeName, bytes: number): Uint8Array {
  const next = generator(1)
  const matrix = new Uint8Array(bytes)
  const words = new Uint32Array(matrix.buffer, 0, Math.floor(bytes / 4))
  for (let i = 0; i < words.length; i++) words[i] = next() ^ (next() >>> 16)
  const { block, bytes: size } = TENSOR_TYPES[type]
  const scales = SCALE_OFFSETS[type]
  const putHigh = (at: number, high: number) => {
    matrix[at] = (matrix[at]! & 0x83) | high
  }
  if (block === 1) {
    const high = type === "F16" ? 0x28 : 0x3c
    for (let at = size - 1; at < bytes; at += size) putHigh(at, high)
  } else {
    for (let at = 0; at < bytes; at += size) for (const offset of scales!) putHigh(at + offset + 1, 0x28)
  }
  return matrix
}

export class MatmulProgram {
  readonly nMatrices: number
  /** Of one matrix, interleaved. */
  readonly matrixBytes: number
  readonly #case: MatmulCase
  readonly #engine: Engine
  readonly #program: Program
  readonly #buffers: readonly Buffer[]
  readonly #outOffset: number
  #next = 0

  /** `weights`: memory for the matrices, kept from case to case; its old content is lost. */
  constructor(given: MatmulCase, weights: Buffer) {
    this.#case = given
    const { type, rows, cols, maxColumns } = given
    const { id } = TENSOR_TYPES[type]
    this.matrixBytes = tensorBytes(id, Layout.INTERLEAVED, rows, cols)
    const pitch = Math.ceil(this.matrixBytes / ALIGNMENT) * ALIGNMENT
    this.nMatrices = Math.max(1, Math.round(given.weightBytes / pitch))
    this.#engine = Engine.create({ level: given.level, nThreads: given.nThreads })
    this.#fill(weights, pitch)
    const actType = activationType(id)
    const inBytes = 4 * maxColumns * cols
    const actBytes = actType === Type.ACT_F32 ? 0 : tensorBytes(actType, Layout.ROWS, maxColumns, cols)
    const places = [0, inBytes, inBytes + actBytes].map((at) => Math.ceil(at / 64) * 64) as [number, number, number]
    this.#outOffset = places[2]
    const arena = Buffer.create(this.#outOffset + 4 * maxColumns * rows)
    this.#buffers = [weights, arena]
    const next = generator(2)
    const input = new Float32Array(arena.view(0, inBytes))
    for (let i = 0; i < input.length; i++) input[i] = (next() / 2 ** 31 - 1) * 2
    const limits = { maxTokens: maxColumns, maxOutputs: 0, maxTopK: 0, nVocab: 1 }
    this.#program = Program.create(this.#engine, this.#records(pitch, actType, places), this.#buffers, limits)
    if (actType !== Type.ACT_F32) {
      this.#program.head.set([maxColumns, 0, 0, 0])
      this.#program.run(undefined, this.nMatrices, 1)
    }
  }

  #fill(weights: Buffer, pitch: number): void {
    const { type, rows, cols } = this.#case
    const { id } = TENSOR_TYPES[type]
    const bytes = tensorBytes(id, Layout.ROWS, rows, cols)
    using source = Buffer.create(bytes)
    new Uint8Array(source.view(0, bytes)).set(randomMatrix(type, bytes))
    const layouts = { sourceLayout: Layout.ROWS, targetLayout: Layout.INTERLEAVED }
    this.#engine.repack({ source, sourceOffset: 0, target: weights, targetOffset: 0, type: id, rows, cols, ...layouts })
    const all = new Uint8Array(weights.view(0, this.nMatrices * pitch))
    for (let i = 1; i < this.nMatrices; i++) all.copyWithin(i * pitch, 0, this.matrixBytes)
  }

  /** A matmul for each matrix, then the quantisation of the activations. */
  #records(pitch: number, actType: number, [inAt, actAt, outAt]: [number, number, number]): Uint8Array {
    const { type, rows, cols, maxColumns } = this.#case
    const common = { buffer: 1, rows: maxColumns, layout: Layout.ROWS }
    const input = { ...common, type: Type.F32, offset: inAt, cols, stride: cols }
    const act = actType === Type.ACT_F32 ? input : { ...common, type: actType, offset: actAt, cols, stride: 0 }
    const out = { ...common, type: Type.F32, offset: outAt, cols: rows, stride: rows }
    const weight = { buffer: 0, type: TENSOR_TYPES[type].id, rows, cols, stride: 0, layout: Layout.INTERLEAVED }
    const hasQuantize = actType !== Type.ACT_F32
    const records = new Uint8Array((this.nMatrices + (hasQuantize ? 1 : 0)) * Op.bytes)
    const view = viewOf(records)
    const put = (index: number, operation: "matmul" | "quantize", operands: readonly (OperandFields | undefined)[]) => {
      const base = index * Op.bytes
      writeStruct(view, base, Op, { code: operationCode(operation), flags: 0, layer: 0, reserved: 0 })
      for (let i = 0; i < Op.fields.operand.count; i++) {
        const at = base + Op.fields.operand.offset + i * Operand.bytes
        const operand = operands[i]
        if (operand === undefined) writeField(view, at, Operand, "buffer", NO_BUFFER)
        else writeStruct(view, at, Operand, operand)
      }
    }
    for (let i = 0; i < this.nMatrices; i++) put(i, "matmul", [out, act, { ...weight, offset: i * pitch }])
    const [q8_32, q8_256] = actType === Type.ACT_Q8_32 ? [act, undefined] : [undefined, act]
    if (hasQuantize) put(this.nMatrices, "quantize", [input, q8_32, q8_256])
    return records
  }

  /** Products with `columns` columns, matrix after matrix from where the last measurement stopped. */
  measure(columns: number, milliseconds: number): MatmulSample {
    this.#program.head.set([columns, 0, 0, 0])
    const since = performance.now()
    let n = 0
    let until = since
    // About 2 ms at a time: a call of asdsl_run wakes no one who sleeps, and reading the clock costs nothing.
    for (let batch = 1; until - since < milliseconds; n += batch) {
      if (n > 0) batch = Math.ceil((2 * n) / (until - since))
      batch = Math.min(batch, this.nMatrices - this.#next)
      this.#program.run(undefined, this.#next, batch)
      this.#next = (this.#next + batch) % this.nMatrices
      until = performance.now()
    }
    return { nanoseconds: ((until - since) * 1e6) / n, slot: this.#program.slot(0) }
  }

  /** The bits of the product of matrix 0 with `columns` columns, as a short text. */
  bits(columns: number): string {
    this.#program.head.set([columns, 0, 0, 0])
    this.#program.run(undefined, 0, 1)
    return Bun.hash(new Uint8Array(this.#buffers[1]!.view(this.#outOffset, 4 * columns * this.#case.rows))).toString(16)
  }

  probe(): { readBytesPerSecond: number; int8MacsPerSecond: number } {
    return { readBytesPerSecond: this.#engine.probe("bandwidth"), int8MacsPerSecond: this.#engine.probe("int8") }
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]()
    this.#buffers[1]![Symbol.dispose]()
    this.#engine[Symbol.dispose]()
  }
}
