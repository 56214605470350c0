// Tensor data as floats: the formats' definition in TypeScript, bit-exact with gguf.quants.dequantize of the Python
// package gguf (test/dequantize.test.ts). For tests and tools: the engine never expands a matrix.
//
// Each step is rounded to a float where the reference rounds: a product or a sum of two floats in double, rounded once,
// is the float product or sum.

import { ArgumentError, UnsupportedError } from "../errors.ts"
import { TENSOR_TYPES, type TensorTypeName } from "./types.ts"

/** Writes the weights of one block, whose first byte is `at`, to y[o] and on. */
type BlockReader = (view: DataView, at: number, y: Float32Array, o: number) => void

const { fround } = Math

/** n weights of a tensor type (ggml_type number) from `bytes`, which may be longer. A NaN stays a NaN, its payload may
 * differ. Throws UnsupportedError for an unlisted type, ArgumentError where n is not whole blocks or bytes are missing. */
export function dequantize(type: number, bytes: Uint8Array, n: number): Float32Array {
  const found = Object.entries(TENSOR_TYPES).find(([, { id }]) => id === type)
  if (found === undefined) {
    throw new UnsupportedError(`tensor type ${type} is not supported; known: ${Object.keys(TENSOR_TYPES).join(", ")}`)
  }
  const [name, { block, bytes: blockBytes }] = found
  const nBlocks = n / block
  if (!Number.isSafeInteger(nBlocks) || nBlocks < 0) {
    throw new ArgumentError(`${n} weights of type ${name}: whole blocks of ${block} are needed`)
  }
  if (nBlocks * blockBytes > bytes.length) {
    throw new ArgumentError(
      `${n} weights of type ${name} take ${nBlocks * blockBytes} bytes, ${bytes.length} are given`,
    )
  }
  const y = new Float32Array(n)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const read = READERS[name as TensorTypeName]
  for (let i = 0; i < nBlocks; i++) read(view, i * blockBytes, y, i * block)
  return y
}

/** The weights of IQ4_NL and IQ4_XS by nibble, before their scale: kvalues_iq4nl of ggml-common.h. */
export const IQ4_NL_VALUES: readonly number[] = [
  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
]

// Source of the block formats: ggml-common.h of ggml-org/ggml (block_q4_0 to block_iq4_xs); all numbers little-endian.
const READERS: Readonly<Record<TensorTypeName, BlockReader>> = {
  F32(view, at, y, o) {
    y[o] = view.getFloat32(at, true)
  },
  F16(view, at, y, o) {
    y[o] = view.getFloat16(at, true)
  },
  BF16(view, at, y, o) {
    scratch.setUint32(0, view.getUint16(at, true) << 16, true) // the upper half of a float
    y[o] = scratch.getFloat32(0, true)
  },
  // d, 16 bytes of 2 quants: byte j holds weight j (low) and j + 16 (high), each 8 too large
  Q4_0(view, at, y, o) {
    const d = view.getFloat16(at, true)
    for (let j = 0; j < 16; j++) {
      const pair = view.getUint8(at + 2 + j)
      y[o + j] = d * ((pair & 15) - 8)
      y[o + j + 16] = d * ((pair >> 4) - 8)
    }
  },
  // d, m, quants as in Q4_0
  Q4_1(view, at, y, o) {
    const d = view.getFloat16(at, true)
    const m = view.getFloat16(at + 2, true)
    for (let j = 0; j < 16; j++) {
      const pair = view.getUint8(at + 4 + j)
      y[o + j] = fround(d * (pair & 15)) + m
      y[o + j + 16] = fround(d * (pair >> 4)) + m
    }
  },
  // d, 32 fifth bits (weight j's is bit j), quants as in Q4_0, each 16 too large
  Q5_0(view, at, y, o) {
    const d = view.getFloat16(at, true)
    for (let j = 0; j < 32; j++) y[o + j] = d * (fiveBits(view, at + 2, j) - 16)
  },
  // d, m, the rest as in Q5_0
  Q5_1(view, at, y, o) {
    const d = view.getFloat16(at, true)
    const m = view.getFloat16(at + 2, true)
    for (let j = 0; j < 32; j++) y[o + j] = fround(d * fiveBits(view, at + 4, j)) + m
  },
  // d, quants as in Q4_0, indices into a table
  IQ4_NL(view, at, y, o) {
    const d = view.getFloat16(at, true)
    for (let j = 0; j < 16; j++) {
      const pair = view.getUint8(at + 2 + j)
      y[o + j] = d * IQ4_NL_VALUES[pair & 15]!
      y[o + j + 16] = d * IQ4_NL_VALUES[pair >> 4]!
    }
  },
  // d, 32 quants
  Q8_0(view, at, y, o) {
    const d = view.getFloat16(at, true)
    for (let j = 0; j < 32; j++) y[o + j] = d * view.getInt8(at + 2 + j)
  },
  // 16 bytes of a scale (low 4 bits) and a minimum each, 64 bytes of 4 quants (pairOfBits), d, dmin
  Q2_K(view, at, y, o) {
    const d = view.getFloat16(at + 80, true)
    const dmin = view.getFloat16(at + 82, true)
    for (let i = 0; i < 256; i++) {
      const both = view.getUint8(at + (i >> 4))
      y[o + i] = fround(fround(d * (both & 15)) * pairOfBits(view, at + 16, i)) - fround(dmin * (both >> 4))
    }
  },
  // 32 bytes whose bit i / 32 is the third of weight i, 64 bytes of the lower two (pairOfBits), 12 bytes of sixteen 6-bit
  // scales, each 32 too large: low 4 bits in bytes 0-7 (low, then high halves), high 2 bits in bytes 8-11; d. Each quant
  // is 4 too large.
  Q3_K(view, at, y, o) {
    const d = view.getFloat16(at + 108, true)
    for (let i = 0; i < 256; i++) {
      const sub = i >> 4
      const low = (view.getUint8(at + 96 + (sub & 7)) >> ((sub >> 3) * 4)) & 15
      const high = (view.getUint8(at + 104 + (sub & 3)) >> ((sub >> 2) * 2)) & 3
      const third = (view.getUint8(at + (i & 31)) >> (i >> 5)) & 1
      y[o + i] = fround(d * ((low | (high << 4)) - 32)) * ((pairOfBits(view, at + 32, i) | (third << 2)) - 4)
    }
  },
  // d, dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of 2 quants: 32 bytes hold two sub-blocks of 32
  Q4_K(view, at, y, o) {
    scaledSubBlocks(view, at, y, o, (sub, j) => (view.getUint8(at + 16 + (sub >> 1) * 32 + j) >> ((sub & 1) * 4)) & 15)
  },
  // as Q4_K, with 32 bytes before the quants whose bit `sub` is the fifth of that sub-block's
  Q5_K(view, at, y, o) {
    scaledSubBlocks(view, at, y, o, (sub, j) => {
      const low = (view.getUint8(at + 48 + (sub >> 1) * 32 + j) >> ((sub & 1) * 4)) & 15
      return low | (((view.getUint8(at + 16 + j) >> sub) & 1) << 4)
    })
  },
  // 128 bytes of low 4 bits, 64 of high 2 bits, 16 int8 scales, d; each quant 32 too large. Halves of 128 weights: weight
  // j of quarter k has its low bits in byte 64 half + (k & 1) 32 + j and its high bits in byte 32 half + j at bit 2 k.
  Q6_K(view, at, y, o) {
    const d = view.getFloat16(at + 208, true)
    for (let i = 0; i < 256; i++) {
      const half = i >> 7
      const quarter = (i >> 5) & 3
      const j = i & 31
      const low = (view.getUint8(at + half * 64 + (quarter & 1) * 32 + j) >> ((quarter >> 1) * 4)) & 15
      const high = (view.getUint8(at + 128 + half * 32 + j) >> (quarter * 2)) & 3
      const scale = fround(d * view.getInt8(at + 192 + (i >> 4)))
      y[o + i] = scale * ((low | (high << 4)) - 32)
    }
  },
  // d, 2 bytes of the high 2 bits and 4 of the low 4 bits of eight 6-bit scales, each 32 too large, then 16 bytes for
  // each sub-block of 32: byte j holds weight j (low) and j + 16 (high), both by their places in a table
  IQ4_XS(view, at, y, o) {
    const d = view.getFloat16(at, true)
    const tops = view.getUint16(at + 2, true)
    for (let i = 0; i < 256; i++) {
      const sub = i >> 5
      const low = (view.getUint8(at + 4 + (sub >> 1)) >> ((sub & 1) * 4)) & 15
      const scale = fround(d * ((low | (((tops >> (2 * sub)) & 3) << 4)) - 32))
      y[o + i] = scale * IQ4_NL_VALUES[(view.getUint8(at + 8 + sub * 16 + (i & 15)) >> ((i & 16) >> 2)) & 15]!
    }
  },
}

const scratch = new DataView(new ArrayBuffer(4))

/** Weight j (0 to 31) of 4 bytes of fifth bits and 16 of nibbles. */
function fiveBits(view: DataView, at: number, j: number): number {
  const fifth = (view.getUint32(at, true) >>> j) & 1
  return ((view.getUint8(at + 4 + (j & 15)) >> ((j >> 4) * 4)) & 15) | (fifth << 4)
}

/** Q2_K and Q3_K: the two bits of weight i. Of each 128 weights, byte j of 32 holds j, j + 32, j + 64 and j + 96. */
function pairOfBits(view: DataView, at: number, i: number): number {
  return (view.getUint8(at + (i >> 7) * 32 + (i & 31)) >> (((i >> 5) & 3) * 2)) & 3
}

/** Q4_K and Q5_K: d, dmin and the scales of eight sub-blocks of 32 weights, whose quants `quant` reads. */
function scaledSubBlocks(
  view: DataView,
  at: number,
  y: Float32Array,
  o: number,
  quant: (sub: number, j: number) => number,
): void {
  const d = view.getFloat16(at, true)
  const dmin = view.getFloat16(at + 2, true)
  for (let sub = 0; sub < 8; sub++) {
    const [scale, min] = scaleAndMin(view, at + 4, sub)
    const ds = fround(d * scale)
    const dm = fround(dmin * min)
    for (let j = 0; j < 32; j++) y[o + sub * 32 + j] = fround(ds * quant(sub, j)) - dm
  }
}

/** 6-bit scale and minimum of sub-block `sub` (0 to 7). The first four lie in the low bits of bytes 0-3 and 4-7, the
 * others are split: low 4 bits in bytes 8-11, high 2 bits on top of the first four's. */
function scaleAndMin(view: DataView, at: number, sub: number): [scale: number, min: number] {
  const a = view.getUint8(at + (sub & 3))
  const b = view.getUint8(at + 4 + (sub & 3))
  if (sub < 4) return [a & 63, b & 63]
  const c = view.getUint8(at + 4 + sub)
  return [(c & 15) | ((a >> 6) << 4), (c >> 4) | ((b >> 6) << 4)]
}
