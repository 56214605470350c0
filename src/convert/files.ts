// Files of a checkpoint folder, read with errors that name them. Knows no format but JSON.

import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs"
import { FormatError } from "../errors.ts"
import { reading } from "../file-errors.ts"

export function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false
}

export function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

/** A regular file, open for reading at any place. */
export class InputFile implements Disposable {
  readonly path: string
  readonly bytes: number
  #fd: number

  /** Throws ModelUnavailableError where it cannot be opened, FormatError where it is no regular file. */
  constructor(path: string) {
    this.path = path
    // A look before opening: opening a pipe waits for its writer.
    const { isRegular } = reading(path, () => ({ isRegular: statSync(path).isFile() }))
    if (!isRegular) throw new FormatError(`${path} is not a regular file`)
    this.#fd = reading(path, () => openSync(path, "r"))
    this.bytes = reading(path, () => fstatSync(this.#fd).size)
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }

  /** Fills `out` with the bytes from `at` on. */
  read(at: number, out: Uint8Array): void {
    for (let done = 0; done < out.length; ) {
      const n = reading(this.path, () => readSync(this.#fd, out, done, out.length - done, at + done))
      if (n === 0) {
        throw new FormatError(
          `${this.path}: truncated: ${out.length} bytes from byte ${at} are needed, the file ends at ${at + done}`,
        )
      }
      done += n
    }
  }
}

/** The text of a file of at most `maxBytes`. */
export function readText(path: string, maxBytes: number): string {
  using file = new InputFile(path)
  if (file.bytes > maxBytes) {
    throw new FormatError(`${path} has ${file.bytes} bytes, at most ${maxBytes} are read of such a file`)
  }
  const bytes = new Uint8Array(file.bytes)
  file.read(0, bytes)
  return new TextDecoder().decode(bytes)
}

/** JSON of any kind. `place` names it in a complaint. */
export function parseJson(place: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new FormatError(`${place} is not JSON (${cause instanceof Error ? cause.message : cause})`, { cause })
  }
}
