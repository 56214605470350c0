// The safetensors files of a checkpoint folder: one, or shards that an index lists. Owns the agreement of index and files.

import { readdirSync } from "node:fs"
import { join } from "node:path"
import { FormatError, ModelUnavailableError, UnsupportedError } from "../errors.ts"
import { Fields } from "./fields.ts"
import { InputFile, isFile } from "./files.ts"
import { readSafetensors, type StoredTensor } from "./safetensors.ts"

const SINGLE = "model.safetensors"
const INDEX = "model.safetensors.index.json"
const MAX_INDEX_BYTES = 2 ** 26
const MAX_FILES = 1024 // all of them stay open

/** All tensors of a checkpoint by name, and the files that hold them. */
export class Shards implements Disposable {
  readonly tensors = new Map<string, StoredTensor>()
  readonly #files: InputFile[] = []

  /** Opens model.safetensors, else the files of model.safetensors.index.json (the order in which transformers looks),
   * else model-00001-of-0000N.safetensors and so on. Throws ModelUnavailableError where files are missing, FormatError
   * where they are damaged or contradict each other. */
  constructor(folder: string) {
    try {
      const hasIndex = !isFile(join(folder, SINGLE)) && isFile(join(folder, INDEX))
      const listed = hasIndex ? readIndex(join(folder, INDEX)) : undefined
      const names = listed === undefined ? filesWithoutIndex(folder) : [...new Set(listed.values())].sort()
      checkFiles(folder, names)
      for (const name of names) this.#add(new InputFile(join(folder, name)))
      if (listed !== undefined) this.#compare(folder, listed)
    } catch (error) {
      this[Symbol.dispose]()
      throw error
    }
  }

  [Symbol.dispose](): void {
    for (const file of this.#files) file[Symbol.dispose]()
  }

  #add(file: InputFile): void {
    this.#files.push(file)
    for (const tensor of readSafetensors(file)) {
      const other = this.tensors.get(tensor.name)
      if (other !== undefined) {
        throw new FormatError(`${tensor.name} is in two files: ${other.file.path} and ${file.path}`)
      }
      this.tensors.set(tensor.name, tensor)
    }
  }

  #compare(folder: string, listed: ReadonlyMap<string, string>): void {
    for (const [name, fileName] of listed) {
      const path = join(folder, fileName)
      const found = this.tensors.get(name)?.file.path
      if (found === path) continue
      const text = found === undefined ? "is in none" : `is in ${found}`
      throw new FormatError(`${INDEX} has ${name} in ${path}, but it ${text}`)
    }
    const unlisted = [...this.tensors.keys()].filter((name) => !listed.has(name))
    if (unlisted.length > 0) {
      throw new FormatError(
        `${INDEX} does not list ${some(unlisted)}, ${this.tensors.get(unlisted[0]!)!.file.path} has it`,
      )
    }
  }
}

/** The first few of many names. */
export function some(names: readonly string[], n = 4): string {
  const more = names.length > n ? ` and ${names.length - n} more` : ""
  return `${names.slice(0, n).join(", ")}${more}`
}

/** Tensor name to file name. */
function readIndex(path: string): Map<string, string> {
  const map = Fields.read(path, MAX_INDEX_BYTES).object("weight_map")
  if (map === undefined) throw new FormatError(`${path}: weight_map is missing`)
  const files = new Map<string, string>()
  for (const [name, file] of map.entries()) {
    const isPlain = typeof file === "string" && /^[^/\\:\0]+\.safetensors$/.test(file)
    if (!isPlain)
      throw new FormatError(`${path}: ${name} is in ${JSON.stringify(file)}, the name of a .safetensors file is needed`)
    files.set(name, file)
  }
  if (files.size === 0) throw new FormatError(`${path}: weight_map is empty`)
  return files
}

function filesWithoutIndex(folder: string): string[] {
  if (isFile(join(folder, SINGLE))) return [SINGLE]
  const names = readdirSync(folder)
  const counts = names.flatMap((name) => /^model-\d{5}-of-(\d{5})\.safetensors$/.exec(name)?.[1] ?? [])
  if (counts.length > 0) {
    const count = counts[0]!
    const n = Math.min(Number(count), MAX_FILES + 1)
    return Array.from({ length: n }, (_, i) => `model-${String(i + 1).padStart(5, "0")}-of-${count}.safetensors`)
  }
  const pickled = names.filter((name) => /^pytorch_model.*\.bin$/.test(name))
  if (pickled.length > 0) {
    throw new UnsupportedError(`${folder}: ${some(pickled)} are pickled tensors; safetensors files are supported`)
  }
  throw new ModelUnavailableError(`${folder}: neither ${SINGLE} nor ${INDEX} is there`)
}

function checkFiles(folder: string, names: readonly string[]): void {
  if (names.length > MAX_FILES)
    throw new FormatError(`${folder}: ${names.length} files, at most ${MAX_FILES} are supported`)
  const missing = names.filter((name) => !isFile(join(folder, name)))
  if (missing.length === 0) return
  throw new ModelUnavailableError(`${folder}: ${missing.length} of ${names.length} files are missing: ${some(missing)}`)
}
