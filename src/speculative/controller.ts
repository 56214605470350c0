// How many drafted tokens are worth a pass. Takes timings and verdicts as numbers, so it is deterministic given them; knows
// no session, no clock, no drafter.
//
// A draft is extended while the tokens that it should bring exceed what the longer pass costs at the present rate: the
// fractional optimum of tokens per time (speculative decoding's gain is Leviathan et al. 2023, section 3.3; the threshold
// form, SpecDec++, Huang et al. 2024). And it never loses: an account in passes over one token pays for every draft, so
// that all drafts together can never cost more than DEBT passes and INCOME of the time beyond what they brought.

import { CLIP, type PassCosts } from "./costs.ts"

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
/** Memory of verdicts, in verdicts on drafts of the kind; and, where none is made any more, in passes. */
const VERDICT_MEMORY = 32
const REST_MEMORY = 256
/** Verdicts that a drafter's own confidence counts as. */
const TRUST = 2
/** Passes over one token before the first draft: they are what drafts are measured by. */
const MIN_SINGLES = 2
/** Drafts in a row after which one pass is made without: what it costs changes with the context. */
const MAX_ROW = 64

/** Kinds of drafted tokens: by place in the draft, and by confidence. */
const PLACES = [1, 3, 7] as const
const CONFIDENCES = [0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95] as const
const N_LEVELS = CONFIDENCES.length + 1

export class Controller {
  readonly #costs: PassCosts
  readonly #tried = new Float64Array((PLACES.length + 1) * N_LEVELS)
  readonly #accepted = new Float64Array(this.#tried.length)
  #account = START
  #nInRow = 0
  #tokens = 0 // brought by the last passes, the older the less
  #passes = 0 // what those cost

  constructor(costs: PassCosts) {
    this.#costs = costs
  }

  /** How many of the n tokens of a draft to verify: 0 to n. */
  choose(confidences: ArrayLike<number>, n: number): number {
    const costs = this.#costs
    if (n === 0 || costs.nSingles < MIN_SINGLES || this.#nInRow >= MAX_ROW) return 0
    // A pass more than twice as large as any before may cost anything.
    const most = Math.min(n, 2 * costs.largest - 1)
    const rate = this.#passes > 0 ? Math.max(this.#tokens / this.#passes, 1) : 1
    let best = 0
    let bestGain = 1 - rate
    let [tokens, likelihood, cost] = [1, 1, 1]
    for (let k = 1; k <= most; k++) {
      likelihood *= this.#likelihood(k - 1, confidences[k - 1]!)
      tokens += likelihood
      cost = Math.max(cost, costs.cost(k + 1))
      if (cost - 1 > this.#account + DEBT) break
      const gain = tokens - rate * cost
      if (gain > bestGain) [best, bestGain] = [k, gain]
    }
    return best
  }

  /** A pass over n tokens, all but the first drafted, took so long and brought its first token. */
  passed(n: number, milliseconds: number): void {
    const costs = this.#costs
    // Much more than it should cost is not its own fault; where it is, more will be expected of the next.
    const cost = n === 1 ? 1 : Math.min(costs.units(milliseconds), CLIP * costs.cost(n))
    costs.observe(n, milliseconds)
    this.#earn(INCOME + 1 - cost)
    this.#nInRow = n > 1 ? this.#nInRow + 1 : 0
    this.#tokens += 1 - this.#tokens / RATE_MEMORY
    this.#passes += cost - this.#passes / RATE_MEMORY
    if (n > 1) return
    for (let kind = 0; kind < this.#tried.length; kind++) {
      this.#tried[kind]! *= 1 - 1 / REST_MEMORY
      this.#accepted[kind]! *= 1 - 1 / REST_MEMORY
    }
  }

  /** Token `index` of a draft, which the drafter was so sure of, saved a pass, or did not; those behind it are never
   * judged then. */
  judged(index: number, confidence: number, isAccepted: boolean): void {
    const kind = kindOf(index, confidence)
    this.#tried[kind]! += 1 - this.#tried[kind]! / VERDICT_MEMORY
    this.#accepted[kind]! += (isAccepted ? 1 : 0) - this.#accepted[kind]! / VERDICT_MEMORY
    if (!isAccepted) return
    this.#earn(1)
    this.#tokens++
  }

  #earn(passes: number): void {
    this.#account = Math.min(this.#account + passes, MOST)
  }

  /** That a drafted token is accepted where those before it are. Until more is known, each place is taken to be as the one
   * before it, the first as the drafter says. */
  #likelihood(index: number, confidence: number): number {
    const [place, level] = [stepOf(PLACES, index), stepOf(CONFIDENCES, confidence)]
    let likelihood = confidence
    for (let i = 0; i <= place; i++) {
      const kind = i * N_LEVELS + level
      likelihood = (this.#accepted[kind]! + TRUST * likelihood) / (this.#tried[kind]! + TRUST)
    }
    return likelihood
  }
}

function kindOf(index: number, confidence: number): number {
  return stepOf(PLACES, index) * N_LEVELS + stepOf(CONFIDENCES, confidence)
}

/** How many of rising bounds a value has reached. */
function stepOf(bounds: readonly number[], value: number): number {
  let step = 0
  while (step < bounds.length && value >= bounds[step]!) step++
  return step
}
