// README's speeds, from bench/results/: what stands between the markers there. `npm run check` compares, `npm run check --
// --write` puts it in.
//
//   bun bench/readme.ts [--write]

import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { projectFolder } from "../src/setup/project.ts"
import { MODELS, type ModelKey } from "./lines.ts"
import { type Contestant, type Run, readRun } from "./peers/saved.ts"
import {
  contestantOf,
  growth,
  int8Share,
  ratio,
  readShare,
  type Spread,
  speed,
  spreadOf,
  time,
} from "./peers/summary.ts"
import type { Test } from "./peers/tests.ts"

const BEGIN = "<!-- speeds: by bench/readme.ts from bench/results/ -->"
const END = "<!-- /speeds -->"

const PROMPT: Test = { kind: "prompt", n: 512 }
const DECODE: Test = { kind: "generation", n: 128 }
const FIRST: Test = { kind: "first", n: 512 }

/** Rows of the table; those of one program in several settings have the best of each test. */
const PROGRAMS = [
  { name: "asdsl", of: ["asdsl"] },
  { name: "asdsl `--prefill fast`", of: ["asdsl --prefill fast"] },
  { name: "ik_llama.cpp", of: ["ik_llama.cpp", "ik_llama.cpp -rtr 1"] },
  { name: "llama.cpp", of: ["llama.cpp"] },
  { name: "node-llama-cpp", of: ["node-llama-cpp"] },
] as const

const COLUMNS: readonly Column[] = [
  { name: "model", width: 26, align: "left" },
  { name: "program", width: 22, align: "left" },
  { name: "prompt of 512, tok/s", width: 3, align: "right" },
  { name: "asdsl is", width: 10, align: "right" },
  { name: "of the int8 peak", width: 3, align: "right" },
  { name: "128 tokens, tok/s", width: 3, align: "right" },
  { name: "asdsl is", width: 10, align: "right" },
  { name: "of the bandwidth", width: 3, align: "right" },
]

const digits = (value: number) => (value < 100 ? value.toFixed(1) : value.toFixed(0))
const times = (value: number) => `${value.toFixed(2)} times`
const percent = (value: number) => `${(100 * value).toFixed(0)} %`

function cell(spread: Spread | undefined, form: (value: number) => string): string {
  return spread === undefined ? "" : form(spread.median)
}

/** Speed, how many times as fast asdsl is, and share of the limit, by the contestant that did best in the test. */
function testCells(run: Run, names: readonly string[], test: Test): string[] {
  const ours = run.contestants[0]!
  const share = test.kind === "generation" ? readShare : int8Share
  const contestants = names.flatMap((name) => contestantOf(run, name) ?? [])
  const ran = contestants.filter((contestant) => speed(contestant, test) !== undefined)
  if (ran.length === 0) return ["", "", ""]
  const against = (contestant: Contestant) => ratio(ours, contestant, test)?.median ?? Number.POSITIVE_INFINITY
  const best = ran.reduce((a, b) => (against(b) < against(a) ? b : a))
  return [
    cell(speed(best, test), digits),
    best.isPeer ? cell(ratio(ours, best, test), times) : "",
    cell(share(run, best, test), percent),
  ]
}

function rowsOf(model: ModelKey, run: Run): string[] {
  const rows = PROGRAMS.map(({ name, of }) => [name, ...testCells(run, of, PROMPT), ...testCells(run, of, DECODE)])
  const filled = rows.filter(([, ...cells]) => cells.some((each) => each !== ""))
  return filled.map((cells, i) => tableRow(COLUMNS, [i === 0 ? MODELS[model].what : "", ...cells]))
}

const SPEED_RUNS: readonly ModelKey[] = ["smollm2", "qwen-1.5b", "1.1b"]

/** What README says, from saved runs by their names. */
export function speedsText(find: (name: string) => Run | undefined): string {
  const runs = SPEED_RUNS.flatMap((model) => {
    const run = find(`speed-${model}`)
    return run === undefined ? [] : [{ model, run }]
  })
  if (runs.length === 0) return "No speeds are saved in bench/results/.\n"
  const rows = runs.flatMap(({ model, run }) => rowsOf(model, run))
  return [
    introduction(runs.map(({ run }) => run)),
    tableHead(COLUMNS) + rows.join(""),
    ...[firstTokenText(find), verifyText(find)].filter((text) => text !== ""),
  ].join("\n")
}

function introduction(runs: readonly Run[]): string {
  const { machine, nThreads } = runs[0]!
  const dates = [...new Set(runs.map(({ machine }) => machine.date.slice(0, 10)))].sort()
  const commits = [...new Set(runs.map(({ machine }) => machine.commit))]
  const turns = runs.flatMap(({ contestants }) => contestants.flatMap((contestant) => contestant.turns))
  const rounds = runs.map(({ contestants }) => Math.min(...contestants.map((contestant) => contestant.turns.length)))
  const limits = turns.flatMap(({ before, after }) => [before.readBytesPerSecond, after.readBytesPerSecond])
  const bandwidth = spreadOf(limits.map((bytes) => bytes / 1e9))!
  const versions = new Map(
    runs.flatMap(({ contestants }) => contestants.map(({ name, version }) => [name, version] as const)),
  )
  const peers = ["llama.cpp", "ik_llama.cpp", "node-llama-cpp"].filter((name) => versions.has(name))
  const programs = peers.map((name) => `${name} ${versions.get(name)}`).join(", ")
  const where = `${machine.cpu}, ${machine.nCores} cores${machine.isVirtual ? " of a virtual machine" : ""}`
  const [low, high] = [bandwidth.min, bandwidth.max].map((gigabytes) => gigabytes.toFixed(0))
  return [
    `${where}, level ${machine.levels.at(-1)}, ${nThreads} threads, ${dates.join(", ")}, commit ${commits.join(", ")};`,
    `${programs}, each at the best of its settings on the same file.`,
    `Medians of ${Math.min(...rounds)} alternating rounds; ratios and shares are taken within a round, the machine's limits`,
    `measured before and after every turn: the host's bandwidth moved between ${low} and ${high} GB/s. \`npm run bench\``,
    "measures it again.",
    "",
  ].join("\n")
}

/** "First token behind a prompt of 512, by a loaded model: SmolLM2 0.25 s (node-llama-cpp 1.43 s, 5.7 times), ...". */
function firstTokenText(find: (name: string) => Run | undefined): string {
  const parts = (["smollm2", "qwen-1.5b"] as const).flatMap((model) => {
    const run = find(`first-${model}`)
    const [ours, peer] = [run?.contestants[0], run && contestantOf(run, "node-llama-cpp")]
    const [own, theirs] = [ours && time(ours, FIRST), peer && time(peer, FIRST)]
    if (!own || !theirs) return []
    const seconds = (spread: Spread) => `${(spread.median / 1e9).toFixed(2)} s`
    const factor = cell(ratio(ours!, peer!, FIRST), (value) => `${value.toFixed(1)} times`)
    return [`${MODELS[model].what} ${seconds(own)} (node-llama-cpp ${seconds(theirs)}, ${factor})`]
  })
  return parts.length === 0 ? "" : `First token behind a prompt of 512, by a loaded model:\n${parts.join(",\n")}.\n`
}

/** "Verifying 2, 4, 8, 16 tokens in one pass costs 1.1, ... times the pass over one (random 1.1B Q4_K_M).". */
function verifyText(find: (name: string) => Run | undefined): string {
  const run = find("verify-1.1b")
  const ours = run?.contestants[0]
  const curve = [2, 4, 8, 16].flatMap((n) => (ours && growth(ours, { kind: "verify", n })) ?? [])
  if (curve.length < 4) return ""
  const costs = curve.map(({ median }) => median.toFixed(2)).join(", ")
  return `Verifying 2, 4, 8, 16 tokens in one pass costs ${costs} times a pass over one (${MODELS["1.1b"].what}).\n`
}

/** A text with what is between the markers replaced; undefined where they are not there, once each and in order. */
export function withSpeeds(text: string, speeds: string): string | undefined {
  const [before, rest, more] = text.split(BEGIN)
  const [, after, end] = rest?.split(END) ?? []
  if (before === undefined || after === undefined || more !== undefined || end !== undefined) return undefined
  return `${before}${BEGIN}\n${speeds}${END}${after}`
}

function main(writes: boolean): number {
  const path = join(projectFolder, "README.md")
  const text = readFileSync(path, "utf8")
  const wanted = withSpeeds(text, speedsText(readRun))
  if (wanted === text) return 0
  if (wanted === undefined || !writes) {
    const why =
      wanted === undefined ? `has no "${BEGIN}" with "${END}" behind it` : "does not say what bench/results/ says"
    console.error(`README.md ${why}${wanted === undefined ? "" : ": npm run check -- --write"}`)
    return 1
  }
  const temporary = `${path}.partial`
  writeFileSync(temporary, wanted)
  renameSync(temporary, path)
  return 0
}

if (import.meta.main) process.exitCode = main(process.argv.includes("--write"))
