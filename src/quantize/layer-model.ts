// One layer of a model, run by itself over rows of the residual stream, so that a model passes through memory a layer at a
// time. The layer is a whole model to the graph: one whose vocabulary are those rows, token i being row i. Knows no tokens
// of the true vocabulary, and not what the sums are for.

import type { Architecture, ModelConfig } from "../arch/config.ts"
import { buildGraph } from "../arch/index.ts"
import { CancelledError } from "../errors.ts"
import { Executor } from "../executor.ts"
import { type GgufHeader, TENSOR_TYPES, type TensorInfo, type TensorTypeName } from "../gguf/types.ts"
import { ARENA_BUFFER, GraphBuilder } from "../graph.ts"
import { Prefill, Type } from "../native/abi.ts"
import { Buffer, type Engine, KvCache, Program } from "../native/handles.ts"
import { align, loadWeights, readVector, WEIGHTS_BUFFER, WeightPlan } from "../weights.ts"
import { Collector } from "./collect.ts"
import type { Encoder } from "./encoder.ts"
import type { Entry } from "./importance.ts"
import { type ModelSource, rowBytes, rowCount, rowLength, type TensorSource } from "./source.ts"

const TABLE = "token_embd.weight"
const OUTPUT_NORM = "output_norm.weight"
/** Of the whole model, no layer's business. */
const ENDS = [TABLE, OUTPUT_NORM, "output.weight"]

export interface LayerSettings {
  readonly engine: Engine
  readonly encoder: Encoder
  readonly architecture: Architecture
  /** Of the whole model. */
  readonly config: ModelConfig
  /** Rows that see each other: x is a multiple of it. */
  readonly nCtx: number
  /** After each piece of weights that was read, with its bytes in the source. */
  onRead?(bytes: number): void
  readonly signal?: AbortSignal | undefined
}

/** Takes the rows x (n, dim) through layer `layer`, in place, each nCtx of them a sequence of its own. Returns the sums of
 * squares of what its matrices read, by tensor name. */
export async function runLayer(
  source: ModelSource,
  layer: number,
  x: Float32Array,
  settings: LayerSettings,
): Promise<Map<string, Entry>> {
  const { engine, config, nCtx } = settings
  const nRows = x.length / config.dim
  using owned = new DisposableStack()
  const { header, image } = await imageOf(source, layer, x, settings)
  owned.use(image)
  const weights = new WeightPlan(header, (info) => readVector([image], info))
  const graph = new GraphBuilder(weights, { nCtx, maxTokens: nCtx, maxOutputs: nCtx })
  buildGraph(graph, settings.architecture, layerConfig(config, layer, nRows))
  const plan = graph.build()
  const buffers: Buffer[] = []
  buffers[WEIGHTS_BUFFER] = owned.use(await loadWeights(weights, [image], engine))
  buffers[ARENA_BUFFER] = owned.use(Buffer.create(plan.arenaBytes))
  const limits = { maxTokens: nCtx, maxOutputs: nCtx, maxTopK: 0, nVocab: nRows, prefill: Prefill.EXACT }
  const program = owned.use(Program.create(engine, plan.records, buffers, limits))
  const executor = new Executor(program, plan, buffers[ARENA_BUFFER])
  const { nKvHeads, headDim } = config
  const kv = owned.use(
    KvCache.create({ nLayers: 1, nKvHeads, headDim, capacity: nCtx, typeK: Type.F16, typeV: Type.F16 }),
  )
  const collector = new Collector(executor)
  for (let first = 0; first < nRows; first += nCtx) runSequence(executor, kv, collector, x, first, nCtx)
  return new Map([...collector.entries()].map(([name, entry]) => [name.replace("blk.0.", `blk.${layer}.`), entry]))
}

function layerConfig(config: ModelConfig, layer: number, nRows: number): ModelConfig {
  const embeddingScale = layer === 0 ? config.embeddingScale : 1
  return { ...config, nLayers: 1, windows: [config.windows[layer]!], nVocab: nRows, isTied: true, embeddingScale }
}

/** One sequence, up to the norm behind the layer. */
function runSequence(
  executor: Executor,
  kv: KvCache,
  collector: Collector,
  x: Float32Array,
  first: number,
  n: number,
): void {
  const { program, plan } = executor
  kv.truncate(0)
  executor.prepare(
    Int32Array.from({ length: n }, (_, i) => first + i),
    0,
    n,
    0,
    0,
    0,
  )
  const end = plan.ops.findIndex(({ weights }) => weights.some(({ name }) => name === OUTPUT_NORM))
  let at = 0
  for (const op of [...collector.ops, end]) {
    if (op > at) program.run(kv, at, op - at)
    at = op
    if (op !== end) collector.beforeOp(op, n, executor)
  }
  const place = plan.ops[end]!.places.in!
  const bytes = executor.memory(place)
  const rows = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  for (let i = 0; i < n; i++) {
    x.set(rows.subarray(i * place.stride, i * place.stride + place.cols), (first + i) * place.cols)
  }
}

interface Part {
  readonly name: string
  readonly type: TensorTypeName
  readonly shape: readonly number[]
  /** What the values are, or where they come from. */
  readonly from: Float32Array | TensorSource
}

/** The layer's tensors as a file would have them, in memory. */
async function imageOf(
  source: ModelSource,
  layer: number,
  x: Float32Array,
  settings: LayerSettings,
): Promise<{ header: GgufHeader; image: Buffer }> {
  const { dim } = settings.config
  const table: Part = { name: TABLE, type: "F32", shape: [dim, x.length / dim], from: x }
  const norm: Part = { name: OUTPUT_NORM, type: "F32", shape: [dim], from: new Float32Array(dim).fill(1) }
  const parts = [table, norm, ...partsOf(source, layer)]
  let end = 0
  const infos = parts.map(({ name, type, shape }): TensorInfo => {
    const [offset, bytes] = [end, rowCount({ type, shape }) * rowBytes({ type, shape })]
    end = align(offset + bytes)
    return { name, type: TENSOR_TYPES[type].id, shape, file: 0, offset, bytes }
  })
  using owned = new DisposableStack()
  const image = owned.use(Buffer.create(end))
  for (const [i, part] of parts.entries()) await fill(part, infos[i]!, image, settings)
  owned.move()
  return { header: headerOf(source, infos), image }
}

/** The tensors of a layer under the names that the only layer of a model has, and those of no layer that it needs. Matrices
 * of floats get 8 bits: multiplied several times as fast, and the sums hardly change. */
function partsOf(source: ModelSource, layer: number): Part[] {
  const prefix = `blk.${layer}.`
  return source.tensors.flatMap((tensor) => {
    const { name, type, shape } = tensor
    if (name.startsWith(prefix)) {
      const isFloat = type === "F32" || type === "F16" || type === "BF16"
      const isPacked = isFloat && shape.length > 1 && rowLength(tensor) % TENSOR_TYPES.Q8_0.block === 0
      return [{ name: `blk.0.${name.slice(prefix.length)}`, type: isPacked ? "Q8_0" : type, shape, from: tensor }]
    }
    return name.startsWith("blk.") || ENDS.includes(name) ? [] : [{ name, type, shape, from: tensor }]
  })
}

async function fill({ type, from }: Part, info: TensorInfo, image: Buffer, settings: LayerSettings): Promise<void> {
  const view = image.view(info.offset, info.bytes)
  if (from instanceof Float32Array) new Float32Array(view).set(from)
  else {
    const target = new Uint8Array(view)
    let at = 0
    for (const { bytes, sourceBytes } of settings.encoder.pieces(from, type)) {
      target.set(bytes, at)
      at += bytes.length
      settings.onRead?.(sourceBytes)
      await new Promise((resume) => setImmediate(resume))
      if (settings.signal?.aborted) throw new CancelledError(`cancelled in ${from.name}`)
    }
  }
  image.forget(view)
}

/** What describes these tensors as those of a file. */
export function headerOf({ path, metadata }: ModelSource, infos: readonly TensorInfo[]): GgufHeader {
  const tensors = new Map(infos.map((info) => [info.name, info]))
  return { path, files: [path], version: 3, alignment: 64, fileBytes: 0, metadata, tensors }
}
