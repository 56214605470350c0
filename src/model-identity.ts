// What makes two files the same model for a cache of keys and values: the architecture's metadata, every tensor's name,
// type and shape, and samples of the weights (a fine-tune has others). Not the path, and not what leaves the cache as it
// is: names, templates, vocabulary, the split into files.

import { closeSync, openSync, readSync } from "node:fs"
import { ModelUnavailableError } from "./errors.ts"
import { isStringArray } from "./gguf/strings.ts"
import { type GgufHeader, type MetadataValue, sourceBytes, type TensorInfo } from "./gguf/types.ts"

/** A page: reading one costs what reading a byte does. */
const SAMPLE_BYTES = 4096
/** Of all matrices, evenly spread: where they are interleaved, 16 rows come back for each sample, and those of every
 * matrix cost more than reading a saved session of 4,096 tokens. Vectors are sampled all. */
const N_MATRICES = 16

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
    const tensors = byName(header.tensors)
    const isSampled = samplesOf(tensors)
    for (const [name, info] of tensors) {
      const bytes = sourceBytes(info)
      hash.update(`\n${name} ${info.type} ${info.shape.join("x")} ${bytes}\n`)
      if (!isSampled(name)) continue
      // The middle of a tensor: the first rows of an embedding table are tokens that nobody trains.
      const sample = new Uint8Array(Math.min(bytes, SAMPLE_BYTES))
      read(info, Math.floor((bytes - sample.length) / 2), sample)
      hash.update(sample)
    }
  } finally {
    for (const fd of fds) closeSync(fd)
  }
  return hash.digest("hex")
}

function samplesOf(tensors: readonly [string, TensorInfo][]): (name: string) => boolean {
  const matrices = tensors.filter(([, { shape }]) => shape.length > 1).map(([name]) => name)
  const step = Math.max(1, matrices.length / N_MATRICES)
  const left = new Set(matrices)
  for (let at = step / 2; at < matrices.length; at += step) left.delete(matrices[Math.floor(at)]!)
  return (name) => !left.has(name)
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
