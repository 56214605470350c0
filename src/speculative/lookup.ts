// Drafts from the text itself: where the end of prompt and reply has occurred before, it may go on as it did then. What
// prompt lookup (Saxena 2023) does by searching n-grams and SuffixDecoding (Oliaro et al. 2024) by a suffix tree.

import type { Draft, Drafter } from "./drafter.ts"
import { SuffixAutomaton } from "./suffix-automaton.ts"

export class LookupDrafter implements Drafter {
  readonly #text = new SuffixAutomaton()
  readonly #minLength: number
  #draft = { n: 0, tokens: new Int32Array(0), confidences: new Float64Array(0) }

  /** @param minLength tokens that have to have occurred before, at least. */
  constructor(minLength = 2) {
    this.#minLength = minLength
  }

  reset(): void {
    this.#text.reset()
  }

  push(token: number): void {
    this.#text.push(token)
  }

  /** Follows the longest match, token by token: at each the likeliest by count. Where the match runs into the end of the
   * text (a period), a shorter one goes on. */
  propose(max: number): Draft {
    const text = this.#text
    if (this.#draft.tokens.length < max) {
      this.#draft = { n: 0, tokens: new Int32Array(max), confidences: new Float64Array(max) }
    }
    const draft = this.#draft
    let state = text.repeated
    let matched = text.length(state)
    draft.n = 0
    while (draft.n < max) {
      let edge = text.next(state)
      while (edge < 0 && state > 0) {
        state = text.shorter(state)
        matched = text.length(state)
        edge = text.next(state)
      }
      if (edge < 0 || matched < this.#minLength) break
      draft.tokens[draft.n] = text.token(edge)
      const nFollowed = text.nFollowed(state)
      state = text.target(edge)
      draft.confidences[draft.n] = confidence(text.count(state), nFollowed, matched)
      draft.n++
      matched++
    }
    return draft
  }
}

/** The share of earlier continuations, less the surer the fewer they are and the shorter what matched. Where a text went on
 * in several ways, the context decides and not how often each occurred: of the commonest of two, of three and of more, 8, 24
 * and 5 % were right in test/fixtures/draft-traces.json, of the only one 51 % (behind two tokens) to 74 % (seen once). A
 * first guess: the controller learns what its values are worth. */
function confidence(count: number, nFollowed: number, matched: number): number {
  const evidence = matched * nFollowed
  return (count / nFollowed) ** 3 * (evidence / (evidence + 2))
}
