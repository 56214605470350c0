// Speculative decoding (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding"; Chen et al.
// 2023, "Accelerating large language model decoding with speculative sampling"): one pass of the target over the last
// token and a draft of what follows, and the draft is kept as far as the target would have written it.
//
// Drafts of a lookup are certain of each token, and for those sampling and comparing is the papers' rule: a token x that
// was drawn from the target's own row is kept if it is the drafted one, with probability p(x), and is what p without x
// would give otherwise. Rows have the bits of passes over one token, and they are sampled one by one, when plain decoding
// would do it, with the same history: every sampler draws the same random numbers and the text is the same for the same
// seed, whatever was drafted. The caller samples; what it drew comes back as the next token.

import type { Session } from "../session.ts"
import type { Controller } from "./controller.ts"
import type { Draft, Drafter } from "./drafter.ts"

/** What drafting came to. */
export interface Speculation {
  /** Passes of the model behind the prompt. */
  readonly nPasses: number
  /** Drafted tokens that passes evaluated. */
  readonly nDrafted: number
  /** Those of them that became part of the text. */
  readonly nAccepted: number
  /** nAccepted / nDrafted; undefined without drafts. */
  readonly acceptanceRate: number | undefined
  /** Tokens that a pass brought, its own first one and those accepted; undefined without passes. */
  readonly tokensPerPass: number | undefined
  /** Of the first token of a draft, the second ...: how many were drafted, and accepted. */
  readonly byPosition: readonly { readonly nDrafted: number; readonly nAccepted: number }[]
}

export interface SpeculatorOptions {
  readonly drafter: Drafter
  /** How much of a draft is verified; absent: all. */
  readonly controller: Controller | undefined
  /** Tokens of a draft at most. */
  readonly maxDraft: number
}

const NOTHING: Draft = { n: 0, tokens: new Int32Array(0), confidences: new Float64Array(0) }

/** Moves a session on, a token at a time, by as few passes as it can. */
export class Speculator {
  readonly #session: Session
  readonly #options: SpeculatorOptions | undefined
  #draft = NOTHING
  #n = 0 // tokens of it that are being verified
  #at = 0 // of those, accepted
  #nKnown = 0 // tokens that the drafter has seen
  #nPasses = 0
  readonly #drafted: number[] = [] // by position
  readonly #accepted: number[] = []

  /** @param options undefined: without drafts, each token has a pass. */
  constructor(session: Session, options: SpeculatorOptions | undefined) {
    this.#session = session
    this.#options = options
  }

  get result(): Speculation {
    const sum = (numbers: readonly number[]) => numbers.reduce((total, n) => total + n, 0)
    const [nPasses, nDrafted, nAccepted] = [this.#nPasses, sum(this.#drafted), sum(this.#accepted)]
    return {
      ...{ nPasses, nDrafted, nAccepted },
      acceptanceRate: nDrafted > 0 ? nAccepted / nDrafted : undefined,
      tokensPerPass: nPasses > 0 ? (nPasses + nAccepted) / nPasses : undefined,
      byPosition: this.#drafted.map((nDrafted, i) => ({ nDrafted, nAccepted: this.#accepted[i]! })),
    }
  }

  /** The session comes to hold `token`, behind what it holds, and its row is the session's row.
   * @param most tokens of a draft that may become part of the text. */
  advance(token: number, most: number): void {
    if (this.#accept(token)) return
    this.#n = 0
    this.#at = 0
    const n = this.#propose(token, most)
    const startedAt = performance.now()
    this.#session.speculate(token, this.#draft.tokens.subarray(0, n))
    this.#options?.controller?.passed(n + 1, performance.now() - startedAt)
    this.#nPasses++
    this.#n = n
    for (let i = 0; i < n; i++) this.#drafted[i] = (this.#drafted[i] ?? 0) + 1
    while (this.#accepted.length < n) this.#accepted.push(0)
  }

  /** Whether the token is the drafted one and its row is there. */
  #accept(token: number): boolean {
    if (this.#at === this.#n) return false
    const [at, { tokens, confidences }] = [this.#at, this.#draft]
    // Another session may have run a pass since: the row is gone, and the draft was as little use as a wrong one.
    const isAccepted = tokens[at] === token && this.#session.takeDrafted()
    this.#options?.controller?.judged(at, confidences[at]!, isAccepted)
    if (!isAccepted) return false
    this.#at++
    this.#accepted[at]!++
    return true
  }

  /** Leaves a draft of what follows `token`; how much of it to verify. */
  #propose(token: number, most: number): number {
    if (this.#options === undefined) return 0
    const { drafter, controller, maxDraft } = this.#options
    const { model, tokens } = this.#session
    if (this.#nKnown === 0) drafter.reset()
    for (; this.#nKnown < tokens.length; this.#nKnown++) drafter.push(tokens[this.#nKnown]!)
    drafter.push(token)
    this.#nKnown++
    const max = Math.min(maxDraft, most, model.maxOutputs - 1)
    if (max <= 0) return 0
    this.#draft = drafter.propose(max)
    let n = 0 // without a token that ends the generation: its row is never asked for
    while (n < Math.min(this.#draft.n, max) && !model.tokenizer.isEndOfGeneration(this.#draft.tokens[n]!)) n++
    return controller === undefined ? n : controller.choose(this.#draft.confidences, n)
  }
}
