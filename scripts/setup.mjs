// Makes a fresh clone ready, with what the machine has: Node (or Bun) alone. Installs the packages unless they are there in
// the locked versions, then leaves the rest to scripts/setup.ts, which Bun runs. Does nothing, fast, where all is done.
//
//   node scripts/setup.mjs              everything: packages, zig, the engine, the default model
//   node scripts/setup.mjs packages     the packages alone

import { spawnSync } from "node:child_process"
import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const bunPackage = join(root, "node_modules", "bun")
const bun = join(bunPackage, "bin", "bun.exe") // its name on every system

class SetupError extends Error {}

function main() {
  const nodeMajor = Number(process.versions.node.split(".")[0])
  if (!process.versions.bun && nodeMajor < 20) {
    throw new SetupError(`this is Node ${process.versions.node}, asdsl is set up by Node 20 or later`)
  }
  if (!packagesAreCurrent()) installPackages()
  if (!bunRuns()) fetchBun()
  if (process.argv[2] === "packages") return 0
  const rest = spawnSync(bun, [join(root, "scripts", "setup.ts")], { stdio: ["ignore", "inherit", "inherit"] })
  return rest.status ?? 1
}

/** Each package of the lock is there in its version, whoever installed it. */
function packagesAreCurrent() {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"))
  return Object.entries(packages).every(([path, { version, optional }]) => {
    if (path === "" || optional) return true // the project itself; other systems' programs
    const manifest = join(root, path, "package.json")
    return existsSync(manifest) && JSON.parse(readFileSync(manifest, "utf8")).version === version
  })
}

function installPackages() {
  if (process.stderr.isTTY) process.stderr.write("installing packages ...\n")
  const [program, ...first] = installer()
  const result = spawnSync(program, first, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
  if (result.error) throw new SetupError(`the packages cannot be installed: ${program} does not run`)
  if (result.status === 0) return
  const output = `${result.stdout}${result.stderr}`
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|DNSResolveFailed|ConnectionRefused/.test(output)) {
    throw new SetupError("the packages cannot be installed: the npm registry cannot be reached (is there a network?)")
  }
  throw new SetupError(`the packages cannot be installed: ${[program, ...first].join(" ")} says\n${output.trim()}`)
}

/** Bun installs from npm's lock as well. npm names itself to the scripts that it runs. */
function installer() {
  if (process.versions.bun) return [process.execPath, "install", "--frozen-lockfile"]
  const npm = process.env.npm_execpath
  const named = process.platform === "win32" ? ["cmd.exe", "/c", "npm"] : ["npm"] // there it is a script of cmd's
  const program = npm?.endsWith("npm-cli.js") ? [process.execPath, npm] : named
  return [...program, "ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"]
}

/** Until its install script has run, the program is a stub of a few hundred bytes. */
function bunRuns() {
  return (statSync(bun, { throwIfNoEntry: false })?.size ?? 0) > 1e6
}

function fetchBun() {
  const result = spawnSync(process.execPath, [join(bunPackage, "install.js")], { cwd: bunPackage, encoding: "utf8" })
  if (!bunRuns()) throw new SetupError(`Bun cannot be installed: ${`${result.stdout}${result.stderr}`.trim()}`)
}

try {
  process.exitCode = main()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`asdsl set-up: ${error.message}\n`)
  process.exitCode = 1
}
