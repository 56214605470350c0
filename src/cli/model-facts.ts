// What a GGUF header says about a model, for people. Loads nothing.

import type { GgufHeader } from "../gguf/types.ts"
import { TENSOR_TYPES } from "../gguf/types.ts"
import { formatCount } from "./table.ts"

const TYPE_NAMES = new Map<number, string>(Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name]))

/** llama.cpp's names of mixtures (enum llama_ftype), by general.file_type. Others go by their largest tensor type. */
const FILE_TYPES = new Map<number, string>([
  [0, "all F32"],
  [1, "F16"],
  [2, "Q4_0"],
  [3, "Q4_1"],
  [7, "Q8_0"],
  [8, "Q5_0"],
  [9, "Q5_1"],
  [10, "Q2_K - Medium"],
  [11, "Q3_K - Small"],
  [12, "Q3_K - Medium"],
  [13, "Q3_K - Large"],
  [14, "Q4_K - Small"],
  [15, "Q4_K - Medium"],
  [16, "Q5_K - Small"],
  [17, "Q5_K - Medium"],
  [18, "Q6_K"],
  [21, "Q2_K - Small"],
  [25, "IQ4_NL - 4.5 bpw"],
  [30, "IQ4_XS - 4.25 bpw"],
  [32, "BF16"],
])

export interface TypeShare {
  readonly type: string
  readonly nTensors: number
  readonly nParams: number
  /** 0 for a type that is not known. */
  readonly bytes: number
}

/** Tensors by type, the largest share first. */
export function typeShares({ tensors }: GgufHeader): TypeShare[] {
  const groups = Map.groupBy(tensors.values(), ({ type }) => TYPE_NAMES.get(type) ?? `type ${type}`)
  const shares = Array.from(groups, ([type, members]) => ({
    type,
    nTensors: members.length,
    nParams: members.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0),
    bytes: members.reduce((sum, { bytes }) => sum + bytes, 0),
  }))
  return shares.sort((a, b) => b.bytes - a.bytes || b.nParams - a.nParams)
}

/** Of all tensors, as llama-bench's "size". */
export function tensorBytesOf(header: GgufHeader): number {
  return typeShares(header).reduce((sum, { bytes }) => sum + bytes, 0)
}

export function paramsOf(header: GgufHeader): number {
  return typeShares(header).reduce((sum, { nParams }) => sum + nParams, 0)
}

/** "llama 135M Q4_1": architecture, size, mixture. */
export function modelType(header: GgufHeader): string {
  const { metadata } = header
  const label = metadata.get("general.size_label")
  const size = typeof label === "string" ? label : formatCount(paramsOf(header)).replace(" ", "")
  const fileType = FILE_TYPES.get(Number(metadata.get("general.file_type"))) ?? typeShares(header)[0]?.type ?? ""
  return `${metadata.get("general.architecture") ?? "?"} ${size} ${fileType}`.trim()
}
