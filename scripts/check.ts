// `npm run check`: types, lint and format of everything that is written by hand, and README's speeds, which are those of
// bench/results/. `npm run check -- --write` formats and writes instead of complaining. Every part runs, whatever the
// others say.

import { join } from "node:path"
import { installTool } from "../src/setup/pip.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig } from "../src/setup/zig.ts"

/** Another version formats differently. */
const CLANG_FORMAT_VERSION = "23.1.5"

interface Check {
  name: string
  command(write: boolean): string[]
}

const CHECKS: Check[] = [
  { name: "types", command: () => [nodeProgram("tsc"), "-p", "."] },
  {
    name: "lint and format of TypeScript and JSON",
    command: (write) => [nodeProgram("biome"), "check", "--error-on-warnings", ...(write ? ["--write"] : [])],
  },
  {
    name: "format of C",
    command: (write) => [clangFormat(), ...(write ? ["-i"] : ["--dry-run", "-Werror"]), ...cFiles()],
  },
  {
    name: "README's speeds",
    command: (write) => [process.execPath, join("bench", "readme.ts"), ...(write ? ["--write"] : [])],
  },
  { name: "format of build.zig", command: (write) => [findZig(), "fmt", ...(write ? [] : ["--check"]), "build.zig"] },
]

function nodeProgram(name: string): string {
  return join(projectFolder, "node_modules", ".bin", name)
}

function clangFormat(): string {
  return join(installTool("clang-format", CLANG_FORMAT_VERSION), "clang_format", "data", "bin", "clang-format")
}

function cFiles(): string[] {
  return ["csrc/**/*.{c,h}", "bench/kernels/*.{c,h}"]
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: projectFolder })])
    .sort()
}

function main(write: boolean): number {
  let failed = 0
  for (const { name, command } of CHECKS) {
    const { exitCode } = Bun.spawnSync(command(write), { cwd: projectFolder, stdio: ["ignore", "inherit", "inherit"] })
    console.log(`${exitCode === 0 ? "ok" : "FAILED"}: ${name}`)
    if (exitCode !== 0) failed++
  }
  return failed === 0 ? 0 : 1
}

process.exitCode = main(process.argv.includes("--write"))
