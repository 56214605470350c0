// Oracle: plain decoding. Checkpoint 7's greedy comparison as a whole: 160 prompts, drafts by lookup, by a draft model, by
// both, and by drafters that are always wrong, always right, right by chance and wrong at the last place, every limit from 1
// to 16. The draft model is the default model itself with logits for some of its tokens, so that it is right and wrong.
// A test is one drafter on GROUP prompts, a minute or less, so that the whole can be run in pieces:
//
//   bun test ./test/larger/speculative.ts -t "^both: prompts 21 to 30$"

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { architectureOf } from "../../src/arch/index.ts"
import { readModelHeader } from "../../src/gguf/split.ts"
import { load } from "../../src/index.ts"
import { Random } from "../../src/random.ts"
import { CombinedDrafter } from "../../src/speculative/combined.ts"
import { ModelDrafter } from "../../src/speculative/draft-model.ts"
import { formatList, listed } from "../../src/speculative/vocabulary-list.ts"
import { Vocabulary } from "../../src/tokenizer/vocabulary.ts"
import { compare, specBenchPrompts, type Variant } from "../spec-bench.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"

const data = process.env.ASDSL_TEST_DATA
const LIMITS = Array.from({ length: 16 }, (_, i) => i + 1)
const N_PROMPTS = 160
const GROUP = 10

const folder = mkdtempSync(join(tmpdir(), "asdsl-larger-speculative-"))
const vocabulary = join(folder, "list.json")
afterAll(() => rmSync(folder, { recursive: true }))
if (hasDefaultModel) {
  const header = readModelHeader(defaultModelPath)
  const tokens = listed([], new Vocabulary(header.metadata), 8192)
  writeFileSync(vocabulary, formatList(tokens, architectureOf(header).config.nVocab, 0))
}

const random = new Random(1)
const DRAFTERS: Record<string, (limit: number) => Variant["isRight"]> = {
  lookup: () => undefined,
  draft: () => undefined,
  both: () => undefined,
  "always wrong": () => () => false,
  "always right": () => () => true,
  "right by chance": () => () => random.double() < 0.6,
  "wrong at the last place": (limit) => (place) => place % (limit + 1) !== 0,
}

const CASES = Object.keys(DRAFTERS).flatMap((name) =>
  Array.from({ length: N_PROMPTS / GROUP }, (_, i): [string, number, number] => [name, GROUP * i + 1, GROUP * (i + 1)]),
)

test.skipIf(!hasDefaultModel || data === undefined)(`there are ${N_PROMPTS} prompts`, () => {
  expect(specBenchPrompts(data!).length).toBe(N_PROMPTS)
})

test.skipIf(!hasDefaultModel || data === undefined).each(CASES)(
  "%s: prompts %i to %i",
  async (name, first, last) => {
    using model = await load(defaultModelPath, { nCtx: 1024, draft: { model: defaultModelPath, vocabulary } })
    using guesses = new ModelDrafter(model)
    const both = new CombinedDrafter(guesses)
    const { nDrafted, nAccepted } = await compare(
      model,
      specBenchPrompts(data!).slice(first - 1, last),
      { temperature: 0, maxTokens: 24 },
      () =>
        LIMITS.map((maxDraft) => {
          const isRight = DRAFTERS[name]!(maxDraft)
          const speculative = name === "draft" ? "draft" : "lookup"
          const options = { speculative, maxDraft, ...(name === "both" ? { drafter: both } : {}) } as const
          return isRight === undefined ? { options } : { options, isRight }
        }),
    )
    console.log(`${name}: ${nAccepted} of ${nDrafted} drafted accepted`)
    expect(nDrafted).toBeGreaterThan(GROUP)
    if (name === "always wrong") expect(nAccepted).toBe(0)
    if (name === "always right") expect(nAccepted).toBe(nDrafted)
  },
  30 * 60_000,
)
