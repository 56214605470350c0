// `npm run cross`: the engine's library for every supported system, into zig-out/cross/<system>/, by zig alone. Each is held
// to csrc/asdsl.h: it exports those functions and no others, for the right CPU, and needs nothing but what its system
// comes with. Prints their sizes; what cannot run here is not run. Words after `--` go to zig: with -Doptimize=debug, as
// .ci/run has it, the same is checked of code that compiles in half the time.

import { existsSync, readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { BuildError } from "../src/errors.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig, zigBuild, zigEnvironment } from "../src/setup/zig.ts"
import { Elf } from "./elf.ts"
import { MachO } from "./mach-o.ts"
import { Pe } from "./pe.ts"

/** What a library says of itself. */
interface Facts {
  readonly machine: number
  readonly exported: string[]
  readonly neededLibraries: string[]
  /** Versions of the system that it needs, as the format has them. */
  readonly versions: string[]
}

interface Format {
  readonly file: string
  read(bytes: Uint8Array): Facts
  /** The libraries that every such system has. */
  readonly system: RegExp
}

const elf = (system: RegExp): Format => ({
  file: "libasdsl.so",
  read(bytes) {
    const library = new Elf(bytes)
    return {
      machine: library.machine,
      exported: library.exported(),
      neededLibraries: library.neededLibraries(),
      versions: library.neededVersions(),
    }
  },
  system,
})

const machO: Format = {
  file: "libasdsl.dylib",
  read(bytes) {
    const library = new MachO(bytes)
    const { machine, neededLibraries, minimumSystem } = library
    return { machine, exported: library.exported(), neededLibraries, versions: [minimumSystem] }
  },
  system: /^\/usr\/lib\/libSystem\.B\.dylib$/,
}

const pe: Format = {
  file: "asdsl.dll",
  read(bytes) {
    const library = new Pe(bytes)
    const { machine } = library
    return { machine, exported: library.exported(), neededLibraries: library.neededLibraries(), versions: [] }
  },
  system: /^(kernel32|ntdll|api-ms-win-(crt|core)-[a-z0-9-]+)\.dll$/,
}

const glibc = elf(/^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|ld-linux-(x86-64|aarch64)\.so\.[12])$/)
const musl = elf(/^libc\.so$/)

/** By the folder's name: format, machine, and the versions of the system that the library may need. */
const SYSTEMS: Record<string, [format: Format, machine: number, isOldEnough: (version: string) => boolean]> = {
  "linux-x64": [glibc, 62, isInGlibc217],
  "linux-x64-musl": [musl, 62, () => false],
  "linux-arm64": [glibc, 183, isInGlibc217],
  "macos-arm64": [machO, 0x0100000c, (version) => version === "11.0"],
  "macos-x64": [machO, 0x01000007, (version) => version === "11.0"],
  "windows-x64": [pe, 0x8664, () => false],
}

/** Whether glibc 2.17, of 2012, has a version of symbols: "GLIBC_2.14". */
export function isInGlibc217(version: string): boolean {
  const [, major, minor] = /^GLIBC_(\d+)\.(\d+)/.exec(version) ?? []
  return major === "2" && Number(minor) <= 17
}

/** The functions of csrc/asdsl.h, which the library exports. */
export function declaredFunctions(): string[] {
  const header = readFileSync(join(projectFolder, "csrc", "asdsl.h"), "utf8")
  const names = [...header.matchAll(/^ASDSL_API [^;]*?\b(asdsl_\w+)\s*\(/gm)].map((match) => match[1]!)
  if (names.length !== header.match(/^ASDSL_API /gm)?.length)
    throw new Error("asdsl.h: a declaration is not understood")
  return names
}

/** What is wrong with a library; empty: nothing. */
function complaints(facts: Facts, [format, machine, isOldEnough]: (typeof SYSTEMS)[string]): string[] {
  const declared = declaredFunctions()
  const list = (what: string, names: string[]) => (names.length > 0 ? [`${what} ${names.join(" ")}`] : [])
  return [
    ...(facts.machine === machine ? [] : [`is for machine ${facts.machine}, not ${machine}`]),
    ...list(
      "does not export",
      declared.filter((name) => !facts.exported.includes(name)),
    ),
    ...list(
      "exports beside asdsl.h",
      facts.exported.filter((name) => !declared.includes(name)),
    ),
    ...list(
      "needs",
      facts.neededLibraries.filter((name) => !format.system.test(name)),
    ),
    ...list(
      "needs symbols of",
      facts.versions.filter((version) => !isOldEnough(version)),
    ),
  ]
}

function build(folder: string, options: readonly string[]): void {
  rmSync(folder, { recursive: true, force: true }) // or a library that was left out would be an old one
  const child = Bun.spawnSync(zigBuild(findZig(), "cross", "--prefix", join(projectFolder, "zig-out"), ...options), {
    cwd: projectFolder,
    env: zigEnvironment(),
    stdio: ["ignore", 2, "inherit"],
  })
  if (child.exitCode !== 0) throw new BuildError("zig build cross failed")
}

function main(options: readonly string[]): number {
  const folder = join(projectFolder, "zig-out", "cross")
  const start = performance.now()
  build(folder, options)
  console.error(`built in ${((performance.now() - start) / 1000).toFixed(0)} s`)
  let failed = 0
  for (const [name, system] of Object.entries(SYSTEMS)) {
    const path = join(folder, name, system[0].file)
    if (!existsSync(path)) throw new BuildError(`zig build cross did not make ${path}`)
    const bytes = readFileSync(path)
    const facts = system[0].read(bytes)
    const wrong = complaints(facts, system)
    if (wrong.length > 0) failed++
    const verdict = wrong.length === 0 ? `${facts.exported.length} functions` : `FAILED: ${wrong.join("; ")}`
    const what = `${name}/${system[0].file}`.padEnd(32)
    console.log(`${what}${bytes.length.toLocaleString("en-US").padStart(11)} bytes  ${verdict}`)
    console.log(`${"".padEnd(32)}needs ${[...new Set([...facts.neededLibraries, ...facts.versions])].join(", ")}`)
  }
  return failed === 0 ? 0 : 1
}

if (import.meta.main) {
  try {
    process.exitCode = main(process.argv.slice(2))
  } catch (error) {
    if (!(error instanceof BuildError)) throw error
    console.error(error.message)
    process.exitCode = 1
  }
}
