// The promises of speed (lines.ts), measured: runs what lines stand on, in rounds that alternate between all of it, saves it
// in bench/results/, and prints line, asked, got, and whether it holds. A timing needs the machine to itself, so it can be
// taken in pieces: -r 1 first, then --add for a round more at a time, and --report for the table alone.
//
//   bun bench/checkpoints.ts --only 1,4 -r 5 --folder FOLDER    where the synthetic models of synthetic-gguf.py are
//   bun bench/checkpoints.ts --run speed-smollm2 -r 1 --add
//   bun bench/checkpoints.ts --report

import { existsSync, realpathSync } from "node:fs"
import { join } from "node:path"
import {
  type Command,
  group,
  integer,
  integers,
  text,
  texts,
  toggle,
  UsageError,
  type Values,
} from "../src/cli/arguments.ts"
import { outputFlag, threadFlags } from "../src/cli/flags.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { resolveModel } from "../src/models/index.ts"
import { LINES, type Line, MODELS, type Plan, type Verdict } from "./lines.ts"
import { enginesFor, threadsOf } from "./peers/compare.ts"
import { measure } from "./peers/rounds.ts"
import { type Run, readRun, saveRun } from "./peers/saved.ts"
import { isDisturbed, markdown, roundsMarkdown } from "./peers/summary.ts"

const flags = {
  ...group("What", {
    only: integers("--only", { min: 1, max: 8, initial: [1, 2, 3, 4, 5, 6, 8], help: "these lines" }),
    names: texts("--run", { value: "NAME", help: "of what the lines stand on, only this run" }),
    folder: text("--folder", {
      value: "FOLDER",
      help: "where synthetic models are; a line without its model is not run",
    }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 5, help: "rounds" }),
    nThreads: { ...threadFlags.nThreads, help: "threads of every program; 0: one per physical core" },
  }),
  ...group("Result", {
    adds: toggle("--add", { initial: false, help: "more rounds of the saved runs of this commit; absent: new ones" }),
    isReport: toggle("--report", { initial: false, help: "measure nothing" }),
    results: text("--results", {
      value: "FOLDER",
      help: "with --report: of saved runs elsewhere, as bench/results/zen3; absent: bench/results",
    }),
    isDetailed: toggle("--details", { initial: false, help: "every program and round of every run before the table" }),
  }),
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/checkpoints.ts",
  summary: "measures the promises of speed and says which hold",
  usage:
    "[--only 1,4] [--run NAME] [--folder FOLDER] [-r 5] [-t N] [--add | --report [--results FOLDER]] [--details] [-o md|json]",
  flags,
}

/** undefined where the model is not on this machine. */
async function modelOf({ model }: Plan, folder: string | undefined): Promise<string | undefined> {
  const { known, file } = { known: undefined, file: undefined, ...MODELS[model] }
  if (known !== undefined) return realpathSync(await resolveModel(known))
  const path = folder === undefined || file === undefined ? undefined : join(folder, file)
  return path !== undefined && existsSync(path) ? realpathSync(path) : undefined
}

async function runOnce(plan: Plan, earlier: Run | undefined, values: Values<typeof flags>): Promise<Run | undefined> {
  const model = await modelOf(plan, values.folder)
  if (model === undefined) {
    warn(`${plan.name} is not run: ${MODELS[plan.model].what} is not in --folder`)
    return undefined
  }
  const engines = enginesFor(plan.level, process.env).filter(({ isPeer }) => !(plan.isAlone && isPeer))
  const { tests, repetitions } = plan
  const job = { model, nThreads: threadsOf(values.nThreads), tests, repetitions }
  warn(`${plan.name}:`)
  return await measure({
    ...{ engines, job, rounds: 1, onRound: (run) => saveRun(plan.name, run) },
    ...(earlier === undefined ? {} : { earlier }),
  })
}

/** Rounds of all plans in turn. */
async function measureAll(plans: readonly Plan[], values: Values<typeof flags>): Promise<void> {
  const runs = new Map<string, Run | undefined>()
  if (values.adds) for (const { name } of plans) runs.set(name, readRun(name))
  for (let round = 0; round < values.rounds; round++) {
    for (const plan of plans) {
      if (round > 0 && runs.get(plan.name) === undefined) continue
      runs.set(plan.name, await runOnce(plan, runs.get(plan.name), values))
    }
  }
}

const COLUMNS: readonly Column[] = [
  { name: "line", width: 4, align: "right" },
  { name: "what", width: 44, align: "left" },
  { name: "asked", width: 13, align: "right" },
  { name: "got", width: 24, align: "right" },
  { name: "against", width: 34, align: "left" },
  { name: "holds", width: 5, align: "left" },
]

export function verdictTable(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map(({ line, what, asked, got, against, holds }) =>
    tableRow(COLUMNS, [String(line), what, asked, got, against, holds === undefined ? "" : holds ? "yes" : "no"]),
  )
  return tableHead(COLUMNS) + rows.join("")
}

/** What the verdicts stand on: "speed-1.1b: 8db6066, 2026-11-25, 5 rounds, 3 of 25 turns disturbed". */
function runsText(runs: ReadonlyMap<string, Run>): string {
  const texts = Array.from(runs, ([name, { machine, contestants }]) => {
    const turns = contestants.flatMap((contestant) => contestant.turns)
    const nRounds = new Set(turns.map(({ round }) => round)).size
    const disturbed = `${turns.filter(isDisturbed).length} of ${turns.length} turns disturbed`
    return `${name}: ${machine.commit}, ${machine.date.slice(0, 10)}, ${nRounds} rounds, ${disturbed}\n`
  })
  return texts.join("")
}

/** One entry for each run, however many lines stand on it. */
export function plansOf(lines: readonly Line[], names: readonly string[] = []): Plan[] {
  const plans = new Map(lines.flatMap((line) => line.plans).map((plan) => [plan.name, plan]))
  const unknown = names.filter((name) => !plans.has(name))
  if (unknown.length > 0)
    throw new UsageError(`no run ${unknown.join(", ")}: there are ${[...plans.keys()].join(", ")}`)
  return [...plans.values()].filter(({ name }) => names.length === 0 || names.includes(name))
}

async function run(values: Values<typeof flags>): Promise<void> {
  const lines = LINES.filter(({ line }) => values.only.includes(line))
  if (lines.length === 0) throw new UsageError("line 7 is a test: npm test -- checkpoint-2 checkpoint-3")
  const plans = plansOf(lines, values.names)
  if (values.results !== undefined && !values.isReport) throw new UsageError("--results goes with --report")
  if (!values.isReport) await measureAll(plans, values)
  const saved = plansOf(lines).map(({ name }) => [name, readRun(name, values.results)] as const)
  const runs = new Map(saved.flatMap(([name, run]) => (run === undefined ? [] : [[name, run] as const])))
  const verdicts = lines.flatMap((line) => line.judge(runs))
  if (values.output === "json") {
    await writeOut(`${JSON.stringify(verdicts, null, 2)}\n`)
    return
  }
  if (values.isDetailed)
    for (const [name, saved] of runs) await writeOut(`## ${name}\n\n${markdown(saved)}\n${roundsMarkdown(saved)}\n`)
  await writeOut(`${verdictTable(verdicts)}\n${runsText(runs)}`)
}

if (import.meta.main) process.exitCode = await runCommand(command, process.argv.slice(2), run)
