// What a pass over n tokens costs, in passes over one token, learnt from passes as they are timed; and what one of a draft
// model costs. Knows no clock.
//
// A pass over few tokens takes as long as its weights take to be read, one over many as long as their products take to be
// computed: the longer of the two (the roofline model, Williams et al. 2009). The first moves within seconds where memory is
// shared with others, and every pass over few tokens says it; the second is learnt by number of tokens. Seen on Zen 4 within
// one run: 31 and 22.5 ms for one token, 34 and 35 for six, 90 both times for 17.

/** Of a token more, where nothing was measured. */
const FIRST_SLOPE = 0.1
/** Weight of a new measurement; the first ones are averaged. */
const LEARN = 1 / 8
/** A pass that takes so many times as long as one over one token is bound by its products. */
const BOUND = 1.08
/** What a time loses against the first guess with every pass over one token, so that it is tried again; and of its weight. */
const FORGET = 1 / 256
const DOUBT = 1 / 32
/** A draft model's step that was not made over so many of the target's passes is taken to cost what is known of its share
 * again; and what that loses against the first guess with each: what was measured beside other programs, and said that
 * drafts do not pay, would never be measured again. */
const FRESH = 4
const RELAX = 1 / 64
/** Of a token that a draft model reads among many, in its passes over one, where nothing was measured: 1.15 ms beside 7.6 on
 * 2 cores of Zen 4, Qwen2.5-Coder 0.5B (seen once). A measurement is of many tokens and counts half. */
const READ_SLOPE = 0.15
const LEARN_READ = 1 / 2
/** Tokens of a draft model's pass that is measured by its length. */
const MAX_SHORT = 16
/** One measurement moves an estimate by this factor at most: another process may have had the core meanwhile. */
export const CLIP = 2

/** The median of the last times: one that was disturbed does not move it, a machine that has changed does after a few. */
class Speed {
  static readonly #N = 7
  readonly #times: number[] = []
  #next = 0
  #median = 0

  get milliseconds(): number {
    return this.#median
  }

  add(milliseconds: number): void {
    this.#times[this.#next] = milliseconds
    this.#next = (this.#next + 1) % Speed.#N
    const sorted = this.#times.toSorted((a, b) => a - b)
    this.#median = (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
  }
}

/** By tokens of a pass: milliseconds of its products, and how often they were measured; null: never. */
export interface PassState {
  readonly products: readonly (number | null)[]
  readonly counts: readonly (number | null)[]
}

export class PassCosts {
  readonly #speed = new Speed()
  #nSingles = 0
  #nPasses = 0
  readonly #products: number[] = [] // by tokens of a pass, milliseconds; undefined: not measured
  readonly #counts: number[] = [] // measurements, likewise
  #largest = 1 // the most tokens of a pass that was measured

  /** Passes over one token so far. */
  get nSingles(): number {
    return this.#nSingles
  }

  /** All passes that were timed. */
  get nPasses(): number {
    return this.#nPasses
  }

  /** Milliseconds of a pass over one token now; 0 before the first. */
  get single(): number {
    return this.#speed.milliseconds
  }

  /** The most tokens that a pass was measured with. */
  get largest(): number {
    return this.#largest
  }

  /** For restore(). */
  get state(): PassState {
    const all = <T>(values: readonly T[]) => Array.from(values, (value) => value ?? null)
    return { products: all(this.#products), counts: all(this.#counts) }
  }

  /** Goes on from what was learnt before, on the same machine. */
  restore({ products, counts }: PassState): void {
    for (let n = 2; n < products.length; n++) {
      const [milliseconds, count] = [products[n], counts[n]]
      if (milliseconds == null || count == null) continue
      this.#products[n] = milliseconds
      this.#counts[n] = count
      this.#largest = n
    }
  }

  /** A pass over n tokens took so long. */
  observe(n: number, milliseconds: number): void {
    this.#nPasses++
    if (n > 1) this.#learn(n, milliseconds)
    else {
      this.#nSingles++
      this.#speed.add(milliseconds)
      this.#forget()
    }
  }

  /** Something else says that a pass over one token would take so long now. */
  hint(milliseconds: number): void {
    if (this.#nSingles > 0) this.#speed.add(milliseconds)
  }

  /** A pass that took so long, in passes over one token. */
  units(milliseconds: number): number {
    return this.single > 0 ? milliseconds / this.single : 1
  }

  /** What a pass over n tokens should cost, in passes over one: its products measured, or on the line between measured
   * neighbours. */
  cost(n: number): number {
    if (n <= 1) return 1
    const { single } = this
    return single > 0 ? Math.max(1, this.#productsOf(n) / single) : firstGuess(n)
  }

  #productsOf(n: number): number {
    const measured = this.#products[n]
    if (measured !== undefined) return measured
    const { single } = this
    let [below, above] = [n - 1, n + 1]
    while (below > 1 && this.#products[below] === undefined) below--
    while (above < this.#products.length && this.#products[above] === undefined) above++
    const base = this.#products[below] ?? single
    if (above < this.#products.length) {
      return base + ((n - below) / (above - below)) * (this.#products[above]! - base)
    }
    const slope = below > 1 ? Math.max((base - single) / (below - 1), (FIRST_SLOPE / 4) * single) : FIRST_SLOPE * single
    return base + (n - below) * slope
  }

  #forget(): void {
    const { single } = this
    for (let n = 2; n < this.#products.length; n++) {
      const products = this.#products[n]
      if (products === undefined) continue
      this.#products[n] = products + FORGET * (single * firstGuess(n) - products)
      this.#counts[n]! *= 1 - DOUBT
    }
  }

  #learn(n: number, milliseconds: number): void {
    const { single } = this
    if (single === 0) return
    const expected = this.cost(n) * single
    const time = clip(milliseconds, expected)
    const known = this.#products[n]
    // Where reading took longer, all that is known of the products is that they did not.
    if (known === undefined || time < known || time > BOUND * single) {
      const count = (this.#counts[n] ?? 0) + 1
      this.#products[n] = (known ?? time) + Math.max(LEARN, 1 / count) * (time - (known ?? time))
      this.#counts[n] = count
    }
    if (time < single || (known !== undefined && known < time / BOUND && time < single * BOUND)) this.#speed.add(time)
    this.#largest = Math.max(this.#largest, n)
  }
}

/** Of a draft model: its passes, one of its own in passes of the target, both over one token, and milliseconds of a token
 * that it reads among many. */
export interface DraftState {
  readonly passes: PassState
  readonly share: number
  readonly perToken: number
}

/** Passes of a draft model: over one token or some in milliseconds of their own, over many in milliseconds a token. */
export class DraftCosts {
  readonly #passes = new PassCosts()
  readonly #firstShare: number
  #share: number
  #nAnchors = 0
  #nRested = 0 // passes of the target over one token since the last step
  #perToken = 0 // milliseconds, of long passes; 0: not known
  #single = 0 // milliseconds of the target's last pass over one token

  /** @param share of a target's pass, where nothing was measured: that of the bytes that both read. */
  constructor(share: number) {
    this.#firstShare = share
    this.#share = share
  }

  /** For restore(). */
  get state(): DraftState {
    return { passes: this.#passes.state, share: this.#share, perToken: this.#perToken }
  }

  /** Goes on from what was learnt before, the share half of the way: the machine may have had other work then. */
  restore({ passes, share, perToken }: DraftState): void {
    this.#passes.restore(passes)
    this.#share = Math.sqrt(share * this.#firstShare)
    this.#perToken = perToken
  }

  observe(n: number, milliseconds: number): void {
    if (n <= MAX_SHORT) {
      this.#passes.observe(n, milliseconds)
      this.#nRested = 0
    } else {
      const perToken = milliseconds / n
      const known = this.#perToken || READ_SLOPE * this.#share * this.#single
      const measured = known > 0 ? Math.min(perToken, CLIP * known) : perToken // nothing makes it faster than it is
      this.#perToken += (this.#perToken === 0 ? 1 : LEARN_READ) * (measured - this.#perToken)
    }
  }

  /** Whether singleFor() has been measured. */
  get isAnchored(): boolean {
    return this.#nAnchors > 0
  }

  /** A pass of the target over one token took so long. */
  anchor(single: number): void {
    if (single === 0) return
    this.#single = single
    if (this.#nRested++ > 0) this.#relax(single)
    else if (this.#passes.nSingles > 0) {
      const share = clip(this.#passes.single / single, this.#share)
      this.#share += Math.max(LEARN, 1 / ++this.#nAnchors) * (share - this.#share)
    }
  }

  /** Time has passed, or others have run: the memory may be as fast now as it was not at the last step. */
  pause(): void {
    this.#nRested = FRESH
  }

  /** What one of the target should take where a step takes so long: both read their weights. */
  singleFor(milliseconds: number): number {
    return milliseconds / this.#share
  }

  /** What a pass over n tokens should take, where one of the target over one token takes `single`. */
  milliseconds(n: number, single: number): number {
    const isFresh = this.#passes.nSingles > 0 && this.#nRested < FRESH
    const own = isFresh ? this.#passes.single : this.#share * single
    if (n <= MAX_SHORT) return own * this.#passes.cost(n)
    return n * (this.#perToken > 0 ? this.#perToken : READ_SLOPE * own)
  }

  #relax(single: number): void {
    this.#share += RELAX * (this.#firstShare - this.#share)
    if (this.#perToken === 0) return
    this.#perToken += RELAX * (READ_SLOPE * this.#firstShare * single - this.#perToken)
  }
}

function firstGuess(n: number): number {
  return 1 + FIRST_SLOPE * (n - 1)
}

function clip(value: number, around: number): number {
  return Math.min(Math.max(value, around / CLIP), around * CLIP)
}
