// Packages of the Python index as folders and files of our own: pip is the download program, nothing it brings is
// imported. Knows nothing of what the packages are for.

import { existsSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { BuildError } from "../errors.ts"
import { lockSync } from "./lock.ts"
import { projectFolder } from "./project.ts"

/** The Python whose pip is asked: $PYTHON, else python3. */
export function python(): string {
  return process.env.PYTHON || (process.platform === "win32" ? "python" : "python3")
}

/** pip's environment: settings of a user that would turn a download into a folder of ours into something else are off. */
export function pipEnvironment(more: Record<string, string> = {}): Record<string, string | undefined> {
  return { ...process.env, PIP_REQUIRE_VIRTUALENV: "0", PIP_USER: "0", PIP_DISABLE_PIP_VERSION_CHECK: "1", ...more }
}

/** Why pip failed, in words for a person, from what it printed. */
export function pipFailure(output: string): string {
  if (/No module named pip/.test(output)) {
    return `${python()} has no pip (install your system's package python3-pip, or run ${python()} -m ensurepip)`
  }
  if (/Retrying \(|NewConnectionError|ConnectTimeout|Temporary failure in name resolution/.test(output)) {
    return "the Python package index cannot be reached (is there a network?)"
  }
  const errors = output.split("\n").filter((line) => line.startsWith("ERROR:"))
  return errors.at(-1)?.slice("ERROR:".length).trim() || output.trim().split("\n").at(-1) || "pip failed without a word"
}

/** Said when the program itself is missing. */
export function pythonMissing(): string {
  return `${python()} is not installed (Python 3 with pip is what downloads it; $PYTHON names another one)`
}

/**
 * The folder of a package in one exact version, .tools/<package>, installed if it is not there: whole or not at all.
 * Throws BuildError if it cannot be had.
 */
export function installTool(name: string, version: string, root = projectFolder): string {
  const tools = join(root, ".tools")
  const folder = join(tools, name)
  const isThere = () => existsSync(join(folder, `${name.replaceAll("-", "_")}-${version}.dist-info`))
  if (isThere()) return folder
  using _lock = lockSync(join(tools, `${name}.lock`))
  if (isThere()) return folder
  const fresh = `${folder}.partial` // the lock's holder alone is here
  rmSync(fresh, { recursive: true, force: true })
  try {
    runPipInstall(fresh, name, version)
    rmSync(folder, { recursive: true, force: true })
    renameSync(fresh, folder)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  return folder
}

/** On a terminal pip shows its own progress bar. */
function runPipInstall(target: string, name: string, version: string): void {
  const terminal = process.stderr.isTTY
  if (terminal) process.stderr.write(`fetching ${name} ${version} ...\n`)
  const command = [python(), "-m", "pip", "install", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
  command.push("--retries", "2", "--target", target, `${name}==${version}`)
  const what = `${name} ${version} could not be installed`
  let result: { exitCode: number; output: string }
  try {
    const child = Bun.spawnSync(command, {
      env: pipEnvironment(),
      stdin: "ignore",
      stdout: terminal ? 2 : "pipe",
      stderr: "pipe",
    })
    result = { exitCode: child.exitCode, output: `${child.stdout ?? ""}${child.stderr}` }
  } catch (cause) {
    throw new BuildError(`${what}: ${pythonMissing()}`, { cause })
  }
  if (result.exitCode !== 0) throw new BuildError(`${what}: ${pipFailure(result.output)}`)
}
