// What asdsl bench reports: a record per test under llama-bench's field names, and its three output forms.
//
// Shares: a generated token reads the streamed weights and the keys and values before it, held against the read bandwidth
// that the same threads reached around the test; a prompt's multiply-accumulates (matrices, and attention, which is not
// int8 work but counts as much) are held against their int8 peak.

import type { Profile, ProfileRow } from "../eval/profile.ts"
import { type SpeedTest, testName, workOf } from "../eval/speed.ts"
import { meanAndDeviation, median } from "../eval/statistics.ts"
import { DEFAULT_KV_TYPE, type LoadOptions } from "../load-options.ts"
import type { Model } from "../model.ts"
import { buildCommit } from "./commit.ts"
import { modelType, tensorBytesOf } from "./model-facts.ts"
import { type Column, csvLine, formatBytes, formatCount, formatShare, tableHead, tableRow } from "./table.ts"

/** Of the machine, with the threads that ran the test. */
export interface Limits {
  readonly bytesPerSecond: number
  readonly macsPerSecond: number
}

/** llama-bench's fields, then ours. Numbers are per second, nanoseconds and bytes. */
export interface BenchRecord {
  readonly build_commit: string
  readonly cpu_info: string
  readonly backends: string
  readonly model_filename: string
  readonly model_type: string
  readonly model_size: number
  readonly model_n_params: number
  readonly n_batch: number
  readonly n_ubatch: number
  readonly n_threads: number
  /** exact or fast. */
  readonly prefill: string
  readonly type_k: string
  readonly type_v: string
  readonly n_prompt: number
  readonly n_gen: number
  readonly n_depth: number
  /** Tokens of a pass with logits for each of them; else 0. */
  readonly n_verify: number
  readonly test: string
  readonly test_time: string
  readonly avg_ns: number
  readonly stddev_ns: number
  readonly avg_ts: number
  readonly stddev_ts: number
  readonly median_ts: number
  readonly level: string
  /** Bytes read for a generated token. */
  readonly weight_bytes_per_token: number
  readonly kv_bytes_per_token: number
  /** Multiply-accumulates of one run. */
  readonly matrix_macs: number
  readonly attention_macs: number
  readonly limit_read_bytes_per_second: number
  readonly limit_int8_macs_per_second: number
  /** Of a pure generation test, else null; by the median. */
  readonly read_bytes_per_second: number | null
  readonly read_share: number | null
  /** Of a test without generation, else null; by the median. */
  readonly macs_per_second: number | null
  readonly int8_share: number | null
  readonly samples_ns: readonly number[]
  readonly samples_ts: readonly number[]
  /** With --profile. */
  readonly profile?: Profile
}

export interface Measurement {
  readonly model: Model
  readonly options: LoadOptions
  readonly test: SpeedTest
  /** Nanoseconds of each run. */
  readonly samples: readonly number[]
  readonly limits: Limits
}

export function benchRecord({ model, options, test, samples, limits }: Measurement): BenchRecord {
  const info = model.engineInfo()
  const { typeK = DEFAULT_KV_TYPE, typeV = DEFAULT_KV_TYPE } = options
  const work = workOf(model, test, { typeK, typeV })
  const { nVerify = 0 } = test
  const nTokens = test.nPrompt + test.nGen + nVerify
  const speeds = samples.map((ns) => (nTokens * 1e9) / ns)
  const middle = median(speeds)
  const time = meanAndDeviation(samples)
  const speed = meanAndDeviation(speeds)
  const read = test.nPrompt + nVerify === 0 ? middle * (work.weightBytesPerToken + work.kvBytesPerToken) : null
  const macs = test.nGen === 0 ? (middle / nTokens) * (work.matrixMacs + work.attentionMacs) : null
  return {
    build_commit: buildCommit(),
    cpu_info: info.cpu,
    backends: `CPU ${info.level}`,
    model_filename: model.path,
    model_type: modelType(model.header),
    model_size: tensorBytesOf(model.header),
    model_n_params: model.nParams,
    n_batch: options.nBatch ?? 2048,
    n_ubatch: model.nUbatch,
    n_threads: info.nThreads,
    prefill: options.prefill ?? "exact",
    type_k: typeK,
    type_v: typeV,
    n_prompt: test.nPrompt,
    n_gen: test.nGen,
    n_depth: test.nDepth,
    n_verify: nVerify,
    test: testName(test),
    test_time: new Date().toISOString(),
    avg_ns: Math.round(time.mean),
    stddev_ns: Math.round(time.deviation),
    avg_ts: speed.mean,
    stddev_ts: speed.deviation,
    median_ts: middle,
    level: info.level,
    weight_bytes_per_token: work.weightBytesPerToken,
    kv_bytes_per_token: work.kvBytesPerToken,
    matrix_macs: work.matrixMacs,
    attention_macs: work.attentionMacs,
    limit_read_bytes_per_second: limits.bytesPerSecond,
    limit_int8_macs_per_second: limits.macsPerSecond,
    read_bytes_per_second: read,
    read_share: read === null ? null : read / limits.bytesPerSecond,
    macs_per_second: macs,
    int8_share: macs === null ? null : macs / limits.macsPerSecond,
    samples_ns: samples,
    samples_ts: speeds,
  }
}

/** An output form: what stands before, for and after the records. */
export interface BenchReport {
  head(): string
  row(record: BenchRecord): string
  foot(): string
}

export function benchReport(form: "md" | "json" | "csv"): BenchReport {
  return { md: markdownReport, json: jsonReport, csv: csvReport }[form]()
}

const COLUMNS: readonly Column[] = [
  { name: "model", width: 24, align: "left" },
  { name: "size", width: 10, align: "right" },
  { name: "params", width: 10, align: "right" },
  { name: "backend", width: 12, align: "left" },
  { name: "threads", width: 7, align: "right" },
  { name: "test", width: 14, align: "right" },
  { name: "t/s", width: 18, align: "right" },
  { name: "MB/token", width: 8, align: "right" },
  { name: "GB/s", width: 6, align: "right" },
  { name: "of read limit", width: 8, align: "right" },
  { name: "GMAC/s", width: 6, align: "right" },
  { name: "of int8 limit", width: 8, align: "right" },
]

function markdownReport(): BenchReport {
  const records: BenchRecord[] = []
  return {
    head: () => tableHead(COLUMNS),
    row(record) {
      records.push(record)
      return tableRow(COLUMNS, cells(record))
    },
    foot() {
      const last = records.at(-1)
      if (last === undefined) return ""
      const profiles = records.map(profileTables).join("")
      return `${profiles}\nbuild: ${last.build_commit}, ${last.cpu_info}, ${limitsText(last)}\n`
    },
  }
}

function cells(record: BenchRecord): string[] {
  const { read_bytes_per_second: read, read_share: readShare, macs_per_second: macs, int8_share: macShare } = record
  const bytesPerToken = record.weight_bytes_per_token + record.kv_bytes_per_token
  return [
    record.model_type,
    formatBytes(record.model_size),
    formatCount(record.model_n_params),
    record.prefill === "exact" ? record.backends : `${record.backends}, ${record.prefill}`,
    String(record.n_threads),
    record.test,
    `${record.avg_ts.toFixed(2)} ± ${record.stddev_ts.toFixed(2)}`,
    read === null ? "" : (bytesPerToken / 1e6).toFixed(1),
    read === null ? "" : (read / 1e9).toFixed(2),
    readShare === null ? "" : formatShare(readShare),
    macs === null ? "" : (macs / 1e9).toFixed(1),
    macShare === null ? "" : formatShare(macShare),
  ]
}

const PROFILE_COLUMNS: readonly Column[] = [
  { name: "", width: 40, align: "left" },
  { name: "ms", width: 9, align: "right" },
  { name: "of time", width: 7, align: "right" },
  { name: "MB", width: 9, align: "right" },
  { name: "GB/s", width: 6, align: "right" },
  { name: "GMAC/s", width: 7, align: "right" },
  { name: "of limit", width: 8, align: "right" },
  { name: "kernels", width: 20, align: "left" },
]

/** Two tables of one run's time, by kind of operation and by layer. "of limit" is the least time that reading the bytes or
 * doing the multiply-accumulates can take, as a share of the time it took. */
function profileTables(record: BenchRecord): string {
  const { profile, test, n_threads } = record
  if (profile === undefined) return ""
  const table = (by: string, rows: readonly ProfileRow[], columns: readonly Column[]) => {
    const total = rows.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0)
    const named = [{ ...columns[0]!, name: `${test}, ${n_threads} threads, by ${by}` }, ...columns.slice(1)]
    return `\n${tableHead(named)}${rows.map((row) => tableRow(named, profileCells(row, total, record))).join("")}`
  }
  return (
    table("operation", profile.kinds, PROFILE_COLUMNS) +
    table("layer", profile.layers, PROFILE_COLUMNS.slice(0, -1)) +
    `\n${countersText(profile)}\n`
  )
}

/** What the processor counted in one run: "hardware counters: 1.20 B instructions, 800.00 M cycles (1.50 a cycle), ...". */
export function countersText({ counts, notCounted }: Pick<Profile, "counts" | "notCounted">): string {
  const { instructions, cycles, l1dMisses, llcMisses, pageFaults } = counts
  const perCycle = instructions === undefined || !cycles ? "" : ` (${(instructions / cycles).toFixed(2)} a cycle)`
  const text = (n: number | undefined, what: string) => (n === undefined ? [] : [`${formatCount(n)} ${what}`])
  const hardware = [
    ...text(instructions, `instructions${perCycle}`),
    ...text(cycles, "cycles"),
    ...text(l1dMisses, "L1 data misses"),
    ...text(llcMisses, "last-level cache misses"),
  ]
  const missing = notCounted === null ? [] : [`not supported (${notCounted})`]
  const faults = pageFaults === undefined ? "" : `; page faults: ${Math.round(pageFaults)}`
  return `hardware counters: ${[...hardware, ...missing].join(", ")}${faults}`
}

function profileCells(
  { what, slots, nanoseconds: ns, bytes, macs }: ProfileRow,
  total: number,
  record: BenchRecord,
): string[] {
  const { limit_read_bytes_per_second: read, limit_int8_macs_per_second: int8 } = record
  const least = Math.max(bytes / read, macs / int8) * 1e9
  return [
    what,
    (ns / 1e6).toFixed(3),
    formatShare(ns / total),
    bytes === 0 ? "" : (bytes / 1e6).toFixed(1),
    bytes === 0 ? "" : (bytes / ns).toFixed(1),
    macs === 0 ? "" : (macs / ns).toFixed(1),
    least === 0 ? "" : formatShare(least / ns),
    slots.join(" "),
  ]
}

function limitsText(record: BenchRecord): string {
  const read = (record.limit_read_bytes_per_second / 1e9).toFixed(1)
  const macs = (record.limit_int8_macs_per_second / 1e9).toFixed(0)
  return `limits with ${record.n_threads} threads: ${read} GB/s read, ${macs} GMAC/s int8`
}

function jsonReport(): BenchReport {
  let separator = "\n"
  return {
    head: () => "[",
    row(record) {
      const text = `${separator}${JSON.stringify(record, null, 2).replaceAll(/^/gm, "  ")}`
      separator = ",\n"
      return text
    },
    foot: () => "\n]\n",
  }
}

function csvReport(): BenchReport {
  let hasHead = false
  return {
    head: () => "",
    row(record) {
      const fields = Object.entries(record).filter(([key]) => !key.startsWith("samples_"))
      const head = hasHead ? "" : csvLine(fields.map(([key]) => key))
      hasHead = true
      return head + csvLine(fields.map(([, value]) => value ?? ""))
    },
    foot: () => "",
  }
}
