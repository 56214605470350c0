// The C compiler: zig in the one version that build.zig is written for, found in the order $ZIG, the project's own
// folder, PATH, and else installed into that folder. Knows nothing of what is built.

import { existsSync, readFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join } from "node:path"
import { BuildError } from "../errors.ts"
import { installTool } from "./pip.ts"
import { projectFolder } from "./project.ts"

/** The version of zig that build.zig accepts, which is the only place that names it. */
export function zigVersion(root = projectFolder): string {
  const source = readFileSync(join(root, "build.zig"), "utf8")
  const version = /^const zig_version = "([^"]+)"/m.exec(source)?.[1]
  if (version === undefined) throw new BuildError("build.zig does not say which zig it needs (const zig_version)")
  return version
}

/** The path of a zig of the right version for the project in `root`. Throws BuildError: $ZIG is another version, or none can be installed. */
export function findZig(root = projectFolder): string {
  const wanted = zigVersion(root)
  const named = process.env.ZIG
  if (named) {
    const version = versionOf(named)
    if (version === wanted) return named
    const is = version === undefined ? "does not run" : `is zig ${version}`
    throw new BuildError(`$ZIG (${named}) ${is}, asdsl is built by zig ${wanted}: unset ZIG to have it installed`)
  }
  const own = ownZig(join(root, ".tools", "ziglang"))
  if (existsSync(own) && versionOf(own) === wanted) return own
  const onPath = Bun.which("zig", { PATH: process.env.PATH ?? "" })
  const version = onPath === null ? undefined : versionOf(onPath)
  if (onPath !== null && version === wanted) return onPath
  try {
    return ownZig(installTool("ziglang", wanted, root))
  } catch (cause) {
    if (!(cause instanceof BuildError) || onPath === null) throw cause
    throw new BuildError(`${cause.message}; the zig on PATH (${onPath}) is ${version ?? "no zig at all"}`, { cause })
  }
}

/**
 * The environment to run zig in. `zig build` first compiles a program of its own, once a machine: optimised, that takes
 * several times as long as all of our sources. With ZIG_DEBUG_CMD it does not optimise it, and makes the same library.
 */
export function zigEnvironment(): Record<string, string | undefined> {
  return { ...process.env, ZIG_DEBUG_CMD: "1" }
}

/**
 * The words of `zig build` and what follows. Without -j it has one thread fewer than CPUs beside its first, which waits once
 * it has handed out the steps that need no other: on two CPUs most of a build is one step at a time then.
 */
export function zigBuild(zig: string, ...words: string[]): string[] {
  return [zig, "build", `-j${availableParallelism()}`, ...words]
}

function ownZig(folder: string): string {
  return join(folder, "ziglang", process.platform === "win32" ? "zig.exe" : "zig")
}

function versionOf(zig: string): string | undefined {
  try {
    const child = Bun.spawnSync([zig, "version"], { stdin: "ignore", stdout: "pipe", stderr: "ignore" })
    return child.exitCode === 0 ? child.stdout.toString().trim() : undefined
  } catch {
    return undefined
  }
}
