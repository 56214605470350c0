// From messages to a prompt: the model's own Jinja template, or ChatML. Knows nothing of sessions or sampling.
//
// The rendered text is encoded as a whole, special tokens included, as llama.cpp does it. What a message says must not
// become one of them, so where a message spells a special token its first character gets an invisible mark before the
// template sees it; marked characters are then encoded as plain text.

import { Environment, Interpreter, Template } from "@huggingface/jinja"
import { ArgumentError, TemplateError } from "../errors.ts"
import type { Tokenizer } from "../tokenizer/types.ts"

const ROLES = ["system", "user", "assistant", "tool"] as const

export interface Message {
  role: (typeof ROLES)[number]
  content: string
}

export interface RenderOptions {
  /** End with the beginning of the assistant's reply. Default true. */
  addGenerationPrompt?: boolean
  /** What a template that asks for the date is told. Default now. */
  date?: Date
}

/** A rendered conversation. */
export interface Prompt {
  readonly text: string
  /** Indices into text of characters that must not be part of a special token: EncodeOptions.literal. */
  readonly literal: readonly number[]
}

/** https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md */
const CHATML = `{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
const CHATML_END = "<|im_end|>"

/** Longest list that range() makes: a template from a strange file must not fill the memory. */
const MAX_RANGE = 100_000

/** A chat template and the special tokens that it may use. */
export class ChatTemplate {
  /** Jinja. */
  readonly source: string
  /** The model had none. */
  readonly isFallback: boolean
  /** Texts that end a reply where the vocabulary has no token for it. */
  readonly stop: readonly string[]
  readonly #tokenizer: Tokenizer
  readonly #program: Template["parsed"]
  readonly #specials: ReadonlyMap<string, readonly string[]> // by first character

  /** Throws TemplateError where `source` is no Jinja. */
  constructor(source: string | undefined, tokenizer: Tokenizer) {
    this.source = source ?? CHATML
    this.isFallback = source === undefined
    this.stop = this.isFallback && tokenizer.find(CHATML_END) === undefined ? [CHATML_END] : []
    this.#tokenizer = tokenizer
    this.#specials = specialTexts(tokenizer)
    try {
      this.#program = new Template(this.source).parsed
    } catch (cause) {
      throw new TemplateError(`the model's chat template cannot be read: ${messageOf(cause)}`, { cause })
    }
  }

  /** The text of a conversation. Throws TemplateError where the template refuses the messages. */
  render(messages: readonly Message[], options: RenderOptions = {}): Prompt {
    messages.forEach(checkMessage)
    const mark = this.#unusedMark(messages)
    const marked = messages.map(({ role, content }) => ({ role, content: this.#markSpecials(content, mark) }))
    return withoutMarks(this.#run(marked, options), mark)
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

  #run(messages: readonly Message[], { addGenerationPrompt = true, date = new Date() }: RenderOptions): string {
    const { bos, eos } = this.#tokenizer
    const scope = new Environment()
    const variables = {
      ...globals(date),
      messages,
      add_generation_prompt: addGenerationPrompt,
      bos_token: bos === undefined ? "" : this.#tokenizer.tokenText(bos),
      eos_token: eos === undefined ? "" : this.#tokenizer.tokenText(eos),
      tools: null,
      documents: null,
    }
    for (const [name, value] of Object.entries(variables)) scope.set(name, value)
    try {
      return String(new Interpreter(scope).run(this.#program).value)
    } catch (cause) {
      throw new TemplateError(`the model's chat template refuses the messages: ${messageOf(cause)}`, { cause })
    }
  }

  /** A character for "no character" (U+FDD0 to U+FDEF, for internal use) that nothing here contains. */
  #unusedMark(messages: readonly Message[]): string {
    for (let code = 0xfdd0; code <= 0xfdef; code++) {
      const mark = String.fromCharCode(code)
      if (!this.source.includes(mark) && !messages.some(({ content }) => content.includes(mark))) return mark
    }
    throw new ArgumentError("the messages contain all 32 noncharacters from U+FDD0 to U+FDEF")
  }

  /** Puts the mark behind each character with which a special token begins, or may begin at the content's end. */
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

function checkMessage({ role, content }: Message, i: number): void {
  if (!ROLES.includes(role)) {
    throw new ArgumentError(`message ${i} has the role ${JSON.stringify(role)}; known: ${ROLES.join(", ")}`)
  }
  if (typeof content !== "string") throw new ArgumentError(`the content of message ${i} is no text`)
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

/** What Hugging Face's templates expect to find. */
function globals(date: Date): Record<string, unknown> {
  return {
    ...{ true: true, false: false, none: null, True: true, False: false, None: null },
    range,
    raise_exception(message: string) {
      throw new TemplateError(message)
    },
    strftime_now: (format: string) => strftime(date, format),
  }
}

function range(start: number, stop?: number, step = 1): number[] {
  const [first, end] = stop === undefined ? [0, start] : [start, stop]
  const n = Math.max(0, Math.ceil((end - first) / step))
  if (!(n <= MAX_RANGE)) throw new TemplateError(`range() of ${n} numbers, at most ${MAX_RANGE} are made`)
  return Array.from({ length: n }, (_, i) => first + i * step)
}

/** Python's strftime in English, the directives that dates and times are written with. */
function strftime(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, "0")
  const name = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat("en-US", options).format(date)
  const directives: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    H: () => two(date.getHours()),
    I: () => two(date.getHours() % 12 || 12),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    "%": () => "%",
  }
  return format.replace(/%(.)/g, (directive, letter: string) => directives[letter]?.() ?? directive)
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
