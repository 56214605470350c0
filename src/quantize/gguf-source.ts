// A GGUF file, or all the parts of a split one, as a source of tensors. Reads data with the system's calls and not through a
// map: pages of a map that were touched stay in the process, and a quantiser touches them all.

import { closeSync, openSync, readSync } from "node:fs"
import { AsdslError, FormatError, UnsupportedError } from "../errors.ts"
import type { GgufFile } from "../gguf/reader.ts"
import { readModelHeader } from "../gguf/split.ts"
import { TENSOR_TYPES, type TensorInfo, type TensorTypeName } from "../gguf/types.ts"
import { type ModelSource, rowBytes, type TensorSource } from "./source.ts"

const NAMES = new Map<number, TensorTypeName>(
  Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name as TensorTypeName]),
)

/** Of the whole model whichever file they stand in; a joined model has none of them. */
const SPLIT_KEYS = ["split.no", "split.count", "split.tensors.count"]

/** Opens a model; its files stay open until it is disposed. Throws what readModelHeader throws, UnsupportedError for a
 * tensor of a type that TENSOR_TYPES does not list. */
export function openGgufSource(path: string): ModelSource {
  const header = readModelHeader(path)
  const files = new OpenFiles(header.files)
  const metadata = new Map(header.metadata)
  for (const key of SPLIT_KEYS) metadata.delete(key)
  try {
    const tensors = [...header.tensors.values()].map((info) => tensorSource(header, info, files))
    return {
      ...{ path, metadata, metadataTypes: header.metadataTypes, tensors },
      [Symbol.dispose]: () => files[Symbol.dispose](),
    }
  } catch (error) {
    files[Symbol.dispose]()
    throw error
  }
}

function tensorSource(header: GgufFile, info: TensorInfo, files: OpenFiles): TensorSource {
  const { name, shape } = info
  const type = NAMES.get(info.type)
  if (type === undefined) {
    throw new UnsupportedError(
      `${header.path}: ${name} has tensor type ${info.type}, which is not supported; known: ${[...NAMES.values()].join(", ")}`,
    )
  }
  const bytes = rowBytes({ type, shape })
  return {
    ...{ name, type, shape },
    readRows: (firstRow, out) => files.read(info.file, info.offset + firstRow * bytes, out),
  }
}

class OpenFiles implements Disposable {
  readonly #paths: readonly string[]
  readonly #fds: number[] = []

  constructor(paths: readonly string[]) {
    this.#paths = paths
    for (const path of paths) this.#fds.push(openSync(path, "r"))
  }

  read(file: number, offset: number, out: Uint8Array): void {
    const path = this.#paths[file]!
    for (let done = 0; done < out.length; ) {
      const n = this.#readSome(path, file, offset + done, out.subarray(done))
      if (n === 0) throw new FormatError(`${path} ended at byte ${offset + done} while it was read`)
      done += n
    }
  }

  #readSome(path: string, file: number, offset: number, out: Uint8Array): number {
    try {
      return readSync(this.#fds[file]!, out, 0, out.length, offset)
    } catch (cause) {
      const reason = cause instanceof Error && "code" in cause ? cause.code : cause
      throw new AsdslError("io", `${path} cannot be read at byte ${offset} (${reason})`, { cause })
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd)
  }
}
