// The facts that a measured number needs beside it, and where measurements are kept.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { release, totalmem } from "node:os"
import { dirname } from "node:path"
import { buildCommit } from "../src/cli/commit.ts"
import { cpuInfo } from "../src/native/handles.ts"

export interface MachineFacts {
  readonly date: string
  /** Of the program that measured; "-dirty" where files differed from it. */
  readonly commit: string
  readonly cpu: string
  readonly levels: readonly string[]
  readonly nCores: number
  readonly nPhysical: number
  /** L1 data, L2, L3 of the first core. */
  readonly cacheBytes: readonly number[]
  readonly memoryBytes: number
  readonly kernel: string
  /** What the system says of huge pages: "always [madvise] never"; "unknown" where it says nothing. */
  readonly hugePages: string
  readonly bun: string
}

export function machineFacts(): MachineFacts {
  const { cpu, levels, nCores, nPhysical, cacheBytes } = cpuInfo()
  return {
    date: new Date().toISOString(),
    commit: buildCommit(),
    ...{ cpu, levels: levels.filter((level) => level !== "reference"), nCores, nPhysical, cacheBytes },
    memoryBytes: totalmem(),
    kernel: `${process.platform} ${release()}`,
    hugePages: hugePages(),
    bun: Bun.version,
  }
}

function hugePages(): string {
  try {
    return readFileSync("/sys/kernel/mm/transparent_hugepage/enabled", "utf8").trim()
  } catch {
    return "unknown"
  }
}

/** Writes JSON as a whole or not at all. */
export function writeJson(path: string, value: unknown): void {
  mkdirSync(dirname(path), { recursive: true })
  const temporary = `${path}.${process.pid}`
  writeFileSync(temporary, `${JSON.stringify(value, null, 2)}\n`)
  renameSync(temporary, path)
}
