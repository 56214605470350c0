// What guesses how a text goes on. A drafter sees every token of the text once, in order, and is never told what became of
// its guesses: the next token says it. It knows neither the target model nor whether a guess is worth a pass: a gate says
// that, to a drafter whose guesses cost something.

import type { Distribution, LogitRow } from "../sampler.ts"

/** Where a guess comes from: what came before in the text, or another model. */
export type DraftSource = "lookup" | "model"

/** A guess, likeliest continuation first to last. The object and its arrays are the drafter's and are used again. */
export interface Draft {
  /** Absent: "lookup". */
  readonly source?: DraftSource
  /** How many tokens there are. */
  readonly n: number
  readonly tokens: Int32Array // (at least n)
  /** How likely each token is, by the drafter's own judgement, where all before it were right: 0 to 1. Where tokens were
   * drawn, it follows from the distribution and not from what was drawn. */
  readonly confidences: Float64Array // (at least n)
  /** What each token was drawn from; absent: nothing was drawn, each is the drafter's likeliest. */
  readonly distributions?: readonly Distribution[] | undefined // (at least n)
}

/** Asked before a guess costs anything, told what it cost. */
export interface DraftGate {
  /** Whether a draft that cost nothing is better than one by a model that has `nPending` tokens to evaluate first. */
  prefers(draft: Draft, nPending: number, max: number): boolean
  /** Whether the model shall evaluate `nPending` tokens, to see what follows a draft of its own. `max`: tokens of a draft. */
  extends(draft: Draft, nPending: number, max: number): boolean
  /** Whether the next token of the model's draft, of which it is so sure, is worth verifying. What it will be is not known:
   * a choice that depended on it would change what the text is drawn from. */
  includes(draft: Draft, confidence: number): boolean
  /** A pass of the model over n tokens took so long. */
  stepped(n: number, milliseconds: number): void
}

/** Draws a draft's tokens as the target's will be drawn. */
export interface DraftSampler {
  /** What a token behind `history` is drawn from, all that the sampler does to it included. */
  distribution(row: LogitRow, history: ArrayLike<number>): Distribution
  draw(distribution: Distribution): number
}

export interface ProposeOptions {
  readonly gate?: DraftGate | undefined
  readonly sampler?: DraftSampler | undefined
}

export interface Drafter {
  /** Forgets the text. */
  reset(): void
  /** The next token of the text, be it of the prompt or of the reply. */
  push(token: number): void
  /** Up to `max` tokens that may follow; none where there is nothing to go by. */
  propose(max: number, options?: ProposeOptions): Draft
}

/** A drafter that has to evaluate what it was told before it can guess. */
export interface EvaluatingDrafter extends Drafter {
  /** Tokens to be evaluated before there is a draft. */
  readonly nPending: number
}

/** No guess. */
export const NO_DRAFT: Draft = { n: 0, tokens: new Int32Array(0), confidences: new Float64Array(0) }
