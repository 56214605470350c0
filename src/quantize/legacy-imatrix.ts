// imatrix files as llama-imatrix wrote them before they were GGUF files (--output-format dat still does), read whole.
// Source of the format: llama.cpp, common/imatrix-loader.cpp. All numbers are little-endian:
//
//   int32 nEntries, then of each: int32 length, its name, int32 nCalls, int32 nValues,
//   float32 values[nValues]: mean squares times nCalls, of all experts one behind the other
//   then, in newer ones: int32 nChunks, int32 length, the name of the text

import { readFileSync } from "node:fs"
import { FormatError } from "../errors.ts"
import type { Entry } from "./importance.ts"

export interface LegacyImatrix {
  readonly entries: Map<string, Entry>
  readonly nChunks: number
  readonly dataset: string | undefined
}

/** Throws FormatError, with the place, for a file that is something else or ends too early. */
export function readLegacyImatrix(path: string): LegacyImatrix {
  const reader = new Reader(path)
  const nEntries = reader.count("entries", 1)
  const entries = new Map<string, Entry>()
  for (let i = 0; i < nEntries; i++) {
    const name = reader.text()
    const nCalls = reader.count(`calls of ${name}`, 0)
    entries.set(name, { sums: reader.floats(reader.count(`values of ${name}`, 1)), counts: Float32Array.of(nCalls) })
  }
  if (reader.isAtEnd) return { entries, nChunks: 0, dataset: undefined }
  const nChunks = reader.count("chunks", 0)
  const dataset = reader.isAtEnd ? "" : reader.text()
  return { entries, nChunks, dataset: dataset === "" ? undefined : dataset }
}

class Reader {
  readonly #path: string
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #view: DataView
  #at = 0

  constructor(path: string) {
    this.#path = path
    this.#bytes = new Uint8Array(readFileSync(path))
    this.#view = new DataView(this.#bytes.buffer)
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  /** The place of the next `bytes` bytes, which are there. */
  #take(bytes: number, what: string): number {
    const at = this.#at
    if (bytes > this.#bytes.length - at) {
      throw new FormatError(
        `${this.#path} is neither a GGUF file nor a whole imatrix file: ${what} at byte ${at} need ${bytes} bytes, it has ${this.#bytes.length}`,
      )
    }
    this.#at += bytes
    return at
  }

  count(what: string, least: number): number {
    const at = this.#take(4, what)
    const value = this.#view.getInt32(at, true)
    if (value >= least) return value
    throw new FormatError(`${this.#path}: the number of ${what} at byte ${at} is ${value}, ${least} or more is needed`)
  }

  text(): string {
    const length = this.count("bytes of a name", 0)
    const at = this.#take(length, "those of a name")
    return new TextDecoder().decode(this.#bytes.subarray(at, at + length))
  }

  floats(n: number): Float32Array {
    const at = this.#take(4 * n, "values")
    return new Float32Array(this.#bytes.slice(at, at + 4 * n).buffer)
  }
}
