// Reading the copy of a model that another thread is about to load. While that one still imports modules and parses headers
// the disk would be idle: what is read here is in memory when the load comes to it. Knows nothing of what is in the file.

import { existsSync } from "node:fs"
import { AsdslError } from "../errors.ts"
import { Buffer } from "../native/handles.ts"
import { copiesFolder, sidecarPath } from "./sidecar.ts"
import type { SourceOptions } from "./source.ts"

/** Begins to read, until it is disposed of; undefined where there is no copy, or the options use none. What is wrong with
 * it the load will say. */
export function readEarly(model: string, options: SourceOptions): Disposable | undefined {
  const { mmap = true, prefetch = true } = options
  const folder = copiesFolder(options)
  const copy = folder === undefined || !mmap || !prefetch ? undefined : sidecarPath(folder, model)
  if (copy === undefined || !existsSync(copy)) return undefined
  try {
    const map = Buffer.map(copy)
    map.prefetch(0, map.bytes)
    return map
  } catch (error) {
    if (error instanceof AsdslError) return undefined
    throw error
  }
}
