// The interleaved file: a GGUF container whose matrices lie as the kernels read them (csrc/kernels/layout.h), so that a
// model is used in place. This file owns its keys, its type numbers and the reading of its header.
//
// Metadata is the source's, with our own keys around it. An interleaved tensor has a type number that GGUF does not have,
// so other programs refuse the file: 0x4153 in the upper half, then the rows of a group, then the source's type. Data begins
// at a multiple of 2 MiB, tensors at one of 16 KiB (the largest page of common systems), in the order in which a pass reads
// them; what no pass reads whole comes behind.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import type { GgufFile } from "../gguf/reader.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorInfo } from "../gguf/types.ts"
import { Layout } from "../native/abi.ts"
import { tensorBytes } from "../native/handles.ts"

/** Of csrc/kernels/layout.h and of this file: files of another version are made again. */
export const LAYOUT_VERSION = 1
export const TENSOR_ALIGNMENT = 2 ** 14
export const DATA_ALIGNMENT = 2 ** 21

/** Rows of a group: 16 is what the kernels read; 4 is kept for comparison and is interleaved anew when it is loaded. */
export const GROUP_ROWS = [16, 4] as const
export type GroupRows = (typeof GROUP_ROWS)[number]

export const Key = {
  /** Of the whole file with zeros in its place. The first entry, so that it lies at DIGEST_OFFSET. */
  sha256: "asdsl.sha256",
  version: "asdsl.layout.version",
  rows: "asdsl.layout.rows",
  fileBytes: "asdsl.file.bytes",
  /** Zeros up to where the data begins. */
  padding: "asdsl.padding",
  /** general.alignment of the source; 0: it had none. */
  sourceAlignment: "asdsl.source.alignment",
  sourceVersion: "asdsl.source.version",
  /** For each tensor of this file its number in the source. */
  sourceOrder: "asdsl.source.order",
} as const

export const DIGEST_OFFSET = 4 + 4 + 8 + 8 + 8 + Key.sha256.length + 4 + 8
export const NO_DIGEST = "0".repeat(64)

const TYPE_MARK = 0x4153_0000

/** The type number of a tensor with `rows` of its rows interleaved. */
export function interleavedType(rows: number, type: number): number {
  return TYPE_MARK + rows * 0x100 + type
}

/** What interleavedType made a number of; undefined for GGUF's own. */
function takeApart(id: number): { rows: number; type: number } | undefined {
  if (id < TYPE_MARK || id >= TYPE_MARK + 0x1_0000) return undefined
  return { rows: (id - TYPE_MARK) >>> 8, type: id & 0xff }
}

const TYPE_IDS = new Set<number>(Object.values(TENSOR_TYPES).map(({ id }) => id))

/** The matrices of a tensor: [cols, rows, n, m]. */
export function matricesOf({ shape }: Pick<TensorInfo, "shape">): { cols: number; rows: number; n: number } {
  const [cols = 1, rows = 1, n = 1, m = 1] = shape
  return { cols, rows, n: n * m }
}

/** The engine's layout of groups of so many rows. */
export function layoutOf(groupRows: number): number {
  return groupRows === 4 ? Layout.INTERLEAVED_4 : Layout.INTERLEAVED
}

/** Bytes of a tensor's data, each of its matrices interleaved by itself. */
export function interleavedBytes(groupRows: number, type: number, shape: readonly number[]): number {
  const { cols, rows, n } = matricesOf({ shape })
  return n * tensorBytes(type, layoutOf(groupRows), rows, cols)
}

/** Whether a header is that of an interleaved file. */
export function isInterleaved({ metadata }: GgufFile): boolean {
  return metadata.has(Key.version)
}

/** The header of an interleaved file as that of its source: the same metadata, tensors of the source's types, each with the
 * rows that are interleaved. Throws UnsupportedError for another version, FormatError for what is damaged or unfinished. */
export function readInterleaved(file: GgufFile): GgufFile {
  const { path, metadata } = file
  const version = metadata.get(Key.version)
  if (version !== LAYOUT_VERSION) {
    throw new UnsupportedError(
      `${path} was repacked for layout ${String(version)}, this asdsl uses ${LAYOUT_VERSION}: repack its source again`,
    )
  }
  if (metadata.get(Key.sha256) === NO_DIGEST) throw new FormatError(`${path} is unfinished: repacking was interrupted`)
  const expected = metadata.get(Key.fileBytes)
  if (expected !== file.fileBytes) {
    throw new FormatError(`${path} has ${file.fileBytes} bytes instead of ${String(expected)}: it was cut short`)
  }
  const tensors = new Map<string, TensorInfo>()
  for (const [name, info] of file.tensors) tensors.set(name, tensorOf(path, info))
  checkPlaces(file, tensors)
  return { ...file, ...sourceMetadata(file), tensors }
}

function tensorOf(path: string, info: TensorInfo): TensorInfo {
  const found = takeApart(info.type)
  if (found === undefined) return info
  const { rows, type } = found
  if (!TYPE_IDS.has(type) || !(GROUP_ROWS as readonly number[]).includes(rows)) {
    throw new UnsupportedError(
      `${path}: ${info.name} is of type ${type} with ${rows} rows interleaved, which is unknown`,
    )
  }
  return { ...info, type, interleave: rows, bytes: interleavedBytes(rows, type, info.shape) }
}

/** The reader did not know the sizes of our types. */
function checkPlaces({ path, fileBytes }: GgufFile, tensors: ReadonlyMap<string, TensorInfo>): void {
  let end = 0
  for (const { name, offset, bytes } of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    if (offset < end || offset + bytes > fileBytes) {
      throw new FormatError(
        `${path}: tensor ${name} (bytes ${offset} to ${offset + bytes}) overlaps another or ends behind the file's ${fileBytes} bytes`,
      )
    }
    end = offset + bytes
  }
}

/** Without our keys, and with the source's alignment. */
export function sourceMetadata({ metadata, metadataTypes }: GgufFile): Pick<GgufFile, "metadata" | "metadataTypes"> {
  const values = new Map<string, MetadataValue>()
  const types = new Map<string, MetadataTypeName>()
  const alignment = metadata.get(Key.sourceAlignment)
  for (const [key, value] of metadata) {
    if (key.startsWith("asdsl.") || (key === "general.alignment" && alignment === 0)) continue
    values.set(key, key === "general.alignment" ? (alignment ?? value) : value)
    types.set(key, metadataTypes.get(key)!)
  }
  return { metadata: values, metadataTypes: types }
}
