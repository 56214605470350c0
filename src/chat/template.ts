// From messages to a prompt: the model's own Jinja template, or a fallback. Knows nothing of sessions or sampling.
//
// The rendered text is encoded as a whole, special tokens included, as llama.cpp does it. What a message says must not
// become one of them, so where a message spells a special token its first character gets an invisible mark before the
// template sees it; marked characters are then encoded as plain text.

import { ArgumentError, TemplateError, UnsupportedError } from "../errors.ts"
import type { Tokenizer } from "../tokenizer/types.ts"
import { type Fallback, fallbackFor, fallbackWith } from "./fallback.ts"
import { type ReplyFormat, replyFormat } from "./formats.ts"
import { JinjaProgram, pythonJson, templateGlobals } from "./jinja.ts"
import {
  type Message,
  type TemplateMessage,
  type Tool,
  type ToolCall,
  templateMessages,
  templateTools,
} from "./messages.ts"

export interface RenderOptions {
  /** End with the beginning of the assistant's reply. Default true. */
  addGenerationPrompt?: boolean
  /** What a template that asks for the date is told. Default now. */
  date?: Date
  /** What the model may call. */
  tools?: readonly Tool[]
  /** More variables for the template: enable_thinking and the like. */
  variables?: Readonly<Record<string, unknown>>
}

/** A rendered conversation. */
export interface Prompt {
  readonly text: string
  /** Indices into text of characters that must not be part of a special token: EncodeOptions.literal. */
  readonly literal: readonly number[]
}

/** Stands for a message's text where a template is tried out. */
const PROBE = "asdslprobe"

/** A chat template and the special tokens that it may use. */
export class ChatTemplate {
  /** Jinja. */
  readonly source: string
  /** The name of the fallback where the model had no template: chatml, llama3, gemma, phi3. */
  readonly fallback: string | undefined
  /** Texts that end a reply where the vocabulary has no token for it. */
  readonly stop: readonly string[]
  /** How thinking and calls of tools are written in a reply. */
  readonly format: ReplyFormat
  readonly #tokenizer: Tokenizer
  readonly #program: JinjaProgram
  readonly #specials: ReadonlyMap<string, readonly string[]> // by first character
  #takesSystem: boolean | undefined
  #takesObjects: boolean | undefined

  /** Throws TemplateError where `source` is no Jinja. */
  constructor(source: string | undefined, tokenizer: Tokenizer) {
    const hasToken = (text: string) => tokenizer.find(text) !== undefined
    const known: Fallback | undefined = source === undefined ? fallbackFor(hasToken) : fallbackWith(source)
    this.source = source ?? known!.source
    this.fallback = source === undefined ? known!.name : undefined
    this.stop = known !== undefined && !hasToken(known.end) ? [known.end] : []
    this.format = replyFormat(this.source, tokenizer)
    this.#tokenizer = tokenizer
    this.#specials = specialTexts(tokenizer)
    try {
      this.#program = new JinjaProgram(this.source)
    } catch (cause) {
      throw new TemplateError(`the model's chat template cannot be read: ${messageOf(cause)}`, { cause })
    }
  }

  /** Whether it writes a system message. One that does not, or refuses it, gets its text before the first user's. */
  get takesSystem(): boolean {
    this.#takesSystem ??= this.#shows([
      { role: "system", content: PROBE },
      { role: "user", content: "" },
    ])
    return this.#takesSystem
  }

  /** Whether a system message is a turn of its own: neither refused nor, as by Gemma and Mistral, written into the user's. */
  get hasSystemTurn(): boolean {
    if (!this.takesSystem) return false
    const messages = [
      { role: "system", content: PROBE },
      { role: "user", content: PROBE },
    ]
    const options = { addGenerationPrompt: false }
    const given = this.#run({ messages, tools: [] }, options)
    return given !== this.#run({ messages: withoutSystem(messages), tools: [] }, options)
  }

  /** Whether it tells the model of tools. */
  get takesTools(): boolean {
    return /\btools\b/.test(this.source)
  }

  /** The text of a conversation. Throws TemplateError where the template refuses the messages, UnsupportedError for tools
   * that it has no place for. */
  render(messages: readonly Message[], options: RenderOptions = {}): Prompt {
    const { tools = [] } = options
    if (tools.length > 0 && !this.takesTools) {
      throw new UnsupportedError(`the model's chat template has no place for tools, ${tools.length} were given`)
    }
    const given = { messages: templateMessages(messages), tools: templateTools(tools) }
    const mark = this.#unusedMark(given)
    const marked = this.#marked(given, mark) as typeof given
    return withoutMarks(this.#run(this.#adapted(marked), options), mark)
  }

  /** The tokens of a conversation, or of the text behind the first `from` characters of one. */
  encode({ text, literal }: Prompt, from = 0): Int32Array {
    const { bos, addBos } = this.#tokenizer
    const tokens = this.#tokenizer.encode(text.slice(from), {
      parseSpecial: true,
      literal: literal.filter((index) => index >= from).map((index) => index - from),
    })
    // Templates may or may not write BOS themselves.
    if (from > 0 || !addBos || tokens[0] === bos) return tokens
    const withBos = new Int32Array(tokens.length + 1)
    withBos[0] = bos!
    withBos.set(tokens, 1)
    return withBos
  }

  #run(given: Given, { addGenerationPrompt = true, date = new Date(), variables = {} }: RenderOptions): string {
    const { bos, eos } = this.#tokenizer
    try {
      return this.#program.render({
        documents: null,
        ...variables,
        ...templateGlobals(date),
        messages: given.messages,
        tools: given.tools.length === 0 ? null : given.tools,
        add_generation_prompt: addGenerationPrompt,
        bos_token: bos === undefined ? "" : this.#tokenizer.tokenText(bos),
        eos_token: eos === undefined ? "" : this.#tokenizer.tokenText(eos),
      })
    } catch (cause) {
      throw new TemplateError(`the model's chat template refuses the messages: ${messageOf(cause)}`, { cause })
    }
  }

  // ---- What templates differ in ----

  /** The same conversation in the form that this template can write. */
  #adapted({ messages, tools }: Given): Given {
    let adapted = messages
    if (adapted[0]?.role === "system" && !this.takesSystem) adapted = withoutSystem(adapted)
    if (adapted.some(({ tool_calls }) => tool_calls !== undefined))
      adapted = adapted.map((each) => this.#withCalls(each))
    // Phi-4-mini's looks for the tools in the system's message, as text.
    if (tools.length > 0 && /\bmessage(\['tools'\]|\.tools\b)/.test(this.source)) {
      const [first, ...rest] = adapted[0]?.role === "system" ? adapted : [{ role: "system", content: "" }, ...adapted]
      adapted = [{ ...first!, tools: pythonJson(tools.map((tool) => tool.function)) }, ...rest]
    }
    return { messages: adapted, tools }
  }

  #withCalls(message: TemplateMessage): TemplateMessage {
    const calls = message.tool_calls as readonly { function: ToolCall }[] | undefined
    if (calls === undefined) return message
    const { calls: format } = this.format
    if (!this.source.includes("tool_calls") && format !== undefined) {
      const { tool_calls: _, ...rest } = message
      const spelled = format.spell(calls.map((call) => call.function))
      return { ...rest, content: message.content === "" ? spelled : `${message.content}\n${spelled}` }
    }
    if (this.#argumentsAreObjects()) return message
    const asText = calls.map((call) => ({
      ...call,
      function: { ...call.function, arguments: pythonJson(call.function.arguments) },
    }))
    return { ...message, tool_calls: asText }
  }

  /** Older templates join a call's arguments to other text. */
  #argumentsAreObjects(): boolean {
    const call = { id: "call00000", type: "function", function: { name: "f", arguments: { [PROBE]: 1 } } }
    this.#takesObjects ??= this.#shows([
      { role: "user", content: "" },
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", content: "", name: "f", tool_call_id: call.id },
    ])
    return this.#takesObjects
  }

  #shows(messages: TemplateMessage[]): boolean {
    try {
      return this.#run({ messages, tools: [] }, { addGenerationPrompt: false }).includes(PROBE)
    } catch (error) {
      if (error instanceof TemplateError) return false
      throw error
    }
  }

  // ---- Special tokens in messages ----

  /** A character for "no character" (U+FDD0 to U+FDEF, for internal use) that nothing here contains. */
  #unusedMark(given: Given): string {
    const used = this.source + JSON.stringify(given)
    for (let code = 0xfdd0; code <= 0xfdef; code++) {
      const mark = String.fromCharCode(code)
      if (!used.includes(mark)) return mark
    }
    throw new ArgumentError("the messages contain all 32 noncharacters from U+FDD0 to U+FDEF")
  }

  /** A value with marks in all its texts, names of fields included. */
  #marked(value: unknown, mark: string): unknown {
    if (typeof value === "string") return this.#markSpecials(value, mark)
    if (Array.isArray(value)) return value.map((each) => this.#marked(each, mark))
    if (typeof value !== "object" || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([name, each]) => [this.#markSpecials(name, mark), this.#marked(each, mark)]),
    )
  }

  /** Puts the mark behind each character with which a special token begins, or may begin at the text's end. */
  #markSpecials(content: string, mark: string): string {
    let marked = ""
    let from = 0
    let at = 0
    for (const character of content) {
      const texts = this.#specials.get(character)
      const next = at + character.length
      if (texts?.some((text) => text.startsWith(content.slice(at, at + text.length)))) {
        marked += content.slice(from, next) + mark
        from = next
      }
      at = next
    }
    return from === 0 ? content : marked + content.slice(from)
  }
}

interface Given {
  readonly messages: readonly TemplateMessage[]
  readonly tools: readonly Record<string, unknown>[]
}

/** The system's text in front of the first user's, as Gemma's template does it. */
function withoutSystem([system, ...rest]: readonly TemplateMessage[]): TemplateMessage[] {
  const at = rest.findIndex(({ role }) => role === "user")
  if (at < 0) return [{ role: "user", content: system!.content }, ...rest]
  const user = rest[at]!
  return rest.with(at, { ...user, content: `${system!.content}\n\n${user.content}` })
}

function specialTexts(tokenizer: Tokenizer): Map<string, string[]> {
  const texts: string[] = []
  for (let token = 0; token < tokenizer.nVocab; token++) {
    if (tokenizer.isSpecial(token)) texts.push(tokenizer.tokenText(token))
  }
  return Map.groupBy(
    texts.filter((text) => text !== ""),
    (text) => String.fromCodePoint(text.codePointAt(0)!),
  )
}

function withoutMarks(marked: string, mark: string): Prompt {
  const parts = marked.split(mark)
  const literal: number[] = []
  let end = 0
  for (const part of parts.slice(0, -1)) {
    end += part.length
    // The character before the mark, which may be a pair of surrogates. Templates may have cut it off.
    if (part !== "") literal.push(end - [...part.slice(-2)].at(-1)!.length)
  }
  return { text: parts.join(""), literal }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
