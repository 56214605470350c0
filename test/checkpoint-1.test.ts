// Checkpoint 1: the quantiser. Oracles: the Python package gguf, which decodes our blocks (fixtures/make-quantize-expected.py:
// what it read, bit for bit); the error of llama.cpp's quantiser on the same weights, stored with them; and, for a process that
// is killed, the file that one which was not killed writes.
//
// ASDSL_KILLS=50 kills so many times; a few by default.

import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
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

/** Until the output, or what is to become it, has `bytes` bytes, or the process has ended. */
async function grown(child: Bun.Subprocess, name: string, bytes: number): Promise<void> {
  const sizes = () =>
    readdirSync(root).flatMap((file) => (file.startsWith(name) ? [statSync(join(root, file)).size] : []))
  while (child.exitCode === null && !sizes().some((size) => size >= bytes)) await Bun.sleep(1)
}

test(
  `killed at ${N_KILLS} moments, nothing partial has the final name`,
  async () => {
    const whole = join(root, "whole.gguf")
    expect(await start(whole).exited).toBe(0)
    const [wanted, wholeBytes] = [sha256(readFileSync(whole)), statSync(whole).size]
    const next = random(Number(process.env.ASDSL_KILLS ?? 21))
    let nEarly = 0
    for (let i = 0; i < N_KILLS; i++) {
      const name = `killed-${i}.gguf`
      const output = join(root, name)
      const child = start(output)
      // From when there is a file to a little after the end; names vanish and come between two calls, so ENOENT is no news.
      await grown(child, name, 1.05 * next() * wholeBytes).catch(() => {})
      await Bun.sleep(3 * next())
      child.kill("SIGKILL")
      await child.exited
      if (existsSync(output)) expect(sha256(readFileSync(output))).toBe(wanted)
      else nEarly++
      for (const left of readdirSync(root)) if (left.startsWith("killed-")) rmSync(join(root, left))
    }
    expect(nEarly).toBeGreaterThan(0)
  },
  60_000 + 20_000 * N_KILLS,
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
