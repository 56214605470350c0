// What a busy neighbour and a slow core cost: decoding by one loaded model alone, beside a process that keeps a core busy,
// and with its last worker slowed 3 times; llama-bench programs (ASDSL_PEER_LLAMA_CPP, ASDSL_PEER_IK) beside the same
// neighbour, with all threads and with one fewer. Turns alternate, figures are medians.
//
//   bun bench/neighbour.ts -m MODEL [-n 64] [-r 5] [--stay US] [--save neighbour]

import { type Command, group, integer, text, type Values } from "../src/cli/arguments.ts"
import { modelFlags, threadFlags } from "../src/cli/flags.ts"
import { loadFile, modelFile } from "../src/cli/load.ts"
import { runCommand, writeOut } from "../src/cli/program.ts"
import { type Column, formatShare, tableHead, tableRow } from "../src/cli/table.ts"
import { runTest } from "../src/eval/speed.ts"
import { median } from "../src/eval/statistics.ts"
import type { Session } from "../src/session.ts"
import { output, samplesOf } from "./peers/engines.ts"
import { reportOf, saveReport } from "./save.ts"

const SLOWED = 3
const MAX_TOKENS = 4096

const flags = {
  ...modelFlags,
  ...group("Test", {
    nGen: integer("-n, --n-gen", { min: 1, max: MAX_TOKENS, initial: 64, help: "tokens of a turn" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 5, help: "turns of each" }),
    nThreads: threadFlags.nThreads,
    stay: integer("--stay", {
      min: 0,
      max: 1e6,
      initial: 0,
      help: "us that threads keep a core, from the start; 0: default",
    }),
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json and NAME.md" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/neighbour.ts",
  summary: "decoding beside a busy process, and with a slow worker",
  usage: "[-m MODEL] [-n 64] [-r 5] [-t N] [--stay US] [--save NAME]",
  flags,
}

/** Tokens/s of each turn. */
interface Line {
  readonly name: string
  readonly alone: number[]
  readonly beside: number[]
}

/** A process that wants a core for itself. */
function startNeighbour(): Disposable {
  const child = Bun.spawn([process.execPath, "-e", "for (;;);"], { stdio: ["ignore", "ignore", "ignore"] })
  return { [Symbol.dispose]: () => child.kill("SIGKILL") }
}

/** Long enough for the scheduler of the system, and of asdsl, to see what has come or gone. */
const SETTLE_MS = 300

async function besideNeighbour<T>(body: () => T | Promise<T>): Promise<T> {
  using _neighbour = startNeighbour()
  await Bun.sleep(SETTLE_MS)
  return await body()
}

function tokensPerSecond(session: Session, nGen: number): number {
  return nGen / (runTest(session, { nPrompt: 0, nGen, nDepth: 0 }) / 1e9)
}

async function ownLines(file: string, { nGen, rounds, nThreads, stay }: Values<typeof flags>) {
  const options = { nThreads: Math.max(nThreads, 0), nCtx: nGen + 1, stayMicroseconds: stay }
  using model = await loadFile(file, options)
  using slowModel = await loadFile(file, { ...options, slowPercent: 100 * (SLOWED - 1) })
  using session = model.createSession()
  using slowSession = slowModel.createSession()
  const line: Line = { name: "asdsl", alone: [], beside: [] }
  const slowed: number[] = []
  for (const each of [session, slowSession]) tokensPerSecond(each, nGen)
  for (let i = 0; i < rounds; i++) {
    tokensPerSecond(session, nGen) // the neighbour of the last turn has gone, and that is seen
    await Bun.sleep(SETTLE_MS)
    tokensPerSecond(session, nGen)
    line.alone.push(tokensPerSecond(session, nGen))
    slowed.push(tokensPerSecond(slowSession, nGen))
    line.beside.push(await besideNeighbour(() => tokensPerSecond(session, nGen)))
  }
  return { line, slowed, n: model.engineInfo().nThreads }
}

async function peerLine(path: string, name: string, file: string, threads: number, n: number, rounds: number) {
  const words = [path, "-m", file, "-t", `${threads}`, "-p", "0", "-n", `${n}`, "-r", "1", "-o", "json"]
  if (name.startsWith("ik")) words.push("-rtr", "1")
  const turn = async () => {
    const [[ns] = []] = Object.values(samplesOf(JSON.parse(await output(words))))
    return n / (ns! / 1e9)
  }
  const line: Line = { name: `${name}, ${threads} threads`, alone: [], beside: [] }
  for (let i = 0; i < rounds; i++) {
    line.alone.push(await turn())
    line.beside.push(await besideNeighbour(turn))
  }
  return line
}

async function peerLines(file: string, n: number, { nGen, rounds }: Values<typeof flags>): Promise<Line[]> {
  const { ASDSL_PEER_LLAMA_CPP, ASDSL_PEER_IK } = process.env
  const lines: Line[] = []
  for (const [name, path] of [
    ["ik_llama.cpp", ASDSL_PEER_IK],
    ["llama.cpp", ASDSL_PEER_LLAMA_CPP],
  ] as const) {
    if (path === undefined) continue
    for (const threads of n > 1 ? [n, n - 1] : [n]) lines.push(await peerLine(path, name, file, threads, nGen, rounds))
  }
  return lines
}

const COLUMNS: readonly Column[] = ["decode", "tokens/s alone", "beside a busy process", "share"].map((name, i) => {
  return { name, width: i === 0 ? 22 : 0, align: i === 0 ? "left" : "right" }
})

async function run(values: Values<typeof flags>): Promise<void> {
  const file = await modelFile(values)
  const own = await ownLines(file, values)
  const lines = [own.line, ...(await peerLines(file, own.n, values))]
  const rows = lines.map(({ name, alone, beside }) => {
    return [name, median(alone).toFixed(1), median(beside).toFixed(1), formatShare(median(beside) / median(alone))]
  })
  const share = median(own.slowed) / median(own.line.alone)
  const ideal = (own.n - 1 + 1 / SLOWED) / own.n
  const table = `${tableHead(COLUMNS)}${rows.map((row) => tableRow(COLUMNS, row)).join("")}
One of ${own.n} workers slowed ${SLOWED} times: ${median(own.slowed).toFixed(1)} tokens/s, ${formatShare(share)}; in proportion to speed it would be ${formatShare(ideal)}.
`
  await writeOut(table)
  if (values.save === undefined) return
  const report = reportOf({
    nGen: values.nGen,
    nThreads: own.n,
    lines,
    slowed: own.slowed,
    slowedTimes: SLOWED,
    stay: values.stay,
  })
  saveReport(values.save, report, "bun bench/neighbour.ts", table)
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
