// What a model is loaded from, and how its weights come: an interleaved file is mapped and used in place, read ahead by a
// threads of their own; of a plain GGUF file they are interleaved in memory, and a copy for the next start is written behind.

import { rmSync } from "node:fs"
import { AsdslError } from "../errors.ts"
import type { GgufFile } from "../gguf/reader.ts"
import { Buffer, type Engine } from "../native/handles.ts"
import { gatherRows, type LoadProgress, loadWeights, readVector, WeightPlan } from "../weights.ts"
import { type OpenedModel, openModel, readInto } from "./open.ts"
import { type SaveResult, saveBehind } from "./save.ts"
import { copiesFolder, MIN_SOURCE_BYTES } from "./sidecar.ts"
import { verify } from "./verify.ts"

export interface SourceOptions {
  /** Use an interleaved copy of a plain GGUF file of 32 MB or more in the cache folder, and write one after the first load.
   * Default true; a folder: there instead of $ASDSL_CACHE, whatever the size. */
  cache?: boolean | string
  /** Write a copy where there is none. Default true. */
  save?: boolean
  /** Map interleaved files. Default true; false: weights are read into memory, and no copy is written. */
  mmap?: boolean
  /** Keep the weights from being swapped out or dropped. Default false. */
  mlock?: boolean
  /** Read a mapped file ahead of the first pass, on threads of their own. Default true. */
  prefetch?: boolean
  /** Compare all of an interleaved file with the digest that was written into it. Default false. */
  verify?: boolean
  /** What did not go as asked for and is no error. Default: a line on stderr. */
  onNote?(text: string): void
}

/** The weights of a model. */
export interface LoadedWeights extends Disposable {
  /** What is in no file as it is needed. */
  readonly memory: Buffer
  /** The file, or all of it in memory. */
  readonly mapped: Buffer | undefined
  readonly from: {
    readonly kind: OpenedModel["kind"]
    /** The file with the weights, the first of a split model. */
    readonly path: string
    readonly isMapped: boolean
  }
  readonly saved: Promise<SaveResult> | undefined
}

export class ModelSource implements Disposable {
  readonly header: GgufFile
  readonly #kind: OpenedModel["kind"]
  readonly #options: SourceOptions & LoadProgress
  readonly #folder: string | undefined
  readonly #files: Buffer[] = []

  private constructor(
    { header, kind }: OpenedModel,
    folder: string | undefined,
    options: SourceOptions & LoadProgress,
  ) {
    this.header = header
    this.#kind = kind
    this.#folder = folder
    this.#options = options
    try {
      for (const path of header.files) this.#files.push(Buffer.map(path))
    } catch (error) {
      this[Symbol.dispose]()
      throw error
    }
  }

  /** Reads the header and maps the files. */
  static async open(path: string, options: SourceOptions & LoadProgress): Promise<ModelSource> {
    const folder = copiesFolder(options)
    const opened = openModel(path, folder)
    if (options.verify !== true || opened.kind === "plain") return new ModelSource(opened, folder, options)
    try {
      await verify(opened.header.files[0]!, options)
    } catch (error) {
      if (opened.kind !== "copy" || !(error instanceof AsdslError) || error.code !== "format") throw error
      note(options, `${error.message}; it is written again`)
      rmSync(opened.header.files[0]!, { force: true })
      return new ModelSource(openModel(path, undefined), folder, options)
    }
    return new ModelSource(opened, folder, options)
  }

  weightPlan(): WeightPlan {
    return new WeightPlan(this.header, (info) => readVector(this.#files, info), this.#kind !== "plain")
  }

  /** Begins to read ahead what load() or the first pass will read. */
  prefetch(weights: WeightPlan): void {
    const { prefetch = true, mmap = true } = this.#options
    if (!prefetch || (this.#kind !== "plain" && !mmap)) return
    if (this.#kind === "plain") {
      for (const file of this.#files) file.prefetch(0, file.bytes)
      return
    }
    const range = weights.streamedInFile()
    if (range !== undefined) this.#files[0]!.prefetch(range.from, range.to - range.from)
  }

  /** The matrix of listed rows, for the caller to dispose of; undefined where the plan has none. Before load(). */
  gather(weights: WeightPlan, engine: Engine): Buffer | undefined {
    return weights.gathered === undefined ? undefined : gatherRows(weights.gathered, this.#files, engine)
  }

  /** The weights of a placed plan, for the caller to dispose of. */
  async load(weights: WeightPlan, engine: Engine): Promise<LoadedWeights> {
    const { mmap = true, mlock = false } = this.#options
    const isMapped = this.#kind !== "plain" && mmap
    using owned = new DisposableStack()
    const memory = owned.use(await loadWeights(weights, this.#files, engine, this.#options))
    const mapped = this.#kind === "plain" ? undefined : owned.use(isMapped ? this.#files.pop()! : await this.#read())
    for (const file of this.#files) file.check()
    mapped?.check()
    if (mlock) for (const buffer of [memory, mapped]) this.#lock(buffer)
    owned.move()
    const saved = this.#kind === "plain" ? this.#save(weights, memory) : undefined
    return {
      ...{ memory, mapped, saved },
      from: { kind: this.#kind, path: this.header.files[0]!, isMapped },
      [Symbol.dispose]() {
        memory[Symbol.dispose]()
        mapped?.[Symbol.dispose]()
      },
    }
  }

  /** Unmaps what load() has not handed on. */
  [Symbol.dispose](): void {
    for (const file of this.#files) file[Symbol.dispose]()
  }

  async #read(): Promise<Buffer> {
    const offsets = [...this.header.tensors.values()].map(({ offset }) => offset)
    return await readInto(this.header.files[0]!, Math.min(...offsets), this.header.fileBytes, this.#options)
  }

  #lock(buffer: Buffer | undefined): void {
    try {
      buffer?.lock()
    } catch (error) {
      if (!(error instanceof AsdslError)) throw error
      note(this.#options, `--mlock: ${error.message}`)
    }
  }

  #save(weights: WeightPlan, memory: Buffer): Promise<SaveResult> | undefined {
    const { save = true, mmap = true, cache } = this.#options
    const isSmall = typeof cache !== "string" && this.header.fileBytes < MIN_SOURCE_BYTES
    if (!save || !mmap || this.#folder === undefined || isSmall) return undefined
    const saved = saveBehind(this.#folder, this.header, weights, memory)
    void saved.then(({ failure }) => {
      if (failure !== undefined) note(this.#options, `no repacked copy of the model for the next start: ${failure}`)
    })
    return saved
  }
}

function note({ onNote }: SourceOptions, text: string): void {
  if (onNote === undefined) process.stderr.write(`asdsl: ${text}\n`)
  else onNote(text)
}
