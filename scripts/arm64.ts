// What runs programs for aarch64 Linux on another machine: qemu's user mode, a folder with that system's C library, and
// Bun for it out of npm's registry, in the version and with the hash of the lock file.

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { BuildError } from "../src/errors.ts"
import { lockSync } from "../src/setup/lock.ts"
import { projectFolder } from "../src/setup/project.ts"

/** Where Debian and Ubuntu put the library of libc6-arm64-cross. $QEMU_LD_PREFIX, which qemu itself reads, names another. */
const SYSTEM = process.env.QEMU_LD_PREFIX ?? "/usr/aarch64-linux-gnu"
const BUN = "@oven/bun-linux-aarch64"

/** The words before a program and its arguments. Throws BuildError: what is missing, and its packages. */
export function findQemu(): string[] {
  const qemu = Bun.which("qemu-aarch64-static") ?? Bun.which("qemu-aarch64")
  const isSystem = existsSync(join(SYSTEM, "lib", "ld-linux-aarch64.so.1"))
  if (qemu !== null && isSystem) return [qemu, "-L", SYSTEM]
  const missing = [
    ...(qemu === null ? ["qemu-aarch64-static is not on PATH (Debian: qemu-user-static)"] : []),
    ...(isSystem
      ? []
      : [`${SYSTEM} has no aarch64 C library (Debian: libc6-arm64-cross; $QEMU_LD_PREFIX names another)`]),
  ]
  throw new BuildError(`aarch64 programs do not run here: ${missing.join("; ")}`)
}

/** The path of Bun for aarch64 Linux, fetched by npm if it is not there. Throws BuildError. */
export function arm64Bun(): string {
  const { version, integrity } = lockedBun()
  const tools = join(projectFolder, ".tools")
  const folder = join(tools, `bun-linux-aarch64-${version}`)
  const bun = join(folder, "package", "bin", "bun")
  if (existsSync(bun)) return bun
  mkdirSync(tools, { recursive: true })
  using _lock = lockSync(join(tools, "bun-linux-aarch64.lock"))
  if (existsSync(bun)) return bun
  const fresh = `${folder}.partial` // the lock's holder alone is here
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh)
  try {
    unpack(fetchPackage(`${BUN}@${version}`, integrity, fresh), fresh)
    renameSync(fresh, folder)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  return bun
}

function lockedBun(): { version: string; integrity: string } {
  const { packages } = JSON.parse(readFileSync(join(projectFolder, "package-lock.json"), "utf8"))
  const locked = packages[`node_modules/${BUN}`]
  if (!locked?.version || !locked.integrity) throw new BuildError(`package-lock.json has no ${BUN}`)
  return locked
}

/** The path of the package's archive in `folder`. */
function fetchPackage(name: string, integrity: string, folder: string): string {
  const command = ["npm", "pack", name, "--silent", "--pack-destination", folder]
  const child = Bun.spawnSync(command, { cwd: folder, stdin: "ignore", stderr: "pipe" })
  if (child.exitCode !== 0) throw new BuildError(`npm cannot fetch ${name}: ${`${child.stderr}`.trim()}`)
  const archive = join(folder, `${child.stdout}`.trim())
  const hash = `sha512-${new Bun.CryptoHasher("sha512").update(readFileSync(archive)).digest("base64")}`
  if (hash !== integrity) throw new BuildError(`${name}: npm brought ${hash}, the lock file has ${integrity}`)
  return archive
}

function unpack(archive: string, folder: string): void {
  const child = Bun.spawnSync(["tar", "-xzf", archive, "-C", folder], { stdin: "ignore", stderr: "pipe" })
  if (child.exitCode !== 0) throw new BuildError(`tar cannot unpack ${archive}: ${`${child.stderr}`.trim()}`)
  rmSync(archive)
}
