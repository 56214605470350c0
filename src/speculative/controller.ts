// How many drafted tokens are worth a pass, and how many passes of a draft model they are worth. Takes timings and verdicts
// as numbers, so it is deterministic given them; knows no session, no clock, no drafter.
//
// A draft is extended while the tokens that it should bring exceed what the longer pass, and the draft model's, cost at the
// present rate: the fractional optimum of tokens per time (speculative decoding's gain is Leviathan et al. 2023, section
// 3.3; the threshold form, SpecDec++, Huang et al. 2024). And it never loses: an account in passes over one token pays for
// every draft, so that those of a reply can never cost more than START and DEBT passes and INCOME of the time beyond what
// they brought.

import { Acceptance } from "./acceptance.ts"
import { CLIP, type DraftCosts, type PassCosts } from "./costs.ts"
import type { Draft, DraftGate, DraftSource } from "./drafter.ts"
import type { Reply, ReplyLengths } from "./reply-lengths.ts"

/** Of the passes spent, what drafts may cost at most beyond what they bring. Spent when nothing else pays, it is what
 * drafting is tried again from. */
const INCOME = 0.01
/** Passes that drafts of a reply may cost before they have brought anything. */
const START = 1
/** Passes that the account may go below 0. */
const DEBT = 1
/** Passes that are saved up at most: a text that turns is found out that fast. With 4, one draft of 12 tokens, each of which
 * the model was sure of, took all there was and the next 20 passes had none (seen once). */
const MOST = 8

/** Memory of the rate, in passes. */
const RATE_MEMORY = 32
/** Passes that a first guess of the rate counts as. */
const RATE_TRUST = 4
/** A model's tokens that are less likely are not verified, even where that costs nothing that can be measured: other
 * processes have use for the processor. 0.2 costs 1 % of the speed over the traces of test/speculative-traces.test.ts, 0.35
 * 6 % (seen once). */
const MIN_LIKELIHOOD = 0.2
/** The same for those of lookups behind the first, which costs nothing to find and says what their drafter's confidences are
 * worth. Over the same traces it costs 1 % and the share of drafted tokens that are accepted rises from 66 to 69 %
 * (seen once). */
const MIN_LOOKUP_LIKELIHOOD = 0.07
/** Passes over one token before the first draft: they are what drafts are measured by. One is enough where it is known from
 * an earlier time what others cost beside it. */
const MIN_SINGLES = 2
/** Drafts in a row after which one pass is made without: what it costs changes with the context. */
const MAX_ROW = 64
/** Tokens that a draft model reads at a time and that count as a step of drafting. More are a prompt: what reading it costs
 * is weighed against all that is still to come. */
const MAX_STEP = 16
/** Tokens that a first guess of what drafts save counts as. */
const SAVED_TRUST = 4
/** Passes that reading a text may cost at once, as far as its drafts should repay that; of what it costs beyond, MISSED has
 * to have been missed by not drafting. A reply behind a long text may be copied from it by lookups or be short: over the same
 * traces a text read sooner costs 11 to 17 % where replies copy, one read later 5 to 10 % in math (seen once). */
const AT_ONCE = 4
const MISSED = 0.5

/** Of the first token of a lookup's draft, what is expected before it is seen; not used: it costs nothing to see it. */
const LOOKUP_ACCEPTANCE = 0.5
/** Of that of a draft model. */
export const MODEL_ACCEPTANCE = 0.7

/** What a draft model's drafts came to and cost, over all sessions. */
export interface DraftModelRecord {
  readonly costs: DraftCosts
  readonly acceptance: Acceptance
  readonly replies: ReplyLengths
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
  #mostTokens = 0 // that may still come
  #likelihood = 1 // that all its tokens are right
  #missed = 0 // passes that the model's drafts should have saved had it read the text
  #reply: Reply = { nTokens: 0 }

  constructor(costs: PassCosts, model?: DraftModelRecord) {
    this.#costs = costs
    this.#model = model
  }

  /** A reply begins. */
  start(): void {
    this.#reply = this.#model?.replies.begin() ?? { nTokens: 0 }
    this.#missed = 0
    this.#account = START
    this.#model?.costs.pause()
    this.#model?.acceptance.nextReply()
  }

  /** A draft is about to be made; `most` tokens may still come. */
  begin(most: number): void {
    this.#mostTokens = most
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
    return found.gain >= this.#ahead(0, 1, max, this.#price(this.#rate, max)).gain
  }

  extends({ n }: Draft, nPending: number, max: number): boolean {
    if (this.#model === undefined || (n === 0 && !this.#isReady)) return false
    if (this.#stepCost(1) + this.#costs.cost(n + 2) - 1 > this.#account + DEBT) return false
    if (n === 0 && !this.#paysToRead(nPending, max)) {
      this.#missed += 1 - 1 / this.#ahead(0, 1, max, 1).rate
      return false
    }
    return this.#ahead(n, this.#likelihood, max, this.#price(this.#rateElsewhere, max)).gain > 0
  }

  includes({ n }: Draft, confidence: number): boolean {
    const { acceptance } = this.#model!
    const likelihood = this.#likelihood * acceptance.likelihood(n, confidence)
    if (likelihood < Math.max(MIN_LIKELIHOOD, this.#rateElsewhere.value * this.#marginalCost(n))) {
      acceptance.leaveOut(n)
      return false
    }
    this.#likelihood = likelihood
    return true
  }

  stepped(n: number, milliseconds: number): void {
    const { costs } = this.#model!
    const expected = this.#stepCost(n)
    costs.observe(n, milliseconds)
    if (n === 1 && costs.isAnchored) this.#costs.hint(costs.singleFor(milliseconds))
    if (n > MAX_STEP) return
    const cost = Math.min(this.#costs.units(milliseconds), CLIP * expected)
    this.#rate.passes += cost
    this.#rateElsewhere.passes += cost
    this.#earn(-cost)
  }

  /** A pass over n tokens, all but the first drafted, took so long and brought its first token. */
  passed(n: number, milliseconds: number): void {
    const costs = this.#costs
    this.#reply.nTokens++
    // Much more than it should cost is not its own fault; where it is, more will be expected of the next.
    const cost = n === 1 ? 1 : Math.min(costs.units(milliseconds), CLIP * costs.cost(n))
    costs.observe(n, milliseconds)
    this.#earn(INCOME + 1 - cost)
    this.#nInRow = n > 1 ? this.#nInRow + 1 : 0
    this.#rate.passed(cost)
    if (this.#source !== "lookup") this.#rateElsewhere.passed(cost)
    if (n > 1) return
    this.#model?.costs.anchor(milliseconds)
    this.#lookups.rest()
    this.#model?.acceptance.rest()
  }

  /** Token `index` of a draft, which the drafter was so sure of, saved a pass, or did not; those behind it are never
   * judged then. */
  judged(index: number, confidence: number, isAccepted: boolean, source: DraftSource = "lookup"): void {
    const acceptance = source === "model" ? this.#model?.acceptance : this.#lookups
    acceptance?.judge(index, confidence, isAccepted)
    if (!isAccepted) return
    this.#reply.nTokens++
    this.#earn(1)
    this.#rate.tokens++
    if (source === "model") this.#rateElsewhere.tokens++
  }

  get #isReady(): boolean {
    const least = this.#costs.largest > 1 ? 1 : MIN_SINGLES
    return this.#costs.nSingles >= least && this.#nInRow < MAX_ROW
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
    const best = { n: 0, gain: 0 }
    if (n === 0 || !this.#isReady) return best
    let [tokens, likelihood, cost] = [0, 1, 1]
    for (let k = 1; k <= n && this.#isPassKnown(k + 1); k++) {
      likelihood *= this.#lookups.likelihood(k - 1, confidences[k - 1]!)
      if (k > 1 && likelihood < MIN_LOOKUP_LIKELIHOOD) break
      tokens += likelihood
      cost = Math.max(cost, costs.cost(k + 1))
      if (cost - 1 > this.#account + DEBT) break
      const gain = tokens - rate * (cost - 1)
      if (gain > best.gain) [best.n, best.gain] = [k, gain]
    }
    return best
  }

  /** What the model should still bring to a draft of n tokens that are all right with a likelihood: at best, beyond what it
   * costs at a price in tokens a pass; and tokens a pass, where n is 0. What it has not read yet it reads for all drafts to
   * come, not for this. */
  #ahead(n: number, likelihood: number, max: number, price: number): { gain: number; rate: number } {
    const [step, base] = [this.#stepCost(1), this.#costs.cost(n + 1)]
    const best = { gain: 0, rate: 1 }
    let tokens = 0
    for (let k = n + 1; k <= max && this.#isPassKnown(k + 1); k++) {
      likelihood *= this.#model!.acceptance.expected(k - 1)
      tokens += likelihood
      const cost = (k - n) * step + this.#costs.cost(k + 1) - base
      best.gain = Math.max(best.gain, tokens - price * cost)
      best.rate = Math.max(best.rate, (1 + tokens) / (1 + cost))
    }
    return best
  }

  /** What a pass is worth in tokens: what the last ones brought, and at first what drafts should bring. */
  #price(rate: Rate, max: number): number {
    return rate.with(this.#ahead(0, 1, max, 1).rate)
  }

  /** Whether what drafts should save over the rest of the reply exceeds what reading the text so far costs. Tokens that
   * lookups bring save nothing. Asked where lookups have nothing better. */
  #paysToRead(nPending: number, max: number): boolean {
    if (nPending <= MAX_STEP) return true
    const cost = this.#stepCost(nPending)
    if (this.#missed < MISSED * (cost - AT_ONCE)) return false
    const expected = 1 - 1 / this.#ahead(0, 1, max, 1).rate
    const saved = (this.#missed + SAVED_TRUST * expected) / (this.#reply.nTokens + SAVED_TRUST) // a token
    return Math.min(this.#mostTokens, this.#model!.replies.ahead(this.#reply)) * saved > cost
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
    return this.with(1)
  }

  /** With a guess, which counts as TRUST passes. */
  with(guess: number): number {
    return Math.max((this.tokens + RATE_TRUST * guess) / (this.passes + RATE_TRUST), 1)
  }
}
