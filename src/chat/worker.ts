// The engine's thread: a model and its conversation behind messages, so that the main thread can listen to signals and
// keys while a pass blocks this one. Entry of a Bun Worker; client.ts is the other end.

import { AsdslError } from "../errors.ts"
import type { Generation, GenerationResult } from "../generate.ts"
import { load, type Model } from "../model.ts"
import { PromptCache } from "../prompt-cache.ts"
import type { Chat } from "./conversation.ts"
import { type Answer, type ModelFacts, plainError, type Report, type Request } from "./protocol.ts"

declare const self: Worker

class EngineThread {
  #model: Model | undefined
  #chat: Chat | undefined
  #promptCache: PromptCache | undefined
  #requestId = 0 // of the request that is at work
  readonly #running = new Map<number, AbortController>()

  receive(request: Request): void {
    if (request.type === "abort") {
      this.#running.get(request.id)?.abort()
      return
    }
    const { id } = request
    this.#running.set(id, new AbortController())
    this.#answer(request)
      .then(
        (value): Answer => ({ id, type: "done", value }),
        (error): Answer => ({ id, type: "failed", error: plainError(error) }),
      )
      .then((answer) => {
        this.#running.delete(id)
        self.postMessage(answer)
      })
  }

  async #answer(request: Request): Promise<ModelFacts | GenerationResult | number | undefined> {
    const { id } = request
    this.#requestId = id
    switch (request.type) {
      case "open":
        return await this.#open(request)
      case "say": {
        if (this.#chat === undefined) throw new AsdslError("state", "no conversation was opened")
        return await this.#stream(id, this.#chat.say(request.said, { ...request.options, ...this.#hooks(id) }))
      }
      case "complete": {
        using session = this.#opened.createSession()
        const options = { ...request.options, ...this.#cached, ...this.#hooks(id) }
        return await this.#stream(id, session.generate(request.prompt, options))
      }
      case "clear":
        this.#chat?.clear()
        return
      case "keep":
        this.#chat?.keep()
        return
      case "probe":
        return this.#opened.probe("bandwidth")
      case "finish":
        await this.#model?.saved
        return
    }
  }

  get #opened(): Model {
    if (this.#model === undefined) throw new AsdslError("state", "no model was opened")
    return this.#model
  }

  get #cached(): { promptCache?: PromptCache } {
    return this.#promptCache === undefined ? {} : { promptCache: this.#promptCache }
  }

  async #open({ id, path, load: options, chat, promptCache }: Request & { type: "open" }): Promise<ModelFacts> {
    if (promptCache !== undefined) {
      const onNotice = (text: string) => this.#report({ id: this.#requestId, type: "notice", text })
      this.#promptCache = new PromptCache(promptCache.path, { ...promptCache, onNotice })
    }
    const model = await load(path, { ...options, ...this.#hooks(id) })
    this.#model = model
    if (chat !== undefined) this.#chat = model.chat({ ...chat, ...this.#cached })
    const { nThreads, level } = model.engineInfo()
    return {
      ...{ nThreads, level, nParams: model.nParams, nCtx: model.nCtx, streamedBytes: model.streamedBytes },
      ...{
        fallbackTemplate: (this.#chat?.template ?? model.template).fallback,
        seed: this.#chat?.seed,
        nMessages: this.#chat?.messages.length ?? 0,
        cancelHandle: model.cancelHandle,
      },
    }
  }

  async #stream(id: number, generation: Generation): Promise<GenerationResult> {
    this.#opened.takeCancel() // of a request before this one, come when it had ended
    for await (const { text, reasoning } of generation) {
      if (text + reasoning !== "") this.#report({ id, type: "text", text, reasoning })
    }
    return generation.result
  }

  #hooks(id: number): { onProgress(done: number, total: number): void; signal: AbortSignal } {
    return {
      onProgress: (done, total) => this.#report({ id, type: "progress", done, total }),
      signal: this.#running.get(id)!.signal,
    }
  }

  #report(report: Report): void {
    self.postMessage(report)
  }
}

const thread = new EngineThread()
self.onmessage = ({ data }: MessageEvent<Request>) => thread.receive(data)
