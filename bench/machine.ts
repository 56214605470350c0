// The facts that a measured number needs beside it, what happens to the machine while it is measured, and how measurements
// are written. Names no path. Linux tells most; elsewhere, and where a file cannot be read, a fact is null.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { release, totalmem } from "node:os"
import { dirname } from "node:path"
import { cpuInfo } from "../src/native/handles.ts"
import { projectFolder } from "../src/setup/project.ts"

export interface MachineFacts {
  readonly date: string
  /** Of the program that measured. */
  readonly commit: string
  readonly cpu: string
  readonly levels: readonly string[]
  readonly nCores: number
  readonly nPhysical: number
  /** L1 data, L2, L3 of the first core. */
  readonly cacheBytes: readonly number[]
  readonly memoryBytes: number
  readonly kernel: string
  /** A virtual machine: the host may be shared. */
  readonly isVirtual: boolean | null
  /** Transparent huge pages: always, madvise or never. */
  readonly hugePages: string | null
  readonly governor: string | null
  readonly microcode: string | null
  readonly bun: string
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim()
  } catch {
    return null
  }
}

/** The first group of a pattern in a file; null where either is not there. */
function readMatch(path: string, pattern: RegExp): string | null {
  return pattern.exec(readText(path) ?? "")?.[1] ?? null
}

export function machineFacts(): MachineFacts {
  const { cpu, levels, nCores, nPhysical, cacheBytes } = cpuInfo()
  const cpuFlags = readMatch("/proc/cpuinfo", /^flags\s*: (.*)$/m)
  return {
    date: new Date().toISOString(),
    commit: sourceCommit(),
    ...{ cpu, levels: levels.filter((level) => level !== "reference"), nCores, nPhysical, cacheBytes },
    memoryBytes: totalmem(),
    kernel: `${process.platform} ${release()}`,
    isVirtual: cpuFlags === null ? null : cpuFlags.split(" ").includes("hypervisor"),
    hugePages: readMatch("/sys/kernel/mm/transparent_hugepage/enabled", /\[(\w+)\]/),
    governor: readText("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    microcode: readMatch("/proc/cpuinfo", /^microcode\s*: (.*)$/m),
    bun: Bun.version,
  }
}

/** The commit that is measured: "8db6066", "8db6066-dirty" where its sources differ (saved results and README do not count:
 * a run writes them), "unknown" without git. */
export function sourceCommit(): string {
  const git = (...words: string[]) => Bun.spawnSync(["git", ...words], { cwd: projectFolder, stderr: "ignore" })
  const head = git("rev-parse", "--short", "HEAD")
  if (!head.success) return "unknown"
  const isClean = git("diff", "--quiet", "HEAD", "--", ".", ":!bench/results", ":!README.md").success
  return `${head.stdout.toString().trim()}${isClean ? "" : "-dirty"}`
}

/** CPU time of all cores since the machine started, in the system's ticks. */
export interface CpuTime {
  readonly total: number
  /** Wanted by this virtual machine and given to another. */
  readonly stolen: number
}

/** The first line of /proc/stat: user nice system idle iowait irq softirq steal, then guests, which user has in it. */
export function parseCpuTime(text: string): CpuTime | null {
  const [name, ...ticks] = text.split("\n", 1)[0]!.trim().split(/\s+/)
  const counts = ticks.slice(0, 8).map(Number)
  if (name !== "cpu" || counts.length < 8 || !counts.every(Number.isFinite)) return null
  return { total: counts.reduce((sum, n) => sum + n, 0), stolen: counts[7]! }
}

export function cpuTime(): CpuTime | null {
  return parseCpuTime(readText("/proc/stat") ?? "")
}

/** Share of all cores' time that went to other virtual machines between two moments; null where it is not known. */
export function stolenShare(before: CpuTime | null, after: CpuTime | null): number | null {
  if (before === null || after === null || after.total <= before.total) return null
  return (after.stolen - before.stolen) / (after.total - before.total)
}

/** Writes JSON as a whole or not at all. Lists of numbers are a line each, or a file has thousands of lines. */
export function writeJson(path: string, value: unknown): void {
  const text = JSON.stringify(value, null, 1).replaceAll(/\[[-+.\de,\s]+\]/g, (list) => list.replaceAll(/\s+/g, ""))
  mkdirSync(dirname(path), { recursive: true })
  const temporary = `${path}.${process.pid}`
  writeFileSync(temporary, `${text}\n`)
  renameSync(temporary, path)
}
