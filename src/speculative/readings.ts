// Whether it paid that a draft model read the texts before the last replies, in passes over one token. Numbers in, numbers
// out; knows no drafts and no costs.

/** Replies that are remembered: the majority changes its mind after two. */
const N_REPLIES = 3

/** What reading a text for one reply has brought so far, or where it was not read should have, beyond what it cost. */
export interface Reading {
  gain: number
}

export class Readings {
  #last: Reading[] = []

  /** A reply for which reading would cost so many passes. */
  open(cost: number): Reading {
    const reading = { gain: -cost }
    this.#last = [...this.#last, reading].slice(-N_REPLIES - 1)
    return reading
  }

  /** Of the replies before this one: most lost by it. Those that are not known have not. */
  lostBefore(reading: Reading): boolean {
    const nLost = this.#last.filter((each) => each !== reading && each.gain < 0).length
    return 2 * nLost > N_REPLIES
  }

  /** For restore(): passes, by reply. */
  get state(): readonly number[] {
    return this.#last.slice(-N_REPLIES).map(({ gain }) => gain)
  }

  restore(gains: readonly number[]): void {
    this.#last = gains.slice(-N_REPLIES).map((gain) => ({ gain }))
  }
}
