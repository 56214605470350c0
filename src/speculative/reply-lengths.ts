// How long the last replies were, and so how much of one is still to come: what a draft model reads before its first draft has
// to be repaid by it. Numbers in, numbers out; knows no drafts and no costs.

/** Replies that are remembered. With 3, and with 8, short replies come to less than plain decoding in
 * test/speculative-traces.test.ts. */
const N_REPLIES = 4
/** Of a reply that has come to n tokens, what is expected without others that became longer: n + FIRST_GUESS more, which
 * counts as one of them. */
const FIRST_GUESS = 16
/** One that never ends says no more than one of so many tokens more. With 32, and with 48, other tests there fail. */
const MOST_MORE = 64

/** Tokens so far, whoever counts them. */
export interface Reply {
  nTokens: number
}

export class ReplyLengths {
  #replies: readonly Reply[] = []

  /** A reply begins. Others may be under way. */
  begin(): Reply {
    const reply = { nTokens: 0 }
    this.#replies = [...this.#replies, reply].slice(-N_REPLIES - 1)
    return reply
  }

  /** Tokens that are expected to follow those of a reply: what followed in others that came as far. */
  ahead(reply: Reply): number {
    let [sum, count] = [reply.nTokens + FIRST_GUESS, 1]
    for (const other of this.#replies) {
      const more = other.nTokens - reply.nTokens
      if (other === reply || more <= 0) continue
      sum += Math.min(more, MOST_MORE)
      count++
    }
    return sum / count
  }

  /** For restore(): tokens, by reply. */
  get state(): readonly number[] {
    return this.#replies.slice(-N_REPLIES).map(({ nTokens }) => nTokens)
  }

  restore(lengths: readonly number[]): void {
    this.#replies = lengths.slice(-N_REPLIES).map((nTokens) => ({ nTokens }))
  }
}
