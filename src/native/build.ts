// The shared library, up to date: built by build.zig when the content of a source changed and never when none did.
// Knows which files the library is made of and where it lies, nothing of what is in it.
//
// zig-out/lib/build-stamp.json says what the library beside it was built from. Sizes and times of modification answer
// at once if none differs; only then are the files read. Library and stamp are renamed into place, the library first.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { BuildError } from "../errors.ts"
import { lockSync } from "../setup/lock.ts"
import { projectFolder } from "../setup/project.ts"
import { findZig, zigBuild, zigEnvironment } from "../setup/zig.ts"

const SOURCE_FOLDERS = ["csrc", join("csrc", "kernels"), join("csrc", "platform")]

/** Where `zig build` puts the library below its prefix. */
const BUILT: Partial<Record<NodeJS.Platform, string>> = { darwin: "lib/libasdsl.dylib", win32: "bin/asdsl.dll" }
const builtAs = BUILT[process.platform] ?? "lib/libasdsl.so"

interface Stamp {
  /** Of platform, file names and contents. */
  readonly hash: string
  /** Name, size and time of modification of each source. */
  readonly sources: string
}

/**
 * The path of the shared library, built first if a source changed since it was built ($ASDSL_LIBRARY: that file, as it
 * is). Blocks while it builds. Throws BuildError: no zig of the right version, or the build failed.
 */
export function ensureLibrary(): string {
  const named = process.env.ASDSL_LIBRARY
  if (!named) return buildIfStale(projectFolder, () => findZig())
  if (!existsSync(named)) throw new BuildError(`$ASDSL_LIBRARY (${named}) does not exist`)
  return named
}

/** The library of the project in `root`; `zig` is asked for the compiler only if there is something to build. */
export function buildIfStale(root: string, zig: () => string): string {
  const library = join(root, "zig-out", "lib", basename(builtAs))
  if (isFresh(root, library)) return library
  using _lock = lockSync(join(root, "zig-out", "build.lock"))
  if (!isFresh(root, library)) build(root, library, zig())
  return library
}

function isFresh(root: string, library: string): boolean {
  const stamp = readStamp(library)
  if (stamp === undefined || !existsSync(library)) return false
  const files = sourceFiles(root)
  const sources = describe(root, files)
  if (stamp.sources === sources) return true
  if (stamp.hash !== hashOf(root, files)) return false
  try {
    writeStamp(library, { hash: stamp.hash, sources })
  } catch {
    // A checkout that cannot be written to: the next call reads the files again.
  }
  return true
}

function sourceFiles(root: string): string[] {
  const files = ["build.zig"]
  for (const folder of SOURCE_FOLDERS) {
    for (const name of readdirSync(join(root, folder)).sort()) {
      if (name.endsWith(".c") || name.endsWith(".h")) files.push(join(folder, name))
    }
  }
  return files
}

function describe(root: string, files: string[]): string {
  const lines = files.map((file) => {
    const { size, mtimeMs } = statSync(join(root, file))
    return `${file} ${size} ${mtimeMs}`
  })
  return lines.join("\n")
}

/** build.zig names the version of zig, so its content stands for that as well. */
function hashOf(root: string, files: string[]): string {
  const hash = new Bun.CryptoHasher("sha256")
  hash.update(`${process.platform} ${process.arch}\n`)
  for (const file of files) {
    const content = readFileSync(join(root, file))
    hash.update(`${file} ${content.length}\n`).update(content)
  }
  return hash.digest("hex")
}

function readStamp(library: string): Stamp | undefined {
  try {
    return JSON.parse(readFileSync(stampPath(library), "utf8"))
  } catch {
    return undefined
  }
}

function writeStamp(library: string, stamp: Stamp): void {
  const partial = `${stampPath(library)}.${process.pid}.partial`
  writeFileSync(partial, `${JSON.stringify(stamp, null, 2)}\n`)
  renameSync(partial, stampPath(library))
}

function stampPath(library: string): string {
  return join(dirname(library), "build-stamp.json")
}

function build(root: string, library: string, zig: string): void {
  // Before the build: a source that changes meanwhile makes the library stale again.
  const files = sourceFiles(root)
  const stamp = { hash: hashOf(root, files), sources: describe(root, files) }
  mkdirSync(dirname(library), { recursive: true })
  const prefix = join(root, "zig-out", "partial") // the lock's holder alone is here
  rmSync(prefix, { recursive: true, force: true })
  try {
    runZig(zig, root, prefix)
    renameSync(join(prefix, builtAs), library)
    writeStamp(library, stamp)
  } finally {
    rmSync(prefix, { recursive: true, force: true })
  }
}

function runZig(zig: string, root: string, prefix: string): void {
  const terminal = process.stderr.isTTY
  const start = performance.now()
  if (terminal) process.stderr.write("building the engine (about half a minute the first time) ...")
  const child = Bun.spawnSync(zigBuild(zig, "--prefix", prefix, "--color", terminal ? "on" : "off"), {
    cwd: root,
    env: zigEnvironment(),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  if (terminal) process.stderr.write(` ${((performance.now() - start) / 1000).toFixed(1)} s\n`)
  if (child.exitCode === 0) return
  const how = child.exitCode === null ? `was ended by ${child.signalCode}` : `failed (exit code ${child.exitCode})`
  throw new BuildError(`zig build ${how}:\n${`${child.stderr}`.trim()}`)
}
