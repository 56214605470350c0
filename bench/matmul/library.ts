// A library under measurement: its process, asked one thing at a time.

import { join } from "node:path"
import { AsdslError } from "../../src/errors.ts"
import type { Requests } from "./child.ts"

type Reply = { answer: unknown } | { error: string }

export class LibraryProcess {
  readonly name: string
  readonly #child: Bun.Subprocess
  #waiting: { resolve: (answer: never) => void; reject: (error: Error) => void } | undefined

  /** `path`: as for $ASDSL_LIBRARY; undefined: the one that this checkout builds. */
  constructor(name: string, path: string | undefined) {
    this.name = name
    this.#child = Bun.spawn([process.execPath, join(import.meta.dir, "child.ts")], {
      env: path === undefined ? process.env : { ...process.env, ASDSL_LIBRARY: path },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (reply: Reply) => this.#settle(reply),
      onExit: (_child, code, signal) => this.#settle({ error: `its process ended with ${signal ?? code}` }),
    })
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting
    this.#waiting = undefined
    if ("error" in reply) waiting?.reject(new AsdslError("bench", `${this.name}: ${reply.error}`))
    else waiting?.resolve(reply.answer as never)
  }

  ask<K extends keyof Requests>(kind: K, request: Requests[K]["request"]): Promise<Requests[K]["answer"]> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      this.#child.send({ kind, request })
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#waiting = undefined
    this.#child.kill()
    await this.#child.exited
  }
}
