// How models write what is no plain reply: their thinking, and calls of tools. A small table, chosen from by what the
// chat template says. Knows nothing of streams.

import type { Tokenizer } from "../tokenizer/types.ts"
import { pythonJson } from "./jinja.ts"
import type { Tool, ToolCall } from "./messages.ts"

export interface ThinkingTags {
  readonly open: string
  readonly close: string
}

export interface CallFormat {
  readonly name: string
  /** Texts with which calls begin, anywhere in a reply. */
  readonly opens: readonly string[]
  /** Those with which they begin at the very beginning of a reply. */
  readonly opensReply: readonly string[]
  /** Other texts that may be special tokens. */
  readonly marks?: readonly string[]
  /** The calls in a text that begins with one of these; undefined where it is not wholly made of them. `tools` are those
   * that there are, by name: for forms that say too little by themselves. */
  parse(text: string, tools: ReadonlyMap<string, Tool>): ToolCall[] | undefined
  /** The text for calls, for templates that have no place for them. */
  spell(calls: readonly ToolCall[]): string
}

export interface ReplyFormat {
  readonly thinking: ThinkingTags | undefined
  readonly calls: CallFormat | undefined
  /** Special tokens that are part of it, which a reader of replies has to see. */
  readonly tokens: ReadonlySet<number>
}

const THINKING: readonly ThinkingTags[] = [
  { open: "<think>", close: "</think>" },
  { open: "[THINK]", close: "[/THINK]" },
  { open: "<seed:think>", close: "</seed:think>" },
]

/** Where a call has its arguments. */
type ArgumentsKey = "arguments" | "parameters"

/** {"name": ..., "arguments": {...}}; some models write them as a text of JSON, or name them "parameters". */
function readCall(value: unknown): ToolCall | undefined {
  if (typeof value !== "object" || value === null) return
  const call = value as Record<string, unknown>
  const given = call.arguments ?? call.parameters ?? {}
  const args = typeof given === "string" ? readJson(given) : given
  if (typeof call.name !== "string" || typeof args !== "object" || args === null || Array.isArray(args)) return
  const id = typeof call.id === "string" ? { id: call.id } : {}
  return { name: call.name, arguments: args as Record<string, unknown>, ...id }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return
  }
}

function readCalls(values: readonly unknown[]): ToolCall[] | undefined {
  const calls = values.map(readCall)
  return calls.length > 0 && calls.every((call) => call !== undefined) ? calls : undefined
}

/** A JSON list of calls, or one alone. */
function readList(text: string): ToolCall[] | undefined {
  const value = readJson(text)
  return readCalls(Array.isArray(value) ? value : [value])
}

/** JSON objects with ; between them, which may also be part of their texts. What is no object is undefined. */
function readSequence(text: string): unknown[] {
  const values: unknown[] = []
  let open = ""
  for (const part of text.split(";")) {
    open += part
    const value = part.trimEnd().endsWith("}") ? readJson(open) : undefined
    if (value !== undefined) values.push(value)
    open = value === undefined ? `${open};` : ""
  }
  return open === "" ? values : [...values, undefined]
}

function spellCall({ name, arguments: args }: ToolCall, key: ArgumentsKey): string {
  return pythonJson({ name, [key]: args })
}

const HERMES: CallFormat = {
  name: "hermes",
  opens: ["<tool_call>"],
  opensReply: ["```json"], // which Qwen2.5-Coder likes better
  marks: ["</tool_call>"],
  parse(text, tools) {
    const fenced = /^```json\s*([[{][\s\S]*)```$/.exec(text)
    if (fenced !== null) {
      const calls = readList(fenced[1]!)
      return calls?.every(({ name }) => tools.has(name)) ? calls : undefined
    }
    // The last one may lack its end: models stop there.
    const blocks = text.split("<tool_call>")
    if (blocks[0]!.trim() !== "") return
    const bodies = blocks.slice(1).map((block) => block.trim().replace(/<\/tool_call>$/, ""))
    return readCalls(bodies.map(readJson))
  },
  spell: (calls) => calls.map((call) => `<tool_call>\n${spellCall(call, "arguments")}\n</tool_call>`).join("\n"),
}

/** <tool_call><function=name><parameter=key>value</parameter>...</function></tool_call>, line ends between all of these;
 * values are text, of what type says the tool's schema. */
const QWEN3_CODER: CallFormat = {
  name: "qwen3-coder",
  opens: ["<tool_call>", "<function="],
  opensReply: [],
  marks: ["</tool_call>"],
  parse(text, tools) {
    const calls: ToolCall[] = []
    const call = /\s*(?:<tool_call>\s*)?<function=([^>\n]+)>\s*([\s\S]*?)<\/function>\s*(?:<\/tool_call>\s*)?/y
    while (call.lastIndex < text.length) {
      const found = call.exec(text)
      if (found === null) return
      const args = readParameters(found[2]!, tools.get(found[1]!))
      if (args === undefined) return
      calls.push({ name: found[1]!, arguments: args })
    }
    return calls
  },
  spell(calls) {
    const parameter = ([key, value]: [string, unknown]) =>
      `<parameter=${key}>\n${typeof value === "string" ? value : pythonJson(value)}\n</parameter>\n`
    const blocks = calls.map(({ name, arguments: args }) => {
      return `<tool_call>\n<function=${name}>\n${Object.entries(args).map(parameter).join("")}</function>\n</tool_call>`
    })
    return blocks.join("\n")
  },
}

function readParameters(text: string, tool: Tool | undefined): Record<string, unknown> | undefined {
  const schemas = tool?.parameters?.properties as Readonly<Record<string, { type?: unknown } | undefined>> | undefined
  const args: Record<string, unknown> = {}
  const parameter = /<parameter=([^>\n]+)>\n?([\s\S]*?)\n?<\/parameter>\s*/y
  while (parameter.lastIndex < text.length) {
    const found = parameter.exec(text)
    if (found === null) return
    const [, key, value] = found as unknown as [string, string, string]
    const type = schemas?.[key]?.type
    args[key] = type === undefined || type === "string" ? value : readValue(value)
  }
  return args
}

/** JSON, or a constant of Python, which the template shows the model. */
function readValue(text: string): unknown {
  const constants: Readonly<Record<string, unknown>> = { True: true, False: false, None: null }
  if (Object.hasOwn(constants, text.trim())) return constants[text.trim()]
  const value = readJson(text)
  return value === undefined ? text : value
}

const PHI4: CallFormat = {
  name: "phi4",
  opens: ["<|tool_call|>"],
  opensReply: [],
  marks: ["<|/tool_call|>"],
  parse: (text) =>
    readList(
      text
        .trim()
        .replace(/^<\|tool_call\|>/, "")
        .replace(/<\|\/tool_call\|>$/, ""),
    ),
  spell: (calls) => `<|tool_call|>[${calls.map((call) => spellCall(call, "arguments")).join(", ")}]<|/tool_call|>`,
}

/** [TOOL_CALLS][{...}, ...], later versions [TOOL_CALLS]name[ARGS]{...} with one mark for each call. */
const MISTRAL: CallFormat = {
  name: "mistral",
  opens: ["[TOOL_CALLS]"],
  opensReply: [],
  marks: ["[ARGS]", "[CALL_ID]"],
  parse(text) {
    const parts = text.split("[TOOL_CALLS]").slice(1)
    if (parts.length === 1 && /^\s*[[{]/.test(parts[0]!)) return readList(parts[0]!)
    return readCalls(
      parts.map((part) => {
        const found = /^\s*([\w.-]+)(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*(\{[\s\S]*\})\s*$/.exec(part)
        return found && { name: found[1], arguments: found[3], ...(found[2] === undefined ? {} : { id: found[2] }) }
      }),
    )
  },
  spell: (calls) => `[TOOL_CALLS][${calls.map((call) => spellCall(call, "arguments")).join(", ")}]`,
}

/** The whole reply is {"name": ..., "parameters": {...}}, several with ; between them. */
const LLAMA3: CallFormat = {
  name: "llama3",
  opens: [],
  opensReply: ["<|python_tag|>", "{"],
  parse(text) {
    const body = text.trim().replace(/^<\|python_tag\|>/, "")
    return readList(body) ?? readCalls(readSequence(body))
  },
  spell: (calls) => calls.map((call) => spellCall(call, "parameters")).join("; "),
}

/** By what templates that tell of such calls have in them. */
const CALLS: readonly (readonly [RegExp, CallFormat])[] = [
  [/<function=/, QWEN3_CODER],
  [/<tool_call>/, HERMES],
  [/<\|tool_call\|>|<\|tool\|>/, PHI4],
  [/\[TOOL_CALLS\]/, MISTRAL],
  [/<\|python_tag\|>|Environment: ipython/, LLAMA3],
]

/** What a template and its vocabulary say of replies. */
export function replyFormat(source: string, tokenizer: Tokenizer): ReplyFormat {
  const thinking =
    THINKING.find(({ open, close }) => source.includes(open) || source.includes(close)) ??
    THINKING.find(({ open, close }) => tokenizer.find(open) !== undefined && tokenizer.find(close) !== undefined)
  const calls = CALLS.find(([test]) => test.test(source))?.[1]
  const texts = [
    thinking?.open,
    thinking?.close,
    ...(calls?.opens ?? []),
    ...(calls?.opensReply ?? []),
    ...(calls?.marks ?? []),
  ]
  const tokens = texts.flatMap((text) => (text === undefined ? [] : (tokenizer.find(text) ?? [])))
  return { thinking, calls, tokens: new Set(tokens.filter((token) => tokenizer.isSpecial(token))) }
}
