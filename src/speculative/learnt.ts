// What is known of a model's passes and of its draft model's drafts, kept from one process to the next: a file beside the
// repacked copies, one for each pair of models, processor, instruction set and number of threads. It holds times and
// counts, nothing of any text. It is a help and no more: what is wrong with it is no error.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { AsdslError } from "../errors.ts"
import { systemCode } from "../file-errors.ts"
import { sidecarPath } from "../interleaved/sidecar.ts"
import type { Model } from "../model.ts"
import { writeWhole } from "../output-file.ts"
import { Acceptance, type AcceptanceState } from "./acceptance.ts"
import { type DraftModelRecord, MODEL_ACCEPTANCE } from "./controller.ts"
import { DraftCosts, type DraftState, PassCosts, type PassState } from "./costs.ts"
import { ReplyLengths } from "./reply-lengths.ts"

/** Counts up when a field means something else. */
const VERSION = 3

/** Passes after which the end of a generation writes it again. */
const KEEP_EVERY = 16

interface LearntState {
  readonly version: number
  readonly passes: PassState
  readonly draft?: {
    readonly costs: DraftState
    readonly acceptance: AcceptanceState
    readonly replies: readonly number[]
  }
}

/** What is learnt once a model. */
export class Learnt {
  readonly costs = new PassCosts()
  /** undefined without a draft model. */
  readonly record: DraftModelRecord | undefined
  readonly #path: string | undefined
  #nKept = 0 // passes that were known when it was written

  constructor(model: Model) {
    const { draft } = model
    if (draft !== undefined) {
      this.record = {
        costs: new DraftCosts(draft.streamedBytes / model.streamedBytes),
        acceptance: new Acceptance(MODEL_ACCEPTANCE),
        replies: new ReplyLengths(),
      }
    }
    this.#path = pathOf(model)
    const state = this.#path === undefined ? undefined : readState(this.#path)
    if (state !== undefined) this.#restore(state)
  }

  /** Writes what is known, now and then. */
  keep(): void {
    const { nPasses } = this.costs
    if (this.#path === undefined || nPasses < this.#nKept + KEEP_EVERY) return
    this.#nKept = nPasses
    const record = this.record && {
      costs: this.record.costs.state,
      acceptance: this.record.acceptance.state,
      replies: this.record.replies.state,
    }
    const state: LearntState = { version: VERSION, passes: this.costs.state, ...(record && { draft: record }) }
    writeState(this.#path, state)
  }

  #restore({ passes, draft }: LearntState): void {
    this.costs.restore(passes)
    if (draft === undefined) return
    this.record?.costs.restore(draft.costs)
    this.record?.acceptance.restore(draft.acceptance)
    this.record?.replies.restore(draft.replies)
  }
}

/** undefined where nothing is kept. */
function pathOf(model: Model): string | undefined {
  const { learntFolder: folder, draft } = model
  if (folder === undefined) return undefined
  const copies = [model.path, ...(draft === undefined ? [] : [draft.path])].map((path) => sidecarPath(folder, path))
  const { cpu, level, nThreads } = model.engineInfo()
  const facts = [...copies, cpu, level, nThreads, draft?.outputTokens?.length]
  const digest = new Bun.CryptoHasher("sha256").update(JSON.stringify(facts)).digest("hex").slice(0, 16)
  return join(folder, `passes-${digest}.json`)
}

/** Removes what was kept in a folder; returns the paths. */
export function forgetLearnt(folder: string): string[] {
  const names = existsSync(folder) ? readdirSync(folder) : []
  const paths = names.filter((name) => /^passes-[0-9a-f]{16}\.json$/.test(name)).map((name) => join(folder, name))
  for (const path of paths) rmSync(path, { force: true })
  return paths
}

function readState(path: string): LearntState | undefined {
  try {
    const state: unknown = JSON.parse(readFileSync(path, "utf8"))
    return isSound(state) ? state : undefined
  } catch {
    return undefined
  }
}

/** Of this version, and all that is in it are numbers that can be: what else is wrong costs a few passes. */
function isSound(state: unknown): state is LearntState {
  const given = state as Partial<LearntState> | null
  if (given?.version !== VERSION || !areNumbers(given.passes?.products) || !areNumbers(given.passes.counts))
    return false
  const { draft } = given
  if (draft === undefined) return true
  const { costs, acceptance, replies } = draft
  const lists = [costs?.passes?.products, costs?.passes?.counts].every(areNumbers)
  const verdicts = [acceptance?.byKind, acceptance?.byPlace].every(
    (each) => areNumbers(each?.tried) && areNumbers(each.accepted),
  )
  const lengths = areNumbers(replies) && !replies.includes(null)
  return lists && verdicts && lengths && areNumbers([costs.share, costs.perToken])
}

function areNumbers(values: unknown): values is (number | null)[] {
  const isSoundNumber = (value: unknown) =>
    value === null || (typeof value === "number" && Number.isFinite(value) && value >= 0)
  return Array.isArray(values) && values.length <= 2 ** 16 && values.every(isSoundNumber)
}

function writeState(path: string, state: LearntState): void {
  try {
    mkdirSync(dirname(path), { recursive: true })
    writeWhole(path, new TextEncoder().encode(`${JSON.stringify(state)}\n`))
  } catch (error) {
    if (!(error instanceof AsdslError) && systemCode(error) === undefined) throw error
  }
}
