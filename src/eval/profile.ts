// Where the time of a speed test goes: each op's time, the bytes it has to read and the multiply-accumulates it has to do,
// summed by kind of op and by layer. Bytes are those of weights, keys and values; activations stay in the caches. Knows
// neither limits nor terminals.

import type { Model, OpReport } from "../model.ts"
import { type KvTypes, type SpeedTest, workOf } from "./speed.ts"

/** Of one run of a test, on average. */
export interface ProfileRow {
  /** "gate_up ffn_gate+ffn_up", or "layer 3". */
  readonly what: string
  /** Kernel slots last used, "q4_k.gemv.avx512". */
  readonly slots: readonly string[]
  readonly nanoseconds: number
  readonly bytes: number
  readonly macs: number
}

export interface Profile {
  /** By kind, in the order of a pass. */
  readonly kinds: readonly ProfileRow[]
  /** What belongs to no layer of the model (embedding, output) is the last row. */
  readonly layers: readonly ProfileRow[]
}

/** Watches the ops of a model from its making on. */
export class Profiler {
  readonly #model: Model
  readonly #before: readonly number[]

  constructor(model: Model) {
    this.#model = model
    this.#before = model.ops().map(({ nanoseconds }) => nanoseconds)
  }

  /** What `nRuns` runs of a test, all since the profiler was made, came to. */
  profile(test: SpeedTest, nRuns: number, types: KvTypes = {}): Profile {
    const ops = this.#model.ops()
    const rows = ops.map((op, i) => ({
      ...workOfOp(this.#model, op, test, types),
      kind: kindOf(op),
      layer: op.isOfLayer ? `layer ${op.layer}` : "outside of layers",
      slot: op.slot,
      nanoseconds: (op.nanoseconds - this.#before[i]!) / nRuns,
    }))
    return { kinds: summed(rows, ({ kind }) => kind), layers: summed(rows, ({ layer }) => layer) }
  }
}

/** Operation and short names of its weights. */
function kindOf({ operation, weights }: OpReport): string {
  const names = weights.filter((name) => !name.endsWith(".bias"))
  return [operation, names.map((name) => name.replace(/^blk\.\d+\.|\.weight$/g, "")).join("+")].join(" ").trim()
}

/** Weights are read once a pass, however many tokens it has; of experts those that any of them goes to, at most all. */
function workOfOp(model: Model, op: OpReport, test: SpeedTest, types: KvTypes): { bytes: number; macs: number } {
  const { nPrompt, nGen } = test
  if (op.operation === "attention") {
    const work = workOf(model, test, types)
    const { nLayers } = model.config
    return { bytes: (work.kvBytesPerToken * nGen) / nLayers, macs: work.attentionMacs / nLayers }
  }
  const nRows = op.isPerOutput ? (nPrompt > 0 ? 1 : 0) + nGen : nPrompt + nGen
  const nBatches = op.isPerOutput ? 0 : Math.ceil(nPrompt / model.nUbatch)
  const bytes = op.streamedBytesOfBatch * nBatches + op.streamedBytes * (op.isPerOutput ? nRows : nGen)
  return { bytes, macs: op.macs * nRows }
}

type Row = Omit<ProfileRow, "what" | "slots"> & { kind: string; layer: string; slot: string }

function summed(rows: readonly Row[], key: (row: Row) => string): ProfileRow[] {
  return Array.from(Map.groupBy(rows, key), ([what, group]) => ({
    what,
    slots: [...new Set(group.map(({ slot }) => slot).filter((slot) => slot !== ""))],
    nanoseconds: group.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0),
    bytes: group.reduce((sum, { bytes }) => sum + bytes, 0),
    macs: group.reduce((sum, { macs }) => sum + macs, 0),
  }))
}
