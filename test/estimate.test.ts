// Importance that asdsl quantize estimates, a layer at a time. Oracle: the whole model at the same bits a weight, loaded and
// run over the same tokens under collectImportance, which test/imatrix holds to a float64 forward pass; sums are equal to the
// bit. What the estimate is good for: the error that tokens it has not seen would notice.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { CancelledError, UnsupportedError } from "../src/errors.ts"
import { dequantize } from "../src/gguf/dequantize.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { FlatStrings } from "../src/gguf/strings.ts"
import type { TensorTypeName } from "../src/gguf/types.ts"
import { load } from "../src/index.ts"
import { Engine } from "../src/native/handles.ts"
import { collectImportance } from "../src/quantize/collect.ts"
import { estimateImportance, madeUpTokens } from "../src/quantize/estimate.ts"
import { openGgufSource } from "../src/quantize/gguf-source.ts"
import type { Importance } from "../src/quantize/importance.ts"
import { quantizeModel } from "../src/quantize/quantize.ts"
import { rowLength, type TensorSource } from "../src/quantize/source.ts"
import { type RandomModel, writeRandomModel } from "./fixtures/random-model.ts"
import { TINY_MODELS, tinyTokens } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000)

const root = mkdtempSync(join(tmpdir(), "asdsl-estimate-"))
afterAll(() => rmSync(root, { recursive: true }))

const N_CTX = 64
const BASE = { seed: 7, nLayers: 3, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 160, nVocab: 200, nCtx: 128, tied: true }
const WIDE = { dim: 256, nHeads: 4, nKvHeads: 2, nFfn: 512 } as const

function write(name: string, model: Partial<RandomModel> & { type: TensorTypeName }): string {
  const path = join(root, `${name.replaceAll(/\W+/g, "-")}.gguf`)
  writeRandomModel(path, { ...BASE, biases: false, ...model })
  return path
}

async function quantizeTo(
  input: string,
  output: string,
  typeOf: (tensor: TensorSource) => TensorTypeName,
  importance?: Importance,
): Promise<string> {
  using source = openGgufSource(input)
  using engine = Engine.create({ nThreads: 2 })
  await quantizeModel(source, output, { types: source.tensors.map(typeOf), fileType: 7, importance, engine })
  return output
}

async function estimate(path: string, nThreads: number, signal?: AbortSignal): Promise<Importance> {
  using source = openGgufSource(path)
  using engine = Engine.create({ nThreads })
  return await estimateImportance(source, { engine, ...(signal === undefined ? {} : { signal }) })
}

/** Matrices of layers as the estimate runs them. */
function packed(tensor: TensorSource): TensorTypeName {
  const { name, type, shape } = tensor
  const isMatrix = name.startsWith("blk.") && shape.length > 1 && rowLength(tensor) % 32 === 0
  return isMatrix && /^B?F\d+$/.test(type) ? "Q8_0" : type
}

const SHAPES: Record<string, Partial<RandomModel> & { type: TensorTypeName }> = {
  "llama, F32": { type: "F32" },
  "llama, F16, rows that 32 does not divide": { type: "F16", nFfn: 150 },
  "llama, divisors of frequencies, Q8_0": {
    type: "Q8_0",
    ropeFactors: Array.from({ length: 16 }, (_, i) => 1 + i / 8),
  },
  "qwen2, biases, BF16, untied": { arch: "qwen2", type: "BF16", biases: true, tied: false },
  "qwen3, Q4_K": { arch: "qwen3", type: "Q4_K", ...WIDE },
  phi3: { ...TINY_MODELS["phi3, Q4_0"]!, type: "F16" },
  gemma3: { ...TINY_MODELS["gemma3, F32, heads of 256"]!, type: "F32" },
  experts: { ...TINY_MODELS["3 of 7 experts, Q8_0 with Q4_1"]!, tied: false },
}

describe("sums of a layer at a time are those of the whole model", () => {
  for (const [name, shape] of Object.entries(SHAPES)) {
    test(name, async () => {
      const path = write(name, shape)
      const got = await estimate(path, 2)
      using model = await load(await quantizeTo(path, join(root, "twin.gguf"), packed), {
        nThreads: 1,
        nCtx: N_CTX,
        typeK: "f16",
        typeV: "f16",
      })
      const { addBos, bos } = model.tokenizer
      const tokens = madeUpTokens(readGguf(path), model.config.nVocab, addBos ? bos : undefined)
      const whole = await collectImportance(model, tokens, { nCtx: N_CTX })
      expect([...got.entries.keys()].sort()).toEqual([...whole.entries.keys()].sort())
      for (const [tensor, { sums, counts }] of whole.entries) {
        const expected = tensor.includes("ffn_down") ? sums.map(Math.sqrt) : sums
        expect({ tensor, ...got.entries.get(tensor) }).toEqual({ tensor, sums: expected, counts })
      }
      expect(whole.entries.size).toBeGreaterThan(4)
    })
  }
})

/** Gives the norms of layers weights from 1/4 to 4, as trained ones have them. */
function spreadNorms(path: string): void {
  const bytes = readFileSync(path)
  const next = random(3)
  for (const { name, shape, offset } of readGguf(path).tensors.values()) {
    if (!/(attn|ffn)_norm/.test(name)) continue
    for (let i = 0; i < shape[0]!; i++) bytes.writeFloatLE(4 ** (2 * next() - 1), offset + 4 * i)
  }
  writeFileSync(path, bytes)
}

test("errors that other tokens notice are lower than where all inputs count alike", async () => {
  const path = write("spread", { type: "F16", ...WIDE, arch: "qwen3", tied: false })
  spreadNorms(path)
  const type = ({ name, type: own }: TensorSource) => (/blk.*(attn_[qkv]|ffn_(gate|up))\.w/.test(name) ? "Q4_K" : own)
  const files = [undefined, await estimate(path, 2)].map((importance, i) =>
    quantizeTo(path, join(root, `spread-${i}.gguf`), type, importance),
  )
  using model = await load(path, { nThreads: 2, nCtx: N_CTX })
  const { entries } = await collectImportance(model, Int32Array.from(tinyTokens(4 * N_CTX)), { nCtx: N_CTX })
  const [alike, weighted] = await Promise.all(files)
  const errorOf = (file: string): number => {
    const [a, b] = [readGguf(path), readGguf(file)]
    let sum = 0
    for (const [name, { sums }] of entries) {
      const [x, y] = [a, b].map((gguf) => {
        const { type: id, offset, bytes, shape } = gguf.tensors.get(name)!
        return dequantize(id, readFileSync(gguf.path).subarray(offset, offset + bytes), shape[0]! * shape[1]!)
      })
      for (let i = 0; i < x!.length; i++) sum += sums[i % sums.length]! * (x![i]! - y![i]!) ** 2
    }
    return sum
  }
  const [before, after] = [errorOf(alike!), errorOf(weighted!)]
  expect(after).toBeLessThan(0.8 * before)
})

test("made-up tokens are the same ones every time, of those that stand for text, BOS in front where it belongs", () => {
  const tokens = FlatStrings.from(Array.from({ length: 50 }, (_, i) => `t${i}`))
  const types = Int32Array.from({ length: 50 }, (_, i) => (i < 10 ? 3 : 1))
  const metadata = new Map<string, Int32Array | FlatStrings>([
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
  ])
  const drawn = madeUpTokens({ metadata }, 60)
  expect(madeUpTokens({ metadata }, 60)).toEqual(drawn)
  expect(drawn.every((id) => id >= 10 && id < 50)).toBe(true)
  expect(new Set(drawn).size).toBeGreaterThan(35)
  expect(madeUpTokens({ metadata }, 60, 3)).toEqual(drawn.map((id, i) => (i % N_CTX === 0 ? 3 : id)))
})

test("is cancelled between pieces of weights, and refuses what cannot run", async () => {
  const path = write("cancelled", { type: "F32" })
  expect(await estimate(path, 1, AbortSignal.abort()).catch((error) => error)).toBeInstanceOf(CancelledError)
  using source = openGgufSource(path)
  const other = { ...source, metadata: new Map([...source.metadata, ["general.architecture", "abacus"]]) }
  using engine = Engine.create({ nThreads: 1 })
  const refused = await estimateImportance(other, { engine }).catch((error) => error)
  expect(refused).toBeInstanceOf(UnsupportedError)
})
