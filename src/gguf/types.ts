// The vocabulary of GGUF: tensor types, metadata values, tensor descriptions. Knows no bytes and no files.
// Source: the GGUF specification in ggml-org/ggml docs/gguf.md.

/** GGUF's tensor types by number (ggml_type); block sizes are in weights, bytes per block as in the file. */
export const TENSOR_TYPES = {
  F32: { id: 0, block: 1, bytes: 4 },
  F16: { id: 1, block: 1, bytes: 2 },
  Q4_0: { id: 2, block: 32, bytes: 18 },
  Q4_1: { id: 3, block: 32, bytes: 20 },
  Q5_0: { id: 6, block: 32, bytes: 22 },
  Q5_1: { id: 7, block: 32, bytes: 24 },
  Q8_0: { id: 8, block: 32, bytes: 34 },
  Q2_K: { id: 10, block: 256, bytes: 84 },
  Q3_K: { id: 11, block: 256, bytes: 110 },
  Q4_K: { id: 12, block: 256, bytes: 144 },
  Q5_K: { id: 13, block: 256, bytes: 176 },
  Q6_K: { id: 14, block: 256, bytes: 210 },
  IQ4_NL: { id: 20, block: 32, bytes: 18 },
  IQ4_XS: { id: 23, block: 256, bytes: 136 },
  BF16: { id: 30, block: 1, bytes: 2 },
} as const

export type TensorTypeName = keyof typeof TENSOR_TYPES

/** Strings of a metadata array, kept as bytes and decoded one at a time: a vocabulary has 10^5 of them. */
export interface StringArray {
  readonly length: number
  /** The UTF-8 bytes of string i, a view into the file's header. */
  bytes(i: number): Uint8Array
  /** String i, decoded (invalid UTF-8 becomes U+FFFD). */
  at(i: number): string
  /** All strings at once: string i is data[starts[i]] to data[starts[i] + lengths[i] - 1]. Making views one by one
   * costs 70 ns each (measured, Bun 1.4.5), 20 ms for a large vocabulary and its merges. */
  readonly data: Uint8Array
  readonly starts: Uint32Array // (length), into data
  readonly lengths: Uint32Array // (length), bytes
}

/** Numeric arrays are typed arrays (64-bit integers BigInt64Array/BigUint64Array), bool arrays Uint8Array,
 * nested arrays plain arrays. 64-bit scalars are numbers when safe, else bigint. */
export type MetadataArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array
  | StringArray
  | MetadataArray[]
export type MetadataValue = number | bigint | boolean | string | MetadataArray

export interface TensorInfo {
  readonly name: string
  /** ggml_type number; may be one that TENSOR_TYPES does not list. */
  readonly type: number
  /** Innermost dimension first, as in the file: a matrix is [cols (inputs), rows (outputs)]. */
  readonly shape: readonly number[]
  /** The file it lies in, an index into GgufHeader.files. */
  readonly file: number
  /** Bytes from the start of that file. */
  readonly offset: number
  /** Bytes of data; 0 for an unlisted type. */
  readonly bytes: number
  /** Rows that are interleaved, in a file of src/interleaved; absent: its rows lie one after the other. */
  readonly interleave?: number
}

const BLOCKS = new Map<number, { block: number; bytes: number }>(
  Object.values(TENSOR_TYPES).map((type) => [type.id, type]),
)

/** Bytes of a tensor's data as a GGUF file has them, also where they are interleaved. */
export function sourceBytes({ type, shape, bytes, interleave }: TensorInfo): number {
  const blocks = interleave === undefined ? undefined : BLOCKS.get(type)
  return blocks === undefined ? bytes : (shape.reduce((n, size) => n * size, 1) / blocks.block) * blocks.bytes
}

/** A parsed GGUF header, or those of a split model's files joined. */
export interface GgufHeader {
  /** The first file's. */
  readonly path: string
  /** One, or all parts of a split model in order. */
  readonly files: readonly string[]
  readonly version: number
  readonly alignment: number
  /** Of all files. */
  readonly fileBytes: number
  readonly metadata: ReadonlyMap<string, MetadataValue>
  readonly tensors: ReadonlyMap<string, TensorInfo>
}
