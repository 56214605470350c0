// Attention and the KV cache by themselves, through the op door. Oracle: float64 attention over the rows that the cache
// should hold, within rounding's bounds (attention-program.ts); between levels, threads and passes: the same bits.

import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { NativeError } from "../src/errors.ts"
import type { KvCache } from "../src/native/handles.ts"
import {
  all,
  borders,
  cacheOf,
  compare,
  engines,
  everyEngine,
  MAX_TOKENS,
  randomRows,
  shapeOf,
} from "./attention-checks.ts"
import { AttentionProgram, type Rows } from "./attention-program.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000) // seconds each; two workers on busy cores wait for each other

describe("head shapes", () => {
  const dims = [1, 2, 3, 5, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 64, 72, 80, 96, 100, 112, 128, 160, 192, 250, 256]
  for (const [i, headDim] of [...dims, 1024].entries()) {
    const [nHeads, nKvHeads] = [
      [4, 4],
      [6, 2],
      [8, 1],
      [5, 5],
      [7, 1],
      [9, 3],
      [8, 2],
    ][i % 7] as [number, number]
    const shape = shapeOf(nHeads, nKvHeads, headDim)
    for (const stored of ["f16", "f32"] as const) {
      test(`${nHeads} to ${nKvHeads} heads of ${headDim}, ${stored}`, () => {
        const rows = randomRows(shape, headDim > 256 ? 70 : 140, i)
        const out = everyEngine(shape, rows, stored, [1, 13, 64, 3, 2])
        const deviations = compare(shape, rows, stored, out, all(rows.n))
        expect(deviations).toBeGreaterThan(0.5) // or the standard deviations would say nothing
        expect(deviations).toBeLessThan(1.3)
      })
    }
  }
})

describe("long contexts, across the chunks of 256 keys", () => {
  const shape = shapeOf(4, 2, 32)
  for (const stored of ["f16", "f32"] as const) {
    for (const [name, scale] of [
      ["even", 0.3],
      ["peaked", 4],
    ] as const) {
      test(`1,300 keys, ${name} scores, ${stored}`, () => {
        const rows = randomRows(shape, 1300, 21, scale)
        compare(shape, rows, stored, everyEngine(shape, rows, stored, [64]), borders(rows.n))
      })
    }
  }

  test("every way of cutting the passes gives the same bits", () => {
    const rows = randomRows(shape, 530, 22)
    const next = random(23)
    const expected = Bun.hash(everyEngine(shape, rows, "f16", [64]))
    const cuts = [[1], [16, 17, 1], Array.from({ length: 40 }, () => 1 + Math.floor(next() * 64))]
    for (const sizes of cuts) expect(Bun.hash(everyEngine(shape, rows, "f16", sizes))).toBe(expected)
  })
})

describe("windows and soft caps", () => {
  for (const window of [1, 2, 15, 16, 17, 100, 255, 256, 257, 400, 1000]) {
    test(`the last ${window} keys`, () => {
      const shape = shapeOf(4, 1, 24, { window })
      const rows = randomRows(shape, 600, window)
      compare(shape, rows, "f16", everyEngine(shape, rows, "f16", [64, 1, 30]), borders(rows.n))
    })
  }

  for (const softcap of [0.5, 5, 50]) {
    test(`scores up to ${softcap}`, () => {
      const shape = shapeOf(4, 2, 40, { softcap, window: softcap === 5 ? 300 : 0 })
      const rows = randomRows(shape, 400, 31, 3)
      compare(shape, rows, "f32", everyEngine(shape, rows, "f32", [64, 1]), borders(rows.n))
    })
  }
})

describe("extreme scores", () => {
  const shape = { ...shapeOf(2, 1, 16), scale: 1 }
  const sizes = [64, 1, 33]
  /** Rows whose score is scores(t, j) exactly: one dimension of q and k carries it. */
  const scored = (n: number, query: (t: number) => number, key: (j: number) => number): Rows => {
    const rows = randomRows(shape, n, 41)
    rows.q.fill(0)
    rows.k.fill(0)
    for (let t = 0; t < n; t++) {
      for (let h = 0; h < shape.nHeads; h++) rows.q[(t * shape.nHeads + h) * 16 + h] = query(t)
      for (let h = 0; h < shape.nHeads; h++) rows.k[t * 16 + h] = key(t)
    }
    return rows
  }
  const cases: Record<string, Rows> = {
    "all zero": scored(
      600,
      () => 0,
      () => 0,
    ),
    "all equal and huge": scored(
      600,
      () => 1024,
      () => 8192,
    ),
    "all equal and hugely negative": scored(
      600,
      () => -1024,
      () => 8192,
    ),
    "rising by more than exp can say": scored(
      600,
      () => 256,
      (j) => j,
    ),
    "falling by more than exp can say": scored(
      600,
      () => -256,
      (j) => j,
    ),
    "one key far above, in the first chunk": scored(
      600,
      () => 1,
      (j) => (j === 100 ? 4096 : 0),
    ),
    "one key far below": scored(
      600,
      () => 1,
      (j) => (j === 100 ? -4096 : 0),
    ),
    "just about vanishing": scored(
      600,
      () => 1,
      (j) => (j === 0 ? 0 : -87 + (j % 5) / 4),
    ),
  }
  for (const [name, rows] of Object.entries(cases)) {
    for (const stored of ["f16", "f32"] as const) {
      test(`${name}, ${stored}`, () => {
        compare(shape, rows, stored, everyEngine(shape, rows, stored, sizes), borders(rows.n))
      })
    }
  }

  test("beyond float32's range: no crash, and equal at every level", () => {
    const rows = randomRows(shape, 300, 42)
    rows.q.fill(3e38)
    rows.k.fill(3e38, 0, 200 * 16)
    everyEngine(shape, rows, "f32", sizes)
    everyEngine(shape, rows, "f16", sizes) // keys are infinite there
  })
})

describe("nothing is read that is not attended to", () => {
  const shape = shapeOf(6, 2, 20)
  const poisons = [Number.NaN, Number.POSITIVE_INFINITY, 1e30]

  test("later keys of the same pass, and stale ones after truncation", () => {
    const rows = randomRows(shape, 290, 51)
    const sound = everyEngine(shape, rows, "f32", [64])
    const kvCols = shape.nKvHeads * shape.headDim
    const qCols = shape.nHeads * shape.headDim
    for (const poison of poisons) {
      const poisoned = { ...rows, k: rows.k.slice(), v: rows.v.slice() }
      poisoned.k.fill(poison, 270 * kvCols)
      poisoned.v.fill(poison, 270 * kvCols)
      for (const { engine } of engines) {
        using program = new AttentionProgram(engine, shape, MAX_TOKENS)
        using kv = cacheOf(shape, rows.n, "f32")
        const out = program.runAll(kv, poisoned, [64])
        expect(Bun.hash(out.subarray(0, 270 * qCols))).toBe(Bun.hash(sound.subarray(0, 270 * qCols)))
        kv.truncate(200)
        const again = program.run(kv, rows, 200, 61)
        expect(Bun.hash(again)).toBe(Bun.hash(sound.subarray(200 * qCols, 261 * qCols)))
      }
    }
  })

  test("keys before the window", () => {
    const windowed = { ...shape, window: 70 }
    const rows = randomRows(windowed, 400, 52)
    const sound = everyEngine(windowed, rows, "f16", [64])
    const qCols = shape.nHeads * shape.headDim
    const kvCols = shape.nKvHeads * shape.headDim
    for (const poison of poisons) {
      const poisoned = { ...rows, k: rows.k.slice(), v: rows.v.slice() }
      poisoned.k.fill(poison, 0, 200 * kvCols)
      poisoned.v.fill(poison, 0, 200 * kvCols)
      const out = everyEngine(windowed, poisoned, "f16", [64])
      expect(Bun.hash(out.subarray(269 * qCols))).toBe(Bun.hash(sound.subarray(269 * qCols)))
    }
  })
})

describe("the cache", () => {
  const shape = shapeOf(4, 2, 16)
  const { engine } = engines[0]!

  test("a fork goes its own way, and outlives its source", () => {
    const [a, b] = [randomRows(shape, 400, 61), randomRows(shape, 400, 62)]
    const common = 300
    for (const role of ["q", "k", "v"] as const) {
      const cols = a[role].length / a.n
      b[role].set(a[role].subarray(0, common * cols))
    }
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    const straight = (rows: Rows) => {
      using kv = cacheOf(shape, 400, "f16")
      return Bun.hash(program.runAll(kv, rows, [64]).subarray(common * 64))
    }
    const expected = [straight(a), straight(b)]
    expect(expected[0]).not.toBe(expected[1]!)
    const source = cacheOf(shape, 400, "f16")
    for (let from = 0; from < common; from += 60) program.run(source, a, from, 60)
    using fork = source.fork()
    const rest = (kv: KvCache, rows: Rows) => {
      const parts: Float32Array[] = []
      for (let from = common; from < 400; from += 50) parts.push(program.run(kv, rows, from, 50))
      return Bun.hash(Buffer.concat(parts.map((part) => new Uint8Array(part.buffer))))
    }
    expect(rest(source, a)).toBe(expected[0]!)
    source[Symbol.dispose]()
    expect(rest(fork, b)).toBe(expected[1]!)
  })

  test("layers do not see each other", () => {
    const [a, b] = [randomRows(shape, 300, 63), randomRows(shape, 300, 64)]
    using first = new AttentionProgram(engine, shape, MAX_TOKENS, 0)
    using last = new AttentionProgram(engine, shape, MAX_TOKENS, 1)
    using kv = cacheOf(shape, 300, "f16", 2)
    const out = [new Float32Array(300 * 64), new Float32Array(300 * 64)]
    for (let from = 0; from < 300; from += 60) {
      out[0]!.set(first.run(kv, a, from, 60), from * 64)
      expect(kv.length).toBe(from) // only the last layer's append counts
      out[1]!.set(last.run(kv, b, from, 60), from * 64)
    }
    compare(shape, a, "f16", out[0]!, borders(300))
    compare(shape, b, "f16", out[1]!, borders(300))
  })

  test("a full cache refuses more and keeps what it has", () => {
    const rows = randomRows(shape, 80, 65)
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    using kv = cacheOf(shape, 70, "f16")
    program.run(kv, rows, 0, 60)
    expect(() => program.run(kv, rows, 60, 11)).toThrow(NativeError)
    expect(() => program.run(kv, rows, 60, 11)).toThrow("position 60 and 11 tokens, the KV cache has room for 70")
    expect(kv.length).toBe(60)
    program.run(kv, rows, 60, 10)
    expect(kv.length).toBe(70)
  })
})
