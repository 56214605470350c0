// Generating text: pass, sample, decode, stop. One loop for everybody who wants tokens.
//
// A pass blocks its thread. Between passes the loop lets the event loop run, so timers and signals are served; a row is
// used up before that, since another session of the model may run in between.

import type { ToolCall } from "./chat/messages.ts"
import type { ReplyPart, ReplyReader } from "./chat/reply.ts"
import { ArgumentError, AsdslError, CancelledError } from "./errors.ts"
import { checkInteger } from "./native/handles.ts"
import type { PromptCache } from "./prompt-cache.ts"
import { biasMap, Sampler, type SamplerOptions, type TokenSampler } from "./sampler.ts"
import type { Session } from "./session.ts"
import { type Speculation, Speculator } from "./speculative/accept.ts"
import type { Drafter } from "./speculative/drafter.ts"
import { keepLearnt, speculatorOptions } from "./speculative/mode.ts"
import type { SpeculativeMode } from "./speculative/options.ts"
import { StopMatcher } from "./stop.ts"
import type { StreamDecoder } from "./tokenizer/types.ts"

export interface GenerateOptions extends SamplerOptions {
  /** Tokens at most; -1: until the context is full. Default -1. */
  maxTokens?: number
  /** Texts that end the generation and are not part of it. Of a reply, what the model thinks is not searched for them. */
  stop?: string | readonly string[]
  /** Never draw a token that ends the generation. Default false. */
  ignoreEos?: boolean
  /** Recognise special tokens in a prompt given as text. Default false. */
  parseSpecial?: boolean
  /** Instead of sampling options: one that goes on with its random numbers. ignoreEos is then the sampler's affair. */
  sampler?: TokenSampler
  /** Drafting what may follow and verifying several tokens in one pass. Nothing but speed depends on it: the text is the
   * same, or where a draft model's tokens are drawn (not at temperature 0) of the same distribution. Default "auto". */
  speculative?: SpeculativeMode
  /** Tokens of a draft at most; more than model.maxOutputs - 1 are never drafted. Default 16. */
  maxDraft?: number
  /** Drafts of fewer tokens are not verified, but for those that a draft model has drawn. Default 0. */
  minDraft?: number
  /** A draft model's draft ends before a token of which the model is less sure. Default 0. */
  minDraftConfidence?: number
  /** Instead of lookups in the text so far and a draft model: what drafts. It belongs to one generation at a time. */
  drafter?: Drafter
  /** A file with what the model computes for the prompt: what it holds of it is not computed again. For a session's first
   * prompt; the file is written when the first token is out. */
  promptCache?: PromptCache
  /** Ends the generation between two passes, without an error. Inside a pass: cancelProgram from another thread. */
  signal?: AbortSignal
  /** Prompt tokens evaluated, of those that had to be; after each micro-batch. */
  onProgress?(done: number, total: number): void
}

/** One generated token and the text that became certain with it. */
export interface Piece {
  /** undefined for a last piece: text that was held back. */
  readonly token: number | undefined
  /** May be "": an unfinished character or the possible beginning of a stop text. */
  readonly text: string
  /** What the model thinks before its reply, where its format sets that apart; "" elsewhere. */
  readonly reasoning: string
  /** Natural logarithm of the model's own probability of the token, before anything that the sampler does. */
  readonly logprob: number
}

export type FinishReason =
  /** A token that ends the generation, or a stop text. */
  | "stop"
  /** maxTokens. */
  | "length"
  /** The context is full. */
  | "context"
  /** By the signal, by cancelProgram, or because the caller left the loop. */
  | "cancelled"

export interface GenerationResult {
  readonly finishReason: FinishReason
  readonly text: string
  /** What the model thought before its reply, where its format sets that apart; "" elsewhere. */
  readonly reasoning: string
  /** What a reply asks for, where tools were given; what cannot be read stays in the text. */
  readonly toolCalls: readonly ToolCall[]
  /** Without a token that ended the generation. */
  readonly tokens: readonly number[]
  readonly nPromptTokens: number
  /** Of the prompt, those that were in the cache already. */
  readonly nReused: number
  /** Drawn tokens, with one that ended the generation. */
  readonly nGenerated: number
  /** Evaluating the prompt. */
  readonly promptMs: number
  /** From the start to the first token, waiting included. */
  readonly firstTokenMs: number
  /** Passes and sampling behind the first token: (nGenerated - 1) / generationMs tokens a millisecond. */
  readonly generationMs: number
  readonly seed: number
  /** What drafting came to. */
  readonly speculation: Speculation
}

const NOTHING: ReplyPart = { text: "", reasoning: "" }

/** What the sampling options ask for, for a model. */
export function createSampler(model: Session["model"], options: GenerateOptions = {}): Sampler {
  const { nVocab } = model.config
  if (!options.ignoreEos) return new Sampler(nVocab, options)
  const logitBias = biasMap(options.logitBias)
  for (let token = 0; token < nVocab; token++) {
    if (model.tokenizer.isEndOfGeneration(token)) logitBias.set(token, -Infinity)
  }
  return new Sampler(nVocab, { ...options, logitBias })
}

/** What a conversation knows more of than a session. */
export interface ReplyHooks {
  /** Takes the text apart. */
  readonly reader?: ReplyReader
  /** Special tokens that are text for the reader. */
  readonly shown?: ReadonlySet<number>
  /** Told the result before the caller sees it; not called where a pass failed. `raw` is the text of all tokens, undefined
   * where a stop text cut it short. */
  onEnd?(result: GenerationResult, raw: string | undefined): void
}

/** Starts a generation; see Session.generate. Everything that is wrong with the arguments is thrown here. */
export function generate(
  session: Session,
  prompt: string | ArrayLike<number>,
  options: GenerateOptions = {},
  hooks: ReplyHooks = {},
): Generation {
  const tokens =
    typeof prompt === "string"
      ? session.model.tokenizer.encode(prompt, { addSpecial: true, parseSpecial: options.parseSpecial ?? false })
      : prompt
  if (tokens.length === 0) throw new ArgumentError("the prompt is empty: one token at least is needed")
  session.check(tokens)
  return new Generation(session, Int32Array.from(tokens), options, hooks)
}

/** A running generation: `for await (const piece of generation)`, then `generation.result`. Nothing runs before the first
 * piece is asked for; leaving the loop ends it. */
export class Generation implements AsyncIterable<Piece> {
  readonly #session: Session
  readonly #prompt: Int32Array
  readonly #options: GenerateOptions
  readonly #maxTokens: number
  readonly #sampler: TokenSampler
  readonly #speculator: Speculator
  readonly #stops: StopMatcher
  readonly #hooks: ReplyHooks
  readonly #pieces: AsyncGenerator<Piece, void, undefined>
  readonly #decoder: StreamDecoder
  readonly #tokens: number[] = []
  #nHeld = 0 // tokens that the session has to hold if nobody else changed it
  #isStarted = false
  #text = ""
  #reasoning = ""
  #raw = ""
  #finishReason: FinishReason = "cancelled"
  #nReused = 0
  #nGenerated = 0
  #promptMs = 0
  #firstTokenMs = 0
  #generationMs = 0
  #result: GenerationResult | undefined
  #error: unknown

  /** Made by generate(). */
  constructor(session: Session, prompt: Int32Array, options: GenerateOptions, hooks: ReplyHooks = {}) {
    this.#session = session
    this.#prompt = prompt
    this.#options = options
    this.#maxTokens = checkInteger("maxTokens", options.maxTokens ?? -1, -1, 2 ** 31)
    this.#sampler = options.sampler ?? createSampler(session.model, options)
    this.#speculator = new Speculator(session, speculatorOptions(session, options), this.#sampler)
    const { stop = [] } = options
    this.#stops = new StopMatcher(typeof stop === "string" ? [stop] : stop)
    this.#decoder = session.model.tokenizer.decoder({ continuation: true, special: hooks.shown ?? false })
    this.#hooks = hooks
    this.#pieces = this.#run()
  }

  /** Begun and not ended. */
  get isRunning(): boolean {
    return this.#isStarted && this.#result === undefined && this.#error === undefined
  }

  /** Throws until the generation is finished, and the error with which it failed. */
  get result(): GenerationResult {
    if (this.#error !== undefined) throw this.#error
    if (this.#result === undefined) throw new AsdslError("unfinished", "the generation is not finished")
    return this.#result
  }

  /** Runs to the end, whatever part of it has been seen. */
  async finish(): Promise<GenerationResult> {
    for await (const _ of this);
    return this.result
  }

  /** The pieces that have not been taken yet: all loops over a generation share them. */
  [Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    return this.#pieces
  }

  async *#run(): AsyncGenerator<Piece, void, undefined> {
    this.#isStarted = true
    try {
      const startedAt = performance.now()
      await this.#evaluatePrompt(startedAt)
      yield* this.#generate(startedAt)
    } catch (error) {
      if (!(error instanceof CancelledError)) {
        this.#error = error
        throw error
      }
      yield* this.#flush("cancelled")
    } finally {
      if (this.#error === undefined) this.#end()
    }
  }

  /** Session.sync by micro-batches, the event loop between them. */
  async #evaluatePrompt(startedAt: number): Promise<void> {
    const session = this.#session
    const prompt = this.#prompt
    await eventLoop()
    session.topK = this.#sampler.candidatesWanted(session.model.maxTopK)
    this.#options.promptCache?.restore(session, prompt)
    let at = 0
    while (at < prompt.length - 1 && prompt[at] === session.tokens[at]) at++
    this.#nReused = at
    session.truncate(at)
    this.#nHeld = at
    while (at < prompt.length) {
      this.#throwIfAborted()
      const end = Math.min(at + session.model.nUbatch, prompt.length)
      this.#extend(prompt.subarray(at, end), end === prompt.length ? "last" : "none")
      this.#options.onProgress?.(end - this.#nReused, prompt.length - this.#nReused)
      at = end
      if (at < prompt.length) await eventLoop()
    }
    this.#promptMs = performance.now() - startedAt
  }

  async *#generate(startedAt: number): AsyncGenerator<Piece, void, undefined> {
    const session = this.#session
    const { tokenizer } = session.model
    for (let last: number | undefined; ; ) {
      if (this.#nGenerated === this.#maxTokens) return yield* this.#flush("length")
      if (last !== undefined && this.#nHeld === session.nCtx) return yield* this.#flush("context")
      const stepAt = performance.now()
      if (last !== undefined) this.#advance(last)
      const row = session.row()
      const token = this.#speculator.draw(row)
      const logprob = row.logits[token]! - row.logsumexp
      const now = performance.now()
      if (this.#nGenerated++ === 0) this.#firstTokenMs = now - startedAt
      else this.#generationMs += now - stepAt
      if (tokenizer.isEndOfGeneration(token)) return yield* this.#flush("stop")
      this.#tokens.push(token)
      const part = this.#read(this.#decoder.push(token))
      if (this.#stops.isStopped) this.#finishReason = "stop"
      yield { token, ...part, logprob }
      if (this.#nGenerated === 1) this.#options.promptCache?.keepPrompt(session)
      if (this.#stops.isStopped) return
      last = token
      await eventLoop()
      this.#throwIfAborted()
    }
  }

  #extend(tokens: ArrayLike<number>, outputs: "last" | "none"): void {
    this.#checkHeld()
    this.#session.extend(tokens, { outputs })
    this.#nHeld += tokens.length
  }

  /** What extend([token]) does, by fewer passes. */
  #advance(token: number): void {
    this.#checkHeld()
    const nLeft = this.#maxTokens < 0 ? Infinity : this.#maxTokens - this.#nGenerated
    const room = this.#session.nCtx - this.#nHeld
    this.#speculator.advance(token, Math.min(nLeft, room) - 1)
    this.#nHeld++
  }

  #checkHeld(): void {
    const { tokens: held } = this.#session
    if (held.length !== this.#nHeld) {
      const numbers = `it holds ${held.length} tokens instead of ${this.#nHeld}`
      throw new AsdslError("busy", `the session was changed while it was generating: ${numbers}`)
    }
  }

  #throwIfAborted(): void {
    if (this.#options.signal?.aborted) throw new CancelledError()
  }

  /** The end of the text, held back until here. */
  *#flush(reason: FinishReason): Generator<Piece, void, undefined> {
    this.#finishReason = reason
    const last = this.#read(this.#decoder.end())
    const rest = this.#hooks.reader?.end() ?? NOTHING
    const tail = this.#stops.push(rest.text) + this.#stops.end()
    this.#text += tail
    this.#reasoning += rest.reasoning
    if (this.#stops.isStopped) this.#finishReason = "stop"
    const [text, reasoning] = [last.text + tail, last.reasoning + rest.reasoning]
    if (text + reasoning !== "") yield { token: undefined, text, reasoning, logprob: Number.NaN }
  }

  /** What became certain with more text. */
  #read(raw: string): ReplyPart {
    this.#raw += raw
    const part = this.#hooks.reader?.push(raw) ?? { text: raw, reasoning: "" }
    const text = this.#stops.push(part.text)
    this.#text += text
    this.#reasoning += part.reasoning
    return { text, reasoning: part.reasoning }
  }

  #end(): void {
    this.#options.promptCache?.keepGenerated(this.#session)
    keepLearnt(this.#session.model)
    this.#result = {
      finishReason: this.#finishReason,
      text: this.#text,
      reasoning: this.#reasoning,
      toolCalls: this.#hooks.reader?.toolCalls ?? [],
      tokens: this.#tokens,
      nPromptTokens: this.#prompt.length,
      nReused: this.#nReused,
      nGenerated: this.#nGenerated,
      promptMs: this.#promptMs,
      firstTokenMs: this.#firstTokenMs,
      generationMs: this.#generationMs,
      seed: this.#sampler.seed,
      speculation: this.#speculator.result,
    }
    this.#hooks.onEnd?.(this.#result, this.#stops.isStopped ? undefined : this.#raw)
  }
}

/** Lets timers, signals and messages have their turn. */
function eventLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
