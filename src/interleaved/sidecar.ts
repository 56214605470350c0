// The interleaved copy of a plain GGUF file in the cache folder: what it is called, and whether one there is this file's.
//
// A copy belongs to its source by size, modification time, inode and the digest of the header of every part: a start hashes a
// few megabytes, never the weights. All but the digest are in its name, so that finding it opens nothing else.

import { type BigIntStats, closeSync, openSync, readSync, statSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import { AsdslError } from "../errors.ts"
import { type GgufFile, readGguf } from "../gguf/reader.ts"
import { splitNames } from "../gguf/split.ts"
import type { MetadataValue } from "../gguf/types.ts"
import { cacheFolder } from "../models/manifest.ts"
import { isInterleaved, LAYOUT_VERSION, readInterleaved } from "./format.ts"

/** Below it, loading is as good as instant: nothing is saved. */
export const MIN_SOURCE_BYTES = 2 ** 25

export const SidecarKey = {
  /** Of the first part, absolute: for people, and to find copies whose source is gone. */
  path: "asdsl.source.path",
  /** Of each part. */
  bytes: "asdsl.source.bytes",
  modified: "asdsl.source.modified", // ns
  inode: "asdsl.source.inode",
  headerBytes: "asdsl.source.header.bytes",
  /** sha256 over the headers of all parts. */
  headerDigest: "asdsl.source.header.sha256",
} as const

/** Where copies lie: $ASDSL_CACHE, else `repacked` beside the models; undefined: "off", there are none. */
export function sidecarFolder(): string | undefined {
  const { ASDSL_CACHE } = process.env
  if (ASDSL_CACHE === "off") return undefined
  return ASDSL_CACHE || join(cacheFolder(), "repacked")
}

/** Where copies are looked for, by the option of load(); undefined: nowhere. */
export function copiesFolder({ cache = true }: { readonly cache?: boolean | string }): string | undefined {
  return typeof cache === "string" ? cache : cache ? sidecarFolder() : undefined
}

/** What tells a source from another, without its bytes. */
interface Identity {
  readonly files: readonly string[]
  readonly bytes: BigUint64Array
  readonly modified: BigUint64Array
  readonly inode: BigUint64Array
}

function identityOf(path: string): Identity | undefined {
  const names = splitNames(basename(path)) ?? [basename(path)]
  const files = names.map((name) => join(dirname(path), name))
  const stats = files.map(statOf)
  if (!stats.every((each) => each?.isFile())) return undefined
  const field = (name: "size" | "mtimeNs" | "ino") =>
    BigUint64Array.from(stats, (each) => BigInt.asUintN(64, each![name]))
  return { files, bytes: field("size"), modified: field("mtimeNs"), inode: field("ino") }
}

/** undefined: there is nothing, or nothing that may be looked at. */
function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true })
  } catch {
    return undefined
  }
}

/** The name of a source's copy in a folder. */
function nameOf({ files, bytes, modified, inode }: Identity): string {
  const facts = [LAYOUT_VERSION, ...bytes, ...modified, ...inode].join(" ")
  const stem = basename(files[0]!, ".gguf").slice(0, 80)
  return `${stem}-${new Bun.CryptoHasher("sha256").update(facts).digest("hex").slice(0, 16)}.gguf`
}

/** Where the copy of a source belongs; undefined where there is no such source. */
export function sidecarPath(folder: string, source: string): string | undefined {
  const identity = identityOf(source)
  return identity && join(folder, nameOf(identity))
}

/** Bytes of a source's parts before their first tensor's data. */
function headerBytesOf(source: GgufFile): number[] {
  const ends = source.files.map((path) => statSync(path).size)
  for (const { file, offset } of source.tensors.values()) ends[file] = Math.min(ends[file]!, offset)
  return ends
}

function digestOf(files: readonly string[], headerBytes: readonly number[]): string {
  const hash = new Bun.CryptoHasher("sha256")
  const piece = new Uint8Array(2 ** 16)
  for (const [i, path] of files.entries()) {
    const fd = openSync(path, "r")
    try {
      for (let n = 1, done = 0; n > 0 && done < headerBytes[i]!; done += n) {
        n = readSync(fd, piece, 0, Math.min(piece.length, headerBytes[i]! - done), done)
        hash.update(piece.subarray(0, n))
      }
    } finally {
      closeSync(fd)
    }
  }
  return hash.digest("hex")
}

/** What a copy says of its source; undefined where that has changed since its header was read. */
export function sidecarMetadata(source: GgufFile): Map<string, MetadataValue> | undefined {
  const identity = identityOf(source.path)
  const headerBytes = headerBytesOf(source)
  const total = identity?.bytes.reduce((sum, bytes) => sum + bytes, 0n)
  if (identity === undefined || Number(total) !== source.fileBytes) return undefined
  return new Map<string, MetadataValue>([
    [SidecarKey.path, resolve(identity.files[0]!)],
    [SidecarKey.bytes, identity.bytes],
    [SidecarKey.modified, identity.modified],
    [SidecarKey.inode, identity.inode],
    [SidecarKey.headerBytes, Uint32Array.from(headerBytes)],
    [SidecarKey.headerDigest, digestOf(identity.files, headerBytes)],
  ])
}

/** The sound copy of a source in a folder, its header as that of an interleaved file; undefined: there is none. */
export function findSidecar(folder: string, source: string): GgufFile | undefined {
  const identity = identityOf(source)
  if (identity === undefined) return undefined
  const path = join(folder, nameOf(identity))
  if (!statOf(path)?.isFile()) return undefined
  try {
    const raw = readGguf(path)
    return isInterleaved(raw) && belongsTo(raw, identity) ? readInterleaved(raw) : undefined
  } catch (error) {
    if (error instanceof AsdslError) return undefined // damaged: the model is loaded without it, and it is written again
    throw error
  }
}

function belongsTo({ metadata }: GgufFile, identity: Identity): boolean {
  const headerBytes = metadata.get(SidecarKey.headerBytes)
  if (!(headerBytes instanceof Uint32Array) || headerBytes.length !== identity.files.length) return false
  const isSame = (["bytes", "modified", "inode"] as const).every((field) => {
    const values = metadata.get(SidecarKey[field])
    return values instanceof BigUint64Array && values.join() === identity[field].join()
  })
  const isPlausible = headerBytes.every((bytes, i) => BigInt(bytes) <= identity.bytes[i]!)
  return isSame && isPlausible && metadata.get(SidecarKey.headerDigest) === digestOf(identity.files, [...headerBytes])
}

/** Whether the source that a copy was made of is still what it was: by what `stat` says. */
export function isCurrent({ metadata }: GgufFile): boolean {
  const path = metadata.get(SidecarKey.path)
  const identity = typeof path === "string" ? identityOf(path) : undefined
  if (identity === undefined) return false
  return (["bytes", "modified", "inode"] as const).every((field) => {
    const values = metadata.get(SidecarKey[field])
    return values instanceof BigUint64Array && values.join() === identity[field].join()
  })
}
