// A file that pays a long prompt once: looked into before a prompt is evaluated, written when it held less. What goes wrong
// with it is said and never keeps a prompt from being evaluated. Owns the policy; session-file.ts owns the bytes.

import { ArgumentError, AsdslError, SavedSessionError } from "./errors.ts"
import { commonPrefix, type LoadedSession, type Session } from "./session.ts"

export interface PromptCacheOptions {
  /** Keep what was generated behind the prompt too. Default false. */
  all?: boolean
  /** Never write the file. Default false. */
  readOnly?: boolean
  /** Told, in a sentence, when the file cannot be used or written. */
  onNotice?(text: string): void
}

/** The file of one session's prompts: see GenerateOptions.promptCache. */
export class PromptCache {
  readonly path: string
  readonly #options: PromptCacheOptions
  #isReplaceable: boolean
  /** Set while the file is to be written: how many tokens of the prompt it has. */
  #nSaved: number | undefined

  constructor(path: string, options: PromptCacheOptions = {}) {
    if (typeof path !== "string" || path === "" || path.includes("\0")) {
      throw new ArgumentError(`not a path: ${JSON.stringify(path)}`)
    }
    this.path = path
    this.#options = options
    this.#isReplaceable = !options.readOnly
  }

  /** Whether what is generated is kept too. */
  get keepsAll(): boolean {
    return this.#options.all ?? false
  }

  /** Before a prompt: an empty session takes from the file what it has of it. Never throws for the file's sake. */
  restore(session: Session, prompt: ArrayLike<number>): void {
    this.#nSaved = undefined
    if (session.tokens.length > 0) return
    const loaded = this.load(session, prompt)
    const nSaved = loaded === undefined ? 0 : commonPrefix(loaded.tokens, prompt)
    if (nSaved < prompt.length) this.#nSaved = nSaved
  }

  /** All of the file, or what it has of a prompt; undefined where there is nothing to be had, which is said unless there is
   * no file. */
  load(session: Session, prompt?: ArrayLike<number>): LoadedSession | undefined {
    try {
      return session.load(this.path, prompt === undefined ? {} : { prompt })
    } catch (error) {
      if (!(error instanceof AsdslError)) throw error
      if (error instanceof SavedSessionError && error.problem === "missing") return undefined
      this.#refused(error)
      return undefined
    }
  }

  /** When the prompt is evaluated, as far as it was, and nothing behind it. */
  keepPrompt(session: Session): void {
    const isMore = this.#nSaved !== undefined && session.tokens.length > this.#nSaved
    this.#nSaved = undefined
    if (isMore) this.save(session)
  }

  /** When a generation has ended. */
  keepGenerated(session: Session): void {
    this.keepPrompt(session)
    if (this.keepsAll) this.save(session)
  }

  /** Writes what the session holds; says where that fails. */
  save(session: Session, note = ""): void {
    if (!this.#isReplaceable || session.tokens.length === 0) return
    try {
      session.save(this.path, { note })
    } catch (error) {
      if (!(error instanceof SavedSessionError)) throw error
      this.#options.onNotice?.(error.message)
    }
  }

  /** Something about the file that its user should know. */
  notice(text: string): void {
    this.#options.onNotice?.(`${this.path}: ${text}`)
  }

  #refused(error: AsdslError): void {
    // Not ours: a slip of the keyboard must not cost somebody's file.
    if (error instanceof SavedSessionError && error.problem === "unknown") this.#isReplaceable = false
    const next = this.#isReplaceable ? "it will be replaced" : "it stays as it is"
    const text = error instanceof SavedSessionError ? error.message : `${this.path}: ${error.message}`
    this.#options.onNotice?.(`${text}; the prompt is evaluated, ${next}`)
  }
}
