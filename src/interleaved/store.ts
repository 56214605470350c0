// The cache folder of interleaved copies as a whole: what is in it, and what may go. Knows nothing of models.

import { existsSync, readdirSync, rmSync, statSync } from "node:fs"
import { basename, join } from "node:path"
import { AsdslError } from "../errors.ts"
import { readGguf } from "../gguf/reader.ts"
import { TEMPORARY_NAME } from "../output-file.ts"
import { tryLock } from "../setup/lock.ts"
import { isInterleaved, readInterleaved } from "./format.ts"
import { isCurrent, SidecarKey } from "./sidecar.ts"

/** current: of a file that is as it was; outdated: that file is gone or has changed; unfinished: being written, or left by a
 * process that was killed; damaged: of another version, or cut short. */
export type CopyState = "current" | "outdated" | "unfinished" | "damaged"

export interface CachedCopy {
  readonly path: string
  readonly bytes: number
  readonly modified: Date
  readonly state: CopyState
  /** The file that it was made of, where it says. */
  readonly source: string | undefined
}

/** Everything in the folder that is a copy or was to be one. */
export function cachedCopies(folder: string): CachedCopy[] {
  return names(folder)
    .filter((name) => name.endsWith(".gguf") || TEMPORARY_NAME.test(name))
    .flatMap((name) => {
      const path = join(folder, name)
      const stats = statSync(path, { throwIfNoEntry: false })
      if (!stats?.isFile()) return []
      return [{ path, bytes: stats.size, modified: stats.mtime, ...stateOf(path) }]
    })
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort()
  } catch {
    return [] // no such folder: nothing was ever saved
  }
}

function stateOf(path: string): Pick<CachedCopy, "state" | "source"> {
  if (TEMPORARY_NAME.test(path)) return { state: "unfinished", source: undefined }
  try {
    const raw = readGguf(path)
    const value = raw.metadata.get(SidecarKey.path)
    const source = typeof value === "string" ? value : undefined
    if (!isInterleaved(raw)) return { state: "damaged", source }
    readInterleaved(raw)
    return { state: isCurrent(raw) ? "current" : "outdated", source }
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    return { state: "damaged", source: undefined }
  }
}

/** Removes a copy. False: a process is writing it. */
export function removeCopy({ path, state }: CachedCopy): boolean {
  const lockPath = `${path.replace(TEMPORARY_NAME, "")}.lock`
  {
    using lock = state === "unfinished" ? tryLock(lockPath) : undefined
    if (state === "unfinished" && lock === undefined) return false
    rmSync(path, { force: true })
  }
  rmSync(lockPath, { force: true })
  return true
}

/** Removes the copies of files that are gone; the bytes that this gave back. */
export function removeOrphans(folder: string): number {
  let freed = 0
  for (const copy of cachedCopies(folder)) {
    if (copy.state !== "outdated" || copy.source === undefined || existsSync(copy.source)) continue
    if (removeCopy(copy)) freed += copy.bytes
  }
  return freed
}

/** Removes what `target`, a fresh copy, replaces: those of an earlier state of its source. */
export function removeOutdated(folder: string, target: string): void {
  const stem = (path: string) => basename(path).replace(/-[0-9a-f]{16}\.gguf$/, "")
  for (const copy of cachedCopies(folder)) {
    if (copy.path === target || copy.state !== "outdated" || stem(copy.path) !== stem(target)) continue
    removeCopy(copy)
  }
}
