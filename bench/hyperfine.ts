// Decode speed of whole processes, by hyperfine (which has to be on PATH): asdsl beside node-llama-cpp, from start to the
// last token of a greedy text, once for 1 token and once for n. Start, loading and prompt are in both, so what lies
// between them is n - 1 decoded tokens.
//
//   bun bench/hyperfine.ts -m MODEL.gguf -n 128 -t 2 -r 10

import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Command, group, integer, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { modelFlags, outputFlag, threadFlags } from "../src/cli/flags.ts"
import { modelFile } from "../src/cli/load.ts"
import { runCommand, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { cpuInfo } from "../src/native/handles.ts"

const root = join(import.meta.dir, "..")

const flags = {
  ...modelFlags,
  prompt: text("-p, --prompt", {
    initial: "Once upon a time, in a small village by the sea, there lived",
    help: "the text",
  }),
  ...group("Tests", {
    nGen: integer("-n, --n-gen", { min: 2, max: 2 ** 20, initial: 128, help: "tokens of the longer text" }),
    runs: integer("-r, --runs", { min: 2, max: 1000, initial: 10, help: "runs of each command" }),
    nThreads: { ...threadFlags.nThreads, help: "threads; 0: one per physical core" },
  }),
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/hyperfine.ts",
  summary: "decode speed of whole processes, asdsl beside node-llama-cpp",
  usage: "[-m FILE] [-n 128] [-r 10] [-t N] [-o md|json]",
  flags,
}

interface Program {
  readonly name: string
  command(n: number): string[]
}

function programs(model: string, nThreads: number, prompt: string): Program[] {
  const main = join(root, "src/cli/main.ts")
  const peer = join(root, "bench/peers")
  const own = (n: number) => [
    ...[process.execPath, main, "run", "-m", model, "-t", String(nThreads), "-n", String(n)],
    ...["--temp", "0", "--ignore-eos", "--spec", "off", "-p", prompt],
  ]
  const peers = (n: number) => ["node", join(peer, "generate.mjs"), model, String(nThreads), String(n), prompt]
  const hasPeer = existsSync(join(peer, "node_modules/node-llama-cpp"))
  return [{ name: "asdsl", command: own }, ...(hasPeer ? [{ name: "node-llama-cpp", command: peers }] : [])]
}

interface Timing {
  /** Seconds. */
  readonly median: number
  readonly stddev: number
}

/** Runs hyperfine over all commands; one timing for each. */
async function hyperfine(commands: readonly (readonly string[])[], runs: number): Promise<Timing[]> {
  if (Bun.which("hyperfine") === null) throw new UsageError("hyperfine is not on PATH")
  const folder = mkdtempSync(join(tmpdir(), "asdsl-hyperfine-"))
  try {
    const result = join(folder, "result.json")
    const quoted = commands.map((words) => words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" "))
    const options = ["--shell=none", "--warmup=1", `--runs=${runs}`, "--export-json", result]
    const child = Bun.spawn(["hyperfine", ...options, ...quoted], { cwd: root, stdout: 2, stderr: "inherit" })
    if ((await child.exited) !== 0) throw new Error(`hyperfine ended with ${child.exitCode}`)
    return JSON.parse(readFileSync(result, "utf8")).results
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const COLUMNS: readonly Column[] = [
  { name: "program", width: 16, align: "left" },
  { name: "1 token", width: 16, align: "right" },
  { name: "all tokens", width: 16, align: "right" },
  { name: "decode t/s", width: 10, align: "right" },
]

async function run(values: Values<typeof flags>): Promise<void> {
  const model = realpathSync(await modelFile(values))
  const nThreads = values.nThreads > 0 ? values.nThreads : cpuInfo().nPhysical
  const all = programs(model, nThreads, values.prompt)
  const timings = await hyperfine(
    all.flatMap(({ command }) => [command(1), command(values.nGen)]),
    values.runs,
  )
  const results = all.map(({ name }, i) => {
    const [one, many] = [timings[2 * i]!, timings[2 * i + 1]!]
    return { name, one, many, decodePerSecond: (values.nGen - 1) / (many.median - one.median) }
  })
  if (values.output === "json") {
    await writeOut(`${JSON.stringify({ model, nThreads, nGen: values.nGen, results }, null, 2)}\n`)
    return
  }
  const seconds = ({ median, stddev }: Timing) => `${median.toFixed(3)} ± ${stddev.toFixed(3)} s`
  const rows = results.map(({ name, one, many, decodePerSecond }) =>
    tableRow(COLUMNS, [name, seconds(one), seconds(many), decodePerSecond.toFixed(1)]),
  )
  await writeOut(`${tableHead(COLUMNS)}${rows.join("")}`)
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
