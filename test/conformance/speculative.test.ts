// Oracle: plain decoding. Behind each of Spec-Bench's 160 prompts drafts by lookup change no token and no logprob; limits
// from 1 to 16 take turns. test/larger/speculative.ts takes all limits for every prompt, and drafters that are wrong.

import { expect, test } from "bun:test"
import { load } from "../../src/index.ts"
import { compare, specBenchPrompts } from "../spec-bench.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"

const data = process.env.ASDSL_TEST_DATA

test.skipIf(!hasDefaultModel || data === undefined)(
  "160 prompts: greedy with any limit, sampled as the controller likes",
  async () => {
    using model = await load(defaultModelPath, { nCtx: 1024 })
    const prompts = specBenchPrompts(data!)
    expect(prompts.length).toBe(160)
    const greedy = await compare(model, prompts, { temperature: 0, maxTokens: 14 }, (i) => [
      { options: { speculative: "lookup", maxDraft: 1 + (i % 16) } },
    ])
    const sampled = await compare(model, prompts.slice(0, 20), { maxTokens: 14 }, () => [{ options: {} }])
    console.log(
      `greedy: ${greedy.nAccepted} of ${greedy.nDrafted} drafted accepted; sampled: ${sampled.nAccepted} of ${sampled.nDrafted}`,
    )
    expect(greedy.nAccepted).toBeGreaterThan(20)
  },
  300_000,
)
