// asdsl beside its peers: same GGUF, same threads, each peer at the best of its settings, in alternating rounds.
//
//   cd bench/peers && npm install && cd ../..
//   bun bench/peers/compare.ts -m MODEL.gguf -t 2
//
// Prints a Markdown table and JSON; --save NAME writes the JSON to bench/results/NAME.json after every round, --add goes on
// with what is there. llama-bench programs built elsewhere take part by ASDSL_PEER_LLAMA_CPP, ASDSL_PEER_IK and, with
// --level avx2, ASDSL_PEER_IK_AVX2 (paths); ASDSL_EVEX_LIBRARY is the library of level avxvnni's twin.

import { realpathSync } from "node:fs"
import {
  type Command,
  group,
  integer,
  integers,
  text,
  toggle,
  UsageError,
  type Values,
} from "../../src/cli/arguments.ts"
import { modelFlags, outputFlag, threadFlags } from "../../src/cli/flags.ts"
import { modelFile } from "../../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../../src/cli/program.ts"
import { cpuInfo } from "../../src/native/handles.ts"
import {
  asdsl,
  asdslAvxVnni,
  asdslFast,
  asdslTwin,
  avx2Engines,
  type Engine,
  type Environment,
  llamaBenchEngines,
  nodeLlamaCpp,
} from "./engines.ts"
import { measure } from "./rounds.ts"
import { readRun, saveRun } from "./saved.ts"
import { markdown } from "./summary.ts"
import type { Test, TestKind } from "./tests.ts"

const lengths = (names: string, initial: number, help: string) =>
  integers(names, { min: 0, max: 2 ** 20, initial: [initial], help: `${help}; 0: no such test` })

const flags = {
  ...modelFlags,
  ...group("Tests", {
    prompt: lengths("-p, --n-prompt", 512, "tokens of a prompt"),
    generation: lengths("-n, --n-gen", 128, "tokens to generate"),
    verify: lengths("--n-verify", 0, "tokens of a pass with logits for each (asdsl alone)"),
    first: lengths("--first", 0, "tokens of a prompt, to the first token by a loaded model"),
    start: lengths("--start", 0, "tokens of a prompt, to the first token from the start of the process"),
    repetitions: integer("--repetitions", { min: 1, max: 1000, initial: 1, help: "timed runs of a test in a turn" }),
    rounds: integer("-r, --rounds", {
      min: 1,
      max: 1000,
      initial: 5,
      help: "rounds; each program has one turn in each",
    }),
    nThreads: { ...threadFlags.nThreads, help: "threads of every program; 0: one per physical core" },
    level: threadFlags.level,
  }),
  ...group("Result", {
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json" }),
    adds: toggle("--add", { initial: false, help: "go on with the rounds of bench/results/NAME.json" }),
  }),
  ...outputFlag(["all", "md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/peers/compare.ts",
  summary: "asdsl beside node-llama-cpp and llama-bench programs, alternating",
  usage: "[-m FILE] [-p 512] [-n 128] [-r 5] [-t N] [--level avx2] [--save NAME [--add]] [-o all|md|json]",
  flags,
}

/** All that there is here for a level: the peers' builds are native ones unless it is avx2. */
export function enginesFor(level: string | undefined, env: Environment): Engine[] {
  const own = [asdsl(level), asdslFast(level)]
  const peers = level === "avx2" ? avx2Engines(env) : [nodeLlamaCpp(), ...llamaBenchEngines(env)]
  const more = level === "avx2" ? [asdslAvxVnni(), asdslTwin(env.ASDSL_EVEX_LIBRARY)] : []
  return [...own, ...more, ...peers].filter((engine) => engine !== undefined)
}

/** The threads that a command asked for; 0: one per physical core. */
export function threadsOf(wanted: number): number {
  return wanted > 0 ? wanted : cpuInfo().nPhysical
}

const KINDS: readonly TestKind[] = ["prompt", "generation", "verify", "first", "start"]

async function run(values: Values<typeof flags>): Promise<void> {
  const { save, adds, level, rounds, repetitions, output } = values
  const tests: Test[] = KINDS.flatMap((kind) => values[kind as "prompt"].map((n) => ({ kind, n }))).filter(
    ({ n }) => n > 0,
  )
  if (tests.length === 0) throw new UsageError("-p 0 and -n 0 leave nothing to measure")
  if (adds && save === undefined) throw new UsageError("--add needs --save NAME")
  const earlier = adds ? readRun(save!) : undefined
  if (nodeLlamaCpp() === undefined) warn("node-llama-cpp is not installed: cd bench/peers && npm install")
  const job = { model: realpathSync(await modelFile(values)), nThreads: threadsOf(values.nThreads), tests, repetitions }
  const result = await measure({
    engines: enginesFor(level, process.env),
    job,
    rounds,
    ...(earlier === undefined ? {} : { earlier }),
    onRound: (sofar) => save !== undefined && saveRun(save, sofar),
  })
  if (output !== "json") await writeOut(markdown(result))
  if (output === "all") await writeOut("\n```json\n")
  if (output !== "md") await writeOut(`${JSON.stringify(result, null, 2)}\n`)
  if (output === "all") await writeOut("```\n")
}

if (import.meta.main) process.exitCode = await runCommand(command, process.argv.slice(2), run)
