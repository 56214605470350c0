// The inputs of matrices as an arena holds them, as floats. Owns the reading of quantised activations, whose bytes are
// csrc/kernels/layout.h's: struct act_q8_32 and struct act_q8_256.

import { Type } from "../native/abi.ts"
import type { Place } from "../tensors.ts"

/** Of one block: int8 values first, then sums that are not needed here, and among them the scale. */
const BLOCKS = {
  [Type.ACT_Q8_32]: { values: 32, bytes: 48, scaleAt: 32 },
  [Type.ACT_Q8_256]: { values: 256, bytes: 416, scaleAt: 400 },
} as const
/** Bytes between rows of quantised activations are a multiple of a cache line. */
const LINE = 64

/** Adds the squares of row `row` to `sums` (cols). */
export function addSquares({ type, cols, stride }: Place, memory: DataView, row: number, sums: Float64Array): void {
  if (type === Type.F32) {
    const floats = new Float32Array(memory.buffer, memory.byteOffset + 4 * row * stride, cols)
    for (let i = 0; i < cols; i++) sums[i]! += floats[i]! ** 2
    return
  }
  const { values, bytes, scaleAt } = BLOCKS[type as keyof typeof BLOCKS]
  const rowBytes = Math.ceil((Math.ceil(cols / values) * bytes) / LINE) * LINE
  for (let first = 0, at = row * rowBytes; first < cols; first += values, at += bytes) {
    const square = memory.getFloat32(at + scaleAt, true) ** 2
    const quants = new Int8Array(memory.buffer, memory.byteOffset + at, Math.min(values, cols - first))
    for (let i = 0; i < quants.length; i++) sums[first + i]! += square * quants[i]! ** 2
  }
}
