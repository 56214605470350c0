// Oracles: what was written (reading is the inverse of writing), and headers assembled byte by byte from the
// specification, sound and unsound.

import { afterAll, describe, expect, test } from "bun:test"
import { spawnSync } from "node:child_process"
import { closeSync, ftruncateSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ArgumentError, AsdslError, FormatError, ModelUnavailableError, UnsupportedError } from "../src/errors.ts"
import { METADATA_TYPES, type MetadataTypeName } from "../src/gguf/metadata-types.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { FlatStrings, isStringArray } from "../src/gguf/strings.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { type GgufContents, type TensorData, writeGguf } from "../src/gguf/writer.ts"
import { RawGguf } from "./fixtures/raw-gguf.ts"
import { random, randomText } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-gguf-"))
afterAll(() => rmSync(folder, { recursive: true }))

function write(contents: Partial<GgufContents>): string {
  const path = join(folder, "written.gguf")
  writeGguf(path, { metadata: new Map(), tensors: [], ...contents })
  return path
}

function file(raw: RawGguf | Uint8Array): string {
  const path = join(folder, "raw.gguf")
  writeFileSync(path, raw instanceof RawGguf ? raw.toBytes() : raw)
  return path
}

function refusal(path: string, kind: new (...args: never[]) => AsdslError = FormatError): string {
  try {
    readGguf(path)
  } catch (error) {
    expect(error).toBeInstanceOf(kind)
    expect((error as Error).message).toContain(path)
    return (error as Error).message
  }
  throw new Error("nothing was thrown")
}

/** Values that compare by content: string arrays as what at() and bytes() say. */
function plain(value: MetadataValue): unknown {
  if (typeof value !== "object") return value
  if (Array.isArray(value)) return value.map(plain)
  if (!isStringArray(value)) return value
  const strings = Array.from({ length: value.length }, (_, i) => value.at(i))
  const bytes = Array.from({ length: value.length }, (_, i) => [...value.bytes(i)])
  const slices = [...value.starts].map((start, i) => [...value.data.subarray(start, start + value.lengths[i]!)])
  expect(slices).toEqual(bytes)
  return { strings, bytes }
}

const plainMap = (metadata: ReadonlyMap<string, MetadataValue>) =>
  [...metadata].map(([key, value]) => [key, plain(value)])

// ---- reading is the inverse of writing ----

const next = random(20260801)
const whole = (n: number) => Math.floor(next() * n)
const pick = <T>(values: readonly T[]) => values[whole(values.length)]!
const many = <T>(n: number, make: (i: number) => T) => Array.from({ length: n }, (_, i) => make(i))

const SCALARS: [MetadataTypeName, readonly (number | bigint | boolean)[]][] = [
  ["u8", [0, 1, 255]],
  ["i8", [-128, 127, 0]],
  ["u16", [0, 65535]],
  ["i16", [-32768, 32767]],
  ["u32", [0, 1, 2 ** 32 - 1]],
  ["i32", [-(2 ** 31), -1, 2 ** 31 - 1]],
  ["f32", [0, -0, 1, 10000, Math.fround(1e-5), 2 ** -149, 3.4028234663852886e38, Infinity, -Infinity, NaN]],
  ["bool", [true, false]],
  ["u64", [0, 1, 2 ** 53 - 1, 2n ** 53n, 2n ** 64n - 1n]],
  ["i64", [-1, 0, -(2 ** 53) + 1, -(2n ** 63n), 2n ** 63n - 1n]],
  ["f64", [Math.PI, -0, 5e-324, 1e308, NaN]],
]

function randomArray(depth: number): MetadataValue {
  const n = pick([0, 1, 3, 17, 100])
  switch (whole(depth > 0 ? 12 : 11)) {
    case 0:
      return Uint8Array.from(many(n, () => whole(256)))
    case 1:
      return Int8Array.from(many(n, () => whole(256) - 128))
    case 2:
      return Uint16Array.from(many(n, () => whole(65536)))
    case 3:
      return Int16Array.from(many(n, () => whole(65536) - 32768))
    case 4:
      return Uint32Array.from(many(n, () => whole(2 ** 32)))
    case 5:
      return Int32Array.from(many(n, () => whole(2 ** 32) - 2 ** 31))
    case 6:
      return Float32Array.from(many(n, () => next() - 0.5))
    case 7:
      return Float64Array.from(many(n, () => next() * 1e300))
    case 8:
      return BigUint64Array.from(many(n, () => BigInt(whole(2 ** 32)) << 32n))
    case 9:
      return BigInt64Array.from(many(n, () => -(BigInt(whole(2 ** 31)) << 32n)))
    case 10:
      return FlatStrings.from(many(n, () => randomText(next, whole(20))))
    default:
      return many(whole(4), () => randomArray(depth - 1)) as MetadataValue
  }
}

function randomMetadata(): [Map<string, MetadataValue>, Map<string, MetadataTypeName>] {
  const metadata = new Map<string, MetadataValue>()
  const types = new Map<string, MetadataTypeName>()
  for (let i = whole(20); i > 0; i--) {
    const key = `key.${i}.${randomText(next, whole(10)).toWellFormed()}`
    const kind = whole(4)
    if (kind === 0) metadata.set(key, randomText(next, whole(300)).toWellFormed())
    else if (kind === 1) {
      const [type, values] = pick(SCALARS)
      metadata.set(key, pick(values))
      types.set(key, type)
    } else metadata.set(key, randomArray(3))
  }
  return [metadata, types]
}

const TYPES = Object.keys(TENSOR_TYPES) as TensorTypeName[]

interface Made {
  data: TensorData
  bytes: Uint8Array
}

function randomTensors(): Made[] {
  return many(whole(8), (i) => {
    const type = pick(TYPES)
    const { block, bytes: blockBytes } = TENSOR_TYPES[type]
    const shape = [block * (1 + whole(3)), ...many(whole(4), () => 1 + whole(4))]
    const n = shape.reduce((product, size) => product * size, 1)
    const bytes = Uint8Array.from({ length: (n / block) * blockBytes }, () => whole(256))
    const cut = whole(bytes.length)
    const data = () => [bytes.subarray(0, cut), bytes.subarray(cut)]
    return { data: { name: `tensor ${i}`, type, shape, data }, bytes }
  })
}

describe("reading is the inverse of writing", () => {
  test("random contents at random alignments", async () => {
    for (let round = 0; round < 150; round++) {
      const [metadata, metadataTypes] = randomMetadata()
      const alignment = pick([1, 2, 8, 32, 64, 4096, 65536])
      if (alignment !== 32 || whole(2) === 0) metadata.set("general.alignment", alignment)
      const made = randomTensors()
      const path = write({ metadata, metadataTypes, tensors: made.map(({ data }) => data) })
      const read = readGguf(path)
      expect(plainMap(read.metadata)).toEqual(plainMap(metadata))
      for (const [key, type] of metadataTypes) expect(read.metadataTypes.get(key)).toBe(type)
      expect([read.path, read.version, read.alignment]).toEqual([path, 3, alignment])
      const fileBytes: Uint8Array = await Bun.file(path).bytes()
      expect(read.fileBytes).toBe(fileBytes.length)
      expect([...read.tensors.keys()]).toEqual(made.map(({ data }) => data.name))
      for (const { data, bytes } of made) {
        const info = read.tensors.get(data.name)!
        expect([info.name, info.type, info.shape]).toEqual([data.name, TENSOR_TYPES[data.type].id, data.shape])
        expect(info.offset % alignment).toBe(0)
        expect(fileBytes.subarray(info.offset, info.offset + info.bytes)).toEqual(bytes)
      }
      // Once more, from what was read: the same bytes.
      const tensors = made.map(({ data }) => data)
      write({ metadata: read.metadata, metadataTypes: read.metadataTypes, tensors })
      expect(Bun.hash(await Bun.file(path).bytes())).toBe(Bun.hash(fileBytes))
    }
  })

  test("every scalar type, every extreme value", () => {
    for (const [type, values] of SCALARS) {
      for (const value of values) {
        const read = readGguf(write({ metadata: new Map([["x", value]]), metadataTypes: new Map([["x", type]]) }))
        expect(read.metadata.get("x")).toBe(value)
        expect(read.metadataTypes.get("x")).toBe(type)
      }
    }
  })

  test("types by value, where none are given", () => {
    const expected: [MetadataValue, MetadataTypeName][] = [
      [0, "u32"],
      [2 ** 32, "u64"],
      [-1, "i32"],
      [-(2 ** 31) - 1, "i64"],
      [0.5, "f32"],
      [0.1, "f64"],
      [-0, "f32"],
      [NaN, "f32"],
      [true, "bool"],
      [2n ** 60n, "u64"],
      [-(2n ** 60n), "i64"],
      ["text", "string"],
      [new Uint8Array(2), "u8"],
      [FlatStrings.from(["a"]), "string"],
      [[], "array"],
    ]
    const read = readGguf(write({ metadata: new Map(expected.map(([value], i) => [`${i}`, value])) }))
    for (const [i, [value, type]] of expected.entries()) {
      expect(read.metadataTypes.get(`${i}`)).toBe(type)
      expect(plain(read.metadata.get(`${i}`)!)).toEqual(plain(value))
    }
  })

  test("a header larger than what is read at once, with strings across every boundary", () => {
    const texts = many(3000, (i) => "x".repeat((i * 7919) % 15_000))
    const strings = FlatStrings.from(texts) // 22 MB
    const numbers = Float64Array.from({ length: 300_000 }, (_, i) => i)
    const metadata = new Map<string, MetadataValue>([
      ["before", FlatStrings.from(["a", "bc"])],
      ["strings", strings],
      ["numbers", numbers],
      ["text", "y".repeat(3_000_000)],
    ])
    const read = readGguf(write({ metadata })).metadata
    const got = read.get("strings") as FlatStrings
    expect([got.length, texts.every((text, i) => got.lengths[i] === text.length && got.at(i) === text)]).toEqual([
      3000,
      true,
    ])
    expect(Bun.hash(read.get("numbers") as Float64Array)).toBe(Bun.hash(numbers))
    expect(read.get("text")).toBe("y".repeat(3_000_000))
    expect(plain(read.get("before")!)).toEqual(plain(metadata.get("before")!))
  })
})

// ---- headers byte by byte ----

describe("sound headers", () => {
  test("every metadata type as the specification numbers it", () => {
    const raw = RawGguf.header(0, 15)
    raw.key("u8", 0).bytes(0xfe).key("i8", 1).bytes(0xfe)
    raw.key("u16", 2).number(0xfffe, 2).key("i16", 3).number(-2, 2)
    raw.key("u32", 4).u32(0xfffffffe).key("i32", 5).number(-2, 4)
    raw.key("f32", 6).u32(0xc0490fdb).key("bool", 7).bytes(1)
    raw.key("string", 8).string("\u2581x")
    raw
      .key("u64", 10)
      .u64(2n ** 64n - 2n)
      .key("i64", 11)
      .number(-2, 8)
    raw.key("f64", 12).u64(0x400921fb54442d18n)
    raw.key("bools", 9).u32(7).u64(3).bytes(1, 0, 1)
    raw.key("strings", 9).u32(8).u64(3).string("a").string("").string("bc")
    raw.key("nested", 9).u32(9).u64(2).u32(4).u64(1).u32(7).u32(9).u64(1).u32(0).u64(2).bytes(8, 9)
    const { metadata, metadataTypes, tensors } = readGguf(file(raw))
    expect(plainMap(metadata)).toEqual([
      ["u8", 254],
      ["i8", -2],
      ["u16", 65534],
      ["i16", -2],
      ["u32", 4294967294],
      ["i32", -2],
      ["f32", Math.fround(-Math.PI)],
      ["bool", true],
      ["string", "\u2581x"],
      ["u64", 2n ** 64n - 2n],
      ["i64", -2],
      ["f64", Math.PI],
      ["bools", Uint8Array.of(1, 0, 1)],
      ["strings", plain(FlatStrings.from(["a", "", "bc"]))],
      ["nested", [Uint32Array.of(7), [Uint8Array.of(8, 9)]]],
    ])
    expect([metadataTypes.get("bools"), metadataTypes.get("strings"), tensors.size]).toEqual(["bool", "string", 0])
    expect(Object.values(METADATA_TYPES)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  })

  for (const version of [2, 3]) {
    test(`tensors, version ${version}`, () => {
      const raw = RawGguf.header(4, 1, version).key("general.alignment", 4).u32(64)
      raw.tensor("matrix", [32, 3], TENSOR_TYPES.Q4_0.id, 0).tensor("vector", [5], 0, 64)
      raw.tensor("scalar", [], 0, 128).tensor("unlisted", [7, 2, 3, 1], 19, 64)
      raw.data(132, 64)
      const { tensors, alignment, version: read } = readGguf(file(raw))
      const start = raw.length - 132
      expect([read, alignment, start % 64]).toEqual([version, 64, 0])
      expect([...tensors.values()]).toEqual([
        { name: "matrix", type: 2, shape: [32, 3], file: 0, offset: start, bytes: 54 },
        { name: "vector", type: 0, shape: [5], file: 0, offset: start + 64, bytes: 20 },
        { name: "scalar", type: 0, shape: [], file: 0, offset: start + 128, bytes: 4 },
        { name: "unlisted", type: 19, shape: [7, 2, 3, 1], file: 0, offset: start + 64, bytes: 0 },
      ])
    })
  }

  test("tensors beyond 4 GiB, and only the header is read", () => {
    const raw = RawGguf.header(2, 0)
      .tensor("far", [2], 0, 5 * 2 ** 30)
      .tensor("near", [2 ** 30], 0, 0)
    const path = file(raw.data(0))
    const fd = openSync(path, "r+")
    ftruncateSync(fd, raw.length + 5 * 2 ** 30 + 8) // sparse
    closeSync(fd)
    const before = process.memoryUsage().rss
    const { tensors } = readGguf(path)
    expect(tensors.get("far")!.offset).toBe(raw.length + 5 * 2 ** 30)
    expect(tensors.get("near")!.bytes).toBe(2 ** 32)
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20)
    rmSync(path)
  })

  test("invalid UTF-8 is kept as bytes and shown as U+FFFD", () => {
    const raw = RawGguf.header(0, 2).key("s", 8).u64(2).bytes(0xff, 0x41)
    raw.key("a", 9).u32(8).u64(1).u64(1).bytes(0x80)
    const { metadata } = readGguf(file(raw))
    expect(metadata.get("s")).toBe("\ufffdA")
    const strings = metadata.get("a") as FlatStrings
    expect([strings.at(0), [...strings.bytes(0)]]).toEqual(["\ufffd", [0x80]])
  })
})

describe("unsound headers are refused with their numbers", () => {
  const LARGE = [2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]

  const f32 = (shape: (bigint | number)[], offset: bigint | number = 0) => {
    return RawGguf.header(1, 0).tensor("t", shape, 0, offset).data(64)
  }
  const nest = (depth: number) => {
    const raw = RawGguf.header(0, 1).key("deep", 9)
    for (let i = 0; i < depth; i++) raw.u32(9).u64(1)
    return raw.u32(0).u64(0).data(64)
  }
  const align = (type: number, value: (raw: RawGguf) => RawGguf) => {
    return value(RawGguf.header(0, 1).key("general.alignment", type)).data(64)
  }
  const twoTensors = (second: string, offset: number) => {
    return RawGguf.header(2, 0).tensor("a", [16], 0, 0).tensor(second, [16], 0, offset).data(128)
  }
  const CASES: Record<string, [RawGguf, RegExp]> = {
    "an empty file": [new RawGguf(), /is empty/],
    "another magic": [new RawGguf().ascii("PK\u0003\u0004 and more text"), /not a GGUF file.*504b0304/],
    "three bytes": [new RawGguf().ascii("GGU"), /truncated.*4 bytes.*ends at 3/],
    "no counts": [new RawGguf().ascii("GGUF").u32(3), /truncated/],
    "an unknown metadata type": [RawGguf.header(0, 1).key("k", 13).data(64), /k has metadata type 13/],
    "an unknown element type": [RawGguf.header(0, 1).key("k", 9).u32(77).u64(0), /k has metadata type 77/],
    "a truth value of 2": [RawGguf.header(0, 1).key("k", 7).bytes(2).data(64), /is 2, truth values/],
    "a key twice": [RawGguf.header(0, 2).key("k", 0).bytes(1).key("k", 0).bytes(1), /k appears twice/],
    "a key of 65536 bytes": [RawGguf.header(0, 1).key("k".repeat(65536), 0).bytes(1), /65536 bytes, at most 65535/],
    "arrays nested too deep": [nest(100), /nested more than 8 deep/],
    "a tensor twice": [twoTensors("a", 64), /tensor a appears twice/],
    "overlapping tensors": [twoTensors("b", 32), /tensors a \(bytes 96 to 160\) and b \(from 128\) overlap/],
    "tensors in one place": [twoTensors("b", 0), /overlap/],
    "five dimensions": [f32([1, 1, 1, 1, 1]), /5 dimensions, at most 4/],
    "a zero dimension": [f32([4, 0]), /impossible shape \[4, 0\]/],
    "a product that overflows 64 bits": [f32([2n ** 32n, 2n ** 32n]), /impossible shape/],
    "a negative dimension": [f32([2n ** 64n - 4n, 1]), /impossible shape/],
    "an offset off the alignment": [f32([4], 8), /data byte 8, not a multiple of the alignment 32/],
    "a tensor that ends after the file": [f32([32]), /truncated: tensor t takes 128 bytes from byte 64.*ends at 128/],
    "a tensor that begins after the file": [f32([4], 128), /truncated: tensor t takes 16 bytes from byte 192/],
    "an offset of 2^64 - 32": [f32([4], 2n ** 64n - 32n), /truncated|not a multiple/],
    "an unlisted type beyond the end": [RawGguf.header(1, 0).tensor("t", [4], 19, 4096).data(64), /truncated/],
    "half a block": [RawGguf.header(1, 0).tensor("t", [48], 2, 0).data(64), /rows of 48, not a multiple.*32/],
    "rows that are no blocks": [RawGguf.header(1, 0).tensor("t", [16, 4], 2, 0).data(64), /Q4_0 has rows of 16/],
    "alignment 0": [align(4, (raw) => raw.u32(0)), /alignment is 0/],
    "alignment 48": [align(4, (raw) => raw.u32(48)), /alignment is 48/],
    "alignment 2^31": [align(4, (raw) => raw.u32(2 ** 31)), /alignment is 2147483648/],
    "alignment 2^60": [align(10, (raw) => raw.u64(2n ** 60n)), /alignment is 1152921504606846976/],
    "alignment -32": [align(5, (raw) => raw.number(-32, 4)), /alignment is -32/],
    "alignment 0.5": [align(6, (raw) => raw.u32(0x3f000000)), /alignment is 0.5/],
    "alignment as text": [align(8, (raw) => raw.string("32")), /alignment is 32, a power/],
    "alignment as an array": [align(9, (raw) => raw.u32(4).u64(0)), /alignment is an array/],
  }
  for (const [name, [raw, message]] of Object.entries(CASES)) {
    test(name, () => {
      expect(refusal(file(raw))).toMatch(message)
    })
  }

  test("counts and lengths that the file cannot hold", () => {
    for (const n of LARGE) {
      const number = String(Number(n)).replace("+", "\\+")
      const many = new RegExp(`${number} of at least`)
      expect(refusal(file(RawGguf.header(n, 0).data(64)))).toMatch(many)
      expect(refusal(file(RawGguf.header(0, n).data(64)))).toMatch(many)
      for (const type of [0, 2, 4, 6, 7, 8, 9, 12]) {
        expect(refusal(file(RawGguf.header(0, 1).key("k", 9).u32(type).u64(n).data(64)))).toMatch(many)
      }
      const long = /truncated|ends at byte|at most/
      expect(refusal(file(RawGguf.header(0, 1).u64(n).data(64)))).toMatch(long)
      expect(refusal(file(RawGguf.header(0, 1).key("k", 8).u64(n).data(64)))).toMatch(long)
      expect(refusal(file(RawGguf.header(0, 1).key("k", 9).u32(8).u64(1).u64(n).data(64)))).toMatch(long)
      expect(refusal(file(RawGguf.header(1, 0).u64(n).data(64)))).toMatch(long)
      expect(refusal(file(f32([n])))).toMatch(/truncated|impossible/)
      expect(refusal(file(f32([4], n - (n % 32n))))).toMatch(/truncated/)
    }
  })

  test("every truncation of a sound file", () => {
    const raw = RawGguf.header(1, 3).key("n", 4).u32(7).key("s", 9).u32(8).u64(2).string("ab").string("c")
    raw.key("nested", 9).u32(9).u64(1).u32(3).u64(2).u32(9).tensor("t", [4, 2], 0, 0).data(32)
    const bytes = raw.toBytes()
    readGguf(file(bytes))
    for (let n = 0; n < bytes.length; n++) refusal(file(bytes.subarray(0, n)))
  })

  test("other versions and the other byte order, by name", () => {
    for (const version of [0, 1, 4, 0xffffffff]) {
      const message = refusal(file(RawGguf.header(0, 0, version)), UnsupportedError)
      expect(message).toContain(`GGUF version ${version} is not supported; known: 2, 3`)
    }
    for (const version of [2, 3]) {
      const raw = new RawGguf(true).ascii("GGUF").u32(version).u64(0).u64(0)
      expect(refusal(file(raw), UnsupportedError)).toMatch(/big-endian/)
    }
  })

  test("what is no file", () => {
    expect(refusal(folder)).toMatch(/is a folder/)
    expect(refusal(join(folder, "nowhere.gguf"), ModelUnavailableError)).toMatch(/there is no such file/)
    expect(refusal(join(file(new RawGguf()), "below"), ModelUnavailableError)).toMatch(/ENOTDIR/)
    expect(refusal("/dev/zero")).toMatch(/not a regular file/)
    const pipe = join(folder, "pipe")
    expect(spawnSync("mkfifo", [pipe]).status).toBe(0)
    expect(refusal(pipe)).toMatch(/not a regular file/)
    for (const path of ["", "a\0b", undefined, 7]) expect(() => readGguf(path as string)).toThrow(ArgumentError)
  })

  test("a header of millions of empty things takes no more memory than its file allows", () => {
    // A sparse file reads as zeros: an array of 33 million empty strings, and of as many nested arrays.
    for (const type of [8, 9]) {
      const raw = RawGguf.header(0, 1)
        .key("k", 9)
        .u32(type)
        .u64(2 ** 30)
      const path = file(raw)
      const fd = openSync(path, "r+")
      writeSync(fd, new Uint8Array(1), 0, 1, 2 ** 34)
      closeSync(fd)
      expect(refusal(path)).toMatch(/1073741824 of at least/)
      rmSync(path)
    }
    const nested = RawGguf.header(0, 1).key("k", 9).u32(9).u64(70_000)
    expect(refusal(file(nested.data(70_000 * 12)))).toMatch(/70000, at most 65536/)
  })
})

// ---- the writer ----

describe("the writer", () => {
  const bytes = new Uint8Array(128)
  const tensor: TensorData = { name: "t", type: "F32", shape: [32], data: () => [bytes] }

  test("leaves nothing behind that is not whole", () => {
    const before = readdirSync(folder)
    const path = join(folder, "refused.gguf")
    const refuse = (contents: Partial<GgufContents>, message: RegExp) => {
      expect(() => writeGguf(path, { metadata: new Map(), tensors: [], ...contents })).toThrow(message)
      expect(readdirSync(folder)).toEqual(before)
    }
    refuse({ tensors: [{ ...tensor, shape: [33] }] }, /takes 132 bytes, its data has 128/)
    refuse({ tensors: [{ ...tensor, shape: [31] }] }, /takes 124 bytes, its data has 128/)
    refuse({ tensors: [tensor, tensor] }, /t is given twice/)
    refuse({ tensors: [{ ...tensor, shape: [0] }] }, /cannot have the shape \[0\]/)
    refuse({ tensors: [{ ...tensor, shape: [1, 1, 1, 1, 32] }] }, /cannot have the shape/)
    refuse({ tensors: [{ ...tensor, type: "Q4_0", shape: [16, 2] }] }, /cannot have the shape \[16, 2\]/)
    refuse({ tensors: [{ ...tensor, type: "IQ2_S" as TensorTypeName }] }, /IQ2_S cannot be written; known: F32, F16/)
    refuse({ metadata: new Map([["general.alignment", 48]]) }, /alignment is 48/)
    for (const [value, type] of [
      [256, "u8"],
      [-1, "u32"],
      [0.5, "i64"],
      [2n ** 64n, "u64"],
      [-1n, "u64"],
      [1, "bool"],
      [1, "string"],
      [new Float32Array(1), "u32"],
    ] as [MetadataValue, MetadataTypeName][]) {
      refuse({ metadata: new Map([["k", value]]), metadataTypes: new Map([["k", type]]) }, /k/)
    }
    const broken = function* () {
      yield bytes.subarray(0, 64)
      throw new Error("the source broke")
    }
    refuse({ tensors: [{ ...tensor, data: broken }] }, /the source broke/)
  })

  test("replaces a file only once the new one is whole", () => {
    const path = write({ tensors: [tensor] })
    expect(() => write({ tensors: [{ ...tensor, data: () => [] }] })).toThrow(ArgumentError)
    expect(readGguf(path).tensors.size).toBe(1)
    write({ tensors: [] })
    expect(readGguf(path).tensors.size).toBe(0)
  })

  test("a place that cannot be written is a typed error", () => {
    for (const path of [join(folder, "no/such/folder.gguf"), join(folder, "a\0b")]) {
      expect(() => writeGguf(path, { metadata: new Map(), tensors: [] })).toThrow(AsdslError)
    }
  })

  test("holds one piece at a time", () => {
    const n = 2 ** 18
    let pieces = 0
    const data = function* () {
      const piece = new Uint8Array(4 * n)
      for (; pieces < 64; pieces++) yield piece.fill(pieces)
    }
    const before = process.memoryUsage().rss
    const path = write({ tensors: [{ name: "large", type: "F32", shape: [n, 64], data }] })
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 2 ** 20)
    expect([pieces, readGguf(path).fileBytes]).toEqual([64, readGguf(path).tensors.get("large")!.offset + 2 ** 26])
  })
})
