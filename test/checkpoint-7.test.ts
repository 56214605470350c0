// Checkpoint 7: drafts by lookup and by drafters that are right or wrong on purpose; draft models are a file of their own.
// Oracle: plain decoding on the same session, sampler and seed. With any drafter and any limit everything that a caller can
// see but times and counts is equal to the bit: pieces, logprobs, rows and tokens of the session at each of them, results,
// random numbers drawn, and the cache afterwards.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  ArgumentError,
  type Draft,
  type Drafter,
  type GenerateOptions,
  type LogitRow,
  load,
  type Model,
  Sampler,
  type Session,
  type TokenSampler,
} from "../src/index.ts"
import { Random } from "../src/random.ts"
import { Speculator } from "../src/speculative/accept.ts"
import { Controller } from "../src/speculative/controller.ts"
import { PassCosts } from "../src/speculative/costs.ts"
import { LookupDrafter } from "../src/speculative/lookup.ts"
import { bits, TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"
import { defaultModelPath, hasDefaultModel } from "./tokenizer-fixtures.ts"

setDefaultTimeout(120_000)

const N_CTX = 64
const PROMPT = tinyTokens(12)
const EOS = 2
const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-7-"))
let model: Model

beforeAll(async () => {
  // A vocabulary large enough for the 256 byte tokens.
  const path = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q4_1", nVocab: 600 })
  model = await load(path, { nThreads: 1, nUbatch: 20, nCtx: N_CTX })
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

/** Proposes what a function says for the place behind the text so far. */
class ScriptedDrafter implements Drafter {
  readonly text: number[] = []
  readonly #script: (text: readonly number[], max: number) => number[]
  constructor(script: (text: readonly number[], max: number) => number[]) {
    this.#script = script
  }
  reset(): void {
    this.text.length = 0
  }
  push(token: number): void {
    this.text.push(token)
  }
  propose(max: number): Draft {
    const tokens = this.#script(this.text, max)
    const confidences = new Float64Array(tokens.length).fill(0.9)
    return { n: tokens.length, tokens: Int32Array.from(tokens), confidences }
  }
}

/** Drafters that know the text that will come, and what they make of it. */
const DRAFTERS: Record<string, (all: readonly number[]) => Drafter> = {
  lookup: () => new LookupDrafter(),
  "lookup of single tokens": () => new LookupDrafter(1),
  "always right": (all) => new ScriptedDrafter((text, max) => all.slice(text.length, text.length + max)),
  "always wrong": (all) =>
    new ScriptedDrafter((text, max) => all.slice(text.length, text.length + max).map((token) => (token + 1) % 600)),
  random: () => {
    const random = new Random(3)
    return new ScriptedDrafter((_, max) => Array.from({ length: max }, () => random.uint32() % 600))
  },
  "wrong at the last place": (all) =>
    new ScriptedDrafter((text, max) =>
      all.slice(text.length, text.length + max).map((token, i, { length }) => (i === length - 1 ? token ^ 1 : token)),
    ),
  "right by chance": (all) => {
    const random = new Random(4)
    return new ScriptedDrafter((text, max) =>
      all.slice(text.length, text.length + max).map((token) => (random.double() < 0.7 ? token : 5)),
    )
  },
  "an end of generation now and then": (all) =>
    new ScriptedDrafter((text, max) =>
      all.slice(text.length, text.length + max).map((token, i) => ((text.length + i) % 5 === 0 ? EOS : token)),
    ),
  "nothing but ends of generation": () => new ScriptedDrafter((_, max) => new Array(max).fill(EOS)),
  "more than asked for, beyond the context": (all) =>
    new ScriptedDrafter((text) => [...all.slice(text.length), ...new Array(100).fill(7)]),
}

const CHECK_TOKENS = [3, 1, 4, 1, 5]

/** Everything that a caller sees of a generation, and what the session computes behind it. */
async function trace(
  session: Session,
  options: GenerateOptions,
  prompt: readonly number[] = PROMPT,
  stopAfter = Infinity,
) {
  const generation = session.generate(prompt, options)
  const pieces = []
  for await (const piece of generation) {
    const row = piece.token === undefined ? "" : bits(session.row().logits)
    pieces.push({ ...piece, held: session.tokens.length, row })
    if (pieces.length === stopAfter) break
  }
  const { promptMs, firstTokenMs, generationMs, speculation, ...result } = generation.result
  const held = [...session.tokens]
  const after: string[] = []
  if (held.length + CHECK_TOKENS.length <= session.nCtx) {
    session.extend(CHECK_TOKENS, { outputs: "all" })
    for (let i = 0; i < CHECK_TOKENS.length; i++) after.push(bits(session.row(i).logits))
    session.truncate(held.length)
  }
  return { seen: { pieces, result, held, after }, speculation }
}

async function fresh(options: GenerateOptions, prompt?: readonly number[], stopAfter?: number, from = model) {
  using session = from.createSession()
  return await trace(session, options, prompt, stopAfter)
}

const plain = (options: GenerateOptions, prompt?: readonly number[], stopAfter?: number, from?: Model) =>
  fresh({ ...options, speculative: "off" }, prompt, stopAfter, from)

/** Mirostat-like: what it keeps changes with every token that it draws, and it says what it was asked. */
class StatefulSampler implements TokenSampler {
  readonly seed = 5
  readonly log: string[] = []
  readonly #random = new Random(5)
  #surprise = 3
  candidatesWanted = () => 20
  sample(row: LogitRow, history: ArrayLike<number>): number {
    let i = 0
    while (
      i < row.nCandidates - 1 &&
      (row.logsumexp - row.candidateLogits[i]!) * this.#random.double() < this.#surprise / 4
    )
      i++
    const token = row.tokens[i]!
    this.#surprise += 0.1 * (3 - (row.logsumexp - row.candidateLogits[i]!))
    this.log.push(`${Bun.hash(Int32Array.from(history))} ${bits(row.logits)} ${token} ${this.#surprise}`)
    return token
  }
}

const ENDLESS: GenerateOptions = { ignoreEos: true, seed: 5, maxTokens: 40 }
const SETTINGS: Record<string, GenerateOptions> = {
  greedy: { temperature: 0 },
  defaults: {},
  "greedy with penalties": { temperature: 0, repeatPenalty: 1.3, frequencyPenalty: 0.2 },
  "all tokens": { temperature: 1.5, topK: 0, minP: 0, topP: 1 },
  "penalties and few tokens": { temperature: 0.7, topK: 4, repeatPenalty: 1.2, presencePenalty: 0.3, repeatLastN: 9 },
  "one token over and over": { temperature: 1, logitBias: { 77: 3, 78: 3 } },
}
const LIMITS = Array.from({ length: 16 }, (_, i) => i + 1)

describe("equal to plain decoding", () => {
  test.each(Object.keys(DRAFTERS))("every setting: %s", async (name) => {
    let nAccepted = 0
    let nRejected = 0
    for (const [setting, given] of Object.entries(SETTINGS)) {
      const options = { ...ENDLESS, ...given }
      const expected = (await plain(options)).seen
      const all = [...PROMPT, ...expected.result.tokens]
      for (const maxDraft of setting === "greedy" || setting === "defaults" ? LIMITS : [1, 5, 16]) {
        for (const speculative of ["lookup", "auto"] as const) {
          const drafter = DRAFTERS[name]!(all)
          const { seen, speculation } = await fresh({ ...options, speculative, maxDraft, drafter })
          expect(seen).toEqual(expected)
          nAccepted += speculation.nAccepted
          nRejected += speculation.nDrafted - speculation.nAccepted
          // Every token behind the first one has come from a pass or a draft.
          expect(speculation.nPasses + speculation.nAccepted).toBe(39)
          if (name === "always right" && speculative === "lookup") {
            expect(speculation.nPasses).toBe(Math.ceil(39 / (maxDraft + 1)))
          }
          if (name === "always wrong") expect([speculation.nPasses, speculation.nAccepted]).toEqual([39, 0])
        }
      }
    }
    console.log(`${name}: ${nAccepted} accepted, ${nRejected} not`)
    if (/right|last|now and then|more/.test(name)) expect(nAccepted).toBeGreaterThan(100)
    if (/wrong|random|chance/.test(name)) expect(nRejected).toBeGreaterThan(100)
    if (name.startsWith("nothing")) expect(nAccepted + nRejected).toBe(0)
  })

  test("a sampler with a state of its own is asked the same, in the same order", async () => {
    const sampler = new StatefulSampler()
    const expected = (await plain({ sampler, maxTokens: 40 })).seen
    for (const make of Object.values(DRAFTERS)) {
      const other = new StatefulSampler()
      const drafter = make([...PROMPT, ...expected.result.tokens])
      expect((await fresh({ sampler: other, maxTokens: 40, speculative: "lookup", drafter })).seen).toEqual(expected)
      expect(other.log).toEqual(sampler.log)
    }
  })

  test.each(["Q4_K with Q6_K, untied", "phi3, Q4_0", "Q8_0"])(
    "other models, a program of its own for batches: %s",
    async (name) => {
      const path = writeTinyModel({ path: join(folder, "other.gguf"), ...TINY_MODELS[name]! })
      using other = await load(path, { nThreads: 1, nThreadsBatch: 2, maxOutputs: 6 })
      const options = { temperature: 0, seed: 1, maxTokens: 30, ignoreEos: true }
      const expected = (await plain(options, PROMPT, undefined, other)).seen
      for (const make of [DRAFTERS["right by chance"]!, DRAFTERS["always right"]!, DRAFTERS.lookup!]) {
        const drafter = make([...PROMPT, ...expected.result.tokens])
        const { seen, speculation } = await fresh(
          { ...options, speculative: "lookup", drafter },
          PROMPT,
          undefined,
          other,
        )
        expect(seen).toEqual(expected)
        expect(speculation.byPosition.length).toBeLessThanOrEqual(5) // rows of a pass
      }
    },
  )
})

/** A generation whose text is known, drafted as far as it goes. */
async function drafted(options: GenerateOptions, stopAfter?: number, prompt: readonly number[] = PROMPT) {
  const { maxTokens, stop, signal, ...free } = options
  const { tokens } = (await plain({ ...free, maxTokens: 60 }, prompt)).seen.result
  const drafter = DRAFTERS["always right"]!([...prompt, ...tokens, EOS, 9, 9, 9])
  return await fresh({ ...options, speculative: "lookup", drafter }, prompt, stopAfter)
}

describe("ends inside a draft", () => {
  test("maxTokens", async () => {
    for (let maxTokens = 0; maxTokens < 24; maxTokens++) {
      const options = { ...ENDLESS, maxTokens }
      expect((await drafted(options)).seen).toEqual((await plain(options)).seen)
    }
  })

  test("the context", async () => {
    for (const n of [12, 50, 61, 62, 63, 64]) {
      const options = { ...ENDLESS, maxTokens: -1 }
      const { seen } = await drafted(options, undefined, tinyTokens(n))
      expect(seen).toEqual((await plain(options, tinyTokens(n))).seen)
      expect(seen.result.finishReason).toBe("context")
    }
  })

  test("stop texts", async () => {
    let nStopped = 0
    for (let seed = 0; seed < 25; seed++) {
      const options = { ...ENDLESS, temperature: 2, seed }
      const { text } = (await plain(options)).seen.result
      const stop = [text.slice(5 + (seed % 20), 6 + (seed % 20) + (seed % 4)), "never"].filter((each) => each !== "")
      const { seen } = await drafted({ ...options, stop })
      expect(seen).toEqual((await plain({ ...options, stop })).seen)
      if (seen.result.finishReason === "stop") nStopped++
    }
    expect(nStopped).toBeGreaterThan(15)
  })

  test("a token that ends the generation", async () => {
    for (let at = 0; at < 20; at++) {
      const sampler = () => {
        const own = new Sampler(600, { seed: 5, logitBias: { [EOS]: -Infinity } })
        let n = 0
        const sample = (row: LogitRow, history: ArrayLike<number>) => (n++ === at ? EOS : own.sample(row, history))
        return { seed: 5, candidatesWanted: () => 40, sample }
      }
      const free = (await plain(ENDLESS)).seen.result.tokens
      const drafter = DRAFTERS["always right"]!([...PROMPT, ...free.slice(0, at), EOS, ...free.slice(at)])
      const { seen } = await fresh({ sampler: sampler(), speculative: "lookup", drafter })
      expect(seen).toEqual((await plain({ sampler: sampler() })).seen)
      expect([seen.result.finishReason, seen.result.nGenerated]).toEqual(["stop", at + 1])
    }
  })
})

describe("cancelled inside a draft", () => {
  /** Generates, is cut short, and goes on with the same sampler. */
  async function twice(
    speculative: "off" | "lookup",
    cut: (session: Session, controller: AbortController) => void,
    breaks: boolean,
  ) {
    const free = (await plain(ENDLESS)).seen.result.tokens
    const sampler = new Sampler(600, { seed: 5, logitBias: { [EOS]: -Infinity } })
    const drafter = DRAFTERS["always right"]!([...PROMPT, ...free])
    const controller = new AbortController()
    using session = model.createSession()
    const options = { sampler, speculative, drafter, maxTokens: 30 }
    const generation = session.generate(PROMPT, { ...options, signal: controller.signal })
    let n = 0
    for await (const _ of generation) {
      if (++n !== 7) continue
      cut(session, controller)
      if (breaks) break
    }
    const { finishReason, tokens, text, nGenerated } = generation.result
    expect([finishReason, nGenerated]).toEqual(["cancelled", 7])
    const held = [...session.tokens]
    const next = await trace(session, options, [...PROMPT, ...tokens, 9])
    return { tokens, text, held, next: next.seen }
  }

  test.each([
    ["leaving the loop", () => {}, true],
    ["a signal", (_: Session, controller: AbortController) => controller.abort(), false],
    ["C's flag", (session: Session) => session.cancel(), false],
  ] as const)("%s: random numbers and cache are those of plain decoding", async (_, cut, breaks) => {
    expect(await twice("lookup", cut, breaks)).toEqual(await twice("off", cut, breaks))
  })

  test("timers run between tokens, drafted or not", async () => {
    using session = model.createSession()
    const free = (await plain(ENDLESS)).seen.result.tokens
    const drafter = DRAFTERS["always right"]!([...PROMPT, ...free])
    let nTurns = 0
    let isOver = false
    const count = () => {
      nTurns++
      if (!isOver) setImmediate(count)
    }
    setImmediate(count)
    let before = -1
    for await (const { token } of session.generate(PROMPT, { ...ENDLESS, speculative: "lookup", drafter })) {
      if (token !== undefined) expect(nTurns).toBeGreaterThan(before)
      before = nTurns
    }
    isOver = true
  })
})

describe("others at the same time", () => {
  test("sessions that take turns: rows that another pass has overwritten are evaluated again", async () => {
    const options = [1, 2].map((seed) => ({ ...ENDLESS, seed, maxTokens: 25 }))
    const expected = await Promise.all(options.map(async (each) => (await plain(each)).seen))
    const together = await Promise.all(
      options.map(async (each, i) => {
        const drafter = DRAFTERS["always right"]!([...PROMPT, ...expected[i]!.result.tokens])
        using session = model.createSession()
        return await session.generate(PROMPT, { ...each, speculative: "lookup", drafter }).finish()
      }),
    )
    expect(together.map(({ tokens }) => tokens)).toEqual(expected.map(({ result }) => [...result.tokens]))
    // Each pass drafted all the rest, and one row of it at most was still there when it was asked for.
    for (const { speculation } of together) expect(speculation.nDrafted).toBeGreaterThan(5 * speculation.nAccepted)
  })

  test("a draft whose rows are gone counts as a wrong one: it saved no pass", () => {
    const verdicts: boolean[] = []
    class Witness extends Controller {
      override choose = (_: ArrayLike<number>, n: number) => n
      override judged(_: number, __: number, isAccepted: boolean): void {
        verdicts.push(isAccepted)
      }
    }
    using session = model.createSession()
    using other = model.createSession()
    session.sync(PROMPT)
    const all = [...PROMPT, 5, 6, 7, 8, 9]
    const drafter = DRAFTERS["always right"]!(all)
    const speculator = new Speculator(session, { drafter, controller: new Witness(new PassCosts()), maxDraft: 3 })
    for (const token of all.slice(PROMPT.length)) {
      speculator.advance(token, 10)
      if (token === 6) other.sync(PROMPT)
    }
    // 5 by a pass that drafts 6, 7, 8; their rows are gone behind 6; 7 by another that drafts 8 and 9.
    expect(verdicts).toEqual([true, false, true, true])
    expect(speculator.result).toMatchObject({ nPasses: 2, nDrafted: 5, nAccepted: 3 })
    expect([...session.tokens]).toEqual(all)
  })

  test("a fork inside a draft holds what the session shows, and both go on as without drafts", async () => {
    const expected = (await plain({ ...ENDLESS, temperature: 0, maxTokens: 20 })).seen
    const drafter = DRAFTERS["always right"]!([...PROMPT, ...expected.result.tokens])
    using session = model.createSession()
    const generation = session.generate(PROMPT, {
      ...ENDLESS,
      temperature: 0,
      maxTokens: 20,
      speculative: "lookup",
      drafter,
    })
    let n = 0
    for await (const { token } of generation) {
      if (++n !== 6) continue
      using fork = session.fork()
      expect([...fork.tokens]).toEqual([...PROMPT, ...expected.result.tokens.slice(0, 5)])
      fork.extend([token!])
      expect(bits(fork.row().logits)).toBe(expected.pieces[6]!.row)
    }
    expect(generation.result.tokens).toEqual(expected.result.tokens)
  })

  test("a session changed inside a draft is an error, as without", async () => {
    const free = (await plain(ENDLESS)).seen.result.tokens
    using session = model.createSession()
    const drafter = DRAFTERS["always right"]!([...PROMPT, ...free])
    const generation = session.generate(PROMPT, { ...ENDLESS, speculative: "lookup", drafter })
    const loop = async () => {
      for await (const _ of generation) if (session.tokens.length === 16) session.truncate(5)
    }
    await expect(loop()).rejects.toThrow("it holds 5 tokens instead of 16")
  })
})

describe("session", () => {
  test("speculate and takeDrafted: rows and cache of one token after another", () => {
    using slow = model.createSession()
    slow.sync(PROMPT)
    const expected = [9, 8, 7, 6].map((token) => {
      slow.extend([token])
      return bits(slow.row().logits)
    })
    using session = model.createSession()
    session.sync(PROMPT)
    session.speculate(9, [8, 7, 5])
    const rows = [bits(session.row().logits)]
    for (let i = 0; i < 2; i++) {
      expect(session.takeDrafted()).toBe(true)
      rows.push(bits(session.row().logits))
    }
    expect([...session.tokens]).toEqual([...PROMPT, 9, 8, 7])
    session.extend([6]) // instead of 5
    rows.push(bits(session.row().logits))
    expect(rows).toEqual(expected)
    expect(session.takeDrafted()).toBe(false)
    session.speculate(1, [2])
    session.truncate(session.tokens.length)
    expect(session.takeDrafted()).toBe(false)
  })

  test("refusals change nothing", () => {
    using session = model.createSession()
    session.sync(tinyTokens(60))
    for (const [draft, text] of [
      [new Array(32).fill(1), "tokens of a draft is 32, a whole number from 0 to 19"],
      [[1, 2, 3, 4], "the prompt has 65 tokens, the context holds 64"],
      [[600], "token 1 is 600"],
    ] as const) {
      expect(() => session.speculate(1, draft)).toThrow(text)
      expect([...session.tokens]).toEqual(tinyTokens(60))
    }
    const bad = { speculative: "always" } as unknown as GenerateOptions
    expect(() => session.generate(PROMPT, bad)).toThrow("speculative is always, known: auto, off, lookup")
    expect(() => session.generate(PROMPT, { maxDraft: -1 })).toThrow(ArgumentError)
  })
})

/** What copies itself, and what does not. */
const QUESTIONS = [
  "Repeat this three times, word by word: the quick brown fox jumps over the lazy dog.",
  "What is the capital of France?",
] as const

test.skipIf(!hasDefaultModel)("default model: replies of a chat of two turns, by mode and limit", async () => {
  using real = await load(defaultModelPath, { nCtx: 512 })
  for (const temperature of [0, 0.8]) {
    const replies = async (options: GenerateOptions) => {
      using chat = real.chat({ temperature, seed: 3, maxTokens: 40, ...options })
      const turns = []
      for (const question of QUESTIONS) {
        const generation = chat.say(question)
        const logprobs: number[] = []
        for await (const { logprob } of generation) logprobs.push(logprob)
        const { text, tokens, finishReason, nReused, speculation } = generation.result
        turns.push({ seen: { text, tokens, finishReason, nReused, logprobs }, speculation })
      }
      return {
        seen: turns.map(({ seen }) => seen),
        nAccepted: turns.reduce((n, { speculation }) => n + speculation.nAccepted, 0),
      }
    }
    const expected = await replies({ speculative: "off" })
    expect(expected.nAccepted).toBe(0)
    for (const options of [
      { speculative: "auto" } as const,
      ...[1, 4, 16].map((maxDraft) => ({ speculative: "lookup", maxDraft }) as const),
    ]) {
      const { seen, nAccepted } = await replies(options)
      expect(seen).toEqual(expected.seen)
      if (options.speculative === "lookup") expect(nAccepted).toBeGreaterThan(0)
    }
  }
})
