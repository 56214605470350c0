// The errors of two quantised files against their source, tensor by tensor: which is nearer, and by how much.
//
//   bun bench/quantize.ts SOURCE.gguf OURS.gguf THEIRS.gguf [--imatrix FILE] [--save NAME]
//
// Source: bench/offgrid.ts, so that it lies on neither's grid. Ours: asdsl quantize --no-estimate, or with the matrix that is
// given here; theirs: llama-quantize SOURCE THEIRS TYPE on the same file, of the same types. An error is the sum of
// w (x - y)^2, w as csrc/kernels/encode.h has it, and the plain sum of squares beside it.
// --save: more rows of bench/results/NAME.md.
// Quality of the model: bench/divergence.ts.

import { existsSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import { type Command, group, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { median } from "../src/eval/statistics.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { Buffer, Engine } from "../src/native/handles.ts"
import { openGgufSource } from "../src/quantize/gguf-source.ts"
import { type Importance, readImportance } from "../src/quantize/importance.ts"
import { rowBytes, rowCount, rowLength, type TensorSource } from "../src/quantize/source.ts"
import { reportOf, saveReport } from "./save.ts"

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
    throw new UsageError(`${ours.name} is ${ours.type} in one file, ${theirs.type} in the other`)
  const sums = [
    { weighted: 0, plain: 0 },
    { weighted: 0, plain: 0 },
  ]
  const width = ours.type === "Q3_K" || ours.type === "Q6_K" ? 16 : 32
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

/** Two files beside each other. */
interface Pair {
  readonly ours: string
  readonly theirs: string
  readonly imatrix: string | undefined
  readonly comparisons: readonly Comparison[]
}

const COLUMNS: readonly Column[] = [
  { name: "ours / theirs", width: 12, align: "left" },
  { name: "type", width: 5, align: "left" },
  ...["tensors", "weighted: at or below 1", "median", "largest", "plain: at or below 1", "median", "largest"].map(
    (name): Column => ({ name, width: 7, align: "right" }),
  ),
]

function markdown(pairs: readonly Pair[]): string {
  const rows = pairs.flatMap(({ ours, theirs, comparisons }) =>
    [...Map.groupBy(comparisons, ({ type }) => type)].map(([type, of]) => {
      const columns = (["weighted", "plain"] as const).flatMap((kind) => {
        const ratios = of.map((each) => each[kind])
        const nBelow = ratios.filter((ratio) => ratio <= 1).length
        return [String(nBelow), median(ratios).toFixed(4), Math.max(...ratios).toFixed(4)]
      })
      return tableRow(COLUMNS, [`${ours} / ${theirs}`, type, String(of.length), ...columns])
    }),
  )
  return `Errors of tensors, ours over theirs.\n\n${tableHead(COLUMNS)}${rows.join("")}`
}

/** The pairs that a saved report has, with this one instead of its old one. */
function withOthers(name: string, own: Pair): Pair[] {
  const path = join(import.meta.dir, "results", `${name}.json`)
  const saved = existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")).pairs as Pair[]) : []
  return [...saved.filter(({ ours, theirs }) => ours !== own.ours || theirs !== own.theirs), own]
}

const flags = {
  ...group("Comparison", {
    imatrix: text("--imatrix", { value: "FILE", help: "importance by which errors are weighted" }),
    save: text("--save", { value: "NAME", help: "add the two files to bench/results/NAME.json and .md" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/quantize.ts",
  summary: "errors of two quantised files against their source",
  usage: "SOURCE.gguf OURS.gguf THEIRS.gguf [--imatrix FILE] [--save NAME]",
  flags,
  takesOperands: true,
}

async function run(
  { imatrix, save }: Values<typeof flags>,
  _given: ReadonlySet<string>,
  files: readonly string[],
): Promise<void> {
  const [source, ours, theirs] = files
  if (source === undefined || ours === undefined || theirs === undefined) throw new UsageError("three files are needed")
  const importance = imatrix === undefined ? undefined : readImportance(imatrix)
  using from = openGgufSource(source)
  using a = openGgufSource(ours)
  using b = openGgufSource(theirs)
  using decoder = new Decoder()
  const find = (tensors: readonly TensorSource[], name: string) => tensors.find((tensor) => tensor.name === name)!
  const comparisons = from.tensors.flatMap((tensor) => {
    const found = [tensor, find(a.tensors, tensor.name), find(b.tensors, tensor.name)]
    return found[1]!.type === tensor.type ? [] : [compare(decoder, found, importance)]
  })
  const name = imatrix === undefined ? undefined : basename(imatrix)
  const own: Pair = { ours: basename(ours), theirs: basename(theirs), imatrix: name, comparisons }
  const pairs = save === undefined ? [own] : withOthers(save, own)
  await writeOut(markdown(pairs))
  if (save === undefined) return
  const given = pairs.some((pair) => pair.imatrix !== undefined) ? " --imatrix FILE" : ""
  const line = `bun bench/quantize.ts SOURCE OURS THEIRS${given}`
  warn(`written: ${saveReport(save, reportOf({ pairs }), `${line} --save ${save}`, markdown(pairs))}`)
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
