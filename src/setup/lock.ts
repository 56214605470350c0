// One process at a time for one job. The lock is SQLite's, so the kernel drops it when its holder dies: there are no
// stale locks and no heartbeats. What is made under a lock must still be renamed into place, for a lock does not hold on
// every network file system.

import type { Database } from "bun:sqlite"
import { mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"

/** Waits for the lock on `path` (an empty file, made if missing and never removed) and blocks the thread meanwhile. */
export function lockSync(path: string): Disposable {
  const database = open(path)
  database.run(`PRAGMA busy_timeout = ${3_600_000}`)
  database.run("BEGIN EXCLUSIVE")
  return { [Symbol.dispose]: () => database.close() }
}

/** As lockSync, with the event loop free. `onWait` is called once if another process holds the lock. */
export async function lock(path: string, options: { onWait?(): void; signal?: AbortSignal } = {}): Promise<Disposable> {
  for (let waits = 0; ; waits++) {
    const held = tryLock(path)
    if (held !== undefined) return held
    if (options.signal?.aborted) throw options.signal.reason
    if (waits === 0) options.onWait?.()
    await sleep(50)
  }
}

/** The lock on `path`, or undefined if another process holds it. */
export function tryLock(path: string): Disposable | undefined {
  const database = open(path)
  try {
    database.run("PRAGMA busy_timeout = 0")
    database.run("BEGIN EXCLUSIVE")
    return { [Symbol.dispose]: () => database.close() }
  } catch (error) {
    database.close()
    if (isBusy(error)) return undefined
    throw error
  }
}

/** SQLite comes with the first lock: 1.7 MB that a start from what is there does without. */
function open(path: string): Database {
  const { Database } = require("bun:sqlite") as typeof import("bun:sqlite")
  mkdirSync(dirname(path), { recursive: true })
  return new Database(path, { create: true })
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "SQLITE_BUSY"
}
