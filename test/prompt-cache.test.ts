// Oracle: the same generation, or conversation, without a file. What the file is for is seen by the number of prompt tokens
// that were not evaluated again.

import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EngineClient } from "../src/chat/client.ts"
import { type GenerateOptions, type GenerationResult, load, type Model, PromptCache } from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { tinyTokens } from "./tiny-model.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-prompt-cache-"))
const modelPath = join(folder, "tiny.gguf")
const file = join(folder, "cache")
const LOAD = { nThreads: 1, nCtx: 2000, nUbatch: 64 }
const OPTIONS: GenerateOptions = { maxTokens: 12, ignoreEos: true, temperature: 0.8, seed: 3 }
const PROMPT = tinyTokens(300)
let model: Model
let notices: string[]

beforeAll(async () => {
  writeRandomModel(modelPath, {
    ...{ seed: 3, type: "Q4_0", nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 192 },
    ...{ nVocab: 600, nCtx: 2000, tied: false, biases: false },
  })
  model = await load(modelPath, LOAD)
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})
beforeEach(() => {
  rmSync(file, { force: true })
  notices = []
})

function cache(options: { all?: boolean; readOnly?: boolean } = {}): PromptCache {
  return new PromptCache(file, { ...options, onNotice: (text) => notices.push(text) })
}

async function generated(
  prompt: ArrayLike<number>,
  promptCache?: PromptCache,
  options: GenerateOptions = {},
): Promise<GenerationResult> {
  using session = model.createSession()
  const cached = promptCache === undefined ? {} : { promptCache }
  return await session.generate(prompt, { ...OPTIONS, ...options, ...cached }).finish()
}

function savedTokens(): number[] {
  using session = model.createSession()
  return Array.from(session.load(file).tokens)
}

describe("a prompt", () => {
  test("is paid once, and the text is the same", async () => {
    const plain = await generated(PROMPT)
    const first = await generated(PROMPT, cache())
    expect(savedTokens()).toEqual(PROMPT)
    const written = statSync(file).mtimeMs
    const second = await generated(PROMPT, cache())
    expect([first.nReused, second.nReused]).toEqual([0, 299])
    expect([first.tokens, second.tokens]).toEqual([plain.tokens, plain.tokens])
    expect(statSync(file).mtimeMs).toBe(written) // it held the prompt
    expect(notices).toEqual([])
  })

  test("that goes another way takes what is common, and the file is the new one's", async () => {
    await generated(PROMPT, cache())
    const other = [...PROMPT.slice(0, 270), 1, 2, 3]
    const plain = await generated(other)
    const result = await generated(other, cache())
    expect([result.nReused, result.tokens]).toEqual([270, plain.tokens])
    expect(savedTokens()).toEqual(other)
  })

  test("shorter than what the file holds leaves it alone", async () => {
    await generated(PROMPT, cache())
    const short = PROMPT.slice(0, 100)
    const result = await generated(short, cache())
    expect([result.nReused, result.tokens]).toEqual([99, (await generated(short)).tokens])
    expect(savedTokens()).toEqual(PROMPT)
  })

  test("is in the file as soon as the first token is out", async () => {
    using session = model.createSession()
    const generation = session.generate(PROMPT, { ...OPTIONS, promptCache: cache() })
    let n = 0
    for await (const _ of generation) {
      if (++n === 2) expect(savedTokens()).toEqual(PROMPT)
    }
    expect(n).toBeGreaterThan(2)
  })

  test("without a token behind it, and one whose loop is left, are kept as well", async () => {
    await generated(PROMPT, cache(), { maxTokens: 0 })
    expect(savedTokens()).toEqual(PROMPT)
    rmSync(file)
    using session = model.createSession()
    for await (const _ of session.generate(PROMPT, { ...OPTIONS, promptCache: cache() })) break
    expect(savedTokens()).toEqual(PROMPT)
  })

  test("that was stopped is kept as far as it came, and goes on from there", async () => {
    const controller = new AbortController()
    const options = {
      signal: controller.signal,
      onProgress: (done: number) => {
        if (done >= 128) controller.abort()
      },
    }
    expect((await generated(PROMPT, cache(), options)).finishReason).toBe("cancelled")
    expect(savedTokens()).toEqual(PROMPT.slice(0, 128))
    const result = await generated(PROMPT, cache())
    expect([result.nReused, result.tokens]).toEqual([128, (await generated(PROMPT)).tokens])
    controller.abort()
    await generated(PROMPT.slice(0, 150), cache(), { signal: controller.signal }) // at once: nothing to keep
    expect(savedTokens()).toEqual(PROMPT)
  })

  test("and its reply, where all is kept", async () => {
    const { tokens } = await generated(PROMPT, cache({ all: true }))
    expect(savedTokens()).toEqual([...PROMPT, ...tokens.slice(0, -1)])
    const longer = [...PROMPT, ...tokens, 5, 6]
    const result = await generated(longer, cache())
    expect([result.nReused, result.tokens]).toEqual([311, (await generated(longer)).tokens])
  })

  test("leaves a file alone that is to be read only", async () => {
    await generated(PROMPT, cache({ readOnly: true, all: true }))
    expect(existsSync(file)).toBe(false)
    await generated(PROMPT, cache())
    const before = readFileSync(file)
    const result = await generated([...PROMPT, 7], cache({ readOnly: true, all: true }))
    expect(result.nReused).toBe(300)
    expect(readFileSync(file).equals(before)).toBe(true)
    expect(notices).toEqual([])
  })
})

describe("a file that cannot be used is said and the prompt is evaluated", () => {
  test("damaged: and replaced", async () => {
    const { tokens } = await generated(PROMPT, cache())
    const bytes = readFileSync(file)
    bytes[bytes.length - 5]! ^= 1
    writeFileSync(file, bytes)
    const result = await generated(PROMPT, cache())
    expect([result.nReused, result.tokens]).toEqual([0, tokens])
    expect(notices).toEqual([
      expect.stringMatching(/cache: the saved session is damaged in .*; the prompt is evaluated, it will be replaced$/),
    ])
    expect((await generated(PROMPT, cache())).nReused).toBe(299)
  })

  test("of another model: and replaced, unless it is to be read only", async () => {
    using other = await load(modelPath, { ...LOAD, typeK: "f32" })
    using session = other.createSession()
    session.sync(PROMPT)
    session.save(file)
    const text = "the saved session is of the same model with other options: typeK f32, not q8_0"
    const bytes = readFileSync(file)
    expect((await generated(PROMPT, cache({ readOnly: true }))).nReused).toBe(0)
    expect(readFileSync(file).equals(bytes)).toBe(true)
    expect(notices.pop()).toContain(`${text}`)
    expect((await generated(PROMPT, cache())).nReused).toBe(0)
    expect(notices).toEqual([expect.stringContaining("it will be replaced")])
    expect((await generated(PROMPT, cache())).nReused).toBe(299)
  })

  test("somebody's: and it stays", async () => {
    writeFileSync(file, "a letter")
    expect((await generated(PROMPT, cache({ all: true }))).nReused).toBe(0)
    expect(readFileSync(file, "utf8")).toBe("a letter")
    expect(notices).toEqual([`${file}: is not a saved session; the prompt is evaluated, it stays as it is`])
  })

  test("not to be written: the generation does not suffer", async () => {
    const promptCache = new PromptCache(join(folder, "nowhere", "cache"), { onNotice: (text) => notices.push(text) })
    expect((await generated(PROMPT, promptCache)).tokens).toEqual((await generated(PROMPT)).tokens)
    expect(notices).toEqual([`${promptCache.path}: the session cannot be written (ENOENT)`])
  })
})

describe("a conversation", () => {
  const CHAT = { system: "You speak.", maxTokens: 10, temperature: 0, ignoreEos: true }

  test("goes on in another process where it ended, to the token", async () => {
    using whole = model.chat(CHAT)
    const replies = []
    for (const said of ["hello", "and then?", "and then?"]) replies.push(await whole.say(said).finish())
    for (const [i, said] of ["hello", "and then?", "and then?"].entries()) {
      using chat = model.chat({ ...CHAT, promptCache: cache({ all: true }) })
      expect(chat.messages.length).toBe(1 + 2 * i)
      const result = await chat.say(said).finish()
      expect([result.text, result.tokens, result.nReused]).toEqual([
        replies[i]!.text,
        replies[i]!.tokens,
        replies[i]!.nReused,
      ])
      chat.keep()
      expect(chat.messages).toEqual(whole.messages.slice(0, chat.messages.length))
    }
    expect(notices).toEqual([])
  })

  test("is not begun again for another system message; what is common is reused", async () => {
    using first = model.chat({ ...CHAT, promptCache: cache({ all: true }) })
    await first.say("hello").finish()
    first.keep()
    using second = model.chat({ ...CHAT, system: "You speak otherwise.", promptCache: cache({ all: true }) })
    expect(second.messages.length).toBe(1)
    expect(notices).toEqual([`${file}: its conversation has another system message: a new one begins`])
    using third = model.chat({ maxTokens: 10, defaultSystem: "?", promptCache: cache({ all: true }) })
    expect(third.messages).toEqual(first.messages)
  })

  test("without all: the first prompt is kept, and no more", async () => {
    using first = model.chat({ ...CHAT, promptCache: cache() })
    const { nPromptTokens } = await first.say("hello").finish()
    await first.say("and then?").finish()
    first.keep()
    expect(savedTokens().length).toBe(nPromptTokens)
    using second = model.chat({ ...CHAT, promptCache: cache() })
    expect((await second.say("hello").finish()).nReused).toBe(nPromptTokens - 1)
  })

  test("a note that is no conversation's is no matter", async () => {
    using session = model.createSession()
    session.sync(PROMPT)
    const good = { kind: "asdsl chat", messages: [], date: "2026", text: "", nHeld: 0, rest: [] }
    for (const wrong of [
      { kind: 1 },
      { messages: 1 },
      { messages: [1] },
      { date: 1 },
      { nHeld: 400 },
      { rest: ["a"] },
    ]) {
      session.save(file, { note: JSON.stringify({ ...good, ...wrong }) })
      using chat = model.chat({ ...CHAT, promptCache: cache({ all: true }) })
      expect(chat.messages.length).toBe(1)
    }
    session.save(file, { note: "{" })
    using chat = model.chat({ ...CHAT, promptCache: cache({ all: true }) })
    expect(chat.messages.length).toBe(1)
  })

  test("in the engine's thread: notices come, and the end is kept", async () => {
    using whole = model.chat(CHAT)
    const replies = [await whole.say("hello").finish(), await whole.say("and then?").finish()]
    writeFileSync(file, "asdsl session") // the beginning of a file of ours
    const promptCache = { path: file, all: true }
    for (const [i, said] of ["hello", "and then?"].entries()) {
      const listener = { onNotice: (text: string) => notices.push(text) }
      using client = await EngineClient.open(modelPath, LOAD, CHAT, listener, promptCache)
      expect(client.facts.nMessages).toBe(1 + 2 * i)
      expect((await client.say(said, {}, {})).tokens).toEqual(replies[i]!.tokens)
      await client.keep(listener)
    }
    expect(notices).toEqual([expect.stringContaining("the saved session is truncated: 13 bytes are left of it")])
  })
})
