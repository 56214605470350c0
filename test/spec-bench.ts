// The 160 prompts of Spec-Bench ($ASDSL_TEST_DATA/prompts): the first turns as a model wants them, and a comparison of what
// drafting writes behind them with plain decoding.

import { expect } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { Draft, Drafter, GenerateOptions, Model } from "../src/index.ts"

export interface SpecBenchPrompt {
  readonly category: string
  readonly text: string
}

export function specBenchPrompts(data: string): SpecBenchPrompt[] {
  const lines = readFileSync(join(data, "prompts/spec-bench.jsonl"), "utf8").trimEnd().split("\n")
  return lines.map((line) => {
    const { category, turns } = JSON.parse(line) as { category: string; turns: string[] }
    return { category, text: turns[0]! }
  })
}

/** Knows the text that comes and is right for all but every fifth place, or for none. */
export function drafterOf(all: readonly number[], isRight: (place: number) => boolean): Drafter {
  let place = 0
  return {
    reset() {
      place = 0
    },
    push() {
      place++
    },
    propose(max): Draft {
      const tokens = Int32Array.from(all.slice(place, place + max), (token, i) =>
        isRight(place + i) ? token : token ^ 1,
      )
      return { n: tokens.length, tokens, confidences: new Float64Array(tokens.length).fill(0.9) }
    },
  }
}

export interface Variant {
  readonly options: GenerateOptions
  /** Whether a place of the text is drafted right; absent: what the options say drafts. */
  isRight?(place: number): boolean
}

/** Generates behind every prompt without drafts and in each of its variants, and expects the same tokens and logprobs.
 * Returns drafted and accepted tokens. */
export async function compare(
  model: Model,
  prompts: readonly SpecBenchPrompt[],
  options: GenerateOptions,
  variantsOf: (index: number) => readonly Variant[],
): Promise<{ nDrafted: number; nAccepted: number }> {
  let [nDrafted, nAccepted] = [0, 0]
  for (const [i, { category, text }] of prompts.entries()) {
    using session = model.createSession()
    const prompt = model.template.encode(model.template.render([{ role: "user", content: text }]))
    const run = async (more: GenerateOptions) => {
      const generation = session.generate(prompt, { ...options, seed: i, ...more })
      const logprobs: number[] = []
      for await (const { logprob } of generation) logprobs.push(logprob)
      const { tokens, finishReason, speculation } = generation.result
      return { seen: { i, category, tokens, finishReason, logprobs }, speculation }
    }
    const { seen: expected } = await run({ speculative: "off" })
    const all = [...prompt, ...expected.tokens]
    for (const { options: more, isRight } of variantsOf(i)) {
      const drafter = isRight === undefined ? {} : { drafter: drafterOf(all, isRight) }
      const { seen, speculation } = await run({ ...more, ...drafter })
      expect(seen).toEqual(expected)
      nDrafted += speculation.nDrafted
      nAccepted += speculation.nAccepted
    }
  }
  return { nDrafted, nAccepted }
}
