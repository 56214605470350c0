// A model: a file's configuration, weights and tokenizer, the engine, and the program that its sessions share.

import type { ModelConfig } from "./arch/config.ts"
import { architectureOf, buildGraph } from "./arch/index.ts"
import { Chat, type ChatOptions } from "./chat/conversation.ts"
import type { Tool } from "./chat/messages.ts"
import { ChatTemplate } from "./chat/template.ts"
import { ArgumentError, CancelledError, UnsupportedError } from "./errors.ts"
import { Executor } from "./executor.ts"
import type { GgufHeader } from "./gguf/types.ts"
import { ARENA_BUFFER, GraphBuilder, type GraphLimits, type Plan, type PlannedOp } from "./graph.ts"
import { readSource } from "./interleaved/repack.ts"
import type { SaveResult } from "./interleaved/save.ts"
import { copiesFolder, MIN_SOURCE_BYTES } from "./interleaved/sidecar.ts"
import { type LoadedWeights, ModelSource } from "./interleaved/source.ts"
import {
  DEFAULT_KV_TYPE,
  type DraftModelOptions,
  KV_TYPES,
  type KvType,
  type LoadOptions,
  PREFILL_MODES,
  type PrefillMode,
} from "./load-options.ts"
import { modelIdentity, type ReadTensor } from "./model-identity.ts"
import { resolveModel } from "./models/index.ts"
import { Prefill, Type } from "./native/abi.ts"
import {
  Buffer,
  type CounterName,
  checkInteger,
  Engine,
  type EngineInfo,
  KvCache,
  type PageFacts,
  Program,
} from "./native/handles.ts"
import { Session } from "./session.ts"
import { checkSharedVocabulary } from "./speculative/shared-vocabulary.ts"
import { readDraftVocabulary } from "./speculative/vocabulary-list.ts"
import { createTokenizer } from "./tokenizer/index.ts"
import type { Tokenizer } from "./tokenizer/types.ts"
import { GATHERED_BUFFER, MAPPED_BUFFER, streamedBytes, WEIGHTS_BUFFER, type WeightPlan } from "./weights.ts"

const KV_CODES: Readonly<Record<KvType, number>> = { f16: Type.F16, f32: Type.F32, q8_0: Type.Q8_0 }
const PREFILLS: Readonly<Record<PrefillMode, number>> = { exact: Prefill.EXACT, fast: Prefill.FAST }

/** What one op of the program is and did: for people who look for time or for a slow kernel. */
export interface OpReport {
  readonly index: number
  readonly operation: string
  readonly layer: number
  /** false: before the first layer or behind the last one, and `layer` means nothing. */
  readonly isOfLayer: boolean
  readonly weights: readonly string[]
  /** Weight bytes that a pass of one row reads: not those of a table that is only gathered from, nor of experts that the
   * row does not go to. */
  readonly streamedBytes: number
  /** Likewise of the largest pass, at most. */
  readonly streamedBytesOfBatch: number
  /** Multiply-accumulates of its matrices for each row. */
  readonly macs: number
  /** Rows are those of logits, not the pass's tokens. */
  readonly isPerOutput: boolean
  /** The kernel slot that it last ran in, "q4_1.gemv.avx2"; "" if it has not run. */
  readonly slot: string
  /** Spent in all runs, barriers included. */
  readonly nanoseconds: number
}

/** Of a draft model, tokens of one pass: large enough for `prefill: "fast"`, small enough for an arena of some MB. */
const DRAFT_UBATCH = 256

interface Parts {
  header: GgufHeader
  config: ModelConfig
  plan: Plan
  weights: WeightPlan
  engines: Engine[]
  /** The engines are somebody else's. */
  isGuest: boolean
  loaded: LoadedWeights
  /** The arena and what else C holds for it. */
  buffers: Buffer[]
  executors: Executor[]
  outputTokens: Int32Array | undefined
  draft?: Model
  options: LoadOptions
}

/** What a draft model gets of the model that it drafts for. */
interface Host {
  readonly target: Model
  readonly engines: Engine[]
  readonly vocabulary: string | undefined
}

/** Loads a model from a GGUF file (of a split model: any part), or by a name that src/models knows. Weights are interleaved in memory. */
export async function load(path: string, options: LoadOptions = {}): Promise<Model> {
  if (options.draft === undefined) return new Model(await loadParts(path, options))
  const { model: draftPath, vocabulary, ...own } = draftOptions(options.draft)
  using owned = new DisposableStack()
  const parts = await loadParts(path, options)
  const target = owned.use(new Model(parts))
  const { signal, prefill: _, draft: __, onProgress: ___, ...shared } = options
  const settings: LoadOptions = {
    ...{ ...shared, ...own, maxOutputs: 1, nUbatch: DRAFT_UBATCH, prefill: "fast" }, // drafts need not be exact
    ...(signal === undefined ? {} : { signal }),
  }
  const draft = await loadParts(draftPath, settings, { target, engines: parts.engines, vocabulary })
  owned.move()
  parts.draft = new Model(draft)
  return target
}

function draftOptions(draft: string | DraftModelOptions): DraftModelOptions {
  return typeof draft === "string" ? { model: draft } : draft
}

async function loadParts(path: string, options: LoadOptions, host?: Host): Promise<Parts> {
  if (typeof path !== "string" || path === "") throw new ArgumentError("load needs the path or the name of a model")
  const file = await resolveModel(path, options.signal === undefined ? {} : { signal: options.signal })
  throwIfAborted(options.signal)
  using owned = new DisposableStack() // what has to go if anything below fails
  const source = owned.use(await ModelSource.open(file, options))
  const { header } = source
  const { architecture, config } = architectureOf(header)
  if (host !== undefined) checkSharedVocabulary(host.target.header, header)
  const outputTokens = host === undefined ? undefined : readDraftVocabulary(header, config.nVocab, host.vocabulary)
  const nCtx = host === undefined ? options.nCtx : draftContext(host.target, options, config)
  const limits = {
    ...limitsOf({ ...options, ...(nCtx === undefined ? {} : { nCtx }) }, config, outputTokens?.length),
    ...(outputTokens === undefined ? {} : { outputTokens }),
  }
  const weights = source.weightPlan()
  const graph = new GraphBuilder(weights, limits)
  buildGraph(graph, architecture, config)
  const plan = graph.build()
  source.prefetch(weights)
  const engines = host?.engines ?? createEngines(options).map((engine) => owned.use(engine))
  const batchEngine = engines.at(-1)!
  const arena = owned.use(Buffer.create(plan.arenaBytes))
  const gathered = source.gather(weights, batchEngine)
  if (gathered !== undefined) owned.use(gathered)
  const loaded = owned.use(await source.load(weights, batchEngine))
  const buffers: Buffer[] = []
  buffers[WEIGHTS_BUFFER] = loaded.memory
  buffers[ARENA_BUFFER] = arena
  if (loaded.mapped !== undefined) buffers[MAPPED_BUFFER] = loaded.mapped
  if (gathered !== undefined) {
    buffers[MAPPED_BUFFER] ??= loaded.memory // a program's table has no gaps
    buffers[GATHERED_BUFFER] = gathered
  }
  const executors = engines.map((each) => {
    const program = owned.use(
      Program.create(each, plan.records, buffers, {
        maxTokens: limits.maxTokens,
        maxOutputs: limits.maxOutputs,
        maxTopK: limits.maxTopK,
        nVocab: config.nVocab,
        prefill: PREFILLS[options.prefill ?? "exact"],
      }),
    )
    return new Executor(program, plan, arena)
  })
  owned.move()
  source[Symbol.dispose]()
  const isGuest = host !== undefined
  const used = nCtx === undefined ? options : { ...options, nCtx }
  return {
    ...{ header, config, plan, weights, engines, isGuest, loaded, executors, outputTokens },
    ...{ buffers: gathered === undefined ? [arena] : [arena, gathered], options: used },
  }
}

/** What the target's context asks for, as far as the draft model was trained for it. */
function draftContext(target: Model, { nCtx }: LoadOptions, { nCtxTrain }: ModelConfig): number {
  return nCtx || Math.min(target.nCtx, nCtxTrain)
}

/** One for single tokens and, where its threads are others, one for batches. */
function createEngines(options: LoadOptions): Engine[] {
  using owned = new DisposableStack()
  const engines = [owned.use(createEngine(options.nThreads, options))]
  if (needsBatchEngine(options)) engines.push(owned.use(createEngine(options.nThreadsBatch, options)))
  owned.move()
  return engines
}

/** Multiply-accumulates of an op's matrices for each row. */
function macsOf({ operation, weights }: PlannedOp): number {
  if (operation === "embed") return 0
  return weights.reduce((sum, { rows, cols, nStreamed }) => sum + nStreamed * rows * cols, 0)
}

/** Weight bytes that a pass of `nRows` rows reads for an op. */
function streamedBytesOf({ operation, weights }: PlannedOp, nRows: number): number {
  return operation === "embed" ? 0 : weights.reduce((sum, weight) => sum + streamedBytes(weight, nRows), 0)
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CancelledError("loading was cancelled")
}

function limitsOf(
  options: LoadOptions,
  config: ModelConfig,
  nOutputTokens = config.nVocab,
): GraphLimits & { maxTopK: number } {
  const nCtx = contextLength(options.nCtx, config)
  const nBatch = checkInteger("nBatch", options.nBatch ?? 2048, 1, 2 ** 30)
  const nUbatch = checkInteger("nUbatch", options.nUbatch ?? 512, 1, 65536)
  const maxOutputs = checkInteger("maxOutputs", options.maxOutputs ?? 32, 1, 65536)
  const maxTopK = checkInteger("maxTopK", options.maxTopK ?? 1024, 0, 2 ** 24)
  for (const key of ["typeK", "typeV"] as const) {
    const type = options[key] ?? DEFAULT_KV_TYPE
    if (!Object.hasOwn(KV_CODES, type)) {
      throw new UnsupportedError(`${key} ${type} is not supported; known: ${KV_TYPES.join(", ")}`)
    }
  }
  const prefill = options.prefill ?? "exact"
  if (!Object.hasOwn(PREFILLS, prefill)) {
    throw new UnsupportedError(`prefill ${prefill} is not supported; known: ${PREFILL_MODES.join(", ")}`)
  }
  const maxTokens = Math.min(nUbatch, nBatch, nCtx)
  return { nCtx, maxTokens, maxOutputs: Math.min(maxOutputs, maxTokens), maxTopK: Math.min(maxTopK, nOutputTokens) }
}

function contextLength(nCtx: number | undefined, config: ModelConfig): number {
  return checkInteger("nCtx", nCtx ?? 0, 0, 2 ** 30) || config.nCtxTrain
}

function needsBatchEngine({ nThreads = 0, nThreadsBatch = 0 }: LoadOptions): boolean {
  return nThreadsBatch !== 0 && nThreadsBatch !== nThreads
}

/** Of one step of --poll: its default, 50, is the engine's default of 1.5 ms. */
const POLL_MICROSECONDS = 30

function createEngine(nThreads: number | undefined, options: LoadOptions): Engine {
  const { level, cpus, poll, slowPercent, stayMicroseconds } = options
  return Engine.create({
    nThreads: nThreads ?? 0,
    ...(level === undefined ? {} : { level }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(slowPercent === undefined ? {} : { slowPercent }),
    ...(stayMicroseconds === undefined ? {} : { stayMicroseconds }),
    ...(poll === undefined ? {} : { spinMicroseconds: POLL_MICROSECONDS * checkInteger("poll", poll, 0, 100) }),
  })
}

/** A loaded model. Sessions of one model share its program: see Session. */
export class Model {
  readonly header: GgufHeader
  readonly config: ModelConfig
  /** Default context length of sessions. */
  readonly nCtx: number
  /** Tokens of one pass. */
  readonly nUbatch: number
  /** Rows of logits of one pass. */
  readonly maxOutputs: number
  readonly maxTopK: number
  /** Weight bytes that a decoded token reads: a tied output matrix counts, a table that is only gathered from does not, and
   * of experts those that a token goes to. */
  readonly streamedBytes: number
  /** Weight bytes in memory. */
  readonly weightBytes: number
  readonly nParams: number
  /** Multiply-accumulates of the matrices for each token of a pass, attention and the output matrix left out. */
  readonly macsPerToken: number
  /** Multiply-accumulates of the output matrix for each row of logits. */
  readonly macsPerOutput: number
  /** Of a draft model: the token of each column of its logits; undefined: all tokens have one. */
  readonly outputTokens: Int32Array | undefined
  /** Passes run by all sessions. */
  passes = 0
  readonly #parts: Parts
  #identity: string | undefined
  #tokenizer: Tokenizer | undefined
  #template: ChatTemplate | undefined
  #toolTemplate: ChatTemplate | undefined

  /** Made by load(). */
  constructor(parts: Parts) {
    const { header, config, plan, weights, executors, options, outputTokens } = parts
    const { settings } = executors[0]!.program
    this.#parts = parts
    this.header = header
    this.config = config
    this.nCtx = contextLength(options.nCtx, config)
    this.nUbatch = settings.maxTokens
    this.maxOutputs = settings.maxOutputs
    this.maxTopK = settings.maxTopK
    this.outputTokens = outputTokens
    const { gathered } = weights
    this.weightBytes = weights.totalBytes + (gathered?.bytes ?? 0)
    this.streamedBytes = gathered?.bytes ?? 0
    for (const weight of weights.weights()) this.streamedBytes += streamedBytes(weight)
    this.nParams = 0
    for (const { shape } of header.tensors.values()) this.nParams += shape.reduce((product, size) => product * size, 1)
    this.macsPerToken = 0
    this.macsPerOutput = 0
    for (const op of plan.ops) {
      const { out } = op.places
      if (out?.offset === plan.logits.offset && out.cols === plan.logits.cols) this.macsPerOutput += macsOf(op)
      else this.macsPerToken += macsOf(op)
    }
  }

  get path(): string {
    return this.header.path
  }

  /** Of the keys and values that it computes: equal for another load of the same weights, wherever they lie. */
  get identity(): string {
    const { nCtxOriginal } = this.config
    const hasLongFactors = nCtxOriginal !== undefined && this.nCtx > nCtxOriginal
    const { mapped } = this.#parts.loaded
    if (this.#identity !== undefined) return this.#identity
    using single = Engine.create({ nThreads: 1 }) // 16 rows a time: threads would wait for each other and do nothing
    const read: ReadTensor | undefined = mapped && ((...part) => readSource(...part, mapped, single))
    this.#identity = modelIdentity(this.header, { hasLongFactors }, read)
    return this.#identity
  }

  /** How prompts multiply matrices. */
  get prefill(): PrefillMode {
    return this.#parts.options.prefill ?? "exact"
  }

  /** Where what is learnt of the model's passes is kept: beside the repacked copies, of models that have one. undefined:
   * nowhere. */
  get learntFolder(): string | undefined {
    const { options } = this.#parts
    const isSmall = typeof options.cache !== "string" && this.weightBytes < MIN_SOURCE_BYTES
    return options.save === false || isSmall ? undefined : copiesFolder(options)
  }

  /** The model that drafts for this one; it lives as long as this one does. */
  get draft(): Model | undefined {
    return this.#parts.draft
  }

  /** Made when first asked for. */
  get tokenizer(): Tokenizer {
    this.#tokenizer ??= createTokenizer(this.header.metadata)
    return this.#tokenizer
  }

  /** The Jinja template that came with the model. */
  get chatTemplate(): string | undefined {
    const template = this.header.metadata.get("tokenizer.chat_template")
    return typeof template === "string" ? template : undefined
  }

  /** How this model wants conversations written; where the file does not say, as its vocabulary suggests. Made when first
   * asked for. */
  get template(): ChatTemplate {
    this.#template ??= new ChatTemplate(this.chatTemplate, this.tokenizer)
    return this.#template
  }

  /** The template for conversations with these tools: some models have one of its own for them. */
  templateFor(tools: readonly Tool[] = []): ChatTemplate {
    const source = this.header.metadata.get("tokenizer.chat_template.tool_use")
    if (tools.length === 0 || typeof source !== "string") return this.template
    this.#toolTemplate ??= new ChatTemplate(source, this.tokenizer)
    return this.#toolTemplate
  }

  /** A new conversation with a session of its own. */
  chat(options: ChatOptions = {}): Chat {
    return new Chat(this, options)
  }

  /** A new, empty timeline. nCtx 0 or absent: the model's. Throws where a model with two sets of rotary factors (phi3) was
   * loaded for a context that needs the other set. */
  createSession(options: { nCtx?: number } = {}): Session {
    const nCtx = options.nCtx ? contextLength(options.nCtx, this.config) : this.nCtx
    const { nLayers, nKvHeads, headDim, nCtxOriginal } = this.config
    if (nCtxOriginal !== undefined && nCtx > nCtxOriginal !== this.nCtx > nCtxOriginal) {
      throw new ArgumentError(
        `the model was loaded for contexts of ${this.nCtx} tokens, and its rotary factors for those of more than ${nCtxOriginal} are others: load it with nCtx ${nCtx}`,
      )
    }
    const { typeK = DEFAULT_KV_TYPE, typeV = DEFAULT_KV_TYPE } = this.#parts.options
    this.#parts.executors[0]!.program.id // throws once disposed
    const kv = KvCache.create({
      nLayers,
      nKvHeads,
      headDim,
      capacity: nCtx,
      typeK: KV_CODES[typeK],
      typeV: KV_CODES[typeV],
    })
    return new Session(this, kv, nCtx, Math.min(40, this.maxTopK))
  }

  /** Where its weights are: in an interleaved file that is mapped, or in memory. */
  get loadedFrom(): LoadedWeights["from"] {
    return this.#parts.loaded.from
  }

  /** How the weights are kept: those in memory, and those of the mapped file where there is one. */
  pages(): { memory: PageFacts; mapped: PageFacts | undefined } {
    const { memory, mapped } = this.#parts.loaded
    return { memory: memory.pages(), mapped: mapped?.pages() }
  }

  /** Resolves when the interleaved copy that load() has begun to write is there, or has failed: never rejects. undefined:
   * there is none to be written. */
  get saved(): Promise<SaveResult> | undefined {
    return this.#parts.loaded.saved
  }

  /** Facts of the CPU and of the engine in use. */
  engineInfo(): EngineInfo {
    return this.#parts.engines[0]!.info()
  }

  /** Measures a limit of the machine: bytes/s read, or int8 multiply-accumulates/s. Takes a fraction of a second. */
  probe(kind: "bandwidth" | "int8"): number {
    return this.#parts.engines[0]!.probe(kind)
  }

  /** Events on the threads of all its engines since the first call for this counter; see Engine.count. */
  count(counter: CounterName): number {
    return this.#parts.engines.reduce((sum, engine) => sum + engine.count(counter), 0)
  }

  /** Each op of the program for single tokens, or of that for batches where nThreadsBatch made a second one. */
  ops(kind: "decode" | "batch" = "decode"): OpReport[] {
    const { program, plan } = this.executorFor(kind === "decode" ? 1 : this.nUbatch)
    const isOfLayer = plan.ops.map(({ operation, weights }) => {
      return operation === "moe_combine" || weights.some(({ name }) => name.startsWith("blk."))
    })
    const [first, last] = [isOfLayer.indexOf(true), isOfLayer.lastIndexOf(true)]
    return plan.ops.map((op, index) => ({
      index,
      operation: op.operation,
      layer: op.layer,
      isOfLayer: index >= first && index <= last,
      weights: op.weights.map(({ name }) => name),
      streamedBytes: streamedBytesOf(op, 1),
      streamedBytesOfBatch: streamedBytesOf(op, this.nUbatch),
      macs: macsOf(op),
      isPerOutput: Object.values(op.places).some(({ isPerOutput }) => isPerOutput),
      slot: program.slot(index),
      nanoseconds: program.nanoseconds(index),
    }))
  }

  /** For sessions: what runs a pass of so many tokens. */
  executorFor(nTokens: number): Executor {
    const { executors } = this.#parts
    return nTokens > 1 && executors.length > 1 ? executors[1]! : executors[0]!
  }

  /** See Session.cancel. Also says for another thread what to cancel: cancelProgram(model.cancelHandle). */
  get cancelHandle(): number {
    return this.#parts.executors[0]!.program.id
  }

  /** Whether a cancellation was waiting; it is forgotten. For sessions: with a second program for batches
   * (nThreadsBatch), cancelling reaches a prompt here, between two micro-batches. */
  takeCancel(): boolean {
    return this.#parts.executors[0]!.takeCancel()
  }

  /** Passes of more than one token run in a program of their own. */
  get hasBatchProgram(): boolean {
    return this.#parts.executors.length > 1
  }

  /** Frees weights, programs and threads. Views of logits have length 0 afterwards; sessions throw. */
  [Symbol.dispose](): void {
    const { executors, loaded, buffers, engines, isGuest, draft } = this.#parts
    draft?.[Symbol.dispose]()
    for (const { program } of executors) program[Symbol.dispose]()
    loaded[Symbol.dispose]()
    for (const buffer of buffers) buffer[Symbol.dispose]()
    if (!isGuest) for (const engine of engines) engine[Symbol.dispose]()
  }
}
