// What bench/ says of measurements. Oracles: medians, ratios and shares computed by hand for runs made up here; llama-bench's
// own output; the layout of /proc/stat in proc(5); README as it stands.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { plansOf, verdictTable } from "../bench/checkpoints.ts"
import { depthTable } from "../bench/depth.ts"
import { LINES, MODELS } from "../bench/lines.ts"
import { machineFacts, parseCpuTime, stolenShare } from "../bench/machine.ts"
import { enginesFor } from "../bench/peers/compare.ts"
import { samplesOf } from "../bench/peers/engines.ts"
import { bestSetting, checkSame } from "../bench/peers/rounds.ts"
import {
  type Contestant,
  type Limits,
  RESULTS_FOLDER,
  type Run,
  readRun,
  saveRun,
  type Turn,
} from "../bench/peers/saved.ts"
import {
  bestPeer,
  growth,
  int8Share,
  isDisturbed,
  markdown,
  ratio,
  readMultiple,
  readShare,
  speed,
  time,
} from "../bench/peers/summary.ts"
import { nameOf, type Test, testOf } from "../bench/peers/tests.ts"
import { speedsText, withSpeeds } from "../bench/readme.ts"
import { UsageError } from "../src/cli/arguments.ts"
import { projectFolder } from "../src/setup/project.ts"

const PROMPT: Test = { kind: "prompt", n: 512 }
const DECODE: Test = { kind: "generation", n: 128 }

const limits = (readBytesPerSecond: number, int8MacsPerSecond = 4e11): Limits => ({
  readBytesPerSecond,
  int8MacsPerSecond,
})

/** A contestant whose round i took `ns[i]` for its tests; undefined: it was not there. */
function contestant(name: string, isPeer: boolean, ns: (Record<string, number[]> | undefined)[]): Contestant {
  const turns = ns.flatMap((each, i): Turn[] => {
    const bandwidth = i % 2 === 0 ? 30e9 : 60e9
    if (each === undefined) return []
    return [{ round: i + 1, before: limits(bandwidth), after: limits(bandwidth * 0.9), stolenShare: 0, ns: each }]
  })
  return { name, isPeer, version: "1", note: "nothing", trials: [], best: { tg128: "-fa 0", pp512: "-fa 1" }, turns }
}

function madeUp(contestants: readonly Contestant[], tests: readonly Test[]): Run {
  const work = { weightBytes: 6e8, kvBytes: 1e6, macs: 5e11 }
  return {
    format: 1,
    machine: { ...machineFacts(), commit: "1234567", cpu: "some CPU", nCores: 2 },
    model: { file: "model.gguf", type: "llama 1B", bytes: 7e8 },
    nThreads: 2,
    repetitions: 1,
    tests,
    work: Object.fromEntries(tests.map((test) => [nameOf(test), work])),
    contestants,
  }
}

const seconds = (pp: number, tg: number) => ({ pp512: [pp * 1e9], tg128: [tg * 1e9] })
const ours = contestant("asdsl", false, [seconds(1, 4), seconds(1, 2), seconds(2, 4)])
const slow = contestant("llama.cpp", true, [seconds(4, 8), seconds(4, 6), seconds(4, 20)])
const fast = contestant("ik_llama.cpp", true, [seconds(3, 6), undefined, seconds(3, 6)])
const run = madeUp([ours, slow, fast], [PROMPT, DECODE])

test("names of tests are llama-bench's where it has some, and lead back", () => {
  const tests: Test[] = (["prompt", "generation", "verify", "first", "start"] as const).map((kind) => ({ kind, n: 8 }))
  expect(tests.map(nameOf)).toEqual(["pp8", "tg8", "verify8", "first8", "start8"])
  expect(tests.map((each) => testOf(nameOf(each)))).toEqual(tests)
  expect(["pp", "8", "xx8", "pp8 @ d4", ""].map(testOf)).toEqual([
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ])
})

test("samples of llama-bench and of asdsl bench come under their tests' names", () => {
  const llamaBench = [
    { n_prompt: 512, n_gen: 0, samples_ns: [5, 7] },
    { n_prompt: 0, n_gen: 128, samples_ns: [9] },
  ]
  expect(samplesOf(llamaBench)).toEqual({ pp512: [5, 7], tg128: [9] })
})

describe("a run", () => {
  test("speeds: the median of the rounds, with least and most", () => {
    expect(speed(ours, DECODE)).toEqual({ median: 32, min: 32, max: 64, n: 3 })
    expect(time(slow, PROMPT)).toEqual({ median: 4e9, min: 4e9, max: 4e9, n: 3 })
    expect(speed(ours, { kind: "verify", n: 8 })).toBeUndefined()
  })

  test("a turn counts by the median of its runs", () => {
    const several = contestant("asdsl", false, [{ pp512: [1e9, 9e9, 2e9] }])
    expect(time(several, PROMPT)?.median).toBe(2e9)
  })

  test("ratios are taken within a round, and only of rounds that both have", () => {
    expect(ratio(ours, slow, DECODE)).toEqual({ median: 3, min: 2, max: 5, n: 3 })
    expect(ratio(ours, fast, PROMPT)).toEqual({ median: 2.25, min: 1.5, max: 3, n: 2 })
  })

  test("the best peer is the one with the least ratio", () => {
    expect(bestPeer(run, ours, DECODE)).toEqual({ peer: fast, ratio: { median: 1.5, min: 1.5, max: 1.5, n: 2 } })
    expect(bestPeer(run, ours, DECODE, ({ name }) => name === "llama.cpp")?.peer).toBe(slow)
    expect(bestPeer(madeUp([ours], [PROMPT]), ours, PROMPT)).toBeUndefined()
  })

  test("shares are of the better limit around the turn, weights alone", () => {
    const read = (rate: number, bandwidth: number) => (6e8 * rate) / bandwidth
    const shares = [read(32, 30e9), read(64, 60e9), read(32, 30e9)].sort()
    expect(readShare(run, ours, DECODE)?.median).toBeCloseTo(shares[1]!, 12)
    expect(int8Share(run, ours, PROMPT)?.median).toBeCloseTo(5e11 / 4e11, 12)
  })

  test("a verify curve: by the pass over one token of the same turn, and by reading the weights once", () => {
    const verify = (n: number): Test => ({ kind: "verify", n })
    const curve = contestant("asdsl", false, [
      { verify1: [20e6], verify8: [30e6] },
      { verify1: [10e6], verify8: [14e6] },
    ])
    const curves = madeUp([curve], [verify(1), verify(8)])
    expect(growth(curve, verify(8))?.median).toBeCloseTo((1.5 + 1.4) / 2, 12)
    expect(readMultiple(curves, curve, verify(8))?.max).toBeCloseTo(30e6 / ((6e8 / 30e9) * 1e9), 12)
    // In sweeps each pass has its own second, and so its own bandwidth.
    const swept = contestant("asdsl", false, [{ verify1: [10e6, 20e6, 40e6], verify8: [12e6, 30e6, 48e6] }])
    expect(growth(swept, verify(8))?.median).toBeCloseTo(1.2, 12)
    const [turn] = swept.turns
    const measured = { ...swept, turns: [{ ...turn!, readBytesPerSecond: [60e9, 30e9, 15e9] }] }
    expect(readMultiple(madeUp([measured], [verify(8)]), measured, verify(8))?.median).toBeCloseTo(1.2, 12)
    expect(markdown(curves)).toMatch(/\| verify8 +\| asdsl .* 1\.45 \|/)
  })

  test("a turn is disturbed by stolen time and by bandwidth that moves", () => {
    const turn: Turn = { round: 1, before: limits(60e9), after: limits(50e9), stolenShare: 0.01, ns: {} }
    const cases: [Partial<Turn>, boolean][] = [
      [{}, false],
      [{ stolenShare: 0.011 }, true],
      [{ stolenShare: null }, false],
      [{ after: limits(47e9) }, true],
      [{ before: limits(47e9), after: limits(60e9) }, true],
    ]
    for (const [change, expected] of cases) expect(isDisturbed({ ...turn, ...change })).toBe(expected)
  })

  test("its table has a row for each program and test, ratios for peers alone", () => {
    const rows = markdown(run)
      .split("\n")
      .filter((line) => /^\| (pp512|tg128) /.test(line))
    expect(rows).toHaveLength(6)
    expect(rows.filter((row) => row.includes(" times ")).map((row) => row.split("|")[2]!.trim())).toEqual([
      "llama.cpp",
      "ik_llama.cpp",
      "llama.cpp",
      "ik_llama.cpp",
    ])
    expect(markdown(run)).toContain("(stolen time over 1 %, or bandwidth that changed by more than 1.25): 0 of 8.\n")
  })
})

describe("trials", () => {
  test("the best is the one that made most of the bandwidth of its minute", () => {
    const trials = [
      { setting: "-fa 0", ns: { tg128: 3e9, pp512: 2e9 }, limits: limits(60e9) },
      { setting: "-fa 1", ns: { tg128: 4e9, pp512: 3e9 }, limits: limits(30e9) },
    ]
    expect(bestSetting(DECODE, trials)).toBe("-fa 1")
    expect(bestSetting(PROMPT, trials)).toBe("-fa 0")
    expect(bestSetting({ kind: "prompt", n: 8 }, trials)).toBeUndefined()
  })

  test("peers are those whose programs are named; AVX2 builds take part beside level avx2 alone", () => {
    const env = { ASDSL_PEER_IK: "/ik", ASDSL_PEER_IK_AVX2: "/avx2", ASDSL_PEER_LLAMA_CPP: "" }
    const names = (level?: string) => enginesFor(level, env).filter(({ name }) => name !== "node-llama-cpp")
    expect(
      names()
        .filter(({ isPeer }) => isPeer)
        .map(({ name }) => name),
    ).toEqual(["ik_llama.cpp", "ik_llama.cpp -rtr 1"])
    const atAvx2 = names("avx2")
    expect(atAvx2.filter(({ isPeer }) => isPeer).map(({ name }) => name)).toEqual([
      "ik_llama.cpp, AVX2",
      "ik_llama.cpp -rtr 1, AVX2",
    ])
    expect(atAvx2[0]).toMatchObject({ name: "asdsl, avx2", isPeer: false, conditions: { level: "avx2" } })
  })
})

describe("saved runs", () => {
  let folder: string
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "asdsl-bench-"))
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  test("come back as they were, and leave nothing beside", () => {
    saveRun("some-run", run, folder)
    expect(readRun("some-run", folder)).toEqual(run)
    expect(readdirSync(folder)).toEqual(["some-run.json"])
    expect(readRun("other", folder)).toBeUndefined()
  })

  test("a name is no path, and an unknown format is refused", () => {
    for (const name of ["", "a/b", "..", ".hidden", "a b"]) expect(() => saveRun(name, run, folder)).toThrow(UsageError)
    writeFileSync(join(folder, "future.json"), JSON.stringify({ ...run, format: 2 }))
    expect(() => readRun("future", folder)).toThrow("format 2")
  })

  test("rounds are added only to a run of the same asdsl, model and tests", () => {
    const job = { model: "/somewhere/model.gguf", nThreads: 2, tests: [PROMPT, DECODE], repetitions: 1 }
    expect(() => checkSame(run, job, "1234567")).not.toThrow()
    expect(() => checkSame(run, job, "7654321")).toThrow("7654321")
    for (const change of [{ model: "/other.gguf" }, { nThreads: 1 }, { tests: [PROMPT] }, { repetitions: 2 }]) {
      expect(() => checkSame(run, { ...job, ...change }, "1234567")).toThrow(UsageError)
    }
  })

  test("those of bench/results name no path, and say which machine they are of", () => {
    const names = plansOf(LINES).map(({ name }) => name)
    for (const name of names.filter((name) => existsSync(join(RESULTS_FOLDER, `${name}.json`)))) {
      const text = readFileSync(join(RESULTS_FOLDER, `${name}.json`), "utf8")
      expect(text).not.toMatch(/"[^"]*(\/home|\/root|\/tmp|\/work|[A-Z]:\\)/)
      const saved = readRun(name)!
      expect(saved.machine.cpu).toBeTruthy()
      expect(saved.contestants[0]!.turns.length).toBeGreaterThan(0)
    }
  })
})

describe("the machine", () => {
  test("stolen time, by proc(5)", () => {
    const stat = (user: number, idle: number, stolen: number) =>
      `cpu  ${user} 0 10 ${idle} 0 0 0 ${stolen} 5 0\ncpu0 1 2 3`
    expect(parseCpuTime(stat(100, 200, 7))).toEqual({ total: 317, stolen: 7 })
    expect(stolenShare(parseCpuTime(stat(100, 200, 7)), parseCpuTime(stat(150, 240, 17)))).toBeCloseTo(0.1, 12)
    for (const text of ["", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"])
      expect(parseCpuTime(text)).toBeNull()
    expect(stolenShare(null, parseCpuTime(stat(1, 1, 1)))).toBeNull()
    expect(stolenShare(parseCpuTime(stat(1, 1, 1)), parseCpuTime(stat(1, 1, 1)))).toBeNull()
  })

  test("facts name no path", () => {
    const facts = machineFacts()
    expect(facts.nCores).toBeGreaterThan(0)
    expect(facts.memoryBytes).toBeGreaterThan(1e8)
    expect(JSON.stringify(facts)).not.toMatch(/"\//)
  })
})

describe("lines", () => {
  const judge = (line: number, runs: Record<string, Run>) =>
    LINES.find((each) => each.line === line)!.judge(new Map(Object.entries(runs)))

  test("a line holds by its medians", () => {
    const [decode, share] = judge(1, { "speed-1.1b": run })
    expect(decode).toMatchObject({
      asked: ">= 1.45 times",
      got: "1.50 times (1.50-1.50)",
      against: "ik_llama.cpp",
      holds: true,
    })
    expect(share).toMatchObject({ asked: ">= 85.0 %", holds: false, against: "read bandwidth" })
    expect(judge(2, { "speed-1.1b": run })[0]).toMatchObject({ asked: ">= 2.00 times", holds: true })
    const barely = madeUp([ours, contestant("ik_llama.cpp", true, [seconds(1.9, 4)])], [PROMPT, DECODE])
    expect(judge(2, { "speed-1.1b": barely })[0]).toMatchObject({ got: "1.90 times", holds: false })
  })

  test("a curve holds below its bounds", () => {
    const costs = { 1: 1, 2: 1.1, 4: 1.21, 8: 1.3, 16: 2.5 }
    const ns = Object.fromEntries(Object.entries(costs).map(([n, cost]) => [`verify${n}`, [20e6 * cost]]))
    const tests = Object.keys(costs).map((n): Test => ({ kind: "verify", n: Number(n) }))
    const verdicts = judge(4, { "verify-1.1b": madeUp([contestant("asdsl", false, [ns])], tests) })
    expect(verdicts.slice(0, 5).map(({ holds }) => holds)).toEqual([true, false, true, false, true])
  })

  test("what was not measured does not hold", () => {
    for (const { line } of LINES) {
      const verdicts = judge(line, {})
      expect(verdicts.length).toBeGreaterThan(0)
      expect(verdicts.every(({ holds, got }) => holds !== true && got === "not measured")).toBe(true)
      expect(verdictTable(verdicts).split("\n")).toHaveLength(verdicts.length + 3)
    }
  })

  test("the larger model is held against the smaller one's share", () => {
    const at = (tg: number) => madeUp([contestant("asdsl", false, [{ tg128: [tg * 1e9] }])], [DECODE])
    expect(judge(6, { "alone-1.1b": at(4), "alone-3.8b": at(4) })[0]!.holds).toBe(true)
    expect(judge(6, { "alone-1.1b": at(4), "alone-3.8b": at(4.1) })[0]!.holds).toBe(false)
    expect(judge(6, { "alone-3.8b": at(4) })[0]!.holds).toBe(false)
  })

  test("a run that several lines stand on is made once; every model is known", () => {
    const plans = plansOf(LINES)
    const names = plans.map(({ name }) => name)
    expect(new Set(names).size).toBe(names.length)
    expect(plansOf(LINES, ["speed-1.1b"]).map(({ model }) => model)).toEqual(["1.1b"])
    expect(() => plansOf(LINES, ["speed-9b"])).toThrow("speed-9b")
    const known = (
      JSON.parse(readFileSync(join(projectFolder, "models/manifest.json"), "utf8")) as { models: { name: string }[] }
    ).models
    for (const { model } of plans) {
      const entry = MODELS[model]
      if ("known" in entry) expect(known.map(({ name }) => name)).toContain(entry.known)
    }
  })
})

describe("README's speeds", () => {
  const find = (runs: Record<string, Run>) => (name: string) => runs[name]

  test("a program's row has the better of its settings for each test", () => {
    const repacked = contestant("ik_llama.cpp -rtr 1", true, [seconds(9, 5), seconds(9, 5), seconds(9, 5)])
    const text = speedsText(find({ "speed-1.1b": madeUp([ours, fast, repacked], [PROMPT, DECODE]) }))
    const row = text.split("\n").find((line) => line.includes("| ik_llama.cpp "))!
    // Prompt by the plain setting (171 tok/s, 2.25 times), tokens by -rtr 1 (25.6 tok/s, 1.25 times).
    expect(
      row
        .split("|")
        .map((cell) => cell.trim())
        .slice(2, -1),
    ).toEqual([...["ik_llama.cpp", "171", "2.25 times", "42 %"], ...["25.6", "1.25 times", "51 %"]])
    expect(text).toContain("commit 1234567")
    expect(text).toContain("Medians of 2 alternating rounds")
  })

  test("stand between the markers, and nothing else moves", () => {
    const marked = "a\n<!-- speeds: by bench/readme.ts from bench/results/ -->\nold\n<!-- /speeds -->\nb\n"
    const wanted = withSpeeds(marked, "new\n")!
    expect(wanted).toBe(marked.replace("old", "new"))
    expect(withSpeeds(wanted, "new\n")).toBe(wanted)
    for (const text of ["", "a", marked + marked, marked.replace("<!-- /speeds -->", "")]) {
      expect(withSpeeds(text, "new\n")).toBeUndefined()
    }
  })

  test("are those of the saved results", () => {
    const text = readFileSync(join(projectFolder, "README.md"), "utf8")
    expect(withSpeeds(text, speedsText(readRun))).toBe(text)
  })
})

test("decoding at a depth: against the hardest peer of each round, and against depth 0", () => {
  const program = (name: string, isPeer: boolean, ns: Record<string, number[]>, more = {}) => {
    return { name, isPeer, version: "1", ns, ...more }
  }
  const [deep, shallow] = ["decode 4096 10", "decode 0 10"]
  const table = depthTable({
    tests: [deep],
    readBytesPerSecond: [40e9, 50e9, 44e9],
    programs: [
      program(
        "asdsl q8_0",
        false,
        { [shallow]: [4e8, 2e8, 1e8], [deep]: [5e8, 2.5e8, 1e8] },
        { residentBytes: [1e6, 3.5e6] },
      ),
      program("slow", true, { [deep]: [20e8, 20e8, 20e8] }),
      program("fast", true, { [deep]: [10e8, 4e8, 3e8] }), // 2, 1.6 and 3 times as long
    ],
  })
  const rows = table.split("\n").map((line) => line.split(/\s*\|\s*/).slice(1, -1))
  expect(rows).toContainEqual(["asdsl q8_0", shallow, "50.0", "", ""])
  expect(rows).toContainEqual(["asdsl q8_0", deep, "40.0", "2.00", "80.0 %"])
  expect(rows).toContainEqual(["fast", deep, "25.0", "", ""])
  expect(table).toContain(
    "Medians of rounds; ratios are medians of each round's. Read bandwidth before rounds: 40.0 to 50.0 GB/s.",
  )
  expect(table).toContain("asdsl q8_0 2.5 MB")
})
