// Drafts from a small model that shares the target's vocabulary: it follows the text and goes on from its end by its own
// tokens, the likeliest ones or, for a sampler, drawn ones. Its cache is put back to the text by truncating it, so that what
// was accepted stays in it. Knows no target pass and no costs.

import { ArgumentError } from "../errors.ts"
import type { OutputRow } from "../executor.ts"
import type { Model } from "../model.ts"
import type { Distribution, LogitRow } from "../sampler.ts"
import type { Session } from "../session.ts"
import { type Draft, type EvaluatingDrafter, NO_DRAFT, type ProposeOptions } from "./drafter.ts"

/** Candidates of a row that a sampler finds: top-k's default. A longer list is made from the whole row. */
const CANDIDATES = 40

class ModelDraft implements Draft {
  readonly source = "model"
  n = 0
  readonly tokens: Int32Array
  readonly confidences: Float64Array
  distributions: Distribution[] | undefined

  constructor(max: number) {
    this.tokens = new Int32Array(max)
    this.confidences = new Float64Array(max)
  }
}

export class ModelDrafter implements EvaluatingDrafter, Disposable {
  readonly #session: Session
  readonly #nVocab: number
  readonly #text: number[] = []
  #begin = 0 // of the context, in the text
  #nHeld = 0 // tokens behind #begin that the session has evaluated
  #draft = new ModelDraft(0)
  #wholeRow: WholeRow | undefined
  /** A draft ends before a token of which the model is less sure. */
  minConfidence = 0

  /** @param target loaded with a draft model. */
  constructor({ draft, config }: Model) {
    if (draft === undefined)
      throw new ArgumentError("the model was loaded without a draft model: see LoadOptions.draft")
    this.#session = draft.createSession()
    this.#nVocab = config.nVocab
  }

  /** Bytes of its cache now. */
  get kvBytes(): number {
    return this.#session.kvBytes
  }

  reset(): void {
    this.#text.length = 0
    this.#begin = 0
    this.#nHeld = 0 // what the text has in common with the one before counts again as it comes
  }

  push(token: number): void {
    const isHeld = this.#text.length === this.#begin + this.#nHeld && this.#session.tokens[this.#nHeld] === token
    this.#text.push(token)
    if (isHeld) this.#nHeld++
    // One that only the target knows: the draft model reads on behind it.
    else if (token >= this.#session.model.config.nVocab) this.#moveTo(this.#text.length)
  }

  get nPending(): number {
    return Math.max(this.#text.length - this.#begin - this.#nHeld, 1)
  }

  propose(max: number, { gate, sampler }: ProposeOptions = {}): Draft {
    const [session, text] = [this.#session, this.#text]
    const most = this.#makeRoom(max)
    if (text.length === this.#begin || most <= 0) return NO_DRAFT
    if (this.#draft.tokens.length < most) this.#draft = new ModelDraft(most)
    const draft = this.#draft
    draft.n = 0
    draft.distributions = sampler === undefined ? undefined : []
    session.topK = sampler === undefined ? 0 : Math.min(CANDIDATES, session.model.maxTopK)
    while (draft.n < most && gate?.extends(draft, draft.n === 0 ? this.nPending : 1, most) !== false) {
      const startedAt = performance.now()
      const n = this.#evaluate(draft)
      gate?.stepped(n, performance.now() - startedAt)
      const row = session.row()
      const distribution = sampler?.distribution(this.#whole(row), session.tokens)
      const confidence = distribution?.probabilities[0] ?? Math.exp(row.max - row.logsumexp)
      if (confidence < this.minConfidence || gate?.includes(draft, confidence) === false) break
      const token = distribution === undefined ? this.#tokenOf(row.argmax) : sampler!.draw(distribution)
      if (token >= this.#nVocab) break
      draft.tokens[draft.n] = token
      draft.confidences[draft.n++] = confidence
      if (distribution !== undefined) draft.distributions!.push(distribution)
      if (session.model.tokenizer.isEndOfGeneration(token)) break
    }
    return draft
  }

  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]()
  }

  /** Leaves a row behind the text and the draft; how many tokens that took. */
  #evaluate({ n, tokens }: Draft): number {
    const [session, text] = [this.#session, this.#text]
    if (n > 0) {
      session.extend([tokens[n - 1]!])
      return 1
    }
    const held = Math.min(this.#nHeld, text.length - this.#begin - 1)
    session.truncate(held)
    const pending = text.slice(this.#begin + held)
    session.extend(pending)
    this.#nHeld = held + pending.length
    return pending.length
  }

  /** Where the context is full, it goes on from the end of the text. Returns how many tokens a draft may have. */
  #makeRoom(max: number): number {
    const { nCtx } = this.#session
    const most = Math.min(max, Math.floor(nCtx / 2))
    if (this.#text.length - this.#begin + most > nCtx) this.#moveTo(this.#text.length - Math.ceil(nCtx / 2))
    return most
  }

  #moveTo(begin: number): void {
    this.#begin = begin
    this.#nHeld = 0
    this.#session.truncate(0)
  }

  #tokenOf(column: number): number {
    return this.#session.model.outputTokens?.[column] ?? column
  }

  #whole(row: OutputRow): LogitRow {
    this.#wholeRow ??= new WholeRow(this.#nVocab)
    return this.#wholeRow.set(row, this.#session.model.outputTokens)
  }
}

/** A row of a draft model as one of the target's vocabulary: tokens without a column have no probability. */
class WholeRow implements LogitRow {
  readonly logits: Float32Array
  logsumexp = 0
  argmax = 0
  nCandidates = 0
  nNotFinite = 0
  readonly tokens = new Int32Array(CANDIDATES)
  readonly candidateLogits = new Float32Array(CANDIDATES)

  constructor(nVocab: number) {
    this.logits = new Float32Array(nVocab).fill(-Infinity)
  }

  set(row: OutputRow, outputTokens: Int32Array | undefined): LogitRow {
    const nVocab = this.logits.length
    if (outputTokens === undefined) this.logits.set(row.logits.subarray(0, nVocab))
    else {
      for (const [column, token] of outputTokens.entries()) if (token < nVocab) this.logits[token] = row.logits[column]!
    }
    this.logsumexp = row.logsumexp
    this.nNotFinite = row.nNotFinite
    this.nCandidates = 0
    for (let i = 0; i < row.nCandidates; i++) {
      const token = outputTokens?.[row.tokens[i]!] ?? row.tokens[i]!
      if (token >= nVocab) continue
      this.tokens[this.nCandidates] = token
      this.candidateLogits[this.nCandidates++] = row.candidateLogits[i]!
    }
    this.argmax = this.tokens[0]!
    return this
  }
}
