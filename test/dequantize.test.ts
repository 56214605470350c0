// Oracle: gguf.quants.dequantize of the Python package gguf, bit for bit (fixtures/make-dequantize-expected.py).

import { describe, expect, test } from "bun:test"
import { inflateRawSync } from "node:zlib"
import { ArgumentError, UnsupportedError } from "../src/errors.ts"
import { dequantize } from "../src/gguf/dequantize.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { bitsOf, makeBlocks, sha256 } from "./fixtures/dequantize-blocks.ts"
import expected from "./fixtures/dequantize-expected.json"
import { quantize } from "./fixtures/quantize.ts"
import { random } from "./tokenizer-fixtures.ts"

const TYPES = Object.keys(TENSOR_TYPES) as TensorTypeName[]

const asBytes = (bits: Uint32Array) => new Uint8Array(bits.buffer)

describe("equals the reference to the bit", () => {
  for (const name of TYPES) {
    test(name, () => {
      const stored = expected.types[name]
      const blocks = makeBlocks(name)
      expect(sha256(blocks)).toBe(stored.blocksSha256)
      const { id, block } = TENSOR_TYPES[name]
      const bits = bitsOf(dequantize(id, blocks, expected.nBlocks * block))
      // The first blocks one by one, for a difference that can be read; all of them by their hash.
      const first = new Uint32Array(new Uint8Array(inflateRawSync(Buffer.from(stored.firstBits, "base64"))).buffer)
      expect(first.length).toBeGreaterThan(40)
      for (let i = 0; i < first.length; i++) {
        if (bits[i] !== first[i]) expect({ i, bits: bits[i] }).toEqual({ i, bits: first[i] })
      }
      expect(sha256(asBytes(bits))).toBe(stored.bitsSha256)
    })
  }

  for (const name of ["F16", "BF16"] as const) {
    test(`every ${name}`, () => {
      const all = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer)
      expect(sha256(asBytes(bitsOf(dequantize(TENSOR_TYPES[name].id, all, 65536))))).toBe(expected.halves[name])
    })
  }
})

test("data at any address", () => {
  for (const name of TYPES) {
    const { id, block, bytes } = TENSOR_TYPES[name]
    const blocks = makeBlocks(name).subarray(0, 4 * bytes)
    const shifted = new Uint8Array(blocks.length + 9)
    shifted.set(blocks, 3)
    const bits = bitsOf(dequantize(id, shifted.subarray(3), 4 * block))
    expect(bits).toEqual(bitsOf(dequantize(id, blocks, 4 * block)))
  }
})

test("what is no whole block is refused", () => {
  for (const name of TYPES) {
    const { id, block, bytes } = TENSOR_TYPES[name]
    expect(() => dequantize(id, new Uint8Array(2 * bytes - 1), 2 * block)).toThrow(ArgumentError)
    expect(() => dequantize(id, new Uint8Array(2 * bytes), block + 0.5)).toThrow(ArgumentError)
    expect(() => dequantize(id, new Uint8Array(2 * bytes), -block)).toThrow(ArgumentError)
    expect(dequantize(id, new Uint8Array(0), 0).length).toBe(0)
  }
  expect(() => dequantize(TENSOR_TYPES.Q4_K.id, new Uint8Array(144), 32)).toThrow(ArgumentError)
  expect(() => dequantize(19, new Uint8Array(144), 32)).toThrow(UnsupportedError)
})

/** Largest error as a share of a block's largest weight that rounding to nearest allows: half a step of the weights, and
 * what rounding the scales adds. */
const TOLERANCE: Record<TensorTypeName, number> = {
  ...{ F32: 0, F16: 2 ** -11, BF16: 2 ** -8, Q8_0: 0.6 / 127, Q4_0: 1.01 / 8, Q4_1: 2 * (0.6 / 15) },
  ...{ Q5_0: 1.01 / 16, Q5_1: 2 * (0.6 / 31), IQ4_NL: (127 - 113 + 1) / 127 },
  ...{ Q4_K: 2 * (0.6 / 15 + 1 / 63), Q5_K: 2 * (0.6 / 31 + 1 / 63), Q6_K: 0.5 / 31 + 0.5 / 127 + 0.002 },
  ...{ Q2_K: 2 * (0.6 / 3 + 1 / 15), Q3_K: 1.01 / 4 + 0.5 / 31, IQ4_XS: 14 / 127 + 0.5 / 31 + 0.002 },
}

test("the fixtures' quantisers are within half a step", () => {
  const next = random(5)
  for (const name of TYPES) {
    const { id, block } = TENSOR_TYPES[name]
    const x = Float32Array.from({ length: 64 * block }, () => (next() - 0.5) * 2)
    const y = dequantize(id, quantize(name, x), x.length)
    const worst = x.reduce((max, value, i) => Math.max(max, Math.abs(value - y[i]!)), 0)
    expect({ name, isGood: worst <= TOLERANCE[name] }).toEqual({ name, isGood: true })
    const zeros = new Float32Array(block)
    expect(dequantize(id, quantize(name, zeros), block).every((value) => value === 0)).toBe(true)
  }
})
