// Record layouts: 4, 8 and 16 interleaved rows at every vector level, and floats instead of integers: instructions for 256
// weights, GB/s of weights out of the second cache and out of memory, beside a plain read loop and the int8 peak.
//
//   npm run zig -- build bench && bun bench/layout.ts --save layout
//
// 16 is the library's own gemv slot; 4 and 8 are prototypes in its vocabulary (bench/kernels/rows.h), "fma" the float
// variant over the 16-row layout (csrc/oracle/). Instructions are counted one by one (ptrace) in what 512 more inputs of a
// row group take, prefetches included; "stack" are those of them that touch the stack, as spilled registers do.

import { existsSync } from "node:fs"
import { join } from "node:path"
import { type Command, group, integer, integers, text, texts, UsageError, type Values } from "../src/cli/arguments.ts"
import { outputFlag } from "../src/cli/flags.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { StatusLine } from "../src/cli/status.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { AsdslError } from "../src/errors.ts"
import { median } from "../src/eval/statistics.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { cpuInfo } from "../src/native/handles.ts"
import { projectFolder } from "../src/setup/project.ts"
import { reportOf, saveReport } from "./save.ts"

const TYPES = ["Q4_K", "Q6_K", "Q4_1", "Q5_0", "Q8_0"] as const satisfies readonly TensorTypeName[]

const flags = {
  ...group("Measurement", {
    types: texts("--type", { value: "NAME", help: `tensor type; absent: ${TYPES.join(", ")}` }),
    nThreads: integers("-t, --threads", { min: 1, max: 256, initial: [1, 2], help: "threads" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 5, help: "rounds of all variants in turns" }),
    cacheKilobytes: integer("--cache", {
      min: 256,
      max: 2 ** 20,
      initial: 512,
      help: "KiB a thread: in its second cache",
    }),
    memoryMegabytes: integer("--memory", {
      min: 1,
      max: 2 ** 20,
      initial: 256,
      help: "MiB together: beyond any cache",
    }),
    program: text("--program", { value: "FILE", help: "absent: what zig build bench installs" }),
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json" }),
  }),
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/layout.ts",
  summary: "4, 8 and 16 interleaved rows at every level: instructions, cache and memory speed",
  usage: "[--type q4_k] [-t 1,2] [-r 5] [--save NAME] [-o md|json]",
  flags,
}

/** Where the weights are and how many threads read them. */
interface Place {
  readonly weights: "cache" | "memory"
  readonly nThreads: number
  /** Medians over the rounds; samples by round. */
  readonly bytesPerSecond: number
  readonly samples: readonly number[]
  /** Of the plain read loop's bytes in the same round: the median of the rounds. */
  readonly shareOfRead: number
  readonly readBytesPerSecond: number
}

interface Result {
  readonly type: string
  /** Rows of a record, or the float variant. */
  readonly layout: "4" | "8" | "16" | "fma"
  readonly level: string
  readonly instructionsPer256: number
  readonly stackInstructionsPer256: number
  /** Of one thread at this level. */
  readonly int8MacsPerSecond: number
  readonly places: readonly Place[]
}

type Lines = readonly (readonly string[])[]

async function ask(program: string, args: readonly (string | number)[]): Promise<Lines> {
  const child = Bun.spawn([program, ...args.map(String)], { stdio: ["ignore", "pipe", "inherit"] })
  const output = await new Response(child.stdout).text()
  if ((await child.exited) !== 0) throw new AsdslError("bench", `${program} ${args.join(" ")} failed:\n${output}`)
  return output
    .trim()
    .split("\n")
    .map((line) => line.split(" "))
}

/** Addresses of instructions with an operand on the stack, as objdump writes them; empty without objdump, with a warning. */
async function stackAddresses(program: string): Promise<Set<number>> {
  const found = new Set<number>()
  let child: Bun.Subprocess<"ignore", "pipe", "inherit">
  try {
    child = Bun.spawn(["objdump", "-d", "--no-show-raw-insn", program], { stdio: ["ignore", "pipe", "inherit"] })
  } catch {
    warn("bench/layout.ts: no objdump here: operands on the stack are not counted")
    return found
  }
  for (const line of (await new Response(child.stdout).text()).split("\n")) {
    const match = /^\s*([0-9a-f]+):.*\(%r[sb]p/.exec(line)
    if (match !== null) found.add(Number.parseInt(match[1]!, 16))
  }
  return found
}

const keyOf = (layout: string, level: string) => `${layout} ${level}`

/** Instructions for 256 weights by variant: all, and those on the stack. */
function countInstructions(lines: Lines, onStack: ReadonlySet<number>): Map<string, { all: number; stack: number }> {
  const counts = new Map<string, { all: number; stack: number }>()
  for (const [layout, level, weights, address, count] of lines as [string, string, string, string, string][]) {
    const key = keyOf(layout, level)
    const share = (256 * Number(count)) / Number(weights)
    const sum = counts.get(key) ?? { all: 0, stack: 0 }
    counts.set(key, { all: sum.all + share, stack: sum.stack + (onStack.has(Number(address)) ? share : 0) })
  }
  return counts
}

/** Rates of each variant by round. */
function ratesOf(lines: Lines): Map<string, number[]> {
  const rates = new Map<string, number[]>()
  for (const [what, level, rate] of lines as [string, string, string][]) {
    const key = keyOf(what, level)
    rates.set(key, [...(rates.get(key) ?? []), Number(rate)])
  }
  return rates
}

function placeOf(
  weights: Place["weights"],
  nThreads: number,
  rates: ReadonlyMap<string, number[]>,
  key: string,
): Place {
  const samples = rates.get(key)!
  const read = rates.get("read -")!
  return {
    ...{ weights, nThreads, samples, bytesPerSecond: median(samples) },
    shareOfRead: median(samples.map((rate, round) => rate / read[round]!)),
    readBytesPerSecond: median(read),
  }
}

async function measureType(
  program: string,
  type: TensorTypeName,
  onStack: ReadonlySet<number>,
  values: Values<typeof flags>,
): Promise<Result[]> {
  const { id } = TENSOR_TYPES[type]
  const counts = countInstructions(await ask(program, ["steps", id]), onStack)
  const { rounds, nThreads, cacheKilobytes, memoryMegabytes } = values
  const all: { weights: Place["weights"]; n: number; rates: Map<string, number[]> }[] = []
  for (const n of nThreads) {
    const cache = await ask(program, ["time", id, n, cacheKilobytes * 2 ** 10, rounds, 4])
    const memory = await ask(program, ["time", id, n, Math.floor((memoryMegabytes * 2 ** 20) / n), rounds, 5])
    all.push({ weights: "cache", n, rates: ratesOf(cache) }, { weights: "memory", n, rates: ratesOf(memory) })
  }
  const peaks = all[0]!
  return [...counts].map(([key, { all: instructionsPer256, stack: stackInstructionsPer256 }]) => {
    const [layout, level] = key.split(" ") as [Result["layout"], string]
    const places = all.map(({ weights, n, rates }) => placeOf(weights, n, rates, key))
    const int8MacsPerSecond = median(peaks.rates.get(keyOf("peak", level))!) / peaks.n
    return { type, layout, level, instructionsPer256, stackInstructionsPer256, int8MacsPerSecond, places }
  })
}

function typesOf(given: readonly string[]): TensorTypeName[] {
  return given.length === 0
    ? [...TYPES]
    : given.map((name) => {
        const type = TYPES.find((known) => known === name.toUpperCase())
        if (type === undefined) throw new UsageError(`--type ${name} is none of ${TYPES.join(", ")}`)
        return type
      })
}

async function run(values: Values<typeof flags>): Promise<void> {
  const types = typesOf(values.types)
  const program = values.program ?? join(projectFolder, "zig-out/bin/layout_bench")
  if (!existsSync(program)) throw new UsageError(`${program} is not there: npm run zig -- build bench`)
  await ask(program, ["check"])
  const onStack = await stackAddresses(program)
  using status = new StatusLine()
  const results: Result[] = []
  for (const type of types) {
    status.show(`${type}: ${types.indexOf(type) + 1} of ${types.length} types`)
    results.push(...(await measureType(program, type, onStack, values)))
  }
  status.clear()
  const { rounds, cacheKilobytes, memoryMegabytes } = values
  const report = reportOf({ rounds, cacheKilobytes, memoryMegabytes, results })
  if (values.output === "md") await writeOut(markdown(results))
  else await writeOut(`${JSON.stringify(report, null, 2)}\n`)
  if (values.save !== undefined) {
    const command = `bun bench/layout.ts -r ${rounds} --save ${values.save}`
    warn(`written: ${saveReport(values.save, report, command, markdown(results))}`)
  }
}

// ---- Table ----

const placeName = ({ weights, nThreads }: Place) => `${weights} ${nThreads}t`

function markdown(results: readonly Result[]): string {
  const right = (name: string, width: number): Column => ({ name, width, align: "right" })
  const places = results[0]?.places ?? []
  const columns: Column[] = [
    { name: "type", width: 4, align: "left" },
    { name: "level", width: 7, align: "left" },
    { name: "rows", width: 4, align: "right" },
    ...[right("instr/256 w", 6), right("stack", 5)],
    ...places.map((place) => right(`${placeName(place)} GB/s`, 6)),
    ...places.flatMap((place) => (place.weights === "memory" ? [right(`of read ${place.nThreads}t`, 6)] : [])),
  ]
  const levels = [...new Set(results.map(({ level }) => level))]
  const order = (result: Result) => levels.indexOf(result.level)
  const rows = [...Map.groupBy(results, ({ type }) => type)].flatMap(([type, some]) => [
    tableRow(columns, [
      ...[type, "", "read", "", ""],
      ...some[0]!.places.map(({ readBytesPerSecond }) => (readBytesPerSecond / 1e9).toFixed(1)),
    ]),
    ...some
      .toSorted((a, b) => order(a) - order(b))
      .map(({ level, layout, instructionsPer256, stackInstructionsPer256, places: own }) =>
        tableRow(columns, [
          ...[type, level, layout, instructionsPer256.toFixed(1), stackInstructionsPer256.toFixed(1)],
          ...own.map(({ bytesPerSecond }) => (bytesPerSecond / 1e9).toFixed(1)),
          ...own.flatMap(({ weights, shareOfRead }) =>
            weights === "memory" ? [`${(100 * shareOfRead).toFixed(0)} %`] : [],
          ),
        ]),
      ),
  ])
  const peaks = levels.map((level) => {
    const rates = results.filter((result) => result.level === level).map(({ int8MacsPerSecond }) => int8MacsPerSecond)
    return `${level} ${(median(rates) / 1e9).toFixed(0)}`
  })
  const twins = levels.filter((level) => !cpuInfo().levels.includes(level))
  const note = twins.length === 0 ? "" : ` Level ${twins.join(", ")} ran in the encoding of AVX-512.`
  return `${tableHead(columns)}${rows.join("")}\nint8 peak of one thread, GMAC/s: ${peaks.join(", ")}.${note}\n`
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
