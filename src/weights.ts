// The weights of a model: which tensors a graph needs, and where each lies: in the mapped file, where that has it as kernels
// read it (src/interleaved), else in a buffer of C's, in the order in which a pass reads them.
//
// Matrices are interleaved by asdsl_repack, a table that is only gathered from stays as it is, vectors (norms, biases)
// become F32. Every weight byte is resident once. This file knows nothing of what a tensor is for; graph.ts asks for them
// by name and shape, and all checks happen before the first large allocation.

import { ArgumentError, CancelledError, FormatError, UnsupportedError } from "./errors.ts"
import { type GgufHeader, TENSOR_TYPES, type TensorInfo } from "./gguf/types.ts"
import { Layout, Type } from "./native/abi.ts"
import { Buffer, type Engine, tensorBytes } from "./native/handles.ts"

const KNOWN_TYPES = new Map<number, string>(Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name]))

/** Buffers of a program that weights lie in, by index. */
export const WEIGHTS_BUFFER = 0
export const MAPPED_BUFFER = 2
/** Of the matrix of listed rows alone. */
export const GATHERED_BUFFER = 3

/** Rows of a group as kernels read them: KERNEL_ROWS of csrc/kernels/kernels.h. */
export const KERNEL_ROWS = 16

const ALIGNMENT = 64 // a cache line: what kernels and the validator ask of every operand

/** Some rows of a file's tensor as a matrix of their own: files put matrices that read the same inputs into one tensor. */
export interface RowRange {
  readonly name: string
  readonly firstRow: number
  /** Rows of the whole tensor. */
  readonly fileRows: number
}

/** Some rows of a file's tensor, in an order of their own: what a draft model's output matrix shrinks to. */
export interface RowList {
  readonly name: string
  readonly rowIds: Int32Array
  /** Rows of the whole tensor. */
  readonly fileRows: number
}

/** A tensor by its name, or some of its rows. */
export type MatrixRef = string | RowRange | RowList

/** For messages and for telling weights apart. */
function nameOf(ref: MatrixRef, rows: number): string {
  if (typeof ref === "string") return ref
  if ("rowIds" in ref) return `${ref.name}[${rows} of ${ref.fileRows}]`
  return `${ref.name}[${ref.firstRow}:${ref.firstRow + rows}]`
}

/** A matrix or vector of the model and its place. */
export interface Weight {
  /** The tensor's; with the rows, [first:end], where they are not all. */
  readonly name: string
  /** Element type in memory: the file's for matrices, F32 for vectors. */
  readonly type: number
  layout: number
  /** Outputs; 1 for a vector. Of one matrix where there are several. */
  readonly rows: number
  /** Inputs. */
  readonly cols: number
  /** Of all matrices together. */
  bytes: number
  /** Matrices of one shape, one after the other: those of experts. Else 1. */
  readonly nMatrices: number
  /** WEIGHTS_BUFFER, MAPPED_BUFFER or GATHERED_BUFFER, and bytes from its start; set by WeightPlan.place(). */
  buffer: number
  offset: number
  /** Where the values come from: the file, or computed here. */
  readonly source: TensorInfo | Float32Array
  /** First row in the file's tensor. */
  readonly firstRow: number
  /** Rows in the file's tensor where they do not follow each other: such a matrix lies in a buffer of its own. */
  readonly rowIds?: Int32Array // (rows)
  /** The last op that reads it: places follow this order. */
  lastUse: number
  /** Of its matrices, how many are read whole for every token; 0: it is only gathered from. */
  nStreamed: number
}

/** Bytes that a pass of `nRows` rows reads of a weight, at most: all of a vector or a matrix, of experts those that the rows
 * go to, nothing of a table that is only gathered from. */
export function streamedBytes({ bytes, rows, nMatrices, nStreamed }: Weight, nRows = 1): number {
  return rows === 1 ? bytes : (bytes / nMatrices) * Math.min(nMatrices, nStreamed * nRows)
}

/** The tensors that a graph needs: asked for while it is built, placed once it is complete. */
export class WeightPlan {
  readonly header: GgufHeader
  readonly #readVector: (info: TensorInfo) => Float32Array
  readonly #weights = new Map<string, Weight>()
  readonly #used = new Set<string>()
  readonly #usesFile: boolean
  #bytes = 0

  /** `usesFile`: the header's one file stays mapped, and what lies in it as it is needed is not loaded. */
  constructor(header: GgufHeader, readVector: (info: TensorInfo) => Float32Array, usesFile = false) {
    this.header = header
    this.#readVector = readVector
    this.#usesFile = usesFile
  }

  has(name: string): boolean {
    return this.header.tensors.has(name)
  }

  /** A matrix of `rows` outputs and `cols` inputs, interleaved unless nothing streams it. */
  matrix(ref: MatrixRef, rows: number, cols: number): Weight {
    const whole = { name: "", firstRow: 0, fileRows: rows }
    const {
      name: tensor,
      firstRow,
      fileRows,
      rowIds,
    }: RowRange & Partial<RowList> = { ...whole, ...(typeof ref === "string" ? { name: ref } : ref) }
    const info = this.#find(tensor)
    if (info.shape.length > 2 || (info.shape[0] ?? 1) !== cols || (info.shape[1] ?? 1) !== fileRows) {
      throw new FormatError(
        `${tensor} has shape [${info.shape.join(", ")}], the configuration needs [${cols}, ${fileRows}] (inputs, outputs)`,
      )
    }
    this.#used.add(tensor)
    const name = nameOf(ref, rows)
    const known = this.#weights.get(name)
    if (known !== undefined) return known
    const bytes = tensorBytes(info.type, Layout.INTERLEAVED, rows, cols)
    const shape = { name, type: info.type, layout: Layout.INTERLEAVED, rows, cols, bytes, source: info, firstRow }
    return this.#add(rowIds === undefined ? shape : { ...shape, rowIds })
  }

  /** One matrix for each of `nExperts`, [cols, rows, nExperts] in the file: each is interleaved by itself. */
  experts(name: string, rows: number, cols: number, nExperts: number): Weight {
    const info = this.#find(name)
    const { type, shape } = info
    if (shape.length > 3 || shape[0] !== cols || (shape[1] ?? 1) !== rows || (shape[2] ?? 1) !== nExperts) {
      throw new FormatError(
        `${name} has shape [${shape.join(", ")}], the configuration needs [${cols}, ${rows}, ${nExperts}] (inputs, outputs, experts)`,
      )
    }
    const bytes = nExperts * tensorBytes(type, Layout.INTERLEAVED, rows, cols)
    this.#used.add(name)
    const matrices = { name, type, layout: Layout.INTERLEAVED, rows, cols, bytes, source: info, firstRow: 0 }
    return this.#weights.get(name) ?? this.#add(matrices, nExperts)
  }

  /** A vector of `n` values, F32 in memory. */
  vector(name: string, n: number): Weight {
    const known = this.#weights.get(name)
    if (known !== undefined) return known
    const info = this.#vectorInfo(name, n)
    this.#used.add(name)
    return this.#add({
      ...{ name, type: Type.F32, layout: Layout.ROWS, rows: 1, cols: n, bytes: 4 * n, source: info, firstRow: 0 },
    })
  }

  /** Values of a small vector, for computing constants while the graph is built. */
  values(name: string, n: number): Float32Array {
    const values = this.#readVector(this.#vectorInfo(name, n))
    this.#used.add(name)
    return values
  }

  /** A vector computed by the graph itself. */
  constant(name: string, values: Float32Array): Weight {
    const cols = values.length
    return this.#add({
      ...{ name, type: Type.F32, layout: Layout.ROWS, rows: 1, cols, bytes: 4 * cols, source: values, firstRow: 0 },
    })
  }

  #add(weight: Omit<Weight, "buffer" | "offset" | "lastUse" | "nMatrices" | "nStreamed">, nMatrices = 1): Weight {
    const added: Weight = { ...weight, nMatrices, buffer: WEIGHTS_BUFFER, offset: -1, lastUse: -1, nStreamed: 0 }
    this.#weights.set(weight.name, added)
    return added
  }

  #find(name: string): TensorInfo {
    const info = this.header.tensors.get(name)
    if (info === undefined) {
      throw new FormatError(`${this.header.path}: tensor ${name} is missing (the file has ${this.header.tensors.size})`)
    }
    if (!KNOWN_TYPES.has(info.type)) {
      const known = [...KNOWN_TYPES].map(([id, type]) => `${type} (${id})`).join(", ")
      throw new UnsupportedError(`${name} has tensor type ${info.type}, which is not supported; known: ${known}`)
    }
    return info
  }

  #vectorInfo(name: string, n: number): TensorInfo {
    const info = this.#find(name)
    const length = info.shape.reduce((product, size) => product * size, 1)
    if ((info.shape[0] ?? 1) !== n || length !== n) {
      throw new FormatError(`${name} has shape [${info.shape.join(", ")}], the configuration needs [${n}]`)
    }
    if (info.type !== Type.F32 && info.type !== Type.F16 && info.type !== Type.BF16) {
      throw new UnsupportedError(
        `${name} is a vector of type ${KNOWN_TYPES.get(info.type)}; vectors are F32, F16 or BF16`,
      )
    }
    return info
  }

  /** Tensors of the file that nothing has asked for. */
  unused(): string[] {
    return [...this.header.tensors.keys()].filter((name) => !this.#used.has(name))
  }

  /** Gives every weight its place, in the order of last use, so that a pass reads a buffer from front to back. */
  place(): void {
    this.#bytes = 0
    for (const weight of this.weights()) {
      if (weight.rows > 1 && weight.nStreamed === 0 && !isInterleaved(weight)) {
        weight.layout = Layout.ROWS // rows that are gathered lie in one piece each
        weight.bytes = tensorBytes(weight.type, Layout.ROWS, weight.rows, weight.cols)
      }
      const inFile = this.#usesFile ? offsetInFile(weight) : undefined
      weight.buffer = inFile === undefined ? WEIGHTS_BUFFER : MAPPED_BUFFER
      weight.offset = inFile ?? this.#bytes
      if (inFile === undefined) this.#bytes = align(this.#bytes + weight.bytes)
    }
    const { gathered } = this
    if (gathered !== undefined) [gathered.buffer, gathered.offset] = [GATHERED_BUFFER, 0]
  }

  /** Those of the weights buffer. */
  weights(): Weight[] {
    const placed = [...this.#weights.values()].filter(({ rowIds }) => rowIds === undefined)
    return placed.sort((a, b) => a.lastUse - b.lastUse)
  }

  /** The matrix of listed rows, in a buffer of its own; undefined where there is none. */
  get gathered(): Weight | undefined {
    return [...this.#weights.values()].find(({ rowIds }) => rowIds !== undefined)
  }

  /** Of the weights buffer. */
  get bytes(): number {
    return this.#bytes
  }

  /** Of all weights, wherever they lie. */
  get totalBytes(): number {
    return this.weights().reduce((sum, { buffer, bytes }) => sum + (buffer === MAPPED_BUFFER ? bytes : 0), this.#bytes)
  }

  /** Where the weights lie in the file that a pass reads whole, [from, to); undefined where there are none. */
  streamedInFile(): { from: number; to: number } | undefined {
    const inFile = this.weights().filter(({ buffer, rows, nStreamed }) => {
      return buffer === MAPPED_BUFFER && (rows === 1 || nStreamed > 0)
    })
    if (inFile.length === 0) return undefined
    return {
      from: Math.min(...inFile.map(({ offset }) => offset)),
      to: Math.max(...inFile.map(({ offset, bytes }) => offset + bytes)),
    }
  }
}

/** Whether the file has it interleaved: the output matrix of one graph is only gathered from in another. */
function isInterleaved({ source }: Weight): boolean {
  return !(source instanceof Float32Array) && source.interleave !== undefined
}

/** Where a file of src/interleaved has a weight as it is needed; undefined: nowhere. */
function offsetInFile(weight: Weight): number | undefined {
  const { source, layout, type, rows, cols, firstRow } = weight
  if (source instanceof Float32Array || source.type !== type) return undefined
  if (layout === Layout.ROWS) return source.interleave === undefined ? source.offset : undefined
  if (source.interleave !== KERNEL_ROWS) return undefined
  // A part begins with a group and ends with one, or src/interleaved would not have interleaved the whole.
  const isWhole =
    firstRow % KERNEL_ROWS === 0 && (rows % KERNEL_ROWS === 0 || firstRow + rows === (source.shape[1] ?? 1))
  if (!isWhole) return undefined
  return firstRow === 0 ? source.offset : source.offset + tensorBytes(type, Layout.INTERLEAVED, firstRow, cols)
}

export function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}

/** Values of a vector out of the model's mapped files, as F32. */
export function readVector(files: readonly Buffer[], info: TensorInfo): Float32Array {
  const file = files[info.file]!
  const n = info.shape.reduce((product, size) => product * size, 1)
  const view = file.view(info.offset, info.bytes)
  const bytes = new Uint8Array(view).slice() // aligned, and safe to keep
  file.forget(view)
  if (info.type === Type.F32) return new Float32Array(bytes.buffer, 0, n)
  const halves = new Uint16Array(bytes.buffer, 0, n)
  if (info.type === Type.F16) return Float32Array.from(new Float16Array(halves.buffer, 0, n))
  const bits = Uint32Array.from(halves, (half) => half << 16) // BF16: the upper half of an F32
  return new Float32Array(bits.buffer)
}

export interface LoadProgress {
  onProgress?: (doneBytes: number, totalBytes: number) => void
  signal?: AbortSignal
}

/** How long loading may keep the event loop waiting: one matrix at least, then about a frame. */
const YIELD_MS = 20

/** Loads the weights of a placed plan that no file has as they are needed into one fresh buffer, on all threads of the
 * engine. */
export async function loadWeights(
  plan: WeightPlan,
  files: readonly Buffer[],
  engine: Engine,
  progress: LoadProgress = {},
): Promise<Buffer> {
  const target = Buffer.create(Math.max(plan.bytes, ALIGNMENT))
  try {
    let since = performance.now()
    progress.onProgress?.(0, plan.bytes)
    for (const weight of plan.weights()) {
      if (weight.buffer !== WEIGHTS_BUFFER) continue
      for (let i = 0; i < weight.nMatrices; i++) {
        if (progress.signal?.aborted) throw new CancelledError("loading was cancelled")
        loadMatrix(weight, i, files, target, engine)
        if (performance.now() - since < YIELD_MS) continue
        progress.onProgress?.(weight.offset + ((i + 1) * weight.bytes) / weight.nMatrices, plan.bytes)
        await new Promise((resume) => setImmediate(resume))
        since = performance.now()
      }
    }
    progress.onProgress?.(plan.bytes, plan.bytes)
    return target
  } catch (error) {
    target[Symbol.dispose]()
    throw error
  }
}

/** Rows that are read at a time where the file has them interleaved: whole groups, some MB. */
const GATHER_ROWS = 4096

/** A fresh buffer with the matrix of listed rows, which ascend. */
export function gatherRows(weight: Weight, files: readonly Buffer[], engine: Engine): Buffer {
  const { source, rowIds, type, rows, cols } = weight
  if (rowIds === undefined || source instanceof Float32Array) throw new ArgumentError(`${weight.name} has no row list`)
  const rowBytes = tensorBytes(type, Layout.ROWS, 1, cols)
  const file = files[source.file]!
  using list = Buffer.create(rows * rowBytes)
  using part = Buffer.create(GATHER_ROWS * rowBytes)
  const fileRows = source.shape[1] ?? 1
  const listed = new Uint8Array(list.view(0, rows * rowBytes))
  for (let first = 0, i = 0; first < fileRows; first += GATHER_ROWS) {
    const n = Math.min(GATHER_ROWS, fileRows - first)
    if (i === rows || rowIds[i]! >= first + n) continue
    if (source.interleave === undefined) copyBytes(file, source.offset + first * rowBytes, part, 0, n * rowBytes)
    else {
      const offset = first === 0 ? 0 : tensorBytes(type, Layout.INTERLEAVED, first, cols)
      const layouts = { sourceLayout: Layout.INTERLEAVED, targetLayout: Layout.ROWS }
      engine.repack({
        ...{ source: file, sourceOffset: source.offset + offset, target: part, targetOffset: 0 },
        ...{ type, rows: n, cols, ...layouts },
      })
    }
    const all = new Uint8Array(part.view(0, n * rowBytes))
    for (; i < rows && rowIds[i]! < first + n; i++) {
      const at = (rowIds[i]! - first) * rowBytes
      listed.set(all.subarray(at, at + rowBytes), i * rowBytes)
    }
  }
  const target = Buffer.create(weight.bytes)
  const layouts = { sourceLayout: Layout.ROWS, targetLayout: Layout.INTERLEAVED }
  engine.repack({ source: list, sourceOffset: 0, target, targetOffset: 0, type, rows, cols, ...layouts })
  return target
}

/** Of the rows before the first, in the file. */
function rowsBytes({ type, firstRow, cols }: Weight): number {
  return firstRow === 0 ? 0 : tensorBytes(type, Layout.ROWS, firstRow, cols)
}

/** Matrix `i` of a weight, or its vector. */
function loadMatrix(weight: Weight, i: number, files: readonly Buffer[], target: Buffer, engine: Engine): void {
  const { source, nMatrices } = weight
  if (!(source instanceof Float32Array) && source.interleave === 4) {
    loadSmallGroups(weight, i, source, files[source.file]!, target, engine)
    return
  }
  if (!(source instanceof Float32Array) && source.interleave !== undefined) {
    throw new FormatError(
      `${weight.name} is not interleaved as this version of the graph needs it: repack the source again`,
    )
  }
  if (weight.layout === Layout.INTERLEAVED && !(source instanceof Float32Array)) {
    engine.repack({
      source: files[source.file]!,
      sourceOffset: source.offset + rowsBytes(weight) + (i * source.bytes) / nMatrices,
      target,
      targetOffset: weight.offset + (i * weight.bytes) / nMatrices,
      type: weight.type,
      rows: weight.rows,
      cols: weight.cols,
      sourceLayout: Layout.ROWS,
      targetLayout: Layout.INTERLEAVED,
    })
    return
  }
  if (weight.rows > 1 && !(source instanceof Float32Array)) {
    copyBytes(files[source.file]!, source.offset, target, weight.offset, weight.bytes)
    return
  }
  const values = source instanceof Float32Array ? source : readVector(files, source)
  const view = target.view(weight.offset, weight.bytes)
  new Float32Array(view).set(values)
  target.forget(view)
}

/** Matrix `i` of a weight whose file has groups of 4 rows. */
function loadSmallGroups(
  { type, rows, cols, firstRow, nMatrices, offset, bytes }: Weight,
  i: number,
  source: TensorInfo,
  file: Buffer,
  target: Buffer,
  engine: Engine,
): void {
  const before = firstRow === 0 ? 0 : tensorBytes(type, Layout.INTERLEAVED_4, firstRow, cols)
  engine.repack({
    source: file,
    sourceOffset: source.offset + before + (i * source.bytes) / nMatrices,
    target,
    targetOffset: offset + (i * bytes) / nMatrices,
    ...{ type, rows, cols, sourceLayout: Layout.INTERLEAVED_4, targetLayout: Layout.INTERLEAVED },
  })
}

const COPY_BYTES = 2 ** 30 // below what one view may have

export function copyBytes(from: Buffer, fromOffset: number, to: Buffer, toOffset: number, bytes: number): void {
  for (let done = 0; done < bytes; done += COPY_BYTES) {
    const n = Math.min(COPY_BYTES, bytes - done)
    const [source, target] = [from.view(fromOffset + done, n), to.view(toOffset + done, n)]
    new Uint8Array(target).set(new Uint8Array(source))
    from.forget(source)
    to.forget(target)
  }
}
