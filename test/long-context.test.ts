// A context of 32,768 tokens. Oracles: the float64 pass of forward.ts at the last positions, with its bound of 8 deviations;
// the same tokens in other passes, to the bit; and the memory that the shapes say.

import { afterAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ContextOverflowError, load } from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { Forward } from "./forward.ts"
import { F16_CACHE } from "./teacher-forced.ts"
import { bits } from "./tiny-model.ts"

setDefaultTimeout(180_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-long-"))
afterAll(() => rmSync(folder, { recursive: true }))

const N_CTX = 32_768
const N_LAST = 20
const [nKvHeads, headDim] = [1, 32]

test("32,768 tokens: values, bits, memory and the end of the context", async () => {
  const path = join(folder, "long.gguf")
  writeRandomModel(path, {
    ...{ seed: 11, type: "F32", nLayers: 1, dim: 64, nHeads: 2, nKvHeads, headDim, nFfn: 64, nVocab: 40_009 },
    ...{ nCtx: N_CTX, tied: true, biases: false },
  })
  // Every token is another one: values that repeat are rounded alike, and the pass counts errors as independent.
  const tokens = Array.from({ length: N_CTX }, (_, i) => (i * 31 + 5) % 40_009)
  using model = await load(path, { ...F16_CACHE, nThreads: 2 })
  expect(model.nCtx).toBe(N_CTX)
  using session = model.createSession()

  session.extend(tokens.slice(0, 1))
  const chunk = session.kvBytes // memory grows with use, by chunks of 256 tokens
  expect(chunk).toBe(256 * nKvHeads * headDim * (2 + 2))
  session.extend(tokens.slice(1, N_CTX - N_LAST), { outputs: "none" })
  using single = session.fork()

  const rows: Float32Array[] = []
  session.extend(tokens.slice(-N_LAST), {
    outputs: "all",
    onRows(_first, nRows) {
      for (let j = 0; j < nRows; j++) rows.push(session.row(j).logits.slice())
    },
  })
  expect(session.kvBytes).toBe((N_CTX / 256) * chunk)
  for (const [i, token] of tokens.slice(-N_LAST).entries()) {
    single.extend([token])
    expect(bits(single.row().logits)).toBe(bits(rows[i]!))
  }
  expect(() => single.extend([0])).toThrow(ContextOverflowError)

  const { logits } = new Forward(path).run(tokens, "f16", N_LAST)
  for (const [i, { values, variances }] of logits.entries()) {
    for (const [token, value] of values.entries()) {
      expect(Math.abs(rows[i]![token]! - value) / Math.sqrt(variances[token]!)).toBeLessThan(8)
    }
  }
})
