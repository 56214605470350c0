// asdsl beside its peers: same GGUF, same threads, each peer at the best of its settings, in alternating rounds
// (A B C A B C ...), with the machine's two limits measured before every turn, because a shared host drifts.
//
//   cd bench/peers && npm install && cd ../..
//   bun bench/peers/compare.ts -m MODEL.gguf -t 2
//
// Prints a Markdown table and JSON. llama-bench programs built elsewhere take part by ASDSL_PEER_LLAMA_CPP, ASDSL_PEER_IK
// and ASDSL_PEER_IK_AVX2 (paths). Every peer's setting is first tried with one run; rounds follow with the best for each
// test. A ratio is the median over rounds of asdsl's speed by the peer's in the same round.

import { realpathSync } from "node:fs"
import { type Command, group, integer, UsageError, type Values } from "../../src/cli/arguments.ts"
import { buildCommit } from "../../src/cli/commit.ts"
import { modelFlags, outputFlag, threadFlags } from "../../src/cli/flags.ts"
import { modelFile } from "../../src/cli/load.ts"
import { runCommand, warn } from "../../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../../src/cli/table.ts"
import { median } from "../../src/eval/statistics.ts"
import { Engine as NativeEngine } from "../../src/native/handles.ts"
import {
  asdsl,
  type Engine,
  type Job,
  llamaBenchEngines,
  nodeLlamaCpp,
  type Samples,
  type Setting,
  type Work,
} from "./engines.ts"

const flags = {
  ...modelFlags,
  ...group("Tests", {
    nPrompt: integer("-p, --n-prompt", {
      min: 0,
      max: 2 ** 20,
      initial: 512,
      help: "tokens of the prompt; 0: no such test",
    }),
    nGen: integer("-n, --n-gen", { min: 0, max: 2 ** 20, initial: 128, help: "tokens to generate; 0: no such test" }),
    rounds: integer("-r, --rounds", {
      min: 1,
      max: 1000,
      initial: 5,
      help: "rounds; each engine has one turn in each",
    }),
    nThreads: { ...threadFlags.nThreads, help: "threads of every engine; 0: one per physical core" },
    level: threadFlags.level,
  }),
  ...outputFlag(["all", "md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/peers/compare.ts",
  summary: "asdsl beside node-llama-cpp and llama-bench programs, alternating",
  usage: "[-m FILE] [-p 512] [-n 128] [-r 5] [-t N] [-o all|md|json]",
  flags,
}

type Test = "pp" | "tg"
const TESTS = ["pp", "tg"] as const

interface Limits {
  readonly readBytesPerSecond: number
  readonly int8MacsPerSecond: number
}

/** A turn of an engine: the limits before it, and tokens/s of each test. */
interface Turn {
  readonly limits: Limits
  readonly speed: Partial<Record<Test, number>>
  readonly work?: Work
}

interface Contestant {
  readonly engine: Engine
  /** The best setting for each test, by trial. */
  readonly best: Readonly<Record<Test, Setting>>
  /** Tokens/s of every setting tried. */
  readonly trials: readonly { readonly label: string; readonly speed: Partial<Record<Test, number>> }[]
  readonly turns: Turn[]
}

const since = performance.now()

function say(text: string): void {
  warn(`[${((performance.now() - since) / 1000).toFixed(0).padStart(4)} s] ${text}`)
}

function probe(nThreads: number): Limits {
  using engine = NativeEngine.create({ nThreads })
  return { readBytesPerSecond: engine.probe("bandwidth"), int8MacsPerSecond: engine.probe("int8") }
}

/** Tokens/s by the fastest run of each test. */
function speeds(samples: Samples, job: Job): Partial<Record<Test, number>> {
  const speed = (n: number, ns: readonly number[]) => (ns.length === 0 ? undefined : (n * 1e9) / Math.min(...ns))
  const pp = speed(job.nPrompt, samples.pp)
  const tg = speed(job.nGen, samples.tg)
  return { ...(pp === undefined ? {} : { pp }), ...(tg === undefined ? {} : { tg }) }
}

function text(speed: Partial<Record<Test, number>>): string {
  return TESTS.flatMap((test) => (speed[test] === undefined ? [] : [`${test} ${speed[test].toFixed(1)}`])).join(", ")
}

/** Tries an engine's settings; undefined where none of them runs. */
async function enter(engine: Engine, job: Job): Promise<Contestant | undefined> {
  const trials: { setting: Setting; label: string; speed: Partial<Record<Test, number>> }[] = []
  for (const setting of engine.settings) {
    if (engine.settings.length === 1) {
      trials.push({ setting, label: setting.label, speed: {} }) // nothing to choose
      continue
    }
    try {
      const speed = speeds(await setting.run({ ...job, repetitions: 2 }), job)
      trials.push({ setting, label: setting.label, speed })
      say(`${engine.name} ${setting.label}: ${text(speed)} t/s`)
    } catch (error) {
      say(`${engine.name} ${setting.label} does not run: ${error instanceof Error ? error.message : error}`)
    }
  }
  if (trials.length === 0) return undefined
  const bestOf = (test: Test) => trials.reduce((a, b) => ((b.speed[test] ?? 0) > (a.speed[test] ?? 0) ? b : a)).setting
  return {
    engine,
    best: { pp: bestOf("pp"), tg: bestOf("tg") },
    trials: trials.map(({ label, speed }) => ({ label, speed })),
    turns: [],
  }
}

async function takeTurn({ best, turns }: Contestant, job: Job): Promise<Turn> {
  const limits = probe(job.nThreads)
  const jobs: [Setting, Job][] =
    best.pp === best.tg
      ? [[best.pp, job]]
      : [
          [best.pp, { ...job, nGen: 0 }],
          [best.tg, { ...job, nPrompt: 0 }],
        ]
  let turn: Turn = { limits, speed: {} }
  for (const [setting, part] of jobs.filter(([, { nPrompt, nGen }]) => nPrompt + nGen > 0)) {
    const { work, ...samples } = await setting.run(part)
    turn = { ...turn, speed: { ...turn.speed, ...speeds(samples, part) }, ...(work === undefined ? {} : { work }) }
  }
  turns.push(turn)
  return turn
}

/** A turn, and what it gave. A peer that fails leaves the rounds; asdsl must not. */
async function playTurn(contestant: Contestant, job: Job, round: string): Promise<void> {
  const { name } = contestant.engine
  try {
    const { limits, speed } = await takeTurn(contestant, job)
    const read = (limits.readBytesPerSecond / 1e9).toFixed(1)
    const macs = (limits.int8MacsPerSecond / 1e9).toFixed(0)
    say(`${round}, limits ${read} GB/s ${macs} GMAC/s, ${name}: ${text(speed)} t/s`)
  } catch (error) {
    if (name === "asdsl") throw error
    say(`${round}: ${name} is out: ${error instanceof Error ? error.message : error}`)
  }
}

async function run(values: Values<typeof flags>): Promise<void> {
  if (values.nPrompt === 0 && values.nGen === 0) throw new UsageError("-p 0 and -n 0 leave nothing to measure")
  const nThreads = threadsOf(values.nThreads)
  const model = realpathSync(await modelFile(values))
  const job = { model, nThreads, nPrompt: values.nPrompt, nGen: values.nGen, repetitions: 1 }
  const engines = [asdsl(values.level), nodeLlamaCpp(), ...llamaBenchEngines(process.env)]
  if (engines[1] === undefined) say("node-llama-cpp is not installed: cd bench/peers && npm install")
  const contestants: Contestant[] = []
  for (const engine of engines) {
    const contestant = engine && (await enter(engine, job))
    if (contestant !== undefined) contestants.push(contestant)
  }
  for (let round = 1; round <= values.rounds; round++) {
    for (const contestant of contestants) {
      if (contestant.turns.length === round - 1) await playTurn(contestant, job, `round ${round} of ${values.rounds}`)
    }
  }
  const work = contestants[0]!.turns[0]!.work ?? { bytesPerToken: 0, promptMacs: 0 }
  const results = contestants.map((contestant) => resultOf(contestant, contestants[0]!, work, job))
  if (values.output !== "json") process.stdout.write(markdown(results, job))
  if (values.output === "all") process.stdout.write("\n```json\n")
  if (values.output !== "md")
    process.stdout.write(`${JSON.stringify(report(results, contestants, work, job), null, 2)}\n`)
  if (values.output === "all") process.stdout.write("```\n")
}

function threadsOf(wanted: number): number {
  if (wanted > 0) return wanted
  using engine = NativeEngine.create()
  return engine.info().nThreads
}

// ---- Results ----

interface TestResult {
  readonly test: string
  readonly setting: string
  /** Median tokens/s of the rounds. */
  readonly speed: number
  /** asdsl's speed by this one's: the median of the rounds' ratios. */
  readonly ratio: number
  /** GB/s of weights, keys and values, or GMAC/s of matrices and attention. */
  readonly rate: number
  /** Of the read bandwidth, or of the int8 peak, measured before each turn: the median of the rounds. */
  readonly share: number
}

interface Result {
  readonly engine: string
  readonly note: string
  readonly tests: Partial<Record<Test, TestResult>>
}

function resultOf(contestant: Contestant, ours: Contestant, work: Work, job: Job): Result {
  const tests: Partial<Record<Test, TestResult>> = {}
  for (const test of TESTS) {
    const rounds = contestant.turns.flatMap(({ limits, speed }, i) => {
      const [own, asdsls] = [speed[test], ours.turns[i]?.speed[test]]
      if (own === undefined || asdsls === undefined) return []
      const rate = test === "tg" ? own * work.bytesPerToken : (own / job.nPrompt) * work.promptMacs
      return [
        {
          own,
          ratio: asdsls / own,
          rate,
          share: rate / (test === "tg" ? limits.readBytesPerSecond : limits.int8MacsPerSecond),
        },
      ]
    })
    if (rounds.length === 0) continue
    tests[test] = {
      test: test === "pp" ? `pp${job.nPrompt}` : `tg${job.nGen}`,
      setting: contestant.best[test].label,
      speed: median(rounds.map(({ own }) => own)),
      ratio: median(rounds.map(({ ratio }) => ratio)),
      rate: median(rounds.map(({ rate }) => rate)) / 1e9,
      share: median(rounds.map(({ share }) => share)),
    }
  }
  return { engine: contestant.engine.name, note: contestant.engine.note, tests }
}

const COLUMNS: readonly Column[] = [
  { name: "test", width: 6, align: "left" },
  { name: "program", width: 18, align: "left" },
  { name: "setting", width: 22, align: "left" },
  { name: "t/s", width: 8, align: "right" },
  { name: "asdsl is", width: 10, align: "right" },
  { name: "rate", width: 12, align: "right" },
  { name: "of the limit", width: 12, align: "right" },
]

function markdown(results: readonly Result[], job: Job): string {
  const rows = TESTS.flatMap((test) =>
    results.flatMap(({ engine, tests }) => {
      const result = tests[test]
      if (result === undefined) return []
      return tableRow(COLUMNS, [
        result.test,
        engine,
        result.setting,
        result.speed.toFixed(1),
        engine === "asdsl" ? "" : `${result.ratio.toFixed(2)} times`,
        `${result.rate.toFixed(1)} ${test === "tg" ? "GB/s" : "GMAC/s"}`,
        `${(100 * result.share).toFixed(1)} %`,
      ])
    }),
  )
  const notes = results.map(({ engine, note }) => `${engine}: ${note}`).join("; ")
  return `${job.model}, ${job.nThreads} threads\n\n${tableHead(COLUMNS)}${rows.join("")}\nIn the time beside the passes: ${notes}.\n`
}

function report(results: readonly Result[], contestants: readonly Contestant[], work: Work, job: Job): object {
  using engine = NativeEngine.create({ nThreads: job.nThreads })
  const { cpu, level, nPhysical } = engine.info()
  const limits = contestants.flatMap(({ turns }) => turns.map((turn) => turn.limits))
  return {
    date: new Date().toISOString(),
    commit: buildCommit(),
    cpu,
    level,
    nPhysical,
    ...job,
    ...work,
    medianReadBytesPerSecond: median(limits.map(({ readBytesPerSecond }) => readBytesPerSecond)),
    medianInt8MacsPerSecond: median(limits.map(({ int8MacsPerSecond }) => int8MacsPerSecond)),
    results,
    rounds: contestants.map(({ engine: { name }, trials, turns }) => ({ engine: name, trials, turns })),
  }
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
