// What is said in a conversation, as programs write it and as chat templates read it. Knows no Jinja.

import { ArgumentError } from "../errors.ts"

const ROLES = ["system", "user", "assistant", "tool"] as const

/** A call of a tool that a model asked for. */
export interface ToolCall {
  readonly name: string
  readonly arguments: Readonly<Record<string, unknown>>
  /** Where the model or the program gave it one; see Message.toolCallId. */
  readonly id?: string
}

/** A function that a model may ask for. */
export interface Tool {
  readonly name: string
  readonly description?: string
  /** JSON schema of an object. Absent: it takes nothing. */
  readonly parameters?: Readonly<Record<string, unknown>>
}

export interface Message {
  role: (typeof ROLES)[number]
  content: string
  /** Of an assistant: what it thought before. Whether the model sees it again is the template's affair. */
  reasoning?: string
  /** Of an assistant: what it asked for, beside its content or instead of it. */
  toolCalls?: readonly ToolCall[]
  /** Of a tool, whose result the content is. Absent: that of the call it answers. */
  name?: string
  /** Of a tool: the call it answers. Absent: the first one that has no answer. */
  toolCallId?: string
}

/** A message as templates know it. Hugging Face's documentation of chat templates names the fields. */
export type TemplateMessage = { role: string; content: string } & Record<string, unknown>

interface OpenCall {
  readonly id: string
  readonly name: string
}

/** Calls without an id get one by their place; nine letters and digits are what Mistral's templates insist on. */
export function templateMessages(messages: readonly Message[]): TemplateMessage[] {
  messages.forEach(checkMessage)
  const open: OpenCall[] = []
  let nCalls = 0
  return messages.map((message) => {
    const { role, content, reasoning, toolCalls = [] } = message
    if (role === "tool") {
      const answered = takeCall(open, message)
      const name = message.name ?? answered?.name
      const id = message.toolCallId ?? answered?.id
      return {
        role,
        content,
        ...(name === undefined ? {} : { name }),
        ...(id === undefined ? {} : { tool_call_id: id }),
      }
    }
    const calls = toolCalls.map(({ id = `call${String(nCalls++).padStart(5, "0")}`, name, arguments: args }) => {
      open.push({ id, name })
      return { id, type: "function", function: { name, arguments: args } }
    })
    return {
      ...{ role, content },
      ...(reasoning === undefined ? {} : { reasoning_content: reasoning }),
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    }
  })
}

function takeCall(open: OpenCall[], { toolCallId, name }: Message): OpenCall | undefined {
  const at = open.findIndex(
    (call) => (toolCallId === undefined || call.id === toolCallId) && (name === undefined || call.name === name),
  )
  return at < 0 ? undefined : open.splice(at, 1)[0]
}

/** The list that templates call `tools`. */
export function templateTools(tools: readonly Tool[]): Record<string, unknown>[] {
  return tools.map((tool, i) => {
    if (typeof tool.name !== "string" || tool.name === "") throw new ArgumentError(`tool ${i} has no name`)
    const { name, description = "", parameters = { type: "object", properties: {} } } = tool
    return { type: "function", function: { name, description, parameters } }
  })
}

function checkMessage(message: Message, i: number): void {
  const { role, content, reasoning, toolCalls } = message
  if (!ROLES.includes(role)) {
    throw new ArgumentError(`message ${i} has the role ${JSON.stringify(role)}; known: ${ROLES.join(", ")}`)
  }
  if (typeof content !== "string") throw new ArgumentError(`the content of message ${i} is no text`)
  if (reasoning !== undefined && typeof reasoning !== "string") {
    throw new ArgumentError(`the reasoning of message ${i} is no text`)
  }
  if (toolCalls !== undefined && role !== "assistant") {
    throw new ArgumentError(`message ${i} has tool calls and the role ${role}: only an assistant calls tools`)
  }
}
