// Levels that CPUID hides although the CPU may have them: virtual machines do so with AVX-VNNI. Whether such a level
// executes is found out in a child process, once for each process that asks, because the instruction may trap.

import { fileURLToPath } from "node:url"
import { UnsupportedError } from "../errors.ts"
import { ExitCode, Level } from "./abi.ts"
import { levelName } from "./library.ts"

/** What trying a level came to: undefined where it executes, else the reason in words. */
type Outcome = string | undefined

const outcomes = new Map<number, Outcome>()

/** Levels that are not among `levels` (names) and of which only CPUID may be wrong: cpu_hidden_levels of csrc/cpu.c. */
export function hiddenLevels(levels: readonly string[]): string[] {
  const mayHide = levels.includes(levelName(Level.AVX2)) && !levels.includes(levelName(Level.AVXVNNI))
  return mayHide ? [levelName(Level.AVXVNNI)] : []
}

/** Whether a hidden level executes here. The first call costs a child process, some 50 ms. */
export function executes(level: number): boolean {
  return outcomeOf(level) === undefined
}

/** Throws UnsupportedError, with what became of the child process, unless a hidden level executes here. */
export function checkExecutes(level: number): void {
  const outcome = outcomeOf(level)
  if (outcome === undefined) return
  throw new UnsupportedError(
    `level ${levelName(level)}: this CPU's CPUID does not offer it, and a child process that executed its instruction ${outcome}`,
  )
}

function outcomeOf(level: number): Outcome {
  if (!outcomes.has(level)) outcomes.set(level, tryInChild(level))
  return outcomes.get(level)
}

function tryInChild(level: number): Outcome {
  const script = fileURLToPath(new URL("./try-level.ts", import.meta.url))
  const child = Bun.spawnSync([process.execPath, script, String(level)], {
    ...{ stdin: "ignore", stdout: "ignore", stderr: "pipe" },
  })
  if (child.success) return undefined
  if (child.exitCode === ExitCode.TRAPPED) return "trapped (SIGILL): the CPU does not have it"
  const end = child.signalCode === undefined ? `exit code ${child.exitCode}` : `signal ${child.signalCode}`
  return `ended with ${end}: ${child.stderr.toString().trim().split("\n").at(-1) || "no message"}`
}
