// Oracle: what was learnt before. What passes cost and how good drafts are is kept in a file beside the repacked copies,
// and a file that is wrong is as good as none.

import { afterAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load } from "../src/index.ts"
import { Acceptance } from "../src/speculative/acceptance.ts"
import { DraftCosts, PassCosts } from "../src/speculative/costs.ts"
import { forgetLearnt, Learnt } from "../src/speculative/learnt.ts"
import { ReplyLengths } from "../src/speculative/reply-lengths.ts"
import { tinyTokens, writeTinyModel } from "./tiny-model.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-learnt-"))
// A repacked copy may still be written there.
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
const target = writeTinyModel({ path: join(folder, "target.gguf"), type: "Q4_1", nVocab: 600 })
const draft = writeTinyModel({ path: join(folder, "draft.gguf"), type: "Q8_0", nVocab: 600 })

const open = (cache: string | false, more = {}) =>
  load(target, { nThreads: 1, nCtx: 128, cache, draft: { model: draft }, ...more })
const kept = (cache: string) => readdirSync(cache).filter((name) => name.startsWith("passes-"))

/** Generates until what was learnt is written. */
async function generate(cache: string | false, more = {}): Promise<void> {
  using model = await open(cache, more)
  using session = model.createSession()
  await session.generate(tinyTokens(8), { maxTokens: 100, ignoreEos: true, speculative: "auto", seed: 1 }).finish()
}

test("a state restored costs the same, a draft model's half of the way to the same", () => {
  const [costs, drafts, acceptance] = [new PassCosts(), new DraftCosts(0.5), new Acceptance(0.7)]
  for (let i = 0; i < 20; i++) {
    for (const [n, milliseconds] of [
      [1, 20],
      [3, 22],
      [8, 31],
    ] as const)
      costs.observe(n, milliseconds)
    drafts.observe(1, 5)
    drafts.observe(100, 60)
    drafts.anchor(20)
    acceptance.judge(i % 4, 0.9, i % 3 > 0)
  }
  const again = JSON.parse(JSON.stringify([costs.state, drafts.state, acceptance.state]))
  const [restored, restoredDrafts, restoredAcceptance] = [new PassCosts(), new DraftCosts(0.25), new Acceptance(0.1)]
  restored.restore(again[0])
  restoredDrafts.restore(again[1])
  restoredAcceptance.restore(again[2])
  expect(restored.largest).toBe(8)
  restored.observe(1, 20)
  for (let n = 1; n < 12; n++) expect(restored.cost(n)).toBeCloseTo(costs.cost(n), 2)
  for (const n of [1, 100]) expect(restoredDrafts.milliseconds(n, 20)).toBeCloseTo(drafts.milliseconds(n, 20), 9)
  const elsewhere = new DraftCosts(0.01)
  elsewhere.restore(again[1])
  expect(elsewhere.milliseconds(1, 20)).toBeCloseTo(20 * 0.05, 9) // between 0.25 and 0.01 of a pass
  for (let i = 0; i < 4; i++) {
    expect(restoredAcceptance.likelihood(i, 0.9)).toBeCloseTo(acceptance.likelihood(i, 0.9), 12)
  }
})

test("what is ahead of a reply is what followed in others that came as far, also after a restart", () => {
  const replies = new ReplyLengths()
  expect(replies.ahead(replies.begin())).toBe(16) // a first guess, and of one that has come to 10
  const reply = replies.begin()
  reply.nTokens = 10
  expect(replies.ahead(reply)).toBe(26)
  for (const nTokens of [12, 20, 1000]) replies.begin().nTokens = nTokens
  expect(replies.ahead(reply)).toBe((26 + 2 + 10 + 64) / 4)
  for (const nTokens of [1, 2, 3]) replies.begin().nTokens = nTokens
  expect(replies.state).toEqual([1000, 1, 2, 3])
  const restored = new ReplyLengths()
  restored.restore(JSON.parse(JSON.stringify(replies.state)))
  expect(restored.state).toEqual(replies.state)
  const next = restored.begin()
  next.nTokens = 2
  expect(restored.ahead(next)).toBe((18 + 64 + 1) / 3)
})

test("a token that is drafted and left out is expected less, and as likely where it is kept", () => {
  const acceptance = new Acceptance(0.7)
  const [expected, likelihood] = [acceptance.expected(0), acceptance.likelihood(0, 0.9)]
  acceptance.leaveOut(0)
  expect(acceptance.expected(0)).toBeCloseTo((2 * expected) / 3, 12)
  expect(acceptance.likelihood(0, 0.9)).toBe(likelihood)
})

test("written by a generation, read by the next process's model", async () => {
  const cache = join(folder, "cache")
  await generate(cache)
  expect(kept(cache).length).toBe(1)
  using model = await open(cache)
  const { costs, record } = new Learnt(model)
  const state = JSON.parse(readFileSync(join(cache, kept(cache)[0]!), "utf8"))
  expect(costs.state).toEqual(state.passes)
  expect(record!.acceptance.state).toEqual(state.draft.acceptance)
  expect(record!.replies.state).toEqual(state.draft.replies)
  expect(costs.largest).toBeGreaterThan(1)
})

test("other threads, or another draft model, have a file of their own", async () => {
  const cache = join(folder, "cache")
  await generate(cache, { nThreads: 2 })
  await generate(cache, { draft: { model: target } })
  expect(kept(cache).length).toBe(3)
})

test("a file that is wrong is not taken, and written again", async () => {
  const cache = join(folder, "wrong")
  await generate(cache)
  const path = join(cache, kept(cache)[0]!)
  const sound = JSON.parse(readFileSync(path, "utf8"))
  const wrong = [
    "",
    "null",
    "{",
    JSON.stringify({ ...sound, version: 0 }),
    JSON.stringify({ ...sound, passes: { ...sound.passes, products: ["1"] } }),
    JSON.stringify({ ...sound, passes: { ...sound.passes, counts: [-1] } }),
    JSON.stringify({ ...sound, draft: { ...sound.draft, acceptance: {} } }),
    JSON.stringify({ ...sound, draft: { ...sound.draft, replies: [null] } }),
    JSON.stringify({
      ...sound,
      draft: { ...sound.draft, costs: { ...sound.draft.costs, share: null, perToken: "x" } },
    }),
  ]
  using model = await open(cache)
  expect(new Learnt(model).costs.state).toEqual(sound.passes)
  for (const text of wrong) {
    writeFileSync(path, text)
    expect(new Learnt(model).costs.state).toEqual(new PassCosts().state)
  }
  await generate(cache)
  expect(JSON.parse(readFileSync(path, "utf8")).version).toBe(sound.version)
})

test("nothing is kept where there are no copies", async () => {
  const before = readdirSync(folder)
  await generate(false)
  expect(readdirSync(folder)).toEqual(before)
})

test("asdsl cache prune --all forgets it", async () => {
  const cache = join(folder, "pruned")
  await generate(cache)
  const [name] = kept(cache)
  writeFileSync(join(cache, "passes-of-mine.json"), "")
  expect(forgetLearnt(cache)).toEqual([join(cache, name!)])
  expect(kept(cache)).toEqual(["passes-of-mine.json"])
  expect(forgetLearnt(join(folder, "no such folder"))).toEqual([])
})
