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
import {
  COLUMN_ALIGNMENT,
  type Format,
  hasStride,
  joinAdjacent,
  type OperandRef,
  type Place,
  placeStorages,
  type Storage,
  strideOf,
  Tensor,
} from "./tensors.ts"
import type { MatrixRef, Weight, WeightPlan } from "./weights.ts"

/** The buffer of a program that tensors lie in, by index; those of weights: weights.ts. */
export const ARENA_BUFFER = 1

type ActivationFormat = Exclude<Format, typeof Type.I32>

/** Which operand of a norm or a quantisation is an output of that format. */
const ROLES = { [Type.F32]: "out_f32", [Type.ACT_Q8_32]: "out_q8_32", [Type.ACT_Q8_256]: "out_q8_256" } as const

interface Node {
  readonly operation: OperationName
  readonly layer: number
  readonly isPerOutput: boolean
  /** By role, as in ops.h. */
  readonly operands: Partial<Record<string, OperandRef>>
  readonly ints: Record<string, number>
  readonly floats: Record<string, number>
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
  /** The tokens that have logits, in the order of their columns; absent: all. */
  readonly outputTokens?: Int32Array
}

/** Shape of attention. */
export interface Heads {
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
}

/** How rows are dealt out to experts. */
export interface Mixture {
  /** Experts of one row. */
  readonly nUsed: number
  /** The weights of a row's experts add up to `scale`; else they are what the softmax over all experts gives them. */
  readonly isNormalised: boolean
  readonly scale: number
}

/** Which experts each row goes to. */
export interface Route {
  readonly experts: Tensor // (rows, nUsed) of I32
  readonly weights: Tensor // (rows, nUsed)
  readonly nExperts: number
}
export type Activation = "silu" | "gelu"

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

  /** Rows of the embedding table, (nVocab, dim), for the tokens of the pass, times `scale`. */
  embed(table: string, nVocab: number, dim: number, scale = 1): Tensor {
    const out = this.#tensor("embedding", dim, false)
    const weight = this.weights.matrix(table, nVocab, dim)
    this.#add("embed", out, { out: f32(out), table: { weight } }, {}, { scale })
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

  /** out += x / rms(x) * weight, in place. */
  rmsNormAdd(out: Tensor, x: Tensor, weight: string, eps: number): void {
    if (x.cols !== out.cols) throw new ArgumentError(`${weight}: ${x.cols} columns onto ${out.cols}`)
    sameRows("rms_norm_add", out, x)
    const vector = this.weights.vector(weight, x.cols)
    this.#add("rms_norm_add", out, { out: f32(out), in: f32(x), weight: { weight: vector } }, {}, { eps })
    out.root.version++
  }

  /** Norms each head by itself, in place; one weight for all of them. */
  normHeads(x: Tensor, weight: string, eps: number, heads: number): void {
    if (x.cols % heads !== 0) throw new ArgumentError(`${weight}: ${x.cols} columns in ${heads} heads`)
    const vector = this.weights.vector(weight, x.cols / heads)
    this.#add("rms_norm", x, { in: f32(x), weight: { weight: vector }, out_f32: f32(x) }, { heads }, { eps })
    x.root.version++
  }

  /** W x for one to three weights of [rows, name, bias?], the outputs side by side. Weights that take different
   * activation formats become several ops. softcap > 0: softcap * tanh(y / softcap) of each value y. */
  matmul(
    name: string,
    x: Tensor,
    weights: readonly { name: MatrixRef; rows: number; bias?: string | undefined }[],
    softcap = 0,
  ): Tensor[] {
    const parts: { weight: Weight; bias: Weight | undefined; column: number }[] = []
    let end = 0
    for (const { name: weightName, rows, bias } of weights) {
      const column = Math.ceil(end / COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
      end = column + rows
      const weight = this.weights.matrix(weightName, rows, x.cols)
      weight.nStreamed = 1
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
      this.#add("matmul", out, operands, {}, { softcap })
      first = last + 1
    }
    return parts.map(({ weight, column }) => out.view(weight.name, column, weight.rows))
  }

  /** out += W x (+ bias), in place. */
  matmulAdd(out: Tensor, x: Tensor, weight: string, bias?: string): void {
    const matrix = this.weights.matrix(weight, out.cols, x.cols)
    matrix.nStreamed = 1
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

  /** f(gate x) * (up x), f silu or gelu (its tanh form). */
  gateUp(x: Tensor, gate: MatrixRef, up: MatrixRef, nFfn: number, activation: Activation = "silu"): Tensor {
    const out = this.#tensor("gate_up", nFfn, x.isPerOutput)
    const [g, u] = [this.weights.matrix(gate, nFfn, x.cols), this.weights.matrix(up, nFfn, x.cols)]
    sameType(g, u)
    g.nStreamed = u.nStreamed = 1
    const operands = { out: f32(out), in: this.#activation(x, formatFor(g)), gate: { weight: g }, up: { weight: u } }
    this.#add("gate_up", out, operands, { activation: activation === "gelu" ? 1 : 0 })
    return out
  }

  /** The nUsed experts of each row with the largest logits, and their weights. */
  moeRoute(logits: Tensor, { nUsed, isNormalised, scale }: Mixture): Route {
    const [nExperts, { isPerOutput }] = [logits.cols, logits]
    if (nUsed < 1 || nUsed > nExperts) throw new ArgumentError(`moe_route: ${nUsed} of ${nExperts} experts for a row`)
    const experts = this.#tensor("experts", nUsed, isPerOutput)
    const weights = this.#tensor("weights of experts", nUsed, isPerOutput)
    const operands = { in: f32(logits), experts: i32(experts), weights: f32(weights) }
    this.#add("moe_route", logits, operands, { normalise: isNormalised ? 1 : 0 }, { scale })
    return { experts, weights, nExperts }
  }

  /** silu(gate x) * (up x) of each row by each of its experts: a row for each slot. */
  moeGateUp(x: Tensor, route: Route, gate: string, up: string, nFfn: number): Tensor {
    const [g, u] = [gate, up].map((name) => this.#experts(name, nFfn, x.cols, route)) as [Weight, Weight]
    sameType(g, u)
    const out = this.#tensor("moe_gate_up", nFfn, x.isPerOutput, route.experts.cols)
    const operands = { out: f32(out), in: this.#activation(x, formatFor(g)), experts: i32(route.experts) }
    const weights = { gate: { weight: g }, up: { weight: u } }
    this.#add("moe_gate_up", out, { ...operands, ...weights }, { n_experts: route.nExperts })
    return out
  }

  /** W x of each slot by its expert. */
  moeDown(x: Tensor, route: Route, weight: string, rows: number): Tensor {
    const matrices = this.#experts(weight, rows, x.cols, route)
    const out = this.#tensor("moe_down", rows, x.isPerOutput, x.slots)
    const operands = { out: f32(out), in: this.#activation(x, formatFor(matrices)), experts: i32(route.experts) }
    this.#add("moe_down", out, { ...operands, down: { weight: matrices } }, { n_experts: route.nExperts })
    return out
  }

  /** x += the weighted sum of each row's slots, in place. */
  moeCombine(x: Tensor, slots: Tensor, { experts, weights, nExperts }: Route): void {
    sameRows("moe_combine", x, slots)
    const operands = { x: f32(x), in: f32(slots), experts: i32(experts), weights: f32(weights) }
    this.#add("moe_combine", x, operands, { n_experts: nExperts })
    x.root.version++
  }

  #experts(name: string, rows: number, cols: number, { experts, nExperts }: Route): Weight {
    const weight = this.weights.experts(name, rows, cols, nExperts)
    weight.nStreamed = experts.cols
    return weight
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

  /** The end of a graph: logits for the tokens of the vocabulary, or for those that limits.outputTokens lists. */
  logits(x: Tensor, matrix: string, nVocab: number, softcap = 0): void {
    const { outputTokens: rowIds } = this.limits
    const name = rowIds === undefined ? matrix : { name: matrix, rowIds, fileRows: nVocab }
    const [logits] = this.matmul("logits", x, [{ name, rows: rowIds?.length ?? nVocab }], softcap)
    this.topK(logits!)
  }

  /** Statistics and candidates of the logits. */
  topK(logits: Tensor): void {
    if (!logits.isPerOutput) throw new ArgumentError(`top_k: ${logits.name} runs over tokens, not over outputs`)
    this.#add("top_k", logits, { in: f32(logits) })
    this.#logits = logits
  }

  // ---- nodes ----

  #tensor(name: string, cols: number, isPerOutput: boolean, slots = 1): Tensor {
    return new Tensor(this.#nTensors++, name, cols, isPerOutput, slots)
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
  #activation(x: Tensor, format: ActivationFormat): OperandRef {
    const root = x.root
    if (root !== x) throw new ArgumentError(`${x.name} is a view of ${root.name} and cannot be a matmul's input`)
    const role = ROLES[format]
    if (root.writer?.op.operation !== "rms_norm") {
      if (format === Type.F32) return f32(x)
      if (root.writer?.version !== root.version) {
        const op = this.#add("quantize", x, { in: f32(x) }, x.slots > 1 ? { slots: x.slots } : {})
        root.writer = { op, version: root.version }
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
    return tensor.slots * (tensor.isPerOutput ? this.limits.maxOutputs : this.limits.maxTokens)
  }

  #bytesOf(tensor: Tensor, format: Format): number {
    const rows = this.#rowsOf(tensor)
    return hasStride(format) ? 4 * rows * strideOf(tensor) : tensorBytes(format, Layout.ROWS, rows, tensor.cols)
  }

  #place(tensor: Tensor, format: Format): Place {
    return {
      name: tensor.name,
      tensor: tensor.root.id,
      type: format,
      offset: tensor.root.storages.get(format)!.offset + (hasStride(format) ? 4 * tensor.column : 0),
      rows: this.#rowsOf(tensor),
      cols: tensor.cols,
      stride: hasStride(format) ? strideOf(tensor.root) : 0,
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
        const { buffer, type, offset, rows, cols, layout } = operand.weight
        writeStruct(view, at, Operand, { buffer, type, offset, rows, cols, stride: 0, layout })
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

function i32(tensor: Tensor): OperandRef {
  return { tensor, format: Type.I32 }
}

/** The activation format of a weight's type; float activations are plain float rows. */
function formatFor(weight: Weight): ActivationFormat {
  const type = activationType(weight.type)
  return type === Type.ACT_F32 ? Type.F32 : (type as ActivationFormat)
}

function sameType(gate: Weight, up: Weight): void {
  if (gate.type === up.type) return
  const [a, b] = [TYPE_NAMES.get(gate.type), TYPE_NAMES.get(up.type)]
  throw new UnsupportedError(`${gate.name} is of type ${a}, ${up.name} of type ${b}: they have to be of one type`)
}

function sameRows(operation: string, a: Tensor, b: Tensor): void {
  if (a.isPerOutput === b.isPerOutput) return
  const [outputs, tokens] = a.isPerOutput ? [a, b] : [b, a]
  throw new ArgumentError(`${operation}: ${outputs.name} runs over outputs, ${tokens.name} over tokens`)
}
