// Checkpoint folders of every family become the model that they were made from. Oracle: the GGUF file that the same random
// model was written to (test/fixtures/random-model.ts), tensors to the byte, logits to the bit, tokens one by one; the
// folder is the work of test/fixtures/checkpoint.ts, which shares nothing with src/convert/. What other programs make of
// such folders is in convert-peers.test.ts.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { openCheckpoint } from "../src/convert/index.ts"
import { permutedRow } from "../src/convert/rows.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { load } from "../src/index.ts"
import { rowBytes, rowCount } from "../src/quantize/source.ts"
import {
  type CheckpointFiles,
  type CheckpointModel,
  type Json,
  tensorBytes,
  writeCheckpoint,
  writeSource,
} from "./fixtures/checkpoint.ts"
import { bits, tinyTokens } from "./tiny-model.ts"
import { random, randomText } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-convert-"))
afterAll(() => rmSync(folder, { recursive: true }))

async function logitsOf(path: string, nCtx: number): Promise<string[]> {
  using model = await load(path, { nThreads: 2, nCtx })
  using session = model.createSession()
  const rows: string[] = []
  const add = (tokens: number[]) => {
    session.extend(tokens, {
      outputs: "all",
      onRows: (_, n) => {
        for (let j = 0; j < n; j++) rows.push(bits(session.row(j).logits))
      },
    })
  }
  const tokens = tinyTokens(21)
  add(tokens.slice(0, 19))
  for (const token of tokens.slice(19)) add([token])
  return rows
}

const shape = { nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 160, nVocab: 400, nCtx: 128 }
const base = { ...shape, seed: 5, type: "F32", tied: false, biases: false } as const
const factors = Array.from({ length: 12 }, (_, j) => [1 + j / 16, 1 + j ** 1.5] as const)
const contextFactors = { short: factors.map(([short]) => short), long: factors.map(([, long]) => long) }
const longRope = {
  ...{ type: "longrope", short_factor: contextFactors.short, long_factor: contextFactors.long },
}

interface Case {
  readonly model: CheckpointModel
  readonly files?: CheckpointFiles
}

/** What transformers 5 calls rope_parameters. */
const newRope = { rope_theta: undefined, rope_parameters: { rope_type: "linear", factor: 4, rope_theta: 500000 } }

const CASES: Record<string, Case> = {
  "llama, F32": { model: { ...base, arch: "llama", nKvHeads: 3 } },
  "llama, BF16, tied": { model: { ...base, arch: "llama", type: "BF16", tied: true } },
  "llama, F16, biases, three shards": {
    model: { ...base, arch: "llama", type: "F16", biases: true },
    files: { nShards: 3 },
  },
  "llama, heads that are not the width": { model: { ...base, arch: "llama", headDim: 48 } },
  "llama, linear scaling as transformers 5 says it": {
    model: {
      ...{ ...base, arch: "llama" },
      metadata: {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4,
        "llama.rope.freq_base": 500000,
      },
    },
    files: { config: newRope },
  },
  "qwen2, BF16, biases, tied": { model: { ...base, arch: "qwen2", type: "BF16", biases: true, tied: true } },
  "qwen3, BF16, heads that are not the width": {
    model: { ...base, arch: "qwen3", type: "BF16", headDim: 64, nHeads: 4, nKvHeads: 2 },
  },
  "phi3, F16": { model: { ...base, arch: "phi3", type: "F16" } },
  "phi3, a window": {
    model: { ...base, arch: "phi3", metadata: { "phi3.attention.sliding_window": 7 } },
    files: { config: { sliding_window: 7 } },
  },
  "phi3, longrope, a part of each head": {
    model: {
      ...{ ...base, arch: "phi3", contextFactors, nCtx: 512 },
      metadata: {
        "phi3.rope.dimension_count": 24,
        "phi3.rope.scaling.original_context_length": 64,
        "phi3.rope.scaling.attn_factor": Math.fround(Math.sqrt(1 + Math.log(512 / 64) / Math.log(64))),
      },
    },
    files: {
      config: { partial_rotary_factor: 0.75, original_max_position_embeddings: 64, rope_scaling: longRope },
    },
  },
}

describe("a folder is the model that it was made from", () => {
  for (const [i, [name, { model, files }]] of Object.entries(CASES).entries()) {
    test(name, async () => {
      const path = join(folder, `case ${i}`)
      writeCheckpoint(path, model, files)
      const converted = `${path} converted.gguf`
      using source = openCheckpoint(path)
      expect(source.warnings).toEqual([])
      writeSource(converted, source, 1 + (i % 7))
      expect([...tensorBytes(converted)]).toEqual([...tensorBytes(`${path}.gguf`)])
      const [ours, theirs] = [readGguf(converted), readGguf(`${path}.gguf`)]
      const { arch } = model
      // What is not said is what a reader takes anyway; the vocabulary has tests of its own.
      for (const [key, value] of ours.metadata) {
        if (!key.startsWith(`${arch}.`) || /original_context|sliding_window/.test(key)) continue
        expect([key, value, ours.metadataTypes.get(key)]).toEqual([
          key,
          theirs.metadata.get(key)!,
          theirs.metadataTypes.get(key),
        ])
      }
      for (const nCtx of model.contextFactors === undefined ? [128] : [64, 128]) {
        expect(await logitsOf(converted, nCtx)).toEqual(await logitsOf(`${path}.gguf`, nCtx))
      }
    })
  }

  test("text becomes the same tokens", async () => {
    const path = join(folder, "tokens")
    writeCheckpoint(path, { ...base, arch: "llama", nVocab: 900 })
    using source = openCheckpoint(path)
    writeSource(`${path} converted.gguf`, source, 64)
    using ours = await load(`${path} converted.gguf`)
    using theirs = await load(`${path}.gguf`)
    const next = random(7)
    let n = 0
    for (let i = 0; i < 200; i++) {
      const text = i % 2 === 0 ? randomText(next, 60) : letters(next, 80)
      const options = { addSpecial: true, parseSpecial: i % 3 === 0 }
      const tokens = ours.tokenizer.encode(`${text}</s> ${text}`, options)
      expect(tokens).toEqual(theirs.tokenizer.encode(`${text}</s> ${text}`, options))
      n += tokens.length
    }
    expect(n).toBeGreaterThan(5000)
  })
})

function letters(next: () => number, n: number): string {
  return Array.from({ length: n }, () => "etaoinshrdlu  "[Math.floor(next() * 14)]).join("")
}

test("families by architecture, else by model_type; Mistral is llama", () => {
  const families: [Json, string][] = [
    [{ architectures: ["MistralForCausalLM"], model_type: "mistral", sliding_window: null }, "llama"],
    [{ architectures: undefined, model_type: "mistral" }, "llama"],
    [{ architectures: ["LlamaForCausalLM"], model_type: "mine" }, "llama"],
  ]
  for (const [i, [config, arch]] of families.entries()) {
    const path = join(folder, `family ${i}`)
    writeCheckpoint(path, { ...base, arch: "llama" }, { config })
    using source = openCheckpoint(path)
    expect([source.metadata.get("general.architecture"), source.warnings]).toEqual([arch, []])
  }
})

test("where config.json does not say whether the output matrix is the table, the files do", () => {
  for (const tied of [true, false]) {
    const path = join(folder, `tied ${tied}`)
    writeCheckpoint(path, { ...base, arch: "llama", tied }, { config: { tie_word_embeddings: undefined } })
    using source = openCheckpoint(path)
    expect(source.tensors.some(({ name }) => name === "output.weight")).toBe(!tied)
  }
})

test("rows of a head change places and come back", () => {
  // Row 2j of GGUF's llama turns with row 2j + 1; transformers has them at j and j + headDim / 2.
  expect(Array.from({ length: 8 }, (_, row) => permutedRow(row, 8))).toEqual([0, 4, 1, 5, 2, 6, 3, 7])
  const rows = Array.from({ length: 96 }, (_, row) => permutedRow(row, 32))
  expect([...rows].sort((a, b) => a - b)).toEqual(Array.from({ length: 96 }, (_, row) => row))
  expect(rows.every((from, row) => Math.floor(from / 32) === Math.floor(row / 32))).toBe(true)
})

test("rows outside of a tensor are refused", () => {
  const path = join(folder, "range")
  writeCheckpoint(path, { ...base, arch: "llama" })
  using source = openCheckpoint(path)
  for (const tensor of source.tensors) {
    const [rows, bytes] = [rowCount(tensor), rowBytes(tensor)]
    for (const [first, size] of [
      [rows, bytes],
      [-1, bytes],
      [0, (rows + 1) * bytes],
      [0, bytes - 1],
    ] as const) {
      expect(() => tensor.readRows(first, new Uint8Array(size))).toThrow(/it has \d+ rows of \d+/)
    }
  }
})

test("vectors of BF16 and F16 are widened, matrices stay as they are", () => {
  for (const dtype of ["BF16", "F16"] as const) {
    const path = join(folder, `vectors ${dtype}`)
    writeCheckpoint(path, { ...base, arch: "llama", biases: true, type: dtype }, { vectors: dtype })
    using source = openCheckpoint(path)
    expect(source.tensors.map(({ shape, type }) => `${shape.length} ${type}`)).toEqual(
      source.tensors.map(({ shape }) => (shape.length === 1 ? "1 F32" : `2 ${dtype}`)),
    )
    const file = readFileSync(`${path}.gguf`)
    for (const tensor of source.tensors) {
      if (tensor.shape.length > 1) continue
      const { offset, bytes } = readGguf(`${path}.gguf`).tensors.get(tensor.name)!
      const exact = new Float32Array(new Uint8Array(file.subarray(offset, offset + bytes)).buffer)
      const out = new Uint8Array(bytes)
      tensor.readRows(0, out)
      const read = new Float32Array(out.buffer)
      const step = dtype === "BF16" ? 2 ** -8 : 2 ** -11
      for (const [i, value] of exact.entries())
        expect(Math.abs(read[i]! - value)).toBeLessThanOrEqual(step * Math.abs(value))
      expect([...read].some((value, i) => value !== exact[i])).toBe(true) // rounded when it was stored
    }
  }
})
