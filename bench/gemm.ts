// The product's matmul kernels, slot by slot: speed and share of the machine's limits by type, level, shape and columns.
//
//   bun bench/gemm.ts --type q4_k,q6_k --level avx512 --columns 1,8,512 -t 2
//   bun bench/gemm.ts --library old/libasdsl.so --library new/libasdsl.so      two builds, in turns
//   npm run zig -- build -Devex-vnni -Dtile-columns=4 --prefix tile-4          a build to compare: another tile width
//
// Each case is a program of matmuls over different matrices, 256 MB of them unless --weights says otherwise, so that few
// columns stream from memory as decode does. Each library has a process of its own; they measure in turns, and a ratio
// is the median over rounds of times in the same round. The limits are probed before and after a case's rounds. Where
// two libraries' products differ in any bit, the table says so.

import { existsSync } from "node:fs"
import { basename, resolve } from "node:path"
import { type Command, group, integer, integers, text, texts, UsageError, type Values } from "../src/cli/arguments.ts"
import { outputFlag } from "../src/cli/flags.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { StatusLine } from "../src/cli/status.ts"
import { type Column, formatShare, tableHead, tableRow } from "../src/cli/table.ts"
import { median } from "../src/eval/statistics.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { LibraryProcess } from "./matmul/library.ts"
import type { MatmulCase } from "./matmul/program.ts"
import { reportOf, saveReport } from "./save.ts"

const SHAPES = ["2048x2048", "5632x2048", "2048x5632", "1536x8960", "576x576"]

const flags = {
  ...group("Kernels", {
    types: texts("--type", { value: "NAME,...", help: "tensor types; absent: q4_k, q6_k, q4_1, q5_0, q8_0" }),
    levels: texts("--level", { value: "NAME,...", help: "levels; absent: all vector levels of all libraries" }),
    shapes: texts("--shape", { value: "ROWSxCOLS,...", help: `matrices; absent: ${SHAPES.join(", ")}` }),
    columns: integers("--columns", { min: 1, max: 4096, initial: [1, 2, 4, 8, 16, 32, 128, 512], help: "tokens" }),
    nThreads: integers("-t, --threads", { min: 1, max: 1024, initial: [1, 2], help: "threads" }),
    libraries: texts("--library", { value: "FILE", help: "a build of the library; absent: this checkout's" }),
  }),
  ...group("Measurement", {
    weightMegabytes: integer("--weights", {
      min: 0,
      max: 65536,
      initial: 256,
      help: "MB of different matrices; 0: a single one, which caches may hold",
    }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 9, help: "rounds" }),
    milliseconds: integer("--ms", { min: 1, max: 60000, initial: 20, help: "least time of a measurement" }),
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json" }),
  }),
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/gemm.ts",
  summary: "matmul kernels by type, level, shape and columns; two libraries in turns",
  usage: "[--type q4_k] [--level avx512] [--shape 2048x2048] [--columns 1,8,512] [-t 1,2] [--library FILE ...]",
  flags,
}

/** One case at one number of columns, of all libraries. */
interface Result {
  readonly type: string
  readonly level: string
  readonly nThreads: number
  readonly rows: number
  readonly cols: number
  readonly columns: number
  readonly nMatrices: number
  /** Means of before and after the rounds. */
  readonly limits: Limits
  readonly libraries: readonly LibraryResult[]
}

interface Limits {
  readonly readBytesPerSecond: number
  readonly int8MacsPerSecond: number
}

interface LibraryResult {
  readonly library: string
  readonly slot: string
  /** Of one product, by round. */
  readonly nanoseconds: readonly number[]
  readonly macsPerSecond: number
  /** Weight bytes, each counted once. */
  readonly bytesPerSecond: number
  /** The time that the nearer limit allows, of the time it took. */
  readonly share: number
  /** The first library's time by this one's: the median of the rounds' ratios. */
  readonly speedup: number
  readonly hasSameBits: boolean
}

function listOf(given: readonly string[], initial: readonly string[]): string[] {
  return given.length === 0 ? [...initial] : given.flatMap((words) => words.split(","))
}

function typesOf(given: readonly string[]): TensorTypeName[] {
  return listOf(given, ["Q4_K", "Q6_K", "Q4_1", "Q5_0", "Q8_0"]).map((name) => {
    const type = name.toUpperCase()
    if (!(type in TENSOR_TYPES))
      throw new UsageError(`--type ${name} is none of ${Object.keys(TENSOR_TYPES).join(", ")}`)
    return type as TensorTypeName
  })
}

function shapesOf(given: readonly string[]): [number, number][] {
  return listOf(given, SHAPES).map((shape) => {
    const parts = /^(\d{1,6})x(\d{1,6})$/.exec(shape)
    if (parts === null) throw new UsageError(`--shape is "${shape}", rows and columns are needed: 2048x5632`)
    return [Number(parts[1]), Number(parts[2])]
  })
}

/** The folder's or file's name that tells each from all others, else the path. */
function libraryNames(paths: readonly string[]): string[] {
  const parts = paths.map((path) => resolve(path).split("/").reverse())
  const names = parts[0]!.map((_, i) => parts.map((part) => part[i] ?? ""))
  return (
    names.find((column) => new Set(column).size === paths.length) ??
    paths.map((path, i) => `${basename(path)} ${i + 1}`)
  )
}

function openLibraries(paths: readonly string[]): LibraryProcess[] {
  for (const path of paths) if (!existsSync(path)) throw new UsageError(`--library ${path}: no such file`)
  if (paths.length === 0) return [new LibraryProcess("asdsl", undefined)]
  return libraryNames(paths).map((name, i) => new LibraryProcess(name, resolve(paths[i]!)))
}

async function levelsOf(given: readonly string[], libraries: readonly LibraryProcess[]): Promise<string[]> {
  const known = await Promise.all(libraries.map((library) => library.ask("levels", {})))
  const everywhere = known[0]!.filter((level) => known.every((levels) => levels.includes(level)))
  const vectors = everywhere.filter((level) => level !== "reference" && level !== "portable")
  return listOf(given, vectors)
}

/** All columns of one case, in rounds. */
async function runCase(given: MatmulCase, libraries: readonly LibraryProcess[], values: Values<typeof flags>) {
  const places = await Promise.all(libraries.map((library) => library.ask("open", given)))
  const before = await libraries[0]!.ask("probe", {})
  const columns = values.columns
  const times = libraries.map(() => columns.map(() => [] as number[]))
  const slots = libraries.map(() => columns.map(() => ""))
  for (let round = 0; round < values.rounds; round++) {
    for (const [c, n] of columns.entries()) {
      for (let turn = 0; turn < libraries.length; turn++) {
        const l = (turn + round) % libraries.length // who is first changes
        const { nanoseconds, slot } = await libraries[l]!.ask("measure", {
          columns: n,
          milliseconds: values.milliseconds,
        })
        times[l]![c]!.push(nanoseconds)
        slots[l]![c] = slot
      }
    }
  }
  const after = await libraries[0]!.ask("probe", {})
  const limits = {
    readBytesPerSecond: (before.readBytesPerSecond + after.readBytesPerSecond) / 2,
    int8MacsPerSecond: (before.int8MacsPerSecond + after.int8MacsPerSecond) / 2,
  }
  const results: Result[] = []
  for (const [c, n] of columns.entries()) {
    const bits: string[] = []
    for (const library of libraries) bits.push(await library.ask("bits", { columns: n }))
    const macs = given.rows * given.cols * n
    const { matrixBytes, nMatrices } = places[0]!
    const least = Math.max(matrixBytes / limits.readBytesPerSecond, macs / limits.int8MacsPerSecond) * 1e9
    results.push({
      ...{ type: given.type, level: given.level, nThreads: given.nThreads, rows: given.rows, cols: given.cols },
      ...{ columns: n, nMatrices, limits },
      libraries: libraries.map(({ name }, l) => {
        const own = times[l]![c]!
        const time = median(own)
        return {
          ...{ library: name, slot: slots[l]![c]!, nanoseconds: own },
          macsPerSecond: (macs / time) * 1e9,
          bytesPerSecond: (matrixBytes / time) * 1e9,
          share: least / time,
          speedup: median(own.map((ns, round) => times[0]![c]![round]! / ns)),
          hasSameBits: bits[l] === bits[0],
        }
      }),
    })
  }
  return results
}

async function run(values: Values<typeof flags>): Promise<void> {
  const types = typesOf(values.types)
  const shapes = shapesOf(values.shapes)
  if (values.libraries.length > 0) process.env.ASDSL_LIBRARY ??= resolve(values.libraries[0]!) // for the machine's facts
  await using stack = new AsyncDisposableStack()
  const libraries = openLibraries(values.libraries).map((library) => stack.use(library))
  const levels = await levelsOf(values.levels, libraries)
  const maxColumns = Math.max(...values.columns)
  using status = new StatusLine()
  const results: Result[] = []
  if (values.output === "md") await writeOut(tableHead(columnsOf(libraries)))
  for (const type of types) {
    for (const [rows, cols] of shapes) {
      if (cols % TENSOR_TYPES[type].block !== 0) {
        warn(`${type} ${rows}x${cols}: left out, its blocks are of ${TENSOR_TYPES[type].block} columns`)
        continue
      }
      for (const level of levels) {
        for (const nThreads of values.nThreads) {
          status.show(`${type} ${level} ${rows}x${cols}, ${nThreads} threads`)
          const weightBytes = values.weightMegabytes * 1e6
          const some = await runCase({ type, rows, cols, level, nThreads, weightBytes, maxColumns }, libraries, values)
          results.push(...some)
          status.clear()
          if (values.output === "md") await writeOut(some.map((result) => row(result, libraries)).join(""))
        }
      }
    }
  }
  const { rounds, milliseconds, weightMegabytes } = values
  const report = reportOf({ rounds, milliseconds, weightMegabytes, results })
  if (values.output === "json") await writeOut(`${JSON.stringify(report, null, 2)}\n`)
  if (values.save !== undefined) {
    const table = tableHead(columnsOf(libraries)) + results.map((result) => row(result, libraries)).join("")
    const typed = `bun bench/gemm.ts ${process.argv.slice(2).join(" ")}`
    warn(
      `written: ${saveReport(values.save, report, typed.replaceAll(/--library \S*\/(\S+\/lib\/)/g, "--library $1"), table)}`,
    )
  }
}

// ---- Table ----

function columnsOf(libraries: readonly LibraryProcess[]): Column[] {
  const right = (name: string, width: number): Column => ({ name, width, align: "right" })
  return [
    { name: "type", width: 6, align: "left" },
    { name: "level", width: 7, align: "left" },
    ...[right("threads", 2), right("matrix", 9), right("columns", 3)],
    ...[right("limit GB/s", 5), right("limit GMAC/s", 5)],
    ...libraries.flatMap(({ name }, i) => [
      ...[right(`${name} GB/s`, 5), right("GMAC/s", 6), right("of limit", 6)],
      ...(i === 0 ? [] : [right(`x ${libraries[0]!.name}`, 6)]),
    ]),
  ]
}

function row(result: Result, libraries: readonly LibraryProcess[]): string {
  const { type, level, nThreads, rows, cols, columns, limits } = result
  return tableRow(columnsOf(libraries), [
    ...[type, level, String(nThreads), `${rows}x${cols}`, String(columns)],
    ...[(limits.readBytesPerSecond / 1e9).toFixed(1), (limits.int8MacsPerSecond / 1e9).toFixed(0)],
    ...result.libraries.flatMap(({ bytesPerSecond, macsPerSecond, share, speedup, hasSameBits }, i) => [
      ...[(bytesPerSecond / 1e9).toFixed(1), (macsPerSecond / 1e9).toFixed(1), formatShare(share)],
      ...(i === 0 ? [] : [`${speedup.toFixed(3)}${hasSameBits ? "" : " other bits"}`]),
    ]),
  ])
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
