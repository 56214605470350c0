// What makes two files the same model for a cache of keys and values: the architecture's metadata, every tensor's name,
// type and shape, and a sample of each tensor's bytes (a fine-tune has another). Not the path, and not what leaves the
// cache as it is: names, templates, vocabulary, the split into files.

import { closeSync, openSync, readSync } from "node:fs"
import { ModelUnavailableError } from "./errors.ts"
import { isStringArray } from "./gguf/strings.ts"
import type { GgufHeader, MetadataValue, TensorInfo } from "./gguf/types.ts"

/** A page: reading one costs what reading a byte does. */
const SAMPLE_BYTES = 4096

/** SHA-256, hexadecimal. `options`: what else of loading the model decides over keys and values. */
export function modelIdentity(header: GgufHeader, options: Readonly<Record<string, unknown>>): string {
  const hash = new Bun.CryptoHasher("sha256")
  const architecture = String(header.metadata.get("general.architecture"))
  hash.update(JSON.stringify({ architecture, ...options }))
  for (const [key, value] of byName(header.metadata)) {
    if (key.startsWith(`${architecture}.`)) hash.update(`\n${key} ${textOf(value)}`)
  }
  const fds: number[] = []
  try {
    for (const path of header.files) fds.push(open(path))
    const sample = new Uint8Array(SAMPLE_BYTES)
    for (const [name, info] of byName(header.tensors)) {
      hash.update(`\n${name} ${info.type} ${info.shape.join("x")} ${info.bytes}\n`)
      hash.update(sample.subarray(0, readSample(fds[info.file]!, info, sample)))
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

/** The middle of a tensor: the first rows of an embedding table are tokens that nobody trains. */
function readSample(fd: number, { offset, bytes }: TensorInfo, out: Uint8Array): number {
  const n = Math.min(bytes, SAMPLE_BYTES)
  return readSync(fd, out, 0, n, offset + Math.floor((bytes - n) / 2))
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
