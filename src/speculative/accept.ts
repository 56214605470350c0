// Speculative decoding (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding"; Chen et al.
// 2023, "Accelerating large language model decoding with speculative sampling"): one pass of the target over the last
// token and a draft of what follows, and the draft is kept as far as the target would have written it.
//
// Tokens of a draft that are its likeliest ones are sampled and compared, which is the papers' rule for them: a token x that
// was drawn from the target's own row is kept if it is the drafted one, with probability p(x), and is what p without x
// would give otherwise. Rows have the bits of passes over one token, and they are sampled one by one, when plain decoding
// would do it, with the same history: every sampler draws the same random numbers and the text is the same for the same
// seed, whatever was drafted. Tokens that a draft model drew are kept by the rejection rule: the text is another one for the
// same seed, of the same distribution. The caller asks for each token; what it got comes back as the next one.

import type { OutputRow } from "../executor.ts"
import type { Distribution, TokenSampler } from "../sampler.ts"
import type { Session } from "../session.ts"
import type { Controller } from "./controller.ts"
import type { PassCosts } from "./costs.ts"
import { type Draft, type Drafter, type DraftSampler, NO_DRAFT } from "./drafter.ts"
import { draftSampler, drawByRejection, isOpen } from "./rejection.ts"

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
  /** Time that plain passes would have taken for the same tokens, as far as some were measured, over what passes and drafts
   * took; undefined without drafts. */
  readonly estimatedSpeedUp: number | undefined
  /** Spent by drafting, a draft model's passes above all. */
  readonly draftMs: number
  /** Of the first token of a draft, the second ...: how many were drafted, and accepted. */
  readonly byPosition: readonly { readonly nDrafted: number; readonly nAccepted: number }[]
}

export interface SpeculatorOptions {
  readonly drafter: Drafter
  /** How much of a draft is verified; absent: all. */
  readonly controller: Controller | undefined
  /** Tokens of a draft at most. */
  readonly maxDraft: number
  /** Shorter drafts are not verified. Absent: 1. */
  readonly minDraft?: number
  /** What passes cost, here; learnt along the way. */
  readonly costs?: PassCosts
}

/** Moves a session on, a token at a time, by as few passes as it can. */
export class Speculator {
  readonly #session: Session
  readonly #options: SpeculatorOptions | undefined
  readonly #sampler: TokenSampler | undefined
  readonly #draftSampler: DraftSampler | undefined
  #draft = NO_DRAFT
  #n = 0 // tokens of it that are being verified
  #at = 0 // of those, accepted
  #nKnown = 0 // tokens that the drafter has seen
  #nPasses = 0
  #milliseconds = 0 // of passes and drafts
  #draftMs = 0
  readonly #drafted: number[] = [] // by position
  readonly #accepted: number[] = []

  /** @param options undefined: without drafts, each token has a pass.
   * @param sampler what draw() draws with. */
  constructor(session: Session, options: SpeculatorOptions | undefined, sampler?: TokenSampler) {
    this.#session = session
    this.#options = options
    this.#sampler = sampler
    this.#draftSampler = isOpen(sampler) && !sampler.isGreedy ? draftSampler(sampler) : undefined
  }

  get result(): Speculation {
    const sum = (numbers: readonly number[]) => numbers.reduce((total, n) => total + n, 0)
    const [nPasses, nDrafted, nAccepted] = [this.#nPasses, sum(this.#drafted), sum(this.#accepted)]
    const plainMs = (nPasses + nAccepted) * (this.#options?.costs?.single ?? 0)
    return {
      ...{ nPasses, nDrafted, nAccepted },
      acceptanceRate: nDrafted > 0 ? nAccepted / nDrafted : undefined,
      tokensPerPass: nPasses > 0 ? (nPasses + nAccepted) / nPasses : undefined,
      estimatedSpeedUp: nDrafted > 0 && plainMs > 0 ? plainMs / this.#milliseconds : undefined,
      draftMs: this.#draftMs,
      byPosition: this.#drafted.map((nDrafted, i) => ({ nDrafted, nAccepted: this.#accepted[i]! })),
    }
  }

  /** The next token, of the session's row. */
  draw(row: OutputRow): number {
    const sampler = this.#sampler!
    const { tokens } = this.#session
    const drawn = this.#at < this.#n ? this.#draft.distributions?.[this.#at] : undefined
    if (drawn === undefined || !isOpen(sampler)) return sampler.sample(row, tokens)
    const own: Distribution = sampler.distribution(row, tokens)
    return drawByRejection(own, drawn, this.#draft.tokens[this.#at]!, () => sampler.random())
  }

  /** The session comes to hold `token`, behind what it holds, and its row is the session's row.
   * @param most tokens of a draft that may become part of the text. */
  advance(token: number, most: number): void {
    if (this.#accept(token)) return
    this.#n = 0
    this.#at = 0
    const draftedAt = performance.now()
    const n = this.#propose(token, most)
    const startedAt = performance.now()
    this.#session.speculate(token, this.#draft.tokens.subarray(0, n))
    const endedAt = performance.now()
    const { controller, costs } = this.#options ?? {}
    if (controller !== undefined) controller.passed(n + 1, endedAt - startedAt)
    else costs?.observe(n + 1, endedAt - startedAt)
    this.#draftMs += startedAt - draftedAt
    this.#milliseconds += endedAt - draftedAt
    this.#nPasses++
    this.#n = n
    for (let i = 0; i < n; i++) this.#drafted[i] = (this.#drafted[i] ?? 0) + 1
    while (this.#accepted.length < n) this.#accepted.push(0)
  }

  /** Whether the token is the drafted one and its row is there. */
  #accept(token: number): boolean {
    if (this.#at === this.#n) return false
    const [at, { tokens, confidences, source }] = [this.#at, this.#draft]
    // Another session may have run a pass since: the row is gone, and the draft was as little use as a wrong one.
    const isAccepted = tokens[at] === token && this.#session.takeDrafted()
    this.#options?.controller?.judged(at, confidences[at]!, isAccepted, source)
    if (!isAccepted) return false
    this.#at++
    this.#accepted[at]!++
    return true
  }

  /** Leaves a draft of what follows `token`; how much of it to verify. */
  #propose(token: number, most: number): number {
    if (this.#options === undefined) return 0
    const { drafter, controller, maxDraft, minDraft = 1 } = this.#options
    const { model, tokens } = this.#session
    if (this.#nKnown === 0) {
      drafter.reset()
      controller?.start()
    }
    for (; this.#nKnown < tokens.length; this.#nKnown++) drafter.push(tokens[this.#nKnown]!)
    drafter.push(token)
    this.#nKnown++
    const max = Math.min(maxDraft, most, model.maxOutputs - 1)
    if (max <= 0) return 0
    controller?.begin(most)
    const draft = drafter.propose(max, { gate: controller, sampler: this.#draftSampler })
    this.#draft = draft
    const verifiable = this.#verifiable(draft, max)
    const n = controller === undefined ? verifiable : controller.choose(draft.confidences, verifiable, draft.source)
    return n < minDraft && draft.distributions === undefined ? 0 : n
  }

  /** A token that ends the generation is not verified: its row is never asked for. One that was drawn is: what is drawn for
   * its place must not depend on what it is. */
  #verifiable({ n, tokens, distributions }: Draft, max: number): number {
    const { tokenizer } = this.#session.model
    let end = 0
    while (end < Math.min(n, max) && (distributions !== undefined || !tokenizer.isEndOfGeneration(tokens[end]!))) end++
    return end
  }
}
