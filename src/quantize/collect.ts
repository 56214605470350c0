// Fills an importance matrix: a model reads a text, and before each op with matrices its input, as it stands in the arena,
// is squared and summed. The passes are those of any session, all tokens outputs: the end of the last layer runs for outputs
// alone. Matrices outside of layers are left out, as by llama-imatrix.

import { ArgumentError } from "../errors.ts"
import { chunksOf } from "../eval/perplexity.ts"
import type { Executor } from "../executor.ts"
import type { PlannedOp } from "../graph.ts"
import type { Model } from "../model.ts"
import type { Place } from "../tensors.ts"
import { addSquares } from "./activations.ts"
import { type Entry, Importance } from "./importance.ts"

export interface CollectOptions {
  /** Tokens of a chunk. Default 512. */
  readonly nCtx?: number
  /** Chunks at most; absent: all. */
  readonly nChunks?: number
  /** Where the text came from. */
  readonly dataset?: string
  /** After each chunk; waited for. */
  onChunk?(nDone: number, nChunks: number): void | Promise<void>
  readonly signal?: AbortSignal
}

/** Reads `tokens` (evaluationTokens) in chunks, each from an empty cache. */
export async function collectImportance(
  model: Model,
  tokens: Int32Array,
  options: CollectOptions = {},
): Promise<Importance> {
  const { nCtx = 512, dataset, signal } = options
  const nChunks = chunksOf(tokens.length, nCtx, options.nChunks)
  const { addBos, bos } = model.tokenizer
  const collector = new Collector(model.executorFor(nCtx))
  for (let i = 0; i < nChunks; i++) {
    const chunk = tokens.slice(i * nCtx, (i + 1) * nCtx)
    if (addBos) chunk[0] = bos!
    using session = model.createSession({ nCtx })
    session.topK = 0
    session.extend(chunk, { outputs: "all", watch: collector, ...(signal === undefined ? {} : { signal }) })
    await options.onChunk?.(i + 1, nChunks)
  }
  return new Importance(model.path, collector.entries(), { dataset, chunkSize: nCtx, nChunks })
}

/** What is summed for one op: of one matrix, or of each expert's. */
interface Sums {
  readonly names: readonly string[]
  readonly input: Place
  /** moe_gate_up, moe_down: which experts each row goes to. */
  readonly experts: Place | undefined
  readonly sums: readonly Float64Array[] // (nMatrices) of (cols)
  readonly counts: Float64Array // (nMatrices)
}

/** Sums what the matrices of layers read, over passes that it watches. */
export class Collector {
  readonly ops: readonly number[]
  readonly #sums = new Map<number, Sums>()
  readonly #views = new Map<Place, DataView>()

  constructor({ plan }: Executor) {
    for (const [i, op] of plan.ops.entries()) {
      const sums = sumsOf(op)
      if (sums !== undefined) this.#sums.set(i, sums)
    }
    this.ops = [...this.#sums.keys()]
    if (this.ops.length === 0) throw new ArgumentError("the model has no matrices in layers")
  }

  beforeOp(op: number, n: number, executor: Executor): void {
    const { input, experts, sums, counts } = this.#sums.get(op)!
    const memory = this.#view(executor, input)
    const add = (row: number, matrix: number) => {
      addSquares(input, memory, row, sums[matrix]!)
      counts[matrix]!++
    }
    if (experts === undefined) for (let row = 0; row < n; row++) add(row, 0)
    else forEachSlot(this.#view(executor, experts), experts, n, sums.length, input.rows > experts.rows, add)
  }

  #view(executor: Executor, place: Place): DataView {
    let view = this.#views.get(place)
    if (view === undefined) {
      const bytes = executor.memory(place)
      view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      this.#views.set(place, view)
    }
    return view
  }

  /** By tensor name; a tensor that several ops read (parts of a joined matrix read the same input) has the first's. */
  entries(): Map<string, Entry> {
    const entries = new Map<string, Entry>()
    for (const { names, sums, counts, input } of this.#sums.values()) {
      const all = new Float32Array(sums.length * input.cols)
      for (const [i, of] of sums.entries()) all.set(of, i * input.cols)
      for (const name of names) {
        if (!entries.has(name)) entries.set(name, { sums: all, counts: Float32Array.from(counts) })
      }
    }
    return entries
  }
}

function sumsOf({ operation, weights, places }: PlannedOp): Sums | undefined {
  const matrices = weights.filter(({ rows }) => rows > 1)
  const input = places.in
  if (operation === "embed" || input === undefined || matrices.length === 0) return undefined
  const names = matrices.flatMap(({ source }) => (source instanceof Float32Array ? [] : [source.name]))
  if (!names.some((name) => name.startsWith("blk."))) return undefined
  const { nMatrices } = matrices[0]!
  const sums = Array.from({ length: nMatrices }, () => new Float64Array(input.cols))
  return { names, input, experts: places.experts, sums, counts: new Float64Array(nMatrices) }
}

/** Calls add(row of the input, expert) for each of n rows at each of its experts. Slots, which moe_down reads, lie in the
 * order of (expert, row): csrc/ops.h. */
function forEachSlot(
  memory: DataView,
  { cols: nUsed, stride }: Place,
  n: number,
  nExperts: number,
  isOfSlots: boolean,
  add: (row: number, expert: number) => void,
): void {
  let slot = 0
  for (let expert = 0; expert < nExperts; expert++) {
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < nUsed; i++) {
        if (memory.getInt32(4 * (row * stride + i), true) === expert) add(isOfSlots ? slot++ : row, expert)
      }
    }
  }
}
