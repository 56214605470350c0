// The programs that take part, each in a process of its own: asdsl (as it is, at other levels), node-llama-cpp, and
// llama-bench programs built elsewhere. What a turn is: load, one untimed run of each test, then timed runs.

import { existsSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import { command as bench } from "../../src/cli/bench.ts"
import type { BenchRecord } from "../../src/cli/bench-report.ts"
import { Level } from "../../src/native/abi.ts"
import { cpuInfo } from "../../src/native/handles.ts"
import { executes, hiddenLevels } from "../../src/native/hidden-level.ts"
import { projectFolder } from "../../src/setup/project.ts"
import { nameOf, type Test, type TestKind } from "./tests.ts"

const here = import.meta.dir

/** What an engine is asked to do. */
export interface Job {
  readonly model: string
  readonly nThreads: number
  readonly tests: readonly Test[]
  /** Timed runs of each test. */
  readonly repetitions: number
}

/** What a test reads and computes in one pass or for one token: the model's, whoever runs it. */
export interface Work {
  /** Of weights, that a pass streams from memory. */
  readonly weightBytes: number
  /** Of keys and values, for a generated token. */
  readonly kvBytes: number
  /** Multiply-accumulates of one run, in matrices and attention. */
  readonly macs: number
}

export interface Outcome {
  /** Nanoseconds of each timed run, by the test's name. */
  readonly ns: Readonly<Record<string, readonly number[]>>
  /** Of a verify curve: the read bandwidth before each sweep; ns has a time for each. */
  readonly readBytesPerSecond?: readonly number[]
  /** By the test's name; from asdsl, which counts it. */
  readonly work?: Readonly<Record<string, Work>>
  readonly version?: string
}

/** What holds while a program's turn is measured, its limits too. */
export interface Conditions {
  readonly level?: string
  readonly env?: Readonly<Record<string, string>>
}

export interface Setting {
  /** "-fa 1"; "" where there is nothing to set. */
  readonly label: string
  run(job: Job): Promise<Outcome>
}

export interface Engine {
  readonly name: string
  readonly isPeer: boolean
  /** Tried before the rounds; the best for each test takes part. */
  readonly settings: readonly Setting[]
  takes(test: Test): boolean
  readonly conditions: Conditions
  /** What the time holds, beside the passes. */
  readonly note: string
}

/** Runs a program to its end and returns its stdout. */
export async function output(command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
  const child = Bun.spawn([...command], {
    cwd: projectFolder,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 600_000,
  })
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) === 0) return out
  const why = err.trim().split("\n").at(-1) ?? ""
  throw new Error(`${basename(command[0]!)} ended with ${child.exitCode ?? child.signalCode}: ${why}`)
}

/** Milliseconds since 1970, with their fraction: comparable between processes. */
function now(): number {
  return performance.timeOrigin + performance.now()
}

function lengths(tests: readonly Test[], kind: TestKind): string {
  const wanted = tests.filter((test) => test.kind === kind).map(({ n }) => n)
  return (wanted.length === 0 ? [0] : wanted).join(",")
}

/** The flags that asdsl bench and llama-bench share. */
function benchFlags({ model, nThreads, tests, repetitions }: Job): string[] {
  const flags = {
    "-m": model,
    "-t": nThreads,
    "-p": lengths(tests, "prompt"),
    "-n": lengths(tests, "generation"),
    "-r": repetitions,
    "-o": "json",
  }
  return Object.entries(flags).flatMap(([name, value]) => [name, String(value)])
}

/** What both print for a test. */
interface Measured {
  readonly n_prompt: number
  readonly n_gen: number
  readonly samples_ns: readonly number[]
}

function testOfRecord({ n_prompt, n_gen }: Measured): Test {
  return n_prompt > 0 ? { kind: "prompt", n: n_prompt } : { kind: "generation", n: n_gen }
}

/** Nanoseconds by the names of tests, from what a llama-bench program prints. */
export function samplesOf(records: readonly Measured[]): Outcome["ns"] {
  return Object.fromEntries(records.map((record) => [nameOf(testOfRecord(record)), record.samples_ns]))
}

function workOf(records: readonly BenchRecord[]): Outcome["work"] & {} {
  const entries = records.map((record) => [
    nameOf(testOfRecord(record)),
    {
      weightBytes: record.weight_bytes_per_token,
      kvBytes: record.kv_bytes_per_token,
      macs: record.matrix_macs + record.attention_macs,
    },
  ])
  return Object.fromEntries(entries)
}

// ---- First tokens: a child that loads a model and draws one token behind a prompt, asdsl's or a peer's ----

/** What such a child prints. */
interface FirstTokens {
  /** When the first one of all was drawn, in milliseconds since 1970. */
  readonly startedAt: number
  /** Nanoseconds of each run after it. */
  readonly samples: readonly number[]
  readonly version?: string
}

async function firstTokens(
  { tests, repetitions }: Job,
  child: (n: number, runs: number) => Promise<string>,
): Promise<Outcome> {
  const ns: Record<string, readonly number[]> = {}
  let version: string | undefined
  for (const n of new Set(tests.filter(({ kind }) => kind === "first" || kind === "start").map(({ n }) => n))) {
    const has = (kind: TestKind) => tests.some((test) => test.kind === kind && test.n === n)
    const since = now()
    const first: FirstTokens = JSON.parse(await child(n, has("first") ? repetitions : 0))
    if (has("first")) ns[nameOf({ kind: "first", n })] = first.samples
    if (has("start")) ns[nameOf({ kind: "start", n })] = [(first.startedAt - since) * 1e6]
    version = first.version
  }
  return { ns, ...(version === undefined ? {} : { version }) }
}

function ofKinds(job: Job, ...kinds: TestKind[]): Job {
  return { ...job, tests: job.tests.filter(({ kind }) => kinds.includes(kind)) }
}

function joined(a: Outcome, b: Outcome): Outcome {
  return { ...a, ...b, ns: { ...a.ns, ...b.ns }, work: { ...a.work, ...b.work } }
}

// ---- asdsl ----

async function runAsdsl(job: Job, flags: readonly string[], env: Readonly<Record<string, string>>): Promise<Outcome> {
  const run = (script: string, ...words: (string | number)[]) => {
    return output([process.execPath, join(projectFolder, script), ...words.map(String), ...flags], env)
  }
  const { model, nThreads, repetitions } = job
  const common = ["-m", model, "-t", nThreads] as const
  let outcome: Outcome = { ns: {} }
  const passes = ofKinds(job, "prompt", "generation")
  if (passes.tests.length > 0) {
    const records: BenchRecord[] = JSON.parse(await run("src/cli/main.ts", "bench", ...benchFlags(passes)))
    outcome = { ns: samplesOf(records), work: workOf(records) }
  }
  if (ofKinds(job, "verify").tests.length > 0) {
    const lengthsOf = lengths(job.tests, "verify")
    const curve = await run("bench/peers/verify.ts", ...common, "--n-verify", lengthsOf, "-r", repetitions)
    outcome = joined(outcome, JSON.parse(curve))
  }
  const first = await firstTokens(job, (n, runs) => run("bench/peers/first-token.ts", ...common, "-p", n, "-r", runs))
  return joined(outcome, first)
}

function ownEngine(name: string, takes: Engine["takes"], conditions: Conditions, more: readonly string[]): Engine {
  const flags = [...(conditions.level === undefined ? [] : ["--level", conditions.level]), ...more]
  return {
    name,
    isPeer: false,
    takes,
    conditions,
    settings: [{ label: "", run: (job) => runAsdsl(job, flags, conditions.env ?? {}) }],
    note: "the reduction of each logits row (top 40, logsumexp)",
  }
}

const all = () => true
/** Where it does something else than without the option. */
const longPrompts = ({ kind, n }: Test) => (kind === "prompt" || kind === "first" || kind === "start") && n > 16

/** asdsl by its own command line, by the Bun that runs this; at a level, by name "asdsl, avx2". */
export function asdsl(level: string | undefined): Engine {
  return ownEngine(level === undefined ? "asdsl" : `asdsl, ${level}`, all, level === undefined ? {} : { level }, [])
}

/** `--prefill fast`, an option that gives other bits; undefined while asdsl bench has no such flag. */
export function asdslFast(level: string | undefined): Engine | undefined {
  if (!Object.values(bench.flags).some(({ names }) => names.includes("--prefill"))) return undefined
  const name = level === undefined ? "asdsl --prefill fast" : `asdsl --prefill fast, ${level}`
  return ownEngine(name, longPrompts, level === undefined ? {} : { level }, ["--prefill", "fast"])
}

/** Level avxvnni beside avx2; undefined on a CPU that does not execute it, listed or hidden. */
export function asdslAvxVnni(): Engine | undefined {
  const level = "avxvnni"
  const { levels } = cpuInfo()
  if (!levels.includes(level) && !(hiddenLevels(levels).includes(level) && executes(Level.AVXVNNI))) return undefined
  return asdsl(level)
}

/** Level avxvnni on a CPU without AVX-VNNI: the same kernels with `vpdpbusd` in AVX-512's encoding, a library that
 * `npm run zig -- build -Devex-vnni --prefix FOLDER` builds. Its instructions run in the same units at the same widths, so
 * its speed stands for the level's on this machine; it says nothing of a CPU that has the level. */
export function asdslTwin(library: string | undefined): Engine | undefined {
  if (library === undefined || library === "") return undefined
  return ownEngine("asdsl, avxvnni's twin", all, { level: "avxvnni", env: { ASDSL_LIBRARY: library } }, [])
}

// ---- Peers ----

/** undefined where bench/peers has no node_modules. */
export function nodeLlamaCpp(): Engine | undefined {
  const folder = join(here, "node_modules/node-llama-cpp")
  if (!existsSync(folder)) return undefined
  const version: string = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).version
  const setting = (flash: number): Setting => ({
    label: `flashAttention: ${flash === 1}`,
    async run(job) {
      const { model, nThreads, repetitions } = job
      const child = (tests: readonly Test[], runs: number) => {
        const words = [model, nThreads, flash, runs, JSON.stringify(tests)].map(String)
        return output(["node", join(here, "node-llama-cpp.mjs"), ...words])
      }
      const { tests } = ofKinds(job, "prompt", "generation")
      const ns: Outcome["ns"] = tests.length === 0 ? {} : JSON.parse(await child(tests, repetitions)).samples
      const first = await firstTokens(job, (n, runs) => child([{ kind: "first", n }], runs))
      return joined({ ns, version }, first)
    },
  })
  return {
    name: "node-llama-cpp",
    isPeer: true,
    takes: ({ kind }) => kind !== "verify",
    conditions: {},
    settings: [setting(0), setting(1)],
    note: "its promises and locks around each decode call; sampling for first tokens alone",
  }
}

interface LlamaBench {
  readonly name: string
  readonly path: string | undefined
  /** What holds in every setting. */
  readonly flags?: readonly string[]
  readonly level?: string
}

/** A llama-bench program, tried with and without flash attention; undefined where `path` is not given. */
function llamaBench({ name, path, flags = [], level }: LlamaBench): Engine | undefined {
  if (path === undefined || path === "") return undefined
  const setting = (label: string): Setting => ({
    label,
    async run(job) {
      const words = [...benchFlags(ofKinds(job, "prompt", "generation")), ...label.split(" ")]
      const records: (Measured & { build_commit?: string })[] = JSON.parse(await output([path, ...words]))
      return { ns: samplesOf(records), version: records[0]?.build_commit ?? "unknown" }
    },
  })
  return {
    name,
    isPeer: true,
    takes: ({ kind }) => kind === "prompt" || kind === "generation",
    conditions: level === undefined ? {} : { level },
    settings: ["-fa 0", "-fa 1"].map((flash) => setting([flash, ...flags].join(" "))),
    note: "nothing",
  }
}

export type Environment = Readonly<Record<string, string | undefined>>

/** Those whose llama-bench programs the variables name. ik_llama.cpp with weights interleaved at load is a contestant of its
 * own: which of the two is faster depends on the bandwidth of the minute, so one trial cannot tell. */
export function llamaBenchEngines(env: Environment): Engine[] {
  const repacked = ["-rtr 1"]
  return [
    llamaBench({ name: "llama.cpp", path: env.ASDSL_PEER_LLAMA_CPP }),
    llamaBench({ name: "ik_llama.cpp", path: env.ASDSL_PEER_IK }),
    llamaBench({ name: "ik_llama.cpp -rtr 1", path: env.ASDSL_PEER_IK, flags: repacked }),
  ].filter((engine) => engine !== undefined)
}

/** ik_llama.cpp built for AVX2 alone, what `asdsl --level avx2` is compared with. */
export function avx2Engines(env: Environment): Engine[] {
  const path = env.ASDSL_PEER_IK_AVX2
  return [
    llamaBench({ name: "ik_llama.cpp, AVX2", path, level: "avx2" }),
    llamaBench({ name: "ik_llama.cpp -rtr 1, AVX2", path, level: "avx2", flags: ["-rtr 1"] }),
  ].filter((engine) => engine !== undefined)
}
