// GGUF's metadata types by number, and the array that holds each in memory.
// Source: the GGUF specification in ggml-org/ggml docs/gguf.md (enum gguf_metadata_value_type).

export const METADATA_TYPES = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const

export type MetadataTypeName = keyof typeof METADATA_TYPES
export type NumericTypeName = Exclude<MetadataTypeName, "string" | "array">

/** Numbers and truth values: bytes of one, and the array of many. */
export const NUMERIC_ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  bool: Uint8Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  f64: Float64Array,
} as const

const NAMES = new Map<number, MetadataTypeName>(
  Object.entries(METADATA_TYPES).map(([name, id]) => [id, name as MetadataTypeName]),
)

/** The name of a type number; undefined for a number that GGUF does not know. */
export function metadataTypeName(id: number): MetadataTypeName | undefined {
  return NAMES.get(id)
}
