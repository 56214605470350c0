// A saved measurement: bench/results/NAME.json, whole turns of every contestant and the machine they ran on. Everything that
// is said about a measurement (summary.ts) follows from such a file, so it can be said again. Names no path.

import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { UsageError } from "../../src/cli/arguments.ts"
import { projectFolder } from "../../src/setup/project.ts"
import { type MachineFacts, writeJson } from "../machine.ts"
import type { Work } from "./engines.ts"
import type { Test } from "./tests.ts"

export const RESULTS_FOLDER = join(projectFolder, "bench/results")

/** Of the machine, with the run's threads, at the level of the turn's program. */
export interface Limits {
  readonly readBytesPerSecond: number
  readonly int8MacsPerSecond: number
}

export interface Turn {
  readonly round: number
  readonly before: Limits
  readonly after: Limits
  /** Share of CPU time that went to other virtual machines. */
  readonly stolenShare: number | null
  /** Of a verify curve: the read bandwidth before each of its sweeps. */
  readonly readBytesPerSecond?: readonly number[]
  /** Nanoseconds of each timed run, by the test's name. */
  readonly ns: Readonly<Record<string, readonly number[]>>
}

export interface Trial {
  readonly setting: string
  /** Nanoseconds, and the limits around them, by the test's name. */
  readonly ns: Readonly<Record<string, number>>
  readonly limits: Limits
}

export interface Contestant {
  readonly name: string
  readonly isPeer: boolean
  readonly version: string
  readonly note: string
  readonly trials: readonly Trial[]
  /** The setting that the rounds had, by the test's name. */
  readonly best: Readonly<Record<string, string>>
  readonly turns: readonly Turn[]
}

export interface Run {
  readonly format: 1
  /** With date and commit, of the last round. */
  readonly machine: MachineFacts
  /** Names, without folders. */
  readonly model: { readonly file: string; readonly type: string; readonly bytes: number }
  readonly nThreads: number
  readonly repetitions: number
  readonly tests: readonly Test[]
  /** Of the model, by the test's name. */
  readonly work: Readonly<Record<string, Work>>
  readonly contestants: readonly Contestant[]
}

function pathOf(name: string, folder: string): string {
  if (!/^[\w.-]+$/.test(name) || name.startsWith(".")) {
    throw new UsageError(`"${name}" is not a result's name: letters, digits, "_", "-" and "." are`)
  }
  return join(folder, `${name}.json`)
}

/** Writes a run, whole or not at all. Returns the file's path. */
export function saveRun(name: string, run: Run, folder = RESULTS_FOLDER): string {
  const path = pathOf(name, folder)
  writeJson(path, run)
  return path
}

/** undefined where there is no such run. */
export function readRun(name: string, folder = RESULTS_FOLDER): Run | undefined {
  const path = pathOf(name, folder)
  if (!existsSync(path)) return undefined
  const run: Run = JSON.parse(readFileSync(path, "utf8"))
  if (run.format !== 1) throw new UsageError(`bench/results/${name}.json has format ${run.format}, 1 is known`)
  return run
}
