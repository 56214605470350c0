// Checkpoint 5: attention and its cache. Oracle: float64 attention over what the cache should hold, within the bounds of
// rounding (attention-checks.ts); between levels, threads and cuts into passes: the same bits.

import { describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, readFileSync } from "node:fs"
import {
  borders,
  cacheOf,
  compare,
  engines,
  everyEngine,
  type Kinds,
  MAX_TOKENS,
  randomRows,
  shapeOf,
} from "./attention-checks.ts"
import { AttentionProgram, type Rows } from "./attention-program.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000) // two workers on busy cores wait for each other

const HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage" // of Linux
const KINDS: readonly Kinds[] = ["f16", "q8_0"]
const MIXED: readonly Kinds[] = [
  ["q8_0", "f16"],
  ["f16", "q8_0"],
  ["q8_0", "f32"],
]
const nameOf = (kinds: Kinds) => (typeof kinds === "string" ? kinds : `${kinds.join(" keys, ")} values`)

describe("head sizes and groups", () => {
  for (const [i, headDim] of [8, 64, 80, 96, 128, 256].entries()) {
    for (const group of [1, 2, 3, 4, 5, 6, 7, 8]) {
      if (headDim > 128 && group % 3 !== 2) continue // the widest heads: 2, 5 and 8
      const nKvHeads = group < 4 ? 2 : 1
      const shape = shapeOf(group * nKvHeads, nKvHeads, headDim)
      for (const kinds of KINDS) {
        test(`${group} heads of ${headDim} to a key head, ${nameOf(kinds)}`, () => {
          const rows = randomRows(shape, 70, 100 * i + group)
          const out = everyEngine(shape, rows, kinds, [1, 17, 2, 33, 5])
          const deviations = compare(shape, rows, kinds, out, [0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 69])
          expect(deviations).toBeGreaterThan(0.4) // or the standard deviations would say nothing
          expect(deviations).toBeLessThan(1.4)
        })
      }
    }
  }
})

describe("lengths", () => {
  const shape = shapeOf(6, 2, 64)
  // Ends of vectors of 16 keys, blocks of 4 values, tiles of 64 keys and chunks of 256, all within one cache.
  for (const kinds of [...KINDS, ...MIXED]) {
    test(`about every edge up to 1,030 keys, ${nameOf(kinds)}`, () => {
      const rows = randomRows(shape, 1030, 200)
      const out = everyEngine(shape, rows, kinds, [64])
      const near = (n: number, edge: number) => n % edge < 2 || n % edge === edge - 1
      const check = borders(rows.n).filter((t) => near(t, 256) || (t < 300 && near(t, 64)))
      compare(shape, rows, kinds, out, check)
    })
  }

  for (const capacity of [1, 3, 4, 15, 16, 17, 64, 65, 255, 256, 257]) {
    test(`a cache for ${capacity} tokens, full`, () => {
      const rows = randomRows(shape, capacity, 300 + capacity)
      compare(shape, rows, "q8_0", everyEngine(shape, rows, "q8_0", [64, 1]), [0, capacity - 1])
    })
  }

  test("every way of cutting the passes gives the same bits", () => {
    const rows = randomRows(shape, 290, 400)
    const next = random(401)
    const expected = Bun.hash(everyEngine(shape, rows, "q8_0", [64]))
    const cuts = [[1, 64, 40], [16, 17, 1], Array.from({ length: 40 }, () => 1 + Math.floor(next() * 64))]
    for (const sizes of cuts) expect(Bun.hash(everyEngine(shape, rows, "q8_0", sizes))).toBe(expected)
  })

  test("a truncated cache goes on as if the rest had never been there, a fork too", () => {
    const [rows, other] = [randomRows(shape, 300, 402), randomRows(shape, 300, 403)]
    const expected = Bun.hash(everyEngine(shape, rows, "q8_0", [64]).subarray(250 * 384))
    const { engine } = engines.at(-1)!
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    using kv = cacheOf(shape, 300, "q8_0")
    for (let from = 0; from < 250; from += 50) program.run(kv, rows, from, 50)
    program.run(kv, other, 250, 50)
    using fork = kv.fork()
    for (const cache of [kv, fork]) {
      cache.truncate(250)
      expect(Bun.hash(program.run(cache, rows, 250, 50))).toBe(expected)
    }
  })
})

describe("windows and soft caps, q8_0", () => {
  for (const [window, softcap] of [
    [1, 0],
    [17, 0],
    [255, 0],
    [300, 5],
    [0, 0.5],
    [0, 50],
  ] as const) {
    test(`window ${window}, soft cap ${softcap}`, () => {
      const shape = shapeOf(4, 1, 80, { window, softcap })
      const rows = randomRows(shape, 600, 500 + window, 2)
      compare(shape, rows, "q8_0", everyEngine(shape, rows, "q8_0", [64, 1, 30]), borders(rows.n))
    })
  }
})

describe("extreme scores and values, q8_0", () => {
  const shape = { ...shapeOf(3, 1, 64), scale: 1 }
  const scored = (key: (j: number) => number, value = (_: number) => 1): Rows => {
    const rows = randomRows(shape, 600, 601)
    rows.q.fill(1 / 8) // every dimension alike: the score is eight times the key's value
    for (let j = 0; j < rows.n; j++) {
      rows.k.fill(key(j), j * 64, (j + 1) * 64)
      for (let d = 0; d < 64; d++) rows.v[j * 64 + d]! *= value(j)
    }
    return rows
  }
  const cases: Record<string, Rows> = {
    "all zero": scored(() => 0),
    "all equal and huge": scored(() => 1e6),
    "all equal and hugely negative": scored(() => -1e6),
    "rising by more than exp can say": scored((j) => 20 * j),
    "falling by more than exp can say": scored((j) => -20 * j),
    "one key far above": scored((j) => (j === 100 ? 1000 : 0)),
    "a sink with values a thousandth of the others'": scored(
      (j) => (j === 0 ? 1 : 0),
      (j) => (j === 0 ? 1e-3 : 1),
    ),
    "values of zero": scored(
      (j) => j % 2,
      () => 0,
    ),
    "values from 1e-30 to 1e30": scored(
      () => 0,
      (j) => 10 ** ((j % 61) - 30),
    ),
  }
  for (const [name, rows] of Object.entries(cases)) {
    test(name, () => {
      const out = everyEngine(shape, rows, "q8_0", [64, 1, 33])
      if (name === "values of zero") expect(out.every((x) => x === 0)).toBe(true)
      else compare(shape, rows, "q8_0", out, borders(rows.n))
    })
  }

  test("a channel of keys that stands out costs little: rotation spreads it", () => {
    const spread = { ...shapeOf(2, 1, 64) }
    const rows = randomRows(spread, 300, 602)
    const plain = everyEngine(spread, rows, "f32", [64])
    const distance = (out: Float32Array, from: Float32Array) =>
      Math.sqrt(out.reduce((sum, x, i) => sum + (x - from[i]!) ** 2, 0) / out.length)
    const usual = distance(everyEngine(spread, rows, "q8_0", [64]), plain)
    for (let j = 0; j < rows.n; j++) rows.k[j * 64 + 5]! += 60 // softmax does not see a constant, int8 does
    for (let i = 5; i < rows.q.length; i += 64) rows.q[i] = 0.1
    const loud = everyEngine(spread, rows, "f32", [64])
    // Without rotation 60 / 127 a step drowns the other channels, which are of size 1.
    expect(distance(everyEngine(spread, rows, "q8_0", [64]), loud)).toBeLessThan(8 * usual)
  })

  test("what is not a number shows, at every level alike", () => {
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const role of ["q", "k", "v"] as const) {
        const rows = randomRows(shape, 300, 603)
        const cols = rows[role].length / rows.n
        rows[role][100 * cols + 7] = poison
        const out = everyEngine(shape, rows, "q8_0", [64])
        const nanRows = Array.from({ length: rows.n }, (_, t) => t).filter((t) => Number.isNaN(out[t * 192]!))
        expect(nanRows).toEqual(role === "q" ? [100] : Array.from({ length: 200 }, (_, i) => 100 + i))
      }
    }
  })
})

describe("memory", () => {
  test("q8_0 takes at most 0.54 of f16's at 16,384 tokens, and both follow use", () => {
    const shape = shapeOf(4, 4, 64)
    const { engine } = engines.at(-1)!
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    const rows = randomRows(shape, 600, 700)
    const used = KINDS.map((kinds) => {
      using kv = cacheOf(shape, 16384, kinds)
      expect(kv.bytes).toBe(0)
      program.runAll(kv, rows, [64])
      return kv.bytes
    }) as [number, number]
    const chunks = Math.ceil(600 / 256)
    expect(used[0]).toBe(chunks * 256 * 4 * 2 * 64 * 2)
    expect(used[1] / used[0]).toBeLessThanOrEqual(0.54)
  })

  test.skipIf(!existsSync(HUGE_PAGES))("resident memory follows use, not the capacity", () => {
    const shape = shapeOf(32, 32, 128, { window: 1 }) // a window: what is appended counts, not attention
    const { engine } = engines.at(-1)!
    using program = new AttentionProgram(engine, shape, MAX_TOKENS)
    const rows = randomRows(shape, MAX_TOKENS, 701)
    for (const kinds of KINDS) {
      using kv = cacheOf(shape, 2 ** 20, kinds)
      program.run(kv, rows, 0, MAX_TOKENS) // what the engine itself takes is there from here on
      const before = { resident: residentHugeBytes(), bytes: kv.bytes }
      for (let i = 0; i < 256; i++) program.run(kv, rows, 0, MAX_TOKENS)
      const growth = (residentHugeBytes() - before.resident) / (kv.bytes - before.bytes)
      expect(growth).toBeGreaterThan(0.9)
      expect(growth).toBeLessThan(1.2) // each of the eight slabs ends with a page of 2 MiB
    }
  })
})

/** What is resident of the mappings that wish for huge pages, as slabs of a cache do. Linux counts it page by page; the
 * sum that it keeps for the whole process lags behind, and Bun's own heap gives memory back meanwhile. */
function residentHugeBytes(): number {
  const mappings = readFileSync("/proc/self/smaps", "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const huge = mappings.filter((mapping) => /^VmFlags:.* hg\b/m.test(mapping))
  return huge.reduce((sum, mapping) => sum + 1024 * Number(/^Rss:\s+(\d+) kB$/m.exec(mapping)![1]), 0)
}
