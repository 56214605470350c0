// Oracle: the same conversation in this thread; for stopping, that a stop ends its own reply and never the next one.

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EngineClient } from "../src/chat/client.ts"
import { AsdslError, ContextOverflowError, FormatError, load } from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-worker-"))
const path = join(folder, "tiny.gguf")
const LOAD = { nThreads: 1, nUbatch: 32, nCtx: 20_000 }
const CHAT = { ignoreEos: true, seed: 8, maxTokens: 20 }
let client: EngineClient

beforeAll(async () => {
  writeRandomModel(path, {
    ...{ seed: 3, type: "Q4_0", nLayers: 6, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 192 },
    ...{ nVocab: 600, nCtx: 20_000, tied: false, biases: false },
  })
  client = await EngineClient.open(path, LOAD, CHAT)
})
afterAll(() => {
  client[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

test("replies are those of the same conversation in this thread, and stream", async () => {
  using model = await load(path, LOAD)
  using chat = model.chat(CHAT)
  expect(client.facts).toMatchObject({ nCtx: 20_000, nThreads: 1, fallbackTemplate: "chatml", seed: 8 })
  expect(client.facts.streamedBytes).toBe(model.streamedBytes)
  for (const said of ["hello", "and what then?"]) {
    const { text, tokens, nReused } = await chat.say(said).finish()
    const pieces: string[] = []
    const result = await client.say(said, {}, { onText: (piece) => pieces.push(piece) })
    expect(result).toMatchObject({ text, tokens, nReused, finishReason: "length" })
    expect(pieces.join("")).toBe(text)
    expect(pieces.length).toBeGreaterThan(5)
  }
  await client.clear()
  chat.clear()
  expect((await client.say("hello", {}, {})).text).toBe((await chat.say("hello").finish()).text)
})

test("a completion has a session of its own, and tells how far its prompt is", async () => {
  const done: number[][] = []
  const prompt = "word ".repeat(40)
  const onProgress = (...numbers: number[]) => done.push(numbers)
  const result = await client.complete(prompt, { seed: 1, maxTokens: 4, ignoreEos: true }, { onProgress })
  expect(done.at(-1)).toEqual([result.nPromptTokens, result.nPromptTokens])
  expect(done[0]).toEqual([32, result.nPromptTokens])
})

test("errors keep their class and their numbers", async () => {
  const refused = await client.say("word ".repeat(50_000), {}, {}).catch((error) => error)
  expect(refused).toBeInstanceOf(ContextOverflowError)
  expect([refused.nPromptTokens > 20_000, refused.nCtx]).toEqual([true, 20_000])
  const badOption = await client.say("x", { maxTokens: 1.5 }, {}).catch((error) => error)
  expect(badOption).toBeInstanceOf(AsdslError)
  expect(badOption.message).toContain("maxTokens is 1.5")
  const noModel = await EngineClient.open(import.meta.path, {}, undefined).catch((error) => error)
  expect([noModel.code, new FormatError("").code]).toEqual(["format", "format"])
})

test("measures the bandwidth", async () => {
  expect(await client.probeBandwidth()).toBeGreaterThan(1e8)
})

test("a stop ends its own reply, whenever it comes, and no other", async () => {
  const next = random(5)
  const reasons = new Map<string, number>()
  for (let round = 0; round < 150; round++) {
    await client.clear()
    let stopAfter = Math.floor(next() * 4) // texts; 0: at once
    const running = client.say(
      round % 3 === 0 ? "word ".repeat(300) : "hi",
      { maxTokens: -1 },
      {
        onText: () => {
          if (--stopAfter === 0) client.abort()
        },
      },
    )
    if (stopAfter === 0) {
      if (round % 2 === 0) await Bun.sleep(next() * 4)
      client.abort()
    }
    const { finishReason } = await running
    reasons.set(finishReason, (reasons.get(finishReason) ?? 0) + 1)
    if (round % 5 === 0) client.abort() // nothing runs
    expect((await client.say("next", { maxTokens: 3 }, {})).finishReason).toBe("length")
  }
  expect([...reasons]).toEqual([["cancelled", 150]])
})

test("a stop comes through inside a pass", async () => {
  using slow = await EngineClient.open(path, { ...LOAD, nUbatch: 20_000, nBatch: 20_000, level: "portable" }, undefined)
  const prompt = "ab ".repeat(800)
  const startedAt = performance.now()
  const whole = await slow.complete(prompt, { maxTokens: 1 }, {})
  const wholeMs = performance.now() - startedAt
  const running = slow.complete(prompt, { maxTokens: 1 }, {})
  await Bun.sleep(wholeMs / 10)
  const stoppedAt = performance.now()
  slow.abort()
  expect((await running).finishReason).toBe("cancelled")
  expect(whole.nPromptTokens).toBeGreaterThan(1500) // one pass
  expect(performance.now() - stoppedAt).toBeLessThan(wholeMs / 2)
})
