// Oracle: sampler-oracle.ts, a naive sampler over the whole row; for the random numbers the published outputs of
// xoshiro128** (rand_xoshiro's test vector, made with the authors' C program).

import { describe, expect, test } from "bun:test"
import { ArgumentError, AsdslError } from "../src/errors.ts"
import { Random } from "../src/random.ts"
import { Sampler, type SamplerOptions } from "../src/sampler.ts"
import { naiveDistribution, rowOf } from "./sampler-oracle.ts"

const random = new Random(20261125)
const below = (n: number) => Math.floor(random.double() * n)
const pick = <T>(...values: T[]): T => values[below(values.length)]!

/** Logits like a model's: most small, a few large, some equal. */
function randomLogits(nVocab: number): Float32Array {
  const spread = pick(0.5, 2, 6)
  const isCoarse = below(4) === 0
  return Float32Array.from({ length: nVocab }, () => {
    const value = spread * (random.double() + random.double() + random.double() - 1.5) * 2
    return isCoarse ? Math.round(value * 4) / 4 : value
  })
}

function randomOptions(nVocab: number): SamplerOptions {
  const logitBias = new Map<number, number>()
  if (below(3) === 0) {
    for (let i = below(6); i >= 0; i--) logitBias.set(below(nVocab), pick(-Infinity, -3, 0, 0.5, 4, 30))
  }
  return {
    temperature: pick(0, 0.2, 0.8, 1, 3),
    topK: pick(0, 1, 2, 10, 40, 5000),
    topP: pick(0, 0.3, 0.9, 0.95, 1),
    minP: pick(0, 0.01, 0.05, 0.5, 1),
    repeatPenalty: pick(1, 1, 1.1, 2, 0.5),
    repeatLastN: pick(-1, 0, 1, 8, 64),
    presencePenalty: pick(0, 0, 0.7, -2),
    frequencyPenalty: pick(0, 0, 0.3, -0.5),
    ...(logitBias.size > 0 ? { logitBias } : {}),
    seed: below(2 ** 32),
  }
}

/** What the naive sampler draws with the same random numbers. */
function naiveDraw(numbers: Random, expected: ReturnType<typeof naiveDistribution>): number {
  if (expected.tokens.length === 1) return expected.tokens[0]!
  const target = numbers.double()
  let sum = 0
  const at = expected.probabilities.findIndex((probability) => {
    sum += probability
    return sum > target
  })
  return expected.tokens.at(at)!
}

describe("the distribution is the naive sampler's", () => {
  const nCandidatesOf = [
    ["none", () => 0],
    ["one", () => 1],
    ["few", () => 12],
    ["as asked for", (sampler: Sampler) => sampler.candidatesWanted(1024)],
    ["all", () => 2 ** 20],
  ] as const
  test.each(nCandidatesOf)("candidates: %s", (_name, nCandidates) => {
    for (let round = 0; round < 300; round++) {
      const nVocab = pick(1, 7, 60, 500)
      const logits = randomLogits(nVocab)
      const options = randomOptions(nVocab)
      const history = Array.from({ length: below(120) }, () => below(nVocab))
      const sampler = new Sampler(nVocab, options)
      const row = rowOf(logits, nCandidates(sampler))
      const expected = naiveDistribution(logits, history, options)
      if (expected.tokens.length === 0) {
        expect(() => sampler.distribution(row, history)).toThrow("bans all")
        continue
      }
      const { tokens, probabilities } = sampler.distribution(row, history)
      expect({ options, tokens }).toEqual({ options, tokens: expected.tokens })
      for (let i = 0; i < tokens.length; i++) expect(probabilities[i]).toBeCloseTo(expected.probabilities[i]!, 12)
    }
  })

  test("from row to row: nothing of a row or a history is left for the next", () => {
    const options = { topK: 5, repeatPenalty: 1.3, repeatLastN: 3, presencePenalty: 0.5, logitBias: { 3: 2 }, seed: 1 }
    const sampler = new Sampler(50, options)
    const history: number[] = []
    for (let step = 0; step < 200; step++) {
      const logits = randomLogits(50)
      const { tokens } = sampler.distribution(rowOf(logits, sampler.candidatesWanted(1024)), history)
      expect(tokens).toEqual(naiveDistribution(logits, history, options).tokens)
      history.push(tokens[0]!)
    }
  })
})

describe("draws", () => {
  test("are the naive sampler's with the same random numbers", () => {
    for (let round = 0; round < 100; round++) {
      const options = randomOptions(200)
      const sampler = new Sampler(200, options)
      const numbers = new Random(options.seed!)
      const history: number[] = []
      for (let step = 0; step < 20; step++) {
        const logits = randomLogits(200)
        const expected = naiveDistribution(logits, history, options)
        const token = sampler.sample(rowOf(logits, sampler.candidatesWanted(1024)), history)
        expect(token).toBe(naiveDraw(numbers, expected))
        history.push(token)
      }
    }
  })

  test.each([
    { topK: 8, topP: 1, minP: 0, temperature: 1 },
    { topK: 0, topP: 0.9, minP: 0, temperature: 1.5 },
    { presencePenalty: 1, frequencyPenalty: 0.5, logitBias: { 2: 3, 9: -Infinity } },
  ] satisfies SamplerOptions[])("pass a chi-squared test against the naive probabilities: %j", (options) => {
    const logits = Float32Array.from({ length: 20 }, (_, token) => ((token * 7) % 20) / 4)
    const history = [19, 3, 3, 11]
    const expected = naiveDistribution(logits, history, options)
    const sampler = new Sampler(20, { ...options, seed: 4 })
    const row = rowOf(logits, sampler.candidatesWanted(1024))
    const counts = new Map<number, number>()
    const nDraws = 50_000
    for (let i = 0; i < nDraws; i++) {
      const token = sampler.sample(row, history)
      counts.set(token, (counts.get(token) ?? 0) + 1)
    }
    let chiSquared = 0
    expected.tokens.forEach((token, i) => {
      const mean = nDraws * expected.probabilities[i]!
      expect(mean).toBeGreaterThan(5)
      chiSquared += ((counts.get(token) ?? 0) - mean) ** 2 / mean
      counts.delete(token)
    })
    expect([...counts]).toEqual([]) // nothing else was drawn
    const degrees = expected.tokens.length - 1
    expect(degrees).toBeGreaterThan(2)
    expect(chiSquared).toBeLessThan(degrees + 4 * Math.sqrt(2 * degrees)) // four standard deviations
  })

  test("greedy takes the smallest token of equal ones, whatever the candidates", () => {
    const logits = Float32Array.of(-0, 1, 2, 2, 0)
    for (const nCandidates of [0, 1, 5]) {
      expect(new Sampler(5, { temperature: 0 }).sample(rowOf(logits, nCandidates), [])).toBe(2)
    }
    const bias = new Sampler(5, { temperature: 0, logitBias: { 0: 2, 4: 2 } })
    expect(bias.sample(rowOf(logits, 3), [])).toBe(0) // -0 + 2 equals the others
  })
})

describe("seeds", () => {
  const row = rowOf(randomLogits(300), 60)
  const draws = (sampler: Sampler) => Array.from({ length: 50 }, () => sampler.sample(row, []))
  const flat = { temperature: 2, topP: 1, minP: 0 }

  test("the same seed draws the same tokens, another one others", () => {
    const first = draws(new Sampler(300, { ...flat, seed: 42 }))
    expect(draws(new Sampler(300, { ...flat, seed: 42 }))).toEqual(first)
    expect(draws(new Sampler(300, { ...flat, seed: 43 }))).not.toEqual(first)
  })

  test("a random seed is reported and repeats the draws", () => {
    const sampler = new Sampler(300, flat)
    expect(draws(new Sampler(300, { ...flat, seed: sampler.seed }))).toEqual(draws(sampler))
    expect(new Sampler(300).seed).not.toBe(new Sampler(300).seed)
  })

  test("the generator is xoshiro128**", () => {
    const published = new Random([1, 2, 3, 4])
    expect(Array.from({ length: 10 }, () => published.uint32())).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ])
  })

  test("double() has its mean and its 53 bits", () => {
    const values = Array.from({ length: 20_000 }, () => random.double())
    expect(values.every((value) => value >= 0 && value < 1 && Number.isInteger(value * 2 ** 53))).toBe(true)
    expect(values.some((value) => !Number.isInteger(value * 2 ** 52))).toBe(true)
    const mean = values.reduce((a, b) => a + b) / values.length
    expect(Math.abs(mean - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / values.length))
  })
})

test("candidates asked for: top-k and what may be changed, never more than there are", () => {
  expect(new Sampler(50_000).candidatesWanted(1024)).toBe(40)
  expect(new Sampler(50_000, { temperature: 0 }).candidatesWanted(1024)).toBe(0)
  expect(new Sampler(50_000, { temperature: 0, presencePenalty: 1 }).candidatesWanted(1024)).toBe(65)
  expect(new Sampler(50_000, { repeatPenalty: 1.1, logitBias: { 1: 1 } }).candidatesWanted(1024)).toBe(105)
  expect(new Sampler(50_000, { repeatPenalty: 1.1, repeatLastN: -1 }).candidatesWanted(1024)).toBe(1024)
  expect(new Sampler(30, { topK: 0 }).candidatesWanted(1024)).toBe(30)
})

describe("refusals", () => {
  test.each([
    [{ temperature: Number.NaN }, "temperature is NaN"],
    [{ temperature: Infinity }, "temperature is Infinity"],
    [{ topK: 1.5 }, "topK is 1.5"],
    [{ topP: 1.1 }, "topP is 1.1, a number from 0 to 1 is needed"],
    [{ minP: -0.1 }, "minP is -0.1"],
    [{ repeatPenalty: 0 }, "repeatPenalty is 0, a number above 0 is needed"],
    [{ repeatLastN: -2 }, "repeatLastN is -2"],
    [{ presencePenalty: Number.NaN }, "presencePenalty is NaN"],
    [{ frequencyPenalty: -Infinity }, "frequencyPenalty is -Infinity"],
    [{ seed: 2 ** 32 }, "seed is 4294967296"],
    [{ logitBias: { 10: 1 } }, "token of a logit bias is 10, a whole number from 0 to 9"],
    [{ logitBias: new Map([[3, Infinity]]) }, "logit bias of token 3 is Infinity"],
  ] as [SamplerOptions, string][])("%j", (options, message) => {
    expect(() => new Sampler(10, options)).toThrow(ArgumentError)
    expect(() => new Sampler(10, options)).toThrow(message)
  })

  test("rows of another vocabulary, rows with NaN", () => {
    const sampler = new Sampler(10)
    expect(() => sampler.sample(rowOf(new Float32Array(9), 9), [])).toThrow("9 logits, the sampler was made for 10")
    const broken = { ...rowOf(new Float32Array(10), 10), nNotFinite: 3 }
    expect(() => sampler.sample(broken, [])).toThrow(AsdslError)
    expect(() => sampler.sample(broken, [])).toThrow("3 of 10 logits are not finite")
  })
})
