// Where every tensor of an interleaved file goes, and the header that says so: a function of the source's header and of the
// order in which the graph reads its weights. Touches no data.

import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import type { GgufFile } from "../gguf/reader.ts"
import type { MetadataValue, TensorInfo } from "../gguf/types.ts"
import { encodeHeader } from "../gguf/writer.ts"
import { Layout } from "../native/abi.ts"
import type { Weight, WeightPlan } from "../weights.ts"
import {
  DATA_ALIGNMENT,
  interleavedBytes,
  interleavedType,
  Key,
  LAYOUT_VERSION,
  matricesOf,
  NO_DIGEST,
  TENSOR_ALIGNMENT,
} from "./format.ts"

/** A tensor of an interleaved file. */
export interface PlacedTensor {
  readonly source: TensorInfo
  /** Rows of a group; absent: as in the source. */
  readonly interleave: number | undefined
  /** From the start of the file. */
  readonly offset: number
  readonly bytes: number
  /** Weights of the graph that are made of it. */
  readonly weights: readonly Weight[]
}

export interface FilePlan {
  /** All bytes before the data. */
  readonly header: Uint8Array
  readonly tensors: readonly PlacedTensor[]
  readonly fileBytes: number
}

/** Plans the file of a model whose graph has been built. `rows`: of a group; `extra`: more of our keys. */
export function planFile(
  source: GgufFile,
  weights: WeightPlan,
  rows: number,
  extra: ReadonlyMap<string, MetadataValue> = new Map(),
): FilePlan {
  const tensors: Omit<PlacedTensor, "offset">[] = inOrder(source, weights).map((info) => {
    const users = weights.weights().filter((weight) => weight.source === info)
    const interleave = users.length > 0 && users.every((weight) => isWholeGroups(weight, info, rows)) ? rows : undefined
    const bytes = interleave === undefined ? info.bytes : interleavedBytes(interleave, info.type, info.shape)
    return { source: info, interleave, bytes, weights: users }
  })
  const offsets: number[] = [] // from the start of the data
  let end = 0
  for (const { bytes } of tensors) {
    offsets.push(end)
    end = roundUp(end + bytes, TENSOR_ALIGNMENT)
  }
  const header = makeHeader(source, tensors, offsets, rows, end, extra)
  return {
    header,
    tensors: tensors.map((tensor, i) => ({ ...tensor, offset: header.length + offsets[i]! })),
    fileBytes: header.length + end,
  }
}

/** What a pass reads whole, in its order, then what it gathers from, then what it has no use for. */
function inOrder(source: GgufFile, weights: WeightPlan): TensorInfo[] {
  const isGathered = ({ layout, rows }: Weight) => layout === Layout.ROWS && rows > 1
  const used = weights.weights()
  const order = [...used.filter((weight) => !isGathered(weight)), ...used.filter(isGathered)]
  const infos = order.flatMap(({ source }) => (source instanceof Float32Array ? [] : [source]))
  return [...new Set([...infos, ...source.tensors.values()])]
}

/** Whether interleaving all of the tensor interleaves this weight: of a part, its groups have to be groups of the whole. */
function isWholeGroups(weight: Weight, info: TensorInfo, rows: number): boolean {
  if (weight.layout !== Layout.INTERLEAVED) return false
  const { rows: allRows } = matricesOf(info)
  const end = weight.firstRow + weight.rows
  return weight.firstRow % rows === 0 && (end % rows === 0 || end === allRows)
}

export function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit
}

/** Twice: the first says how much padding brings the data to its place. */
function makeHeader(
  source: GgufFile,
  tensors: readonly Omit<PlacedTensor, "offset">[],
  offsets: readonly number[],
  rows: number,
  dataBytes: number,
  extra: ReadonlyMap<string, MetadataValue>,
): Uint8Array {
  const encode = (paddingBytes: number, headerBytes: number) => {
    const { metadata, metadataTypes } = ourMetadata(source, tensors, rows, extra)
    metadata.set(Key.fileBytes, headerBytes + dataBytes)
    metadataTypes.set(Key.fileBytes, "u64")
    metadata.set(Key.padding, new Uint8Array(paddingBytes))
    const entries = tensors.map(({ source: { name, shape, type }, interleave }, i) => {
      const id = interleave === undefined ? type : interleavedType(interleave, type)
      return { name, shape, type: id, offset: offsets[i]! }
    })
    return encodeHeader({ metadata, metadataTypes, tensors: entries })
  }
  const bytes = encode(0, 0).length
  const whole = roundUp(bytes, DATA_ALIGNMENT)
  return encode(whole - bytes, whole)
}

function ourMetadata(
  source: GgufFile,
  tensors: readonly Omit<PlacedTensor, "offset">[],
  rows: number,
  extra: ReadonlyMap<string, MetadataValue>,
): { metadata: Map<string, MetadataValue>; metadataTypes: Map<string, MetadataTypeName> } {
  const order = new Map([...source.tensors.values()].map((info, i) => [info, i]))
  const metadata = new Map<string, MetadataValue>([[Key.sha256, NO_DIGEST]])
  const metadataTypes = new Map(source.metadataTypes)
  for (const [key, value] of source.metadata) {
    if (!/^split\.|^asdsl\./.test(key)) metadata.set(key, value) // it will be in one file
  }
  metadata.set(Key.sourceAlignment, source.metadata.get("general.alignment") ?? 0)
  metadata.set("general.alignment", TENSOR_ALIGNMENT)
  metadata.set(Key.version, LAYOUT_VERSION)
  metadata.set(Key.rows, rows)
  metadata.set(Key.sourceVersion, source.version)
  metadata.set(
    Key.sourceOrder,
    Uint32Array.from(tensors, (tensor) => order.get(tensor.source)!),
  )
  for (const [key, value] of extra) metadata.set(key, value)
  return { metadata, metadataTypes }
}
