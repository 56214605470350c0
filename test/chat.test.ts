// Oracles: a conversation done by hand (template, encode, a fresh session that evaluates everything), and SmolLM2's own
// greedy replies from such fresh sessions.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  type Chat,
  type ChatOptions,
  ContextOverflowError,
  load,
  type Model,
  TemplateError,
  type TokenSampler,
} from "../src/index.ts"
import { writeTinyModel } from "./tiny-model.ts"
import { defaultModelPath, hasDefaultModel } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-chat-"))
/** Random weights over a vocabulary without any token of ChatML. */
let tiny: Model

beforeAll(async () => {
  const path = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q8_0", seed: 2, nVocab: 600, nCtx: 2048 })
  tiny = await load(path, { nThreads: 1 })
})
afterAll(() => {
  tiny[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

const ENDLESS: ChatOptions = { ignoreEos: true, seed: 3, maxTokens: 12 }

async function say(chat: Chat, text: string) {
  return await chat.say(text).finish()
}

describe.skipIf(!hasDefaultModel)("SmolLM2", () => {
  let model: Model
  beforeAll(async () => {
    if (hasDefaultModel) model = await load(defaultModelPath, { nThreads: 2 })
  })
  afterAll(() => model?.[Symbol.dispose]())

  const SYSTEM = "You are a helpful AI assistant. The answer should be short."
  const GREEDY: ChatOptions = { system: SYSTEM, temperature: 0, maxTokens: 24 }

  test("names Paris", async () => {
    using chat = model.chat(GREEDY)
    const reply = await say(chat, "What is the capital of France?")
    expect(reply.text).toContain("Paris")
    expect(reply.finishReason).toBe("stop")
    expect(chat.messages).toEqual([
      { role: "system", content: SYSTEM },
      { role: "user", content: "What is the capital of France?" },
      { role: "assistant", content: reply.text },
    ])
  })

  test("turns reuse everything that was said, and say what a fresh evaluation says", async () => {
    using chat = model.chat(GREEDY)
    let nHeld = 0
    for (const text of ["What is the capital of France?", "Write a poem about it.", "Thank you! \u{1f642}"]) {
      const before = [...chat.messages]
      const reply = await say(chat, text)
      expect(reply.nReused).toBe(nHeld)
      nHeld = chat.session.tokens.length
      using fresh = model.createSession()
      const prompt = model.template.encode(model.template.render([...before, { role: "user", content: text }]))
      const expected = await fresh.generate(prompt, { temperature: 0, maxTokens: 24 }).finish()
      expect({ text: reply.text, n: reply.nPromptTokens }).toEqual({ text: expected.text, n: prompt.length })
    }
  })

  test("a reply keeps its tokens where its text would be encoded differently", async () => {
    // Letters one by one: tokens that encoding never makes of these words.
    const letters = Array.from("hello!", (letter) => model.tokenizer.encode(letter)[0]!)
    using spelled = model.chat({ system: SYSTEM, maxTokens: 6, sampler: scripted(letters) })
    const reply = await say(spelled, "Say hello")
    expect([reply.text, [...reply.tokens]]).toEqual(["hello!", letters])
    expect(model.tokenizer.encode("hello!").length).toBeLessThan(letters.length)
    const nHeld = spelled.session.tokens.length
    expect((await say(spelled, "Again")).nReused).toBe(nHeld)
    expect([...spelled.session.tokens.slice(0, nHeld)].slice(-5)).toEqual(letters.slice(0, 5))
  })
})

/** A sampler that draws the given tokens, over and over. */
function scripted(tokens: readonly number[]): TokenSampler {
  let n = 0
  return { seed: 0, sample: () => tokens[n++ % tokens.length]!, candidatesWanted: () => 0 }
}

describe("conversations", () => {
  test("a stop text of ChatML where the vocabulary has no token for it", async () => {
    const ends = [..."bye<|im_end|>"].map((letter) => tiny.tokenizer.find(letter) ?? byteToken(letter))
    using chat = tiny.chat({ sampler: scripted(ends), maxTokens: 40 })
    const reply = await say(chat, "hello")
    expect([reply.text, reply.finishReason]).toEqual(["bye", "stop"])
    // The cache holds more than the reply: the next prompt takes up to where they part.
    const second = await say(chat, "again")
    expect(second.nReused).toBeGreaterThan(20)
    expect(chat.messages.map(({ content }) => content)).toEqual(["hello", "bye", "again", "bye"])
  })

  test("clear forgets all but the system's message", async () => {
    using chat = tiny.chat({ ...ENDLESS, system: "be brief", temperature: 0 })
    const first = await say(chat, "one")
    await say(chat, "two")
    chat.clear()
    expect(chat.messages).toEqual([{ role: "system", content: "be brief" }])
    expect((await say(chat, "one")).text).toBe(first.text)
  })

  test("what was said before can be given", async () => {
    using chat = tiny.chat({ ...ENDLESS, temperature: 0 })
    await say(chat, "one")
    const messages = [...chat.messages]
    const second = await say(chat, "two")
    using other = tiny.chat({ ...ENDLESS, temperature: 0, messages })
    expect((await say(other, "two")).text).toBe(second.text)
  })

  test("the same seed makes the same conversation; turns go on with the random numbers", async () => {
    const texts = async (seed: number) => {
      using chat = tiny.chat({ ...ENDLESS, seed, temperature: 2 })
      expect(chat.seed).toBe(seed)
      return [await say(chat, "a"), await say(chat, "a")].map(({ text }) => text)
    }
    const first = await texts(1)
    expect(await texts(1)).toEqual(first)
    expect(await texts(2)).not.toEqual(first)
    expect(first[0]).not.toBe(first[1])
  })

  test("a cancelled reply counts as far as it came, one without a token not at all", async () => {
    using chat = tiny.chat({ ...ENDLESS, maxTokens: 50 })
    for await (const _ of chat.say("one")) break
    expect(chat.messages.map(({ role }) => role)).toEqual(["user", "assistant"])
    const nHeld = chat.session.tokens.length
    const { finishReason } = await chat.say("two", { signal: AbortSignal.abort() }).finish()
    expect([finishReason, chat.messages.length]).toEqual(["cancelled", 2])
    expect((await say(chat, "two")).nReused).toBeGreaterThanOrEqual(nHeld)
  })

  test("one reply at a time; one that was never begun is forgotten", async () => {
    using chat = tiny.chat(ENDLESS)
    chat.say("never asked for")
    const running = chat.say("one")
    await running[Symbol.asyncIterator]().next()
    expect(() => chat.say("two")).toThrow("still running")
    expect(() => chat.clear()).toThrow("still running")
    await running.finish()
    expect(chat.messages.map(({ content }) => content)).toEqual(["one", running.result.text])
  })

  test("a prompt that does not fit is refused with both numbers, and the conversation goes on", async () => {
    using chat = tiny.chat({ ...ENDLESS, nCtx: 200 })
    await say(chat, "hi")
    const [messages, tokens] = [[...chat.messages], [...chat.session.tokens]]
    const long = "word ".repeat(100)
    const rendered = tiny.template.render([...messages, { role: "user", content: long }])
    const nTokens = tiny.template.encode(rendered).length
    expect(() => chat.say(long)).toThrow(ContextOverflowError)
    expect(() => chat.say(long)).toThrow(`tokens, the context holds 200`)
    expect(Math.abs(overflowOf(() => chat.say(long)).nPromptTokens - nTokens)).toBeLessThan(12) // the reply keeps its own
    expect([[...chat.messages], [...chat.session.tokens]]).toEqual([messages, tokens])
    expect((await say(chat, "ho")).nGenerated).toBe(12)
  })

  test("a template of one's own, and a default system message only where it is welcome", async () => {
    const template =
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
    expect(() => tiny.chat({ template: "{% if %}" })).toThrow(TemplateError)
    using folded = tiny.chat({ ...ENDLESS, template, system: "s" })
    await say(folded, "x")
    expect(folded.messages[0]).toEqual({ role: "system", content: "s" })
    expect(tiny.tokenizer.decode(folded.session.tokens).startsWith("s\n\nx")).toBe(true)
    using chat = tiny.chat({ ...ENDLESS, template, defaultSystem: "s" })
    await say(chat, "x")
    expect(chat.messages[0]).toEqual({ role: "user", content: "x" })
    using welcome = tiny.chat({ ...ENDLESS, defaultSystem: "s" })
    expect(welcome.messages).toEqual([{ role: "system", content: "s" }])
  })
})

function overflowOf(body: () => unknown): ContextOverflowError {
  try {
    body()
  } catch (error) {
    if (error instanceof ContextOverflowError) return error
  }
  throw new Error("no overflow")
}

function byteToken(letter: string): number {
  return 3 + letter.charCodeAt(0)
}
