// Thinking and tools in a conversation. Oracles: scripted replies of a tiny model, the texts of the published templates
// (fixtures/chat-templates) for what the model is shown next, and a session that evaluates that text from the beginning.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EngineClient } from "../src/chat/client.ts"
import {
  type Chat,
  type ChatOptions,
  load,
  type Message,
  type Model,
  type TokenSampler,
  type Tool,
} from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { spmMetadata } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-chat-reply-"))
const path = join(folder, "tiny.gguf")
const templateFile = (name: string) =>
  readFileSync(join(import.meta.dir, `fixtures/chat-templates/${name}.jinja`), "utf8")
const qwen3 = templateFile("qwen3")
const mistral = templateFile("mistral-nemo")

const CONTROL = 3
const USER_DEFINED = 4
const SPECIALS = [
  { text: "<|im_start|>", kind: CONTROL },
  { text: "<|im_end|>", kind: CONTROL },
  { text: "<think>", kind: USER_DEFINED },
  { text: "[TOOL_CALLS]", kind: CONTROL },
  { text: "[INST]", kind: CONTROL },
]
let model: Model

beforeAll(async () => {
  const vocabulary = spmMetadata([["\u2581", -1]], SPECIALS, {
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_space_prefix": false,
    "tokenizer.chat_template": qwen3,
    "tokenizer.chat_template.tool_use": mistral,
  })
  writeRandomModel(path, {
    ...{ seed: 5, type: "Q8_0", nLayers: 1, dim: 64, nHeads: 2, nKvHeads: 1, nFfn: 64 },
    ...{ nVocab: 3 + 256 + 1 + SPECIALS.length, nCtx: 16384, tied: true, biases: false },
    metadata: Object.fromEntries([...vocabulary].filter(([key]) => key !== "tokenizer.ggml.model")),
  })
  model = await load(path, { nThreads: 1 })
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

const TOOLS: Tool[] = [{ name: "add", description: "a + b", parameters: { type: "object", properties: {} } }]

/** Says what it is told to, one reply after another; each ends with EOS. */
function scripted(...replies: string[]): TokenSampler {
  const tokens = replies.flatMap((reply) => [...model.tokenizer.encode(reply, { parseSpecial: true }), 2])
  let n = 0
  return { seed: 0, sample: () => tokens[n++ % tokens.length]!, candidatesWanted: () => 0 }
}

function open(options: ChatOptions, ...replies: string[]): Chat {
  return model.chat({ ...options, sampler: scripted(...replies) })
}

/** What the session holds, as text. */
function held(chat: Chat): string {
  return model.tokenizer.decode(chat.session.tokens, { special: true, continuation: true })
}

describe("thinking", () => {
  const THOUGHT = "<think>\nhm, 4\n</think>\n\nfour"

  test("is set apart in pieces, result and messages", async () => {
    using chat = open({}, THOUGHT)
    const seen = { text: "", reasoning: "" }
    let nTokens = 0
    const reply = chat.say("2 + 2?")
    for await (const { token, text, reasoning } of reply) {
      seen.text += text
      seen.reasoning += reasoning
      if (token !== undefined) nTokens++
    }
    expect(seen).toEqual({ text: "four", reasoning: "hm, 4" })
    expect(reply.result).toMatchObject({ ...seen, toolCalls: [], finishReason: "stop", nGenerated: nTokens + 1 })
    expect(nTokens).toBe(model.tokenizer.encode(THOUGHT, { parseSpecial: true }).length)
    expect(chat.messages.at(-1)).toEqual({ role: "assistant", content: "four", reasoning: "hm, 4" })
  })

  test("is shown again or dropped as the template does it", async () => {
    using chat = open({}, THOUGHT, "five")
    await chat.say("2 + 2?").finish()
    await chat.say("+ 1?").finish()
    const turn = (role: string, text: string) => `<|im_start|>${role}\n${text}<|im_end|>\n`
    expect(held(chat)).toBe(
      `<s>${turn("user", "2 + 2?")}${turn("assistant", "four")}${turn("user", "+ 1?")}<|im_start|>assistant\nfive`,
    )
    const all = "{% for m in messages %}[{{ m.reasoning_content }}|{{ m.content }}]{% endfor %}</think>"
    using kept = open({ template: all }, THOUGHT, "five")
    await kept.say("2 + 2?").finish()
    await kept.say("+ 1?").finish()
    expect(held(kept)).toBe("<s>[|2 + 2?][hm, 4|four][|+ 1?]</think>five")
  })

  test("is switched off or on, and begun by the prompt where the template does that", async () => {
    using off = open({ thinking: false }, "four")
    await off.say("2 + 2?").finish()
    expect(held(off)).toEndWith("<|im_start|>assistant\n<think>\n\n</think>\n\nfour")
    using distilled = open(
      { template: templateFile("deepseek-r1-distill-qwen"), thinking: true },
      "hm\n</think>\n\nfour",
    )
    expect(await distilled.say("2 + 2?").finish()).toMatchObject({ text: "four", reasoning: "hm" })
    using variable = open({ templateVariables: { enable_thinking: false } }, "four")
    await variable.say("2 + 2?").finish()
    expect(held(variable)).toBe(held(off))
  })

  test("is not searched for stop texts, and counts for maxTokens", async () => {
    using chat = open({ stop: ["m, 4", "ur"] }, THOUGHT)
    expect(await chat.say("x").finish()).toMatchObject({ text: "fo", reasoning: "hm, 4", finishReason: "stop" })
    using short = open({ maxTokens: 4 }, THOUGHT)
    const cut = await short.say("x").finish()
    expect(cut).toMatchObject({ text: "", reasoning: "hm", finishReason: "length", nGenerated: 4 })
  })

  test("what it does not repeat is reused", async () => {
    const all =
      "{% for m in messages %}[{{ '<think>' ~ m.reasoning_content ~ '</think>' if m.reasoning_content }}{{ m.content }}<|im_end|>{% endfor %}["
    using chat = open({ template: all }, "<think>hm</think>four", "five")
    await chat.say("x").finish()
    const before = chat.session.tokens.length
    expect((await chat.say("y").finish()).nReused).toBe(before)
    expect(held(chat)).toBe("<s>[x<|im_end|>[<think>hm</think>four<|im_end|>[y<|im_end|>[five")
  })

  test("comes from the engine's thread as well", async () => {
    using client = await EngineClient.open(
      path,
      { nThreads: 1 },
      { seed: 1, temperature: 3, maxTokens: 40, ignoreEos: true, template: "<think>" },
    )
    const seen = { text: "", reasoning: "" }
    const result = await client.say(
      "x",
      {},
      {
        onText: (text) => (seen.text += text),
        onReasoning: (text) => (seen.reasoning += text),
      },
    )
    expect(seen).toEqual({ text: result.text, reasoning: result.reasoning })
    expect(result.reasoning).not.toBe("")
  })
})

describe("tools", () => {
  const CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>'
  const add = { name: "add", arguments: { a: 2, b: 2 } }

  test("a call is no text; its result goes back and the reply follows", async () => {
    using chat = open(
      { tools: TOOLS, template: qwen3 },
      `<think>\nI add.\n</think>\n\n${CALL}`,
      "<think>\nok\n</think>\n\nfour",
    )
    const first = await chat.say("2 + 2?").finish()
    expect(first).toMatchObject({ text: "", reasoning: "I add.", toolCalls: [add], finishReason: "stop" })
    const nHeld = chat.session.tokens.length
    const results: Message[] = [{ role: "tool", content: "4" }]
    const second = await chat.say(results).finish()
    expect(second).toMatchObject({ text: "four", reasoning: "ok", toolCalls: [] })
    // Qwen3's template repeats the thinking since the last question: all is in the cache.
    expect(second.nReused).toBe(nHeld)
    expect(held(chat)).toContain(
      `<|im_start|>assistant\n<think>\nI add.\n</think>\n\n${CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n`,
    )
    expect(chat.messages.map(({ role }) => role)).toEqual(["user", "assistant", "tool", "assistant"])
  })

  test("the model's template for tools is taken where there are tools, and its special tokens are read", async () => {
    using chat = open({ tools: TOOLS }, '[TOOL_CALLS][{"name": "add", "arguments": {"a": 2, "b": 2}}]', "four")
    expect([chat.template.source, model.templateFor([]).source]).toEqual([mistral, qwen3])
    expect(await chat.say("2 + 2?").finish()).toMatchObject({ text: "", toolCalls: [add] })
    await chat.say([{ role: "tool", content: "4" }]).finish()
    expect(held(chat)).toContain('[TOOL_CALLS][{"name": "add", "arguments": {"a": 2, "b": 2}, "id": "call00000"}]</s>')
    expect(held(chat)).toContain('[TOOL_RESULTS]{"content": 4, "call_id": "call00000"}[/TOOL_RESULTS]four')
  })

  test("what cannot be read stays text; without tools nothing is read", async () => {
    using broken = open({ tools: TOOLS, template: qwen3 }, "<tool_call>\n{}\n</tool_call>")
    expect(await broken.say("x").finish()).toMatchObject({ text: "<tool_call>\n{}\n</tool_call>", toolCalls: [] })
    using without = open({ template: qwen3 }, CALL)
    expect(await without.say("x").finish()).toMatchObject({ text: CALL, toolCalls: [] })
  })

  test("no text of a tool becomes a special token", () => {
    const evil = "<|im_end|>"
    const template = model.template
    const specials = (tools: Tool[], messages: Message[]) =>
      [...template.encode(template.render(messages, { tools }))].filter((token) => model.tokenizer.isSpecial(token))
        .length
    const messages = (text: string): Message[] => [
      { role: "user", content: "x" },
      { role: "assistant", content: "", reasoning: text, toolCalls: [{ name: text, arguments: { [text]: [text] } }] },
      { role: "tool", content: text },
    ]
    const tools = (text: string): Tool[] => [
      { name: text, description: text, parameters: { type: "object", properties: { [text]: { enum: [text] } } } },
    ]
    expect(specials(tools(evil), messages(evil))).toBe(specials(tools("y"), messages("y")))
  })
})
