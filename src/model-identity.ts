// What makes two files the same model for a cache of keys and values: the architecture's metadata, every tensor's name,
// type and shape, and a sample of each tensor's bytes (a fine-tune has another). Not the path, and not what leaves the
// cache as it is: names, templates, vocabulary, the split into files.

import { closeSync, openSync, readSync } from "node:fs"
import { ModelUnavailableError } from "./errors.ts"
import { isStringArray } from "./gguf/strings.ts"
import { type GgufHeader, type MetadataValue, sourceBytes, type TensorInfo } from "./gguf/types.ts"

/** A page: reading one costs what reading a byte does. */
const SAMPLE_BYTES = 4096

/** Fills `out` with a tensor's bytes from byte `from` on, as a GGUF file has them. */
export type ReadTensor = (info: TensorInfo, from: number, out: Uint8Array) => void

/** SHA-256, hexadecimal. `options`: what else of loading the model decides over keys and values; `readTensor`: where the
 * header's file has its tensors interleaved. */
export function modelIdentity(
  header: GgufHeader,
  options: Readonly<Record<string, unknown>>,
  readTensor?: ReadTensor,
): string {
  const hash = new Bun.CryptoHasher("sha256")
  const architecture = String(header.metadata.get("general.architecture"))
  hash.update(JSON.stringify({ architecture, ...options }))
  for (const [key, value] of byName(header.metadata)) {
    if (key.startsWith(`${architecture}.`)) hash.update(`\n${key} ${textOf(value)}`)
  }
  const fds: number[] = []
  try {
    for (const path of header.files) fds.push(open(path))
    const read = readTensor ?? ((info, from, out) => readSync(fds[info.file]!, out, 0, out.length, info.offset + from))
    for (const [name, info] of byName(header.tensors)) {
      const bytes = sourceBytes(info)
      // The middle of a tensor: the first rows of an embedding table are tokens that nobody trains.
      const sample = new Uint8Array(Math.min(bytes, SAMPLE_BYTES))
      read(info, Math.floor((bytes - sample.length) / 2), sample)
      hash.update(`\n${name} ${info.type} ${info.shape.join("x")} ${bytes}\n`)
      hash.update(sample)
    }
  } finally {
    for (const fd of fds) closeSync(fd)
  }
  return hash.digest("hex")
}

function open(path: string): number {
  try {
    return openSync(path, "r")
  } catch (cause) {
    throw new ModelUnavailableError(`${path}: the model's file is gone`, { cause })
  }
}

function byName<T>(map: ReadonlyMap<string, T>): [string, T][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
}

function textOf(value: MetadataValue): string {
  if (typeof value !== "object") return `${typeof value} ${value}`
  const elements: unknown[] = isStringArray(value)
    ? Array.from({ length: value.length }, (_, i) => value.at(i))
    : [...(value as Iterable<unknown>)]
  return JSON.stringify(elements, (_, each) => (typeof each === "bigint" ? `${each}n` : each))
}
