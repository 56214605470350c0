// What a draft model said behind every token of some replies (test/fixtures/draft-traces.json), and a run of the controller
// and the drafters over them in a time that is made up: passes and steps cost what they are told to. No model, no clock.

import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Random } from "../src/random.ts"
import { Acceptance } from "../src/speculative/acceptance.ts"
import { CombinedDrafter } from "../src/speculative/combined.ts"
import { Controller, type DraftModelRecord, MODEL_ACCEPTANCE } from "../src/speculative/controller.ts"
import { DraftCosts, PassCosts } from "../src/speculative/costs.ts"
import type { Draft, Drafter, EvaluatingDrafter, ProposeOptions } from "../src/speculative/drafter.ts"
import { LookupDrafter } from "../src/speculative/lookup.ts"
import { ReplyLengths } from "../src/speculative/reply-lengths.ts"

export interface Trace {
  readonly category: string
  readonly prompt: readonly number[]
  /** The target's own. */
  readonly reply: readonly number[]
  /** Of the draft behind each token of the reply: how many of its tokens are the reply's, and the model's confidences. */
  readonly drafts: readonly { readonly nRight: number; readonly confidences: readonly number[] }[]
}

/** As the fixture has them: tokens as text; for each draft nRight, the number of confidences, and these in 1/255. */
interface StoredTrace {
  readonly category: string
  readonly prompt: string
  readonly reply: string
  readonly drafts: string // base64
}

export function readTraces(): Trace[] {
  const stored: StoredTrace[] = JSON.parse(readFileSync(join(import.meta.dir, "fixtures/draft-traces.json"), "utf8"))
  return stored.map(({ category, prompt, reply, drafts }) => ({
    category,
    prompt: prompt.split(" ").map(Number),
    reply: reply.split(" ").map(Number),
    drafts: [...unpack(Buffer.from(drafts, "base64"))],
  }))
}

function* unpack(bytes: Uint8Array): Generator<Trace["drafts"][number]> {
  for (let at = 0; at < bytes.length; at += 2 + bytes[at + 1]!) {
    const confidences = Array.from(bytes.subarray(at + 2, at + 2 + bytes[at + 1]!), (each) => each / 255)
    yield { nRight: bytes[at]!, confidences }
  }
}

/** What things cost, in passes over one token. */
export interface Machine {
  /** The products of a pass over n tokens; reading the weights takes 1. */
  products(n: number): number
  /** A step of the draft model. */
  readonly step: number
  /** Of its prompt, a token. */
  readonly read: number
  /** Standard deviation of a pass's time, as a share of it; one in fifty takes twice as long then. */
  readonly noise: number
  /** Standard deviation of the memory's speed, which changes now and then, as a share of it. */
  readonly drift: number
}

/** Times that passes take in one run: the same for the same seed. */
class Clock {
  milliseconds = 0
  readonly #machine: Machine
  readonly #random: Random
  #speed = 1
  #nLeft = 0 // passes at this speed

  constructor(machine: Machine, seed: number) {
    this.#machine = machine
    this.#random = new Random(seed)
  }

  /** Something has been done whose weights take so many passes to be read, and its products so many to be computed; how
   * long it took. */
  spend(reading: number, products: number): number {
    const { noise } = this.#machine
    const disturbed = noise > 0 && this.#random.double() < 0.02 ? 2 : 1
    const passes = Math.max(this.#speed * reading, products)
    const milliseconds = 25 * passes * disturbed * Math.exp(noise * this.#normal())
    this.milliseconds += milliseconds
    return milliseconds
  }

  nextPass(): void {
    if (this.#nLeft-- > 0) return
    this.#speed = Math.exp(this.#machine.drift * this.#normal())
    this.#nLeft = 20 + 150 * this.#random.double()
  }

  #normal(): number {
    let sum = -3
    for (let i = 0; i < 6; i++) sum += this.#random.double()
    return sum * Math.SQRT2
  }
}

/** Says what the trace has. */
class TraceDrafter implements EvaluatingDrafter {
  readonly #trace: Trace
  readonly #machine: Machine
  readonly #clock: Clock
  #nKnown = 0
  #nHeld = 0

  constructor(trace: Trace, machine: Machine, clock: Clock) {
    this.#trace = trace
    this.#machine = machine
    this.#clock = clock
  }

  reset(): void {
    this.#nKnown = 0
    this.#nHeld = 0
  }

  push(): void {
    this.#nKnown++
  }

  get nPending(): number {
    return Math.max(this.#nKnown - this.#nHeld, 1)
  }

  propose(max: number, { gate }: ProposeOptions = {}): Draft {
    const { prompt, reply, drafts } = this.#trace
    const at = this.#nKnown - prompt.length // the reply's tokens so far
    const { nRight, confidences: said } = drafts[at - 1] ?? { nRight: 0, confidences: [] }
    const draft = { source: "model" as const, n: 0, tokens: new Int32Array(max), confidences: new Float64Array(max) }
    while (draft.n < max && gate?.extends(draft, draft.n === 0 ? this.nPending : 1, max) !== false) {
      const n = draft.n === 0 ? this.nPending : 1
      if (draft.n === 0) this.#nHeld = this.#nKnown
      const { step, read } = this.#machine
      const spent = n > 16 ? this.#clock.spend(0, n * read) : this.#clock.spend(step, n * read)
      gate?.stepped(n, spent)
      const confidence = said[draft.n] ?? 0.25 // beyond what was written down
      if (gate?.includes(draft, confidence) === false) break
      draft.tokens[draft.n] = draft.n < nRight ? reply[at + draft.n]! : -1
      draft.confidences[draft.n++] = confidence
    }
    this.#nHeld += Math.min(nRight, Math.max(draft.n - 1, 0))
    return draft
  }
}

/** What is learnt once a model. */
export interface Learnt {
  readonly costs: PassCosts
  readonly record: DraftModelRecord
}

export function nothingLearnt({ step }: Machine): Learnt {
  return {
    costs: new PassCosts(),
    record: { costs: new DraftCosts(step), acceptance: new Acceptance(MODEL_ACCEPTANCE), replies: new ReplyLengths() },
  }
}

export interface Setting {
  readonly mode: "off" | "lookup" | "draft" | "auto"
  readonly maxDraft: number
  /** auto: without the draft model. */
  readonly isAlone?: boolean
}

export interface Outcome {
  milliseconds: number
  nTokens: number
  nDrafted: number
  nAccepted: number
}

/** One reply. 512 tokens may come, and a draft ends where the reply does: with what ends it. */
export function replay(trace: Trace, setting: Setting, machine: Machine, learnt: Learnt, seed: number): Outcome {
  const { mode, maxDraft, isAlone = false } = setting
  const { prompt, reply } = trace
  const clock = new Clock(machine, seed)
  const model = new TraceDrafter(trace, machine, clock)
  const drafters: Record<Setting["mode"], () => Drafter | undefined> = {
    off: () => undefined,
    lookup: () => new LookupDrafter(),
    draft: () => model,
    auto: () => (isAlone ? new LookupDrafter() : new CombinedDrafter(model)),
  }
  const drafter = drafters[mode]()
  const controller = mode === "auto" ? new Controller(learnt.costs, isAlone ? undefined : learnt.record) : undefined
  controller?.start()
  for (const token of prompt) drafter?.push(token)
  const outcome: Outcome = { milliseconds: 0, nTokens: reply.length - 1, nDrafted: 0, nAccepted: 0 }
  for (let at = 0, nKnown = 0; at < reply.length - 1; at++) {
    clock.nextPass()
    for (; nKnown <= at; nKnown++) drafter?.push(reply[nKnown]!)
    controller?.begin(511 - at)
    const max = Math.min(maxDraft, reply.length - 2 - at)
    const draft = max > 0 ? drafter?.propose(max, { gate: controller }) : undefined
    const n = draft === undefined ? 0 : (controller?.choose(draft.confidences, draft.n, draft.source) ?? draft.n)
    const milliseconds = clock.spend(1, machine.products(n + 1))
    controller?.passed(n + 1, milliseconds)
    outcome.nDrafted += n
    for (let i = 0; draft !== undefined && i < n; i++) {
      const isAccepted = draft.tokens[i] === reply[at + 1]
      controller?.judged(i, draft.confidences[i]!, isAccepted, draft.source)
      if (!isAccepted) break
      at++
      outcome.nAccepted++
    }
  }
  outcome.milliseconds = clock.milliseconds
  return outcome
}
