// Decoding behind a long context and reading a long prompt, beside peers, with both types of keys and values. Programs are
// loaded and their contexts filled once; then turns of a second or so alternate, so that one bandwidth of a shared host holds
// for all of a round. With --pause rounds begin when stdin says so: filling takes minutes and may run beside other work.
//
//   ASDSL_PEER_LLAMA_CPP_DEPTH=.. ASDSL_PEER_IK_DEPTH=.. bun bench/depth.ts -m MODEL -d 4096 -n 32 -r 5 --save depth-4096
//   bun bench/depth.ts -m MODEL -d 8192 -p 8192 -r 1 --save depth-8192 --add --only "asdsl q8_0"    the prompt fills the context
//
// The peers' programs are built from bench/peers/llama-depth.cpp.

import { existsSync, readFileSync, realpathSync } from "node:fs"
import { basename, join } from "node:path"
import { type Command, group, integer, text, texts, toggle, UsageError, type Values } from "../src/cli/arguments.ts"
import { modelFlags } from "../src/cli/flags.ts"
import { modelFile } from "../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { median } from "../src/eval/statistics.ts"
import { projectFolder } from "../src/setup/project.ts"
import { sourceCommit } from "./machine.ts"
import { threadsOf } from "./peers/compare.ts"
import { reportOf, saveReport } from "./save.ts"

const MAX_TOKENS = 2 ** 20
const KINDS = ["f16", "q8_0"] as const
const PASS = 512 // tokens

const flags = {
  ...modelFlags,
  ...group("Test", {
    nDepth: integer("-d, --n-depth", { min: 0, max: MAX_TOKENS, initial: 4096, help: "tokens before those decoded" }),
    nGen: integer("-n, --n-gen", { min: 0, max: MAX_TOKENS, initial: 32, help: "tokens of a turn; 0: no decoding" }),
    nPrompt: integer("-p, --n-prompt", { min: 0, max: MAX_TOKENS, initial: 0, help: "tokens of a prompt; 0: none" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 5, help: "turns of each" }),
    nThreads: integer("-t, --threads", { min: 0, max: 1024, initial: 0, help: "0: one per physical core" }),
    only: texts("--only", { value: "NAME", help: 'of the programs, these: "asdsl q8_0"' }),
    pauses: toggle("--pause", { initial: false, help: "a line of stdin begins the rounds" }),
  }),
  ...group("Result", {
    adds: toggle("--add", { initial: false, help: "rounds behind the saved ones of this commit" }),
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json and NAME.md after each round" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/depth.ts",
  summary: "decoding at a depth and long prompts, beside peers",
  usage: "-m MODEL [-d 4096] [-n 32] [-p 8192] [-r 5] [-t N] [--only NAME] [--pause] [--add] [--save NAME]",
  flags,
}

/** A program that takes part. */
interface Program {
  readonly name: string
  readonly isPeer: boolean
  readonly words: readonly string[]
}

/** "decode 4096 32" and the like, as children understand it. */
type Test = string

interface Result {
  readonly name: string
  readonly isPeer: boolean
  readonly version: string
  /** Nanoseconds of each round. */
  readonly ns: Record<Test, number[]>
  /** Of asdsl: memory of its own, before the context was filled and after. */
  readonly residentBytes?: readonly [number, number]
}

interface Results {
  readonly model: string
  readonly nThreads: number
  readonly tests: readonly Test[]
  /** Bytes/s before each round in which asdsl took part. */
  readonly readBytesPerSecond: number[]
  readonly programs: Result[]
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder()
  let rest = ""
  for await (const part of stream) {
    const lines = (rest + decoder.decode(part, { stream: true })).split("\n")
    rest = lines.pop()!
    yield* lines
  }
}

/** A program waiting for tests. */
class Child implements Disposable {
  readonly #process
  readonly #lines: AsyncIterator<string, void>
  readonly #name: string

  constructor({ name, words }: Program) {
    this.#name = name
    this.#process = Bun.spawn([...words], { cwd: projectFolder, stdin: "pipe", stdout: "pipe", stderr: "ignore" })
    this.#lines = linesOf(this.#process.stdout)
  }

  async line(): Promise<string> {
    const { value } = await this.#lines.next()
    if (value === undefined) throw new Error(`${this.#name} ended`)
    return value
  }

  async ask(test: Test): Promise<number> {
    this.#process.stdin.write(`${test}\n`)
    await this.#process.stdin.flush()
    return Number(await this.line())
  }

  [Symbol.dispose](): void {
    this.#process.kill()
  }
}

function programsOf(model: string, nCtx: number, nThreads: number, fillThreads: number): Program[] {
  const own = [process.execPath, join(import.meta.dir, "peers/depth.ts"), "-m", model]
  const { ASDSL_PEER_LLAMA_CPP_DEPTH: llama, ASDSL_PEER_IK_DEPTH: ik } = process.env
  const peer = (name: string, path: string | undefined, repacks: number): Program[] =>
    path === undefined
      ? []
      : KINDS.map((kind) => ({
          ...{ name: `${name} ${kind}`, isPeer: true },
          words: [path, model, `${nThreads}`, `${nCtx}`, kind, "1", `${repacks}`, `${fillThreads}`],
        }))
  return [
    ...KINDS.toReversed().map((kind) => ({
      ...{ name: `asdsl ${kind}`, isPeer: false },
      words: [...own, "-t", `${nThreads}`, "-c", `${nCtx}`, "-ctk", kind, "-ctv", kind],
    })),
    ...peer("ik_llama.cpp -fa 1", ik, 0),
    ...peer("ik_llama.cpp -rtr 1 -fa 1", ik, 1),
    ...peer("llama.cpp -fa 1", llama, 0),
  ]
}

function testsOf({ nDepth, nGen, nPrompt }: Values<typeof flags>): Test[] {
  const tests = [...(nPrompt > 0 ? [`prompt ${nPrompt}`] : []), ...(nGen > 0 ? [`decode ${nDepth} ${nGen}`] : [])]
  if (tests.length === 0) throw new UsageError("-n 0 and -p 0 leave nothing to measure")
  return tests
}

/** What a program is asked: asdsl decodes at depth 0 too, in the same round. */
function asked(tests: readonly Test[], { isPeer }: Pick<Program, "isPeer">): Test[] {
  const shallow = (test: Test) => test.replace(/^decode [1-9]\d* /, "decode 0 ")
  return isPeer ? [...tests] : [...new Set(tests.flatMap((test) => [shallow(test), test]))]
}

function tokensOf(test: Test): number {
  return Number(test.split(" ").at(-1))
}

// ---- Results ----

function resultsPath(name: string): string {
  return join(import.meta.dir, "results", `${name}.json`)
}

/** Those that a run goes on with; throws where they are of another test. */
function earlierOf(values: Values<typeof flags>, model: string, nThreads: number): Results | undefined {
  const { save, adds } = values
  if (!adds || save === undefined || !existsSync(resultsPath(save))) return undefined
  const saved: Results & { machine: { commit: string } } = JSON.parse(readFileSync(resultsPath(save), "utf8"))
  const facts = (r: Omit<Results, "programs">, commit: string) => `${r.model}, ${r.nThreads}, ${r.tests}, ${commit}`
  const now = { model, nThreads, tests: testsOf(values), readBytesPerSecond: [] }
  const [then, wanted] = [facts(saved, saved.machine.commit), facts(now, sourceCommit())]
  if (then !== wanted) throw new UsageError(`the saved rounds are of ${then}; this is ${wanted}: none can be added`)
  return saved
}

const COLUMNS: readonly Column[] = [
  { name: "program", width: 30, align: "left" },
  { name: "test", width: 15, align: "left" },
  { name: "tokens/s", width: 8, align: "right" },
  { name: "times the best peer", width: 19, align: "right" },
  { name: "of depth 0", width: 10, align: "right" },
]

/** Median over rounds of a / b. */
function ratio(a: readonly number[] = [], b: readonly number[] = []): number {
  return median(a.slice(0, b.length).map((x, i) => x / b[i]!))
}

export function depthTable({ tests, programs, readBytesPerSecond }: Omit<Results, "model" | "nThreads">): string {
  const rows = programs.flatMap((program) =>
    asked(tests, program).flatMap((test) => {
      const ns = program.ns[test] ?? []
      if (ns.length === 0) return []
      const peers = programs.filter(({ isPeer, ns: other }) => isPeer && (other[test]?.length ?? 0) > 0)
      const best = program.isPeer ? [] : peers.map((peer) => ratio(peer.ns[test], ns))
      const shallow = test.replace(/^decode [1-9]\d* /, "decode 0 ")
      const share = program.isPeer || shallow === test ? "" : `${(100 * ratio(program.ns[shallow], ns)).toFixed(1)} %`
      const speed = ((tokensOf(test) * 1e9) / median(ns)).toFixed(1)
      return [tableRow(COLUMNS, [program.name, test, speed, best.length ? Math.min(...best).toFixed(2) : "", share])]
    }),
  )
  const resident = programs.flatMap(({ name, residentBytes: [before, after] = [0, 0] }) => {
    return after > before ? [`${name} ${((after - before) / 1e6).toFixed(1)} MB`] : []
  })
  const memory = resident.length > 0 ? ` Resident memory that filling the context took: ${resident.join(", ")}.` : ""
  const read = readBytesPerSecond.map((bytes) => bytes / 1e9)
  const range = read.length > 0 ? `${Math.min(...read).toFixed(1)} to ${Math.max(...read).toFixed(1)} GB/s` : "unknown"
  return `${tableHead(COLUMNS)}${rows.join("")}\nMedians of rounds; ratios are medians of each round's. Read bandwidth before rounds: ${range}.${memory}\n`
}

// ---- Rounds ----

/** Fills a program's contexts, unless the prompt of each turn does, and measures what they take. */
async function prepare(child: Child, { name, isPeer }: Program, tests: readonly Test[]): Promise<Result> {
  const [, version = "unknown"] = (await child.line()).split(" ")
  const result = { name, isPeer, version, ns: {} }
  const [prompt] = tests.filter((test) => test.startsWith("prompt"))
  if (prompt !== undefined && tests.some((test) => test.startsWith(`decode ${tokensOf(prompt)} `))) return result
  const [shallow, deep] = asked(
    tests.filter((test) => test.startsWith("decode")),
    { isPeer },
  )
  if (shallow !== undefined) await child.ask(shallow)
  if (deep === undefined) return result
  await child.ask(`prompt ${PASS}`) // what passes of a prompt need besides
  const before = await child.ask("resident")
  await child.ask(deep)
  return { ...result, residentBytes: [before, await child.ask("resident")] }
}

async function run(values: Values<typeof flags>): Promise<void> {
  const file = realpathSync(await modelFile(values))
  const nThreads = threadsOf(values.nThreads)
  const tests = testsOf(values)
  const earlier = earlierOf(values, basename(file), nThreads)
  const nCtx = Math.ceil((Math.max(values.nDepth + values.nGen, values.nPrompt) + 1) / 256) * 256
  const programs = programsOf(file, nCtx, nThreads, values.pauses ? 1 : nThreads).filter(
    ({ name }) => (values.only ?? []).length === 0 || values.only.includes(name),
  )
  using stack = new DisposableStack()
  const players: { child: Child; result: Result }[] = []
  for (const program of programs) {
    const child = stack.use(new Child(program))
    const result = await prepare(child, program, tests)
    players.push({ child, result: earlier?.programs.find(({ name }) => name === program.name) ?? result })
    warn(`${program.name} is ready`)
  }
  if (values.pauses) {
    warn("waiting for a line")
    for await (const _line of console) break
  }
  const others = earlier?.programs.filter(({ name }) => !programs.some((program) => program.name === name)) ?? []
  const results: Results = {
    ...{ model: basename(file), nThreads, tests, readBytesPerSecond: [...(earlier?.readBytesPerSecond ?? [])] },
    programs: [...others, ...players.map(({ result }) => result)],
  }
  const own = players.find(({ result }) => !result.isPeer)
  for (let round = 0; round < values.rounds; round++) {
    if (own !== undefined) results.readBytesPerSecond.push(await own.child.ask("probe"))
    for (const { child, result } of players) {
      for (const test of asked(tests, result)) {
        result.ns[test] = [...(result.ns[test] ?? []), Math.round(await child.ask(test))]
      }
    }
    if (values.save !== undefined) {
      saveReport(
        values.save,
        reportOf(results),
        `bun bench/depth.ts -m MODEL -d ${values.nDepth} -n ${values.nGen} -p ${values.nPrompt}`,
        depthTable(results),
      )
    }
  }
  await writeOut(depthTable(results))
}

if (import.meta.main) process.exitCode = await runCommand(command, process.argv.slice(2), run)
