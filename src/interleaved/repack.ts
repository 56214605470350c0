// `asdsl repack` and its inverse: a GGUF file into an interleaved one and back, a slice at a time: memory stays the same
// whatever the size of the model, and all threads of the engine interleave.

import { architectureOf, buildGraph } from "../arch/index.ts"
import { ArgumentError, CancelledError } from "../errors.ts"
import type { GgufFile } from "../gguf/reader.ts"
import { readModelHeader } from "../gguf/split.ts"
import { TENSOR_TYPES, type TensorInfo, type TensorTypeName } from "../gguf/types.ts"
import { writeGguf } from "../gguf/writer.ts"
import { GraphBuilder } from "../graph.ts"
import { Layout } from "../native/abi.ts"
import { Buffer, Engine, tensorBytes } from "../native/handles.ts"
import { KERNEL_ROWS, type LoadProgress, readVector, WeightPlan } from "../weights.ts"
import { type GroupRows, isInterleaved, Key, layoutOf, matricesOf, readInterleaved } from "./format.ts"
import { InterleavedOutput } from "./output.ts"
import { type FilePlan, type PlacedTensor, planFile } from "./plan.ts"

/** Of what is interleaved at a time: a few calls of the engine for a matrix, and inside its caches' reach. */
const SLICE_BYTES = 2 ** 24

export interface RepackOptions extends LoadProgress {
  /** Rows of a group. Default 16, which kernels read in place. */
  rows?: GroupRows
  nThreads?: number
}

/** Writes the interleaved file of a model of a known architecture. A split model becomes one file. Throws before it writes
 * where the model could not be loaded; nothing is left where writing fails. */
export async function repack(from: string, to: string, options: RepackOptions = {}): Promise<void> {
  const source = readModelHeader(from)
  if (isInterleaved(source)) throw new ArgumentError(`${from} is interleaved already`)
  using owned = new DisposableStack()
  const files = source.files.map((path) => owned.use(Buffer.map(path)))
  for (const file of files) file.prefetch(0, file.bytes)
  const engine = owned.use(Engine.create({ nThreads: options.nThreads ?? 0 }))
  const plan = planFile(source, graphWeights(source, files), options.rows ?? KERNEL_ROWS)
  await writeFile(to, plan, (tensor) => slices(tensor, files, engine), options)
  for (const file of files) file.check()
}

/** The weights of the model's graph: their order is that of the file. */
export function graphWeights(source: GgufFile, files: readonly Buffer[]): WeightPlan {
  const { architecture, config } = architectureOf(source)
  const weights = new WeightPlan(source, (info) => readVector(files, info))
  const graph = new GraphBuilder(weights, { nCtx: config.nCtxTrain, maxTokens: 1, maxOutputs: 1 })
  buildGraph(graph, architecture, config)
  graph.build()
  return weights
}

/** Writes what `data` gives for each tensor. */
export async function writeFile(
  to: string,
  plan: FilePlan,
  data: (tensor: PlacedTensor) => Iterable<Uint8Array>,
  { onProgress, signal }: LoadProgress = {},
): Promise<void> {
  using out = new InterleavedOutput(to)
  out.write(plan.header)
  for (const tensor of plan.tensors) {
    out.padTo(tensor.offset)
    for (const piece of data(tensor)) {
      if (signal?.aborted) throw new CancelledError("repacking was cancelled")
      out.write(piece)
      onProgress?.(out.written, plan.fileBytes)
      await new Promise((resume) => setImmediate(resume))
    }
  }
  out.padTo(plan.fileBytes)
  out.finish()
}

/** The bytes of a tensor as the file has them, from the source's. Each piece is good until the next. */
function* slices(
  { source, interleave, bytes }: PlacedTensor,
  files: readonly Buffer[],
  engine: Engine,
): Generator<Uint8Array> {
  const file = files[source.file]!
  if (interleave === undefined) {
    yield* viewed(file, source.offset, bytes)
    return
  }
  const { type } = source
  const { cols, rows, n } = matricesOf(source)
  const rowBytes = tensorBytes(type, Layout.ROWS, 1, cols)
  const sliceRows = Math.max(KERNEL_ROWS, Math.floor(SLICE_BYTES / rowBytes / KERNEL_ROWS) * KERNEL_ROWS)
  using steps = new Steps(engine, type, Math.min(rows, sliceRows), cols, interleave)
  for (let first = 0; first < n * rows; ) {
    const nRows = Math.min(sliceRows, rows - (first % rows))
    const records = steps.interleave(file, source.offset + first * rowBytes, nRows)
    yield* viewed(records, 0, tensorBytes(type, layoutOf(interleave), nRows, cols))
    first += nRows
  }
}

/** Slices of one matrix between rows and groups: of 4 rows by way of those of 16, which kernels read. */
class Steps implements Disposable {
  readonly #engine: Engine
  readonly #shape: { readonly type: number; readonly cols: number }
  readonly #groupRows: number
  readonly #rows: Buffer
  readonly #records: Buffer
  readonly #small: Buffer | undefined

  constructor(engine: Engine, type: number, maxRows: number, cols: number, groupRows: number) {
    this.#engine = engine
    this.#shape = { type, cols }
    this.#groupRows = groupRows
    using owned = new DisposableStack()
    const create = (layout: number) => owned.use(Buffer.create(tensorBytes(type, layout, maxRows, cols)))
    this.#rows = create(Layout.ROWS)
    this.#records = create(Layout.INTERLEAVED)
    this.#small = groupRows === KERNEL_ROWS ? undefined : create(layoutOf(groupRows))
    owned.move()
  }

  /** Rows of a file as groups. The buffer is good until the next call. */
  interleave(source: Buffer, sourceOffset: number, rows: number): Buffer {
    this.#step(source, sourceOffset, Layout.ROWS, this.#records, Layout.INTERLEAVED, rows)
    if (this.#small === undefined) return this.#records
    this.#step(this.#records, 0, Layout.INTERLEAVED, this.#small, layoutOf(this.#groupRows), rows)
    return this.#small
  }

  /** Groups of a file as rows, likewise. */
  restore(source: Buffer, sourceOffset: number, rows: number): Buffer {
    let [from, offset] = [source, sourceOffset]
    if (this.#small !== undefined) {
      this.#step(source, sourceOffset, layoutOf(this.#groupRows), this.#records, Layout.INTERLEAVED, rows)
      ;[from, offset] = [this.#records, 0]
    }
    this.#step(from, offset, Layout.INTERLEAVED, this.#rows, Layout.ROWS, rows)
    return this.#rows
  }

  #step(source: Buffer, sourceOffset: number, from: number, target: Buffer, to: number, rows: number): void {
    const layouts = { sourceLayout: from, targetLayout: to }
    this.#engine.repack({ source, sourceOffset, target, targetOffset: 0, rows, ...this.#shape, ...layouts })
  }

  [Symbol.dispose](): void {
    for (const buffer of [this.#rows, this.#records, this.#small]) buffer?.[Symbol.dispose]()
  }
}

/** Bytes of a buffer, in views that are let go. */
export function* viewed(buffer: Buffer, offset: number, bytes: number): Generator<Uint8Array> {
  for (let done = 0; done < bytes; done += SLICE_BYTES) {
    const view = buffer.view(offset + done, Math.min(SLICE_BYTES, bytes - done))
    yield new Uint8Array(view)
    buffer.forget(view)
  }
}

/** Fills `out` with a tensor's bytes from byte `from` on, as its source had them. */
export function readSource(info: TensorInfo, from: number, out: Uint8Array, file: Buffer, engine: Engine): void {
  if (info.interleave === undefined) {
    const view = file.view(info.offset + from, out.length)
    out.set(new Uint8Array(view))
    file.forget(view)
    return
  }
  const { type, interleave } = info
  const { cols, rows, n } = matricesOf(info)
  const rowBytes = tensorBytes(type, Layout.ROWS, 1, cols)
  using steps = new Steps(engine, type, interleave, cols, interleave)
  for (let done = 0; done < out.length; ) {
    const row = Math.floor((from + done) / rowBytes)
    const [matrix, inMatrix] = [Math.floor(row / rows), row % rows]
    const first = inMatrix - (inMatrix % interleave)
    const nRows = Math.min(interleave, rows - first)
    const before = first === 0 ? 0 : tensorBytes(type, layoutOf(interleave), first, cols)
    const restoredRows = steps.restore(file, info.offset + (matrix * info.bytes) / n + before, nRows)
    const at = from + done - (row - inMatrix + first) * rowBytes
    const view = restoredRows.view(at, Math.min(nRows * rowBytes - at, out.length - done))
    out.set(new Uint8Array(view), done)
    done += view.byteLength
    restoredRows.forget(view)
  }
}

/** Writes the GGUF file that an interleaved one was made of: tensors and metadata are the source's, in its order. */
export async function unpack(from: string, to: string, { onProgress, signal }: LoadProgress = {}): Promise<void> {
  const raw = readModelHeader(from)
  if (!isInterleaved(raw)) throw new ArgumentError(`${from} is no interleaved file: there is nothing to unpack`)
  const file = readInterleaved(raw)
  using mapped = Buffer.map(from)
  mapped.prefetch(0, mapped.bytes)
  using engine = Engine.create()
  let done = 0
  const total = [...file.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  const tensors = inSourceOrder(raw, file).map((info) => ({
    name: info.name,
    type: typeName(info.type),
    shape: info.shape,
    *data() {
      if (signal?.aborted) throw new CancelledError("unpacking was cancelled")
      yield* restored(info, mapped, engine)
      done += info.bytes
      onProgress?.(done, total)
    },
  }))
  writeGguf(to, { metadata: file.metadata, metadataTypes: file.metadataTypes, tensors })
  mapped.check()
}

function inSourceOrder(raw: GgufFile, { tensors }: GgufFile): TensorInfo[] {
  const order = raw.metadata.get(Key.sourceOrder)
  const infos = [...tensors.values()]
  if (!(order instanceof Uint32Array) || order.length !== infos.length) return infos
  return infos
    .map((info, i) => ({ info, at: order[i]! }))
    .sort((a, b) => a.at - b.at)
    .map(({ info }) => info)
}

function typeName(type: number): TensorTypeName {
  return (Object.keys(TENSOR_TYPES) as TensorTypeName[]).find((name) => TENSOR_TYPES[name].id === type)!
}

/** The bytes of a tensor as its source had them. */
function* restored(info: TensorInfo, file: Buffer, engine: Engine): Generator<Uint8Array> {
  if (info.interleave === undefined) {
    yield* viewed(file, info.offset, info.bytes)
    return
  }
  const { type, interleave } = info
  const { cols, rows, n } = matricesOf(info)
  const rowBytes = tensorBytes(type, Layout.ROWS, 1, cols)
  const sliceRows = Math.max(KERNEL_ROWS, Math.floor(SLICE_BYTES / rowBytes / KERNEL_ROWS) * KERNEL_ROWS)
  using steps = new Steps(engine, type, Math.min(rows, sliceRows), cols, interleave)
  for (let matrix = 0; matrix < n; matrix++) {
    for (let first = 0; first < rows; first += sliceRows) {
      const nRows = Math.min(sliceRows, rows - first)
      const before = first === 0 ? 0 : tensorBytes(type, layoutOf(interleave), first, cols)
      const restoredRows = steps.restore(file, info.offset + (matrix * info.bytes) / n + before, nRows)
      yield* viewed(restoredRows, 0, nRows * rowBytes)
    }
  }
}
