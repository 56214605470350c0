// `npm run test:arm64`: the aarch64 build on another machine, under qemu. Right or wrong alone: its speed says nothing.
//
// The library and the C tests are cross-built; then run the C tests, a program that hashes logits, whose results have to be
// this machine's own to the bit, and the core of the suite in an aarch64 Bun. Two at a time; what fails shows its output.
// Words after `npm run test:arm64 --` choose test files by their path instead of the core (no C tests, no hashes then).

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AsdslError, BuildError } from "../src/errors.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig, zigBuild, zigEnvironment } from "../src/setup/zig.ts"
import { arm64Bun, findQemu } from "./arm64.ts"
import { judge } from "./test.ts"

/** Test files by words of their path: what meets the machine, without those that need minutes or start other processes. */
const CORE = [
  "abi",
  "dequantize-gather",
  "engine.test",
  "graph",
  "kernel-slots",
  "session.test",
  "conformance/stories260k",
]
const N_AT_ONCE = 2
const TEST_TIMEOUT_MS = 120_000
const JOB_TIMEOUT_MS = 20 * 60_000

interface Outcome {
  passed: number
  /** A line each. */
  failed: string[]
  /** For the line that says that the job is done. */
  summary: string
}

interface Job {
  name: string
  /** Nothing else runs meanwhile. */
  isAlone?: boolean
  run(): Promise<Outcome>
}

interface Machine {
  /** The words before an aarch64 program. */
  qemu: string[]
  bun: string
  /** Libraries and C tests. */
  prefix: string
  /** For this run. */
  folder: string
}

async function main(words: string[]): Promise<number> {
  const start = performance.now()
  const qemu = findQemu()
  const machine: Machine = {
    qemu,
    bun: arm64Bun(),
    prefix: crossBuild(),
    folder: mkdtempSync(join(tmpdir(), "arm64-")),
  }
  try {
    const jobs = words.length > 0 ? suite(machine, words) : everything(machine)
    const total = { passed: 0, failed: [] as string[] }
    if (jobs.length === 0) total.failed.push(`no test file has any of these in its path: ${words.join(" ")}`)
    const [alone, beside] = [jobs.filter((job) => job.isAlone), jobs.filter((job) => !job.isAlone)]
    await work(alone, total)
    await Promise.all(Array.from({ length: N_AT_ONCE }, () => work(beside, total)))
    for (const line of total.failed) console.log(`failed: ${line}`)
    console.log(`${((performance.now() - start) / 1000).toFixed(0)} s`)
    console.log(`${total.passed} passed, ${total.failed.length} failed`)
    return total.failed.length === 0 ? 0 : 1
  } finally {
    rmSync(machine.folder, { recursive: true, force: true })
  }
}

/** The longest first, and last what takes seconds, so that no core waits for the other. */
function everything(machine: Machine): Job[] {
  const tests = cTests(machine)
  const isLong = ({ name }: Job) => name.includes("kernels_")
  return [
    ...tests.filter(isLong),
    logitHashes(machine),
    ...suite(machine, CORE),
    ...tests.filter((job) => !isLong(job)),
    levelsAreThere(machine),
  ]
}

async function work(jobs: Job[], total: { passed: number; failed: string[] }): Promise<void> {
  for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
    const start = performance.now()
    const { passed, failed, summary } = await job.run()
    total.passed += passed
    total.failed.push(...failed.map((line) => `${job.name}: ${line}`))
    console.log(`${job.name}: ${summary} (${((performance.now() - start) / 1000).toFixed(0)} s)`)
  }
}

function crossBuild(): string {
  const prefix = join(projectFolder, "zig-out", "aarch64")
  const command = zigBuild(findZig(), "install", "programs", "-Dtarget=aarch64-linux-gnu.2.17", "--prefix", prefix)
  const child = Bun.spawnSync(command, { cwd: projectFolder, env: zigEnvironment(), stdin: "ignore", stderr: "pipe" })
  if (child.exitCode !== 0) throw new BuildError(`zig build for aarch64 failed:\n${`${child.stderr}`.trim()}`)
  return prefix
}

interface Ended {
  /** Exit code, or the signal that ended it. */
  end: number | string | null
  stdout: string
  stderr: string
}

async function spawn(command: string[], env: Record<string, string | undefined>): Promise<Ended> {
  const child = Bun.spawn(command, {
    ...{ cwd: projectFolder, env, timeout: JOB_TIMEOUT_MS, killSignal: "SIGKILL" },
    ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  await child.exited
  return { end: child.signalCode ?? child.exitCode, stdout, stderr }
}

/** In the aarch64 Bun with the aarch64 library. No models: the default one would take an hour. */
function inBun({ qemu, bun, prefix, folder }: Machine, args: string[]): Promise<Ended> {
  const library = join(prefix, "lib", "libasdsl.so")
  return spawn([...qemu, bun, ...args], {
    ...process.env,
    ASDSL_LIBRARY: library,
    ASDSL_MODELS: join(folder, "models"),
  })
}

function cTests({ qemu, prefix }: Machine): Job[] {
  const sources = readdirSync(join(projectFolder, "csrc", "test")).filter((name) => name.endsWith(".c"))
  return sources.map((source) => {
    const name = source.slice(0, -2)
    const run = async (): Promise<Outcome> => {
      const { end, stdout, stderr } = await spawn([...qemu, join(prefix, "bin", name)], {
        ...process.env,
        ASDSL_EMULATED: "1",
      })
      const output = `${stdout}${stderr}`.trim()
      if (end === 0) return { passed: 1, failed: [], summary: output.split("\n").at(-1)! }
      console.log(output)
      return { passed: 0, failed: [`ended with ${end}`], summary: "FAILED" }
    }
    // Beside another program its threads, which wait for one another, need a minute instead of two seconds.
    return { name: `C test ${name}`, isAlone: name === "engine_pool", run }
  })
}

function levelsAreThere(machine: Machine): Job {
  const run = async (): Promise<Outcome> => {
    const code = `import { cpuInfo } from "./src/native/handles.ts"; console.log(cpuInfo().levels.join(", "))`
    const { stdout, stderr } = await inBun(machine, ["-e", code])
    const summary = stdout.trim()
    const isRight = summary === "portable, neon, reference"
    return { passed: Number(isRight), failed: isRight ? [] : [`${summary}${stderr}`], summary }
  }
  return { name: "levels", run }
}

type Hashes = Record<string, Record<string, string>>

function logitHashes(machine: Machine): Job {
  const program = join("test", "logit-hashes.ts")
  const read = ({ end, stdout, stderr }: Ended): Hashes => {
    if (end !== 0) throw new BuildError(`${program} ended with ${end}:\n${stderr.trim()}`)
    return JSON.parse(stdout)
  }
  const run = async (): Promise<Outcome> => {
    const here = read(await spawn([process.execPath, program, machine.folder], process.env)) // writes the models
    const there = read(await inBun(machine, [program, machine.folder]))
    const outcome: Outcome = { passed: 0, failed: [], summary: "" }
    for (const [model, levels] of Object.entries(here)) {
      const all = { ...levels, ...there[model] }
      const names = Object.keys(all).map((level) => (level === "portable" ? `portable (both)` : level))
      const hashes = new Set([...Object.values(levels), ...Object.values(there[model] ?? {})])
      const isSame = hashes.size === 1 && there[model]?.neon !== undefined
      if (isSame) outcome.passed++
      else outcome.failed.push(`${model}: ${JSON.stringify({ here: levels, aarch64: there[model] })}`)
      if (isSame) console.log(`  ${model}: ${[...hashes][0]!.slice(0, 16)} at ${names.join(", ")}`)
    }
    outcome.summary = `${outcome.passed} models with the same bits, ${outcome.failed.length} with others`
    return outcome
  }
  return { name: `logits of ${process.arch} and aarch64`, run }
}

function suite(machine: Machine, words: string[]): Job[] {
  const files = [...new Bun.Glob("test/**/*.test.ts").scanSync({ cwd: projectFolder })].sort()
  return files.filter((file) => words.some((word) => file.includes(word))).map((file) => testFile(machine, file))
}

function testFile(machine: Machine, file: string): Job {
  const run = async (): Promise<Outcome> => {
    const outfile = join(machine.folder, `${file.replaceAll("/", "-")}.xml`)
    const report = ["--reporter=junit", `--reporter-outfile=${outfile}`]
    // Another configuration: without the preload, which would fetch the default model into the empty folder.
    const config = join(machine.folder, "bunfig.toml")
    writeFileSync(config, "")
    const options = [`--config=${config}`, `--timeout=${TEST_TIMEOUT_MS}`, ...report]
    const { end, stderr } = await inBun(machine, ["test", `./${file}`, ...options])
    const { passed, failed, skipped } = judge(file, existsSync(outfile) ? readFileSync(outfile, "utf8") : "", end)
    if (failed.length > 0) console.log(stderr.trim())
    const summary = `${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped`
    return { passed: passed.length, failed, summary }
  }
  return { name: file, run }
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof AsdslError)) throw error
  console.error(error.message)
  process.exitCode = 1
}
