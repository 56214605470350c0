// The graph builder: an architecture describes its passes in coarse operations, this file turns them into records.
//
// It checks shapes, finds out in which activation formats each tensor is needed (a function of the weight types that
// read it), plans the arena (lifetimes are known, so layers reuse the same memory) and encodes struct asdsl_op. It knows
// operations and tensors, not architectures, not files and not threads.

import { ArgumentError, UnsupportedError } from "./errors.ts"
import { TENSOR_TYPES } from "./gguf/types.ts"
import {
  Layout,
  NO_BUFFER,
  OPERATIONS,
  Op,
  Operand,
  type OperationName,
  OpFlags,
  operationCode,
  Type,
  viewOf,
  writeField,
  writeStruct,
} from "./native/abi.ts"
import { activationType, tensorBytes } from "./native/handles.ts"
import { align, type MatrixRef, type Weight, type WeightPlan } from "./weights.ts"

/** Buffers of a program, by index. */
export const WEIGHTS_BUFFER = 0
export const ARENA_BUFFER = 1

/** Offsets of operands are multiples of 64 bytes, so views into a row begin at multiples of 16 floats. */
const COLUMN_ALIGNMENT = 16

type Format = typeof Type.F32 | typeof Type.ACT_Q8_32 | typeof Type.ACT_Q8_256

/** A piece of the arena: one tensor in one format. */
interface Storage {
  readonly tensor: Tensor
  readonly format: Format
  bytes: number
  offset: number
  firstUse: number
  lastUse: number
}

/** Rows of activations: one per token of a pass, or one per output. Views are ranges of columns of another tensor. */
export class Tensor {
  readonly id: number
  readonly name: string
  readonly cols: number
  readonly isPerOutput: boolean
  /** The tensor this one is a view of; itself otherwise. */
  readonly root: Tensor
  /** First column in the root. */
  readonly column: number
  /** Of a root: what was computed from it is out of date when this has changed. */
  version = 0
  /** Of a root: its formats in memory. */
  readonly storages = new Map<Format, Storage>()
  /** Of a root: the op that writes each format on demand (a norm, or the quantisation of one version). */
  writer: { op: Node; version: number } | undefined

  constructor(id: number, name: string, cols: number, isPerOutput: boolean, root?: Tensor, column = 0) {
    this.id = id
    this.name = name
    this.cols = cols
    this.isPerOutput = isPerOutput
    this.root = root ?? this
    this.column = column
  }

  /** Columns [column, column + cols) of this tensor. */
  view(name: string, column: number, cols: number): Tensor {
    if (column + cols > this.cols) {
      throw new ArgumentError(`${name}: columns ${column} to ${column + cols} of ${this.name}, which has ${this.cols}`)
    }
    return new Tensor(this.id, name, cols, this.isPerOutput, this.root, this.column + column)
  }
}

type OperandRef = { tensor: Tensor; format: Format } | { weight: Weight }

interface Node {
  readonly operation: OperationName
  readonly layer: number
  readonly isPerOutput: boolean
  /** By role, as in ops.h. */
  readonly operands: Partial<Record<string, OperandRef>>
  readonly ints: Record<string, number>
  readonly floats: Record<string, number>
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
  /** Floats between rows; 0 for int8 formats. */
  readonly stride: number
  readonly isPerOutput: boolean
}

/** One op of a plan, for people and tests. */
export interface PlannedOp {
  readonly operation: OperationName
  readonly layer: number
  readonly weights: readonly Weight[]
  /** Operands in the arena by role. */
  readonly places: Readonly<Record<string, Place>>
}

/** A graph as a program needs it. */
export interface Plan {
  readonly records: Uint8Array
  readonly ops: readonly PlannedOp[]
  /** From this op on everything runs over outputs, and may run again over other outputs of the same pass. */
  readonly firstOutputOp: number
  readonly arenaBytes: number
  readonly logits: Place
}

export interface GraphLimits {
  /** Tokens of the longest context. */
  readonly nCtx: number
  /** Of one pass. */
  readonly maxTokens: number
  /** Rows with logits of one pass. */
  readonly maxOutputs: number
}

/** Shape of attention. */
export interface Heads {
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
}

const TYPE_NAMES = new Map<number, string>(Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name]))

export class GraphBuilder {
  readonly weights: WeightPlan
  readonly limits: GraphLimits
  /** The model layer that operations are added to. */
  layer = 0
  readonly #nodes: Node[] = []
  #logits: Tensor | undefined
  #firstOutputOp = -1
  #nTensors = 0

  constructor(weights: WeightPlan, limits: GraphLimits) {
    this.weights = weights
    this.limits = limits
  }

  // ---- operations ----

  /** Rows of the embedding table, (nVocab, dim), for the tokens of the pass. */
  embed(table: string, nVocab: number, dim: number): Tensor {
    const out = this.#tensor("embedding", dim, false)
    this.#add("embed", out, { out: f32(out), table: { weight: this.weights.matrix(table, nVocab, dim) } })
    return out
  }

  /** x / rms(x) * weight. */
  rmsNorm(x: Tensor, weight: string, eps: number): Tensor {
    const out = this.#tensor(weight, x.cols, x.isPerOutput)
    const operands: Node["operands"] = { in: f32(x), weight: { weight: this.weights.vector(weight, x.cols) } }
    const op = this.#add("rms_norm", out, operands, { heads: 1 }, { eps })
    out.writer = { op, version: 0 } // outputs are added by whoever reads them
    return out
  }

  /** Norms each head by itself, in place; one weight for all of them. */
  normHeads(x: Tensor, weight: string, eps: number, heads: number): void {
    if (x.cols % heads !== 0) throw new ArgumentError(`${weight}: ${x.cols} columns in ${heads} heads`)
    const vector = this.weights.vector(weight, x.cols / heads)
    this.#add("rms_norm", x, { in: f32(x), weight: { weight: vector }, out_f32: f32(x) }, { heads }, { eps })
    x.root.version++
  }

  /** W x for one to three weights of [rows, name, bias?], the outputs side by side. Weights that take different
   * activation formats become several ops. */
  matmul(
    name: string,
    x: Tensor,
    weights: readonly { name: MatrixRef; rows: number; bias?: string | undefined }[],
  ): Tensor[] {
    const parts: { weight: Weight; bias: Weight | undefined; column: number }[] = []
    let end = 0
    for (const { name: weightName, rows, bias } of weights) {
      const column = Math.ceil(end / COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
      end = column + rows
      const weight = this.weights.matrix(weightName, rows, x.cols)
      weight.isStreamed = true
      parts.push({ weight, bias: bias === undefined ? undefined : this.weights.vector(bias, rows), column })
    }
    const out = this.#tensor(name, end, x.isPerOutput)
    for (let first = 0; first < parts.length; ) {
      const format = formatFor(parts[first]!.weight)
      let last = first
      while (last + 1 < Math.min(parts.length, first + 3)) {
        const [a, b] = [parts[last]!, parts[last + 1]!]
        if (formatFor(b.weight) !== format || b.column !== a.column + a.weight.rows) break
        last++
      }
      const [from, to] = [parts[first]!, parts[last]!]
      const range = out.view(name, from.column, to.column + to.weight.rows - from.column)
      const operands: Node["operands"] = { out: f32(range), in: this.#activation(x, format) }
      for (let i = first; i <= last; i++) {
        operands[`w${i - first}`] = { weight: parts[i]!.weight }
        const { bias } = parts[i]!
        if (bias !== undefined) operands[`bias${i - first}`] = { weight: bias }
      }
      this.#add("matmul", out, operands)
      first = last + 1
    }
    return parts.map(({ weight, column }) => out.view(weight.name, column, weight.rows))
  }

  /** out += W x (+ bias), in place. */
  matmulAdd(out: Tensor, x: Tensor, weight: string, bias?: string): void {
    const matrix = this.weights.matrix(weight, out.cols, x.cols)
    matrix.isStreamed = true
    sameRows("matmul_add", out, x)
    const operands: Node["operands"] = {
      out: f32(out),
      in: this.#activation(x, formatFor(matrix)),
      w0: { weight: matrix },
    }
    if (bias !== undefined) operands.bias0 = { weight: this.weights.vector(bias, out.cols) }
    this.#add("matmul_add", out, operands)
    out.root.version++
  }

  /** silu(gate x) * (up x). */
  gateUp(x: Tensor, gate: MatrixRef, up: MatrixRef, nFfn: number): Tensor {
    const out = this.#tensor("gate_up", nFfn, x.isPerOutput)
    const [g, u] = [this.weights.matrix(gate, nFfn, x.cols), this.weights.matrix(up, nFfn, x.cols)]
    if (g.type !== u.type) {
      const [a, b] = [TYPE_NAMES.get(g.type), TYPE_NAMES.get(u.type)]
      throw new UnsupportedError(`${g.name} is of type ${a}, ${u.name} of type ${b}: they have to be of one type`)
    }
    g.isStreamed = u.isStreamed = true
    const operands = { out: f32(out), in: this.#activation(x, formatFor(g)), gate: { weight: g }, up: { weight: u } }
    this.#add("gate_up", out, operands)
    return out
  }

  /** Cosines and sines of every position of the pass, for frequencies in radians per token. */
  ropeTable(name: string, frequencies: Float32Array, magnitude = 1): Tensor {
    const out = this.#tensor("rope_table", 2 * frequencies.length, false)
    const weight = this.weights.constant(name, frequencies)
    this.#add("rope_table", out, { out: f32(out), inv_freq: { weight } }, {}, { magnitude })
    return out
  }

  /** Rotates the first nRot = table.cols of every head, in place. mode 0: pairs (2j, 2j+1); 1: (j, j + nRot/2). */
  rope(tensors: readonly Tensor[], table: Tensor, headDim: number, mode: 0 | 1): void {
    for (const x of joinAdjacent(tensors)) {
      if (x.cols % headDim !== 0) throw new ArgumentError(`rope: ${x.cols} columns in heads of ${headDim}`)
      const ints = { heads_offset: 0, heads: x.cols / headDim, head_dim: headDim, n_rot: table.cols, mode }
      this.#add("rope", x, { x: f32(x), table: f32(table) }, ints)
      x.root.version++
    }
  }

  /** Keys and values of the pass into the cache of the current layer. */
  kvAppend(k: Tensor, v: Tensor, heads: Heads): void {
    const width = heads.nKvHeads * heads.headDim
    if (k.cols !== width || v.cols !== width) {
      const { nKvHeads, headDim } = heads
      throw new ArgumentError(
        `kv_append: k has ${k.cols} columns, v ${v.cols}, ${nKvHeads} heads of ${headDim} need ${width}`,
      )
    }
    this.#add("kv_append", k, { k: f32(k), v: f32(v) }, { n_kv_heads: heads.nKvHeads, head_dim: heads.headDim })
  }

  /** Causal attention over the cache of the current layer. window 0: all keys; softcap 0: none. */
  attention(q: Tensor, heads: Heads, scale: number, window = 0, softcap = 0): Tensor {
    const { nHeads, nKvHeads, headDim } = heads
    if (q.cols !== nHeads * headDim) {
      throw new ArgumentError(
        `attention: q has ${q.cols} columns, ${nHeads} heads of ${headDim} need ${nHeads * headDim}`,
      )
    }
    const out = this.#tensor("attention", q.cols, false)
    const ints = { n_heads: nHeads, n_kv_heads: nKvHeads, head_dim: headDim, window }
    this.#add("attention", out, { q: f32(q), out: f32(out) }, ints, { scale, softcap })
    return out
  }

  /** The rows that need logits. From here on everything runs over outputs. */
  gatherOutputs(x: Tensor): Tensor {
    if (x.isPerOutput) throw new ArgumentError(`gather_outputs: ${x.name} runs over outputs already`)
    if (this.#firstOutputOp < 0) this.#firstOutputOp = this.#nodes.length
    const out = this.#tensor(`outputs of ${x.name}`, x.cols, true)
    this.#add("gather_outputs", out, { out: f32(out), in: f32(x) })
    return out
  }

  /** The end of a graph: statistics and candidates of the logits. */
  topK(logits: Tensor): void {
    if (!logits.isPerOutput) throw new ArgumentError(`top_k: ${logits.name} runs over tokens, not over outputs`)
    this.#add("top_k", logits, { in: f32(logits) })
    this.#logits = logits
  }

  // ---- nodes ----

  #tensor(name: string, cols: number, isPerOutput: boolean): Tensor {
    return new Tensor(this.#nTensors++, name, cols, isPerOutput)
  }

  #add(
    operation: OperationName,
    rows: Tensor,
    operands: Node["operands"],
    ints: Record<string, number> = {},
    floats: Record<string, number> = {},
  ): Node {
    if (this.#firstOutputOp >= 0 && !rows.isPerOutput) {
      throw new ArgumentError(`${operation} of ${rows.name} runs over tokens, after outputs were gathered`)
    }
    const node: Node = { operation, layer: this.layer, isPerOutput: rows.isPerOutput, operands, ints, floats }
    this.#nodes.push(node)
    return node
  }

  /** `x` in a format that a weight takes: asked of the norm that writes it, else of a quantisation of its present state. */
  #activation(x: Tensor, format: Format): OperandRef {
    const root = x.root
    if (root !== x) throw new ArgumentError(`${x.name} is a view of ${root.name} and cannot be a matmul's input`)
    const role = { [Type.F32]: "out_f32", [Type.ACT_Q8_32]: "out_q8_32", [Type.ACT_Q8_256]: "out_q8_256" }[format]
    if (root.writer?.op.operation !== "rms_norm") {
      if (format === Type.F32) return f32(x)
      if (root.writer?.version !== root.version) {
        root.writer = { op: this.#add("quantize", x, { in: f32(x) }), version: root.version }
      }
    }
    root.writer!.op.operands[role] = { tensor: x, format }
    return { tensor: x, format }
  }

  // ---- encoding ----

  /** Plans memory and encodes records. Afterwards every weight has its offset. */
  build(): Plan {
    const logits = this.#logits
    if (logits === undefined) throw new ArgumentError("a graph ends in topK")
    const storages = this.#lifetimes()
    const arenaBytes = placeStorages(storages)
    this.weights.place()
    const records = new Uint8Array(this.#nodes.length * Op.bytes)
    const view = viewOf(records)
    for (const [i, node] of this.#nodes.entries()) this.#encode(view, i * Op.bytes, node)
    return {
      records,
      ops: this.#nodes.map((node) => this.#describe(node)),
      firstOutputOp: this.#firstOutputOp,
      arenaBytes,
      logits: this.#place(logits, Type.F32),
    }
  }

  /** Which op writes and last reads each piece of memory, and each weight. */
  #lifetimes(): Storage[] {
    const all: Storage[] = []
    for (const [i, node] of this.#nodes.entries()) {
      for (const operand of Object.values(node.operands)) {
        if (operand === undefined) continue
        if ("weight" in operand) {
          operand.weight.lastUse = i
          continue
        }
        const { root } = operand.tensor
        let storage = root.storages.get(operand.format)
        if (storage === undefined) {
          storage = { tensor: root, format: operand.format, bytes: 0, offset: 0, firstUse: i, lastUse: i }
          storage.bytes = this.#bytesOf(root, operand.format)
          root.storages.set(operand.format, storage)
          all.push(storage)
        }
        storage.lastUse = i
      }
    }
    // What the output ops read of earlier ops has to outlive them all: they may run again over other outputs.
    const end = this.#nodes.length
    for (const storage of all) {
      if (storage.firstUse < this.#firstOutputOp && storage.lastUse >= this.#firstOutputOp) storage.lastUse = end
      if (storage.tensor === this.#logits?.root) storage.lastUse = end
    }
    return all
  }

  #rowsOf(tensor: Tensor): number {
    return tensor.isPerOutput ? this.limits.maxOutputs : this.limits.maxTokens
  }

  #bytesOf(tensor: Tensor, format: Format): number {
    const rows = this.#rowsOf(tensor)
    return format === Type.F32 ? 4 * rows * strideOf(tensor) : tensorBytes(format, Layout.ROWS, rows, tensor.cols)
  }

  #place(tensor: Tensor, format: Format): Place {
    const isFloat = format === Type.F32
    return {
      name: tensor.name,
      tensor: tensor.root.id,
      type: format,
      offset: tensor.root.storages.get(format)!.offset + (isFloat ? 4 * tensor.column : 0),
      rows: this.#rowsOf(tensor),
      cols: tensor.cols,
      stride: isFloat ? strideOf(tensor.root) : 0,
      isPerOutput: tensor.isPerOutput,
    }
  }

  #encode(view: DataView, base: number, node: Node): void {
    const code = operationCode(node.operation)
    const { operands, ints, floats } = OPERATIONS[code]!
    const flags = node.isPerOutput && !/^(gather_outputs|top_k)$/.test(node.operation) ? OpFlags.ROWS_OUTPUTS : 0
    writeStruct(view, base, Op, { code, flags, layer: node.layer, reserved: 0 })
    for (let i = 0; i < Op.fields.operand.count; i++) {
      const operand = node.operands[operands[i] ?? "-"]
      const at = base + Op.fields.operand.offset + i * Operand.bytes
      if (operand === undefined) writeField(view, at, Operand, "buffer", NO_BUFFER)
      else if ("weight" in operand) {
        const { type, offset, rows, cols, layout } = operand.weight
        writeStruct(view, at, Operand, { buffer: WEIGHTS_BUFFER, type, offset, rows, cols, stride: 0, layout })
      } else {
        const { type, offset, rows, cols, stride } = this.#place(operand.tensor, operand.format)
        writeStruct(view, at, Operand, { buffer: ARENA_BUFFER, type, offset, rows, cols, stride, layout: Layout.ROWS })
      }
    }
    for (const [i, name] of ints.entries()) writeField(view, base, Op, "i", node.ints[name] ?? 0, i)
    for (const [i, name] of floats.entries()) writeField(view, base, Op, "f", node.floats[name] ?? 0, i)
  }

  #describe(node: Node): PlannedOp {
    const weights: Weight[] = []
    const places: Record<string, Place> = {}
    for (const [role, operand] of Object.entries(node.operands)) {
      if (operand === undefined) continue
      if ("weight" in operand) weights.push(operand.weight)
      else places[role] = this.#place(operand.tensor, operand.format)
    }
    return { operation: node.operation, layer: node.layer, weights, places }
  }
}

function f32(tensor: Tensor): OperandRef {
  return { tensor, format: Type.F32 }
}

/** Floats between rows: whole cache lines. */
function strideOf(tensor: Tensor): number {
  return Math.ceil(tensor.cols / COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
}

/** The activation format of a weight's type; float activations are plain float rows. */
function formatFor(weight: Weight): Format {
  const type = activationType(weight.type)
  return type === Type.ACT_F32 ? Type.F32 : (type as Format)
}

function sameRows(operation: string, a: Tensor, b: Tensor): void {
  if (a.isPerOutput === b.isPerOutput) return
  const [outputs, tokens] = a.isPerOutput ? [a, b] : [b, a]
  throw new ArgumentError(`${operation}: ${outputs.name} runs over outputs, ${tokens.name} over tokens`)
}

/** Views that lie side by side in one tensor as one view. */
function joinAdjacent(tensors: readonly Tensor[]): Tensor[] {
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
function placeStorages(storages: readonly Storage[]): number {
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
