// Checkpoint 2, decode: what its kernels promise. Every GEMV slot (1 to 16 columns: a token, or a draft to verify), weight
// type, level of this CPU, epilogue and number of threads, through the engine's own door. Oracles: matmul-slots.ts. What C
// alone can do is in csrc/test/: kernels_matmul.c has pages around weights, activations and outputs that may not be
// touched, engine_allocations.c counts what 1,000 tokens allocate.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load } from "../src/index.ts"
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

const GEMV: SlotFamily = { kernel: "gemv", columns: Array.from({ length: 16 }, (_, i) => i + 1) }

describe("GEMV: within the bound of the reference", () => testAgainstReference(GEMV))
describe("GEMV: whole numbers are exact", () => testExactIntegers(GEMV))
describe("GEMV: a column has the same bits in any company", () => testSameBits(GEMV))
describe("GEMV: weights in one op give what each gives alone", () => testFusedWeights(GEMV))
describe("GEMV: a fault shows in its row or column alone", () => testFaults(GEMV))

describe("around the kernels", () => {
  const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-2-"))
  afterAll(() => rmSync(folder, { recursive: true }))

  /** Barriers that a pass of n tokens has in a model of so many layers. */
  async function barriersOf(nLayers: number, n: number): Promise<number> {
    const path = writeTinyModel({ path: join(folder, `${nLayers}.gguf`), type: "Q4_K", nLayers })
    using model = await load(path, { nThreads: 2 })
    using session = model.createSession()
    session.extend(tinyTokens(5))
    const before = model.engineInfo().nBarriers
    session.extend(tinyTokens(n))
    return model.engineInfo().nBarriers - before
  }

  // After q/k/v, attention, its output matrix, gate and up, down. What lies between is done by the last to arrive.
  test("a layer of a token, and of a draft of three, has five barriers", async () => {
    for (const n of [1, 3]) expect((await barriersOf(7, n)) - (await barriersOf(2, n))).toBe(5 * 5)
  })

  // JavaScriptCore told to collect after every 64 KiB of new objects and to say so: 10,000 objects are four collections.
  test("a pass makes no JavaScript object", () => {
    const path = writeTinyModel({ path: join(folder, "objects.gguf"), type: "Q4_1" })
    const child = Bun.spawnSync([process.execPath, join(import.meta.dir, "count-collections.ts"), path], {
      env: { ...process.env, BUN_JSC_gcMaxHeapSize: "65536", BUN_JSC_logGC: "1" },
      stdin: "ignore",
    })
    const text = child.stdout.toString() + child.stderr.toString()
    expect(child.exitCode, text).toBe(0)
    const collections = (name: string) => {
      const part = text.slice(text.indexOf(`begin ${name}\n`), text.indexOf(`end ${name}\n`))
      expect(part).toStartWith(`begin ${name}`)
      return part.match(/=> \w+Collection/g)?.length ?? 0
    }
    expect(collections("passes with an object each")).toBeGreaterThan(2)
    expect(collections("passes")).toBe(0)
  })
})
