// Checkpoint 7, draft models. Oracles: plain decoding by the same model (greedy: equal to the bit), a pass over the same
// tokens that never drafted (the cache behind any drafts, to the bit), and the distributions of plain sampling, computed
// from the target's own rows (chi-square over at least 100,000 draws for the rejection rule).

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FlatStrings } from "../src/gguf/strings.ts"
import {
  type Distribution,
  type DraftGate,
  type GenerateOptions,
  load,
  type Model,
  Sampler,
  type SamplerOptions,
  UnsupportedError,
} from "../src/index.ts"
import { Random } from "../src/random.ts"
import { CombinedDrafter } from "../src/speculative/combined.ts"
import { ModelDrafter } from "../src/speculative/draft-model.ts"
import { drawByRejection, drawFrom } from "../src/speculative/rejection.ts"
import { listed, readDraftVocabulary } from "../src/speculative/vocabulary-list.ts"
import { Vocabulary } from "../src/tokenizer/vocabulary.ts"
import { bits, tinyTokens, writeTinyModel } from "./tiny-model.ts"

setDefaultTimeout(120_000)

const N_VOCAB = 600
const PROMPT = tinyTokens(12)
const folder = mkdtempSync(join(tmpdir(), "asdsl-draft-model-"))
const file = (name: string) => join(folder, name)
const models: Record<string, Model> = {}

beforeAll(async () => {
  const target = writeTinyModel({ path: file("target.gguf"), type: "Q4_1", nVocab: N_VOCAB })
  copyFileSync(target, file("same.gguf"))
  writeTinyModel({ path: file("other.gguf"), type: "Q8_0", nVocab: N_VOCAB, seed: 2, nLayers: 1, tied: false })
  const half = {
    format: "asdsl draft vocabulary",
    nVocab: N_VOCAB,
    tokens: Array.from({ length: 300 }, (_, i) => 2 * i),
  }
  writeFileSync(file("half.json"), JSON.stringify(half))
  const options = { nThreads: 1, nUbatch: 20, nCtx: 64 }
  const open = (name: string, model: string, more = {}) =>
    load(target, { ...options, draft: { model: file(model), ...more } }).then((loaded) => {
      models[name] = loaded
    })
  await open("the same model", "same.gguf")
  await open("another model", "other.gguf")
  writeTinyModel({ path: file("finer.gguf"), type: "Q8_0", nVocab: N_VOCAB })
  await open("the same weights, rounded otherwise", "finer.gguf")
  await open("the same, half of its tokens", "same.gguf", { vocabulary: file("half.json") })
  await open("another, half of its tokens", "other.gguf", { vocabulary: file("half.json") })
  await open("the same, in a short context", "same.gguf", { nCtx: 20 })
})
afterAll(() => {
  for (const model of Object.values(models)) model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

const NAMES = [
  "the same model",
  "another model",
  "the same weights, rounded otherwise",
  "the same, half of its tokens",
  "another, half of its tokens",
  "the same, in a short context",
] as const

/** Everything that a caller sees, and what the session computes behind it. */
async function trace(model: Model, options: GenerateOptions) {
  using session = model.createSession()
  const generation = session.generate(PROMPT, { maxTokens: 40, ignoreEos: true, ...options })
  const pieces = []
  for await (const piece of generation) pieces.push({ ...piece, row: bits(session.row().logits) })
  const { tokens, finishReason, speculation, nPromptTokens } = generation.result
  const held = [...session.tokens]
  session.extend([3, 1, 4], { outputs: "all" })
  const after = [0, 1, 2].map((i) => bits(session.row(i).logits))
  return { seen: { pieces, tokens, finishReason, nPromptTokens, held, after }, speculation }
}

/** What a session that never drafted computes behind the same tokens. */
function behind(model: Model, held: readonly number[]): string[] {
  using session = model.createSession()
  session.sync(held)
  session.extend([3, 1, 4], { outputs: "all" })
  return [0, 1, 2].map((i) => bits(session.row(i).logits))
}

describe.each([...NAMES])("drafts by %s", (name) => {
  test("greedy: equal to plain decoding to the bit, for every limit, with and without lookups", async () => {
    const model = models[name]!
    const greedy = { temperature: 0, seed: 1 }
    const { seen: expected } = await trace(model, { ...greedy, speculative: "off" })
    let [nDrafted, nAccepted] = [0, 0]
    for (let maxDraft = 1; maxDraft <= 16; maxDraft++) {
      using drafter = new ModelDrafter(model)
      for (const options of [
        { speculative: "draft" } as const,
        { speculative: "auto" } as const,
        { speculative: "draft", drafter: new CombinedDrafter(drafter) } as const,
        { speculative: "draft", minDraft: 2, minDraftConfidence: 0.002 } as const,
      ]) {
        const { seen, speculation } = await trace(model, { ...greedy, ...options, maxDraft })
        expect(seen).toEqual(expected)
        expect(speculation.nPasses + speculation.nAccepted).toBe(39)
        if (options.speculative !== "draft" || "drafter" in options || "minDraft" in options) continue
        nDrafted += speculation.nDrafted
        nAccepted += speculation.nAccepted
      }
    }
    console.log(`${name}: ${nAccepted} of ${nDrafted} drafted accepted`)
    if (name === "the same model") expect(nAccepted).toBe(nDrafted)
    if (name === "the same, half of its tokens") expect(nAccepted).toBeGreaterThan(0)
    expect(nDrafted).toBeGreaterThan(200)
  })

  test("sampled: the cache behind any drafts is that of a session that never drafted", async () => {
    const model = models[name]!
    let [nAccepted, nRejected] = [0, 0]
    for (let seed = 0; seed < 6; seed++) {
      for (const options of [
        { maxDraft: 1 + 3 * seed },
        { temperature: 1.5, topK: 0, topP: 1, minP: 0, maxDraft: 5 },
      ]) {
        const { seen, speculation } = await trace(model, { seed, speculative: "draft", ...options })
        expect(seen.after).toEqual(behind(model, seen.held))
        expect(speculation.nPasses + speculation.nAccepted).toBe(39)
        nAccepted += speculation.nAccepted
        nRejected += speculation.nDrafted - speculation.nAccepted
      }
    }
    if (name === "the same model")
      expect(nRejected).toBe(0) // p is q: always accepted
    else expect(nRejected).toBeGreaterThan(50)
    if (name.startsWith("the same")) expect(nAccepted).toBeGreaterThan(50)
  })
})

test("two turns of a chat: the draft model's cache goes on from the first", async () => {
  const model = models["the same model"]!
  using session = model.createSession()
  const evaluated: number[] = []
  const first = await session.generate(PROMPT, { temperature: 0, maxTokens: 12, speculative: "draft" }).finish()
  const drafter = new ModelDrafter(model)
  session.attach(drafter)
  const options = { temperature: 0, maxTokens: 8, speculative: "draft", drafter } as const
  await session.generate([...PROMPT, ...first.tokens, 5], options).finish()
  const again = [...session.tokens, 9, 8]
  drafter.reset()
  for (const token of again) drafter.push(token)
  evaluated.push(drafter.nPending)
  expect(evaluated[0]).toBeLessThanOrEqual(4) // the new tokens, and what was drafted last and never evaluated
})

test("a gate is asked before each pass, told of it, and decides by distributions and not by what is drawn", () => {
  const model = models["another model"]!
  using drafter = new ModelDrafter(model)
  for (const token of PROMPT) drafter.push(token)
  const log: string[] = []
  const gate: DraftGate = {
    prefers: () => false,
    extends: ({ n }, nPending) => log.push(`extends ${n} ${nPending}`) > 0 && n < 3,
    includes: ({ n }) => log.push(`includes ${n}`) > 0,
    stepped: (n) => log.push(`stepped ${n}`),
  }
  expect(drafter.propose(8, { gate }).n).toBe(3)
  expect(log).toEqual([
    ...["extends 0 12", "stepped 12", "includes 0", "extends 1 1", "stepped 1", "includes 1"],
    ...["extends 2 1", "stepped 1", "includes 2", "extends 3 1"],
  ])
})

test("from an interleaved copy, whoever wrote it: the same drafts", async () => {
  const drafted = async (model: Model) => {
    using drafter = new ModelDrafter(model)
    for (const token of PROMPT) drafter.push(token)
    const { n, tokens, confidences } = drafter.propose(6)
    return [...tokens.subarray(0, n), ...confidences.subarray(0, n)]
  }
  const path = file("target.gguf")
  for (const name of ["same", "other"]) {
    const draft = { model: file(`${name}.gguf`), vocabulary: file("half.json") }
    const expected = await drafted(
      models[name === "same" ? "the same, half of its tokens" : "another, half of its tokens"]!,
    )
    for (const first of ["draft", "whole"]) {
      const cache = join(folder, `cache of ${name} by ${first}`)
      const options = { nThreads: 1, nUbatch: 20, nCtx: 64, cache }
      const load1 = first === "draft" ? load(path, { ...options, draft }) : load(draft.model, options)
      using writer = await load1
      await (writer.draft ?? writer).saved
      using model = await load(path, { ...options, draft })
      expect(await drafted(model)).toEqual(expected)
      using whole = await load(draft.model, options)
      using session = whole.createSession()
      session.sync(PROMPT)
      using plain = await load(draft.model, { ...options, cache: false })
      using other = plain.createSession()
      other.sync(PROMPT)
      expect(bits(session.row().logits)).toBe(bits(other.row().logits))
    }
  }
})

describe("refusals", () => {
  const target = () => file("target.gguf")
  const texts = () => {
    const vocabulary = new Vocabulary(models["the same model"]!.header.metadata)
    const all = Array.from({ length: N_VOCAB }, (_, token) => vocabulary.text(token))
    return FlatStrings.from(all.map((text, token) => (token === 400 ? "other" : text)))
  }
  const kinds = () => {
    const { kinds } = new Vocabulary(models["the same model"]!.header.metadata)
    return Int32Array.from(kinds, (kind, token) => (token === 300 ? 3 : kind))
  }
  test.each([
    ["another end", { "tokenizer.ggml.eos_token_id": () => 5 }, "its eos token is 5, the model's 2"],
    ["other kinds", { "tokenizer.ggml.token_type": kinds }, 'token 300, "'],
    ["other tokens", { "tokenizer.ggml.tokens": texts }, 'token 400 is "other", the model\'s "'],
    ["another tokenizer", { "tokenizer.ggml.model": () => "gpt2" }, "its tokenizer is gpt2, the model's llama"],
  ] as const)("%s", async (name, made, text) => {
    const metadata = Object.fromEntries(Object.entries(made).map(([key, value]) => [key, value()]))
    const draft = writeTinyModel({ path: file(`${name}.gguf`), type: "Q8_0", nVocab: N_VOCAB, metadata })
    await expect(load(target(), { nThreads: 1, draft })).rejects.toThrow(UnsupportedError)
    await expect(load(target(), { nThreads: 1, draft })).rejects.toThrow(text)
  })

  test("rows and tokens that only one of them has are no difference", async () => {
    const draft = writeTinyModel({ path: file("more.gguf"), type: "Q4_1", nVocab: N_VOCAB + 24 })
    using model = await load(target(), { nThreads: 1, draft })
    const { seen: expected } = await trace(model, { temperature: 0, speculative: "off" })
    expect((await trace(model, { temperature: 0, speculative: "draft" })).seen).toEqual(expected)
    const { seen } = await trace(model, { seed: 3, speculative: "draft", topK: 0, topP: 1, minP: 0 })
    expect(seen.after).toEqual(behind(model, seen.held))
  })

  test("a mode that needs a draft model", async () => {
    using alone = await load(target(), { nThreads: 1 })
    using session = alone.createSession()
    expect(() => session.generate(PROMPT, { speculative: "draft" })).toThrow("loaded without a draft model")
    expect(alone.draft).toBeUndefined()
  })

  test("lists that are none", async () => {
    const cases = [
      ["{", "is not JSON"],
      ["{}", "is no list of asdsl draft-vocab"],
      [{ nVocab: 700, tokens: [1] }, "made for 700 tokens, the model has 600"],
      [{ nVocab: N_VOCAB, tokens: [1, 600] }, "token 1 is 600, 0 to 599"],
      [{ nVocab: N_VOCAB, tokens: [1, 1] }, "lists 2 tokens, 1 of them different"],
    ] as const
    for (const [list, text] of cases) {
      const given = typeof list === "string" ? list : JSON.stringify({ format: "asdsl draft vocabulary", ...list })
      writeFileSync(file("bad.json"), given)
      const draft = { model: file("same.gguf"), vocabulary: file("bad.json") }
      await expect(load(target(), { nThreads: 1, draft })).rejects.toThrow(text)
    }
  })
})

test("lists: ends of generation, then ranked tokens, then ids; ascending", () => {
  const { header } = models["the same model"]!
  const vocabulary = new Vocabulary(header.metadata)
  const ends = [...vocabulary.ends]
  const tokens = listed([500, 7, 400, 7], vocabulary, ends.length + 5)
  const rest = Array.from({ length: N_VOCAB }, (_, i) => i)
    .filter((i) => !ends.includes(i) && i !== 7)
    .slice(0, 2)
  expect([...tokens]).toEqual([...new Set([...ends, 500, 7, 400, ...rest])].sort((a, b) => a - b))
  expect(readDraftVocabulary(header, N_VOCAB, "all")).toBeUndefined()
  expect(readDraftVocabulary(header, N_VOCAB, file("half.json"))?.length).toBe(300)
})

// ---- the rejection rule ----

/** Pearson's statistic may exceed this with probability 1e-6 (Wilson and Hilferty 1931). */
function bound(cells: number): number {
  const df = cells - 1
  return df * (1 - 2 / (9 * df) + 4.753 * Math.sqrt(2 / (9 * df))) ** 3
}

/** Pearson's statistic of counts against probabilities; rare cells are put together. */
function chiSquare(counts: ReadonlyMap<string, number>, expected: ReadonlyMap<string, number>, n: number) {
  for (const key of counts.keys()) expect(expected.has(key)).toBe(true)
  let [statistic, cells, rareCount, rareExpected] = [0, 0, 0, 0]
  const add = (count: number, mean: number) => {
    statistic += (count - mean) ** 2 / mean
    cells++
  }
  for (const [key, probability] of expected) {
    const [count, mean] = [counts.get(key) ?? 0, n * probability]
    if (mean >= 10) add(count, mean)
    else [rareCount, rareExpected] = [rareCount + count, rareExpected + mean]
  }
  if (rareExpected >= 5) add(rareCount, rareExpected)
  return { statistic, cells }
}

const SAMPLING: Record<string, SamplerOptions> = {
  defaults: {},
  "all tokens": { temperature: 1.3, topK: 0, topP: 1, minP: 0 },
  "few tokens": { temperature: 0.7, topK: 5 },
  penalties: { temperature: 1, repeatPenalty: 1.4, presencePenalty: 0.5, logitBias: { 3: 2, 4: -1 } },
}

describe("the rejection rule", () => {
  const N_DRAWS = 100_000
  const SIZE = 24

  /** Distributions of a target and of a draft that is more or less like it, as samplers make them of rows. */
  function pair(options: SamplerOptions, noise: number): [Distribution, Distribution] {
    const random = new Random(9)
    const sampler = new Sampler(SIZE, { ...options, seed: 1 })
    const logits = Float32Array.from({ length: SIZE }, () => 5 * random.double())
    return [0, noise].map((scale) => {
      const row = logits.map((logit) => logit + scale * (random.double() - 0.5))
      const order = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]!)
      const logsumexp = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0))
      const tokens = Int32Array.from(order)
      const candidateLogits = Float32Array.from(order, (token) => row[token]!)
      const stats = { logsumexp, argmax: order[0]!, nCandidates: SIZE, nNotFinite: 0 }
      return sampler.distribution({ logits: row, ...stats, tokens, candidateLogits }, [3, 5, 5, 9])
    }) as [Distribution, Distribution]
  }

  const expectedOf = ({ tokens, probabilities }: Distribution) =>
    new Map(Array.from(tokens, (token, i) => [String(token), probabilities[i]!]))

  function counted(draw: () => number): Map<string, number> {
    const counts = new Map<string, number>()
    for (let i = 0; i < N_DRAWS; i++) {
      const key = String(draw())
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    return counts
  }

  test.each(Object.keys(SAMPLING))("100,000 draws are distributed as the target's: %s", (name) => {
    for (const noise of [0.5, 3, 12]) {
      const [p, q] = pair(SAMPLING[name]!, noise)
      const random = new Random(7)
      const next = () => random.double()
      const counts = counted(() => drawByRejection(p, q, drawFrom(q.tokens, q.probabilities, next), next))
      const { statistic, cells } = chiSquare(counts, expectedOf(p), N_DRAWS)
      expect(statistic).toBeLessThan(bound(cells))
    }
  })

  test("the test sees a rule that is wrong: what is drawn after a rejection is the target's own", () => {
    const [p, q] = pair({}, 3)
    const random = new Random(7)
    const next = () => random.double()
    const probability = ({ tokens, probabilities }: Distribution, token: number) =>
      probabilities[tokens.indexOf(token)] ?? 0
    const counts = counted(() => {
      const drafted = drawFrom(q.tokens, q.probabilities, next)
      const isAccepted = next() * probability(q, drafted) < probability(p, drafted)
      return isAccepted ? drafted : drawFrom(p.tokens, p.probabilities, next)
    })
    const { statistic, cells } = chiSquare(counts, expectedOf(p), N_DRAWS)
    expect(statistic).toBeGreaterThan(2 * bound(cells))
  })

  test.each(["the same weights, rounded otherwise", "the same, half of its tokens", "another model"])(
    "whole generations, drafted by %s",
    async (name) => {
      const model = models[name]!
      const nRuns = Number(process.env.ASDSL_LARGER ?? 0) > 0 ? 100_000 : 1500
      const options = { temperature: 1, topK: 3, topP: 1, minP: 0, maxTokens: 5, ignoreEos: true }
      // The first three tokens of five: drafts reach beyond what is counted.
      const expected = new Map<string, number>()
      const sampler = new Sampler(N_VOCAB, { ...options, seed: 1, logitBias: { 2: -Infinity } })
      using session = model.createSession()
      const grow = (path: readonly number[], likelihood: number) => {
        if (path.length === 3) return void expected.set(path.join(" "), likelihood)
        session.sync([...PROMPT, ...path])
        const { tokens, probabilities } = sampler.distribution(session.row(), session.tokens)
        for (const [i, token] of tokens.entries()) grow([...path, token], likelihood * probabilities[i]!)
      }
      grow([], 1)
      const counts = new Map<string, number>()
      let nAccepted = 0
      for (let seed = 0; seed < nRuns; seed++) {
        const { tokens, speculation } = await session
          .generate(PROMPT, { ...options, seed, speculative: "draft", maxDraft: 3 })
          .finish()
        const key = tokens.slice(0, 3).join(" ")
        counts.set(key, (counts.get(key) ?? 0) + 1)
        nAccepted += speculation.nAccepted
      }
      const { statistic, cells } = chiSquare(counts, expected, nRuns)
      console.log(
        `${name}: chi-square ${statistic.toFixed(1)} over ${cells} cells, ${nAccepted} accepted, ${nRuns} runs`,
      )
      expect(statistic).toBeLessThan(bound(cells))
      if (name.startsWith("the same")) expect(nAccepted).toBeGreaterThan(nRuns / 2)
    },
  )
})
