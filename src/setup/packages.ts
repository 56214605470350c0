// What Bun alone finds in a fresh clone: no node_modules. Bun would fetch packages by itself, but not for a Worker and not
// for `bun test`, and a process that has once seen that there is no node_modules does not look again. So the packages are
// installed as the lock has them, and another process does what this one was asked to.

import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { projectFolder } from "./project.ts"

/** What src/ imports: its presence, here or hoisted above, stands for all. */
const PACKAGE = join("node_modules", "@huggingface", "jinja")

export function packagesAreHere(): boolean {
  for (let folder = projectFolder; ; folder = dirname(folder)) {
    if (existsSync(join(folder, PACKAGE))) return true
    if (folder === dirname(folder)) return false
  }
}

/** Installs the packages of the lock; false if that failed, which was said on stderr. */
export function installPackages(): boolean {
  const { exitCode } = Bun.spawnSync([process.execPath, join(projectFolder, "scripts", "setup.mjs"), "packages"], {
    stdio: ["ignore", 2, "inherit"],
  })
  return exitCode === 0
}

/** Runs a program's `main`, in this process or, where packages had to be installed first, in another; its exit code. */
export async function withPackages(main: () => Promise<number>): Promise<number> {
  if (packagesAreHere()) return main()
  if (!installPackages()) return 1
  const ignored = () => {} // a terminal's Ctrl-C is for the process that does the work, which has it as well
  process.on("SIGINT", ignored)
  const child = Bun.spawn([process.execPath, ...process.execArgv, ...process.argv.slice(1)], {
    stdio: ["inherit", "inherit", "inherit"],
  })
  const exitCode = await child.exited
  process.off("SIGINT", ignored)
  return exitCode
}
