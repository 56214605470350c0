// Oracle: the same thing done slowly. A fresh session for every token instead of one that grows, decode() of all tokens
// instead of a stream, a search in the whole text instead of stop strings across pieces.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  ArgumentError,
  type AsdslError,
  ContextOverflowError,
  type GenerateOptions,
  type GenerationResult,
  load,
  type Model,
  type Piece,
  Sampler,
  type Session,
} from "../src/index.ts"
import { tinyTokens, writeTinyModel } from "./tiny-model.ts"

setDefaultTimeout(60_000)

const N_CTX = 64
const folder = mkdtempSync(join(tmpdir(), "asdsl-generate-"))
let model: Model

beforeAll(async () => {
  // A vocabulary large enough for the 256 byte tokens.
  const path = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q4_1", nVocab: 600 })
  model = await load(path, { nThreads: 1, nUbatch: 16, nCtx: N_CTX })
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

const PROMPT = tinyTokens(12)
/** Ends of generation are rare in random weights, and these tests choose where theirs come. */
const ENDLESS: GenerateOptions = { ignoreEos: true, seed: 5 }

async function run(prompt: string | ArrayLike<number>, options: GenerateOptions, session = model.createSession()) {
  const generation = session.generate(prompt, options)
  const pieces: Piece[] = []
  for await (const piece of generation) pieces.push(piece)
  return { pieces, ...generation.result, held: [...session.tokens] }
}

/** Draws n tokens, each from a pass over everything before it. */
function slowly(prompt: readonly number[], n: number, sampler: Sampler): number[] {
  const tokens = [...prompt]
  for (let i = 0; i < n; i++) {
    using session = model.createSession()
    session.topK = model.maxTopK
    session.sync(tokens)
    tokens.push(sampler.sample(session.row(), tokens))
  }
  return tokens.slice(prompt.length)
}

const banEnds = { 2: -Infinity } // </s>

describe("tokens", () => {
  test.each([
    { temperature: 0 },
    { temperature: 0.9 },
    { temperature: 1.5, topK: 0, minP: 0 },
    { repeatPenalty: 1.3, frequencyPenalty: 0.4, repeatLastN: 20 },
  ] satisfies GenerateOptions[])("are those of a pass over everything for each: %j", async (options) => {
    const expected = slowly(PROMPT, 30, new Sampler(model.config.nVocab, { ...options, logitBias: banEnds, seed: 5 }))
    const { tokens, pieces, held, nGenerated } = await run(PROMPT, { ...ENDLESS, ...options, maxTokens: 30 })
    expect(tokens).toEqual(expected)
    expect(pieces.map(({ token }) => token).slice(0, 30)).toEqual(expected)
    expect([nGenerated, held]).toEqual([30, [...PROMPT, ...expected.slice(0, -1)]])
  })

  test("logprob is the model's own log-probability, whatever the sampler did", async () => {
    const { pieces } = await run(PROMPT, { ...ENDLESS, temperature: 2, repeatPenalty: 2, maxTokens: 8 })
    const tokens = [...PROMPT]
    for (const { token, logprob } of pieces) {
      using session = model.createSession()
      session.sync(tokens)
      const logits = Float64Array.from(session.row().logits)
      const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0)
      if (token === undefined) break // what was held back
      expect(logprob).toBeCloseTo(logits[token]! - Math.log(sum), 5)
      tokens.push(token)
    }
  })

  test("two sessions that take turns generate what each does alone", async () => {
    const options = [ENDLESS, { ...ENDLESS, seed: 6 }].map((each) => ({ ...each, maxTokens: 20 }))
    const alone = [await run(PROMPT, options[0]!), await run(tinyTokens(9, 1), options[1]!)]
    const together = await Promise.all([run(PROMPT, options[0]!), run(tinyTokens(9, 1), options[1]!)])
    expect(together.map(({ tokens }) => tokens)).toEqual(alone.map(({ tokens }) => tokens))
  })

  test("a sampler that is handed on goes on with its random numbers", async () => {
    const sampler = () => new Sampler(model.config.nVocab, { seed: 9, logitBias: banEnds })
    const long = await run(PROMPT, { sampler: sampler(), maxTokens: 20 })
    const shared = sampler()
    const first = await run(PROMPT, { sampler: shared, maxTokens: 12 })
    const second = await run([...PROMPT, ...first.tokens], { sampler: shared, maxTokens: 8 })
    expect([...first.tokens, ...second.tokens]).toEqual([...long.tokens])
  })
})

describe("text", () => {
  test("pieces add up to the decoded tokens, without halves of characters", async () => {
    // Byte tokens make characters of several tokens, and broken ones: lead bytes of two and three, and their followers.
    const bytes = [0xc3, 0xc4, 0xe2, 0xe3, ...Array.from({ length: 64 }, (_, i) => 0x80 + i)]
    const logitBias = Object.fromEntries(bytes.map((byte) => [3 + byte, byte < 0xc0 ? 4 : 7]))
    let all = ""
    for (let seed = 0; seed < 30; seed++) {
      const options = { ignoreEos: true, temperature: 3, topK: 0, topP: 1, minP: 0, logitBias, maxTokens: 30, seed }
      const { pieces, text, tokens } = await run(PROMPT, options)
      expect(text).toBe(model.tokenizer.decode(tokens, { continuation: true }))
      expect(pieces.map((piece) => piece.text).join("")).toBe(text)
      all += text
    }
    for (const kind of [/[\u0080-\u07ff]/, /[\u0800-\ufffc]/, /\ufffd/, /[a-z]/]) expect(all).toMatch(kind)
  })

  test("stop strings end it where the whole text has the first of them, however it is cut into tokens", async () => {
    for (let seed = 0; seed < 30; seed++) {
      const options = { ignoreEos: true, maxTokens: 40, temperature: 2, seed }
      const free = await run(PROMPT, options)
      const at = 5 + (seed % 20)
      const stop = [free.text.slice(at, at + 1 + (seed % 4)), "never"]
      if (stop[0] === "") continue
      const { text, finishReason, pieces, nGenerated } = await run(PROMPT, { ...options, stop })
      expect({ text, finishReason }).toEqual({
        text: free.text.slice(0, free.text.indexOf(stop[0]!)),
        finishReason: "stop",
      })
      expect(pieces.map((piece) => piece.text).join("")).toBe(text)
      expect(nGenerated).toBeLessThanOrEqual(free.nGenerated)
    }
  })

  test("text held back for a stop string comes when the generation ends without it", async () => {
    const free = await run(PROMPT, { ...ENDLESS, maxTokens: 10 })
    const stop = `${free.text.slice(-3)}zzz`
    const { pieces, text } = await run(PROMPT, { ...ENDLESS, maxTokens: 10, stop })
    expect(text).toBe(free.text)
    expect(pieces.at(-1)).toMatchObject({ token: undefined, text: free.text.slice(-3) })
  })

  test("a prompt as text is its tokens with BOS", async () => {
    const tokens = model.tokenizer.encode("the sea", { addSpecial: true })
    expect(tokens[0]).toBe(1)
    const { nPromptTokens, tokens: drawn } = await run("the sea", { ...ENDLESS, maxTokens: 5 })
    expect(nPromptTokens).toBe(tokens.length)
    expect(drawn).toEqual((await run(tokens, { ...ENDLESS, maxTokens: 5 })).tokens)
    // "</s>" in a text is not the token, unless that is asked for.
    const plain = await run("a</s>", { ...ENDLESS, maxTokens: 1 })
    expect(plain.held).not.toContain(2)
    expect((await run("a</s>", { ...ENDLESS, maxTokens: 1, parseSpecial: true })).held).toContain(2)
  })
})

describe("ends", () => {
  const reasonOf = ({ finishReason, nGenerated, text }: GenerationResult) => ({ finishReason, nGenerated, text })

  test("a token that ends the generation is counted and is no text", async () => {
    const result = await run(PROMPT, { logitBias: { 2: 1000 } })
    expect(reasonOf(result)).toEqual({ finishReason: "stop", nGenerated: 1, text: "" })
    expect([result.tokens, result.pieces]).toEqual([[], []])
  })

  test("ignoreEos bans it, whatever bias it has", async () => {
    const { tokens, finishReason } = await run(PROMPT, { logitBias: { 2: 1000 }, ignoreEos: true, maxTokens: 9 })
    expect([tokens.length, tokens.includes(2), finishReason]).toEqual([9, false, "length"])
  })

  test("maxTokens 0 evaluates the prompt alone", async () => {
    using session = model.createSession()
    const result = await session.generate(PROMPT, { maxTokens: 0 }).finish()
    expect(reasonOf(result)).toEqual({ finishReason: "length", nGenerated: 0, text: "" })
    expect([...session.tokens]).toEqual(PROMPT)
  })

  test("without a limit it goes on until the context is full", async () => {
    const { finishReason, nGenerated, held } = await run(PROMPT, ENDLESS)
    // The last token is drawn from the row of the last place and needs none itself.
    expect({ finishReason, nGenerated, nHeld: held.length }).toEqual({
      ...{ finishReason: "context", nGenerated: N_CTX - PROMPT.length + 1, nHeld: N_CTX },
    })
    const full = await run(tinyTokens(N_CTX), ENDLESS)
    expect([full.finishReason, full.nGenerated]).toEqual(["context", 1])
  })

  test("leaving the loop cancels it; the session goes on with another", async () => {
    using session = model.createSession()
    const generation = session.generate(PROMPT, ENDLESS)
    const seen: (number | undefined)[] = []
    for await (const { token } of generation) if (seen.push(token) === 4) break
    expect(generation.result).toMatchObject({ finishReason: "cancelled", nGenerated: 4, tokens: seen })
    const after = await run(PROMPT, { ...ENDLESS, maxTokens: 6 }, session)
    expect(after.tokens).toEqual((await run(PROMPT, { ...ENDLESS, maxTokens: 6 })).tokens)
  })

  test("a signal that a timer aborts ends it: the event loop runs between tokens", async () => {
    const controller = new AbortController()
    using session = model.createSession({ nCtx: 100_000 })
    const generation = session.generate(PROMPT, { ...ENDLESS, signal: controller.signal })
    let n = 0
    for await (const _ of generation) if (++n === 1) setTimeout(() => controller.abort(), 5)
    expect(generation.result.finishReason).toBe("cancelled")
    expect(n).toBeLessThan(99_000)
  })

  test("a signal aborted between micro-batches leaves the evaluated part of the prompt", async () => {
    const controller = new AbortController()
    const done: number[][] = []
    const prompt = tinyTokens(50)
    const { finishReason, nGenerated, held } = await run(prompt, {
      signal: controller.signal,
      onProgress(...numbers) {
        if (done.push(numbers) === 2) controller.abort()
      },
    })
    expect([finishReason, nGenerated, held]).toEqual(["cancelled", 0, prompt.slice(0, 32)])
    expect(done).toEqual([
      [16, 50],
      [32, 50],
    ])
  })

  test("C's cancel flag ends it inside a pass", async () => {
    using session = model.createSession()
    const generation = session.generate(PROMPT, ENDLESS)
    let n = 0
    for await (const _ of generation) if (++n === 3) session.cancel()
    expect(generation.result).toMatchObject({ finishReason: "cancelled", nGenerated: 3 })
    expect(session.takeCancel()).toBe(false)
  })
})

describe("numbers", () => {
  test("of a prompt, what the session holds already is reused", async () => {
    using session = model.createSession()
    const first = await run(PROMPT, { ...ENDLESS, maxTokens: 5 }, session)
    expect([first.nPromptTokens, first.nReused]).toEqual([12, 0])
    const longer = [...PROMPT, ...first.tokens, 7, 8]
    const second = await run(longer, { ...ENDLESS, maxTokens: 1 }, session)
    expect([second.nPromptTokens, second.nReused]).toEqual([19, 16]) // the fifth token was drawn, never evaluated
    const again = await run(longer, { ...ENDLESS, maxTokens: 1 }, session)
    expect([again.nReused, again.tokens]).toEqual([18, second.tokens])
  })

  test("times are in order", async () => {
    const startedAt = performance.now()
    const { promptMs, firstTokenMs, generationMs } = await run(PROMPT, { ...ENDLESS, maxTokens: 10 })
    const total = performance.now() - startedAt
    expect(promptMs).toBeGreaterThan(0)
    expect(firstTokenMs).toBeGreaterThanOrEqual(promptMs)
    expect(generationMs).toBeGreaterThan(0)
    expect(firstTokenMs + generationMs).toBeLessThanOrEqual(total)
  })

  test("the seed of a random sampler repeats the generation", async () => {
    const first = await run(PROMPT, { ignoreEos: true, maxTokens: 20, temperature: 2 })
    const again = await run(PROMPT, { ignoreEos: true, maxTokens: 20, temperature: 2, seed: first.seed })
    expect(again.tokens).toEqual(first.tokens)
  })
})

describe("refusals", () => {
  /** Refused before anything changed. */
  function refuses(
    prompt: string | ArrayLike<number>,
    options: GenerateOptions,
    error: typeof AsdslError,
    text: string,
  ) {
    using session = model.createSession()
    session.sync(PROMPT)
    const attempt = () => session.generate(prompt, options)
    expect(attempt).toThrow(error)
    expect(attempt).toThrow(text)
    expect([...session.tokens]).toEqual(PROMPT)
  }

  test.each([
    [tinyTokens(65), {}, ContextOverflowError, "the prompt has 65 tokens, the context holds 64"],
    [[], {}, ArgumentError, "the prompt is empty"],
    [[1, 2.5], {}, ArgumentError, "token 1 is 2.5"],
    [[1, 600], {}, ArgumentError, "token 1 is 600, the vocabulary has 0 to 599"],
    [[1], { maxTokens: -2 }, ArgumentError, "maxTokens is -2"],
    [[1], { stop: [""] }, ArgumentError, "stop string 0 is empty"],
    [[1], { temperature: Number.NaN }, ArgumentError, "temperature is NaN"],
  ] as [number[], GenerateOptions, typeof AsdslError, string][])("%j %j", refuses)

  test("no result before the end", async () => {
    using session = model.createSession()
    const generation = session.generate(PROMPT, { ...ENDLESS, maxTokens: 2 })
    expect(() => generation.result).toThrow("not finished")
    expect(generation.isRunning).toBe(false)
    await generation[Symbol.asyncIterator]().next()
    expect(() => generation.result).toThrow("not finished")
    expect(generation.isRunning).toBe(true)
    await generation.finish()
    expect([generation.isRunning, generation.result.nGenerated]).toEqual([false, 2])
  })

  test("a session that somebody else changes meanwhile", async () => {
    using session: Session = model.createSession()
    const generation = session.generate(PROMPT, ENDLESS)
    const loop = async () => {
      for await (const _ of generation) if (session.tokens.length === 14) session.truncate(5)
    }
    expect(loop()).rejects.toThrow("the session was changed while it was generating: it holds 5 tokens instead of 14")
    await loop().catch(() => {})
    expect(() => generation.result).toThrow("changed while")
  })
})
