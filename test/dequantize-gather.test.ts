// Oracle: src/gguf/dequantize.ts, itself bit-exact with the published reference (dequantize.test.ts). The engine's only
// kernel that turns quantised weights into floats, the embedding's, gives the same bits at every level, extreme scales,
// infinities and NaN included.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { dequantize } from "../src/gguf/dequantize.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { writeGguf } from "../src/gguf/writer.ts"
import { load } from "../src/index.ts"
import { viewOf } from "../src/native/abi.ts"
import { bitsOf, makeBlocks } from "./fixtures/dequantize-blocks.ts"
import { LEVELS, TYPES, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-gather-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** A tiny model whose embedding table is made of the blocks. */
function writeModel(type: TensorTypeName): { path: string; table: Float32Array; dim: number; nVocab: number } {
  const path = join(folder, `${type}.gguf`)
  writeTinyModel({ path, type })
  const { metadata, metadataTypes, tensors } = readGguf(path)
  const file = readFileSync(path)
  const name = "token_embd.weight"
  const [dim, nVocab] = tensors.get(name)!.shape as [number, number]
  const { id, block, bytes: blockBytes } = TENSOR_TYPES[type]
  const all = makeBlocks(type)
  const wanted = ((dim * nVocab) / block) * blockBytes
  const blocks = Uint8Array.from({ length: wanted }, (_, i) => all[i % all.length]!)
  writeGguf(path, {
    metadata,
    metadataTypes,
    tensors: [...tensors.values()].map((info) => ({
      name: info.name,
      type: info.type === id ? type : "F32",
      shape: info.shape,
      data: () => [info.name === name ? blocks : file.subarray(info.offset, info.offset + info.bytes)],
    })),
  })
  return { path, table: dequantize(id, blocks, dim * nVocab), dim, nVocab }
}

for (const type of TYPES) {
  test(type, async () => {
    const { path, table, dim, nVocab } = writeModel(type)
    const expected = bitsOf(table)
    expect(new Set(expected).size).toBeGreaterThan(1000)
    for (const level of [...LEVELS, "reference"]) {
      using model = await load(path, { level, nThreads: 2, nCtx: 2 * nVocab })
      const executor = model.executorFor(2)
      const { operation, places } = executor.plan.ops[0]!
      expect(operation).toBe("embed")
      const { stride, cols } = places.out!
      expect(cols).toBe(dim)
      const tokens = Int32Array.from({ length: nVocab }, (_, i) => nVocab - 1 - i)
      executor.prepare(tokens, 0, nVocab, 0, nVocab, 0)
      executor.runOp(0, undefined)
      const view = viewOf(executor.memory(places.out!))
      const got = new Float32Array(dim * nVocab)
      for (const [t, token] of tokens.entries()) {
        for (let i = 0; i < dim; i++) got[token * dim + i] = view.getFloat32(4 * (t * stride + i), true)
      }
      const bits = bitsOf(got)
      const wrong = bits.findIndex((value, i) => value !== expected[i])
      const shown = wrong < 0 ? "none" : `${wrong}: ${got[wrong]} is not ${table[wrong]}`
      expect(`${level}: ${shown}`).toBe(`${level}: none`)
    }
  })
}
