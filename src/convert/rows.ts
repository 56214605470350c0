// Rows of checkpoint tensors as a quantiser reads them: matrices in the type that they are stored in, vectors as F32, the
// rows of llama's queries and keys in GGUF's order. Reads what it is asked for and keeps nothing.

import { ArgumentError } from "../errors.ts"
import { dequantize } from "../gguf/dequantize.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"
import { rowBytes, rowCount, type TensorSource } from "../quantize/source.ts"
import type { RopeTensor } from "./rope.ts"
import type { MappedTensor } from "./tensors.ts"

/** Which stored row of a head becomes its row `row`: the first and second halves of a head interleave, since neighbours
 * turn together in GGUF's llama where transformers turns the halves (llama.cpp, LlamaModel.permute). */
export function permutedRow(row: number, headDim: number): number {
  const within = row % headDim
  return row - within + (within % 2) * (headDim / 2) + Math.floor(within / 2)
}

/** A matrix, or a vector widened to F32. */
export function storedSource({ name, stored, nPermutedHeads = 0 }: MappedTensor): TensorSource {
  if (stored.shape.length === 1) return vectorSource(name, stored, nPermutedHeads)
  const type = stored.dtype as TensorTypeName
  const shape = [...stored.shape].reverse()
  const source = { name, type, shape }
  const [bytes, rows] = [rowBytes(source), rowCount(source)]
  const readStored = (firstRow: number, out: Uint8Array) => stored.file.read(stored.offset + firstRow * bytes, out)
  const headDim = nPermutedHeads === 0 ? 0 : rows / nPermutedHeads
  return {
    ...source,
    readRows(firstRow, out) {
      const n = checkRange(name, firstRow, out.length, bytes, rows)
      if (headDim === 0) readStored(firstRow, out)
      else readPermuted(readStored, out, { firstRow, n, bytes, headDim })
    },
  }
}

interface Range {
  readonly firstRow: number
  readonly n: number
  /** Of a row. */
  readonly bytes: number
  readonly headDim: number
}

/** A head at a time: its rows are neighbours in the file. */
function readPermuted(
  readStored: (firstRow: number, out: Uint8Array) => void,
  out: Uint8Array,
  { firstRow, n, bytes, headDim }: Range,
): void {
  const head = new Uint8Array(headDim * bytes)
  for (let row = firstRow; row < firstRow + n; ) {
    const headStart = row - (row % headDim)
    readStored(headStart, head)
    const end = Math.min(firstRow + n, headStart + headDim)
    for (; row < end; row++) {
      const from = permutedRow(row - headStart, headDim) * bytes
      out.set(head.subarray(from, from + bytes), (row - firstRow) * bytes)
    }
  }
}

function vectorSource(name: string, stored: MappedTensor["stored"], nPermutedHeads: number): TensorSource {
  const n = stored.shape[0]!
  const { id } = TENSOR_TYPES[stored.dtype as TensorTypeName]
  return {
    ...{ name, type: "F32", shape: [n] },
    readRows(firstRow, out) {
      if (checkRange(name, firstRow, out.length, 4 * n, 1) === 0) return
      const bytes = new Uint8Array(stored.bytes)
      stored.file.read(stored.offset, bytes)
      let values = dequantize(id, bytes, n)
      if (nPermutedHeads > 0) {
        const inOrder = values
        values = inOrder.map((_, i) => inOrder[permutedRow(i, n / nPermutedHeads)]!)
      }
      out.set(new Uint8Array(values.buffer))
    },
  }
}

/** Values that the configuration gave. */
export function computedSource({ name, values }: RopeTensor): TensorSource {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  return {
    ...{ name, type: "F32", shape: [values.length] },
    readRows(firstRow, out) {
      if (checkRange(name, firstRow, out.length, bytes.length, 1) > 0) out.set(bytes)
    },
  }
}

/** How many rows `outBytes` are. */
function checkRange(name: string, firstRow: number, outBytes: number, bytes: number, rows: number): number {
  const n = outBytes / bytes
  if (Number.isInteger(n) && firstRow >= 0 && firstRow + n <= rows) return n
  throw new ArgumentError(`${name}: ${outBytes} bytes from row ${firstRow} on, it has ${rows} rows of ${bytes}`)
}
