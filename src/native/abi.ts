// The TypeScript mirror of csrc/asdsl.h and csrc/ops.h: numbers, struct layouts, one struct writer. No bun:ffi here.
//
// Offsets are computed from the field lists by C's rules (natural alignment, size a multiple of the largest), so a field
// is written down once; test/abi.test.ts compares every one of them with what the library says of itself.

export const ABI_VERSION = 1

/** Buffer index of an absent operand. */
export const NO_BUFFER = 0xffffffff

export const Status = {
  OK: 0,
  E_ARGUMENT: -1,
  E_HANDLE: -2,
  E_MEMORY: -3,
  E_IO: -4,
  E_UNSUPPORTED: -5,
  E_CANCELLED: -6,
  E_STATE: -7,
} as const

export const Level = {
  PORTABLE: 0,
  AVX2: 1,
  AVXVNNI: 2,
  AVX512: 3,
  NEON: 4,
  REFERENCE: 15,
  AUTO: -1,
} as const

export const Type = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q2_K: 10,
  Q3_K: 11,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
  IQ4_NL: 20,
  IQ4_XS: 23,
  I32: 26,
  BF16: 30,
  ACT_F32: 100,
  ACT_Q8_32: 101,
  ACT_Q8_256: 102,
} as const

/** Types of activations, as a matmul reads them. */
export type ActivationType = typeof Type.ACT_F32 | typeof Type.ACT_Q8_32 | typeof Type.ACT_Q8_256

export const Layout = { ROWS: 0, INTERLEAVED: 1, INTERLEAVED_4: 2 } as const

export const OpFlags = { ROWS_OUTPUTS: 1 } as const

export const CoreKind = { UNKNOWN: 0, PERFORMANCE: 1, EFFICIENCY: 2 } as const

export const ExitCode = { TRAPPED: 132 } as const

/** How matrices are multiplied in passes of many tokens. */
export const Prefill = { EXACT: 0, FAST: 1 } as const

export const ProbeKind = { READ_BANDWIDTH: 0, INT8_PEAK: 1 } as const

export const Counter = { INSTRUCTIONS: 0, CYCLES: 1, L1D_MISSES: 2, LLC_MISSES: 3, PAGE_FAULTS: 4 } as const

/** Operations in the order of ops.h: the position is the code; operand roles, integers and floats by name. */
export const OPERATIONS = [
  { name: "embed", operands: ["out", "table"], ints: [], floats: ["scale"] },
  {
    name: "rms_norm",
    operands: ["in", "weight", "out_f32", "out_q8_32", "out_q8_256"],
    ints: ["heads"],
    floats: ["eps"],
  },
  { name: "rms_norm_add", operands: ["out", "in", "weight"], ints: [], floats: ["eps"] },
  { name: "quantize", operands: ["in", "out_q8_32", "out_q8_256"], ints: ["slots"], floats: [] },
  {
    name: "matmul",
    operands: ["out", "in", "w0", "w1", "w2", "bias0", "bias1", "bias2"],
    ints: [],
    floats: ["softcap"],
  },
  { name: "matmul_add", operands: ["out", "in", "w0", "-", "-", "bias0"], ints: [], floats: [] },
  { name: "gate_up", operands: ["out", "in", "gate", "up"], ints: ["activation"], floats: [] },
  { name: "moe_route", operands: ["in", "experts", "weights"], ints: ["normalise"], floats: ["scale"] },
  { name: "moe_gate_up", operands: ["out", "in", "experts", "gate", "up"], ints: ["n_experts"], floats: [] },
  { name: "moe_down", operands: ["out", "in", "experts", "down"], ints: ["n_experts"], floats: [] },
  { name: "moe_combine", operands: ["x", "in", "experts", "weights"], ints: ["n_experts"], floats: [] },
  { name: "rope_table", operands: ["out", "inv_freq"], ints: [], floats: ["magnitude"] },
  { name: "rope", operands: ["x", "table"], ints: ["heads_offset", "heads", "head_dim", "n_rot", "mode"], floats: [] },
  { name: "kv_append", operands: ["k", "v"], ints: ["n_kv_heads", "head_dim"], floats: [] },
  {
    name: "attention",
    operands: ["q", "out"],
    ints: ["n_heads", "n_kv_heads", "head_dim", "window"],
    floats: ["scale", "softcap"],
  },
  { name: "gather_outputs", operands: ["out", "in"], ints: [], floats: [] },
  { name: "top_k", operands: ["in"], ints: [], floats: [] },
] as const

export type OperationName = (typeof OPERATIONS)[number]["name"]

/** The code of an operation. */
export function operationCode(name: OperationName): number {
  return OPERATIONS.findIndex((operation) => operation.name === name)
}

// ---- structs ----

const SCALARS = { u8: 1, char: 1, u32: 4, i32: 4, f32: 4, u64: 8, f64: 8 } as const
type Scalar = keyof typeof SCALARS

export interface Field {
  /** Bytes from the start of the struct. */
  readonly offset: number
  readonly type: Scalar | "struct"
  /** Elements; 1 for a plain field. */
  readonly count: number
  /** Bytes of one element. */
  readonly bytes: number
}

export interface StructLayout<Names extends string = string> {
  readonly name: string
  readonly bytes: number
  readonly align: number
  readonly fields: Readonly<Record<Names, Field>>
}

type FieldSpec = Scalar | readonly [Scalar | StructLayout, number]

function struct<const Specs extends Record<string, FieldSpec>>(
  name: string,
  specs: Specs,
): StructLayout<Extract<keyof Specs, string>> {
  const fields: Record<string, Field> = {}
  let end = 0
  let widest = 1
  for (const [field, spec] of Object.entries<FieldSpec>(specs)) {
    const [element, count] = typeof spec === "string" ? [spec, 1] : spec
    const isScalar = typeof element === "string"
    const bytes = isScalar ? SCALARS[element] : element.bytes
    const align = isScalar ? bytes : element.align
    const offset = Math.ceil(end / align) * align
    fields[field] = { offset, type: isScalar ? element : "struct", count, bytes }
    end = offset + bytes * count
    widest = Math.max(widest, align)
  }
  return {
    name,
    bytes: Math.ceil(end / widest) * widest,
    align: widest,
    fields: fields as Record<Extract<keyof Specs, string>, Field>,
  }
}

export const Operand = struct("asdsl_operand", {
  buffer: "u32",
  type: "u32",
  offset: "u64",
  rows: "u32",
  cols: "u32",
  stride: "u32",
  layout: "u32",
})

export const Op = struct("asdsl_op", {
  code: "u32",
  flags: "u32",
  layer: "u32",
  reserved: "u32",
  operand: [Operand, 8],
  i: ["i32", 8],
  f: ["f32", 8],
})

export const Params = struct("asdsl_params", {
  n_tokens: "i32",
  n_outputs: "i32",
  position: "i32",
  top_k: "i32",
  max_tokens: "i32",
  max_outputs: "i32",
  max_top_k: "i32",
  bytes: "u32",
  tokens_offset: "u32",
  outputs_offset: "u32",
  stats_offset: "u32",
  candidates_offset: "u32",
})

export const RowStats = struct("asdsl_row_stats", {
  logsumexp: "f64",
  max: "f32",
  argmax: "i32",
  n_candidates: "i32",
  n_not_finite: "i32",
})

export const Candidate = struct("asdsl_candidate", { token: "i32", logit: "f32" })

export const EngineOptions = struct("asdsl_engine_options", {
  n_threads: "i32",
  level: "i32",
  spin_us: "i32",
  pin: "i32",
  cpu_mask: ["u32", 32],
  slow_percent: "i32",
  stay_us: "i32",
  force: "i32",
})

export const ProgramOptions = struct("asdsl_program_options", {
  max_tokens: "i32",
  max_outputs: "i32",
  max_top_k: "i32",
  n_vocab: "i32",
  prefill: "i32",
})

export const KvOptions = struct("asdsl_kv_options", {
  n_layers: "i32",
  n_kv_heads: "i32",
  head_dim: "i32",
  capacity: "i32",
  k_type: "i32",
  v_type: "i32",
})

export const KvState = struct("asdsl_kv_state", { chunk_bytes: "u64", chunk_tokens: "i32", version: "i32" })

export const RepackJob = struct("asdsl_repack_job", {
  src_buffer: "u32",
  dst_buffer: "u32",
  src_offset: "u64",
  dst_offset: "u64",
  type: "u32",
  rows: "u32",
  cols: "u32",
  src_layout: "u32",
  dst_layout: "u32",
  reserved: "u32",
})

export const QuantizeJob = struct("asdsl_quantize_job", {
  src_buffer: "u32",
  dst_buffer: "u32",
  importance_buffer: "u32",
  src_type: "u32",
  dst_type: "u32",
  rows: "u32",
  cols: "u32",
  reserved: "u32",
  src_offset: "u64",
  dst_offset: "u64",
  importance_offset: "u64",
})

export const Info = struct("asdsl_info", {
  cpu: ["char", 64],
  levels: "u32",
  level: "i32",
  n_cores: "i32",
  n_physical: "i32",
  n_performance: "i32",
  hybrid: "i32",
  n_threads: "i32",
  cache_bytes: ["i32", 3],
  n_barriers: "u32",
})

export const Core = struct("asdsl_core", { id: "i32", physical: "i32", package: "i32", kind: "i32" })

export const Topology = struct("asdsl_topology", {
  quota_cores: "f64",
  n_cores: "i32",
  n_physical: "i32",
  n_performance: "i32",
  n_workers: "i32",
  pinned: "i32",
  n_teams: "i32",
  team: ["i32", 4],
  reserved: "i32",
  cores: [Core, 1024],
})

export const Worker = struct("asdsl_worker", {
  core: "i32",
  n_allowed: "i32",
  allowed: "i32",
  takes_part: ["i32", 2],
  speed: ["f32", 2],
})

export const Pages = struct("asdsl_pages", {
  resident: "f64",
  proportional: "f64",
  huge: "f64",
  locked: "f64",
  prefetched: "f64",
})

export const Abi = struct("asdsl_abi", {
  version: "u32",
  op_bytes: "u32",
  operand_bytes: "u32",
  params_bytes: "u32",
  stats_bytes: "u32",
  candidate_bytes: "u32",
  engine_options_bytes: "u32",
  program_options_bytes: "u32",
  kv_options_bytes: "u32",
  kv_state_bytes: "u32",
  repack_job_bytes: "u32",
  quantize_job_bytes: "u32",
  info_bytes: "u32",
  core_bytes: "u32",
  topology_bytes: "u32",
  worker_bytes: "u32",
  pages_bytes: "u32",
  n_op_codes: "u32",
})

/** Every struct that crosses the boundary. */
export const STRUCTS: readonly StructLayout[] = [
  Operand,
  Op,
  Params,
  RowStats,
  Candidate,
  EngineOptions,
  ProgramOptions,
  KvOptions,
  KvState,
  RepackJob,
  QuantizeJob,
  Info,
  Core,
  Topology,
  Worker,
  Pages,
  Abi,
]

/** Every enum that crosses the boundary: C's name, the prefix of its constants, the values. */
export const ENUMS: readonly { name: string; prefix: string; values: Readonly<Record<string, number>> }[] = [
  { name: "asdsl_status", prefix: "ASDSL_", values: Status },
  { name: "asdsl_level", prefix: "ASDSL_LEVEL_", values: Level },
  { name: "asdsl_type", prefix: "ASDSL_", values: Type },
  { name: "asdsl_layout", prefix: "ASDSL_", values: Layout },
  { name: "asdsl_op_flags", prefix: "ASDSL_", values: OpFlags },
  { name: "asdsl_core_kind", prefix: "ASDSL_CORE_", values: CoreKind },
  { name: "asdsl_exit_code", prefix: "ASDSL_EXIT_", values: ExitCode },
  { name: "asdsl_prefill", prefix: "ASDSL_PREFILL_", values: Prefill },
  { name: "asdsl_probe_kind", prefix: "ASDSL_PROBE_", values: ProbeKind },
  { name: "asdsl_counter", prefix: "ASDSL_COUNT_", values: Counter },
]

// ---- reading and writing structs ----

/** A DataView over bytes of JavaScript's own. The array must not be small enough for the JIT to move it under a call:
 * callers pass the Uint8Array itself to FFI, never a kept address. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Writes one element of a field. A value that the field cannot hold is a RangeError, not a silent zero. */
export function writeField<N extends string>(
  view: DataView,
  base: number,
  layout: StructLayout<N>,
  name: N,
  value: number,
  index = 0,
): void {
  const field = layout.fields[name]
  const at = base + field.offset + index * field.bytes
  const whole = Number.isSafeInteger(value)
  if (index < 0 || index >= field.count) throw new RangeError(`${layout.name}.${name} has no element ${index}`)
  if (field.type === "i32" && whole && value === (value | 0)) view.setInt32(at, value, true)
  else if (field.type === "u32" && whole && value === value >>> 0) view.setUint32(at, value, true)
  else if (field.type === "u64" && whole && value >= 0) {
    view.setUint32(at, value % 2 ** 32, true)
    view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
  } else if (field.type === "f32" && typeof value === "number") view.setFloat32(at, value, true)
  else if (field.type === "f64" && typeof value === "number") view.setFloat64(at, value, true)
  else throw new RangeError(`${layout.name}.${name}: ${value} is not a value of type ${field.type}`)
}

/** Writes the scalar fields given by name; fields not named keep their bytes. */
export function writeStruct<N extends string>(
  view: DataView,
  base: number,
  layout: StructLayout<N>,
  values: Partial<Record<NoInfer<N>, number | readonly number[]>>,
): void {
  for (const name in values) {
    const value = values[name as N]
    if (value === undefined) throw new RangeError(`${layout.name}.${name} is undefined`)
    if (typeof value === "number") writeField(view, base, layout, name as N, value)
    else for (const [i, element] of value.entries()) writeField(view, base, layout, name as N, element, i)
  }
}

/** A struct as fresh bytes, zero where nothing is given. */
export function packStruct<N extends string>(
  layout: StructLayout<N>,
  values: Partial<Record<NoInfer<N>, number | readonly number[]>>,
): Uint8Array {
  const bytes = new Uint8Array(layout.bytes)
  writeStruct(viewOf(bytes), 0, layout, values)
  return bytes
}

/** Reads one element of a scalar field as a number. */
export function readField<N extends string>(
  view: DataView,
  base: number,
  layout: StructLayout<N>,
  name: N,
  index = 0,
): number {
  const field = layout.fields[name]
  const at = base + field.offset + index * field.bytes
  switch (field.type) {
    case "i32":
      return view.getInt32(at, true)
    case "u32":
      return view.getUint32(at, true)
    case "u64":
      return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32
    case "f32":
      return view.getFloat32(at, true)
    case "f64":
      return view.getFloat64(at, true)
    default:
      return view.getUint8(at)
  }
}
