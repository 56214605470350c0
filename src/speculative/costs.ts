// What a pass over n tokens costs, in passes over one token, learnt from passes as they are timed; and what one of a draft
// model costs. Knows no clock.
//
// The machine's speed and the ratio between passes are learnt apart: the speed moves within seconds where memory is shared
// with others, and every pass says it; ratios are the model's and the processor's, and move slowly.

/** Of a token more, where nothing was measured. */
const FIRST_SLOPE = 0.1
/** Weight of a new measurement; the first ones are averaged. */
const LEARN = 1 / 16
/** Of a pass over one token, against the ratios of the other passes that the speed was last told by. */
const ANCHOR = 1 / 4
/** What a ratio loses against the first guess with every pass over one token, so that it is tried again; and of its weight. */
const FORGET = 1 / 256
const DOUBT = 1 / 32
/** Measurements after which a length of pass says what the machine's speed is. */
const MIN_COUNT = 3
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

export class PassCosts {
  readonly #speed = new Speed()
  #nSingles = 0
  #nOthers = 0 // passes in a row over more than one token
  readonly #ratios: number[] = [] // by tokens of a pass; undefined: not measured
  readonly #counts: number[] = [] // measurements, likewise
  #largest = 1 // the most tokens of a pass that was measured

  /** Passes over one token so far. */
  get nSingles(): number {
    return this.#nSingles
  }

  /** Milliseconds of a pass over one token now; 0 before the first. */
  get single(): number {
    return this.#speed.milliseconds
  }

  /** The most tokens that a pass was measured with. */
  get largest(): number {
    return this.#largest
  }

  /** A pass over n tokens took so long. */
  observe(n: number, milliseconds: number): void {
    if (n > 1) this.#learn(n, milliseconds)
    else this.#anchor(milliseconds)
  }

  /** A pass that took so long, in passes over one token. */
  units(milliseconds: number): number {
    return this.single > 0 ? milliseconds / this.single : 1
  }

  /** What a pass over n tokens should cost, in passes over one: measured, or on the line between measured neighbours. */
  cost(n: number): number {
    if (n <= 1) return 1
    const measured = this.#ratios[n]
    if (measured !== undefined) return measured
    let [below, above] = [n - 1, n + 1]
    while (below > 1 && this.#ratios[below] === undefined) below--
    while (above < this.#ratios.length && this.#ratios[above] === undefined) above++
    const base = this.#ratios[below] ?? 1
    if (above < this.#ratios.length) {
      return base + ((n - below) / (above - below)) * (this.#ratios[above]! - base)
    }
    const slope = below > 1 ? Math.max((base - 1) / (below - 1), FIRST_SLOPE / 4) : FIRST_SLOPE
    return base + (n - below) * slope
  }

  /** A pass over one token is what the others are measured by: where it takes longer than they said, they cost less. */
  #anchor(milliseconds: number): void {
    const off = this.single > 0 ? clip(milliseconds / this.single, 1) : 1
    const weight = this.#nOthers > 0 ? ANCHOR : 0
    for (let i = 2; i < this.#ratios.length; i++) {
      const ratio = this.#ratios[i]
      if (ratio === undefined) continue
      this.#ratios[i] = (ratio + FORGET * (firstGuess(i) - ratio)) * off ** -weight
      this.#counts[i]! *= 1 - DOUBT
    }
    this.#nSingles++
    this.#nOthers = 0
    this.#speed.add(milliseconds)
  }

  #learn(n: number, milliseconds: number): void {
    if (this.#nSingles === 0) return
    const expected = this.cost(n)
    const count = (this.#counts[n] ?? 0) + 1
    const ratio = clip(this.units(milliseconds), expected)
    this.#ratios[n] = expected + Math.max(LEARN, 1 / count) * (ratio - expected)
    this.#counts[n] = count
    this.#largest = Math.max(this.#largest, n)
    this.#nOthers++
    if (count > MIN_COUNT) this.#speed.add(milliseconds / expected)
  }
}

/** Passes of a draft model: over one token or some in milliseconds of their own, over many in milliseconds a token. */
export class DraftCosts {
  readonly #passes = new PassCosts()
  readonly #share: number
  #perToken = 0 // milliseconds, of long passes

  /** @param share of a target's pass, where nothing was measured: that of the bytes that both read. */
  constructor(share: number) {
    this.#share = share
  }

  observe(n: number, milliseconds: number): void {
    if (n <= MAX_SHORT) this.#passes.observe(n, milliseconds)
    else {
      const perToken = milliseconds / n
      this.#perToken += (this.#perToken === 0 ? 1 : 2 * LEARN) * (perToken - this.#perToken)
    }
  }

  /** What a pass over n tokens should take, where one of the target over one token takes `single`. */
  milliseconds(n: number, single: number): number {
    const own = this.#passes.nSingles > 0 ? this.#passes.single : this.#share * single
    if (n <= MAX_SHORT) return own * this.#passes.cost(n)
    return n * (this.#perToken > 0 ? this.#perToken : FIRST_SLOPE * own)
  }
}

function firstGuess(n: number): number {
  return 1 + FIRST_SLOPE * (n - 1)
}

function clip(value: number, around: number): number {
  return Math.min(Math.max(value, around / CLIP), around * CLIP)
}
