// How many drafted tokens are worth a pass, and how many passes of a draft model they are worth. Takes timings and verdicts
// as numbers, so it is deterministic given them; knows no session, no clock, no drafter.
//
// A draft is extended while the tokens that it should bring exceed what the longer pass, and the draft model's, cost at the
// present rate: the fractional optimum of tokens per time (speculative decoding's gain is Leviathan et al. 2023, section
// 3.3; the threshold form, SpecDec++, Huang et al. 2024). And it never loses: an account in passes over one token pays for
// every draft, so that all drafts together can never cost more than DEBT passes and INCOME of the time beyond what they
// brought.

import { Acceptance } from "./acceptance.ts"
import { CLIP, type DraftCosts, type PassCosts } from "./costs.ts"
import type { Draft, DraftGate, DraftSource } from "./drafter.ts"

/** Of the passes spent, what drafts may cost at most beyond what they bring. Spent when nothing else pays, it is what
 * drafting is tried again from. */
const INCOME = 0.01
/** Passes that drafts may cost before they have brought anything. */
const START = 1
/** Passes that the account may go below 0. */
const DEBT = 1
/** Passes that are saved up at most: a text that turns is found out that fast. */
const MOST = 4

/** Memory of the rate, in passes. */
const RATE_MEMORY = 32
/** Passes over one token before the first draft: they are what drafts are measured by. */
const MIN_SINGLES = 2
/** Drafts in a row after which one pass is made without: what it costs changes with the context. */
const MAX_ROW = 64
/** Tokens that a draft model reads at a time and that count as a step of drafting. More are a prompt: what reading it costs
 * is weighed against all that is still to come. */
const MAX_STEP = 16
/** Tokens that are taken to come where nothing limits the reply. */
const HORIZON = 128

/** Of the first token of a lookup's draft, what is expected before it is seen; not used: it costs nothing to see it. */
const LOOKUP_ACCEPTANCE = 0.5
/** Of that of a draft model. */
export const MODEL_ACCEPTANCE = 0.7

/** What a draft model's drafts came to and cost, over all sessions. */
export interface DraftModelRecord {
  readonly costs: DraftCosts
  readonly acceptance: Acceptance
}

export class Controller implements DraftGate {
  readonly #costs: PassCosts
  readonly #lookups = new Acceptance(LOOKUP_ACCEPTANCE)
  readonly #model: DraftModelRecord | undefined
  #account = START
  #nInRow = 0
  readonly #rate = new Rate()
  readonly #rateElsewhere = new Rate() // where lookups brought nothing: what the tokens ahead cost there
  #source: DraftSource | undefined // of the draft that is being verified
  #mostTokens = HORIZON // that may still come
  #spent = 0 // on the model's draft that is being made
  #likelihood = 1 // that all its tokens are right

  constructor(costs: PassCosts, model?: DraftModelRecord) {
    this.#costs = costs
    this.#model = model
  }

  /** A draft is about to be made; `most` tokens may still come. */
  begin(most: number): void {
    this.#mostTokens = Math.min(most, HORIZON)
    this.#spent = 0
    this.#likelihood = 1
  }

  /** How many of the n tokens of a draft to verify: 0 to n. A model's tokens were asked for one by one. */
  choose(confidences: ArrayLike<number>, n: number, source: DraftSource = "lookup"): number {
    const chosen = source === "model" ? n : this.#best(confidences, n).n
    this.#source = chosen > 0 ? source : undefined
    return chosen
  }

  prefers({ n, confidences }: Draft, nPending: number, max: number): boolean {
    const found = this.#best(confidences, n)
    if (found.n === 0) return false
    if (this.#model === undefined || !this.#paysToRead(nPending, max)) return true
    return found.gain >= this.#plan(nPending, max, this.#rate).gain
  }

  extends({ n }: Draft, nPending: number, max: number): boolean {
    const model = this.#model
    if (model === undefined || (n === 0 && !this.#isReady)) return false
    const step = nPending > MAX_STEP ? 0 : this.#stepCost(nPending)
    if (this.#spent + step + this.#costs.cost(n + 2) - 1 > this.#account + DEBT) return false
    if (n === 0)
      return this.#paysToRead(nPending, max) && this.#plan(nPending, max).gain > 1 - this.#rateElsewhere.value
    const wins = this.#likelihood * model.acceptance.expected(n)
    return this.#isPassKnown(n + 2) && wins > this.#rateElsewhere.value * (step + this.#marginalCost(n))
  }

  includes({ n }: Draft, confidence: number): boolean {
    const likelihood = this.#likelihood * this.#model!.acceptance.likelihood(n, confidence)
    if (likelihood <= this.#rateElsewhere.value * this.#marginalCost(n)) return false
    this.#likelihood = likelihood
    return true
  }

  stepped(n: number, milliseconds: number): void {
    const { costs } = this.#model!
    const expected = this.#stepCost(n)
    costs.observe(n, milliseconds)
    if (n > MAX_STEP) return
    const cost = Math.min(this.#costs.units(milliseconds), CLIP * expected)
    this.#spent += cost
    this.#rate.passes += cost
    this.#rateElsewhere.passes += cost
    this.#earn(-cost)
  }

  /** A pass over n tokens, all but the first drafted, took so long and brought its first token. */
  passed(n: number, milliseconds: number): void {
    const costs = this.#costs
    // Much more than it should cost is not its own fault; where it is, more will be expected of the next.
    const cost = n === 1 ? 1 : Math.min(costs.units(milliseconds), CLIP * costs.cost(n))
    costs.observe(n, milliseconds)
    this.#earn(INCOME + 1 - cost)
    this.#nInRow = n > 1 ? this.#nInRow + 1 : 0
    this.#rate.passed(cost)
    if (this.#source !== "lookup") this.#rateElsewhere.passed(cost)
    if (n > 1) return
    this.#lookups.rest()
    this.#model?.acceptance.rest()
  }

  /** Token `index` of a draft, which the drafter was so sure of, saved a pass, or did not; those behind it are never
   * judged then. */
  judged(index: number, confidence: number, isAccepted: boolean, source: DraftSource = "lookup"): void {
    const acceptance = source === "model" ? this.#model?.acceptance : this.#lookups
    acceptance?.judge(index, confidence, isAccepted)
    if (!isAccepted) return
    this.#earn(1)
    this.#rate.tokens++
    if (source === "model") this.#rateElsewhere.tokens++
  }

  get #isReady(): boolean {
    return this.#costs.nSingles >= MIN_SINGLES && this.#nInRow < MAX_ROW
  }

  /** A pass more than twice as large as any before may cost anything. */
  #isPassKnown(n: number): boolean {
    return n <= 2 * this.#costs.largest
  }

  /** Of token n of a draft, in the pass that verifies it. */
  #marginalCost(n: number): number {
    return this.#costs.cost(n + 2) - this.#costs.cost(n + 1)
  }

  #earn(passes: number): void {
    this.#account = Math.min(this.#account + passes, MOST)
  }

  #stepCost(n: number): number {
    return this.#model!.costs.milliseconds(n, this.#costs.single) / this.#costs.single
  }

  /** The part of a lookup's draft that brings most, and how much that is at the present rate. */
  #best(confidences: ArrayLike<number>, n: number): { n: number; gain: number } {
    const costs = this.#costs
    const rate = this.#rate.value
    const best = { n: 0, gain: 1 - rate }
    if (n === 0 || !this.#isReady) return best
    let [tokens, likelihood, cost] = [1, 1, 1]
    for (let k = 1; k <= n && this.#isPassKnown(k + 1); k++) {
      likelihood *= this.#lookups.likelihood(k - 1, confidences[k - 1]!)
      tokens += likelihood
      cost = Math.max(cost, costs.cost(k + 1))
      if (cost - 1 > this.#account + DEBT) break
      const gain = tokens - rate * cost
      if (gain > best.gain) [best.n, best.gain] = [k, gain]
    }
    return best
  }

  /** What a model's draft should bring at best: at the present rate, and in tokens per pass. */
  #plan(nPending: number, max: number, { value: rate } = this.#rateElsewhere): { gain: number; rate: number } {
    const step = this.#stepCost(1)
    const best = { gain: 1 - rate, rate: 1 }
    let [tokens, likelihood] = [1, 1]
    let spent = nPending > MAX_STEP ? 0 : this.#stepCost(nPending)
    for (let k = 1; k <= max; k++, spent += step) {
      likelihood *= this.#model!.acceptance.expected(k - 1)
      tokens += likelihood
      const cost = spent + this.#costs.cost(k + 1)
      best.gain = Math.max(best.gain, tokens - rate * cost)
      best.rate = Math.max(best.rate, tokens / cost)
    }
    return best
  }

  /** Whether what drafts should save over the rest of the text exceeds what reading the text so far costs. */
  #paysToRead(nPending: number, max: number): boolean {
    if (nPending <= MAX_STEP) return true
    const saved = this.#mostTokens * (1 / this.#rateElsewhere.value - 1 / this.#plan(nPending, max).rate)
    return saved > this.#stepCost(nPending)
  }
}

/** Tokens a pass, in passes over one token, of the last passes: the older, the less they count. */
class Rate {
  tokens = 0
  passes = 0 // what they cost

  /** A pass that cost so much has brought its own token. */
  passed(cost: number): void {
    this.tokens += 1 - this.tokens / RATE_MEMORY
    this.passes += cost - this.passes / RATE_MEMORY
  }

  get value(): number {
    return this.passes > 0 ? Math.max(this.tokens / this.passes, 1) : 1
  }
}
