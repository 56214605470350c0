// A model's tensors from one file into another, each in the type that was planned for it: piece by piece, in bounded
// memory, on all threads of an engine. Knows types and rows; what they are for is policy.ts's, how they are coded C's.

import { CancelledError } from "../errors.ts"
import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import type { MetadataValue, TensorTypeName } from "../gguf/types.ts"
import { GgufWriter } from "../gguf/writer.ts"
import type { Engine } from "../native/handles.ts"
import { Encoder } from "./encoder.ts"
import type { Importance } from "./importance.ts"
import { type ModelSource, rowBytes, rowCount } from "./source.ts"

/** llama.cpp's GGML_QNT_VERSION: of the block formats. */
const QUANTIZATION_VERSION = 2

export interface QuantizeOptions {
  /** Type of each tensor, in the source's order. */
  readonly types: readonly TensorTypeName[]
  /** general.file_type of what is written. */
  readonly fileType: number
  readonly importance?: Importance | undefined
  readonly engine: Engine
  /** Bytes of the source. */
  readonly onProgress?: (done: number, total: number) => void
  readonly signal?: AbortSignal
}

/** Writes a file of its own name or nothing. Throws ArgumentError where types and shapes do not go together, FormatError for
 * weights that are not finite, CancelledError, and what the source and the writer throw. */
export async function quantizeModel(source: ModelSource, output: string, options: QuantizeOptions): Promise<void> {
  const { types, signal } = options
  const tensors = source.tensors.map(({ name, shape }, i) => ({ name, shape, type: types[i]! }))
  using writer = new GgufWriter(output, { ...metadataOf(source, options), tensors })
  using encoder = new Encoder(source.path, options.engine, options.importance)
  const total = source.tensors.reduce((sum, tensor) => sum + rowCount(tensor) * rowBytes(tensor), 0)
  let done = 0
  for (const [i, tensor] of source.tensors.entries()) {
    for (const { bytes, sourceBytes } of encoder.pieces(tensor, types[i]!)) {
      writer.write(bytes)
      done += sourceBytes
      options.onProgress?.(done, total)
      await new Promise((resume) => setImmediate(resume))
      if (signal?.aborted) throw new CancelledError(`cancelled after ${i} of ${tensors.length} tensors`)
    }
    writer.endTensor()
  }
  writer.finish()
}

function metadataOf(source: ModelSource, { fileType, importance }: QuantizeOptions) {
  const metadata = new Map<string, MetadataValue>(source.metadata)
  const metadataTypes = new Map<string, MetadataTypeName>(source.metadataTypes)
  const setCount = (key: string, value: number) => {
    metadata.set(key, value)
    metadataTypes.set(key, "u32")
  }
  setCount("general.quantization_version", QUANTIZATION_VERSION)
  setCount("general.file_type", fileType)
  if (importance !== undefined && importance.facts.isEstimate !== true) {
    metadata.set("quantize.imatrix.file", importance.path)
    if (importance.dataset !== undefined) metadata.set("quantize.imatrix.dataset", importance.dataset)
    setCount("quantize.imatrix.entries_count", importance.size)
    setCount("quantize.imatrix.chunks_count", importance.nChunks)
  }
  return { metadata, metadataTypes }
}
