// Where tensors to quantise come from: what a GGUF file and a checkpoint folder have in common. Knows no block format and
// no policy; a source hands out rows as its file has them, or as it converts them, and keeps none.

import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"

/** A tensor that can be read piece by piece, again and again and in any order. */
export interface TensorSource {
  /** As in a GGUF file: "blk.0.attn_q.weight". */
  readonly name: string
  /** Of the rows that readRows gives. */
  readonly type: TensorTypeName
  /** Innermost dimension first, as in a GGUF file: a matrix is [cols (inputs), rows (outputs)]. */
  readonly shape: readonly number[]
  /** Fills `out`, whole rows of rowBytes(source) each, with the rows from `firstRow` on; rows are counted over all outer
   * dimensions. Blocks while it reads, so it is asked for some megabytes at a time. Throws AsdslError where it cannot.
   * `out` may be memory of C's, and is not to be kept. */
  readRows(firstRow: number, out: Uint8Array): void
}

/** A model to quantise: what its GGUF file will say of it, and its tensors in the order in which they are written. */
export interface ModelSource extends Disposable {
  /** For messages: the file or the folder. */
  readonly path: string
  readonly metadata: ReadonlyMap<string, MetadataValue>
  readonly metadataTypes: ReadonlyMap<string, MetadataTypeName>
  readonly tensors: readonly TensorSource[]
}

type Shaped = Pick<TensorSource, "type" | "shape">

/** Weights of a row. */
export function rowLength({ shape }: Shaped): number {
  return shape[0] ?? 1
}

/** Rows of a tensor, over all outer dimensions. */
export function rowCount({ shape }: Shaped): number {
  return shape.slice(1).reduce((product, size) => product * size, 1)
}

/** Bytes of a row in a type, which must have blocks that divide it; by default in the source's own. */
export function rowBytes(source: Shaped, type: TensorTypeName = source.type): number {
  const { block, bytes } = TENSOR_TYPES[type]
  return (rowLength(source) / block) * bytes
}
