// Models in several GGUF files, NAME-00001-of-00003.gguf and so on: the first has the metadata, each has some of the
// tensors. Owns the names of such files and the joining of their headers; each header is read by reader.ts.
// Source: llama.cpp, tools/gguf-split (the keys split.no, split.count, split.tensors.count).

import { existsSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { FormatError, ModelUnavailableError } from "../errors.ts"
import { type GgufFile, readGguf } from "./reader.ts"
import type { TensorInfo } from "./types.ts"

/** Digits of a part's number in a name: split.count is a 16-bit number. */
const NAME = /^(?<stem>.*)-(?<part>\d{5})-of-(?<count>\d{5})\.gguf$/s

/** The names of all parts, for the name of any of them; undefined for a name that is not a part's. */
export function splitNames(name: string): string[] | undefined {
  const { stem, part, count } = NAME.exec(name)?.groups ?? {}
  const n = Number(count)
  if (stem === undefined || Number(part) < 1 || Number(part) > n) return undefined
  return Array.from({ length: n }, (_, i) => `${stem}-${String(i + 1).padStart(5, "0")}-of-${count}.gguf`)
}

/** The header of a model: of a file, or of all the files that it was split into, for the path of any of them. Tensors say
 * which of `files` they lie in. Throws what readGguf throws, ModelUnavailableError where a part is not there, FormatError
 * where parts do not belong together. */
export function readModelHeader(path: string): GgufFile {
  const header = readGguf(path)
  const nParts = header.metadata.get("split.count") ?? 1
  if (nParts === 1) return header
  const names = splitNames(basename(path))
  if (names?.length !== nParts) {
    throw new FormatError(
      `${path} is one of ${nParts} parts of a model, so its name should end in -00001-of-${String(nParts).padStart(5, "0")}.gguf ` +
        "or the like: the other parts are found by their names",
    )
  }
  return joinParts(names.map((name) => readPart(join(dirname(path), name), names.length)))
}

function readPart(path: string, nParts: number): GgufFile {
  if (!existsSync(path)) {
    throw new ModelUnavailableError(`${path} is missing: the model is split into ${nParts} files, all are needed`)
  }
  return readGguf(path)
}

function joinParts(parts: readonly GgufFile[]): GgufFile {
  const [first] = parts as [GgufFile]
  const tensors = new Map<string, TensorInfo>()
  for (const [no, part] of parts.entries()) {
    const [partNo, partCount] = [part.metadata.get("split.no"), part.metadata.get("split.count")]
    if (partNo !== no || partCount !== parts.length) {
      throw new FormatError(
        `${part.path} says that it is part ${partNo} of ${partCount} (from 0), by its name it is ${no} of ${parts.length}`,
      )
    }
    for (const [name, info] of part.tensors) {
      const before = tensors.get(name)
      if (before !== undefined) {
        throw new FormatError(`tensor ${name} is in two parts: ${parts[before.file]!.path} and ${part.path}`)
      }
      tensors.set(name, { ...info, file: no })
    }
  }
  const expected = first.metadata.get("split.tensors.count")
  if (expected !== undefined && expected !== tensors.size) {
    throw new FormatError(`${first.path}: the model has ${expected} tensors, its ${parts.length} parts ${tensors.size}`)
  }
  const files = parts.map((part) => part.path)
  const fileBytes = parts.reduce((sum, part) => sum + part.fileBytes, 0)
  return { ...first, files, fileBytes, tensors }
}
