// Design decision 5: logits have the same bits for any number of threads, whether they stay or come and go, any split into
// passes, and at every level.
// Oracle: the other ways of computing them. One reference hash per model, everything else compared with it.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load, type Model, type Session } from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { bits, LEVELS, TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"
import { defaultModelPath, hasDefaultModel, random } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-bits-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** One hash over the logits of every position, evaluated in passes of `split` tokens. */
function hashAll(model: Model, tokens: number[], split: number): string {
  using session = model.createSession()
  const hash = new Bun.CryptoHasher("sha256")
  for (let i = 0; i < tokens.length; i += split) {
    session.extend(tokens.slice(i, i + split), {
      outputs: "all",
      onRows(_, n) {
        for (let j = 0; j < n; j++) hash.update(session.row(j).logits)
      },
    })
  }
  return hash.digest("hex")
}

/** The last token's logits without a cache: every token evaluated in one pass of its own session. */
function hashLast(model: Model, tokens: number[]): string {
  using session = model.createSession()
  session.sync(tokens)
  return Bun.hash(session.row().logits).toString(16)
}

// Passes of one token (decode), of a few (verification), beyond 16 (prefill kernels), uneven, and all at once.
const SPLITS = [1, 3, 7, 17, 60]

/** The last: threads that stay for 20 us, which is an operation or two, as they do beside a busy process. */
const THREADS = [{ nThreads: 1 }, { nThreads: 2 }, { nThreads: 3, stayMicroseconds: 20 }]

async function compareAll(path: string, tokens: number[], levels: readonly string[], splits: number[]): Promise<void> {
  const seen = new Map<string, string[]>()
  for (const level of levels) {
    for (const threads of THREADS) {
      using model = await load(path, { level, ...threads })
      for (const split of splits) {
        const hash = hashAll(model, tokens, split)
        seen.set(hash, [...(seen.get(hash) ?? []), `${level}, ${JSON.stringify(threads)}, passes of ${split}`])
      }
    }
  }
  if (seen.size > 1)
    throw new Error(`different logits:\n${[...seen.values()].map((ways) => ways.join("; ")).join("\n")}`)
  expect([...seen.values()][0]!.length).toBe(levels.length * THREADS.length * splits.length)
}

describe("random models, every split, any threads, every level", () => {
  for (const [name, model] of Object.entries(TINY_MODELS)) {
    test(
      name,
      () =>
        compareAll(writeTinyModel({ ...model, path: join(folder, `${name}.gguf`) }), tinyTokens(60), LEVELS, SPLITS),
      30_000,
    )
  }
})

test("a cache that was reused, cut and forked gives what a fresh one gives", async () => {
  using model = await load(join(folder, "Q4_1.gguf"), { nThreads: 2 })
  const tokens = tinyTokens(50)
  const expected = hashLast(model, tokens)
  using session = model.createSession()
  session.sync(tinyTokens(44, 3))
  session.sync([...tokens.slice(0, 30), ...tinyTokens(40, 5)])
  session.sync(tokens)
  expect(Bun.hash(session.row().logits).toString(16)).toBe(expected)
  using fork = session.fork()
  fork.truncate(13)
  fork.sync(tokens)
  expect(Bun.hash(fork.row().logits).toString(16)).toBe(expected)
})

describe("long contexts, across the chunks of attention: any way through them", () => {
  const N = 560
  const tokens = tinyTokens(N)

  function writeLong(type: "Q4_K" | "Q8_0" | "F32"): string {
    const path = join(folder, `long-${type}.gguf`)
    const shape = { nLayers: 2, dim: 256, nHeads: 8, nKvHeads: 2, nFfn: 256, nVocab: 200, nCtx: 1024 }
    writeRandomModel(path, { seed: 5, type, ...shape, tied: true, biases: false })
    return path
  }

  /** Evaluates tokens [session's length, end); complains about each row that differs from `expected`, or fills it. */
  function advance(session: Session, end: number, expected: string[], fill = false): void {
    const first = session.tokens.length
    session.extend(tokens.slice(first, end), {
      outputs: "all",
      onRows(index, n) {
        for (let j = 0; j < n; j++) {
          const hash = bits(session.row(j).logits)
          if (fill) expected.push(hash)
          else if (expected[first + index + j] !== hash) throw new Error(`other logits at ${first + index + j}`)
        }
      },
    })
  }

  /** A random walk to the end: passes of any size, forks that go on for their source, steps back. */
  function wander(model: Model, seed: number, expected: string[]): { passes: number; forks: number; cuts: number } {
    const next = random(seed)
    const counts = { passes: 0, forks: 0, cuts: 0 }
    let session = model.createSession()
    while (session.tokens.length < N) {
      const length = session.tokens.length
      const size = next() < 0.5 ? 1 + next() * 4 : 1 + next() * 120
      advance(session, Math.min(N, length + Math.floor(size)), expected)
      counts.passes++
      if (next() < 0.1) {
        const fork = session.fork()
        session[Symbol.dispose]()
        session = fork
        counts.forks++
      }
      if (next() < 0.1) {
        session.truncate(Math.max(0, session.tokens.length - Math.floor(next() * 60)))
        counts.cuts++
      }
    }
    session[Symbol.dispose]()
    return counts
  }

  const EITHER = [
    { nThreads: 1, nThreadsBatch: 1 },
    { nThreads: 2, nThreadsBatch: 2 },
    { nThreads: 1, nThreadsBatch: 2 },
    { nThreads: 2, nThreadsBatch: 1, stayMicroseconds: 50 },
  ]
  for (const [type, kv] of [
    ["Q4_K", "f16"],
    ["Q4_K", "q8_0"],
    ["Q8_0", "f32"],
    ["F32", "f16"],
  ] as const) {
    test(`${type}, ${kv} cache`, async () => {
      const path = writeLong(type)
      const common = { typeK: kv, typeV: kv }
      const expected: string[] = []
      {
        using model = await load(path, { ...common, nThreads: 1, nUbatch: N })
        using session = model.createSession()
        advance(session, N, expected, true)
      }
      expect(new Set(expected).size).toBe(N)
      const total = { passes: 0, forks: 0, cuts: 0 }
      for (let seed = 0; seed < 2 * LEVELS.length; seed++) {
        const level = LEVELS[seed >> 1]!
        const threads = EITHER[seed % 4]!
        const nUbatch = [512, 17, 64, 100][(seed * 3) % 4]!
        using model = await load(path, { ...common, ...threads, level, nUbatch })
        const counts = wander(model, seed, expected)
        for (const key of ["passes", "forks", "cuts"] as const) total[key] += counts[key]
      }
      expect(Math.min(total.passes, total.forks, total.cuts)).toBeGreaterThan(5) // the walk went everywhere
    }, 60_000)
  }
})

test.skipIf(!hasDefaultModel)(
  "the default model",
  () =>
    compareAll(
      defaultModelPath,
      tinyTokens(20).map((token) => token * 200),
      LEVELS,
      [1, 20],
    ),
  120_000,
)
