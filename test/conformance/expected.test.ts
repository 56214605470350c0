// The stored outputs fit each other, the default model and our tokenizer: a broken or stale file must not pass for a
// measurement. Oracle: what a distribution must satisfy, and llama.cpp's token ids.

import { expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { defaultModelPath, hasDefaultModel, tokenizerOf } from "../tokenizer-fixtures.ts"
import { greedy, greedyFloat, likelihood, modelSha256, sampledDivergence, sampleReference } from "./expected.ts"

const data = process.env.ASDSL_TEST_DATA

const mean = (values: Float32Array) => values.reduce((a, b) => a + b, 0) / values.length

test.skipIf(!hasDefaultModel)("they were made from the default model", () => {
  expect(createHash("sha256").update(readFileSync(defaultModelPath)).digest("hex")).toBe(modelSha256)
})

test("greedy: 20 prompts of 64 positions, the first token at least as likely as the second", () => {
  expect([greedy.length, greedyFloat.length]).toEqual([20, 20])
  expect(greedyFloat.map(({ prompt }) => prompt)).toEqual(greedy.map(({ prompt }) => prompt))
  for (const c of [...greedy, ...greedyFloat]) {
    expect([c.tokens.length, c.second.length, c.top2.length]).toEqual([64, 64, 128])
    for (let i = 0; i < 64; i++) {
      const [first, second] = [c.top2[2 * i]!, c.top2[2 * i + 1]!]
      expect(first).toBeGreaterThanOrEqual(second)
      expect(Math.exp(first) + Math.exp(second)).toBeLessThan(1 + 1e-6)
      expect(c.tokens[i]).not.toBe(c.second[i])
    }
  }
})

test.skipIf(!hasDefaultModel)("greedy: our tokens of the prompts are llama.cpp's", () => {
  const t = tokenizerOf(defaultModelPath)
  for (const c of greedy) expect(t.encode(c.text, { parseSpecial: true })).toEqual(c.prompt)
})

test("likelihood: perplexities follow from the stored losses, and llama.cpp's is near the reference's", () => {
  expect(likelihood.llamaNll.length).toBe(likelihood.nChunks * likelihood.nScoredPerChunk)
  expect(likelihood.referenceNll.length).toBe(likelihood.llamaNll.length)
  expect(Math.exp(mean(likelihood.llamaNll))).toBeCloseTo(likelihood.llamaPerplexity, 4)
  expect(Math.exp(mean(likelihood.referenceNll))).toBeCloseTo(likelihood.referencePerplexity, 4)
  expect(Math.abs(likelihood.llamaPerplexity / likelihood.referencePerplexity - 1)).toBeLessThan(0.005)
})

test("likelihood: the sampled divergence is 0 for the reference, and llama.cpp's no more than over all tokens", () => {
  for (let i = 0; i < likelihood.nSamples; i++) {
    const { ids, logProbabilities } = sampleReference(i)
    const known = new Map(Array.from(ids, (id, j) => [id, logProbabilities[j]!]))
    expect(known.size).toBe(ids.length)
    expect(Math.abs(sampledDivergence(i, (token) => known.get(token)!))).toBeLessThan(1e-9)
    // Half of the likeliest token's mass moved to the rest.
    const halved = sampledDivergence(i, (token) => known.get(token)! - (token === ids[0] ? Math.LN2 : 0))
    expect(halved).toBeGreaterThan(0)
  }
  expect(likelihood.sampleLlamaMeanKl).toBeLessThan(likelihood.llamaMeanKl)
})

test.skipIf(data === undefined)(
  "likelihood: our first tokens of the text are llama.cpp's",
  () => {
    const tokens = tokenizerOf(defaultModelPath)
      .encode(readFileSync(join(data ?? "", likelihood.path), "utf8"))
      .slice(0, likelihood.nChunks * likelihood.nCtx)
    expect(createHash("sha256").update(tokens).digest("hex")).toBe(likelihood.tokensSha256)
  },
  20_000,
)
