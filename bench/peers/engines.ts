// The programs that compare.ts measures, each in a process of its own: asdsl, node-llama-cpp, and llama-bench programs
// built elsewhere. What a turn is: load, one untimed run, then timed runs of a prompt and of a generation.

import { existsSync } from "node:fs"
import { basename, join } from "node:path"
import type { BenchRecord } from "../../src/cli/bench-report.ts"

const here = import.meta.dir
const root = join(here, "../..")

/** What every engine is asked to do. */
export interface Job {
  readonly model: string
  readonly nThreads: number
  /** 0: not this test. */
  readonly nPrompt: number
  readonly nGen: number
  readonly repetitions: number
}

/** What a generated token reads and a prompt computes: the model's, whoever runs it. */
export interface Work {
  readonly bytesPerToken: number
  readonly promptMacs: number
}

/** Nanoseconds of each timed run. */
export interface Samples {
  readonly pp: readonly number[]
  readonly tg: readonly number[]
  /** From asdsl, which counts it. */
  readonly work?: Work
}

export interface Setting {
  /** "-fa 1 -rtr 0"; "" where there is nothing to set. */
  readonly label: string
  run(job: Job): Promise<Samples>
}

export interface Engine {
  readonly name: string
  readonly settings: readonly Setting[]
  /** What the time holds, beside the passes. */
  readonly note: string
}

/** Runs a program to its end and returns its stdout. */
async function output(command: readonly string[], cwd = root): Promise<string> {
  const child = Bun.spawn([...command], { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 600_000 })
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) === 0) return out
  const why = err.trim().split("\n").at(-1) ?? ""
  throw new Error(`${basename(command[0]!)} ended with ${child.exitCode ?? child.signalCode}: ${why}`)
}

/** What llama-bench and `asdsl bench` print for a test. */
interface Measured {
  readonly n_prompt: number
  readonly n_gen: number
  readonly samples_ns: readonly number[]
}

function samplesOf(records: readonly Measured[]): Samples {
  const of = (key: "n_prompt" | "n_gen") => records.find((record) => record[key] > 0)?.samples_ns ?? []
  return { pp: of("n_prompt"), tg: of("n_gen") }
}

function workOf(records: readonly BenchRecord[]): Work {
  const prompt = records.find(({ n_prompt }) => n_prompt > 0)
  const generation = records.find(({ n_gen }) => n_gen > 0)
  return {
    bytesPerToken: (generation?.weight_bytes_per_token ?? 0) + (generation?.kv_bytes_per_token ?? 0),
    promptMacs: (prompt?.matrix_macs ?? 0) + (prompt?.attention_macs ?? 0),
  }
}

function benchFlags({ model, nThreads, nPrompt, nGen, repetitions }: Job): string[] {
  const flags = { "-m": model, "-t": nThreads, "-p": nPrompt, "-n": nGen, "-r": repetitions, "-o": "json" }
  return Object.entries(flags).flatMap(([name, value]) => [name, String(value)])
}

/** asdsl by its own command line, by the Bun that runs this. */
export function asdsl(level: string | undefined): Engine {
  const more = level === undefined ? [] : ["--level", level]
  const run = async (job: Job) => {
    const command = [process.execPath, join(root, "src/cli/main.ts"), "bench", ...benchFlags(job), ...more]
    const records: BenchRecord[] = JSON.parse(await output(command))
    return { ...samplesOf(records), work: workOf(records) }
  }
  return { name: "asdsl", settings: [{ label: "", run }], note: "the reduction of each logits row (top 40, logsumexp)" }
}

/** undefined where bench/peers has no node_modules. */
export function nodeLlamaCpp(): Engine | undefined {
  if (!existsSync(join(here, "node_modules/node-llama-cpp"))) return undefined
  const setting = (flash: number): Setting => ({
    label: `flashAttention: ${flash === 1}`,
    async run({ model, nThreads, nPrompt, nGen, repetitions }) {
      const numbers = [nThreads, flash, nPrompt, nGen, repetitions].map(String)
      return JSON.parse(await output(["node", "node-llama-cpp.mjs", model, ...numbers], here)).samples
    },
  })
  return {
    name: "node-llama-cpp",
    settings: [setting(0), setting(1)],
    note: "its promises and locks around each decode call; no sampling",
  }
}

/** A llama-bench program, tried with every combination of `choices`; undefined where `path` is not given. */
function llamaBench(name: string, path: string | undefined, choices: readonly string[][]): Engine | undefined {
  if (path === undefined || path === "") return undefined
  const labels = choices.reduce<string[]>(
    (some, more) => some.flatMap((a) => more.map((b) => `${a} ${b}`.trim())),
    [""],
  )
  const settings = labels.map((label) => ({
    label,
    run: async (job: Job) => samplesOf(JSON.parse(await output([path, ...benchFlags(job), ...label.split(" ")]))),
  }))
  return { name, settings, note: "nothing" }
}

const FLASH = ["-fa 0", "-fa 1"]
const REPACK = ["-rtr 0", "-rtr 1"]

/** Those whose programs the variables name. */
export function llamaBenchEngines(env: Readonly<Record<string, string | undefined>>): Engine[] {
  const engines = [
    llamaBench("llama.cpp", env.ASDSL_PEER_LLAMA_CPP, [FLASH]),
    llamaBench("ik_llama.cpp", env.ASDSL_PEER_IK, [FLASH, REPACK]),
    llamaBench("ik_llama.cpp, AVX2", env.ASDSL_PEER_IK_AVX2, [FLASH, REPACK]),
  ]
  return engines.filter((engine) => engine !== undefined)
}
