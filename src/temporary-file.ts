// The names of files that are being written beside the name that they get when they are whole, and what is left of them by
// processes that were killed. Knows nothing of what is in them.

import { randomBytes } from "node:crypto"
import { readdirSync, rmSync } from "node:fs"
import { basename, dirname, join } from "node:path"

/** A fresh name for what is to become `path`: it says whose it is. */
export function temporaryName(path: string): string {
  return `${path}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`
}

/** Ends of such names, of earlier versions too. */
export const TEMPORARY_NAME = /\.[0-9a-f-]+\.tmp$/

/** Removes what writers of `path` left that are no more. One on another machine is not seen to be alive: it fails, and its
 * file does not come to be. */
export function removeAbandoned(path: string): void {
  const [folder, stem] = [dirname(path), `${basename(path)}.`]
  for (const name of siblings(folder)) {
    const [, pid] = /^(\d+)-[0-9a-f]{8}\.tmp$/.exec(name.startsWith(stem) ? name.slice(stem.length) : "") ?? []
    if (pid !== undefined && !isAlive(Number(pid))) rmSync(join(folder, name), { force: true })
  }
}

function siblings(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // one that may not be listed, or is not there: writing will say so
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH")
  }
}
