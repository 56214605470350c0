// asdsl imatrix: sums of squared inputs of matrices. Oracle: the float64 forward pass of forward.ts, and the variance that it
// derives for each input from the engine's number formats.
// Files of the format before GGUF are made here as llama.cpp's loader reads them; what the Python package gguf and
// llama-imatrix say is in conformance/imatrix.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FormatError } from "../src/errors.ts"
import { evaluationTokens } from "../src/eval/perplexity.ts"
import type { TensorTypeName } from "../src/gguf/types.ts"
import { load } from "../src/index.ts"
import { collectImportance } from "../src/quantize/collect.ts"
import { readImportance } from "../src/quantize/importance.ts"
import { type RandomModel, writeRandomModel } from "./fixtures/random-model.ts"
import { Forward } from "./forward.ts"
import { F16_CACHE } from "./teacher-forced.ts"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-imatrix-"))
afterAll(() => rmSync(folder, { recursive: true }))

const N_CTX = 24
const N_CHUNKS = 2
const BASE = { seed: 7, nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 160, nVocab: 400, nCtx: 64, tied: true }

function write(name: string, shape: Partial<RandomModel> & { type: TensorTypeName }): string {
  const path = join(folder, `${name.replaceAll(/\W/g, "-")}.gguf`)
  writeRandomModel(path, { ...BASE, biases: false, ...shape })
  return path
}

/** Of one matrix: sums of squares of x, and of 2 |x| s + s^2 for inputs whose error has the deviation s. Errors of several
 * tokens are not independent: they see the same keys and values. */
interface Expected {
  count: number
  readonly sums: Float64Array
  readonly deviations: Float64Array
}

/** By tensor and expert. */
function expectedOf(path: string, chunks: readonly number[][]): Map<string, Expected> {
  const forward = new Forward(path)
  const all = new Map<string, Expected>()
  forward.onInput = (tensor, expert, input) => {
    const key = `${tensor} ${expert}`
    const n = input.values.length
    const of = all.get(key) ?? { count: 0, sums: new Float64Array(n), deviations: new Float64Array(n) }
    all.set(key, of)
    of.count++
    for (const [i, x] of input.values.entries()) {
      of.sums[i]! += x * x
      of.deviations[i]! += 2 * Math.abs(x) * Math.sqrt(input.variances[i]!) + input.variances[i]!
    }
  }
  for (const chunk of chunks) forward.run(chunk, "f16")
  return all
}

const isWide = { dim: 256, nHeads: 4, nFfn: 512 } as const
const SHAPES: Record<string, Partial<RandomModel> & { type: TensorTypeName }> = {
  "llama, F32": { type: "F32" },
  "qwen2, biases, BF16": { arch: "qwen2", type: "BF16", biases: true, tied: false },
  "phi3, joined matrices, F16": { arch: "phi3", type: "F16", tied: false },
  "llama, Q8_0": { type: "Q8_0" },
  "qwen3, Q4_K": { arch: "qwen3", type: "Q4_K", ...isWide },
  "2 of 5 experts, F32": {
    ...{ arch: "qwen3moe", type: "F32", tied: false, experts: { nExperts: 5, nUsed: 2, nFfn: 40 } },
  },
  "3 of 7 experts, Q8_0": {
    ...{ arch: "qwen3moe", type: "Q8_0", tied: false, seed: 23, experts: { nExperts: 7, nUsed: 3, nFfn: 96 } },
  },
}

describe("sums of squares are those of a float64 forward pass", () => {
  for (const [name, shape] of Object.entries(SHAPES)) {
    test(name, async () => {
      const path = write(name, shape)
      using model = await load(path, { ...F16_CACHE, nThreads: 2, nCtx: N_CTX, nUbatch: 17, maxOutputs: 7 })
      const tokens = Int32Array.from({ length: N_CHUNKS * N_CTX + 5 }, (_, i) => (i * 31 + 5) % BASE.nVocab)
      const importance = await collectImportance(model, tokens, { nCtx: N_CTX })
      const chunks = Array.from({ length: N_CHUNKS }, (_, i) => [...tokens.slice(i * N_CTX, (i + 1) * N_CTX)])
      if (model.tokenizer.addBos) for (const chunk of chunks) chunk[0] = model.tokenizer.bos!
      const expected = expectedOf(path, chunks)
      const names = new Set([...expected.keys()].map((key) => key.split(" ")[0]!))
      for (const output of ["output.weight", "token_embd.weight"]) names.delete(output)
      expect([...importance.entries.keys()].sort()).toEqual([...names].sort())

      let largest = 0
      for (const [tensor, { sums, counts }] of importance.entries) {
        const cols = sums.length / counts.length
        for (const [matrix, count] of counts.entries()) {
          const wanted = expected.get(`${tensor} ${matrix}`)
          expect({ tensor, matrix, count }).toEqual({ tensor, matrix, count: wanted?.count ?? 0 })
          for (let i = 0; i < cols && wanted !== undefined; i++) {
            const got = sums[matrix * cols + i]!
            const rounding = 2 ** -24 * wanted.sums[i]! // sums are stored as floats
            largest = Math.max(largest, Math.abs(got - wanted.sums[i]!) / (wanted.deviations[i]! + rounding))
          }
        }
      }
      expect(largest).toBeLessThan(5)
      expect(largest).toBeGreaterThan(0.1) // what has no error at all was not compared
    })
  }
})

test("the command writes what the library collects, whole or not at all", async () => {
  const path = write("command", { type: "Q8_0" })
  const text = join(folder, "text.txt")
  writeFileSync(text, "the rain in spain stays mainly in the plain. ".repeat(60))
  const output = join(folder, "command.imatrix.gguf")
  const main = join(import.meta.dir, "../src/cli/main.ts")
  const args = ["imatrix", "-m", path, "-f", text, "-c", "32", "--chunks", "3", "-t", "1"]
  const child = Bun.spawn([process.execPath, main, ...args, "-o", output], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  expect({ code: await child.exited, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" })
  const got = readImportance(output)
  expect(got.facts).toEqual({ dataset: "text.txt", chunkSize: 32, nChunks: 3 })

  using model = await load(path, { nThreads: 2, nCtx: 32 })
  const tokens = evaluationTokens(model.tokenizer, readFileSync(text, "utf8"))
  const wanted = await collectImportance(model, tokens, { nCtx: 32, nChunks: 3 })
  expect(got.entries).toEqual(wanted.entries)
  expect(readdirSync(folder).filter((name) => name.startsWith("command.imatrix"))).toEqual(["command.imatrix.gguf"])
})

// ---- files of before ----

interface LegacyEntry {
  readonly name: string
  readonly nCalls: number
  readonly values: readonly number[]
}

function legacyBytes(entries: readonly LegacyEntry[], end?: { nChunks: number; dataset?: string }): Uint8Array {
  const int = (value: number) => new Uint8Array(Int32Array.of(value).buffer)
  const name = (value: string) => [int(Buffer.byteLength(value)), Buffer.from(value)]
  const body = entries.flatMap((entry) => [
    ...name(entry.name),
    int(entry.nCalls),
    int(entry.values.length),
    new Uint8Array(Float32Array.from(entry.values).buffer),
  ])
  const tail = end === undefined ? [] : [int(end.nChunks), ...(end.dataset === undefined ? [] : name(end.dataset))]
  return Buffer.concat([int(entries.length), ...body, ...tail])
}

describe("files of the format before GGUF", () => {
  const path = join(folder, "old.dat")
  const entries = [
    { name: "blk.0.attn_q.weight", nCalls: 4, values: [4, 8, 12, 40] },
    { name: "blk.0.ffn_down_exps.weight", nCalls: 2, values: [1, 3, 5, 3] }, // two experts of two inputs
  ]

  test("are read: a count for all experts, and the text's name where there is one", () => {
    for (const end of [undefined, { nChunks: 7 }, { nChunks: 7, dataset: "wiki.txt" }]) {
      writeFileSync(path, legacyBytes(entries, end))
      const read = readImportance(path)
      expect(read.facts).toEqual({ dataset: end?.dataset, chunkSize: 0, nChunks: end?.nChunks ?? 0 })
      const dense = read.of({ name: "blk.0.attn_q.weight", type: "F16", shape: [4, 3] }, 0)
      expect(dense).toEqual(Float32Array.of(0.25, 0.5, 0.75, 2.5))
      const experts = { name: "blk.0.ffn_down_exps.weight", type: "F16", shape: [2, 5, 2] } as const
      expect(read.of(experts, 0)).toEqual(Float32Array.of(0.5, 1.5))
      expect(read.of(experts, 1)).toEqual(Float32Array.of(1.25, 0.75))
    }
  })

  test("that end too early or hold nonsense are refused, with the place", () => {
    const whole = legacyBytes(entries, { nChunks: 7, dataset: "wiki.txt" })
    const refuse = (bytes: Uint8Array, message: RegExp) => {
      writeFileSync(path, bytes)
      expect(() => readImportance(path)).toThrow(FormatError)
      expect(() => readImportance(path)).toThrow(message)
    }
    refuse(
      whole.subarray(0, 2),
      /neither a GGUF file nor a whole imatrix file: entries at byte 0 need 4 bytes, it has 2/,
    )
    refuse(whole.subarray(0, 40), /values at byte 35 need 16 bytes, it has 40/)
    refuse(whole.subarray(0, -3), /need 8 bytes/)
    refuse(legacyBytes([]), /the number of entries at byte 0 is 0, 1 or more is needed/)
    refuse(legacyBytes([{ ...entries[0]!, values: [] }]), /values of blk.0.attn_q.weight at byte \d+ is 0/)
    refuse(legacyBytes([{ ...entries[0]!, values: [1, -1] }]), /blk.0.attn_q.weight has values that are negative/)
    refuse(Buffer.from("What is this? A text."), /need \d+ bytes/)
  })
})
