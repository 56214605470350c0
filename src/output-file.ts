// A file that is written under another name beside its own and gets its own when it is whole: until then what was there
// before is there, and after a kill too. Knows nothing of what is in it.

import { randomBytes } from "node:crypto"
import { closeSync, fsyncSync, openSync, readdirSync, realpathSync, renameSync, rmSync, writeSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { writing } from "./file-errors.ts"

/** Ends of the names of files that are not whole yet, those of earlier versions too. */
export const TEMPORARY_NAME = /\.[0-9a-f-]+\.tmp$/

/** Throws AsdslError "io" where the system refuses, and then nothing is left of it. */
export class OutputFile implements Disposable {
  readonly path: string
  readonly #target: string
  readonly #temporary: string
  readonly #fd: number
  #end = 0
  #isOpen = true

  /** @param path a link stays, and what it leads to is replaced. */
  constructor(path: string) {
    this.path = path
    this.#target = followed(path)
    removeAbandoned(this.#target)
    this.#temporary = `${this.#target}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`
    this.#fd = writing(path, () => openSync(this.#temporary, "wx"))
  }

  /** All of the bytes, behind what was written before. */
  write(bytes: Uint8Array): void {
    this.writeAt(this.#end, bytes)
    this.#end += bytes.length
  }

  /** All of the bytes at an offset, whatever was there; write() goes on where it was. */
  writeAt(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const from = done
      done += this.#try(() => writeSync(this.#fd, bytes, from, bytes.length - from, offset + from))
    }
  }

  /** Waits until all is on the disk. A file whose damage a reader would find out can do without. */
  sync(): void {
    this.#try(() => fsyncSync(this.#fd))
  }

  /** The file is whole and gets its name. */
  finish(): void {
    this.#close()
    this.#try(() => renameSync(this.#temporary, this.#target))
  }

  #try<T>(body: () => T): T {
    try {
      return writing(this.path, body)
    } catch (error) {
      this[Symbol.dispose]()
      throw error
    }
  }

  #close(): void {
    if (this.#isOpen) closeSync(this.#fd)
    this.#isOpen = false
  }

  /** What is not finished goes away. */
  [Symbol.dispose](): void {
    this.#close()
    rmSync(this.#temporary, { force: true })
  }
}

/** Writes a whole file. Throws as OutputFile. */
export function writeWhole(path: string, bytes: Uint8Array): void {
  using file = new OutputFile(path)
  file.write(bytes)
  file.finish()
}

function followed(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path // not there yet
  }
}

/** Removes what writers of `path` left that are no more. One on another machine is not seen to be alive: it fails, and its
 * file does not come to be. */
function removeAbandoned(path: string): void {
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
