// Checkpoint 1: the quantiser. Oracles: the Python package gguf, which decodes our blocks (fixtures/make-quantize-expected.py:
// what it read, bit for bit); the error of llama.cpp's quantiser on the same weights, stored with them; and, for a process that
// is killed, the file that one which was not killed writes.
//
// ASDSL_KILLS=50 kills so many times; a few by default.

import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { dequantize } from "../src/gguf/dequantize.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { bitsOf, sha256 } from "./fixtures/dequantize-blocks.ts"
import { COLS, encodedCases, weightsOf } from "./fixtures/quantize-cases.ts"
import expected from "./fixtures/quantize-expected.json"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { random } from "./tokenizer-fixtures.ts"

const root = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-1-"))
afterAll(() => rmSync(root, { recursive: true }))

describe("blocks", () => {
  for (const { type, kind, x, bytes } of encodedCases()) {
    test(`${type}, ${kind}: the package reads what we read, and no error is above llama.cpp's`, () => {
      const stored = expected.cases.find((each) => each.type === type && each.kind === kind)!
      expect(sha256(new Uint8Array(x.buffer))).toBe(stored.weightsSha256)
      expect(sha256(bytes)).toBe(stored.bytesSha256)
      const y = dequantize(TENSOR_TYPES[type as TensorTypeName].id, bytes, x.length)
      expect(sha256(new Uint8Array(bitsOf(y).buffer))).toBe(stored.decodedSha256)
      const w = weightsOf(type, x)
      const error = x.reduce((sum, v, i) => sum + w[i]! * (v - y[i]!) ** 2, 0)
      // On few blocks of odd shapes either search may be lucky; bench/quantize.ts compares whole models.
      if (stored.peerError !== null) expect(error).toBeLessThanOrEqual(stored.peerError * 1.02 + Number.MIN_VALUE)
    })
  }
  test("are of kinds and types that the fixture has", () => {
    expect(encodedCases().length).toBe(expected.cases.length)
    expect(expected.cols).toBe(COLS)
  })
})

// ---- a process that is killed ----

const MAIN = join(import.meta.dir, "../src/cli/main.ts")
const IN = join(root, "in.gguf")
const LARGE = { dim: 512, nHeads: 8, nKvHeads: 4, nFfn: 2048, nVocab: 4096, nCtx: 64, nLayers: 6, biases: false }
writeRandomModel(IN, { ...LARGE, seed: 1, type: "F16", tied: true })

function start(output: string) {
  return Bun.spawn([process.execPath, MAIN, "quantize", IN, output, "Q4_K_M"], { stdout: "ignore", stderr: "ignore" })
}

const N_KILLS = Number(process.env.ASDSL_KILLS ?? 4)

test(
  `killed at ${N_KILLS} moments, nothing partial has the final name`,
  async () => {
    const whole = join(root, "whole.gguf")
    const begin = performance.now()
    expect(await start(whole).exited).toBe(0)
    const ms = performance.now() - begin
    const wanted = sha256(readFileSync(whole))
    const next = random(Number(process.env.ASDSL_KILLS ?? 21))
    let nEarly = 0
    for (let i = 0; i < N_KILLS; i++) {
      const output = join(root, `killed-${i}.gguf`)
      const child = start(output)
      // From when writing may have begun to a little after the end.
      await Bun.sleep(ms * (0.2 + 0.9 * next()))
      child.kill("SIGKILL")
      await child.exited
      if (existsSync(output)) expect(sha256(readFileSync(output))).toBe(wanted)
      else nEarly++
      for (const name of readdirSync(root)) if (name.startsWith("killed-")) rmSync(join(root, name))
    }
    expect(nEarly).toBeGreaterThan(0)
  },
  20_000 + 5_000 * N_KILLS,
)

test("Ctrl-C leaves nothing behind, and the exit code says so", async () => {
  const output = join(root, "interrupted.gguf")
  for (let i = 0; ; i++) {
    const child = start(output)
    // The temporary file is there: the command is at work.
    while (child.exitCode === null && !readdirSync(root).some((name) => name.startsWith("interrupted")))
      await Bun.sleep(2)
    child.kill("SIGINT")
    const code = await child.exited
    if (code === 0 && i < 10) {
      rmSync(output, { force: true }) // it was done first
      continue
    }
    expect(code).toBe(130)
    break
  }
  expect(readdirSync(root).filter((name) => name.startsWith("interrupted"))).toEqual([])
}, 60_000)
