// A model's tensors from one file into another, each in the type that was planned for it: piece by piece, in bounded
// memory, on all threads of an engine. Knows types and rows; what they are for is policy.ts's, how they are coded C's.

import { ArgumentError, CancelledError, FormatError } from "../errors.ts"
import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"
import { GgufWriter } from "../gguf/writer.ts"
import { Buffer, type Engine } from "../native/handles.ts"
import type { Importance } from "./importance.ts"
import { type ModelSource, rowBytes, rowCount, rowLength, type TensorSource } from "./source.ts"

/** Bytes of source rows at a time: some tens of milliseconds of work, so that the event loop and Ctrl-C have their turns. */
const PIECE_BYTES = 2 ** 24
/** Rows that one worker takes at a time: csrc/quant.c. */
const GROUP_ROWS = 16
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
  using encoder = new Encoder(source, options)
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
  if (importance !== undefined) {
    metadata.set("quantize.imatrix.file", importance.path)
    if (importance.dataset !== undefined) metadata.set("quantize.imatrix.dataset", importance.dataset)
    setCount("quantize.imatrix.entries_count", importance.size)
    setCount("quantize.imatrix.chunks_count", importance.nChunks)
  }
  return { metadata, metadataTypes }
}

interface Piece {
  /** Memory of C's, until the next piece. */
  readonly bytes: Uint8Array
  readonly sourceBytes: number
}

/** The buffers that pieces go through, as large as the largest piece. */
class Encoder implements Disposable {
  readonly #options: QuantizeOptions
  readonly #path: string
  readonly #owned = new DisposableStack()
  #input: Buffer | undefined
  #output: Buffer | undefined
  #importance: Buffer | undefined

  constructor({ path }: ModelSource, options: QuantizeOptions) {
    this.#path = path
    this.#options = options
  }

  *pieces(tensor: TensorSource, type: TensorTypeName): Generator<Piece> {
    const nRows = rowCount(tensor)
    const inputRow = rowBytes(tensor)
    const outputRow = rowBytes(tensor, type)
    if (!Number.isInteger(outputRow)) {
      throw new ArgumentError(`${tensor.name} has rows of ${rowLength(tensor)}, type ${type} cannot hold them`)
    }
    const nAtOnce = Math.max(GROUP_ROWS, Math.floor(PIECE_BYTES / inputRow / GROUP_ROWS) * GROUP_ROWS)
    // Each expert's matrix by itself: it has an importance of its own.
    const nOfMatrix = tensor.shape[1] ?? 1
    for (let first = 0; first < nRows; first += nOfMatrix) {
      const importance = this.#importanceOf(tensor, first / nOfMatrix)
      for (let row = 0; row < nOfMatrix; row += nAtOnce) {
        const n = Math.min(nAtOnce, nOfMatrix - row)
        const bytes = this.#piece(tensor, type, first + row, n, importance)
        yield { bytes: bytes.subarray(0, n * outputRow), sourceBytes: n * inputRow }
      }
    }
  }

  #piece(
    tensor: TensorSource,
    type: TensorTypeName,
    firstRow: number,
    n: number,
    importance: { buffer: Buffer; offset: number } | undefined,
  ): Uint8Array {
    const [inputBytes, outputBytes] = [n * rowBytes(tensor), n * rowBytes(tensor, type)]
    this.#input = this.#room(this.#input, inputBytes)
    tensor.readRows(firstRow, view(this.#input, inputBytes))
    if (tensor.type === type) return view(this.#input, inputBytes)
    this.#output = this.#room(this.#output, outputBytes)
    const nNotFinite = this.#options.engine.quantize({
      source: this.#input,
      sourceOffset: 0,
      sourceType: TENSOR_TYPES[tensor.type].id,
      target: this.#output,
      targetOffset: 0,
      targetType: TENSOR_TYPES[type].id,
      rows: n,
      cols: rowLength(tensor),
      importance,
    })
    if (nNotFinite > 0) {
      throw new FormatError(
        `${this.#path}: ${tensor.name} has ${nNotFinite} weights that are not finite in rows ${firstRow} to ${firstRow + n - 1}`,
      )
    }
    return view(this.#output, outputBytes)
  }

  #importanceOf(tensor: TensorSource, matrix: number): { buffer: Buffer; offset: number } | undefined {
    const values = this.#options.importance?.of(tensor, matrix)
    if (values === undefined) return undefined
    this.#importance = this.#room(this.#importance, 4 * values.length)
    new Float32Array(this.#importance.view(0, 4 * values.length)).set(values)
    return { buffer: this.#importance, offset: 0 }
  }

  #room(buffer: Buffer | undefined, bytes: number): Buffer {
    if (buffer !== undefined && buffer.bytes >= bytes) return buffer
    buffer?.[Symbol.dispose]()
    return this.#owned.use(Buffer.create(bytes))
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]()
  }
}

const views = new WeakMap<Buffer, Uint8Array>()

/** The first bytes of a buffer. Views are made once: Buffer.view. */
function view(buffer: Buffer, bytes: number): Uint8Array {
  let whole = views.get(buffer)
  if (whole === undefined) {
    whole = new Uint8Array(buffer.view(0, buffer.bytes))
    views.set(buffer, whole)
  }
  return whole.subarray(0, bytes)
}
