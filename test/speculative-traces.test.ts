// Oracle: every fixed setting, run over the same recorded replies at the same costs. What `auto` decides there needs no
// model and no clock: test/draft-traces.ts.

import { describe, expect, test } from "bun:test"
import type { DraftState } from "../src/speculative/costs.ts"
import { type Machine, nothingLearnt, type Outcome, readTraces, replay, type Setting } from "./draft-traces.ts"

/** As Qwen2.5-Coder-1.5B Q4_K_M with its 0.5B as draft is on 2 cores of Zen 4: memory at 31 GB/s, 33 ms a pass, and twice
 * as fast, where products are most of a longer pass; where each token more costs a tenth; and on 2 cores of Zen 3, which
 * have no instruction for integer dots. */
const slow = { products: (n: number) => 0.1 + 0.155 * n, step: 0.235, read: 0.035 }
const fast = { products: (n: number) => 0.15 + 0.23 * n, step: 0.28, read: 0.062 }
const tenth = { products: (n: number) => 1 + 0.1 * (n - 1), step: 0.25, read: 0.05 }
const plain = { products: (n: number) => Math.max(0.93 + 0.07 * n, 0.35 + 0.2 * n), step: 0.245, read: 0.066 }
const MACHINES: Record<string, Machine> = {
  "slow memory": { ...slow, noise: 0, drift: 0 },
  "fast memory": { ...fast, noise: 0, drift: 0 },
  "slow memory, disturbed": { ...slow, noise: 0.03, drift: 0 },
  "memory of changing speed, disturbed": { ...fast, noise: 0.03, drift: 0.25 },
  "a tenth a token, disturbed": { ...tenth, noise: 0.03, drift: 0 },
  "no integer dots, disturbed": { ...plain, noise: 0.05, drift: 0.1 },
}
const SEEDS = [1, 2, 3, 4]

/** Of the best fixed setting, which nobody knows beforehand: what it takes to find out what passes cost is part of the rest. */
const NEAR = 0.94
const NEAR_DISTURBED = 0.86
/** The same where replies copy from their prompts: there the best setting is the longest lookups from the first token on, and
 * what `auto` tries first, and reads by the draft model before it is known that lookups are enough, is a tenth of the time. */
const COPYING = ["edit a file", "quote a text", "continue a table"]
const NEAR_COPYING = 0.85
/** Replies of 8 to 30 tokens: few that were read for repaid it, which is known when they are over. */
const SHORT = ["translation"]
const NEAR_SHORT = 0.86
const LEAST_SHORT = 0.93
/** Of plain decoding, elsewhere. */
const LEAST = 0.97

const traces = readTraces()

const OFF: Setting = { mode: "off", maxDraft: 0 }
const AUTO: Setting = { mode: "auto", maxDraft: 16 }
const LOOKUPS = [2, 4, 8, 16].map((maxDraft): Setting => ({ mode: "lookup", maxDraft }))
const FIXED = [OFF, ...LOOKUPS, ...[2, 4, 8].map((maxDraft): Setting => ({ mode: "draft", maxDraft }))]

/** By category, over all traces one after another, for each seed from nothing or from what was learnt before. */
function run(setting: Setting, machine: Machine, before?: DraftState): Map<string, Outcome> {
  const sums = new Map<string, Outcome>()
  for (const seed of SEEDS) {
    const learnt = nothingLearnt(machine)
    if (before !== undefined) learnt.record.costs.restore(before)
    else replay(traces.at(-1)!, AUTO, machine, learnt, seed) // a model's first reply is what costs are learnt by
    for (const trace of traces) {
      const outcome = replay(trace, setting, machine, learnt, seed)
      const sum = sums.get(trace.category) ?? { milliseconds: 0, nTokens: 0, nDrafted: 0, nAccepted: 0 }
      for (const field of ["milliseconds", "nTokens", "nDrafted", "nAccepted"] as const) sum[field] += outcome[field]
      sums.set(trace.category, sum)
    }
  }
  return sums
}

/** Plain decoding's time over the setting's. */
function speedUps(setting: Setting, machine: Machine): Map<string, number> {
  const [plain, own] = [run(OFF, machine), run(setting, machine)]
  return new Map(
    [...plain].map(([category, { milliseconds }]) => [category, milliseconds / own.get(category)!.milliseconds]),
  )
}

/** The best setting's, in each category. */
function best(settings: readonly Setting[], machine: Machine): Map<string, number> {
  const all = settings.map((setting) => speedUps(setting, machine))
  return new Map([...all[0]!.keys()].map((category) => [category, Math.max(...all.map((each) => each.get(category)!))]))
}

describe.each(Object.entries(MACHINES))("%s", (_, machine) => {
  const near = machine.noise > 0 ? NEAR_DISTURBED : NEAR
  const nearIn = (category: string) => (COPYING.includes(category) ? NEAR_COPYING : near)
  test("with a draft model: never slower than plain decoding, and beside the best fixed setting", () => {
    const [auto, fixed] = [speedUps(AUTO, machine), best(FIXED, machine)]
    for (const [category, speedUp] of auto) {
      const [least, share] = SHORT.includes(category) ? [LEAST_SHORT, NEAR_SHORT] : [LEAST, nearIn(category)]
      expect({ category, speedUp, isBelow: speedUp < Math.max(least, share * fixed.get(category)!) }).toMatchObject({
        isBelow: false,
      })
    }
  })

  test("lookups alone: never slower than plain decoding, and beside the best fixed length", () => {
    const auto = speedUps({ ...AUTO, isAlone: true }, machine)
    for (const [category, fixed] of best([OFF, ...LOOKUPS], machine)) {
      const speedUp = auto.get(category)!
      const least = Math.max(LEAST, nearIn(category) * fixed)
      expect({ category, speedUp, least, isBelow: speedUp < least }).toMatchObject({ isBelow: false })
    }
  })

  test("of what is drafted, enough is accepted", () => {
    const sums = [...run(AUTO, machine).values()]
    const sum = (field: keyof Outcome) => sums.reduce((total, each) => total + each[field], 0)
    expect(sum("nAccepted") / sum("nDrafted")).toBeGreaterThan(0.65)
  })
})

test("a machine whose draft model costs as much as the model itself: none is asked, and nothing is lost", () => {
  const machine: Machine = { ...slow, step: 1, read: 0.2, noise: 0, drift: 0 }
  const auto = speedUps(AUTO, machine)
  const alone = speedUps({ ...AUTO, isAlone: true }, machine)
  for (const [category, speedUp] of auto) expect(speedUp).toBeGreaterThan(0.95 * alone.get(category)!)
})

test.each(Object.entries({ fast, plain }))("short replies, one after another: few texts are read, %s", (_, costs) => {
  const machine: Machine = { ...costs, noise: 0, drift: 0 }
  const short = traces.filter(({ category }) => SHORT.includes(category))
  const time = (setting: Setting) => {
    const learnt = nothingLearnt(machine)
    const before = traces.filter(({ category }) => category === "math") // replies that repay it
    for (const trace of [...before, ...short]) replay(trace, setting, machine, learnt, 1)
    return short.reduce((sum, trace) => sum + replay(trace, setting, machine, learnt, 1).milliseconds, 0)
  }
  expect(time(OFF) / time(AUTO)).toBeGreaterThan(1)
})

test.each([0, 1])(
  "a text that took the draft model long to read does not keep it from the next, %i before it",
  (nBefore) => {
    const machine: Machine = { ...plain, noise: 0, drift: 0 }
    const all = traces.filter(({ category }) => category === "math")
    const time = (stalled: number) => {
      const learnt = nothingLearnt(machine)
      learnt.record.costs.anchor(25)
      for (const trace of all.slice(0, nBefore)) replay(trace, AUTO, machine, learnt, 1)
      if (stalled > 0) learnt.record.costs.observe(100, stalled) // other programs ran, or the weights came from the disk
      return all.reduce((sum, trace) => sum + replay(trace, AUTO, machine, learnt, 1).milliseconds, 0)
    }
    expect(time(0) / time(5000)).toBeGreaterThan(0.9)
  },
)

/** Tokens a millisecond over all traces. */
function speed(outcomes: Map<string, Outcome>): number {
  const sum = (field: keyof Outcome) => [...outcomes.values()].reduce((total, each) => total + each[field], 0)
  return sum("nTokens") / sum("milliseconds")
}

test("costs that were learnt while other programs ran do not keep the draft model out", () => {
  const machine: Machine = { ...slow, noise: 0, drift: 0 }
  const nothing = { products: [], counts: [] }
  const usual = speed(run(AUTO, machine, { passes: nothing, share: slow.step, perToken: 25 * slow.read }))
  const disturbed = speed(run(AUTO, machine, { passes: nothing, share: 1, perToken: 25 * 10 * slow.read }))
  expect(disturbed / usual).toBeGreaterThan(0.95)
})
