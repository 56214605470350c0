// Weights from GGUF files into one C buffer: which tensors a graph needs, where each lies, and the loading.
//
// Matrices are interleaved by asdsl_repack in the order in which a pass reads them; vectors (norms, biases) become F32.
// Every weight byte is resident once: the mapped files are let go after loading. This file knows nothing of what a tensor
// is for; graph.ts asks for them by name and shape, and all checks happen before the first large allocation.

import { CancelledError, FormatError, UnsupportedError } from "./errors.ts"
import { type GgufHeader, TENSOR_TYPES, type TensorInfo } from "./gguf/types.ts"
import { Layout, Type } from "./native/abi.ts"
import { Buffer, type Engine, tensorBytes } from "./native/handles.ts"

const KNOWN_TYPES = new Map<number, string>(Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name]))

const ALIGNMENT = 64 // a cache line: what kernels and the validator ask of every operand

/** Some rows of a file's tensor as a matrix of their own: files put matrices that read the same inputs into one tensor. */
export interface RowRange {
  readonly name: string
  readonly firstRow: number
  /** Rows of the whole tensor. */
  readonly fileRows: number
}

/** A tensor by its name, or some of its rows. */
export type MatrixRef = string | RowRange

/** For messages and for telling weights apart. */
function nameOf(ref: MatrixRef, rows: number): string {
  return typeof ref === "string" ? ref : `${ref.name}[${ref.firstRow}:${ref.firstRow + rows}]`
}

/** A matrix or vector of the model and its place in the weights buffer. */
export interface Weight {
  /** The tensor's; with the rows, [first:end], where they are not all. */
  readonly name: string
  /** Element type in memory: the file's for matrices, F32 for vectors. */
  readonly type: number
  readonly layout: number
  /** Outputs; 1 for a vector. Of one matrix where there are several. */
  readonly rows: number
  /** Inputs. */
  readonly cols: number
  /** Of all matrices together. */
  readonly bytes: number
  /** Matrices of one shape, one after the other: those of experts. Else 1. */
  readonly nMatrices: number
  /** From the start of the weights buffer; set by WeightPlan.place(). */
  offset: number
  /** Where the values come from: the file, or computed here. */
  readonly source: TensorInfo | Float32Array
  /** First row in the file's tensor. */
  readonly firstRow: number
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
  #bytes = 0

  constructor(header: GgufHeader, readVector: (info: TensorInfo) => Float32Array) {
    this.header = header
    this.#readVector = readVector
  }

  has(name: string): boolean {
    return this.header.tensors.has(name)
  }

  /** A matrix of `rows` outputs and `cols` inputs, interleaved in memory. */
  matrix(ref: MatrixRef, rows: number, cols: number): Weight {
    const {
      name: tensor,
      firstRow,
      fileRows,
    } = typeof ref === "string" ? { name: ref, firstRow: 0, fileRows: rows } : ref
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
    return this.#add({ name, type: info.type, layout: Layout.INTERLEAVED, rows, cols, bytes, source: info, firstRow })
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

  #add(weight: Omit<Weight, "offset" | "lastUse" | "nMatrices" | "nStreamed">, nMatrices = 1): Weight {
    const added: Weight = { ...weight, nMatrices, offset: -1, lastUse: -1, nStreamed: 0 }
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

  /** Gives every weight its offset, in the order of last use, so that a pass reads the buffer from front to back. */
  place(): void {
    this.#bytes = 0
    for (const weight of this.weights()) {
      weight.offset = this.#bytes
      this.#bytes = align(this.#bytes + weight.bytes)
    }
  }

  weights(): Weight[] {
    return [...this.#weights.values()].sort((a, b) => a.lastUse - b.lastUse)
  }

  /** Of the weights buffer. */
  get bytes(): number {
    return this.#bytes
  }
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

/** Loads all weights of a placed plan into one fresh buffer, on all threads of the engine. */
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

/** Of the rows before the first, in the file. */
function rowsBytes({ type, firstRow, cols }: Weight): number {
  return firstRow === 0 ? 0 : tensorBytes(type, Layout.ROWS, firstRow, cols)
}

/** Matrix `i` of a weight, or its vector. */
function loadMatrix(weight: Weight, i: number, files: readonly Buffer[], target: Buffer, engine: Engine): void {
  const { source, nMatrices } = weight
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
  const values = source instanceof Float32Array ? source : readVector(files, source)
  const view = target.view(weight.offset, weight.bytes)
  new Float32Array(view).set(values)
  target.forget(view)
}
