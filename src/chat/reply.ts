// A reply as it streams, taken apart: what the model thinks, what it says, what it wants to call. Text is held back only
// as long as it is not certain to which of them it belongs; calls are held until the reply's end, since what does not
// read as a call is text. Knows no tokens.

import { openFrom } from "../stop.ts"
import type { CallFormat, ReplyFormat, ThinkingTags } from "./formats.ts"
import type { Tool, ToolCall } from "./messages.ts"

/** What became certain. */
export interface ReplyPart {
  readonly text: string
  readonly reasoning: string
}

export interface ReplyOptions {
  /** The prompt ended inside the model's thinking. */
  readonly isThinking?: boolean
  /** The tools whose calls to look for. */
  readonly tools?: readonly Tool[]
}

/** "begin": nothing but blanks so far. "said": behind the thinking, nothing but blanks. "calls": all is held. */
type State = "begin" | "thinking" | "said" | "text" | "calls"

export class ReplyReader {
  readonly #tags: ThinkingTags | undefined
  readonly #calls: CallFormat | undefined
  readonly #tools: ReadonlyMap<string, Tool>
  #state: State
  #held = ""
  #hasThought = false // something other than blanks
  #hasSaid = false
  #toolCalls: readonly ToolCall[] = []

  constructor({ thinking, calls }: Pick<ReplyFormat, "thinking" | "calls">, options: ReplyOptions = {}) {
    this.#tags = thinking
    this.#tools = new Map(options.tools?.map((tool) => [tool.name, tool]))
    this.#calls = this.#tools.size > 0 ? calls : undefined
    this.#state = thinking === undefined ? "text" : options.isThinking === true ? "thinking" : "begin"
  }

  /** Complete calls; known when the reply has ended. */
  get toolCalls(): readonly ToolCall[] {
    return this.#toolCalls
  }

  push(text: string): ReplyPart {
    this.#held += text
    let reasoning = ""
    if (this.#state === "begin") this.#begin()
    if (this.#state === "thinking") reasoning = this.#think()
    if (this.#state === "said") this.#dropBlanks()
    return { text: this.#state === "text" ? this.#say() : "", reasoning }
  }

  /** The reply is over: the rest, where that was not a call. */
  end(): ReplyPart {
    const held = this.#held
    this.#held = ""
    switch (this.#state) {
      case "thinking":
        return { text: "", reasoning: held.trimEnd() }
      case "said":
        return { text: "", reasoning: "" }
      case "calls": {
        const calls = this.#calls!.parse(held.trim(), this.#tools)
        this.#toolCalls = calls ?? []
        return { text: calls === undefined ? held : "", reasoning: "" }
      }
      default:
        return { text: held, reasoning: "" }
    }
  }

  #begin(): void {
    const { open } = this.#tags!
    const text = this.#held.trimStart()
    if (text.startsWith(open)) {
      this.#held = text.slice(open.length)
      this.#state = "thinking"
    } else if (!open.startsWith(text)) this.#state = "text"
  }

  #think(): string {
    const { close } = this.#tags!
    if (!this.#hasThought) this.#held = this.#held.trimStart()
    const at = this.#held.indexOf(close)
    if (at >= 0) {
      const reasoning = this.#held.slice(0, at).trimEnd()
      this.#held = this.#held.slice(at + close.length)
      this.#state = "said"
      return reasoning
    }
    // Blanks at the end wait for what follows: before the closing tag they are no part of the thought.
    const sure = this.#held.slice(0, openFrom(this.#held, [close])).trimEnd()
    this.#held = this.#held.slice(sure.length)
    this.#hasThought ||= sure !== ""
    return sure
  }

  #dropBlanks(): void {
    this.#held = this.#held.trimStart()
    if (this.#held !== "") this.#state = "text"
  }

  #say(): string {
    if (this.#calls === undefined) return this.#take(this.#held.length)
    const { opens, opensReply } = this.#calls
    const start = this.#hasSaid ? "" : this.#held.trimStart()
    if (start !== "" && opensReply.some((open) => start.startsWith(open))) {
      this.#state = "calls"
      return ""
    }
    if (!this.#hasSaid && opensReply.some((open) => open.startsWith(start))) return ""
    const begin = firstOf(this.#held, opens)
    if (begin >= 0) this.#state = "calls"
    // Blanks before a call are held with it, so blanks wait for what follows.
    return this.#take(this.#held.slice(0, begin < 0 ? openFrom(this.#held, opens) : begin).trimEnd().length)
  }

  #take(n: number): string {
    const text = this.#held.slice(0, n)
    this.#held = this.#held.slice(n)
    this.#hasSaid ||= text.trim() !== ""
    return text
  }
}

function firstOf(text: string, marks: readonly string[]): number {
  const found = marks.map((mark) => text.indexOf(mark)).filter((at) => at >= 0)
  return found.length === 0 ? -1 : Math.min(...found)
}
