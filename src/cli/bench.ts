// asdsl bench: llama-bench's tests and rows, with what they make of the machine's two limits.

import { Profiler } from "../eval/profile.ts"
import { runTest, type SpeedTest, testLength, testName } from "../eval/speed.ts"
import type { Model } from "../model.ts"
import { type Command, group, integer, integers, texts, toggle, UsageError, type Values } from "./arguments.ts"
import { type BenchRecord, benchRecord, benchReport, type Limits } from "./bench-report.ts"
import { contextFlags, loadFlags, modelFlags, outputFlag, threadFlags } from "./flags.ts"
import { loadFile, loadOptions, modelFile } from "./load.ts"
import { runCommand, writeOut } from "./program.ts"
import { StatusLine } from "./status.ts"

const MAX_TOKENS = 2 ** 24
const { cpuMask, cpuRange, poll, level } = threadFlags
const { nBatch, nUbatch, prefill, typeK, typeV } = contextFlags

const flags = {
  ...modelFlags,
  ...loadFlags,
  ...group("Tests", {
    nPrompt: integers("-p, --n-prompt", {
      min: 0,
      max: MAX_TOKENS,
      initial: [512],
      help: "prompt lengths; 0: no such test",
    }),
    nGen: integers("-n, --n-gen", {
      min: 0,
      max: MAX_TOKENS,
      initial: [128],
      help: "tokens to generate; 0: no such test",
    }),
    nVerify: integers("--n-verify", {
      min: 0,
      max: MAX_TOKENS,
      initial: [0],
      help: "tokens of a pass with logits for each, as a draft is verified; 0: no such test",
    }),
    promptAndGen: texts("-pg", { value: "N,N", help: "a prompt and tokens after it, timed as one" }),
    nDepth: integers("-d, --n-depth", {
      min: 0,
      max: MAX_TOKENS,
      initial: [0],
      help: "tokens in the context before a test",
    }),
    repetitions: integer("-r, --repetitions", { min: 1, max: 10000, initial: 5, help: "runs of each test" }),
    hasProfile: toggle("--profile", { initial: false, help: "where the time goes, by kind of operation and by layer" }),
    skipsWarmup: toggle("--no-warmup", { initial: false, help: "do not run each test once untimed" }),
  }),
  ...group("Threads", {
    nThreads: integers("-t, --threads", {
      min: 0,
      max: 1024,
      initial: [0],
      help: "threads, one series of tests each; 0: one per physical core",
    }),
    cpuMask,
    cpuRange,
    poll,
    level,
  }),
  ...group("Context", { nBatch, nUbatch, prefill, typeK, typeV }),
  ...outputFlag(["md", "json", "csv"]),
}

export const command: Command<typeof flags> = {
  name: "asdsl bench",
  summary: "measures prompt and generation speed, as llama-bench, and the share of the machine's limits",
  usage: "[-m MODEL] [-p 512] [-n 128] [-r 5] [-t 1,2] [-d 0] [-o md|json|csv]",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<void> {
  const tests = testsOf(values)
  if (values.hasProfile && values.output === "csv") throw new UsageError("--profile needs -o md or json")
  const file = await modelFile(values)
  using status = new StatusLine()
  const report = benchReport(values.output as "md" | "json" | "csv")
  let head = report.head() // with the first row, so that nothing is printed where nothing can be measured
  for (const nThreads of values.nThreads) {
    for await (const record of series(file, tests, nThreads, values, status)) {
      status.clear()
      await writeOut(head + report.row(record))
      head = ""
    }
  }
  await writeOut(report.foot())
}

/** llama-bench's order: for each depth prompts, generations, both; then ours. */
function testsOf({ nPrompt, nGen, nVerify, promptAndGen, nDepth }: Values<typeof flags>): SpeedTest[] {
  const pairs = promptAndGen.map(readPair)
  const tests = nDepth.flatMap((depth) => [
    ...nPrompt.map((n) => ({ nPrompt: n, nGen: 0, nDepth: depth })),
    ...nGen.map((n) => ({ nPrompt: 0, nGen: n, nDepth: depth })),
    ...pairs.map(([prompt, gen]) => ({ nPrompt: prompt, nGen: gen, nDepth: depth })),
    ...nVerify.map((n) => ({ nPrompt: 0, nGen: 0, nDepth: depth, nVerify: n })),
  ])
  const wanted = tests.filter((test) => testLength(test) > test.nDepth)
  if (wanted.length === 0) throw new UsageError("-p 0 and -n 0 leave nothing to measure")
  return wanted
}

function readPair(text: string): [number, number] {
  const parts = /^(\d{1,8}),(\d{1,8})$/.exec(text)
  if (parts === null) throw new UsageError(`-pg is "${text}", two whole numbers are needed: -pg 512,128`)
  return [Number(parts[1]), Number(parts[2])]
}

/** All tests with one number of threads: the weights are loaded by the threads that use them. */
async function* series(
  file: string,
  tests: readonly SpeedTest[],
  nThreads: number,
  values: Values<typeof flags>,
  status: StatusLine,
): AsyncGenerator<BenchRecord> {
  const nCtx = Math.max(...tests.map(testLength))
  const options = { ...loadOptions({ ...values, nThreads, nCtx }), nThreads }
  using model = await loadFile(file, options)
  if (model.saved !== undefined) status.show("writing the model's repacked copy for the next start")
  await model.saved // not beside what is measured
  using session = model.createSession()
  let before = probe(model)
  for (const test of tests) {
    const name = `${testName(test)}, ${model.engineInfo().nThreads} threads`
    const samples: number[] = []
    if (!values.skipsWarmup) {
      status.show(`${name}: warm-up`)
      runTest(session, test)
    }
    const profiler = values.hasProfile ? new Profiler(model) : undefined
    for (let i = 0; i < values.repetitions; i++) {
      status.show(`${name}: run ${i + 1} of ${values.repetitions}`)
      samples.push(runTest(session, test))
      await new Promise((resume) => setImmediate(resume)) // lets a Ctrl-C through
    }
    const profile = profiler === undefined ? {} : { profile: profiler.profile(test, samples, options) }
    const after = probe(model)
    const limits = {
      bytesPerSecond: Math.max(before.bytesPerSecond, after.bytesPerSecond),
      macsPerSecond: Math.max(before.macsPerSecond, after.macsPerSecond),
    }
    before = after
    yield { ...benchRecord({ model, options, test, samples, limits }), ...profile }
  }
}

/** The machine's limits with the model's own threads, measured around each test: a shared host drifts. */
function probe(model: Model): Limits {
  return { bytesPerSecond: model.probe("bandwidth"), macsPerSecond: model.probe("int8") }
}
