// What guesses how a text goes on. A drafter sees every token of the text once, in order, and is never told what became of
// its guesses: the next token says it. It knows neither the target model nor whether a guess is worth a pass.

/** A guess, likeliest continuation first to last. The object and its arrays are the drafter's and are used again. */
export interface Draft {
  /** How many tokens there are. */
  readonly n: number
  readonly tokens: Int32Array // (at least n)
  /** How likely each token is, by the drafter's own judgement, where all before it were right: 0 to 1. */
  readonly confidences: Float64Array // (at least n)
}

export interface Drafter {
  /** Forgets the text. */
  reset(): void
  /** The next token of the text, be it of the prompt or of the reply. */
  push(token: number): void
  /** Up to `max` tokens that may follow; none where there is nothing to go by. */
  propose(max: number): Draft
}
