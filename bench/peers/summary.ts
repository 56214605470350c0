// What a run says: medians over its rounds with their spread, ratios within rounds, shares of the machine's limits, and the
// Markdown table of it. Pure functions of a run.

import { type Column, tableHead, tableRow } from "../../src/cli/table.ts"
import { median } from "../../src/eval/statistics.ts"
import type { Contestant, Limits, Run, Turn } from "./saved.ts"
import { isTime, nameOf, type Test } from "./tests.ts"

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
  /** Rounds behind it. */
  readonly n: number
}

/** undefined for no values. */
export function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), n: values.length }
}

/** A turn is disturbed where other virtual machines took more than this of the CPU time, */
const STOLEN = 0.01
/** or where the read bandwidth before and after it differs by more than this factor (on a quiet host it is 1.05). */
const DRIFT = 1.25

export function isDisturbed({ before, after, stolenShare }: Turn): boolean {
  const drift = before.readBytesPerSecond / after.readBytesPerSecond
  return (stolenShare ?? 0) > STOLEN || Math.max(drift, 1 / drift) > DRIFT
}

/** The better of two measurements: what the machine can do while nobody disturbs it. */
export function better(a: Limits, b: Limits): Limits {
  return {
    readBytesPerSecond: Math.max(a.readBytesPerSecond, b.readBytesPerSecond),
    int8MacsPerSecond: Math.max(a.int8MacsPerSecond, b.int8MacsPerSecond),
  }
}

export function limitsOf({ before, after }: Turn): Limits {
  return better(before, after)
}

/** Nanoseconds of a test in a turn, the median of its runs. */
function timeOf(turn: Turn, test: Test): number | undefined {
  const samples = turn.ns[nameOf(test)]
  return samples === undefined || samples.length === 0 ? undefined : median(samples)
}

/** `value` of each turn that has the test. */
function over(
  { turns }: Contestant,
  test: Test,
  value: (ns: number, turn: Turn) => number | undefined,
): Spread | undefined {
  const values = turns.map((turn) => {
    const ns = timeOf(turn, test)
    return ns === undefined ? undefined : value(ns, turn)
  })
  return spreadOf(values.filter((each) => each !== undefined))
}

/** Nanoseconds. */
export function time(contestant: Contestant, test: Test): Spread | undefined {
  return over(contestant, test, (ns) => ns)
}

/** Tokens a second. */
export function speed(contestant: Contestant, test: Test): Spread | undefined {
  return over(contestant, test, (ns) => (test.n * 1e9) / ns)
}

/** How many times as fast `ours` was as `theirs` in the same round. */
export function ratio(ours: Contestant, theirs: Contestant, test: Test): Spread | undefined {
  return over(theirs, test, (ns, { round }) => {
    const turn = ours.turns.find((each) => each.round === round)
    const own = turn === undefined ? undefined : timeOf(turn, test)
    return own === undefined ? undefined : ns / own
  })
}

/** The hardest peer for a test: the one against which the ratio is least. */
export function bestPeer(
  run: Run,
  ours: Contestant,
  test: Test,
  isMeant: (peer: Contestant) => boolean = () => true,
): { readonly peer: Contestant; readonly ratio: Spread } | undefined {
  const peers = run.contestants.flatMap((peer) => {
    const against = peer.isPeer && isMeant(peer) ? ratio(ours, peer, test) : undefined
    return against === undefined ? [] : [{ peer, ratio: against }]
  })
  return peers.length === 0 ? undefined : peers.reduce((a, b) => (b.ratio.median < a.ratio.median ? b : a))
}

/** A turn's quotients of a test's times by what they are compared with: run by run in the sweeps of a verify curve. */
function quotient(test: Test, turn: Turn, divisors: readonly number[]): number | undefined {
  const samples = turn.ns[nameOf(test)] ?? []
  if (samples.length === 0 || divisors.length === 0) return undefined
  const isSwept = test.kind === "verify" && samples.length === divisors.length
  return isSwept ? median(samples.map((ns, i) => ns / divisors[i]!)) : median(samples) / median(divisors)
}

/** Time of a pass by that of a pass over one token in the same turn. */
export function growth(contestant: Contestant, test: Test): Spread | undefined {
  return over(contestant, test, (_, turn) => quotient(test, turn, turn.ns[nameOf({ kind: test.kind, n: 1 })] ?? []))
}

/** Time of a pass by the least time in which its weights can be read. */
export function readMultiple(run: Run, contestant: Contestant, test: Test): Spread | undefined {
  const bytes = run.work[nameOf(test)]?.weightBytes
  if (bytes === undefined) return undefined
  return over(contestant, test, (_, turn) => {
    const rates = turn.readBytesPerSecond ?? [limitsOf(turn).readBytesPerSecond]
    return quotient(
      test,
      turn,
      rates.map((rate) => (bytes / rate) * 1e9),
    )
  })
}

/** Streamed weight bytes a second by the read bandwidth. */
export function readShare(run: Run, contestant: Contestant, test: Test): Spread | undefined {
  const bytes = run.work[nameOf(test)]?.weightBytes
  if (bytes === undefined) return undefined
  return over(contestant, test, (ns, turn) => (bytes * test.n * 1e9) / ns / limitsOf(turn).readBytesPerSecond)
}

/** Multiply-accumulates a second by the int8 peak. */
export function int8Share(run: Run, contestant: Contestant, test: Test): Spread | undefined {
  const macs = run.work[nameOf(test)]?.macs
  if (macs === undefined) return undefined
  return over(contestant, test, (ns, turn) => (macs * 1e9) / ns / limitsOf(turn).int8MacsPerSecond)
}

export function contestantOf(run: Run, name: string): Contestant | undefined {
  return run.contestants.find((contestant) => contestant.name === name)
}

// ---- Table ----

const COLUMNS: readonly Column[] = [
  { name: "test", width: 9, align: "left" },
  { name: "program", width: 26, align: "left" },
  { name: "setting", width: 21, align: "left" },
  { name: "t/s or ms", width: 24, align: "right" },
  { name: "asdsl is", width: 22, align: "right" },
  { name: "of the limit", width: 22, align: "right" },
  { name: "of one token", width: 12, align: "right" },
]

const percent = (value: number) => `${(100 * value).toFixed(1)} %`
const times = (value: number) => `${value.toFixed(2)} times`

/** "48.1 (47.0-48.3)". */
export function spreadText(spread: Spread | undefined, form: (value: number) => string): string {
  if (spread === undefined) return ""
  const bare = (value: number) => form(value).replace(/ .*/, "")
  return spread.n === 1 ? form(spread.median) : `${form(spread.median)} (${bare(spread.min)}-${bare(spread.max)})`
}

function cells(run: Run, ours: Contestant, contestant: Contestant, test: Test): string[] {
  const isRead = test.kind === "generation"
  const isPass = test.kind === "verify" || test.kind === "prompt"
  const isShort = isPass && isTime(test)
  const share = isRead ? readShare : isShort ? readMultiple : int8Share
  return [
    nameOf(test),
    contestant.name,
    contestant.best[nameOf(test)] ?? "",
    isTime(test)
      ? spreadText(time(contestant, test), (ns) => (ns / 1e6).toFixed(2))
      : spreadText(speed(contestant, test), (tokens) => tokens.toFixed(1)),
    contestant === ours ? "" : spreadText(ratio(ours, contestant, test), times),
    isRead || isPass ? spreadText(share(run, contestant, test), isShort ? times : percent) : "",
    isShort ? (growth(contestant, test)?.median.toFixed(2) ?? "") : "",
  ]
}

/** What each round gave for one test: "48.1 (33)" is 48.1 tokens/s where 33 GB/s could be read, "*" in a disturbed turn. */
function roundsTable(run: Run, test: Test): string {
  const players = run.contestants.filter((contestant) => time(contestant, test) !== undefined)
  const columns: Column[] = [
    { name: `${nameOf(test)}, round`, width: 12, align: "right" },
    ...players.map(({ name }): Column => ({ name, width: 12, align: "right" })),
  ]
  const rounds = [...new Set(players.flatMap(({ turns }) => turns.map(({ round }) => round)))].sort((a, b) => a - b)
  const rows = rounds.map((round) => {
    const cells = players.map(({ turns }) => {
      const turn = turns.find((each) => each.round === round)
      const ns = turn === undefined ? undefined : timeOf(turn, test)
      if (turn === undefined || ns === undefined) return ""
      const value = isTime(test) ? (ns / 1e6).toFixed(2) : ((test.n * 1e9) / ns).toFixed(1)
      return `${value} (${(limitsOf(turn).readBytesPerSecond / 1e9).toFixed(0)})${isDisturbed(turn) ? "*" : " "}`
    })
    return tableRow(columns, [String(round), ...cells])
  })
  return tableHead(columns) + rows.join("")
}

/** Every round of every test, with the bandwidth of its turns. */
export function roundsMarkdown(run: Run): string {
  return run.tests.map((test) => roundsTable(run, test)).join("\n")
}

/** Every test of every contestant, and what to know of the rounds. */
export function markdown(run: Run): string {
  const [ours] = run.contestants
  if (ours === undefined) return "nothing took part\n"
  const rows = run.tests.flatMap((test) =>
    run.contestants
      .filter((contestant) => time(contestant, test) !== undefined)
      .map((contestant) => tableRow(COLUMNS, cells(run, ours, contestant, test))),
  )
  const { file, type } = run.model
  return `${file} (${type}), ${run.nThreads} threads, ${run.machine.commit}\n\n${tableHead(COLUMNS)}${rows.join("")}\n${notes(run)}`
}

function notes(run: Run): string {
  const turns = run.contestants.flatMap((contestant) => contestant.turns)
  const gigabytes = spreadOf(turns.map((turn) => limitsOf(turn).readBytesPerSecond / 1e9))
  const disturbed = turns.filter(isDisturbed).length
  const programs = run.contestants.map(
    ({ name, version, note }) => `- ${name} ${version}; in its time beside the passes: ${note}`,
  )
  return `Medians (least-most) of ${Math.max(0, ...turns.map(({ round }) => round))} rounds; "asdsl is" compares within a round,
"of the limit" takes the better of the limits measured before and after a turn: read bandwidth for tg, int8 peak for pp; of
passes of 16 tokens or fewer it is the time by that of reading the weights once.
Read bandwidth ${spreadText(gigabytes, (x) => `${x.toFixed(1)} GB/s`)}.
Disturbed turns (stolen time over ${100 * STOLEN} %, or bandwidth that changed by more than ${DRIFT}): ${disturbed} of ${turns.length}.
${programs.join("\n")}
`
}
