// The header of a GGUF file: metadata and tensor descriptions. Owns the checks that make a header safe to believe: every
// count is compared with the bytes that are left before anything is allocated for it, and every tensor lies inside the
// file. Reads the header alone, never tensor data. Knows no model.
// Source: the GGUF specification in ggml-org/ggml docs/gguf.md.

import { closeSync, fstatSync, openSync, readSync, type Stats, statSync } from "node:fs"
import { ArgumentError, FormatError, UnsupportedError } from "../errors.ts"
import { reading } from "../file-errors.ts"
import { type MetadataTypeName, metadataTypeName, NUMERIC_ARRAYS, type NumericTypeName } from "./metadata-types.ts"
import { decodeUtf8, FlatStrings } from "./strings.ts"
import {
  type GgufHeader,
  type MetadataArray,
  type MetadataValue,
  TENSOR_TYPES,
  type TensorInfo,
  type TensorTypeName,
} from "./types.ts"

/** What a file holds beyond GgufHeader: enough to write the same metadata again. */
export interface GgufFile extends GgufHeader {
  /** The type of each scalar, or of an array's elements: 1.0 and 1, or bytes and truth values, look the same as values. */
  readonly metadataTypes: ReadonlyMap<string, MetadataTypeName>
}

// Bounds far beyond any real header (a vocabulary of 262,144 tokens with its merges takes 15 MB) and far below what hurts.
const MAX_HEADER_BYTES = 2 ** 27
const USUAL_HEADER_BYTES = 2 ** 24
const READ_AHEAD_BYTES = 2 ** 18
const MAX_METADATA = 2 ** 16
const MAX_TENSORS = 2 ** 18
const MAX_NAME_BYTES = 2 ** 16 - 1 // of keys, by the specification
const MAX_DIMENSIONS = 4 // GGML_MAX_DIMS
const MAX_NESTING = 8
const MAX_NESTED_ARRAYS = 2 ** 16
const MAX_ALIGNMENT = 2 ** 24
const DEFAULT_ALIGNMENT = 32

// Bytes that the shortest of each takes.
const MIN_METADATA_BYTES = 8 + 4 + 1 // key length, type, value
const MIN_TENSOR_BYTES = 8 + 4 + 4 + 8 // name length, dimensions, type, offset
const MIN_STRING_BYTES = 8
const MIN_ARRAY_BYTES = 4 + 8

const TYPE_BY_ID = new Map<number, TensorTypeName>(
  Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name as TensorTypeName]),
)

/** Reads and checks the header of a GGUF file, version 2 or 3, little-endian. Tensors of a type that TENSOR_TYPES does not
 * list are described with 0 bytes. Throws ModelUnavailableError where there is no such regular file, FormatError for a
 * header that is damaged or lies, UnsupportedError for other versions and big-endian files. */
export function readGguf(path: string): GgufFile {
  if (typeof path !== "string" || path === "" || path.includes("\0")) {
    throw new ArgumentError(`not a path: ${JSON.stringify(path)}`)
  }
  // A look before opening: opening a pipe waits for its writer, opening a device may do anything.
  requireRegularFile(path, () => statSync(path))
  const fd = reading(path, () => openSync(path, "r"))
  try {
    const { size } = requireRegularFile(path, () => fstatSync(fd))
    return parse(new HeaderBytes(path, fd, size))
  } finally {
    closeSync(fd)
  }
}

function requireRegularFile(path: string, stat: () => Stats): Stats {
  const stats = reading(path, stat)
  if (stats.isFile()) return stats
  const kind = stats.isDirectory() ? "a folder" : "not a regular file"
  throw new FormatError(`${path} is ${kind}, a GGUF file is needed`)
}

/** The front of a file, read as far as it is asked for, and a position in it. */
class HeaderBytes {
  readonly path: string
  readonly fileBytes: number
  position = 0
  /** Sound up to `filled`. Reserved once and touched only as far as it is read: page faults of fresh memory are most of
   * what reading a vocabulary costs, so growing by copies would double it. */
  bytes: Uint8Array<ArrayBuffer>
  view: DataView
  #filled = 0
  readonly #fd: number

  constructor(path: string, fd: number, fileBytes: number) {
    this.path = path
    this.fileBytes = fileBytes
    this.#fd = fd
    this.bytes = new Uint8Array(Math.min(fileBytes, USUAL_HEADER_BYTES))
    this.view = new DataView(this.bytes.buffer)
  }

  get filled(): number {
    return this.#filled
  }

  fail(text: string): never {
    throw new FormatError(`${this.path}: ${text}`)
  }

  /** Bytes from here to where a header has to end. */
  get left(): number {
    return Math.min(this.fileBytes, MAX_HEADER_BYTES) - this.position
  }

  /** Makes the next n bytes available. */
  need(n: number, what: string): void {
    const end = this.position + n
    if (end <= this.#filled) return
    if (end > this.fileBytes) {
      this.fail(
        `truncated: ${what} takes ${n} bytes from byte ${this.position}, but the file ends at ${this.fileBytes}`,
      )
    }
    if (end > MAX_HEADER_BYTES) this.fail(`${what} ends at byte ${end}, headers may take ${MAX_HEADER_BYTES}`)
    if (end > this.bytes.length) this.#reserve(Math.min(this.fileBytes, MAX_HEADER_BYTES))
    this.#read(Math.min(Math.max(end, this.#filled + READ_AHEAD_BYTES), this.bytes.length))
  }

  #reserve(capacity: number): void {
    const larger = new Uint8Array(capacity)
    larger.set(this.bytes.subarray(0, this.#filled))
    this.bytes = larger
    this.view = new DataView(larger.buffer)
  }

  #read(end: number): void {
    while (this.#filled < end) {
      const at = this.#filled
      const n = reading(this.path, () => readSync(this.#fd, this.bytes, at, end - at, at))
      if (n === 0) this.fail(`the file ended at byte ${at} while it was read, it had ${this.fileBytes}`)
      this.#filled += n
    }
  }

  u8(what: string): number {
    this.need(1, what)
    return this.bytes[this.position++]!
  }

  u32(what: string): number {
    this.need(4, what)
    this.position += 4
    return this.view.getUint32(this.position - 4, true)
  }

  /** As a double: exact below 2^53, and large enough to fail every bound above. */
  u64(what: string): number {
    const low = this.u32(what)
    return this.u32(what) * 2 ** 32 + low
  }

  /** How many things of at least `minBytes` follow: more than fit are refused. */
  count(what: string, minBytes: number, max: number): number {
    const n = this.u64(what)
    if (n * minBytes > this.left) {
      this.fail(
        `${what}: ${n} of at least ${minBytes} bytes each cannot be in the ${this.left} bytes from ${this.position}`,
      )
    }
    if (n > max) this.fail(`${what}: ${n}, at most ${max} are supported`)
    return n
  }

  /** The bytes of a string; a view that is good until more is read. */
  stringBytes(what: string, maxBytes: number): Uint8Array {
    const n = this.u64(`length of ${what}`)
    if (n > maxBytes) this.fail(`${what} at byte ${this.position} has ${n} bytes, at most ${maxBytes} are allowed`)
    this.need(n, what)
    this.position += n
    return this.bytes.subarray(this.position - n, this.position)
  }

  string(what: string, maxBytes: number): string {
    return decodeUtf8(this.stringBytes(what, maxBytes))
  }
}

function parse(bytes: HeaderBytes): GgufFile {
  const { path, fileBytes } = bytes
  const version = readVersion(bytes)
  const nTensors = bytes.count("tensors", MIN_TENSOR_BYTES, MAX_TENSORS)
  const nMetadata = bytes.count("metadata entries", MIN_METADATA_BYTES, MAX_METADATA)
  const reader = new MetadataReader(bytes)
  for (let i = 0; i < nMetadata; i++) reader.readEntry()
  const alignment = readAlignment(bytes, reader.values.get("general.alignment"))
  const described = new Map<string, TensorInfo>()
  for (let i = 0; i < nTensors; i++) readTensor(bytes, described)
  const dataStart = Math.ceil(bytes.position / alignment) * alignment
  const tensors = placeTensors(bytes, described, dataStart, alignment)
  reader.finish()
  return {
    path,
    files: [path],
    version,
    alignment,
    fileBytes,
    metadata: reader.values,
    metadataTypes: reader.types,
    tensors,
  }
}

function readVersion(bytes: HeaderBytes): number {
  if (bytes.fileBytes === 0) bytes.fail("the file is empty")
  bytes.need(4, "the GGUF magic")
  const magic = bytes.bytes.subarray(0, 4)
  if (decodeUtf8(magic) !== "GGUF") bytes.fail(`not a GGUF file: it begins with the bytes ${magic.toHex()}`)
  bytes.position = 4
  const version = bytes.u32("the version")
  if (version === 2 || version === 3) return version
  if (version !== 0 && version % 2 ** 16 === 0) {
    throw new UnsupportedError(`${bytes.path}: a big-endian GGUF file; little-endian files are supported`)
  }
  throw new UnsupportedError(`${bytes.path}: GGUF version ${version} is not supported; known: 2, 3`)
}

function readAlignment(bytes: HeaderBytes, value: MetadataValue | undefined): number {
  if (value === undefined) return DEFAULT_ALIGNMENT
  if (typeof value === "number" && value >= 1 && value <= MAX_ALIGNMENT && Number.isInteger(Math.log2(value))) {
    return value
  }
  const text = typeof value === "object" ? "an array" : String(value)
  return bytes.fail(`general.alignment is ${text}, a power of two from 1 to ${MAX_ALIGNMENT} is needed`)
}

// ---- metadata ----

class MetadataReader {
  readonly values = new Map<string, MetadataValue>()
  readonly types = new Map<string, MetadataTypeName>()
  readonly #bytes: HeaderBytes
  readonly #strings: FlatStrings[] = []
  #nNested = 0

  constructor(bytes: HeaderBytes) {
    this.#bytes = bytes
  }

  readEntry(): void {
    const bytes = this.#bytes
    const key = bytes.string("a metadata key", MAX_NAME_BYTES)
    if (this.values.has(key)) bytes.fail(`metadata key ${key} appears twice`)
    const type = this.#type(key)
    let elements: MetadataTypeName = type
    let value: MetadataValue
    if (type === "array") {
      elements = this.#type(key)
      value = this.#array(key, elements, 0)
    } else if (type === "string") {
      value = bytes.string(key, MAX_HEADER_BYTES)
    } else {
      value = this.#scalar(key, type)
    }
    this.values.set(key, value)
    this.types.set(key, elements)
  }

  /** String arrays look into the header: they get it once it is complete and will not move any more. */
  finish(): void {
    const header = this.#bytes.bytes.subarray(0, this.#bytes.position)
    for (const strings of this.#strings) strings.data = header
  }

  #type(key: string): MetadataTypeName {
    const id = this.#bytes.u32(`type of ${key}`)
    return metadataTypeName(id) ?? this.#bytes.fail(`${key} has metadata type ${id}, known are 0 to 12`)
  }

  #scalar(key: string, type: NumericTypeName): number | bigint | boolean {
    const [value] = this.#numbers(key, type, 1)
    if (type === "bool") return value === 1
    if (typeof value !== "bigint") return value!
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value
  }

  #numbers(key: string, type: NumericTypeName, n: number): Exclude<MetadataArray, FlatStrings | MetadataArray[]> {
    const bytes = this.#bytes
    const ArrayType = NUMERIC_ARRAYS[type]
    const size = n * ArrayType.BYTES_PER_ELEMENT
    bytes.need(size, key)
    const copy = bytes.bytes.slice(bytes.position, bytes.position + size) // aligned, and small enough to keep
    if (type === "bool") {
      const wrong = copy.findIndex((value) => value > 1)
      if (wrong >= 0) bytes.fail(`${key} at byte ${bytes.position + wrong} is ${copy[wrong]}, truth values are 0 or 1`)
    }
    bytes.position += size
    return new ArrayType(copy.buffer, 0, n)
  }

  #array(key: string, type: MetadataTypeName, depth: number): MetadataArray {
    const bytes = this.#bytes
    if (type === "string") return this.#stringArray(key)
    if (type !== "array") {
      const size = NUMERIC_ARRAYS[type].BYTES_PER_ELEMENT
      return this.#numbers(key, type, bytes.count(`values of ${key}`, size, MAX_HEADER_BYTES))
    }
    if (depth === MAX_NESTING) bytes.fail(`${key} has arrays nested more than ${MAX_NESTING} deep`)
    const n = bytes.count(`arrays of ${key}`, MIN_ARRAY_BYTES, MAX_NESTED_ARRAYS)
    this.#nNested += n
    if (this.#nNested > MAX_NESTED_ARRAYS) bytes.fail(`more than ${MAX_NESTED_ARRAYS} nested arrays, at ${key}`)
    return Array.from({ length: n }, () => this.#array(key, this.#type(key), depth + 1))
  }

  #stringArray(key: string): FlatStrings {
    const bytes = this.#bytes
    const n = bytes.count(`strings of ${key}`, MIN_STRING_BYTES, MAX_HEADER_BYTES)
    const starts = new Uint32Array(n)
    const lengths = new Uint32Array(n)
    let { position, bytes: data, filled } = bytes
    for (let i = 0; i < n; i++) {
      // Short strings in the part already read stay free of calls, and bytes beat a DataView: there are 10^5 of them.
      let length = 0
      let isShort = position + 8 <= filled
      if (isShort) {
        length = data[position]! | (data[position + 1]! << 8)
        const high = data[position + 2]! | data[position + 3]! | data[position + 4]! | data[position + 5]!
        isShort = (high | data[position + 6]! | data[position + 7]!) === 0 && position + 8 + length <= filled
      }
      if (!isShort) {
        bytes.position = position
        length = bytes.stringBytes(`string ${i} of ${key}`, MAX_HEADER_BYTES).length
        data = bytes.bytes
        filled = bytes.filled
      }
      starts[i] = position + 8
      lengths[i] = length
      position += 8 + length
    }
    bytes.position = position
    const strings = new FlatStrings(starts, lengths)
    this.#strings.push(strings)
    return strings
  }
}

// ---- tensors ----

/** Adds a tensor as the file describes it: its offset counts from the start of the data, which is not known yet. */
function readTensor(bytes: HeaderBytes, tensors: Map<string, TensorInfo>): void {
  const name = bytes.string("a tensor's name", MAX_NAME_BYTES)
  if (tensors.has(name)) bytes.fail(`tensor ${name} appears twice`)
  const nDimensions = bytes.u32(`dimensions of ${name}`)
  if (nDimensions > MAX_DIMENSIONS) {
    bytes.fail(`tensor ${name} has ${nDimensions} dimensions, at most ${MAX_DIMENSIONS} are allowed`)
  }
  const shape = Array.from({ length: nDimensions }, () => bytes.u64(`shape of ${name}`))
  const type = bytes.u32(`type of ${name}`)
  const offset = bytes.u64(`offset of ${name}`)
  const n = shape.reduce((product, size) => product * size, 1)
  if (shape.includes(0) || !Number.isSafeInteger(n)) {
    bytes.fail(`tensor ${name} has the impossible shape [${shape.join(", ")}]`)
  }
  tensors.set(name, { name, type, shape, file: 0, offset, bytes: tensorBytes(bytes, name, type, shape, n) })
}

function tensorBytes(bytes: HeaderBytes, name: string, type: number, shape: readonly number[], n: number): number {
  const typeName = TYPE_BY_ID.get(type)
  if (typeName === undefined) return 0
  const { block, bytes: blockBytes } = TENSOR_TYPES[typeName]
  const cols = shape[0] ?? 1
  if (cols % block !== 0) {
    bytes.fail(`tensor ${name} of type ${typeName} has rows of ${cols}, not a multiple of its blocks of ${block}`)
  }
  return (n / block) * blockBytes
}

function placeTensors(
  bytes: HeaderBytes,
  described: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  alignment: number,
): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>()
  for (const [name, info] of described) {
    if (info.offset % alignment !== 0) {
      bytes.fail(`tensor ${name} lies at data byte ${info.offset}, not a multiple of the alignment ${alignment}`)
    }
    const offset = dataStart + info.offset
    if (offset + info.bytes > bytes.fileBytes) {
      bytes.fail(
        `truncated: tensor ${name} takes ${info.bytes} bytes from byte ${offset}, the file ends at ${bytes.fileBytes}`,
      )
    }
    tensors.set(name, { ...info, offset })
  }
  const inOrder = [...tensors.values()].filter((info) => info.bytes > 0).sort((a, b) => a.offset - b.offset)
  for (const [i, info] of inOrder.entries()) {
    const before = inOrder[i - 1]
    if (before !== undefined && before.offset + before.bytes > info.offset) {
      bytes.fail(
        `tensors ${before.name} (bytes ${before.offset} to ${before.offset + before.bytes}) and ` +
          `${info.name} (from ${info.offset}) overlap`,
      )
    }
  }
  return tensors
}
