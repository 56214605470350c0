// Where the time of a speed test goes: each op's time, the bytes it has to read and the multiply-accumulates it has to do,
// summed by kind of op and by layer, and the events that the processor counts. Bytes are those of weights, keys and values;
// activations stay in the caches. Knows neither limits nor terminals.

import { UnsupportedError } from "../errors.ts"
import type { Model, OpReport } from "../model.ts"
import type { CounterName } from "../native/handles.ts"
import { type KvTypes, type SpeedTest, workOf } from "./speed.ts"
import { meanAndDeviation } from "./statistics.ts"

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
  /** What belongs to no layer of the model (embedding, output) is a row of its own. */
  readonly layers: readonly ProfileRow[]
  /** Events of one run on all threads; those that the system does not count are missing, */
  readonly counts: Readonly<Partial<Record<CounterName, number>>>
  /** and this is why. */
  readonly notCounted: string | null
}

const COUNTERS: readonly CounterName[] = ["instructions", "cycles", "l1dMisses", "llcMisses", "pageFaults"]

/** Rows for what no op took: less than this share of the time is rounding. */
const LEAST_REST = 0.001

/** Watches the ops of a model from its making on. */
export class Profiler {
  readonly #model: Model
  readonly #before: readonly number[]
  readonly #counted = new Map<CounterName, number>()
  #notCounted: string | null = null

  constructor(model: Model) {
    this.#model = model
    this.#before = model.ops().map(({ nanoseconds }) => nanoseconds)
    for (const counter of COUNTERS) this.#start(counter)
  }

  #start(counter: CounterName): void {
    try {
      this.#counted.set(counter, this.#model.count(counter))
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error
      this.#notCounted ??= error.message
    }
  }

  /** What runs of a test, all since the profiler was made, came to: `samples` are the nanoseconds of each. */
  profile(test: SpeedTest, samples: readonly number[], types: KvTypes = {}): Profile {
    const nRuns = samples.length
    const counts = Array.from(this.#counted, ([counter, n]) => [counter, (this.#model.count(counter) - n) / nRuns])
    const ops = this.#model.ops()
    const rows = ops.map((op, i) => ({
      ...workOfOp(this.#model, op, test, types),
      kind: kindOf(op),
      layer: op.isOfLayer ? `layer ${op.layer}` : "outside of layers",
      slot: op.slot,
      nanoseconds: (op.nanoseconds - this.#before[i]!) / nRuns,
    }))
    const { mean } = meanAndDeviation(samples)
    const rest = mean - rows.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0)
    const between = { what: "between ops", slots: [], nanoseconds: rest, bytes: 0, macs: 0 }
    const whole = (parts: ProfileRow[]) => (rest < LEAST_REST * mean ? parts : [...parts, between])
    return {
      kinds: whole(summed(rows, ({ kind }) => kind)),
      layers: whole(summed(rows, ({ layer }) => layer)),
      counts: Object.fromEntries(counts),
      notCounted: this.#notCounted,
    }
  }
}

/** Operation and short names of its weights. */
function kindOf({ operation, weights }: OpReport): string {
  const names = weights.filter((name) => !name.endsWith(".bias"))
  return [operation, names.map((name) => name.replace(/^blk\.\d+\.|\.weight$/g, "")).join("+")].join(" ").trim()
}

/** Weights are read once a pass, however many tokens it has; of experts those that any of them goes to, at most all. */
function workOfOp(model: Model, op: OpReport, test: SpeedTest, types: KvTypes): { bytes: number; macs: number } {
  const { nPrompt, nGen, nVerify = 0 } = test
  if (op.operation === "attention") {
    const work = workOf(model, test, types)
    const { nLayers } = model.config
    return { bytes: (work.kvBytesPerToken * nGen) / nLayers, macs: work.attentionMacs / nLayers }
  }
  const nRows = (op.isPerOutput && nPrompt > 0 ? 1 : nPrompt) + nGen + nVerify
  const nBatches = Math.ceil(nVerify / model.nUbatch) + (op.isPerOutput ? 0 : Math.ceil(nPrompt / model.nUbatch))
  const nSingle = nGen + (op.isPerOutput && nPrompt > 0 ? 1 : 0)
  const bytes = op.streamedBytesOfBatch * nBatches + op.streamedBytes * nSingle
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
