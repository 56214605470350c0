// Checkpoint 3, prefill: what its kernels promise. Every GEMM slot (more than 16 columns), weight type, level of this CPU,
// epilogue and number of threads, through the engine's own door. Oracles: matmul-slots.ts, among them that a column has
// the bits that GEMV gives it alone. Pages that may not be touched: csrc/test/kernels_matmul.c.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load } from "../src/index.ts"
import { Type } from "../src/native/abi.ts"
import { KvCache } from "../src/native/handles.ts"
import {
  type SlotFamily,
  testAgainstReference,
  testExactIntegers,
  testFaults,
  testFusedWeights,
  testSameBits,
} from "./matmul-slots.ts"
import { tinyTokens, writeTinyModel } from "./tiny-model.ts"

setDefaultTimeout(60_000) // seconds each; two workers on busy cores wait for each other

/** Around the ends of tiles, and the largest pass there is by default. */
const GEMM: SlotFamily = { kernel: "gemm", columns: [17, 31, 32, 33, 64, 512] }

describe("GEMM: within the bound of the reference", () => testAgainstReference(GEMM))
describe("GEMM: whole numbers are exact", () => testExactIntegers(GEMM))
describe("GEMM: a column has the bits that GEMV gives it alone", () => testSameBits(GEMM))
describe("GEMM: weights in one op give what each gives alone", () => testFusedWeights(GEMM))
describe("GEMM: a fault shows in its row or column alone", () => testFaults(GEMM))

describe("around the kernels", () => {
  const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-3-"))
  afterAll(() => rmSync(folder, { recursive: true }))
  const N = 40

  // Of the output matrix, op by op: which rows of its place it wrote, and in which slot it ran.
  test.each([
    ["no", N, 0, ""],
    ["the last", N - 1, 1, "gemv"],
    ["every", 0, N, "gemm"],
  ] as const)(
    "a prompt that wants the logits of %s token computes no others",
    async (_, firstOutput, nRows, kernel) => {
      const path = writeTinyModel({ path: join(folder, "model.gguf"), type: "Q4_K" })
      using model = await load(path, { nThreads: 2, maxOutputs: N })
      const { nLayers, nKvHeads, headDim } = model.config
      using kv = KvCache.create({ nLayers, nKvHeads, headDim, capacity: N, typeK: Type.F16, typeV: Type.F16 })
      const executor = model.executorFor(N)
      const { ops, logits } = executor.plan
      const floats = new Float32Array(executor.memory(logits).buffer)
      expect(executor.prepare(tinyTokens(N), 0, N, 0, firstOutput, 5)).toBe(nRows)
      for (const [index, { operation, places }] of ops.entries()) {
        if (operation === "matmul" && places.out!.isPerOutput) floats.fill(Number.NaN)
        executor.runOp(index, kv)
      }
      const written = Array.from({ length: N }, (_, j) => !Number.isNaN(floats[j * logits.stride]))
      expect(written).toEqual(Array.from({ length: N }, (_, j) => j < nRows))
      const matrices = model.ops().filter((op) => op.operation === "matmul")
      const slots = matrices.map(({ isPerOutput, slot }) => [isPerOutput, slot.split(".")[1] ?? ""])
      expect(slots).toEqual([...Array.from({ length: nLayers }, () => [false, "gemm"]), [true, kernel]])
    },
  )
})
