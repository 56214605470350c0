// How much each input of each matrix matters: mean squares of what a model has read, as llama.cpp's imatrix files have them.
// Owns the file format; who fills it is collect.ts, and the format before it is legacy-imatrix.ts's.
// Source of the format: llama.cpp, tools/imatrix (GGUF of type "imatrix": NAME.in_sum2 and NAME.counts).

import { closeSync, openSync, readSync } from "node:fs"
import { ArgumentError, FormatError } from "../errors.ts"
import { reading } from "../file-errors.ts"
import { readGguf } from "../gguf/reader.ts"
import { FlatStrings, isStringArray } from "../gguf/strings.ts"
import type { MetadataValue } from "../gguf/types.ts"
import { writeGguf } from "../gguf/writer.ts"
import { openGgufSource } from "./gguf-source.ts"
import { readLegacyImatrix } from "./legacy-imatrix.ts"
import { rowCount, rowLength, type TensorSource } from "./source.ts"

/** Of one tensor: each of its matrices (one, or one for each expert) by itself. */
export interface Entry {
  /** Sums of the squares of each input. */
  readonly sums: Float32Array // (nMatrices, cols)
  /** Rows of activations that each matrix has read; of older files one number for all of them. */
  readonly counts: Float32Array // (nMatrices), or (1)
}

export interface ImportanceFacts {
  /** Where the text came from. */
  readonly dataset?: string | undefined
  /** Tokens of a chunk, and chunks. */
  readonly chunkSize: number
  readonly nChunks: number
  /** estimate.ts made it up: no file has it, and no file says so. */
  readonly isEstimate?: boolean
}

/** By tensor name. */
export class Importance {
  constructor(
    readonly path: string,
    readonly entries: ReadonlyMap<string, Entry>,
    readonly facts: ImportanceFacts,
  ) {}

  get size(): number {
    return this.entries.size
  }

  get dataset(): string | undefined {
    return this.facts.dataset
  }

  get nChunks(): number {
    return this.facts.nChunks
  }

  /** Mean squares of the inputs of a tensor's matrix, over their own mean; undefined where the file does not know them.
   * Throws ArgumentError where it knows a tensor of another shape. */
  of(tensor: Pick<TensorSource, "name" | "type" | "shape">, matrix: number): Float32Array | undefined {
    const entry = this.entries.get(tensor.name)
    if (entry === undefined) return undefined
    const cols = rowLength(tensor)
    const nMatrices = rowCount(tensor) / (tensor.shape[1] ?? 1)
    if (entry.sums.length !== nMatrices * cols) {
      throw new ArgumentError(
        `${this.path}: ${tensor.name} has ${entry.sums.length} inputs there, the model has ${nMatrices} x ${cols}`,
      )
    }
    const count = entry.counts.length === 1 ? entry.counts[0]! : entry.counts[matrix]!
    const sums = entry.sums.subarray(matrix * cols, (matrix + 1) * cols)
    const mean = sums.reduce((sum, value) => sum + value, 0) / cols
    return count > 0 && mean > 0 ? sums.map((value) => value / mean) : undefined // an expert that was never asked
  }

  /** Writes the file: whole or not at all. */
  write(path: string): void {
    const { dataset, chunkSize, nChunks } = this.facts
    const tensors = [...this.entries].flatMap(([name, { sums, counts }]) => {
      const bytes = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      const n = counts.length
      return [
        { name: `${name}.in_sum2`, type: "F32" as const, shape: [sums.length / n, n], data: () => [bytes(sums)] },
        { name: `${name}.counts`, type: "F32" as const, shape: [1, n], data: () => [bytes(counts)] },
      ]
    })
    const metadata = new Map<string, MetadataValue>([
      ["general.type", "imatrix"],
      ["imatrix.datasets", FlatStrings.from(dataset === undefined ? [] : [dataset])],
      ["imatrix.chunk_count", nChunks],
      ["imatrix.chunk_size", chunkSize],
    ])
    writeGguf(path, { metadata, tensors })
  }
}

const SUMS = ".in_sum2"
const COUNTS = ".counts"

/** Reads an imatrix file of either format. Throws FormatError where it is another kind of file or damaged. */
export function readImportance(path: string): Importance {
  const importance = isGguf(path) ? readGgufImatrix(path) : ofLegacy(path)
  for (const [tensor, { sums, counts }] of importance.entries) {
    if (![...sums, ...counts].every((value) => value >= 0 && value < Infinity)) {
      throw new FormatError(`${path}: ${tensor} has values that are negative or not finite`)
    }
    if (counts.length === 0 || sums.length % counts.length !== 0) {
      throw new FormatError(`${path}: ${tensor} has ${sums.length} sums and ${counts.length} counts`)
    }
  }
  return importance
}

function isGguf(path: string): boolean {
  const fd = reading(path, () => openSync(path, "r"))
  const magic = new Uint8Array(4)
  readSync(fd, magic, 0, magic.length, 0)
  closeSync(fd)
  return new TextDecoder().decode(magic) === "GGUF"
}

function ofLegacy(path: string): Importance {
  const { entries, nChunks, dataset } = readLegacyImatrix(path)
  return new Importance(path, entries, { dataset, chunkSize: 0, nChunks })
}

function readGgufImatrix(path: string): Importance {
  const { metadata } = readGguf(path)
  if (metadata.get("general.type") !== "imatrix") throw new FormatError(`${path} is a GGUF file, but no imatrix`)
  using source = openGgufSource(path)
  const tensors = new Map(source.tensors.map((tensor) => [tensor.name, tensor]))
  const values = (name: string): Float32Array => {
    const tensor = tensors.get(name)
    if (tensor?.type !== "F32") throw new FormatError(`${path}: tensor ${name} is missing, or not of type F32`)
    const out = new Float32Array(rowCount(tensor) * rowLength(tensor))
    tensor.readRows(0, new Uint8Array(out.buffer))
    return out
  }
  const entries = new Map<string, Entry>()
  for (const name of tensors.keys()) {
    if (!name.endsWith(SUMS)) continue
    const tensor = name.slice(0, -SUMS.length)
    entries.set(tensor, { sums: values(name), counts: values(tensor + COUNTS) })
  }
  const number = (key: string) => Number(metadata.get(key) ?? 0)
  const datasets = metadata.get("imatrix.datasets")
  const dataset =
    datasets !== undefined && isStringArray(datasets) && datasets.length > 0
      ? Array.from({ length: datasets.length }, (_, i) => datasets.at(i)).join(", ")
      : undefined
  return new Importance(path, entries, {
    dataset,
    chunkSize: number("imatrix.chunk_size"),
    nChunks: number("imatrix.chunk_count"),
  })
}
