// Oracles: llama-bench's test names; work counted token by token and matrix by matrix; what a session holds afterwards.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { countersText } from "../src/cli/bench-report.ts"
import { modelType, paramsOf, tensorBytesOf, typeShares } from "../src/cli/model-facts.ts"
import { StatusLine } from "../src/cli/status.ts"
import { csvLine, factTable, formatBytes, formatCount, tableHead, tableRow } from "../src/cli/table.ts"
import { Profiler } from "../src/eval/profile.ts"
import { randomTokens, runTest, testLength, testName, workOf } from "../src/eval/speed.ts"
import { load, type Model } from "../src/index.ts"
import { writeTinyModel } from "./tiny-model.ts"

let folder: string
const models: { tied: boolean; model: Model }[] = []

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "asdsl-speed-"))
  for (const tied of [true, false]) {
    const path = writeTinyModel({ path: join(folder, `${tied}.gguf`), type: "Q8_0", tied })
    models.push({ tied, model: await load(path, { nThreads: 1, nUbatch: 16 }) })
  }
})

afterAll(() => {
  for (const { model } of models) model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

test("names are llama-bench's", () => {
  const name = (nPrompt: number, nGen: number, nDepth: number) => testName({ nPrompt, nGen, nDepth })
  expect([name(512, 0, 0), name(0, 128, 0), name(512, 128, 0)]).toEqual(["pp512", "tg128", "pp512+tg128"])
  expect([name(512, 0, 4096), name(0, 32, 64)]).toEqual(["pp512 @ d4096", "tg32 @ d64"])
  expect(testName({ nPrompt: 0, nGen: 0, nDepth: 8, nVerify: 4 })).toBe("verify4 @ d8")
})

describe("work", () => {
  // 2 layers of width 96, 3 query heads and 1 key head of 32, feed-forward 192, vocabulary 200.
  const layer = 96 * 96 + 2 * 32 * 96 + 96 * 96 + 3 * 192 * 96
  const output = 200 * 96

  test("multiply-accumulates, counted token by token", () => {
    for (const { model } of models) {
      for (const test of [
        { nPrompt: 7, nGen: 0, nDepth: 0 },
        { nPrompt: 0, nGen: 5, nDepth: 3 },
        { nPrompt: 6, nGen: 4, nDepth: 9 },
        { nPrompt: 0, nGen: 0, nDepth: 9, nVerify: 5 },
      ]) {
        let [matrix, attention] = [0, 0]
        for (let i = 0; i < testLength(test) - test.nDepth; i++) {
          matrix += 2 * layer
          if (i >= test.nPrompt - 1) matrix += output // the prompt's last row, and each generated one
          const seen = test.nDepth + i + 1
          for (let head = 0; head < 2 * 3; head++) attention += seen * 32 + seen * 32
        }
        const work = workOf(model, test)
        expect([work.matrixMacs, work.attentionMacs]).toEqual([matrix, attention])
      }
    }
  })

  test("bytes of a generated token: a table that is only gathered from is not read", () => {
    const bytesOf = (macs: number) => (macs / 32) * 34 // Q8_0
    const norms = 4 * 96 * (2 * 2 + 1)
    for (const { model } of models) {
      const work = workOf(model, { nPrompt: 0, nGen: 3, nDepth: 10 }, { typeK: "f16", typeV: "f32" })
      const least = bytesOf(2 * layer + output) + norms
      expect(work.weightBytesPerToken).toBeGreaterThanOrEqual(least)
      expect(work.weightBytesPerToken).toBeLessThan(1.03 * least) // rows and blocks are padded to whole records
      expect(work.kvBytesPerToken).toBe(((11 + 12 + 13) / 3) * 2 * 1 * 32 * (2 + 4))
      expect(workOf(model, { nPrompt: 8, nGen: 0, nDepth: 0 }).kvBytesPerToken).toBe(0)
    }
    const [tied, untied] = [models[0]!.model, models[1]!.model]
    expect(untied.nParams - tied.nParams).toBe(output) // it is there,
    expect(untied.streamedBytes).toBe(tied.streamedBytes) // and not counted
  })
})

test("random tokens repeat, are of the vocabulary, and use all of it", () => {
  const tokens = randomTokens(5000, 200)
  expect(randomTokens(10, 200)).toEqual(tokens.subarray(0, 10))
  expect([Math.min(...tokens), Math.max(...tokens), new Set(tokens).size]).toEqual([0, 199, 200])
})

test("a run fills the depth once and leaves its tokens behind", () => {
  const { model } = models[0]!
  using session = model.createSession()
  const speedTest = { nPrompt: 20, nGen: 3, nDepth: 18 }
  const passesOf = () => {
    const before = model.passes
    expect(runTest(session, speedTest)).toBeGreaterThan(0)
    expect(session.tokens).toEqual(Array.from(randomTokens(testLength(speedTest), 200)))
    return model.passes - before
  }
  // Micro-batches of 16: two for the depth, two for the prompt, one for each generated token.
  expect([passesOf(), passesOf(), passesOf()]).toEqual([7, 5, 5])
  const before = model.passes
  expect(runTest(session, { nPrompt: 0, nGen: 0, nDepth: 18, nVerify: 4 })).toBeGreaterThan(0)
  expect([model.passes - before, session.tokens.length]).toEqual([1, 22])
  for (let row = 0; row < 4; row++) expect(session.row(row).nCandidates).toBeGreaterThan(0)
  expect(runTest(session, { nPrompt: 0, nGen: 2, nDepth: 0 })).toBeGreaterThan(0)
  expect(session.tokens.length).toBe(2)
})

test("facts of a header follow from its tensors", () => {
  const { model } = models[1]!
  const { header } = model
  expect(paramsOf(header)).toBe(model.nParams)
  expect(tensorBytesOf(header)).toBe(Array.from(header.tensors.values()).reduce((sum, { bytes }) => sum + bytes, 0))
  expect(typeShares(header).map(({ type }) => type)).toEqual(["Q8_0", "F32"])
  expect(modelType(header)).toMatch(/^llama \d+\.\d\dM Q8_0$/)
  const named = (key: string, value: string | number) => ({
    ...header,
    metadata: new Map([...header.metadata, [key, value]]),
  })
  expect(modelType(named("general.size_label", "1.1B"))).toBe("llama 1.1B Q8_0")
  expect(modelType(named("general.file_type", 15))).toEndWith("Q4_K - Medium")
})

describe("output", () => {
  const columns = [
    { name: "name", width: 6, align: "left" },
    { name: "n", width: 5, align: "right" },
  ] as const

  test("every line of a table has the columns of its head", () => {
    expect(tableHead(columns)).toBe("| name   |     n |\n| :----- | ----: |\n")
    expect(tableRow(columns, ["a", "1.5"])).toBe("| a      |   1.5 |\n")
    expect(tableRow(columns, ["a|b\nc", "123456"])).toBe("| a\\|b c | 123456 |\n")
    expect(factTable("cpu", [["cores", "2"]])).toBe("| cpu   |     |\n| :---- | :-- |\n| cores | 2   |\n")
  })

  test("CSV fields are quoted, numbers and bytes are llama-bench's", () => {
    expect(csvLine(["a", 1.5, 'say "hi", you'])).toBe('"a","1.5","say ""hi"", you"\n')
    expect([formatCount(134515008), formatCount(1.1e9)]).toEqual(["134.52 M", "1.10 B"])
    expect([formatBytes(512), formatBytes(96576768), formatBytes(5e9)]).toEqual(["0.50 KiB", "92.10 MiB", "4.66 GiB"])
  })

  test("a status line is for terminals", () => {
    const written: string[] = []
    const stream = (isTTY: boolean) => ({ isTTY, write: (text: string) => written.push(text) })
    {
      using line = new StatusLine(stream(false))
      line.show("working")
    }
    expect(written).toEqual([])
    {
      using line = new StatusLine(stream(true))
      line.show("working")
    }
    expect(written.join("")).toBe("\r\x1b[Kworking\r\x1b[K")
  })
})

describe("counters", () => {
  test("what the system counts grows with the runs, what it does not has a reason", () => {
    const { model } = models[0]!
    using session = model.createSession()
    const profiler = new Profiler(model)
    const test = { nPrompt: 16, nGen: 0, nDepth: 0 }
    const { counts, notCounted } = profiler.profile(test, [runTest(session, test)])
    const isWhole = Object.keys(counts).length === 5
    expect(notCounted === null).toBe(isWhole)
    if (notCounted !== null) expect(notCounted).toMatch(/^count: no [\w -]+: \S/)
    for (const count of Object.values(counts)) expect(count).toBeGreaterThanOrEqual(0)
    if (counts.instructions !== undefined) expect(counts.instructions).toBeGreaterThan(1e5) // 2 M multiply-accumulates
  })

  test("text: all, some, none", () => {
    const all = { instructions: 3e9, cycles: 2e9, l1dMisses: 4e6, llcMisses: 2e6, pageFaults: 3 }
    expect(countersText({ counts: all, notCounted: null })).toBe(
      "hardware counters: 3.00 B instructions (1.50 a cycle), 2.00 B cycles, 4.00 M L1 data misses, " +
        "2.00 M last-level cache misses; page faults: 3",
    )
    expect(countersText({ counts: { pageFaults: 0 }, notCounted: "why" })).toBe(
      "hardware counters: not supported (why); page faults: 0",
    )
    expect(countersText({ counts: {}, notCounted: "why" })).toBe("hardware counters: not supported (why)")
  })
})

describe("profile", () => {
  const sum = (
    rows: readonly { nanoseconds: number; bytes: number; macs: number }[],
    key: "nanoseconds" | "bytes" | "macs",
  ) => rows.reduce((total, row) => total + row[key], 0)

  test("kinds and layers are cuts of the same whole, which is the work of the test and no more than its time", () => {
    for (const { model } of models) {
      for (const test of [
        { nPrompt: 0, nGen: 3, nDepth: 10 },
        { nPrompt: 40, nGen: 0, nDepth: 0 },
        { nPrompt: 0, nGen: 0, nDepth: 6, nVerify: 8 },
      ]) {
        using session = model.createSession()
        runTest(session, test)
        const profiler = new Profiler(model)
        const samples = [runTest(session, test), runTest(session, test)]
        const { kinds, layers } = profiler.profile(test, samples)
        for (const key of ["nanoseconds", "bytes", "macs"] as const) {
          expect(sum(layers, key)).toBeCloseTo(sum(kinds, key), 3)
        }
        // What no op took is a row of its own, so the sum is the time of a run.
        const mean = (samples[0]! + samples[1]!) / 2
        expect(sum(kinds, "nanoseconds")).toBeWithin(0.999 * mean, 1.001 * mean)
        const rest = kinds.filter(({ what }) => what === "between ops")
        expect(rest.every(({ nanoseconds }) => nanoseconds > 0)).toBeTrue()
        expect(layers.map(({ what }) => what).slice(0, 3)).toEqual(["outside of layers", "layer 0", "layer 1"])
        expect(layers.slice(3)).toEqual(rest)
        const work = workOf(model, test)
        if (test.nVerify !== undefined) {
          expect(sum(kinds, "bytes")).toBeCloseTo(work.weightBytesPerToken, 3) // once, for all its tokens
          expect(sum(kinds, "macs")).toBe(work.matrixMacs + work.attentionMacs)
        } else if (test.nPrompt === 0) {
          expect(sum(kinds, "bytes")).toBeCloseTo(3 * (work.weightBytesPerToken + work.kvBytesPerToken), 3)
          expect(sum(kinds, "macs")).toBe(work.matrixMacs + work.attentionMacs)
        } else {
          // What follows the last layer's attention runs for the one row of logits alone.
          const skipped = 39 * (96 * 96 + 3 * 192 * 96)
          expect(sum(kinds, "macs")).toBe(work.matrixMacs + work.attentionMacs - skipped)
        }
        const gateUp = kinds.find(({ what }) => what === "gate_up ffn_gate+ffn_up")!
        expect(gateUp.slots.every((slot) => slot.startsWith("q8_0."))).toBeTrue()
      }
    }
  })
})
