// Oracle: llama.cpp on the same file, and a forward pass in double precision with float activations, both stored
// (bench/peers/oracle). SmolLM2 says what they say: argmax, perplexity, and no further from the float pass than llama.cpp.
//
// Programs that round activations to int8 in another order do not agree at 99 % of positions on this model: any difference
// before a rounding grows to the size of the rounding. llama.cpp itself, given its greedy text in one batch instead of token
// by token, has the same argmax at 97.4 % (98.0 % without flash attention; in batches of 32 at all). So 99 % and 0.1 nat are
// asked where they can be: on the float copy of the same weights, where only the rounding of floats is left. On the
// quantised file we may miss about as often, and as far, as llama.cpp in one batch. The float copy on that text shows the
// premise: without any int8 it misses more than 1 %.

import { afterAll, beforeAll, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { evaluationTokens, perplexity } from "../../src/eval/perplexity.ts"
import { load, type Model } from "../../src/index.ts"
import { writeFloatCopy } from "../fixtures/float-copy.ts"
import { F16_CACHE, misses } from "../teacher-forced.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"
import { greedy, greedyFloat, likelihood, sampledDivergence, selfAgreement } from "./expected.ts"

const data = process.env.ASDSL_TEST_DATA

let model: Model

beforeAll(async () => {
  if (hasDefaultModel) model = await load(defaultModelPath, { ...F16_CACHE, nCtx: likelihood.nCtx, maxOutputs: 64 })
})

afterAll(() => model?.[Symbol.dispose]())

test.skipIf(!hasDefaultModel)(
  "float copy, teacher-forced on llama.cpp's greedy text: argmax equal at 99 %, misses between near equals",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "asdsl-float-"))
    try {
      const path = join(folder, "float.gguf")
      writeFloatCopy(defaultModelPath, path)
      using float = await load(path, { ...F16_CACHE, nCtx: 256, maxOutputs: 64 })
      const { nPositions, gaps } = misses(float, greedyFloat, "float copy")
      expect(nPositions).toBe(20 * 64)
      expect(gaps.length / nPositions).toBeLessThanOrEqual(0.01)
      for (const gap of gaps) expect(gap).toBeLessThan(0.1)
      const premise = misses(float, greedy, "float copy on the quantised file's text")
      expect(premise.gaps.length / premise.nPositions).toBeGreaterThan(0.01) // else the quantised file can be asked for 99 %
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
  120_000,
)

test.skipIf(!hasDefaultModel)(
  "quantised, teacher-forced on llama.cpp's greedy text: no more and no wider misses than llama.cpp's own in one batch",
  () => {
    const { nPositions, gaps } = misses(model, greedy, "quantised")
    const most = Math.max(...selfAgreement.map(({ nMisses }) => nMisses))
    const widest = Math.max(...selfAgreement.map(({ largestGap }) => largestGap))
    console.log(
      `llama.cpp on its own text in one batch: ${most} misses, largest gap ${widest.toFixed(4)} nat; ours: ${gaps.length}`,
    )
    for (const each of selfAgreement) expect(each.nPositions).toBe(nPositions)
    expect(gaps.length).toBeLessThanOrEqual(most + 2 * Math.sqrt(most)) // two deviations of a count
    for (const gap of gaps) expect(gap).toBeLessThanOrEqual(widest)
  },
  60_000,
)

test.skipIf(!hasDefaultModel || data === undefined)(
  "WikiText-2: perplexity within 0.5 % of llama.cpp's, divergence from the float pass at most 1.1 times llama.cpp's",
  async () => {
    const { nCtx, nChunks, sampleStep, nSamples } = likelihood
    const tokens = evaluationTokens(model.tokenizer, readFileSync(join(data!, likelihood.path), "utf8"))
    const evaluated = tokens.slice(0, nChunks * nCtx)
    expect(createHash("sha256").update(evaluated).digest("hex")).toBe(likelihood.tokensSha256)
    let divergence = 0
    const result = await perplexity(model, tokens, {
      nCtx,
      nChunks,
      onRow({ logits, logsumexp }, index) {
        if (index % sampleStep !== 0) return
        divergence += sampledDivergence(index / sampleStep, (token) => logits[token]! - logsumexp)
      },
    })
    const meanKl = divergence / nSamples
    const ratio = result.perplexity / likelihood.llamaPerplexity
    console.log(
      `perplexity ${result.perplexity.toFixed(4)}, llama.cpp ${likelihood.llamaPerplexity.toFixed(4)} ` +
        `(${(100 * (ratio - 1)).toFixed(3)} %), float ${likelihood.referencePerplexity.toFixed(4)}; ` +
        `mean KL to float ${meanKl.toExponential(3)}, llama.cpp ${likelihood.sampleLlamaMeanKl.toExponential(3)} ` +
        `(${(meanKl / likelihood.sampleLlamaMeanKl).toFixed(3)} times)`,
    )
    expect(result.nScored).toBe(nChunks * likelihood.nScoredPerChunk)
    expect(Math.abs(ratio - 1)).toBeLessThan(0.005)
    expect(meanKl).toBeLessThanOrEqual(1.1 * likelihood.sampleLlamaMeanKl)
  },
  180_000,
)
