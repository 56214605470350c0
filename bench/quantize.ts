// The errors of two quantised files against their source, tensor by tensor: which is nearer, and by how much.
//
//   bun bench/quantize.ts SOURCE.gguf OURS.gguf THEIRS.gguf [--imatrix FILE]
//
// Source: bench/offgrid.ts, so that it lies on neither's grid. Theirs: llama-quantize SOURCE THEIRS TYPE on the same file, of the
// same types. An error is the sum of w (x - y)^2, w as csrc/kernels/encode.h has it, and the plain sum of squares beside it.
// Quality of the model: asdsl perplexity --kl-divergence with the logits of the source.

import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { Buffer, Engine } from "../src/native/handles.ts"
import { openGgufSource } from "../src/quantize/gguf-source.ts"
import { type Importance, readImportance } from "../src/quantize/importance.ts"
import { rowBytes, rowCount, rowLength, type TensorSource } from "../src/quantize/source.ts"

const PIECE_ROWS = 1024

interface Errors {
  readonly weighted: number
  readonly plain: number
}

/** Rows of any type as floats, on all threads. */
class Decoder implements Disposable {
  readonly #engine = Engine.create()

  rows(tensor: TensorSource, firstRow: number, n: number): Float32Array {
    const [cols, bytes] = [rowLength(tensor), n * rowBytes(tensor)]
    using source = Buffer.create(bytes)
    using target = Buffer.create(4 * n * cols)
    tensor.readRows(firstRow, new Uint8Array(source.view(0, bytes)))
    const [sourceType, targetType] = [TENSOR_TYPES[tensor.type].id, TENSOR_TYPES.F32.id]
    this.#engine.quantize({
      ...{ source, sourceOffset: 0, sourceType, target, targetOffset: 0, targetType, rows: n, cols },
    })
    return new Float32Array(target.view(0, target.bytes)).slice()
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]()
  }
}

function errorsOf(x: Float32Array, y: Float32Array, width: number, importance: Float32Array | undefined): Errors {
  let weighted = 0
  let plain = 0
  const cols = importance?.length ?? 1
  for (let at = 0; at < x.length; at += width) {
    let squares = 0
    for (let i = at; i < at + width; i++) squares += x[i]! * x[i]!
    const rms = Math.sqrt(squares / width)
    for (let i = at; i < at + width; i++) {
      const square = (x[i]! - y[i]!) ** 2
      plain += square
      weighted += (importance?.[i % cols] ?? 1) * (rms + Math.abs(x[i]!)) * square
    }
  }
  return { weighted, plain }
}

interface Comparison {
  readonly name: string
  readonly type: TensorTypeName
  /** Ours over theirs. */
  readonly weighted: number
  readonly plain: number
}

function compare(decoder: Decoder, tensors: readonly TensorSource[], importance: Importance | undefined): Comparison {
  const [source, ours, theirs] = tensors as [TensorSource, TensorSource, TensorSource]
  if (ours.type !== theirs.type)
    throw new Error(`${ours.name} is ${ours.type} in one file, ${theirs.type} in the other`)
  const width = ours.type === "Q6_K" ? 16 : 32
  const sums = [
    { weighted: 0, plain: 0 },
    { weighted: 0, plain: 0 },
  ]
  const nRows = rowCount(source)
  const weights = importance?.of(source, 0)
  for (let row = 0; row < nRows; row += PIECE_ROWS) {
    const n = Math.min(PIECE_ROWS, nRows - row)
    const x = decoder.rows(source, row, n)
    for (const [i, file] of [ours, theirs].entries()) {
      const errors = errorsOf(x, decoder.rows(file, row, n), width, weights)
      sums[i]!.weighted += errors.weighted
      sums[i]!.plain += errors.plain
    }
  }
  const [a, b] = sums as [Errors, Errors]
  return { name: ours.name, type: ours.type, weighted: a.weighted / b.weighted, plain: a.plain / b.plain }
}

function median(values: readonly number[]): number {
  const ascending = Float64Array.from(values).sort()
  return ascending[Math.floor(ascending.length / 2)]!
}

function report(comparisons: readonly Comparison[]): void {
  console.log(
    "| type | tensors | at or below | median of weighted errors, ours / theirs | most | median of plain errors |",
  )
  console.log("| --- | ---: | ---: | ---: | ---: | ---: |")
  for (const [type, of] of Map.groupBy(comparisons, ({ type }) => type)) {
    const weighted = of.map((each) => each.weighted)
    const nBelow = weighted.filter((ratio) => ratio <= 1).length
    const numbers = [median(weighted), Math.max(...weighted), median(of.map(({ plain }) => plain))]
    console.log(`| ${type} | ${of.length} | ${nBelow} | ${numbers.map((value) => value.toFixed(4)).join(" | ")} |`)
  }
}

if (import.meta.main) {
  const [source, ours, theirs, flag, file] = process.argv.slice(2)
  if (theirs === undefined) throw new Error("bun bench/quantize.ts SOURCE.gguf OURS.gguf THEIRS.gguf [--imatrix FILE]")
  const importance = flag === "--imatrix" ? readImportance(file!) : undefined
  using from = openGgufSource(source!)
  using a = openGgufSource(ours!)
  using b = openGgufSource(theirs)
  using decoder = new Decoder()
  const find = (tensors: readonly TensorSource[], name: string) => tensors.find((tensor) => tensor.name === name)!
  const comparisons = from.tensors.flatMap((tensor) => {
    const found = [tensor, find(a.tensors, tensor.name), find(b.tensors, tensor.name)]
    return found[1]!.type === tensor.type ? [] : [compare(decoder, found, importance)]
  })
  report(comparisons)
}
