// One program with its parameter block: filling it, running it, and the output rows that a pass leaves behind.
//
// A decode step allocates nothing: rows and their views are made once and refreshed when asked for.

import { CancelledError } from "./errors.ts"
import type { Plan } from "./graph.ts"
import { Candidate, Layout, Params, RowStats } from "./native/abi.ts"
import { type Buffer, type KvCache, type Program, tensorBytes } from "./native/handles.ts"
import type { Place } from "./tensors.ts"

/** One row of logits and what the engine reduced it to. Valid until the next pass of any session of the model. */
export interface OutputRow {
  /** All logits of the row; a view into the engine's memory. */
  readonly logits: Float32Array // (nVocab)
  /** Natural logarithm of the sum of exp(logit) over the whole row. */
  readonly logsumexp: number
  /** The largest logit, and its token (the smallest id on a tie). */
  readonly max: number
  readonly argmax: number
  readonly nCandidates: number
  /** The candidates by logit descending, ties by token ascending. */
  readonly tokens: Int32Array // (nCandidates)
  readonly candidateLogits: Float32Array // (nCandidates)
  /** NaN or infinite logits; 0 on any sound model. */
  readonly nNotFinite: number
}

/** Who looks at what ops are about to read. A pass in pieces costs a wake-up of the workers for each. */
export interface Watch {
  /** Ascending indices into the plan's ops. */
  readonly ops: readonly number[]
  /** The pass's n rows are done up to op `op`: its operands are in the arena (Executor.memory). Behind plan.firstOutputOp
   * rows are outputs, some of them at a time. */
  beforeOp(op: number, n: number, executor: Executor): void
}

class Row implements OutputRow {
  readonly logits: Float32Array
  logsumexp = 0
  max = 0
  argmax = 0
  nCandidates = 0
  nNotFinite = 0
  tokens: Int32Array
  candidateLogits: Float32Array
  readonly #program: Program
  readonly #doubles: Float64Array // logsumexp
  readonly #floats: Float32Array // max at [2]
  readonly #ints: Int32Array // argmax at [3], n_candidates at [4], n_not_finite at [5]
  readonly #pairs: Int32Array // (maxTopK, 2) token, bits of logit
  readonly #pairLogits: Float32Array
  readonly #allTokens: Int32Array
  readonly #allLogits: Float32Array

  constructor(program: Program, logits: Float32Array, index: number) {
    const { params, settings } = program
    const stats = program.statsOffset + index * RowStats.bytes
    const candidates = program.candidatesOffset + index * settings.maxTopK * Candidate.bytes
    this.#program = program
    this.logits = logits
    this.#doubles = new Float64Array(params, stats, 1)
    this.#floats = new Float32Array(params, stats, RowStats.bytes / 4)
    this.#ints = new Int32Array(params, stats, RowStats.bytes / 4)
    this.#pairs = new Int32Array(params, candidates, 2 * settings.maxTopK)
    this.#pairLogits = new Float32Array(params, candidates, 2 * settings.maxTopK)
    this.tokens = this.#allTokens = new Int32Array(settings.maxTopK)
    this.candidateLogits = this.#allLogits = new Float32Array(settings.maxTopK)
  }

  /** Reads what the pass has left. */
  refresh(): void {
    const n = this.#ints[RowStats.fields.n_candidates.offset / 4]!
    this.logsumexp = this.#doubles[0]!
    this.max = this.#floats[RowStats.fields.max.offset / 4]!
    this.argmax = this.#ints[RowStats.fields.argmax.offset / 4]!
    this.nNotFinite = this.#ints[RowStats.fields.n_not_finite.offset / 4]!
    for (let i = 0; i < n; i++) {
      this.#allTokens[i] = this.#pairs[2 * i]!
      this.#allLogits[i] = this.#pairLogits[2 * i + 1]!
    }
    this.nCandidates = n
    if (this.tokens.length === n) return
    this.tokens = this.#allTokens.subarray(0, n)
    this.candidateLogits = this.#allLogits.subarray(0, n)
  }

  /** The row keeps the program, and with it the memory, alive. */
  get program(): Program {
    return this.#program
  }
}

/** Indices into Program.head: the parameters that change with every pass. */
const N_TOKENS = Params.fields.n_tokens.offset / 4
const N_OUTPUTS = Params.fields.n_outputs.offset / 4
const POSITION = Params.fields.position.offset / 4
const TOP_K = Params.fields.top_k.offset / 4

/** A program, its plan and its rows. Several executors may share one arena: passes are synchronous. */
export class Executor {
  readonly program: Program
  readonly plan: Plan
  readonly #arena: Buffer
  readonly #logits: Float32Array // (maxOutputs, stride)
  readonly #rows: Row[] = []

  constructor(program: Program, plan: Plan, arena: Buffer) {
    this.program = program
    this.plan = plan
    this.#arena = arena
    const { offset, rows, stride } = plan.logits
    this.#logits = new Float32Array(arena.view(offset, 4 * rows * stride))
  }

  /** Runs tokens[begin .. begin + n) at a position; rows of outputs firstOutput .. n - 1 up to maxOutputs are ready
   * afterwards. Returns the number of rows. The KV cache has grown by n unless it throws. */
  run(
    kv: KvCache,
    tokens: ArrayLike<number>,
    begin: number,
    n: number,
    position: number,
    firstOutput: number,
    topK: number,
    watch?: Watch,
  ): number {
    const { program } = this
    const nRows = this.prepare(tokens, begin, n, position, firstOutput, topK)
    const at = watch === undefined ? 0 : this.#runWatched(kv, 0, n, nRows, watch)
    program.run(kv, at, program.nOps - at)
    return nRows
  }

  /** Runs from op `first` up to the last one that is watched; returns it. */
  #runWatched(kv: KvCache | undefined, first: number, n: number, nOutputs: number, watch: Watch): number {
    let at = first
    for (const op of watch.ops) {
      if (op < first) continue
      if (op > at) this.program.run(kv, at, op - at)
      at = op
      watch.beforeOp(op, op < this.plan.firstOutputOp ? n : nOutputs, this)
    }
    return at
  }

  /** What run() does before it runs. */
  prepare(
    tokens: ArrayLike<number>,
    begin: number,
    n: number,
    position: number,
    firstOutput: number,
    topK: number,
  ): number {
    const { program } = this
    for (let i = 0; i < n; i++) program.tokens[i] = tokens[begin + i]!
    program.head[N_TOKENS] = n
    program.head[POSITION] = position
    program.head[TOP_K] = topK
    return this.#setOutputs(firstOutput, n)
  }

  /** More rows of the pass that run() has just done: outputs firstOutput .. up to maxOutputs of them. */
  runOutputs(firstOutput: number, n: number, watch?: Watch): number {
    const nRows = this.#setOutputs(firstOutput, n)
    const first = this.plan.firstOutputOp
    const at = watch === undefined ? first : this.#runWatched(undefined, first, n, nRows, watch)
    this.program.run(undefined, at, this.program.nOps - at)
    return nRows
  }

  #setOutputs(firstOutput: number, n: number): number {
    const { program } = this
    const nRows = Math.min(n - firstOutput, program.settings.maxOutputs)
    for (let j = 0; j < nRows; j++) program.outputs[j] = firstOutput + j
    program.head[N_OUTPUTS] = nRows
    return nRows
  }

  /** Row j of the last pass. The object is the same for the same j. */
  row(j: number): OutputRow {
    let row = this.#rows[j]
    if (row === undefined) {
      const { cols, stride } = this.plan.logits
      row = new Row(this.program, this.#logits.subarray(j * stride, j * stride + cols), j)
      this.#rows[j] = row
    }
    row.refresh()
    return row
  }

  /** Runs one op on the parameters of the last pass: the debugger, and the tests' way to every kernel. The KV cache has to
   * be where that pass found or left it. */
  runOp(index: number, kv?: KvCache): void {
    this.program.run(kv, index, 1)
  }

  /** The bytes of a tensor in the arena. Other tensors use the same memory in other ops of a pass. */
  memory(place: Place): Uint8Array {
    const { type, offset, rows, cols, stride } = place
    const bytes = stride > 0 ? 4 * ((rows - 1) * stride + cols) : tensorBytes(type, Layout.ROWS, rows, cols)
    return new Uint8Array(this.#arena.view(offset, bytes))
  }

  /** Whether a cancellation was waiting for the next run; it is forgotten. */
  takeCancel(): boolean {
    this.program.head[N_TOKENS] = 1
    this.program.head[N_OUTPUTS] = 0
    this.program.tokens[0] = 0
    try {
      this.program.run(undefined, this.program.nOps - 1, 1) // top_k of no rows
      return false
    } catch (error) {
      if (error instanceof CancelledError) return true
      throw error
    }
  }
}
