// Oracle: asdsl_describe(), which C makes out of its own declarations. Both directions: nothing missing, nothing extra.

import { describe, expect, test } from "bun:test"
import {
  ABI_VERSION,
  ENUMS,
  KvOptions,
  NO_BUFFER,
  OPERATIONS,
  Op,
  packStruct,
  RepackJob,
  readField,
  STRUCTS,
  type StructLayout,
  viewOf,
  writeField,
} from "../src/native/abi.ts"
import { native } from "../src/native/library.ts"

interface Description {
  version: number
  no_buffer: number
  enums: Record<string, Record<string, number>>
  structs: Record<string, { bytes: number; fields: Record<string, { offset: number; bytes: number; type: string }> }>
  operations: { code: number; name: string; operands: string[]; ints: string[]; floats: string[] }[]
}

const theirs = JSON.parse(String(native().asdsl_describe())) as Description

function ours(layout: StructLayout): Description["structs"][string] {
  const fields = Object.entries(layout.fields).map(([name, { offset, bytes, count, type }]) => {
    return [name, { offset, bytes: bytes * count, type }]
  })
  return { bytes: layout.bytes, fields: Object.fromEntries(fields) }
}

describe("the two sides of the ABI", () => {
  test("version and absent buffers", () => {
    expect([theirs.version, theirs.no_buffer]).toEqual([ABI_VERSION, NO_BUFFER])
  })

  test("structs, field by field", () => {
    expect(theirs.structs).toEqual(Object.fromEntries(STRUCTS.map((layout) => [layout.name, ours(layout)])))
  })

  test("enums, value by value", () => {
    const enums = ENUMS.map(({ name, prefix, values }) => {
      return [name, Object.fromEntries(Object.entries(values).map(([key, value]) => [prefix + key, value]))]
    })
    const codes = OPERATIONS.map(({ name }, code) => [`ASDSL_OP_${name.toUpperCase()}`, code])
    expect(theirs.enums).toEqual({ ...Object.fromEntries(enums), asdsl_op_code: Object.fromEntries(codes) })
  })

  test("operations, role by role", () => {
    const operations = OPERATIONS.map(({ name, operands, ints, floats }, code) => {
      return { code, name, operands: [...operands], ints: [...ints], floats: [...floats] }
    })
    expect(theirs.operations).toEqual(operations)
  })
})

describe("the struct writer", () => {
  test("what is written is read back, at the offset of its element", () => {
    const bytes = new Uint8Array(Op.bytes)
    const view = viewOf(bytes)
    writeField(view, 0, Op, "i", -7, 3)
    writeField(view, 0, Op, "f", 0.5, 7)
    expect(readField(view, 0, Op, "i", 3)).toBe(-7)
    expect(readField(view, 0, Op, "f", 7)).toBe(0.5)
    expect(view.getInt32(Op.fields.i.offset + 12, true)).toBe(-7)
    expect(bytes.filter((byte) => byte !== 0).length).toBe(5) // four of -7, one of 0.5
  })

  test("64-bit sizes to 2^53", () => {
    for (const size of [0, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 3, Number.MAX_SAFE_INTEGER]) {
      const view = viewOf(packStruct(RepackJob, { src_offset: size }))
      expect(view.getBigUint64(RepackJob.fields.src_offset.offset, true)).toBe(BigInt(size))
      expect(readField(view, 0, RepackJob, "src_offset")).toBe(size)
    }
  })

  test("what a field cannot hold is an error, not a zero", () => {
    for (const capacity of [Number.NaN, 1.5, 2 ** 31, -(2 ** 31) - 1, undefined as unknown as number]) {
      expect(() => packStruct(KvOptions, { capacity })).toThrow(RangeError)
    }
    for (const rows of [-1, 2 ** 32]) expect(() => packStruct(RepackJob, { rows })).toThrow(RangeError)
    for (const src_offset of [-1, 2 ** 53, 0.5]) expect(() => packStruct(RepackJob, { src_offset })).toThrow(RangeError)
    expect(() => writeField(viewOf(new Uint8Array(Op.bytes)), 0, Op, "i", 1, 8)).toThrow(RangeError)
  })
})
