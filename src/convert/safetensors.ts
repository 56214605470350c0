// The header of a safetensors file: which tensors it holds, where and in what form. Owns the checks that make a header safe
// to believe, which are those of the format's own reader: every byte of the data belongs to exactly one tensor, and
// offsets, shape and element type agree. Knows no model.
// Source: the README of huggingface/safetensors ("Format") and Metadata::validate of its reader.

import { FormatError } from "../errors.ts"
import { Fields } from "./fields.ts"
import { type InputFile, parseJson } from "./files.ts"

/** Bits of an element by the name of its type. */
const ELEMENT_BITS: Readonly<Record<string, number>> = {
  ...{ F64: 64, F32: 32, F16: 16, BF16: 16, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
  ...{ I64: 64, U64: 64, I32: 32, U32: 32, I16: 16, U16: 16, I8: 8, U8: 8, BOOL: 8, C64: 64 },
}

const MAX_HEADER_BYTES = 100_000_000 // of the format's own reader
const MAX_DIMENSIONS = 8 // safetensors has no bound, models have two or three

export interface StoredTensor {
  readonly name: string
  /** As in the file: "BF16". */
  readonly dtype: string
  /** Outermost dimension first, as in the file: a matrix is [rows (outputs), cols (inputs)]. */
  readonly shape: readonly number[]
  readonly file: InputFile
  /** Bytes from the start of that file. */
  readonly offset: number
  readonly bytes: number
}

/** Reads and checks a file's header. Throws FormatError for one that is damaged or lies. */
export function readSafetensors(file: InputFile): StoredTensor[] {
  const { path } = file
  if (file.bytes < 8) throw new FormatError(`${path}: ${file.bytes} bytes are no safetensors file`)
  const front = new Uint8Array(8)
  file.read(0, front)
  const headerBytes = Number(new DataView(front.buffer).getBigUint64(0, true))
  if (headerBytes > file.bytes - 8) {
    throw new FormatError(
      `${path}: truncated, or no safetensors file: its header would have ${headerBytes} bytes, the file has ${file.bytes}`,
    )
  }
  if (headerBytes > MAX_HEADER_BYTES) {
    throw new FormatError(`${path}: a header of ${headerBytes} bytes, at most ${MAX_HEADER_BYTES} are allowed`)
  }
  const text = new Uint8Array(headerBytes)
  file.read(8, text)
  const place = `the header of ${path}`
  const header = new Fields(place, parseJson(place, new TextDecoder().decode(text)))
  const tensors: StoredTensor[] = []
  for (const [name, value] of header.entries()) {
    if (name !== "__metadata__") tensors.push(readTensor(file, 8 + headerBytes, name, value))
  }
  checkCover(file, tensors, 8 + headerBytes)
  return tensors
}

function readTensor(file: InputFile, dataStart: number, name: string, value: unknown): StoredTensor {
  const fields = new Fields(`${file.path}: ${name}`, value)
  const dtype = fields.string("dtype") ?? fields.fail("dtype", "the name of an element type")
  const shape = wholeNumbers(fields, "shape")
  const [begin, end, ...more] = wholeNumbers(fields, "data_offsets")
  if (begin === undefined || end === undefined || more.length > 0 || begin > end) {
    return fields.fail("data_offsets", "[begin, end] with begin <= end")
  }
  if (shape.length > MAX_DIMENSIONS) fields.fail("shape", `one of at most ${MAX_DIMENSIONS} dimensions`)
  if (dataStart + end > file.bytes) {
    throw new FormatError(`${file.path}: truncated: ${name} ends at byte ${dataStart + end}, the file at ${file.bytes}`)
  }
  const bits = Object.hasOwn(ELEMENT_BITS, dtype) ? ELEMENT_BITS[dtype]! : fields.fail("dtype", "a known element type")
  const needed = (shape.reduce((product, size) => product * size, 1) * bits) / 8
  if (needed !== end - begin) {
    throw new FormatError(
      `${file.path}: ${name}, ${dtype} of shape [${shape.join(", ")}], takes ${needed} bytes, its data_offsets ` +
        `${begin} to ${end} are ${end - begin}`,
    )
  }
  return { name, dtype, shape, file, offset: dataStart + begin, bytes: end - begin }
}

function wholeNumbers(fields: Fields, key: string): number[] {
  const values = fields.array(key) ?? fields.fail(key, "an array of whole numbers")
  return values.map((value) => {
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value
    return fields.fail(key, "an array of whole numbers from 0 on")
  })
}

/** No gap, no overlap, nothing behind the last one. */
function checkCover(file: InputFile, tensors: readonly StoredTensor[], dataStart: number): void {
  let end = dataStart
  let before = "the header"
  for (const tensor of [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (tensor.offset < end) {
      throw new FormatError(`${file.path}: ${tensor.name} begins at byte ${tensor.offset}, inside of ${before}`)
    }
    if (tensor.offset > end) {
      throw new FormatError(`${file.path}: bytes ${end} to ${tensor.offset}, behind ${before}, belong to no tensor`)
    }
    end = tensor.offset + tensor.bytes
    before = tensor.name
  }
  if (end !== file.bytes) {
    throw new FormatError(`${file.path}: its tensors end at byte ${end}, the file at ${file.bytes}`)
  }
}
