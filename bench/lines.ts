// What is promised of speed, line by line, and whether saved runs keep it. Pure functions of runs; `checkpoints.ts` measures
// them. Numbers are those of the issue on decode and prefill: ratios against the hardest peer of a run, shares of the machine's limits.

import type { Contestant, Run } from "./peers/saved.ts"
import {
  bestPeer,
  contestantOf,
  growth,
  int8Share,
  ratio,
  readMultiple,
  readShare,
  type Spread,
  spreadText,
  time,
} from "./peers/summary.ts"
import type { Test } from "./peers/tests.ts"

/** A measurement that lines stand on: a result's name, the model and what is asked of it. */
export interface Plan {
  readonly name: string
  readonly model: ModelKey
  readonly tests: readonly Test[]
  readonly repetitions: number
  readonly level?: string
  /** Without peers: only asdsl's shares are asked for. */
  readonly isAlone?: boolean
}

/** The models, by the names they have here: files of the manifest, or of synthetic-gguf.py's shapes. */
export const MODELS = {
  smollm2: { what: "SmolLM2 135M Q4_1", known: "smollm2" },
  "qwen-1.5b": { what: "Qwen2.5-Coder 1.5B Q4_K_M", known: "qwen-coder-1.5b" },
  "1.1b": { what: "random 1.1B Q4_K_M", file: "synthetic-tinyllama-Q4_K_M.gguf" },
  "3.8b": { what: "random 3.8B Q4_K_M", file: "synthetic-phi4mini-Q4_K_M.gguf" },
} as const

export type ModelKey = keyof typeof MODELS

const PROMPT: Test = { kind: "prompt", n: 512 }
const DECODE: Test = { kind: "generation", n: 128 }
const FIRST: Test = { kind: "first", n: 512 }
const START: Test = { kind: "start", n: 512 }
const CURVE = [1, 2, 4, 8, 16]

const speed = (model: ModelKey): Plan => ({ name: `speed-${model}`, model, tests: [PROMPT, DECODE], repetitions: 1 })
const avx2 = (model: ModelKey): Plan => ({ ...speed(model), name: `avx2-${model}`, level: "avx2" })
const first = (model: ModelKey): Plan => ({ name: `first-${model}`, model, tests: [FIRST, START], repetitions: 1 })
const verify = (model: ModelKey): Plan => ({
  name: `verify-${model}`,
  model,
  tests: [...CURVE.map((n): Test => ({ kind: "prompt", n })), ...CURVE.map((n): Test => ({ kind: "verify", n }))],
  repetitions: 10, // passes of 15 to 60 ms: their median
})
const alone = (model: ModelKey, ...tests: Test[]): Plan => ({
  ...{ name: `alone-${model}`, model, tests, repetitions: 1, isAlone: true },
})

/** A row of the verdict. */
export interface Verdict {
  readonly line: number
  readonly what: string
  /** ">= 1.45 times"; "" where nothing is asked. */
  readonly asked: string
  readonly got: string
  /** The peer or the limit that it is held against. */
  readonly against: string
  /** undefined: measured, and nothing is asked. */
  readonly holds: boolean | undefined
}

export interface Line {
  readonly line: number
  readonly plans: readonly Plan[]
  judge(runs: ReadonlyMap<string, Run>): Verdict[]
}

// ---- Verdicts ----

interface Bound {
  readonly least?: number
  readonly most?: number
}

type Form = (value: number) => string
const times: Form = (value) => `${value.toFixed(2)} times`
const percent: Form = (value) => `${(100 * value).toFixed(1)} %`
const seconds: Form = (value) => `${(value / 1e9).toFixed(2)} s`

function verdict(
  line: number,
  what: string,
  got: Spread | undefined,
  form: Form,
  { least, most }: Bound = {},
  against = "",
): Verdict {
  const bound = least ?? most
  const asked = bound === undefined ? "" : `${least === undefined ? "<=" : ">="} ${form(bound)}`
  if (got === undefined)
    return { line, what, asked, got: "not measured", against, holds: asked === "" ? undefined : false }
  const { median } = got
  const holds = bound === undefined ? undefined : least === undefined ? median <= bound : median >= bound
  return { line, what, asked, got: spreadText(got, form), against, holds }
}

const whatOf = ({ model }: Plan) => MODELS[model].what

/** Our contestant of a run: the first, asdsl at the run's level. */
function ours(run: Run | undefined): Contestant | undefined {
  return run?.contestants.find(({ isPeer }) => !isPeer)
}

function versusPeers(line: number, plan: Plan, run: Run | undefined, test: Test, least: number): Verdict {
  const own = ours(run)
  const best = run === undefined || own === undefined ? undefined : bestPeer(run, own, test)
  const what = `${test.kind === "generation" ? "decode" : "exact prefill"}, ${whatOf(plan)}`
  return verdict(line, what, best?.ratio, times, { least }, best?.peer.name ?? "best peer")
}

function shareOfRead(line: number, plan: Plan, run: Run | undefined, bound: Bound): Verdict {
  const own = ours(run)
  const share = run === undefined || own === undefined ? undefined : readShare(run, own, DECODE)
  return verdict(line, `decode, ${whatOf(plan)}`, share, percent, bound, "read bandwidth")
}

function shareOfPeak(line: number, plan: Plan, run: Run | undefined, name: string, bound: Bound): Verdict {
  const own = run === undefined ? undefined : contestantOf(run, name)
  const share = run === undefined || own === undefined ? undefined : int8Share(run, own, PROMPT)
  const what = name === "asdsl" ? "exact prefill" : "prefill fast"
  return verdict(line, `${what}, ${whatOf(plan)}`, share, percent, bound, "int8 peak")
}

const FILES = [speed("1.1b"), speed("qwen-1.5b")] as const

const decode: Line = {
  line: 1,
  plans: FILES,
  judge: (runs) =>
    FILES.flatMap((plan) => {
      const run = runs.get(plan.name)
      const share = plan.model === "1.1b" ? { least: 0.85 } : {}
      return [versusPeers(1, plan, run, DECODE, 1.45), shareOfRead(1, plan, run, share)]
    }),
}

const prefill: Line = {
  line: 2,
  plans: FILES,
  judge: (runs) =>
    FILES.flatMap((plan) => {
      const run = runs.get(plan.name)
      return [
        versusPeers(2, plan, run, PROMPT, 2),
        shareOfPeak(2, plan, run, "asdsl", { least: 0.42 }),
        shareOfPeak(2, plan, run, "asdsl --prefill fast", { least: 0.6 }),
      ]
    }),
}

const AVX2_FILES = [avx2("1.1b"), avx2("qwen-1.5b")] as const
/** The level itself where the CPU executes it, else its twin; see engines.ts. */
const AVX_VNNI = ["asdsl, avxvnni", "asdsl, avxvnni's twin"]

const lowerLevels: Line = {
  line: 3,
  plans: AVX2_FILES,
  judge: (runs) =>
    AVX2_FILES.flatMap((plan) => {
      const run = runs.get(plan.name)
      const [own] = AVX_VNNI.flatMap((name) => (run && contestantOf(run, name)) ?? [])
      const measured = (test: Test, what: string) => {
        const best = run === undefined || own === undefined ? undefined : bestPeer(run, own, test)
        const name = own?.name.replace("asdsl, ", "") ?? "avxvnni"
        return verdict(3, `${name} ${what}, ${whatOf(plan)}`, best?.ratio, times, {}, best?.peer.name ?? "best peer")
      }
      return [
        versusPeers(3, plan, run, DECODE, 1.4),
        versusPeers(3, plan, run, PROMPT, 1.5),
        measured(DECODE, "decode"),
        measured(PROMPT, "prefill"),
      ]
    }),
}

const CURVES = [verify("1.1b"), verify("qwen-1.5b")] as const
const CURVE_BOUNDS = { 2: 1.1, 4: 1.2, 8: 1.35, 16: 2 }

const verifyCurve: Line = {
  line: 4,
  plans: CURVES,
  judge: (runs) =>
    CURVES.flatMap((plan) => {
      const run = runs.get(plan.name)
      const own = ours(run)
      const what = (n: number) => `verify ${n}, ${whatOf(plan)}`
      const curve = Object.entries(CURVE_BOUNDS).map(([n, most]) => {
        const test: Test = { kind: "verify", n: Number(n) }
        return verdict(4, what(test.n), own && growth(own, test), times, { most }, "a pass over 1 token")
      })
      const read = (n: number, bound: Bound) => {
        const multiple = run && own && readMultiple(run, own, { kind: "verify", n })
        return verdict(4, what(n), multiple, times, bound, "reading the weights once")
      }
      return [...curve, read(8, { most: 1.5 }), read(1, {})]
    }),
}

const SMALL: Plan = { ...speed("smollm2"), repetitions: 3 } // of half a second

const inCache: Line = {
  line: 5,
  plans: [SMALL],
  judge: (runs) => [
    versusPeers(5, SMALL, runs.get(SMALL.name), DECODE, 1.5),
    versusPeers(5, SMALL, runs.get(SMALL.name), PROMPT, 2),
  ],
}

// In the same rounds, so that one bandwidth holds for both.
const LARGER = alone("3.8b", DECODE, PROMPT, FIRST, START)
const SMALLER = alone("1.1b", DECODE)

const larger: Line = {
  line: 6,
  plans: [SMALLER, LARGER],
  judge(runs) {
    const [small, large] = [runs.get(SMALLER.name), runs.get(LARGER.name)]
    const own = ours(large)
    const smaller = small && ours(small) && readShare(small, ours(small)!, DECODE)
    const bound = smaller === undefined ? {} : { least: smaller.median }
    const row = shareOfRead(6, LARGER, large, bound)
    return [
      { ...row, against: `read bandwidth, as ${whatOf(SMALLER)}`, holds: smaller === undefined ? false : row.holds },
      verdict(6, `first token of 512, ${whatOf(LARGER)}`, own && time(own, FIRST), seconds, {}, "the mission's 2 s"),
      verdict(6, `from process start, ${whatOf(LARGER)}`, own && time(own, START), seconds),
    ]
  },
}

const FIRSTS = [first("smollm2"), first("qwen-1.5b")] as const

const firstToken: Line = {
  line: 8,
  plans: FIRSTS,
  judge: (runs) =>
    FIRSTS.flatMap((plan) => {
      const run = runs.get(plan.name)
      const [own, peer] = [ours(run), run && contestantOf(run, "node-llama-cpp")]
      const against = (test: Test) => own && peer && ratio(own, peer, test)
      return [
        verdict(8, `first token of 512, ${whatOf(plan)}`, against(FIRST), times, { least: 2.5 }, "node-llama-cpp"),
        verdict(8, `from process start, ${whatOf(plan)}`, against(START), times, {}, "node-llama-cpp"),
      ]
    }),
}

/** Line 7 is test/checkpoint-2.test.ts and -3. */
export const LINES: readonly Line[] = [decode, prefill, lowerLevels, verifyCurve, inCache, larger, firstToken]
