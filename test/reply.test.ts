// Oracles: the whole reply taken apart at once, by hand and by splitting at tags; however it is cut into pieces the parts
// are the same. The forms of calls are those of the models' pages and chat templates.

import { describe, expect, test } from "bun:test"
import { replyFormat } from "../src/chat/formats.ts"
import type { Tool, ToolCall } from "../src/chat/messages.ts"
import { ReplyReader } from "../src/chat/reply.ts"
import { createTokenizer } from "../src/tokenizer/index.ts"
import { bpeMetadata, random } from "./tokenizer-fixtures.ts"

const CONTROL = 3
const USER_DEFINED = 4

const plain = createTokenizer(bpeMetadata([]))
const formatOf = (template: string) => replyFormat(template, plain)

const TEMPLATES = {
  hermes: "{{ '<tool_call>' }} {{ m.content.split('</think>')[-1] }}",
  phi4: "<|tool|>{{ message['tools'] }}<|/tool|>",
  mistral: "[TOOL_CALLS] [THINK]",
  llama3: "Environment: ipython",
  coder: "<tool_call><function={{ name }}>",
} as const

interface Parts {
  text: string
  reasoning: string
  toolCalls: readonly ToolCall[]
}

/** The reply in pieces that end where `cuts` says. */
function read(template: string, reply: string, cuts: (at: number) => boolean, isThinking = false): Parts {
  const reader = new ReplyReader(formatOf(template), { isThinking, tools: TOOLS })
  const parts = { text: "", reasoning: "" }
  const take = ({ text, reasoning }: { text: string; reasoning: string }) => {
    parts.text += text
    parts.reasoning += reasoning
  }
  let begin = 0
  for (let at = 1; at <= reply.length; at++) {
    if (at < reply.length && !cuts(at)) continue
    take(reader.push(reply.slice(begin, at)))
    begin = at
  }
  take(reader.end())
  return { ...parts, toolCalls: reader.toolCalls }
}

const TOOLS: Tool[] = [
  {
    name: "get_weather",
    parameters: { type: "object", properties: { place: { type: "string" }, days: { type: "array" } } },
  },
  { name: "now" },
  { name: "f", parameters: { type: "object", properties: { text: { type: "string" }, nested: { type: "object" } } } },
]
const BY_NAME = new Map(TOOLS.map((tool) => [tool.name, tool]))

const whole = () => false

describe("thinking", () => {
  test.each([
    ["<think>\nhm\n\nhm\n</think>\n\nyes\n", "hm\n\nhm", "yes\n"],
    ["\n <think>hm</think>yes", "hm", "yes"],
    ["<think>\n\n</think>\n\nyes", "", "yes"],
    ["<think>\nnever closed </thin ", "never closed </thin", ""],
    ["<think></think>", "", ""],
    ["  yes <think>no</think>", "", "  yes <think>no</think>"],
    ["<thinly> said", "", "<thinly> said"],
    ["<thi", "", "<thi"],
    ["", "", ""],
  ])("%j", (reply, reasoning, text) => {
    expect(read(TEMPLATES.hermes, reply, whole)).toEqual({ text, reasoning, toolCalls: [] })
  })

  test("begun by the prompt", () => {
    const reply = "\nhm, <think> \n</think>\n\nyes"
    expect(read(TEMPLATES.hermes, reply, whole, true)).toMatchObject({ text: "yes", reasoning: "hm, <think>" })
    expect(read(TEMPLATES.hermes, "hm", whole, true)).toMatchObject({ text: "", reasoning: "hm" })
  })

  test("a template that knows none has none, unless the vocabulary has tokens for the tags", () => {
    const reply = "<think>hm</think>yes"
    expect(read("{{ messages }}", reply, whole)).toMatchObject({ text: reply, reasoning: "" })
    const kinds = [CONTROL, USER_DEFINED].map((kind) => ["<think>", "</think>"].map((text) => ({ text, kind })))
    const [control, userDefined] = kinds.map((specials) => replyFormat("", createTokenizer(bpeMetadata([], specials))))
    expect([control!.thinking?.open, userDefined!.thinking?.open]).toEqual(["<think>", "<think>"])
    expect([[...control!.tokens], [...userDefined!.tokens]]).toEqual([[256, 257], []])
  })
})

describe("calls", () => {
  const weather = { name: "get_weather", arguments: { place: "K\u00f6ln", days: [1, 2] } }
  const now = { name: "now", arguments: {} }
  const json = JSON.stringify

  test.each<[keyof typeof TEMPLATES, string, string, ToolCall[]]>([
    ["hermes", `<tool_call>\n${json(weather)}\n</tool_call>`, "", [weather]],
    ["hermes", `<tool_call>${json(weather)}</tool_call>\n<tool_call>\n${json(now)}`, "", [weather, now]],
    ["hermes", `I ask.\n\n<tool_call>\n${json(now)}\n</tool_call>`, "I ask.", [now]],
    ["hermes", `<think>\nhm\n</think>\n\n<tool_call>\n${json(now)}\n</tool_call>\n`, "", [now]],
    ["hermes", '<tool_call>\n{"name": "now", "arguments": "{}"}\n</tool_call>', "", [now]],
    ["hermes", `\`\`\`json\n${json(weather)}\n\`\`\``, "", [weather]],
    [
      "coder",
      "Wait.\n<tool_call>\n<function=get_weather>\n<parameter=place>\nK\u00f6ln\n</parameter>\n<parameter=days>\n[1, 2]\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
      "Wait.",
      [weather, now],
    ],
    [
      "coder",
      "<function=f>\n<parameter=text>\n1\n\n</parameter>\n<parameter=nested>\nTrue\n</parameter>\n<parameter=more>\n2</parameter></function>",
      "",
      [{ name: "f", arguments: { text: "1\n", nested: true, more: "2" } }],
    ],
    ["phi4", `<|tool_call|>[${json(weather)}, ${json(now)}]<|/tool_call|>`, "", [weather, now]],
    [
      "mistral",
      `[TOOL_CALLS][{"id": "abc", ${json(now).slice(1)}, ${json(weather)}]`,
      "",
      [{ ...now, id: "abc" }, weather],
    ],
    ["mistral", `[TOOL_CALLS]get_weather[ARGS]${json(weather.arguments)}[TOOL_CALLS]now{}`, "", [weather, now]],
    ["mistral", "[THINK]hm[/THINK]Wait. [TOOL_CALLS]now[CALL_ID]a1[ARGS]{}", "Wait.", [{ ...now, id: "a1" }]],
    ["llama3", '{"name": "now", "parameters": {}}', "", [now]],
    [
      "llama3",
      '{"type": "function", "name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
      "",
      [now, now],
    ],
    ["llama3", '\n<|python_tag|>{"name": "now", "parameters": {}}', "", [now]],
  ])("%s: %s", (name, reply, text, toolCalls) => {
    expect(read(TEMPLATES[name], reply, whole)).toMatchObject({ text, toolCalls })
  })

  test.each<[keyof typeof TEMPLATES, string]>([
    ["hermes", '<tool_call>\n{"name": "now", "arguments": {}\n</tool_call>'],
    ["hermes", '<tool_call>\n{"name": "now"}\n</tool_call> and then text'],
    ["hermes", "<tool_call>\n<function=now>\n</function>\n</tool_call>"],
    ["hermes", "said <tool_call>"],
    ["hermes", '```json\n{"name": "unknown", "arguments": {}}\n```'],
    ["hermes", '```json\n{"name": "now", "arguments": {}}\n```\nis a call'],
    ["hermes", 'As in\n```json\n{"name": "now", "arguments": {}}\n```'],
    ["coder", "<tool_call>\n<function=f>\n<parameter=text>\n1\n</function>\n</tool_call>"],
    ["coder", "<tool_call>\n<function=f>\n</function>\n</tool_call>\nand more"],
    ["phi4", '<|tool_call|>[{"arguments": {}}]<|/tool_call|>'],
    ["phi4", "<|tool_call|>[]<|/tool_call|>"],
    ["mistral", "[TOOL_CALLS]now[ARGS]{"],
    ["mistral", '[TOOL_CALLS][{"name": "now", "arguments": [1]}]'],
    ["llama3", '{"answer": 42}\n'],
    ["llama3", 'So {"name": "now", "parameters": {}}'],
    ["llama3", "<|python_tag|>print(1)"],
  ])("%s: what cannot be read is text: %s", (name, reply) => {
    expect(read(TEMPLATES[name], reply, whole)).toEqual({ text: reply, reasoning: "", toolCalls: [] })
  })

  test.each(Object.entries(TEMPLATES))("%s: what is spelled is read again", (_name, template) => {
    const { calls } = formatOf(template)
    const tricky = {
      name: "f",
      arguments: { text: 'a "quoted" \\ }; {"name": </tool_cal> \u2028', nested: { deep: [null, true, -1.5e9] } },
    }
    expect(calls!.parse(calls!.spell([tricky, now]), BY_NAME)).toEqual([tricky, now])
  })

  test("without tools nothing is looked for", () => {
    const reader = new ReplyReader(formatOf(TEMPLATES.llama3))
    expect([reader.push('{"name": '), reader.push('"now"}').text, reader.toolCalls]).toEqual([
      { text: '{"name": ', reasoning: "" },
      '"now"}',
      [],
    ])
  })
})

test("the parts are the same however the reply is cut, and text is held back no longer than need be", () => {
  const next = random(21)
  const parts = {
    hermes: [
      "<think>",
      "</think>",
      "<tool_call>",
      "</tool_call>",
      "```json\n",
      "```",
      '{"name": "f", "arguments": {}}',
      "<",
      "think>",
      "</",
      "\n",
      " ",
      "a",
      "\u{1f642}",
    ],
    coder: ["<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>1</parameter>", "<", "\n", "e"],
    phi4: ["<|tool_call|>", "<|/tool_call|>", '[{"name": "f"}]', "<|", "[", "\n", "b"],
    mistral: ["[THINK]", "[/THINK]", "[TOOL_CALLS]", '[{"name": "f"}]', "f{}", "[", "]", " ", "c"],
    llama3: ["<|python_tag|>", '{"name": "f"}', "{", "}", ";", "<|", " ", "d"],
  }
  const kinds = { calls: 0, reasoning: 0, text: 0 }
  for (let round = 0; round < 6000; round++) {
    const names = Object.keys(TEMPLATES) as (keyof typeof TEMPLATES)[]
    const name = names[round % names.length]!
    const reply = Array.from(
      { length: Math.floor(next() * 7) },
      () => parts[name][Math.floor(next() * parts[name].length)]!,
    ).join("")
    const isThinking = next() < 0.2
    const expected = read(TEMPLATES[name], reply, whole, isThinking)
    const rate = next()
    expect({ reply, ...read(TEMPLATES[name], reply, () => next() < rate, isThinking) }).toEqual({ reply, ...expected })
    if (expected.toolCalls.length > 0) kinds.calls++
    if (expected.reasoning !== "") kinds.reasoning++
    if (expected.text !== "") kinds.text++
  }
  for (const n of Object.values(kinds)) expect(n).toBeGreaterThan(50)
  const reader = new ReplyReader(formatOf(TEMPLATES.hermes), { tools: TOOLS })
  const pieces = ["<thi", "nk>a", " b", "</", "think>\n", "c", " d <", "t"].map((piece) => reader.push(piece))
  expect(pieces.map(({ text, reasoning }) => reasoning + text)).toEqual(["", "a", " b", "", "", "c", " d", ""])
})
