// Oracle: a search through the whole text for every suffix, and a simulation in which what passes cost and which drafts are
// right is known. No model: that the text stays the same is test/checkpoint-7.

import { describe, expect, test } from "bun:test"
import { Random } from "../src/random.ts"
import { Controller } from "../src/speculative/controller.ts"
import { PassCosts } from "../src/speculative/costs.ts"
import { LookupDrafter } from "../src/speculative/lookup.ts"
import { SuffixAutomaton } from "../src/speculative/suffix-automaton.ts"

/** Random texts: small alphabets repeat themselves a lot, and some texts quote themselves. */
function* texts(): Generator<number[]> {
  const random = new Random(1)
  const below = (n: number) => Math.floor(random.double() * n)
  for (let round = 0; round < 20; round++) {
    const nTokens = 2 + (round % 5)
    const text: number[] = []
    while (text.length < 80) {
      if (text.length > 20 && below(12) === 0) {
        const begin = below(text.length - 10)
        text.push(...text.slice(begin, begin + below(20)))
      } else text.push(below(nTokens) * 50_000) // far apart, as tokens are
    }
    yield text
  }
  yield Array.from({ length: 50 }, (_, i) => i) // nothing repeats
  yield Array.from({ length: 60 }, (_, i) => i % 3)
}

const endsAt = (text: readonly number[], part: readonly number[], end: number) =>
  end >= part.length && part.every((token, i) => text[end - part.length + i] === token)

/** Places where a part of the text ends. */
function ends(text: readonly number[], part: readonly number[]): number[] {
  return Array.from(text, (_, i) => i + 1).filter((end) => endsAt(text, part, end))
}

/** The longest suffix of the text that also ends before. */
function repeatedSuffix(text: readonly number[]): number[] {
  for (let length = text.length - 1; length > 0; length--) {
    const part = text.slice(text.length - length)
    if (ends(text, part).length > 1) return part
  }
  return []
}

/** What followed a part, by token: how often, and where last. */
function followers(text: readonly number[], part: readonly number[]): Map<number, { count: number; last: number }> {
  const found = new Map<number, { count: number; last: number }>()
  for (const end of part.length === 0 ? Array.from(text, (_, i) => i) : ends(text, part)) {
    if (end === text.length) continue
    const token = text[end]!
    found.set(token, { count: (found.get(token)?.count ?? 0) + 1, last: end })
  }
  return found
}

function likeliest(found: ReturnType<typeof followers>): number | undefined {
  return [...found].sort(([, a], [, b]) => b.count - a.count || b.last - a.last)[0]?.[0]
}

describe("suffix automaton", () => {
  test("at each token: longest repeated suffix, its count, and what followed it how often", () => {
    for (const text of texts()) {
      const automaton = new SuffixAutomaton()
      text.forEach((token, i) => {
        automaton.push(token)
        const seen = text.slice(0, i + 1)
        const suffix = repeatedSuffix(seen)
        const state = automaton.repeated
        const found = followers(seen, suffix)
        const edge = automaton.next(state)
        expect({
          ...{
            nTokens: automaton.nTokens,
            length: automaton.length(state),
            next: edge < 0 ? undefined : automaton.token(edge),
          },
          ...{
            nFollowed: automaton.nFollowed(state),
            followedByNext: edge < 0 ? 0 : automaton.count(automaton.target(edge)),
          },
        }).toEqual({
          ...{ nTokens: i + 1, length: suffix.length, next: likeliest(found) },
          nFollowed: [...found.values()].reduce((sum, { count }) => sum + count, 0),
          followedByNext: found.get(likeliest(found) ?? -1)?.count ?? 0,
        })
        if (suffix.length > 0) expect(automaton.count(state)).toBe(ends(seen, suffix).length)
      })
    }
  })

  test("every suffix of the next shorter state ends at more places", () => {
    for (const text of texts()) {
      const automaton = new SuffixAutomaton()
      for (const token of text) automaton.push(token)
      for (let state = automaton.repeated; state > 0; ) {
        const shorter = automaton.shorter(state)
        for (let length = automaton.length(state); length > automaton.length(shorter); length--) {
          expect(ends(text, text.slice(-length)).length).toBe(automaton.count(state))
        }
        state = shorter
      }
    }
  })

  test("reset forgets", () => {
    const [used, fresh] = [new LookupDrafter(), new LookupDrafter()]
    for (let i = 0; i < 3000; i++) used.push(i % 7)
    used.reset()
    const text = [...texts()][0]!
    for (const token of text) {
      used.push(token)
      fresh.push(token)
      expect(used.propose(8)).toEqual(fresh.propose(8))
    }
  })

  test("long texts: the arrays grow, and a period is followed behind its end", () => {
    const drafter = new LookupDrafter()
    for (let i = 0; i < 200_000; i++) drafter.push(i % 1000 === 999 ? i : i % 17)
    for (let i = 0; i < 17; i++) drafter.push((200_000 + i) % 17)
    const { n, tokens } = drafter.propose(20)
    expect([n, ...tokens.slice(0, n)]).toEqual([20, ...Array.from({ length: 20 }, (_, i) => (200_017 + i) % 17)])
  })
})

describe("lookup", () => {
  test("a draft goes on as the longest match did; confidence is a probability", () => {
    for (const text of texts()) {
      const drafter = new LookupDrafter(1)
      text.forEach((token, i) => {
        drafter.push(token)
        const seen = text.slice(0, i + 1)
        const suffix = repeatedSuffix(seen)
        const { n, tokens, confidences } = drafter.propose(6)
        expect(n > 0).toBe(suffix.length > 0)
        if (n > 0) expect(tokens[0]).toBe(likeliest(followers(seen, suffix))!)
        for (let k = 0; k < n; k++) {
          expect(confidences[k]!).toBeGreaterThan(0)
          expect(confidences[k]!).toBeLessThan(1)
        }
        // As long as suffix and draft occur together, nothing else followed there more often.
        const path = [...suffix]
        for (let k = 0; k < n && followers(seen, path).size > 0; k++) {
          const found = followers(seen, path)
          const count = Math.max(...[...found.values()].map((each) => each.count))
          expect(found.get(tokens[k]!)?.count).toBe(count)
          path.push(tokens[k]!)
        }
      })
    }
  })

  test("shorter matches than asked for are none, and max is kept", () => {
    for (const text of texts()) {
      const drafter = new LookupDrafter(4)
      text.forEach((token, i) => {
        drafter.push(token)
        const length = repeatedSuffix(text.slice(0, i + 1)).length
        const { n } = drafter.propose(3)
        if (length < 4) expect(n).toBe(0)
        else expect(n).toBeLessThanOrEqual(3)
      })
    }
    expect(new LookupDrafter().propose(5).n).toBe(0)
  })
})

/** One token after another, each in a pass or out of a draft. */
interface Stream {
  /** Of the draft at a token: confidences, and which of its tokens would be right. */
  draft(at: number, random: Random): { confidences: number[]; nRight: number }
  /** Milliseconds of a pass. */
  cost(n: number, random: Random): number
}

const N_TOKENS = 400

/** Time of plain decoding over that of drafting: by a controller, or by a fixed length. */
function speedUp(stream: Stream, seed: number, fixed?: number, nTokens = N_TOKENS): number {
  const random = new Random(seed)
  const controller = new Controller(new PassCosts())
  let time = 0
  for (let at = 0; at < nTokens; ) {
    const { confidences, nRight } = stream.draft(at, random)
    const n = Math.min(fixed ?? controller.choose(confidences, confidences.length), confidences.length)
    const milliseconds = stream.cost(n + 1, random)
    time += milliseconds
    controller.passed(n + 1, milliseconds)
    for (let i = 0; i < Math.min(n, nRight + 1); i++) controller.judged(i, confidences[i]!, i < nRight)
    at += 1 + Math.min(n, nRight)
  }
  return (nTokens * stream.cost(1, new Random([1, 2, 3, 4]))) / time
}

const linear = (slope: number) => (n: number) => 10 * (1 + slope * (n - 1))
const steps = (n: number) =>
  10 * [1, 1.05, 1.05, 1.05, 1.4, 1.4, 1.4, 1.4, 2.2, 2.2, 2.2, 2.2, 2.9, 2.9, 2.9, 2.9, 4][n - 1]!
const COSTS: Record<string, (n: number) => number> = {
  flat: linear(0.02),
  usual: linear(0.08),
  steep: linear(0.35),
  "each token costs a pass": linear(1),
  steps,
}

const draftOf = (n: number, confidence: number, nRight: number) => ({
  confidences: new Array<number>(n).fill(confidence),
  nRight: Math.min(n, nRight),
})
const geometric = (likelihood: number, random: Random) => {
  let n = 0
  while (n < 16 && random.double() < likelihood) n++
  return n
}
const DRAFTS: Record<string, Stream["draft"]> = {
  none: () => draftOf(0, 0, 0),
  "always wrong and sure": () => draftOf(16, 0.99, 0),
  "always wrong and unsure": () => draftOf(16, 0.1, 0),
  "wrong at the second token": () => draftOf(16, 0.9, 1),
  "wrong at the last token": () => draftOf(16, 0.9, 15),
  "always right and sure": () => draftOf(16, 0.97, 16),
  "always right and unsure": () => draftOf(16, 0.15, 16),
  "right now and then": (_, random) => draftOf(16, 0.6, geometric(0.25, random)),
  "right half the time": (_, random) => draftOf(16, 0.6, geometric(0.5, random)),
  "right mostly": (_, random) => draftOf(16, 0.8, geometric(0.85, random)),
  "turns every 50 tokens": (at) => draftOf(16, 0.9, Math.floor(at / 50) % 2 === 0 ? 16 : 0),
  "turns as soon as it is trusted": (at) => draftOf(16, 0.9, at % 40 < 12 ? 16 : 0),
  "random confidence": (_, random) => ({
    confidences: Array.from({ length: 16 }, () => random.double()),
    nRight: geometric(0.3, random),
  }),
}
const CASES = Object.entries(COSTS).flatMap(([cost, costOf]) =>
  Object.entries(DRAFTS).map(([name, draft]) => [`${name}, ${cost}`, { draft, cost: costOf }] as [string, Stream]),
)
const average = (numbers: number[]) => numbers.reduce((sum, n) => sum + n, 0) / numbers.length
const SEEDS = Array.from({ length: 8 }, (_, i) => i + 1)

describe("controller", () => {
  test.each(CASES)("never below 0.97 of plain decoding: %s", (_, stream) => {
    for (const seed of SEEDS) expect(speedUp(stream, seed)).toBeGreaterThanOrEqual(0.97)
  })

  test.each(CASES)("over a long text within 7 %% of the best fixed length: %s", (name, stream) => {
    if (name.startsWith("turns")) return expect(speedUp(stream, 1)).toBeGreaterThan(0.97) // no length is best there
    const run = (fixed?: number) => average(SEEDS.map((seed) => speedUp(stream, seed, fixed, 2000)))
    const best = Math.max(...[0, 1, 2, 3, 4, 6, 8, 12, 16].map(run))
    expect(run() / best).toBeGreaterThan(0.93)
  })

  test("passes that take now half, now twice as long do not turn it", () => {
    for (const [name, stream] of CASES) {
      const noisy: Stream = {
        draft: stream.draft,
        cost: (n, random) => stream.cost(n, random) * (random.double() < 0.05 ? 2 : 0.9 + 0.2 * random.double()),
      }
      const mean = average(SEEDS.map((seed) => speedUp(noisy, seed) / speedUp(noisy, seed, 0)))
      expect({ name, isBelow: mean < 0.97 }).toEqual({ name, isBelow: false })
    }
  })

  test("tries again: drafts that become right are found out", () => {
    const draft = (at: number) => draftOf(16, 0.9, at < 600 ? 0 : 16)
    expect(speedUp({ draft, cost: COSTS.usual! }, 1, undefined, 3000)).toBeGreaterThan(2)
  })

  test("the same numbers give the same choices", () => {
    const stream = { draft: DRAFTS["random confidence"]!, cost: COSTS.usual! }
    expect(speedUp(stream, 3)).toBe(speedUp(stream, 3))
  })
})

describe("costs", () => {
  test("between measured lengths: on the line; beyond: on with the slope; a hiccup counts for its factor at most", () => {
    const costs = new PassCosts()
    for (let i = 0; i < 4; i++) costs.observe(1, 10)
    for (let i = 0; i < 200; i++) {
      costs.observe(5, 14)
      costs.observe(9, 26)
    }
    const expected = [1, 1.2, 1.4, 2, 2.6]
    for (const [i, n] of [1, 3, 5, 7, 9].entries()) expect(costs.cost(n)).toBeCloseTo(expected[i]!, 6)
    expect(costs.cost(13)).toBeCloseTo(2.6 + 4 * 0.2, 6)
    expect([costs.largest, costs.nSingles, costs.units(25)]).toEqual([9, 4, 2.5])
    costs.observe(5, 10_000)
    expect(costs.cost(5)).toBeCloseTo(1.4 + 1.4 / 8, 6)
  })
})
