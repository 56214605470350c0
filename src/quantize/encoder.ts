// Rows of tensors from one type into another, some at a time: the buffers between a source that reads them and C that codes
// them. Knows no file that is written, and no reason for a type.

import { ArgumentError, FormatError } from "../errors.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"
import { Buffer, type Engine } from "../native/handles.ts"
import type { Importance } from "./importance.ts"
import { rowBytes, rowCount, rowLength, type TensorSource } from "./source.ts"

/** Bytes of source rows at a time: some tens of milliseconds of work, so that the event loop and Ctrl-C have their turns. */
const PIECE_BYTES = 2 ** 24
/** Rows that one worker takes at a time: csrc/quant.c. */
const GROUP_ROWS = 16

export interface Piece {
  /** Memory of C's, until the next piece. */
  readonly bytes: Uint8Array
  readonly sourceBytes: number
}

/** The buffers that pieces go through, as large as the largest piece. */
export class Encoder implements Disposable {
  readonly #path: string
  readonly #engine: Engine
  readonly #given: Importance | undefined
  readonly #owned = new DisposableStack()
  #input: Buffer | undefined
  #output: Buffer | undefined
  #importance: Buffer | undefined

  /** @param path of the source, for messages. */
  constructor(path: string, engine: Engine, importance?: Importance) {
    this.#path = path
    this.#engine = engine
    this.#given = importance
  }

  /** The rows of a tensor in another type, in order. Throws ArgumentError where the type has no blocks for rows of that
   * length, FormatError for weights that are not finite, and what the source throws. */
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
    const nNotFinite = this.#engine.quantize({
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
    const values = this.#given?.of(tensor, matrix)
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
