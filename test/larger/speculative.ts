// Oracle: plain decoding. Checkpoint 7's greedy comparison as a whole, as far as it is built: 160 prompts, drafts by lookup
// and by drafters that are always wrong, always right, right by chance and wrong at the last place, every limit from 1 to 16.

import { expect, test } from "bun:test"
import { load } from "../../src/index.ts"
import { Random } from "../../src/random.ts"
import { compare, specBenchPrompts, type Variant } from "../spec-bench.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"

const data = process.env.ASDSL_TEST_DATA
const LIMITS = Array.from({ length: 16 }, (_, i) => i + 1)

const random = new Random(1)
const DRAFTERS: Record<string, (limit: number) => Variant["isRight"]> = {
  lookup: () => undefined,
  "always wrong": () => () => false,
  "always right": () => () => true,
  "right by chance": () => () => random.double() < 0.6,
  "wrong at the last place": (limit) => (place) => place % (limit + 1) !== 0,
}

test.skipIf(!hasDefaultModel || data === undefined).each(Object.entries(DRAFTERS))(
  "160 prompts, limits 1 to 16: %s",
  async (name, isRightFor) => {
    using model = await load(defaultModelPath, { nCtx: 1024 })
    const { nDrafted, nAccepted } = await compare(
      model,
      specBenchPrompts(data!),
      { temperature: 0, maxTokens: 24 },
      () =>
        LIMITS.map((maxDraft) => {
          const isRight = isRightFor(maxDraft)
          const options = { speculative: "lookup", maxDraft } as const
          return isRight === undefined ? { options } : { options, isRight }
        }),
    )
    console.log(`${name}: ${nAccepted} of ${nDrafted} drafted accepted`)
    expect(nDrafted).toBeGreaterThan(1000)
    if (name === "always wrong") expect(nAccepted).toBe(0)
    if (name === "always right") expect(nAccepted).toBe(nDrafted)
  },
  60 * 60_000,
)
