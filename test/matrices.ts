// Matrices of every tensor type, as a GGUF file has them, and activations: random ones, the ends of what the formats can
// hold, and whole numbers whose products are exact. Formats: src/gguf/dequantize.ts.

import { dequantize } from "../src/gguf/dequantize.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { SCALES } from "./fixtures/dequantize-blocks.ts"
import type { Matrix } from "./matmul-program.ts"

/** highest, lowest: the largest and the least quants, under the largest scales of sub-blocks and a block scale of 1.
 * largest: any quants, block scales of 65504, the largest F16. whole: whole numbers. */
export type Fill = "random" | "highest" | "lowest" | "largest" | "zero" | "whole"

/** Bytes of a block: its quants where it has minima of its own (with quants of 0 a weight is its minimum), and bytes of
 * sub-block scales that all ones or all zeros do not make extreme. */
const BLOCKS: Partial<Record<TensorTypeName, { quants?: [number, number]; scales?: [number, number] }>> = {
  Q4_1: { quants: [4, 20] },
  Q5_1: { quants: [4, 24] },
  Q2_K: { quants: [16, 80], scales: [0, 16] },
  Q4_K: { quants: [16, 144], scales: [4, 16] },
  Q5_K: { quants: [16, 176], scales: [4, 16] },
  Q6_K: { scales: [192, 208] }, // int8
}

const LARGEST_F16 = 65504
const LARGE_FLOAT = 1e14 // a product of two sums of these is still finite

export function isQuantised(type: TensorTypeName): boolean {
  return TENSOR_TYPES[type].block > 1
}

/** Whether the weights of a block have a minimum, a second term beside scale * quant. */
export function hasMinima(type: TensorTypeName): boolean {
  return BLOCKS[type]?.quants !== undefined
}

/** A matrix; `next` gives random numbers in [0, 1). */
export function makeMatrix(type: TensorTypeName, rows: number, cols: number, fill: Fill, next: () => number): Matrix {
  const { block, bytes: blockBytes } = TENSOR_TYPES[type]
  const bytes = new Uint8Array((rows * cols * blockBytes) / block)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < bytes.length; at += blockBytes) {
    if (fill === "zero") break
    if (isQuantised(type)) fillBlock(type, bytes.subarray(at, at + blockBytes), fill, next)
    else putFloat(type, view, at, floatOf(type, fill, next))
  }
  return { type, rows, cols, bytes }
}

function floatOf(type: TensorTypeName, fill: Fill, next: () => number): number {
  if (fill === "whole") return Math.floor(next() * 33) - 16
  const size = fill === "random" ? 1 : type === "F16" ? LARGEST_F16 : LARGE_FLOAT
  if (fill === "highest") return size
  if (fill === "lowest") return -size
  return (next() < 1 / 16 ? 2 ** -24 : size) * (2 * next() - 1) // F16 has subnormals below 2^-14
}

function putFloat(type: TensorTypeName, view: DataView, at: number, value: number): void {
  if (type === "F32") view.setFloat32(at, value, true)
  else if (type === "F16") view.setFloat16(at, value, true)
  else view.setUint16(at, new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16, true)
}

function fillBlock(type: TensorTypeName, block: Uint8Array, fill: Fill, next: () => number): void {
  const { scales } = BLOCKS[type] ?? {}
  const isLowest = fill === "lowest"
  for (let i = 0; i < block.length; i++) block[i] = next() * 256
  if (fill === "highest" || isLowest) {
    // Quants of Q8_0 and scales of Q6_K are int8, other scales of sub-blocks are least or largest as all their bits are
    // (Q3_K, IQ4_XS) or are all ones.
    block.fill(isLowest ? 0 : 0xff)
    if (type === "Q8_0") block.fill(isLowest ? 0x80 : 0x7f)
    if (scales !== undefined) block.fill(type === "Q6_K" ? (isLowest ? 0x80 : 0x7f) : 0xff, ...scales)
  }
  if (fill === "whole" && type === "Q6_K") {
    for (let i = scales![0]; i < scales![1]; i++) block[i] = next() * 32 - 16
  }
  const view = new DataView(block.buffer, block.byteOffset, block.length)
  for (const at of SCALES[type]) view.setFloat16(at, blockScale(type, fill, next), true)
}

function blockScale(type: TensorTypeName, fill: Fill, next: () => number): number {
  const sign = next() < 0.5 ? -1 : 1
  if (fill === "highest" || fill === "lowest") return 1
  if (fill === "largest") return sign * LARGEST_F16
  if (fill === "whole") return TENSOR_TYPES[type].block === 256 || next() < 0.5 ? sign : 2 * sign
  const exponent = next() < 1 / 16 ? -24 : -7 + Math.floor(next() * 8) // 2^-24: the least subnormal of F16
  return sign * (1 + next()) * 2 ** exponent
}

/** NaN as a block's first scale, or as a float weight: weight (row, col) and what shares its block. */
export function poison({ type, rows, cols, bytes }: Matrix, row: number, col: number): Matrix {
  const { block, bytes: blockBytes } = TENSOR_TYPES[type]
  const poisoned = bytes.slice()
  const view = new DataView(poisoned.buffer)
  const at = Math.floor((row * cols + col) / block) * blockBytes
  if (isQuantised(type)) view.setFloat16(at + SCALES[type][0]!, Number.NaN, true)
  else putFloat(type, view, at, Number.NaN)
  return { type, rows, cols, bytes: poisoned }
}

/** Its weights as the format defines them: (rows, cols). */
export function weightsOf({ type, rows, cols, bytes }: Matrix): Float32Array {
  return dequantize(TENSOR_TYPES[type].id, bytes, rows * cols)
}

/** The size of each weight, its parts counted by themselves: |scale * quant| + |minimum|. */
export function sizesOf(matrix: Matrix): Float64Array {
  const weights = Float64Array.from(weightsOf(matrix))
  const { quants } = BLOCKS[matrix.type] ?? {}
  if (quants === undefined) return weights.map(Math.abs)
  const bytes = matrix.bytes.slice()
  const { bytes: blockBytes } = TENSOR_TYPES[matrix.type]
  for (let at = 0; at < bytes.length; at += blockBytes) bytes.fill(0, at + quants[0], at + quants[1])
  const minima = weightsOf({ ...matrix, bytes })
  return weights.map((weight, i) => Math.abs(weight - minima[i]!) + Math.abs(minima[i]!))
}

/** Rows of activations, (n, cols). extreme: 127, -127 or both in turns. zero: every other row, the rest random. whole: whole
 * numbers that quantisation keeps, most of them below `limit`. */
export function makeActivations(
  n: number,
  cols: number,
  fill: "random" | "extreme" | "zero" | "whole",
  next: () => number,
  limit = 128,
): Float32Array {
  return Float32Array.from({ length: n * cols }, (_, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols]
    const isPositive = row % 3 === 0 || (row % 3 === 2 && col % 2 === 0)
    if (fill === "extreme") return isPositive ? 127 : -127
    if (fill === "whole") return wholeActivation(row, col, limit, next)
    if (fill === "zero" && row % 2 === 0) return 0
    return (next() < 1 / 100 ? 100 : 1) * (2 * next() - 1) // outliers, as real activations have them
  })
}

/** The largest of every 32 is 127, or 254 in every other row: scales are 1 and 2. */
function wholeActivation(row: number, col: number, limit: number, next: () => number): number {
  const sign = next() < 0.5 ? -1 : 1
  const value = col % 32 === (row * 7) % 32 ? 127 : Math.floor(next() * limit)
  return (1 + (row % 2)) * sign * value
}
