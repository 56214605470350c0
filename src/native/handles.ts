// Engine, Buffer, Program and KvCache: C's objects with a lifetime that JavaScript understands.
//
// A handle is a number with a generation: using it after its release is a typed error, never a crash. What could still
// crash is a view into freed memory, so a view keeps its owner alive, and disposing the owner detaches its views: they
// have length 0 from then on. Arguments are checked here, because bun:ffi turns what it cannot convert into 0.

import { ArgumentError, AsdslError } from "../errors.ts"
import {
  Counter,
  EngineOptions,
  Info,
  KvOptions,
  KvState,
  Level,
  Op,
  Pages,
  Params,
  Prefill,
  ProbeKind,
  ProgramOptions,
  packStruct,
  QuantizeJob,
  RepackJob,
  readField,
  viewOf,
  Worker,
} from "./abi.ts"
import { cpuMask } from "./cpus.ts"
import { checkExecutes, hiddenLevels } from "./hidden-level.ts"
import {
  checked,
  checkedHandle,
  defaultLevel,
  lastError,
  levelName,
  levelNumber,
  native,
  nativeMemory,
  type Pointer,
} from "./library.ts"

/** Largest ArrayBuffer that Bun makes over foreign memory (measured, Bun 1.4.5). */
export const MAX_VIEW_BYTES = 2 ** 32

/** Throws unless `value` is a whole number from `min` to `max`. */
export function checkInteger(what: string, value: number, min: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new ArgumentError(`${what} is ${value}, a whole number from ${min} to ${max} is needed`)
}

const MAX_I32 = 2 ** 31 - 1

const released = new FinalizationRegistry<number>((id) => native().asdsl_release(id))

/** What all handles share: the number, and giving it back once. */
abstract class Handle {
  #id: number

  constructor(id: number) {
    this.#id = id
    released.register(this, id, this)
  }

  /** C's handle. Throws once disposed. */
  get id(): number {
    if (this.#id === 0) throw new AsdslError("disposed", `this ${this.constructor.name.toLowerCase()} was disposed`)
    return this.#id
  }

  get isDisposed(): boolean {
    return this.#id === 0
  }

  [Symbol.dispose](): void {
    if (this.#id === 0) return
    released.unregister(this)
    native().asdsl_release(this.#id)
    this.#id = 0
  }
}

/** A view's owner, kept alive by the view. */
const owners = new WeakMap<ArrayBuffer, Handle>()

/** Takes the memory away from an ArrayBuffer and everything that views it; C's memory itself is not touched. */
function detach(memory: ArrayBuffer): void {
  if (memory.byteLength > 0) structuredClone(null, { transfer: [memory] })
}

/** A handle whose C object owns memory that JavaScript looks at. */
abstract class MemoryHandle extends Handle {
  readonly #views = new Set<ArrayBuffer>()

  protected window(address: Pointer, offset: number, bytes: number): ArrayBuffer {
    const memory = nativeMemory(address, offset, bytes)
    owners.set(memory, this)
    this.#views.add(memory)
    return memory
  }

  /** Detaches one view before the owner goes. */
  forget(memory: ArrayBuffer): void {
    if (this.#views.delete(memory)) detach(memory)
  }

  override [Symbol.dispose](): void {
    for (const memory of this.#views) detach(memory)
    this.#views.clear()
    super[Symbol.dispose]()
  }
}

/** How a buffer's memory is kept, in bytes: struct asdsl_pages. Negative: the system does not say. */
export interface PageFacts {
  /** In this process' page tables. */
  readonly resident: number
  /** The same, each page divided by the number of processes that have it. */
  readonly proportional: number
  /** Of the resident ones, in pages of 2 MiB. */
  readonly huge: number
  readonly locked: number
  /** By prefetch(), so far. */
  readonly prefetched: number
}

/** Memory of C's: fresh and zeroed, or a read-only map of a file. */
export class Buffer extends MemoryHandle {
  readonly bytes: number
  readonly isReadOnly: boolean

  private constructor(id: number, isReadOnly: boolean) {
    super(id)
    this.bytes = checked(native().asdsl_buffer_bytes(id))
    this.isReadOnly = isReadOnly
  }

  /** Zeroed memory of C's. */
  static create(bytes: number): Buffer {
    checkInteger("bytes of a buffer", bytes, 1, Number.MAX_SAFE_INTEGER)
    return new Buffer(checkedHandle(native().asdsl_buffer_create(bytes)), false)
  }

  /** A read-only map of a whole regular file. */
  static map(path: string): Buffer {
    if (typeof path !== "string" || path.includes("\0")) throw new ArgumentError(`not a path: ${JSON.stringify(path)}`)
    return new Buffer(checkedHandle(native().asdsl_buffer_map(path)), true)
  }

  /** A handle for another thread, which makes a buffer of it with adopt(). */
  share(): number {
    return checkedHandle(native().asdsl_buffer_share(this.id))
  }

  /** The buffer of a handle that share() made. */
  static adopt(id: number, isReadOnly: boolean): Buffer {
    return new Buffer(id, isReadOnly)
  }

  /** Throws where a map has been read from whose file is no longer what it was. */
  check(): void {
    checked(native().asdsl_buffer_check(this.id))
  }

  /** Begins to bring bytes of a map into memory, front to back, on threads of their own; once for a map. Passes over
   * weights in it wait for them. */
  prefetch(offset: number, bytes: number): void {
    checkInteger("offset to prefetch from", offset, 0, this.bytes)
    checkInteger("bytes to prefetch", bytes, 0, this.bytes - offset)
    checked(native().asdsl_buffer_prefetch(this.id, offset, bytes))
  }

  /** Keeps all of it in memory. Throws where the system does not allow it. */
  lock(): void {
    checked(native().asdsl_buffer_lock(this.id))
  }

  pages(): PageFacts {
    const bytes = new Uint8Array(Pages.bytes)
    const view = viewOf(bytes)
    checked(native().asdsl_buffer_pages(this.id, bytes))
    const field = (name: Parameters<typeof readField<keyof typeof Pages.fields>>[3]) => readField(view, 0, Pages, name)
    return {
      resident: field("resident"),
      proportional: field("proportional"),
      huge: field("huge"),
      locked: field("locked"),
      prefetched: field("prefetched"),
    }
  }

  /** Bytes [offset, offset + bytes) without a copy. Writing into a map of a file would kill the process, so a map's bytes
   * are for reading alone; copy them out where they are handed on. Make views once: each costs 250 ns. */
  view(offset: number, bytes: number): ArrayBuffer {
    checkInteger("offset of a view", offset, 0, this.bytes)
    checkInteger("bytes of a view", bytes, 1, Math.min(this.bytes - offset, MAX_VIEW_BYTES))
    const address = native().asdsl_buffer_data(this.id)
    if (address === null) throw lastError()
    return this.window(address, offset, bytes)
  }
}

/** Facts of a CPU and an engine: struct asdsl_info. */
export interface EngineInfo {
  readonly cpu: string
  /** Names of the levels this CPU runs, ascending; "reference" is the tests' oracle. */
  readonly levels: readonly string[]
  /** The level in use, or the best one where there is no engine. */
  readonly level: string
  readonly nCores: number
  readonly nPhysical: number
  readonly nPerformance: number
  readonly isHybrid: boolean
  /** 0 where there is no engine. */
  readonly nThreads: number
  /** L1 data, L2, L3 of the first core. */
  readonly cacheBytes: readonly number[]
  /** At which the engine's threads have waited for each other, modulo 2^32; 0 with one thread, or where there is none. */
  readonly nBarriers: number
}

function readInfo(bytes: Uint8Array): EngineInfo {
  const view = viewOf(bytes)
  const field = (name: Parameters<typeof readField<keyof typeof Info.fields>>[3], index = 0) =>
    readField(view, 0, Info, name, index)
  const mask = field("levels")
  const cpu = bytes.subarray(0, Info.fields.cpu.count)
  const end = cpu.indexOf(0)
  return {
    cpu: new TextDecoder().decode(end < 0 ? cpu : cpu.subarray(0, end)).trim(),
    levels: Object.values(Level)
      .filter((level) => level >= 0 && (mask >>> level) & 1)
      .map(levelName),
    level: levelName(field("level")),
    nCores: field("n_cores"),
    nPhysical: field("n_physical"),
    nPerformance: field("n_performance"),
    isHybrid: field("hybrid") === 1,
    nThreads: field("n_threads"),
    cacheBytes: [field("cache_bytes", 0), field("cache_bytes", 1), field("cache_bytes", 2)],
    nBarriers: field("n_barriers"),
  }
}

/** Facts of this CPU, without an engine. */
export function cpuInfo(): EngineInfo {
  const bytes = new Uint8Array(Info.bytes)
  viewOf(bytes)
  checked(native().asdsl_cpu_info(bytes))
  return readInfo(bytes)
}

/** One thread of an engine: struct asdsl_worker. */
export interface WorkerInfo {
  /** The logical CPU that it is pinned to while it runs; null: to none. */
  readonly core: number | null
  /** Logical CPUs that its thread may run on, by its own affinity; 0: the system does not say. */
  readonly nAllowed: number
  /** The first of them. */
  readonly allowed: number | null
  /** In the next run of few tokens, of many. */
  readonly takesPart: { readonly decode: boolean; readonly prefill: boolean }
  /** As measured while running; 1: the mean of all workers. */
  readonly speed: { readonly decode: number; readonly prefill: number }
}

function readWorker(view: DataView, base: number): WorkerInfo {
  const core = readField(view, base, Worker, "core")
  const allowed = readField(view, base, Worker, "allowed")
  return {
    core: core < 0 ? null : core,
    nAllowed: readField(view, base, Worker, "n_allowed"),
    allowed: allowed < 0 ? null : allowed,
    takesPart: {
      decode: readField(view, base, Worker, "takes_part", 0) === 1,
      prefill: readField(view, base, Worker, "takes_part", 1) === 1,
    },
    speed: { decode: readField(view, base, Worker, "speed", 0), prefill: readField(view, base, Worker, "speed", 1) },
  }
}

const COUNTERS = {
  instructions: Counter.INSTRUCTIONS,
  cycles: Counter.CYCLES,
  l1dMisses: Counter.L1D_MISSES,
  llcMisses: Counter.LLC_MISSES,
  pageFaults: Counter.PAGE_FAULTS,
} as const

export type CounterName = keyof typeof COUNTERS

export interface EngineSettings {
  /** 0: one per physical core this process may use. */
  nThreads?: number
  /** Name of an instruction-set level; default ASDSL_ISA, else the best. One that CPUID hides has to be asked for. */
  level?: string
  /** How long idle workers spin before they sleep; negative: the default. */
  spinMicroseconds?: number
  /** Pin workers to cores, where readTopology() says that they should be. Default true. */
  pin?: boolean
  /** Logical CPUs that workers keep to; absent or empty: any that this process may use. */
  cpus?: readonly number[]
  /** For tests: the last worker takes so much longer for its share, as a slower core would. */
  slowPercent?: number
  /** For tests: passes of a few tokens are run as beside a busy process: threads join and leave them, and stay so long. */
  stayMicroseconds?: number
}

/** One matrix from one layout to the other: struct asdsl_repack_job. */
export interface RepackSettings {
  source: Buffer
  sourceOffset: number
  target: Buffer
  targetOffset: number
  type: number
  rows: number
  cols: number
  sourceLayout: number
  targetLayout: number
}

/** Rows of one type to rows of another: struct asdsl_quantize_job. */
export interface QuantizeSettings {
  source: Buffer
  sourceOffset: number
  sourceType: number
  target: Buffer
  targetOffset: number
  targetType: number
  rows: number
  cols: number
  /** F32 (cols): how much the square of a column's error counts. */
  importance?: { buffer: Buffer; offset: number } | undefined
}

/** A thread pool and a kernel table. */
export class Engine extends Handle {
  /** A level that CPUID hides is tried in a child process first: hidden-level.ts. */
  static create(settings: EngineSettings = {}): Engine {
    const level = settings.level === undefined ? defaultLevel() : levelNumber(settings.level)
    const isHidden = level !== Level.AUTO && hiddenLevels(cpuInfo().levels).includes(levelName(level))
    if (isHidden) checkExecutes(level)
    const options = packStruct(EngineOptions, {
      n_threads: checkInteger("nThreads", settings.nThreads ?? 0, 0, MAX_I32),
      level,
      force: isHidden ? 1 : 0,
      spin_us: checkInteger("spinMicroseconds", settings.spinMicroseconds ?? -1, -1, MAX_I32),
      pin: settings.pin === false ? 0 : 1,
      cpu_mask: cpuMask(settings.cpus ?? []),
      slow_percent: checkInteger("slowPercent", settings.slowPercent ?? 0, 0, MAX_I32),
      stay_us: checkInteger("stayMicroseconds", settings.stayMicroseconds ?? 0, 0, MAX_I32),
    })
    return new Engine(checkedHandle(native().asdsl_engine_create(options)))
  }

  info(): EngineInfo {
    const bytes = new Uint8Array(Info.bytes)
    viewOf(bytes)
    checked(native().asdsl_engine_info(this.id, bytes))
    return readInfo(bytes)
  }

  /** Where each of its threads is; asks the threads themselves. */
  workers(): WorkerInfo[] {
    const bytes = new Uint8Array(Worker.bytes * this.info().nThreads)
    const view = viewOf(bytes)
    checked(native().asdsl_engine_workers(this.id, bytes))
    return Array.from({ length: bytes.length / Worker.bytes }, (_, i) => readWorker(view, i * Worker.bytes))
  }

  /** Measures a limit of the machine with this engine's threads: bytes/s read, or int8 multiply-accumulates/s. */
  probe(kind: "bandwidth" | "int8"): number {
    const number = kind === "bandwidth" ? ProbeKind.READ_BANDWIDTH : ProbeKind.INT8_PEAK
    return checked(native().asdsl_probe(this.id, number))
  }

  /** Events on the engine's threads since the first call for this counter, which starts it and gives 0. Throws
   * UnsupportedError, with the reason, where the system does not count them. */
  count(counter: CounterName): number {
    return checked(native().asdsl_count(this.id, COUNTERS[counter]))
  }

  /** Interleaves a matrix, or the reverse, on all threads. */
  repack(job: RepackSettings): void {
    const bytes = packStruct(RepackJob, {
      src_buffer: job.source.id,
      dst_buffer: job.target.id,
      src_offset: job.sourceOffset,
      dst_offset: job.targetOffset,
      type: job.type,
      rows: job.rows,
      cols: job.cols,
      src_layout: job.sourceLayout,
      dst_layout: job.targetLayout,
      reserved: 0,
    })
    checked(native().asdsl_repack(this.id, bytes))
  }

  /** Quantises rows on all threads; how many weights were not finite and counted as 0. */
  quantize(job: QuantizeSettings): number {
    const bytes = packStruct(QuantizeJob, {
      src_buffer: job.source.id,
      dst_buffer: job.target.id,
      importance_buffer: job.importance?.buffer.id ?? 0,
      src_type: job.sourceType,
      dst_type: job.targetType,
      rows: job.rows,
      cols: job.cols,
      reserved: 0,
      src_offset: job.sourceOffset,
      dst_offset: job.targetOffset,
      importance_offset: job.importance?.offset ?? 0,
    })
    return checked(native().asdsl_quantize(this.id, bytes))
  }
}

export interface KvSettings {
  nLayers: number
  nKvHeads: number
  headDim: number
  /** Tokens. */
  capacity: number
  /** Element types: Type.F16, Type.F32 or Type.Q8_0. */
  typeK: number
  typeV: number
}

/** What a cache's content looks like from outside: struct asdsl_kv_state. */
export interface KvStateInfo {
  readonly chunkBytes: number
  /** Tokens of a chunk. */
  readonly chunkTokens: number
  /** Of what the bytes mean. */
  readonly version: number
}

/** The keys and values of one sequence. */
export class KvCache extends Handle {
  readonly settings: Readonly<KvSettings>

  private constructor(id: number, settings: Readonly<KvSettings>) {
    super(id)
    this.settings = settings
  }

  static create(settings: KvSettings): KvCache {
    const options = packStruct(KvOptions, {
      n_layers: checkInteger("nLayers", settings.nLayers, 1, MAX_I32),
      n_kv_heads: checkInteger("nKvHeads", settings.nKvHeads, 1, MAX_I32),
      head_dim: checkInteger("headDim", settings.headDim, 1, MAX_I32),
      capacity: checkInteger("capacity", settings.capacity, 1, MAX_I32),
      k_type: settings.typeK,
      v_type: settings.typeV,
    })
    return new KvCache(checkedHandle(native().asdsl_kv_create(options)), { ...settings })
  }

  /** Tokens it holds. */
  get length(): number {
    return checked(native().asdsl_kv_length(this.id))
  }

  /** Memory in use now. */
  get bytes(): number {
    return checked(native().asdsl_kv_bytes(this.id))
  }

  truncate(length: number): void {
    checked(native().asdsl_kv_truncate(this.id, checkInteger("length", length, 0, MAX_I32)))
  }

  /** An independent copy. */
  fork(): KvCache {
    return new KvCache(checkedHandle(native().asdsl_kv_fork(this.id)), this.settings)
  }

  get state(): KvStateInfo {
    const bytes = new Uint8Array(KvState.bytes)
    const view = viewOf(bytes)
    checked(native().asdsl_kv_state(this.id, bytes))
    const field = (name: keyof typeof KvState.fields) => readField(view, 0, KvState, name)
    return { chunkBytes: field("chunk_bytes"), chunkTokens: field("chunk_tokens"), version: field("version") }
  }

  /** Fills `out` with the content from byte `offset` on: the chunks that hold tokens, one behind the other. */
  read(offset: number, out: Uint8Array): void {
    checkInteger("offset", offset, 0, Number.MAX_SAFE_INTEGER)
    if (out.length > 0) checked(native().asdsl_kv_read(this.id, offset, out, out.length))
  }

  /** Writes content into a cache without tokens; restore() makes tokens of it. */
  write(offset: number, content: Uint8Array): void {
    checkInteger("offset", offset, 0, Number.MAX_SAFE_INTEGER)
    if (content.length > 0) checked(native().asdsl_kv_write(this.id, offset, content, content.length))
  }

  /** A cache without tokens comes to hold as many, whose chunks were written. */
  restore(length: number): void {
    checked(native().asdsl_kv_restore(this.id, checkInteger("length", length, 0, MAX_I32)))
  }
}

export interface ProgramSettings {
  /** Of one pass. */
  maxTokens: number
  /** Rows with logits of one pass. */
  maxOutputs: number
  maxTopK: number
  nVocab: number
  /** A value of Prefill; absent: EXACT. */
  prefill?: number
}

/** A validated list of operations and its parameter block. */
export class Program extends MemoryHandle {
  readonly nOps: number
  readonly settings: Readonly<ProgramSettings>
  /** The parameter block: struct asdsl_params and its arrays. C's memory. */
  readonly params: ArrayBuffer
  /** n_tokens, n_outputs, position, top_k. */
  readonly head: Int32Array // (4)
  readonly tokens: Int32Array // (maxTokens)
  readonly outputs: Int32Array // (maxOutputs)
  /** Byte offsets into params. */
  readonly statsOffset: number
  readonly candidatesOffset: number

  private constructor(id: number, nOps: number, settings: ProgramSettings) {
    super(id)
    this.nOps = nOps
    this.settings = { ...settings }
    const address = native().asdsl_program_params(id)
    if (address === null) throw lastError()
    const head = this.window(address, 0, Params.bytes)
    const view = new DataView(head)
    const bytes = readField(view, 0, Params, "bytes")
    const tokensOffset = readField(view, 0, Params, "tokens_offset")
    const outputsOffset = readField(view, 0, Params, "outputs_offset")
    this.statsOffset = readField(view, 0, Params, "stats_offset")
    this.candidatesOffset = readField(view, 0, Params, "candidates_offset")
    this.forget(head)
    this.params = this.window(address, 0, bytes)
    this.head = new Int32Array(this.params, 0, 4)
    this.tokens = new Int32Array(this.params, tokensOffset, settings.maxTokens)
    this.outputs = new Int32Array(this.params, outputsOffset, settings.maxOutputs)
  }

  /** C copies and checks `records` (nOps of struct asdsl_op) and keeps `buffers` alive. */
  static create(engine: Engine, records: Uint8Array, buffers: readonly Buffer[], settings: ProgramSettings): Program {
    const nOps = records.byteLength / Op.bytes
    checkInteger("number of ops", nOps, 1, MAX_I32)
    const options = packStruct(ProgramOptions, {
      max_tokens: checkInteger("maxTokens", settings.maxTokens, 1, MAX_I32),
      max_outputs: checkInteger("maxOutputs", settings.maxOutputs, 0, MAX_I32),
      max_top_k: checkInteger("maxTopK", settings.maxTopK, 0, MAX_I32),
      n_vocab: checkInteger("nVocab", settings.nVocab, 1, MAX_I32),
      prefill: settings.prefill ?? Prefill.EXACT,
    })
    const table = Uint32Array.from(buffers, (buffer) => buffer.id)
    const id = native().asdsl_program_create(engine.id, records, nOps, table, buffers.length, options)
    return new Program(checkedHandle(id), nOps, settings)
  }

  /** Runs ops [first, first + count). Blocks; throws CancelledError when cancel() came. */
  run(kv: KvCache | undefined, first: number, count: number): void {
    if (native().asdsl_run(this.id, kv === undefined ? 0 : kv.id, first, count) < 0) throw lastError()
  }

  /** The running or the next run ends with CancelledError. */
  cancel(): void {
    cancelProgram(this.id)
  }

  /** The kernel slot in which op `index` last ran, "" if it has not. */
  slot(index: number): string {
    const slot = native().asdsl_op_slot(this.id, checkInteger("op", index, 0, this.nOps - 1))
    if (slot === null) throw lastError()
    return String(slot)
  }

  /** Nanoseconds spent in op `index` by the calling thread's worker, barriers included, over all runs. */
  nanoseconds(index: number): number {
    return checked(native().asdsl_op_time(this.id, checkInteger("op", index, 0, this.nOps - 1)))
  }
}

/** Cancels a program by its handle's number: for a thread that has the number and not the object. */
export function cancelProgram(id: number): void {
  checked(native().asdsl_cancel(checkInteger("program handle", id, 0, 2 ** 32 - 1)))
}

/** Bytes of a (rows, cols) matrix of a type in a layout; throws where they do not go together. */
export function tensorBytes(type: number, layout: number, rows: number, cols: number): number {
  checkInteger("rows", rows, 1, MAX_I32)
  checkInteger("cols", cols, 1, MAX_I32)
  return checked(native().asdsl_tensor_bytes(type, layout, rows, cols))
}

/** The activation type that goes with a weight type. */
export function activationType(weightType: number): number {
  return checked(native().asdsl_activation_type(weightType))
}
