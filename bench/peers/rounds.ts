// Alternating rounds (A B C A B C ...): each contestant has one turn in each, at its best setting for each test, with the
// machine's two limits measured before and after every turn, because a shared host drifts. Knows no table.

import { basename } from "node:path"
import { UsageError } from "../../src/cli/arguments.ts"
import { modelType } from "../../src/cli/model-facts.ts"
import { warn } from "../../src/cli/program.ts"
import { median } from "../../src/eval/statistics.ts"
import { readModelHeader } from "../../src/gguf/split.ts"
import { projectFolder } from "../../src/setup/project.ts"
import { cpuTime, machineFacts, sourceCommit, stolenShare } from "../machine.ts"
import { type Conditions, type Engine, type Job, type Outcome, output, type Setting, type Work } from "./engines.ts"
import type { Contestant, Limits, Run, Trial, Turn } from "./saved.ts"
import { better } from "./summary.ts"
import { isTime, nameOf, type Test } from "./tests.ts"

export interface Measurement {
  readonly engines: readonly Engine[]
  readonly job: Job
  readonly rounds: number
  /** A run that is gone on with, at its settings. */
  readonly earlier?: Run
  /** Told of the run after each round. */
  onRound?(run: Run): void
}

const since = performance.now()

function say(text: string): void {
  warn(`[${((performance.now() - since) / 1000).toFixed(0).padStart(4)} s] ${text}`)
}

function because(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** A contestant and the program behind it; its turns grow. */
interface Player {
  readonly engine: Engine
  readonly tests: readonly Test[]
  readonly best: Readonly<Record<string, Setting>>
  readonly trials: readonly Trial[]
  readonly turns: Turn[]
  version: string
}

/** Limits by a process of its own, as every turn is one: at the level and by the library of the turn. */
async function probe(nThreads: number, { level, env }: Conditions): Promise<Limits> {
  const main = `${projectFolder}src/cli/main.ts`
  const words = [process.execPath, main, "info", "-t", String(nThreads), "-o", "json"]
  const text = await output([...words, ...(level === undefined ? [] : ["--level", level])], env)
  const { readBytesPerSecond, int8MacsPerSecond }: Limits = JSON.parse(text).machine
  return { readBytesPerSecond: Math.round(readBytesPerSecond), int8MacsPerSecond: Math.round(int8MacsPerSecond) }
}

function medians(ns: Outcome["ns"]): Record<string, number> {
  return Object.fromEntries(Object.entries(ns).map(([name, samples]) => [name, median(samples)]))
}

/** "pp512 290.1, tg128 48.0 t/s, first512 1764.2 ms". */
function textOf(tests: readonly Test[], ns: Readonly<Record<string, number>>): string {
  const texts = tests.flatMap((test) => {
    const name = nameOf(test)
    const time = ns[name]
    if (time === undefined) return []
    return isTime(test) ? `${name} ${(time / 1e6).toFixed(1)} ms` : `${name} ${((test.n * 1e9) / time).toFixed(1)} t/s`
  })
  return texts.join(", ")
}

// ---- Trials ----

/** Work done by the limit that bounds it, by a trial's time: what trials are compared by, as limits drift between them. */
export function meritOf({ kind }: Test, ns: number, limits: Limits): number {
  return 1 / (ns * (kind === "generation" ? limits.readBytesPerSecond : limits.int8MacsPerSecond))
}

/** The setting of the best trial of a test; undefined where none has it. */
export function bestSetting(test: Test, trials: readonly Trial[]): string | undefined {
  const name = nameOf(test)
  const ran = trials.filter(({ ns }) => ns[name] !== undefined)
  const merit = (trial: Trial) => meritOf(test, trial.ns[name]!, trial.limits)
  return ran.length === 0 ? undefined : ran.reduce((a, b) => (merit(b) > merit(a) ? b : a)).setting
}

async function tryOut(engine: Engine, job: Job): Promise<Trial[]> {
  const trials: Trial[] = []
  for (const setting of engine.settings) {
    try {
      const before = await probe(job.nThreads, engine.conditions)
      const { ns } = await setting.run(job)
      const limits = better(before, await probe(job.nThreads, engine.conditions))
      trials.push({ setting: setting.label, ns: medians(ns), limits })
      say(`${engine.name} ${setting.label}: ${textOf(job.tests, medians(ns))}`)
    } catch (error) {
      say(`${engine.name} ${setting.label} does not run: ${because(error)}`)
    }
  }
  return trials
}

/** An engine with its best settings, by trial; undefined where none of them runs. */
async function enter(engine: Engine, job: Job, earlier: Contestant | undefined): Promise<Player | undefined> {
  const tests = job.tests.filter((test) => engine.takes(test))
  if (tests.length === 0) return undefined
  const [only] = engine.settings
  const trials = earlier?.trials ?? (engine.settings.length === 1 ? [] : await tryOut(engine, { ...job, tests }))
  const labelOf = (test: Test) => earlier?.best[nameOf(test)] ?? bestSetting(test, trials)
  const best = tests.flatMap((test) => {
    const label = engine.settings.length === 1 ? only!.label : labelOf(test)
    const setting = engine.settings.find((each) => each.label === label)
    return setting === undefined ? [] : [[nameOf(test), setting] as const]
  })
  if (best.length === 0) return undefined
  const turns = [...(earlier?.turns ?? [])]
  return { engine, tests, best: Object.fromEntries(best), trials, turns, version: earlier?.version ?? "" }
}

// ---- Turns ----

async function takeTurn(player: Player, job: Job, round: number): Promise<{ turn: Turn; work: Outcome["work"] }> {
  const { engine, tests, best } = player
  const time = cpuTime()
  const before = await probe(job.nThreads, engine.conditions)
  const ns: Record<string, number[]> = {}
  const work: Record<string, Work> = {}
  let sweeps: readonly number[] | undefined
  for (const setting of new Set(Object.values(best))) {
    const part = tests.filter((test) => best[nameOf(test)] === setting)
    const outcome = await setting.run({ ...job, tests: part })
    for (const [name, samples] of Object.entries(outcome.ns)) ns[name] = samples.map(Math.round)
    Object.assign(work, outcome.work)
    sweeps = outcome.readBytesPerSecond?.map(Math.round) ?? sweeps
    player.version = outcome.version ?? player.version
  }
  const after = await probe(job.nThreads, engine.conditions)
  const turn = { round, before, after, stolenShare: stolenShare(time, cpuTime()), ns }
  return { turn: sweeps === undefined ? turn : { ...turn, readBytesPerSecond: sweeps }, work }
}

/** A turn, and what it gave. A peer that fails is out; asdsl must not fail. */
async function playTurn(player: Player, job: Job, round: number): Promise<Outcome["work"]> {
  const { name, isPeer } = player.engine
  try {
    const { turn, work } = await takeTurn(player, job, round)
    player.turns.push(turn)
    const [low, high] = [turn.before, turn.after].map((l) => (l.readBytesPerSecond / 1e9).toFixed(1)).sort()
    const stolen = turn.stolenShare === null ? "" : `, stolen ${(100 * turn.stolenShare).toFixed(1)} %`
    say(`round ${round}, ${low}-${high} GB/s${stolen}, ${name}: ${textOf(player.tests, medians(turn.ns))}`)
    return work
  } catch (error) {
    if (!isPeer) throw error
    say(`round ${round}: ${name} is out: ${because(error)}`)
    return undefined
  }
}

/** Throws unless a run can be gone on with: the same asdsl on the same model by the same tests. */
export function checkSame(earlier: Run, job: Job, commit = sourceCommit()): void {
  const facts = (file: string, { nThreads, tests, repetitions }: Omit<Job, "model">, of: string) =>
    `${file} with ${nThreads} threads, ${tests.map(nameOf).join(" ")} x ${repetitions}, commit ${of}`
  const [then, now] = [
    facts(earlier.model.file, earlier, earlier.machine.commit),
    facts(basename(job.model), job, commit),
  ]
  if (then !== now) throw new UsageError(`the saved run is of ${then}; this is ${now}: no rounds can be added`)
}

/** Enters the engines and plays the rounds. */
export async function measure({ engines, job, rounds, earlier, onRound }: Measurement): Promise<Run> {
  if (earlier !== undefined) checkSame(earlier, job)
  const players: Player[] = []
  for (const engine of engines) {
    const played = earlier?.contestants.find(({ name }) => name === engine.name)
    if (earlier !== undefined && played === undefined) continue // it was not there in the rounds before
    const player = await enter(engine, job, played)
    if (player !== undefined) players.push(player)
  }
  const work: Record<string, Work> = { ...earlier?.work }
  const first = Math.max(0, ...players.flatMap(({ turns }) => turns.map(({ round }) => round))) + 1
  const out = new Set<Player>()
  let run = runOf(players, job, work)
  for (let round = first; round < first + rounds; round++) {
    for (const player of players) {
      if (out.has(player)) continue
      Object.assign(work, await playTurn(player, job, round))
      if (player.turns.at(-1)?.round !== round) out.add(player)
    }
    run = runOf(players, job, work)
    onRound?.(run)
  }
  return run
}

function runOf(players: readonly Player[], job: Job, work: Readonly<Record<string, Work>>): Run {
  const header = readModelHeader(job.model)
  return {
    format: 1,
    machine: machineFacts(),
    model: { file: basename(job.model), type: modelType(header), bytes: header.fileBytes },
    nThreads: job.nThreads,
    repetitions: job.repetitions,
    tests: job.tests,
    work,
    contestants: players.map(({ engine: { name, isPeer, note }, best, trials, turns, version }) => ({
      name,
      isPeer,
      version: isPeer ? version : sourceCommit(),
      note,
      trials,
      best: Object.fromEntries(Object.entries(best).map(([test, { label }]) => [test, label])),
      turns,
    })),
  }
}
