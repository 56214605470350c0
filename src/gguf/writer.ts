// Writes GGUF files, version 3: a header made in memory, then tensor data as its owner hands it over, into a temporary
// file that takes the final name once it is complete. Knows no model and no quantisation.
// Source: the GGUF specification in ggml-org/ggml docs/gguf.md.

import { ArgumentError, UnsupportedError } from "../errors.ts"
import { OutputFile } from "../output-file.ts"
import { METADATA_TYPES, type MetadataTypeName, NUMERIC_ARRAYS, type NumericTypeName } from "./metadata-types.ts"
import { isStringArray } from "./strings.ts"
import {
  type MetadataArray,
  type MetadataValue,
  type StringArray,
  TENSOR_TYPES,
  type TensorInfo,
  type TensorTypeName,
} from "./types.ts"

/** A tensor to write, without its data. */
export interface TensorHeader {
  readonly name: string
  readonly type: TensorTypeName
  /** Innermost dimension first. */
  readonly shape: readonly number[]
}

/** A tensor to write. */
export interface TensorData extends TensorHeader {
  /** Its bytes in as many pieces as is handy. Asked for only when its turn comes, and not kept. */
  data(): Iterable<Uint8Array>
}

/** What a header says. */
export interface GgufDescription {
  readonly metadata: ReadonlyMap<string, MetadataValue>
  /** Types of scalars, or of an array's elements, by key; GgufFile has them. Otherwise the value decides: whole numbers
   * become u32, else i32, u64 or i64, other numbers f32 where that is exact, else f64; a Uint8Array holds u8. */
  readonly metadataTypes?: ReadonlyMap<string, MetadataTypeName>
  readonly tensors: readonly TensorHeader[]
}

export interface GgufContents extends GgufDescription {
  readonly tensors: readonly TensorData[]
}

/** Writes a file of its own name or nothing. Alignment of tensors: general.alignment in the metadata, else 32.
 * Throws ArgumentError for contents that no reader would take and where a tensor's data has another size than its shape,
 * AsdslError "io" where the system refuses. */
export function writeGguf(path: string, contents: GgufContents): void {
  using writer = new GgufWriter(path, contents)
  for (const tensor of contents.tensors) {
    for (const piece of tensor.data()) writer.write(piece)
    writer.endTensor()
  }
  writer.finish()
}

/** A file that is being written, for those who make its data in turns with other work. It has another name until
 * finish(), and nothing of it is left when it is disposed before. Throws what writeGguf throws. */
export class GgufWriter implements Disposable {
  readonly #file: OutputFile
  readonly #out: BufferedOutput
  readonly #tensors: readonly TensorHeader[]
  readonly #offsets: readonly number[]
  readonly #alignment: number
  readonly #dataStart: number
  #current = 0

  constructor(path: string, contents: GgufDescription) {
    const alignment = alignmentOf(contents.metadata)
    const { header, offsets } = makeHeader(contents, alignment)
    this.#tensors = contents.tensors
    this.#offsets = offsets
    this.#alignment = alignment
    this.#file = new OutputFile(path)
    this.#out = new BufferedOutput(this.#file)
    this.#out.write(header)
    this.#out.pad(alignment)
    this.#dataStart = this.#out.written
  }

  /** More data of the tensor whose turn it is. The bytes are not kept. */
  write(bytes: Uint8Array): void {
    this.#out.write(bytes)
  }

  /** The turn of the next tensor. */
  endTensor(): void {
    const tensor = this.#tensors[this.#current]!
    const written = this.#out.written - this.#dataStart - this.#offsets[this.#current]!
    checkSize(tensor, written)
    this.#current++
    this.#out.pad(this.#alignment)
  }

  /** All tensors are there: the file gets its name. */
  finish(): void {
    if (this.#current < this.#tensors.length) throw new Error(`${this.#tensors[this.#current]!.name} was not written`)
    this.#out.flush()
    this.#file.sync()
    this.#file.finish()
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]()
  }
}

function checkSize(tensor: TensorHeader, bytes: number): void {
  const expected = tensorBytes(tensor)
  if (bytes === expected) return
  throw new ArgumentError(
    `${tensor.name} of type ${tensor.type} and shape [${tensor.shape.join(", ")}] takes ${expected} bytes, its data has ${bytes}`,
  )
}

function alignmentOf(metadata: ReadonlyMap<string, MetadataValue>): number {
  const value = metadata.get("general.alignment") ?? 32
  if (typeof value === "number" && value >= 1 && value <= 2 ** 24 && Number.isInteger(Math.log2(value))) return value
  throw new ArgumentError(`general.alignment is ${String(value)}, a power of two from 1 to ${2 ** 24} is needed`)
}

function tensorBytes({ name, type, shape }: TensorHeader): number {
  if (!Object.hasOwn(TENSOR_TYPES, type)) {
    throw new UnsupportedError(
      `${name}: tensor type ${type} cannot be written; known: ${Object.keys(TENSOR_TYPES).join(", ")}`,
    )
  }
  const { block, bytes } = TENSOR_TYPES[type]
  const n = shape.reduce((product, size) => product * size, 1)
  const isSound = shape.every((size) => Number.isSafeInteger(size) && size > 0) && Number.isSafeInteger(n)
  if (!isSound || shape.length > 4 || (shape[0] ?? 1) % block !== 0) {
    throw new ArgumentError(`${name} of type ${type} cannot have the shape [${shape.join(", ")}]`)
  }
  return (n / block) * bytes
}

function makeHeader(contents: GgufDescription, alignment: number): { header: Uint8Array; offsets: number[] } {
  const entries: TensorEntry[] = []
  let end = 0
  for (const tensor of contents.tensors) {
    const offset = Math.ceil(end / alignment) * alignment
    end = offset + tensorBytes(tensor)
    entries.push({ name: tensor.name, shape: tensor.shape, type: TENSOR_TYPES[tensor.type].id, offset })
  }
  return { header: encodeHeader({ ...contents, tensors: entries }), offsets: entries.map(({ offset }) => offset) }
}

/** A tensor as a header describes it: of any type number, its offset from the start of the data. */
export type TensorEntry = Pick<TensorInfo, "name" | "type" | "shape" | "offset">

/** The bytes of a header of version 3, padding behind it not included. Throws ArgumentError for contents that no reader
 * would take. */
export function encodeHeader({
  metadata,
  metadataTypes,
  tensors,
}: Omit<GgufDescription, "tensors"> & { readonly tensors: readonly TensorEntry[] }): Uint8Array {
  const out = new HeaderOutput()
  out.bytes(new TextEncoder().encode("GGUF"))
  out.u32(3)
  out.u64(tensors.length)
  out.u64(metadata.size)
  for (const [key, value] of metadata) out.entry(key, value, metadataTypes?.get(key))
  const names = new Set<string>()
  for (const { name, shape, type, offset } of tensors) {
    if (names.has(name)) throw new ArgumentError(`tensor ${name} is given twice`)
    names.add(name)
    out.string(name)
    out.u32(shape.length)
    for (const size of shape) out.u64(size)
    out.u32(type)
    out.u64(offset)
  }
  return out.finish()
}

/** Bytes of a header, in memory. */
class HeaderOutput {
  #bytes = new Uint8Array(4096)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  /** Where the next n bytes go. */
  #take(n: number): number {
    const at = this.#length
    this.#length += n
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#length)
      larger.set(this.#bytes.subarray(0, at))
      this.#bytes = larger
      this.#view = new DataView(larger.buffer)
    }
    return at
  }

  bytes(bytes: Uint8Array): void {
    const at = this.#take(bytes.length) // may move the memory
    this.#bytes.set(bytes, at)
  }

  u32(value: number): void {
    const at = this.#take(4)
    this.#view.setUint32(at, value, true)
  }

  u64(value: number): void {
    const at = this.#take(8)
    this.#view.setBigUint64(at, BigInt(value), true)
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text)
    this.u64(bytes.length)
    this.bytes(bytes)
  }

  entry(key: string, value: MetadataValue, type: MetadataTypeName | undefined): void {
    this.string(key)
    if (typeof value === "string") {
      this.u32(METADATA_TYPES.string)
      this.string(value)
    } else if (typeof value === "object") {
      this.u32(METADATA_TYPES.array)
      this.#array(key, value, type)
    } else {
      const scalarType = type === undefined ? scalarTypeOf(value) : numericType(key, type)
      this.u32(METADATA_TYPES[scalarType])
      this.bytes(scalarBytes(key, value, scalarType))
    }
  }

  /** The elements' type, their count, the elements. */
  #array(key: string, value: MetadataArray, type: MetadataTypeName | undefined): void {
    if (Array.isArray(value)) {
      this.u32(METADATA_TYPES.array)
      this.u64(value.length)
      for (const element of value) this.#array(key, element, undefined)
    } else if (isStringArray(value)) {
      this.u32(METADATA_TYPES.string)
      this.u64(value.length)
      this.#strings(value)
    } else {
      this.u32(METADATA_TYPES[arrayTypeOf(key, value, type)])
      this.u64(value.length)
      this.bytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
    }
  }

  #strings({ data, starts, lengths, length: n }: StringArray): void {
    for (let i = 0; i < n; i++) {
      this.u64(lengths[i]!)
      this.bytes(data.subarray(starts[i]!, starts[i]! + lengths[i]!))
    }
  }
}

function numericType(key: string, type: MetadataTypeName): NumericTypeName {
  if (type === "string" || type === "array") throw new ArgumentError(`${key} is a number, not of type ${type}`)
  return type
}

function scalarTypeOf(value: number | bigint | boolean): NumericTypeName {
  if (typeof value === "boolean") return "bool"
  if (typeof value === "bigint") return value < 0n ? "i64" : "u64"
  if (!Number.isSafeInteger(value) || Object.is(value, -0)) return Object.is(Math.fround(value), value) ? "f32" : "f64"
  if (value < 0) return value >= -(2 ** 31) ? "i32" : "i64"
  return value < 2 ** 32 ? "u32" : "u64"
}

/** The bytes of a scalar. A value that the type cannot hold is an ArgumentError. */
function scalarBytes(key: string, value: number | bigint | boolean, type: NumericTypeName): Uint8Array {
  const one = new NUMERIC_ARRAYS[type](1)
  if (one instanceof BigUint64Array || one instanceof BigInt64Array) {
    const whole = typeof value === "number" && !Number.isInteger(value) ? undefined : BigInt(value)
    if (whole !== undefined) one[0] = whole
    if (one[0] !== whole) throw new ArgumentError(`${key}: ${value} is not a value of type ${type}`)
  } else {
    one[0] = Number(value)
    const isHeld = type === "f32" || type === "f64" ? typeof value === "number" : one[0] === Number(value)
    if (!isHeld || (type === "bool" && typeof value !== "boolean")) {
      throw new ArgumentError(`${key}: ${value} is not a value of type ${type}`)
    }
  }
  return new Uint8Array(one.buffer)
}

function arrayTypeOf(
  key: string,
  value: Exclude<MetadataArray, StringArray | MetadataArray[]>,
  type: MetadataTypeName | undefined,
): NumericTypeName {
  const entries = Object.entries(NUMERIC_ARRAYS) as [NumericTypeName, (typeof NUMERIC_ARRAYS)[NumericTypeName]][]
  const fitting = entries.filter(([, ArrayType]) => value instanceof ArrayType).map(([name]) => name)
  const found = type === undefined ? fitting[0] : fitting.find((name) => name === type)
  if (found === undefined) throw new ArgumentError(`${key} is a ${value.constructor.name}, not an array of ${type}`)
  return found
}

/** Collects small pieces, hands on large ones. */
class BufferedOutput {
  written = 0
  readonly #file: OutputFile
  readonly #buffer = new Uint8Array(2 ** 18)
  #held = 0

  constructor(file: OutputFile) {
    this.#file = file
  }

  write(bytes: Uint8Array): void {
    this.written += bytes.length
    if (this.#held + bytes.length > this.#buffer.length) this.flush()
    if (bytes.length > this.#buffer.length) {
      this.#file.write(bytes)
    } else {
      this.#buffer.set(bytes, this.#held)
      this.#held += bytes.length
    }
  }

  /** Zeros up to a multiple of the alignment. */
  pad(alignment: number): void {
    let n = Math.ceil(this.written / alignment) * alignment - this.written
    for (; n > 0; n -= Math.min(n, ZEROS.length)) this.write(ZEROS.subarray(0, Math.min(n, ZEROS.length)))
  }

  flush(): void {
    this.#file.write(this.#buffer.subarray(0, this.#held))
    this.#held = 0
  }
}

const ZEROS = new Uint8Array(4096)
