// Rows of activations and where they lie: tensors, their formats in memory, the arena that they share.
//
// A tensor lives from its first use to its last, and memory that is free again is used again. This file knows rows and
// bytes, not operations: graph.ts says when each is used.

import { ArgumentError } from "./errors.ts"
import { Type } from "./native/abi.ts"
import { align, type Weight } from "./weights.ts"

/** Offsets of operands are multiples of 64 bytes, so views into a row begin at multiples of 16 floats. */
export const COLUMN_ALIGNMENT = 16

export type Format = typeof Type.F32 | typeof Type.I32 | typeof Type.ACT_Q8_32 | typeof Type.ACT_Q8_256

/** A piece of the arena: one tensor in one format. */
export interface Storage {
  readonly tensor: Tensor
  readonly format: Format
  bytes: number
  offset: number
  firstUse: number
  lastUse: number
}

export type OperandRef = { tensor: Tensor; format: Format } | { weight: Weight }

/** An op that writes more formats of its output when somebody reads them. */
export interface Writer {
  readonly operation: string
  readonly operands: Partial<Record<string, OperandRef>>
}

/** Rows of activations: one per token of a pass, or one per output, or as many for each as a token has experts. Views are
 * ranges of columns of another tensor. */
export class Tensor {
  readonly id: number
  readonly name: string
  readonly cols: number
  readonly isPerOutput: boolean
  /** Rows for each token or output: more than 1 where each of its experts makes one (ops.h calls them slots). */
  readonly slots: number
  /** The tensor this one is a view of; itself otherwise. */
  readonly root: Tensor
  /** First column in the root. */
  readonly column: number
  /** Of a root: what was computed from it is out of date when this has changed. */
  version = 0
  /** Of a root: its formats in memory. */
  readonly storages = new Map<Format, Storage>()
  /** Of a root: the op that writes each format on demand (a norm, or the quantisation of one version). */
  writer: { op: Writer; version: number } | undefined

  constructor(id: number, name: string, cols: number, isPerOutput: boolean, slots: number, root?: Tensor, column = 0) {
    this.id = id
    this.name = name
    this.cols = cols
    this.isPerOutput = isPerOutput
    this.slots = slots
    this.root = root ?? this
    this.column = column
  }

  /** Columns [column, column + cols) of this tensor. */
  view(name: string, column: number, cols: number): Tensor {
    if (column + cols > this.cols) {
      throw new ArgumentError(`${name}: columns ${column} to ${column + cols} of ${this.name}, which has ${this.cols}`)
    }
    return new Tensor(this.id, name, cols, this.isPerOutput, this.slots, this.root, this.column + column)
  }
}

/** Where a tensor lies in the arena, in one format. */
export interface Place {
  readonly name: string
  /** The same for a tensor and all its views. */
  readonly tensor: number
  readonly type: number
  readonly offset: number
  /** Capacity. */
  readonly rows: number
  readonly cols: number
  /** Elements between rows; 0 for int8 formats. */
  readonly stride: number
  readonly isPerOutput: boolean
}

/** Formats of four bytes an element. */
export function hasStride(format: Format): boolean {
  return format === Type.F32 || format === Type.I32
}

/** Elements between rows: whole cache lines. */
export function strideOf(tensor: Tensor): number {
  return Math.ceil(tensor.cols / COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
}

/** Views that lie side by side in one tensor as one view. */
export function joinAdjacent(tensors: readonly Tensor[]): Tensor[] {
  const joined: Tensor[] = []
  for (const tensor of tensors) {
    const last = joined.at(-1)
    if (last !== undefined && last.root === tensor.root && last.column + last.cols === tensor.column) {
      const view = last.root.view(`${last.name}, ${tensor.name}`, last.column, last.cols + tensor.cols)
      joined[joined.length - 1] = view
    } else joined.push(tensor)
  }
  return joined
}

/** Gives each storage the lowest offset that is free during its life; returns the bytes of all. */
export function placeStorages(storages: readonly Storage[]): number {
  let total = 0
  let live: Storage[] = [] // by offset
  for (const storage of [...storages].sort((a, b) => a.firstUse - b.firstUse)) {
    live = live.filter((other) => other.lastUse >= storage.firstUse)
    let offset = 0
    let at = 0
    for (; at < live.length; at++) {
      const other = live[at]!
      if (offset + storage.bytes <= other.offset) break
      offset = align(other.offset + other.bytes)
    }
    storage.offset = offset
    live.splice(at, 0, storage)
    total = Math.max(total, align(offset + storage.bytes))
  }
  return total
}
