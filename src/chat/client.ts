// The main thread's end of the engine's thread: requests as promises, text as it comes, and stopping from outside.

import { AsdslError } from "../errors.ts"
import type { GenerationResult } from "../generate.ts"
import { cancelProgram } from "../native/handles.ts"
import type { Message } from "./messages.ts"
import {
  type Answer,
  errorOf,
  type ModelFacts,
  type PlainChatOptions,
  type PlainGenerateOptions,
  type PlainLoadOptions,
  type PlainPromptCache,
  type PlainSayOptions,
  type Report,
  type Request,
} from "./protocol.ts"

export interface Listener {
  onText?(text: string): void
  /** What the model thinks before its reply. */
  onReasoning?(text: string): void
  /** Loading: bytes. A prompt: tokens. */
  onProgress?(done: number, total: number): void
  /** What goes wrong without ending the request: a prompt cache that cannot be used. */
  onNotice?(text: string): void
}

interface Pending extends Listener {
  resolve(value: unknown): void
  reject(error: Error): void
}

/** A request without its id. */
type Body = Request extends infer R ? (R extends Request ? Omit<R, "id"> : never) : never

export class EngineClient implements Disposable {
  readonly #worker = new Worker(new URL("./worker.ts", import.meta.url).href)
  readonly #pending = new Map<number, Pending>()
  #facts: ModelFacts | undefined
  #nRequests = 0
  #generating: number | undefined // the request that abort() ends

  private constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<Report | Answer>) => this.#receive(data)
    this.#worker.onerror = ({ message }) => this.#fail(new Error(`the engine's thread failed: ${message}`))
  }

  /** Starts the thread and loads a model; with a conversation where `chat` is given. */
  static async open(
    path: string,
    load: PlainLoadOptions,
    chat: PlainChatOptions | undefined,
    listener: Listener = {},
    promptCache: PlainPromptCache | undefined = undefined,
  ): Promise<EngineClient> {
    const client = new EngineClient()
    try {
      client.#facts = (await client.#request({ type: "open", path, load, chat, promptCache }, listener)) as ModelFacts
      return client
    } catch (error) {
      client[Symbol.dispose]()
      throw error
    }
  }

  get facts(): ModelFacts {
    return this.#facts!
  }

  /** Chat.say over there. */
  say(said: string | readonly Message[], options: PlainSayOptions, listener: Listener): Promise<GenerationResult> {
    return this.#generate({ type: "say", said, options }, listener)
  }

  /** Session.generate over there, in a session of its own. */
  complete(prompt: string, options: PlainGenerateOptions, listener: Listener): Promise<GenerationResult> {
    return this.#generate({ type: "complete", prompt, options }, listener)
  }

  /** Ends the running generation, inside a pass too; its result says "cancelled". */
  abort(): void {
    if (this.#generating === undefined) return
    // In this order: a pass that the flag ends must not be followed by another.
    this.#post({ id: this.#generating, type: "abort" })
    cancelProgram(this.facts.cancelHandle)
  }

  async clear(): Promise<void> {
    await this.#request({ type: "clear" })
  }

  /** Chat.keep over there. */
  async keep(listener: Listener): Promise<void> {
    await this.#request({ type: "keep" }, listener)
  }

  /** Bytes a second that this machine reads, measured now. */
  async probeBandwidth(): Promise<number> {
    return (await this.#request({ type: "probe" })) as number
  }

  /** Waits until the repacked copy of the model is written, if one is being written: disposing ends that. */
  async finish(): Promise<void> {
    await this.#request({ type: "finish" })
  }

  [Symbol.dispose](): void {
    this.#worker.terminate()
    this.#fail(new AsdslError("disposed", "the engine's thread was stopped"))
  }

  async #generate(body: Body, listener: Listener): Promise<GenerationResult> {
    try {
      const answer = this.#request(body, listener)
      this.#generating = this.#nRequests
      return (await answer) as GenerationResult
    } finally {
      this.#generating = undefined
    }
  }

  #request(body: Body, listener: Listener = {}): Promise<unknown> {
    const id = ++this.#nRequests
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    this.#pending.set(id, { ...listener, resolve, reject })
    this.#post({ id, ...body } as Request)
    return promise
  }

  #post(request: Request): void {
    this.#worker.postMessage(request)
  }

  #receive(message: Report | Answer): void {
    const pending = this.#pending.get(message.id)
    if (pending === undefined) return
    if (message.type === "progress") pending.onProgress?.(message.done, message.total)
    else if (message.type === "notice") pending.onNotice?.(message.text)
    else if (message.type === "text") {
      if (message.reasoning !== "") pending.onReasoning?.(message.reasoning)
      if (message.text !== "") pending.onText?.(message.text)
    } else {
      this.#pending.delete(message.id)
      if (message.type === "done") pending.resolve(message.value)
      else pending.reject(errorOf(message.error))
    }
  }

  #fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
  }
}
