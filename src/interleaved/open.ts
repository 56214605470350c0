// From a model's path to the file that it is loaded from: itself, or its interleaved copy in the cache folder.

import { closeSync, openSync, readSync } from "node:fs"
import { CancelledError, FormatError } from "../errors.ts"
import type { GgufFile } from "../gguf/reader.ts"
import { readModelHeader } from "../gguf/split.ts"
import { Buffer } from "../native/handles.ts"
import type { LoadProgress } from "../weights.ts"
import { isInterleaved, readInterleaved } from "./format.ts"
import { findSidecar } from "./sidecar.ts"

export interface OpenedModel {
  /** Its path is what was asked for, its files are what is loaded. */
  readonly header: GgufFile
  /** plain: a GGUF file, interleaved while it is loaded; repacked: an interleaved one; copy: the cache folder has one. */
  readonly kind: "plain" | "repacked" | "copy"
}

/** Reads the header that a model is loaded by. `folder`: of copies; undefined: none is used. */
export function openModel(path: string, folder: string | undefined): OpenedModel {
  const copy = folder === undefined ? undefined : findSidecar(folder, path)
  if (copy !== undefined) return { header: { ...copy, path }, kind: "copy" }
  const header = readModelHeader(path)
  return isInterleaved(header) ? { header: readInterleaved(header), kind: "repacked" } : { header, kind: "plain" }
}

const READ_BYTES = 2 ** 24

/** Bytes [from, to) of a file in memory, at the same offsets: for who does not want it mapped. */
export async function readInto(path: string, from: number, to: number, progress: LoadProgress = {}): Promise<Buffer> {
  const memory = Buffer.create(to)
  const fd = openSync(path, "r")
  try {
    for (let at = from; at < to; ) {
      if (progress.signal?.aborted) throw new CancelledError("loading was cancelled")
      const view = memory.view(at, Math.min(READ_BYTES, to - at))
      const n = readSync(fd, new Uint8Array(view), 0, view.byteLength, at)
      memory.forget(view)
      if (n === 0) throw new FormatError(`${path} was cut short while it was read: it ends at byte ${at} of ${to}`)
      at += n
      progress.onProgress?.(at - from, to - from)
      await new Promise((resume) => setImmediate(resume))
    }
    return memory
  } catch (error) {
    memory[Symbol.dispose]()
    throw error
  } finally {
    closeSync(fd)
  }
}
