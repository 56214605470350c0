// A session: one mutable timeline of tokens and the KV cache that goes with it.
//
// Sessions of one model share its program, whose parameter block and arena hold one pass: results are valid until the
// next pass of any session of the same model, and asking for them later is an error. Runs are synchronous.

import { ArgumentError, AsdslError, CancelledError, ContextOverflowError, SavedSessionError } from "./errors.ts"
import type { Executor, OutputRow, Watch } from "./executor.ts"
import { type GenerateOptions, type Generation, generate } from "./generate.ts"
import type { Model } from "./model.ts"
import { Prefill, Type } from "./native/abi.ts"
import { cancelProgram, checkInteger, KvCache } from "./native/handles.ts"
import { type ContentKind, SessionFile, writeSession } from "./session-file.ts"

export interface SyncOptions {
  /** Tokens evaluated so far, of those that had to be; after each micro-batch. */
  onProgress?(done: number, total: number): void
  /** Looked at between micro-batches. */
  signal?: AbortSignal
}

export interface ExtendOptions extends SyncOptions {
  /** Which tokens get a row of logits. Default "last". */
  outputs?: "last" | "all" | "none"
  /** With "all": called while rows 0 .. nRows - 1 are those of tokens firstIndex .. firstIndex + nRows - 1. */
  onRows?(firstIndex: number, nRows: number): void
  /** Looks at what ops are about to read. */
  watch?: Watch
}

export interface SaveOptions {
  /** Goes into the file and comes back from load(). */
  note?: string
}

export interface LoadSessionOptions {
  /** Only what these tokens begin with as well is wanted. */
  prompt?: ArrayLike<number>
}

export interface LoadedSession {
  /** The tokens that the file stands for; the session may have been asked for fewer. */
  readonly tokens: ArrayLike<number>
  readonly note: string
}

const DEFAULTS: ExtendOptions = {}

/** One mutable inference timeline. Made by Model.createSession(). */
export class Session {
  readonly model: Model
  /** Tokens that the context holds at most. */
  readonly nCtx: number
  #kv: KvCache
  readonly #tokens: number[]
  #topK: number
  #executor: Executor | undefined
  #nRows = 0
  #row = -1 // the one that row() gives
  #drafted: readonly number[] = [] // what the cache holds behind #tokens
  #passNumber = -1
  readonly #attached = new DisposableStack()

  /** @param tokens what `kv` holds; the session takes both over. */
  constructor(model: Model, kv: KvCache, nCtx: number, topK: number, tokens: number[] = []) {
    this.model = model
    this.nCtx = nCtx
    this.#kv = kv
    this.#tokens = tokens
    this.#topK = topK
  }

  /** The tokens that the KV cache holds. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** Candidates per output row; takes effect with the next pass. */
  get topK(): number {
    return this.#topK
  }

  set topK(value: number) {
    this.#topK = checkInteger("topK", value, 0, this.model.maxTopK)
  }

  /** Bytes of the KV cache now. */
  get kvBytes(): number {
    return this.#kv.bytes
  }

  /** Makes the session hold exactly these tokens. The common prefix is kept, and the last token is evaluated in any case,
   * so that its row is ready. Nothing changes when the tokens do not fit. After a cancellation or an error the session
   * holds what was evaluated until then, a prefix of the tokens. */
  sync(tokens: ArrayLike<number>, options: SyncOptions = DEFAULTS): { reused: number; evaluated: number } {
    const wanted = tokens === this.#tokens ? this.#tokens.slice() : tokens
    const n = wanted.length
    if (n === 0) throw new ArgumentError("sync needs one token at least")
    this.check(wanted)
    let reused = 0
    while (reused < n - 1 && reused < this.#tokens.length && this.#tokens[reused] === wanted[reused]) reused++
    this.truncate(reused)
    this.#evaluate(wanted, reused, "last", options)
    return { reused, evaluated: n - reused }
  }

  /** Evaluates tokens behind those that the session holds. */
  extend(tokens: ArrayLike<number>, options: ExtendOptions = DEFAULTS): void {
    if (tokens.length === 0) throw new ArgumentError("extend needs one token at least")
    this.check(tokens, this.#tokens.length + tokens.length)
    const own = tokens === this.#tokens ? this.#tokens.slice() : tokens
    this.#evaluate(own, 0, options.outputs ?? "last", options)
  }

  /** Throws what sync() would: ContextOverflowError where `total` tokens do not fit, ArgumentError for a token that the
   * vocabulary does not have. Changes nothing. */
  check(tokens: ArrayLike<number>, total = tokens.length): void {
    const { nVocab } = this.model.config
    if (total > this.nCtx) throw new ContextOverflowError(total, this.nCtx)
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!
      if (Number.isInteger(token) && token >= 0 && token < nVocab) continue
      throw new ArgumentError(`token ${i} is ${token}, the vocabulary has 0 to ${nVocab - 1}`)
    }
  }

  /** Evaluates a token and a draft of what may follow it in one pass; at most model.maxOutputs tokens together. The session
   * holds the token then and row() is its row, as after extend([token]); takeDrafted() goes on. Whatever else is done to
   * the session forgets the draft. */
  speculate(token: number, draft: ArrayLike<number>): void {
    const tokens = [token, ...Array.from(draft)]
    if (tokens.length > 1) checkInteger("tokens of a draft", draft.length, 0, this.model.maxOutputs - 1)
    this.extend(tokens, { outputs: "all" })
    this.#row = 0
    this.#drafted = tokens.slice(1)
    this.#tokens.length -= this.#drafted.length
  }

  /** The session comes to hold the draft's next token without a pass, and row() is its row. False, and nothing has changed,
   * where there is none or its row is gone. Throws CancelledError as a pass would. */
  takeDrafted(): boolean {
    const [next, ...rest] = this.#drafted
    if (next === undefined || this.#passNumber !== this.model.passes) return false
    if (this.model.takeCancel()) throw new CancelledError()
    this.#tokens.push(next)
    this.#drafted = rest
    this.#row++
    return true
  }

  /** The cache holds what the session holds. */
  #forgetDraft(): void {
    if (this.#drafted.length === 0) return
    this.#kv.truncate(this.#tokens.length)
    this.#drafted = []
  }

  #evaluate(tokens: ArrayLike<number>, from: number, outputs: "last" | "all" | "none", options: ExtendOptions): void {
    this.#forgetDraft()
    const total = tokens.length - from
    for (let at = from; at < tokens.length; ) {
      if (options.signal?.aborted || (this.model.hasBatchProgram && this.model.takeCancel())) {
        throw new CancelledError(`cancelled after ${at - from} of ${total} tokens`)
      }
      const n = Math.min(this.model.nUbatch, tokens.length - at)
      const isLast = at + n === tokens.length
      const firstOutput = outputs === "all" ? 0 : outputs === "last" && isLast ? n - 1 : n
      this.#pass(tokens, at, n, firstOutput, at - from, options)
      at += n
      options.onProgress?.(at - from, total)
    }
  }

  /** One micro-batch: tokens[begin .. begin + n), rows for those from `firstOutput` on. */
  #pass(
    tokens: ArrayLike<number>,
    begin: number,
    n: number,
    firstOutput: number,
    index: number,
    options: ExtendOptions,
  ): void {
    const executor = this.model.executorFor(n)
    this.#nRows = 0
    this.#executor = executor
    this.#passNumber = ++this.model.passes
    let nRows = executor.run(this.#kv, tokens, begin, n, this.#tokens.length, firstOutput, this.#topK, options.watch)
    for (let i = begin; i < begin + n; i++) this.#tokens.push(tokens[i]!)
    this.#nRows = nRows
    this.#row = nRows - 1
    if (nRows > 0) options.onRows?.(index + firstOutput, nRows)
    // The layers have run once; only the output matrix goes on where the rows are more than fit.
    for (let first = firstOutput + nRows; first < n; first += nRows) {
      if (this.#passNumber !== this.model.passes) throw stale()
      this.#nRows = 0
      nRows = executor.runOutputs(first, n, options.watch)
      this.#nRows = nRows
      this.#row = nRows - 1
      options.onRows?.(index + first, nRows)
    }
  }

  /** Generates behind a prompt: text (BOS added as the model wants it) or tokens. The session comes to hold the prompt, of
   * which it reuses what it holds already, and what is generated, the last token left out. Throws at once what is wrong
   * with the prompt or the options; nothing has changed then. */
  generate(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): Generation {
    return generate(this, prompt, options)
  }

  /** A row of the last pass, the one of the last token by default. The object is reused by later passes. */
  row(j = this.#row): OutputRow {
    if (this.#executor === undefined || this.#nRows === 0) throw new ArgumentError("the last pass had no output rows")
    checkInteger("row", j, 0, this.#nRows - 1)
    if (this.#passNumber !== this.model.passes) throw stale()
    return this.#executor.row(j)
  }

  /** Forgets all tokens from `length` on. */
  truncate(length: number): void {
    checkInteger("length", length, 0, this.#tokens.length)
    this.#forgetDraft()
    if (length === this.#tokens.length) return
    this.#kv.truncate(length)
    this.#tokens.length = length
  }

  /** An independent session with the same tokens and the same cache. */
  fork(): Session {
    this.#forgetDraft()
    return new Session(this.model, this.#kv.fork(), this.nCtx, this.#topK, this.#tokens.slice())
  }

  /** Writes the tokens and what the model computed for them to a file, whole or not at all; blocks. Throws
   * SavedSessionError where the system refuses. */
  save(path: string, { note = "" }: SaveOptions = {}): void {
    if (this.#tokens.length === 0) throw new ArgumentError("the session holds no tokens to save")
    this.#forgetDraft()
    const saved = { kind: this.#contentKind(), model: this.model.identity, tokens: this.#tokens, note }
    writeSession(path, saved, (offset, out) => this.#kv.read(offset, out))
  }

  /** The session comes to hold what was saved, instead of what it held; logits come with the next pass. Throws
   * SavedSessionError for a file that is not a session of this model, or is damaged, and ContextOverflowError; nothing has
   * changed then. */
  load(path: string, { prompt }: LoadSessionOptions = {}): LoadedSession {
    using file = SessionFile.open(path)
    const { kind, model, tokens, note } = file.saved
    this.#checkKind(path, kind, model)
    const nWanted = prompt === undefined ? tokens.length : commonPrefix(tokens, prompt)
    const wanted = Array.from({ length: nWanted }, (_, i) => tokens[i]!)
    if (nWanted > this.nCtx) throw new ContextOverflowError(nWanted, this.nCtx)
    const foreign = wanted.find((token) => token < 0 || token >= this.model.config.nVocab)
    if (foreign !== undefined) {
      throw new SavedSessionError("damaged", `${path}: the saved session has token ${foreign}, which its model lacks`)
    }
    using fresh = new DisposableStack()
    const kv = fresh.use(KvCache.create(this.#kv.settings))
    const nChunks = file.nChunks(nWanted)
    file.read(nChunks, (offset, bytes) => kv.write(offset, bytes))
    // All that these chunks hold, for only whole chunks and whole caches were ever seen; then as far as it is wanted.
    kv.restore(Math.min(tokens.length, nChunks * kind.chunkTokens, this.nCtx))
    kv.truncate(nWanted)
    fresh.move()
    this.#kv[Symbol.dispose]()
    this.#kv = kv
    this.#tokens.splice(0, this.#tokens.length, ...wanted)
    this.#drafted = []
    this.#nRows = 0
    return { tokens, note }
  }

  #contentKind(): ContentKind {
    const { nLayers, nKvHeads, headDim, typeK, typeV } = this.#kv.settings
    const { chunkBytes, chunkTokens, version: layoutVersion } = this.#kv.state
    const prefill = this.model.prefill === "fast" ? Prefill.FAST : Prefill.EXACT
    return { layoutVersion, typeK, typeV, nLayers, nKvHeads, headDim, chunkTokens, chunkBytes, prefill }
  }

  #checkKind(path: string, kind: ContentKind, model: string): void {
    const own = this.#contentKind()
    const differing = (Object.keys(own) as (keyof ContentKind)[]).filter((key) => kind[key] !== own[key])
    const numbers = differing.map((key) => `${key} ${nameOf(key, kind[key])}, not ${nameOf(key, own[key])}`).join(", ")
    if (kind.layoutVersion !== own.layoutVersion) {
      throw new SavedSessionError("version", `${path}: the saved session is of another version of asdsl: ${numbers}`)
    }
    if (model !== this.model.identity)
      throw new SavedSessionError("model", `${path}: the saved session is of another model`)
    if (differing.length === 0) return
    throw new SavedSessionError(
      "model",
      `${path}: the saved session is of the same model with other options: ${numbers}`,
    )
  }

  /** The running pass of this model, or else its next one, ends with CancelledError. */
  cancel(): void {
    cancelProgram(this.cancelHandle)
  }

  /** What another thread needs: cancelProgram(session.cancelHandle). */
  get cancelHandle(): number {
    return this.model.cancelHandle
  }

  /** Forgets a cancellation that came when nothing ran any more; whether there was one. */
  takeCancel(): boolean {
    return this.model.takeCancel()
  }

  /** What goes when the session goes. */
  attach<T extends Disposable>(companion: T): T {
    return this.#attached.use(companion)
  }

  [Symbol.dispose](): void {
    this.#attached.dispose()
    this.#kv[Symbol.dispose]()
    this.#tokens.length = 0
    this.#drafted = []
    this.#nRows = 0
  }
}

function stale(): AsdslError {
  return new AsdslError("stale", "another session of this model has run a pass since: the rows are gone")
}

/** Tokens with which both begin. */
export function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const n = Math.min(a.length, b.length)
  let i = 0
  while (i < n && a[i] === b[i]) i++
  return i
}

/** Numbers of types as their names. */
function nameOf(key: keyof ContentKind, value: number): string {
  const names = key === "prefill" ? Prefill : key === "typeK" || key === "typeV" ? Type : {}
  const name = Object.entries(names).find(([, number]) => number === value)?.[0]
  return name?.toLowerCase() ?? String(value)
}
