// --prefill fast: which passes and which matrices take the kernels that round weights once more, what stays exact to the
// bit, and how far the logits go. Oracle: the same model loaded with prefill exact. How far a kernel may be off is derived
// and tested in csrc/test/kernels_fast.c.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type LoadOptions, load, type Model } from "../src/index.ts"
import { bits, LEVELS, TINY_MODELS, TYPES, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-fast-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** Tokens of a pass from which weights are rounded again: csrc/run_matmul.c. */
const FAST_ROWS = 128

/** Logits of the first MAX_OUTPUTS of `tokens`, in one pass behind nothing. */
const MAX_OUTPUTS = 160
function rows(model: Model, tokens: number[]): Float32Array[] {
  using session = model.createSession()
  const all: Float32Array[] = []
  session.extend(tokens, {
    outputs: "all",
    onRows: (_, n) => {
      for (let j = 0; j < n; j++) all.push(session.row(j).logits.slice())
    },
  })
  return all
}

function loadTiny(name: string, options: LoadOptions): Promise<Model> {
  const path = writeTinyModel({ ...TINY_MODELS[name]!, nCtx: 256, path: join(folder, `${name}.gguf`) })
  return load(path, { maxOutputs: MAX_OUTPUTS, ...options })
}

/** Root of the mean square of the differences, in standard deviations of the expected logits. */
function distance(got: Float32Array[], expected: Float32Array[]): number {
  let [squares, sum, sumSquares, n] = [0, 0, 0, 0]
  got.forEach((row, j) => {
    row.forEach((logit, i) => {
      const want = expected[j]![i]!
      squares += (logit - want) ** 2
      sum += want
      sumSquares += want ** 2
      n++
    })
  })
  return Math.sqrt(squares / (sumSquares - sum ** 2 / n))
}

const MATRIX_OPS = new Set(["matmul", "matmul_add", "gate_up"])

/** Types whose exact kernel level avx2 has nothing faster for: csrc/kernels/table.c. */
const EXACT_AT_AVX2 = new Set(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
/** Types that level avx2 rounds while it unpacks them. */
const ROUNDED_AT_AVX2 = new Set(["IQ4_NL"])

/** The slot that a matrix of a long prompt is to take, without the level. */
function slotOf(type: string, level: string): string {
  if (level !== "avx2") return "gemm_fast"
  return EXACT_AT_AVX2.has(type) ? "gemm" : ROUNDED_AT_AVX2.has(type) ? "gemm_rounded" : "gemm_fast"
}

describe("every type at every level: its own slot, near the exact logits, or the exact one where that is faster", () => {
  for (const type of TYPES) {
    test(type, async () => {
      const tokens = tinyTokens(MAX_OUTPUTS + 17) // logits in two runs of the output matrix, both of its gemm
      for (const level of LEVELS) {
        using exact = await loadTiny(type, { level, nThreads: 2 })
        using fast = await loadTiny(type, { level, nThreads: 2, prefill: "fast" })
        const [expected, got] = [rows(exact, tokens), rows(fast, tokens)]
        const slots = fast.ops().filter(({ operation }) => MATRIX_OPS.has(operation))
        const name = type.toLowerCase()
        const wanted = slotOf(type, level)
        for (const { isPerOutput, slot } of slots) {
          expect(slot).toBe(`${name}.${isPerOutput ? "gemm" : wanted}.${level}`)
        }
        const off = distance(got, expected)
        expect(off > 0).toBe(wanted !== "gemm")
        expect(off).toBeLessThan(0.1)
      }
    })
  }
})

test("passes of fewer than 128 tokens, and those with logits for every token, are exact to the bit", async () => {
  using exact = await loadTiny("Q8_0", { nThreads: 2 })
  using fast = await loadTiny("Q8_0", { nThreads: 2, prefill: "fast" })
  for (const n of [1, 17, FAST_ROWS - 1, MAX_OUTPUTS])
    expect(rows(fast, tinyTokens(n))).toEqual(rows(exact, tinyTokens(n)))
  expect(rows(fast, tinyTokens(MAX_OUTPUTS + 1))).not.toEqual(rows(exact, tinyTokens(MAX_OUTPUTS + 1)))
})

test.skipIf(!LEVELS.includes("avx2"))(
  "level avx2 rounds IQ4_NL from 17 tokens on, but not where it verifies",
  async () => {
    using exact = await loadTiny("IQ4_NL", { level: "avx2", nThreads: 2 })
    using fast = await loadTiny("IQ4_NL", { level: "avx2", nThreads: 2, prefill: "fast" })
    const last = (model: Model, n: number) => {
      using session = model.createSession()
      session.sync(tinyTokens(n))
      return bits(session.row().logits)
    }
    expect(last(fast, 16)).toBe(last(exact, 16))
    expect(last(fast, 17)).not.toBe(last(exact, 17))
    expect(rows(fast, tinyTokens(17))).toEqual(rows(exact, tinyTokens(17)))
  },
)

test("experts stay exact: a mixture differs by its attention alone", async () => {
  using fast = await loadTiny("3 of 7 experts, Q8_0 with Q4_1", { nThreads: 2, prefill: "fast" })
  rows(fast, tinyTokens(MAX_OUTPUTS + 1))
  const slots = fast.ops().flatMap(({ operation, slot }) => (operation.startsWith("moe_") ? [slot] : []))
  expect(slots.filter((slot) => slot.includes("fast"))).toEqual([])
  expect(fast.ops().some(({ slot }) => slot.includes("gemm_fast"))).toBe(true)
})

test("a prompt and the tokens behind it: the same bits on 1 and 2 threads, and one by one in the exact kernels", async () => {
  for (const level of LEVELS) {
    const seen = new Set<string>()
    for (const nThreads of [1, 2]) {
      using fast = await loadTiny("Q4_0 with biases and other types", { level, nThreads, prefill: "fast" })
      using session = fast.createSession()
      session.sync(tinyTokens(FAST_ROWS + 9))
      expect(fast.ops().some(({ slot }) => slot.includes("gemm_fast"))).toBe(true)
      const hashes = [bits(session.row().logits)]
      for (const token of tinyTokens(8, 2)) {
        session.extend([token])
        hashes.push(bits(session.row().logits))
      }
      expect(fast.ops().filter(({ slot }) => slot.includes("gemm"))).toEqual([])
      seen.add(hashes.join())
    }
    expect(seen.size).toBe(1)
  }
})
