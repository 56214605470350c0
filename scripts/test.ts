// `npm test`: every test file in a process of its own, so that a crash or a hang costs that file alone, and at the end one
// line "N passed, N failed". Words after `npm test --` choose the files whose path has one of them in it.
//
// Two files run side by side, for most keep one core busy; what each prints comes when it is done. Files that compare a
// time with a limit run before the others, one at a time.
//
// With $ASDSL_TEST_DATA set, a test of test/conformance that is skipped has failed.
//
// `npm run test:larger` (--larger) runs test/larger instead: what takes models of a gigabyte, and minutes.

import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { projectFolder } from "../src/setup/project.ts"
import { type FileReport, readJunit } from "./junit.ts"

const FILE_TIMEOUT_MS = 10 * 60_000
const LARGER_FILE_TIMEOUT_MS = 60 * 60_000
const SIDE_BY_SIDE = Math.min(2, availableParallelism())
/** For a test that names no limit of its own: Bun's, and as much longer as others share the cores. */
const timeoutMs = (isAlone: boolean) => 5_000 * (isAlone ? 1 : SIDE_BY_SIDE)

/** What becomes of these depends on how fast something is done. */
export const TIMED = [
  "test/chat-template.test.ts",
  "test/chat-worker.test.ts",
  "test/checkpoint-4.test.ts",
  "test/conformance/tokenizer.test.ts",
  "test/models.test.ts",
  "test/tokenizer.test.ts",
]

async function main(args: string[]): Promise<number> {
  const isLarger = args[0] === "--larger"
  const words = isLarger ? args.slice(1) : args
  const files = testFiles(words, isLarger ? "test/larger/*.ts" : "test/**/*.test.ts")
  const total: FileReport = { passed: [], failed: [], skipped: [] }
  if (files.length === 0) total.failed.push(`no test file has any of these in its path: ${words.join(" ")}`)
  const runAll = async (chosen: Iterable<string>, isAlone: boolean) => {
    for (const file of chosen) {
      const report = await runFile(file, isLarger ? LARGER_FILE_TIMEOUT_MS : FILE_TIMEOUT_MS, isAlone)
      for (const outcome of ["passed", "failed", "skipped"] as const) {
        total[outcome].push(...report[outcome].map((name) => `${file}: ${name}`))
      }
    }
  }
  const isAlone = (file: string) => isLarger || files.length === 1 || TIMED.includes(file)
  await runAll(files.filter(isAlone), true)
  const others = files.filter((file) => !isAlone(file)).values()
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, () => runAll(others, false))) // each takes the next that is left
  for (const name of total.failed) console.log(`failed: ${name}`)
  if (total.skipped.length > 0) console.log(`${total.skipped.length} skipped`)
  console.log(`${total.passed.length} passed, ${total.failed.length} failed`)
  return total.failed.length === 0 ? 0 : 1
}

function testFiles(words: string[], pattern: string): string[] {
  const files = [...new Bun.Glob(pattern).scanSync({ cwd: projectFolder })].sort()
  return words.length === 0 ? files : files.filter((file) => words.some((word) => file.includes(word)))
}

async function runFile(file: string, timeout: number, isAlone: boolean): Promise<FileReport> {
  const folder = mkdtempSync(join(tmpdir(), "asdsl-test-"))
  const outfile = join(folder, "report.xml")
  const log = join(folder, "log")
  const collected = openSync(log, "a")
  const output = isAlone ? "inherit" : collected
  try {
    const reporter = ["--reporter=junit", `--reporter-outfile=${outfile}`]
    const child = Bun.spawn([process.execPath, "test", `./${file}`, `--timeout=${timeoutMs(isAlone)}`, ...reporter], {
      cwd: projectFolder,
      stdio: ["ignore", output, output],
      timeout,
      killSignal: "SIGKILL",
    })
    await child.exited
    const text = existsSync(outfile) ? readFileSync(outfile, "utf8") : ""
    return judge(file, text, child.signalCode ?? child.exitCode)
  } finally {
    closeSync(collected)
    process.stdout.write(readFileSync(log))
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What a file came to by its report and the end of its process (exit code, or the signal that ended it). */
export function judge(file: string, junit: string, end: number | string | null): FileReport {
  const report = readJunit(junit)
  if (report === undefined) return { passed: [], failed: [`ended without a report (${end})`], skipped: [] }
  if (process.env.ASDSL_TEST_DATA && file.startsWith("test/conformance/")) {
    report.failed.push(...report.skipped.splice(0).map((name) => `${name} (skipped)`))
  }
  if (end !== 0 && report.failed.length === 0) report.failed.push(`ended with ${end} outside of any test`)
  return report
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2))
