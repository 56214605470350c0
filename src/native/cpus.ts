// The logical CPUs of a machine: what the system says of them, where workers belong, and masks of them.

import { ArgumentError } from "../errors.ts"
import { Core, CoreKind, EngineOptions, readField, Topology, viewOf } from "./abi.ts"
import { checked, native } from "./library.ts"

const WORD_BITS = 32
/** Logical CPUs are numbered from 0 to below it. */
export const MAX_CPUS = EngineOptions.fields.cpu_mask.count * WORD_BITS

/** struct asdsl_core. */
export interface CoreInfo {
  /** The system's number. */
  readonly id: number
  /** The same for hardware threads of one core. */
  readonly physical: number
  /** Socket. */
  readonly package: number
  readonly kind: "unknown" | "performance" | "efficiency"
}

/** The logical CPUs that a process may use and where an engine's workers belong: struct asdsl_topology. */
export interface TopologyInfo {
  /** CPU time that the process gets, in cores; null: no limit. */
  readonly quotaCores: number | null
  readonly nPhysical: number
  readonly nPerformance: number
  /** Of an engine that is not told. */
  readonly nWorkers: number
  /** false: the system places the workers, as others are placed on the same cores. */
  readonly isPinned: boolean
  /** Numbers of workers that are compared while running. */
  readonly teams: readonly number[]
  /** In the order in which workers take them. */
  readonly cores: readonly CoreInfo[]
}

const KINDS = {
  [CoreKind.UNKNOWN]: "unknown",
  [CoreKind.PERFORMANCE]: "performance",
  [CoreKind.EFFICIENCY]: "efficiency",
} as const

/** Of this machine; or of a Linux machine whose /proc and /sys are copied below `root`. */
export function readTopology(root = ""): TopologyInfo {
  if (root.includes("\0")) throw new ArgumentError(`not a path: ${JSON.stringify(root)}`)
  const bytes = new Uint8Array(Topology.bytes)
  const view = viewOf(bytes)
  checked(native().asdsl_topology(root, bytes))
  const field = (name: keyof typeof Topology.fields, index = 0) => readField(view, 0, Topology, name, index)
  const quota = field("quota_cores")
  return {
    quotaCores: quota > 0 ? quota : null,
    nPhysical: field("n_physical"),
    nPerformance: field("n_performance"),
    nWorkers: field("n_workers"),
    isPinned: field("pinned") === 1,
    teams: Array.from({ length: field("n_teams") }, (_, i) => field("team", i)),
    cores: Array.from({ length: field("n_cores") }, (_, i) => {
      return readCore(view, Topology.fields.cores.offset + i * Core.bytes)
    }),
  }
}

function readCore(view: DataView, base: number): CoreInfo {
  return {
    id: readField(view, base, Core, "id"),
    physical: readField(view, base, Core, "physical"),
    package: readField(view, base, Core, "package"),
    kind: KINDS[readField(view, base, Core, "kind") as keyof typeof KINDS],
  }
}

/** Logical CPUs as the words of struct asdsl_engine_options. */
export function cpuMask(cpus: readonly number[]): number[] {
  const words = new Array<number>(EngineOptions.fields.cpu_mask.count).fill(0)
  for (const cpu of cpus) {
    if (!Number.isSafeInteger(cpu) || cpu < 0 || cpu >= MAX_CPUS) {
      throw new ArgumentError(`logical CPU ${cpu}, a whole number from 0 to ${MAX_CPUS - 1} is needed`)
    }
    const word = Math.floor(cpu / WORD_BITS)
    words[word] = (words[word]! | (1 << (cpu % WORD_BITS))) >>> 0
  }
  return words
}

/** The CPUs of a mask in hexadecimal, as llama.cpp takes them: "0x3f" is 0 to 5. */
export function cpusOfMask(mask: string): number[] {
  const digits = /^(?:0x)?([0-9a-f]{1,256})$/i.exec(mask)?.[1]
  const cpus = [...(digits ?? "")].reverse().flatMap((digit, i) => {
    return [0, 1, 2, 3].filter((bit) => (Number.parseInt(digit, 16) >> bit) & 1).map((bit) => 4 * i + bit)
  })
  if (cpus.length > 0) return cpus
  throw new ArgumentError(`CPU mask "${mask.slice(0, 60)}", up to 256 hexadecimal digits are needed, not all 0`)
}

/** The CPUs of a range, both ends included: "0-3", "-3" from the first on, "4-" to the last; "5" alone. */
export function cpusOfRange(range: string): number[] {
  const ends = /^(\d{0,4})-(\d{0,4})$/.exec(/^\d+$/.test(range) ? `${range}-${range}` : range)
  const first = Number(ends?.[1] || 0)
  const last = ends?.[2] ? Number(ends[2]) : MAX_CPUS - 1
  if (ends === null || range === "-" || first > last || last >= MAX_CPUS) {
    throw new ArgumentError(`CPU range "${range.slice(0, 60)}", FIRST-LAST from 0 to ${MAX_CPUS - 1} is needed`)
  }
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}
