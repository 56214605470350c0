// Two drafters as one: what the text so far says where that is worth more, else what a model says. The model is behind
// where lookups were enough, and reads on in the pass of its next draft.

import type { Draft, Drafter, EvaluatingDrafter, ProposeOptions } from "./drafter.ts"
import { LookupDrafter } from "./lookup.ts"

export class CombinedDrafter implements Drafter {
  readonly #lookup = new LookupDrafter()
  readonly #model: EvaluatingDrafter

  /** @param model stays the caller's. */
  constructor(model: EvaluatingDrafter) {
    this.#model = model
  }

  reset(): void {
    this.#lookup.reset()
    this.#model.reset()
  }

  push(token: number): void {
    this.#lookup.push(token)
    this.#model.push(token)
  }

  /** Without a gate: every lookup that finds something. */
  propose(max: number, options: ProposeOptions = {}): Draft {
    const found = this.#lookup.propose(max)
    if (found.n > 0 && options.gate?.prefers(found, this.#model.nPending, max) !== false) return found
    const guessed = this.#model.propose(max, options)
    return guessed.n > 0 ? guessed : found
  }
}
