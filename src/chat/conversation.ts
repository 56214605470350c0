// A conversation: messages, the session that holds them, and how much of it the next turn finds in the cache.
//
// A reply stays in the cache with the tokens that were drawn. Encoding its text again may give others, so the next prompt
// is those tokens and the encoded rest, as long as the template renders the turns before as they were.

import { AsdslError } from "../errors.ts"
import { createSampler, type GenerateOptions, type Generation, type GenerationResult, generate } from "../generate.ts"
import type { Model } from "../model.ts"
import type { PromptCache } from "../prompt-cache.ts"
import type { TokenSampler } from "../sampler.ts"
import type { Session } from "../session.ts"
import type { Message, Tool } from "./messages.ts"
import { ReplyReader } from "./reply.ts"
import { readNote, writeNote } from "./saved.ts"
import { ChatTemplate, type Prompt } from "./template.ts"

export interface ChatOptions extends Omit<GenerateOptions, "signal" | "onProgress" | "parseSpecial"> {
  /** What the model is told before anything else. */
  system?: string
  /** Where `system` is absent: told to models whose template has a turn for the system. */
  defaultSystem?: string
  /** What was said before. */
  messages?: readonly Message[]
  /** Jinja instead of the model's own template. */
  template?: string
  /** What the model may call: see GenerationResult.toolCalls. A template for tools is taken where the model has one. */
  tools?: readonly Tool[]
  /** Whether to think before replying, for templates that let one choose. Absent: as the template has it. */
  thinking?: boolean
  /** More variables for the template. */
  templateVariables?: Readonly<Record<string, unknown>>
  /** Context length; absent: the model's. */
  nCtx?: number
  /** A file for what the model computes: of the first prompt, or, where it keeps all, of the conversation. The conversation
   * that such a file holds goes on then, and keep() writes it. */
  promptCache?: PromptCache
}

export type SayOptions = Pick<GenerateOptions, "maxTokens" | "stop" | "signal" | "onProgress">

/** What the session came to hold, as text and as the tokens for it. */
interface Held {
  readonly text: string
  readonly tokens: readonly number[]
}

/** A conversation with a model. Made by Model.chat(); disposing frees its cache. */
export class Chat implements Disposable {
  readonly session: Session
  readonly template: ChatTemplate
  readonly #options: ChatOptions
  readonly #system: readonly Message[]
  readonly #sampler: TokenSampler
  #messages: Message[] = []
  #held: Held = { text: "", tokens: [] }
  #date = new Date()
  #active: Generation | undefined
  #isChanged = false // since it was read from its prompt cache, or written there

  constructor(model: Model, options: ChatOptions = {}) {
    this.template =
      options.template === undefined
        ? model.templateFor(options.tools)
        : new ChatTemplate(options.template, model.tokenizer)
    this.#options = options
    this.#system = systemMessages(this.template, options)
    this.#sampler = options.sampler ?? createSampler(model, options)
    this.session = model.createSession(options.nCtx === undefined ? {} : { nCtx: options.nCtx })
    this.clear()
    this.#messages.push(...(options.messages ?? []))
    if (options.promptCache?.keepsAll) this.#resume(options.promptCache)
  }

  /** All that was said, the system's message included. */
  get messages(): readonly Message[] {
    return this.#messages
  }

  /** With which the same conversation can be had again. */
  get seed(): number {
    return this.#sampler.seed
  }

  /** Says something, as the user or in messages such as the results of tools; the reply streams. The turn counts once its
   * reply has ended, also where it was cut short; where it was cancelled before its first token, it never was. Throws at
   * once what is wrong, ContextOverflowError among it. */
  say(said: string | readonly Message[], options: SayOptions = {}): Generation {
    if (this.#active?.isRunning) throw new AsdslError("busy", "the reply before this one is still running")
    const messages: readonly Message[] = typeof said === "string" ? [{ role: "user", content: said }] : said
    const prompt = this.#render([...this.#messages, ...messages])
    const tokens = this.#tokensOf(prompt)
    const settings = {
      ...{ ...this.#options, ...options, sampler: this.#sampler, stop: this.#stops(options.stop) },
      ...(this.#options.promptCache?.keepsAll ? { promptCache: undefined } : {}),
    }
    const { format } = this.template
    const generation = generate(this.session, tokens, settings, {
      reader: new ReplyReader(format, {
        isThinking: format.thinking !== undefined && prompt.text.trimEnd().endsWith(format.thinking.open),
        tools: this.#options.tools ?? [],
      }),
      shown: format.tokens,
      onEnd: (result, raw) => {
        if (this.#active === generation) this.#keep(messages, { prompt, tokens, result, raw })
      },
    })
    this.#active = generation
    return generation
  }

  /** Forgets everything but the system's message. */
  clear(): void {
    if (this.#active?.isRunning) throw new AsdslError("busy", "a reply is still running")
    this.#active = undefined
    this.#messages = [...this.#system]
    this.#held = { text: "", tokens: [] }
    this.#date = new Date()
    this.#isChanged = true
  }

  /** Writes the conversation to its prompt cache, where that keeps all. */
  keep(): void {
    const { promptCache } = this.#options
    if (!promptCache?.keepsAll || !this.#isChanged) return
    if (this.#active?.isRunning) throw new AsdslError("busy", "a reply is still running")
    const note = writeNote({ ...this.#held, messages: this.#messages, date: this.#date }, this.session.tokens)
    promptCache.save(this.session, note)
    this.#isChanged = false
  }

  /** Goes on with what a file holds. What it holds of another conversation is in the cache all the same. */
  #resume(promptCache: PromptCache): void {
    const loaded = promptCache.load(this.session)
    if (loaded === undefined) return
    const saved = readNote(loaded.note, this.session.tokens)
    if (saved === undefined) return
    const { system } = this.#options
    const told = saved.messages[0]?.role === "system" ? saved.messages[0].content : undefined
    if (system !== undefined && system !== told) {
      promptCache.notice("its conversation has another system message: a new one begins")
      return
    }
    this.#messages = [...saved.messages]
    this.#held = { text: saved.text, tokens: saved.tokens }
    this.#date = saved.date
    this.#isChanged = false
  }

  [Symbol.dispose](): void {
    this.session[Symbol.dispose]()
  }

  #render(messages: readonly Message[]): Prompt {
    const { tools = [], thinking, templateVariables } = this.#options
    // Qwen3 and others call it one way, Granite and DeepSeek-V3.1 the other.
    const chosen = thinking === undefined ? {} : { enable_thinking: thinking, thinking }
    return this.template.render(messages, { date: this.#date, tools, variables: { ...chosen, ...templateVariables } })
  }

  #tokensOf(prompt: Prompt): ArrayLike<number> {
    const { text, tokens } = this.#held
    if (text !== "" && prompt.text.startsWith(text)) {
      const rest = this.template.encode(prompt, text.length)
      // Only a special token surely begins a new token where the reply ends.
      if (rest.length > 0 && this.session.model.tokenizer.isSpecial(rest[0]!)) return [...tokens, ...rest]
    }
    return this.template.encode(prompt)
  }

  #stops(stop: GenerateOptions["stop"] = this.#options.stop ?? []): string[] {
    return [...(typeof stop === "string" ? [stop] : stop), ...this.template.stop]
  }

  #keep(said: readonly Message[], { prompt, tokens, result, raw }: Turn): void {
    const { text, reasoning, toolCalls } = result
    if (result.finishReason === "cancelled" && result.nGenerated === 0) return
    const more = { ...(reasoning === "" ? {} : { reasoning }), ...(toolCalls.length === 0 ? {} : { toolCalls }) }
    this.#isChanged = true
    this.#messages.push(...said, { role: "assistant", content: text, ...more })
    // Behind a stop text, or where the caller left within a character, there are tokens that are not of the reply: it is
    // encoded again.
    const { tokenizer } = this.session.model
    const shown = { continuation: true, special: this.template.format.tokens }
    this.#held =
      raw !== undefined && tokenizer.decode(result.tokens, shown) === raw
        ? { text: prompt.text + raw, tokens: [...Array.from(tokens), ...result.tokens] }
        : { text: "", tokens: [] }
  }
}

interface Turn {
  readonly prompt: Prompt
  readonly tokens: ArrayLike<number>
  readonly result: GenerationResult
  readonly raw: string | undefined
}

function systemMessages(template: ChatTemplate, { system, defaultSystem }: ChatOptions): Message[] {
  if (system !== undefined) return [{ role: "system", content: system }]
  if (defaultSystem === undefined) return []
  return template.hasSystemTurn ? [{ role: "system", content: defaultSystem }] : []
}
