// Oracle: float64 arithmetic in TypeScript. Every op of a program is run by itself and compared with what its own inputs
// make it, within the bound that rounding allows (op-oracle.ts).

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { dequantize } from "../src/gguf/dequantize.ts"
import { load, type Model } from "../src/index.ts"
import { Type } from "../src/native/abi.ts"
import { KvCache } from "../src/native/handles.ts"
import type { Weight } from "../src/weights.ts"
import { expectOp, type KvHistory, readRows } from "./op-oracle.ts"
import { TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-oracle-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** Dequantised tensors of a file, or rows of them. What the graph computes itself is taken as it is: forward.test.ts and
 * graph.test.ts know what it has to be. */
function weightReader(model: Model): (weight: Weight) => Float32Array {
  const file = readFileSync(model.path)
  const known = new Map<Weight, Float32Array>()
  const read = ({ source, firstRow, rows, cols, nMatrices }: Weight) => {
    if (source instanceof Float32Array) return source
    const size = source.shape.reduce((product, length) => product * length, 1)
    const values = dequantize(source.type, file.subarray(source.offset, source.offset + source.bytes), size)
    return values.subarray(firstRow * cols, (firstRow + nMatrices * rows) * cols)
  }
  return (weight) => {
    if (!known.has(weight)) known.set(weight, read(weight))
    return known.get(weight)!
  }
}

interface Deviation {
  op: string
  error: number
  bound: number
}

/** Runs passes op by op; returns the deviation closest to, or furthest beyond, its bound. */
function walk(model: Model, typeKv: "f16" | "f32", passes: number[][]): { worst: Deviation; compared: number } {
  const { nLayers, nKvHeads, headDim } = model.config
  const type = typeKv === "f16" ? Type.F16 : Type.F32
  using kv = KvCache.create({ nLayers, nKvHeads, headDim, capacity: 128, typeK: type, typeV: type })
  const stored = (row: Float64Array) => (typeKv === "f16" ? row.map((x) => Math.f16round(x)) : row)
  const executor = model.executorFor(1)
  const weight = weightReader(model)
  const history: KvHistory = Array.from({ length: nLayers }, () => [])
  let worst: Deviation = { op: "none", error: 0, bound: 1 }
  let compared = 0
  let position = 0
  for (const tokens of passes) {
    const nOutputs = Math.min(3, tokens.length)
    const outputs = Array.from({ length: nOutputs }, (_, j) => tokens.length - nOutputs + j)
    executor.prepare(tokens, 0, tokens.length, position, outputs[0]!, 5)
    for (const [index, op] of executor.plan.ops.entries()) {
      const expected = expectOp({ executor, op, index, weight, tokens, position, outputs, kv: history })
      if (op.operation === "kv_append") {
        const [k, v] = [
          readRows(executor, op.places.k!, tokens.length),
          readRows(executor, op.places.v!, tokens.length),
        ]
        for (let t = 0; t < tokens.length; t++) history[op.layer]!.push({ k: stored(k[t]!), v: stored(v[t]!) })
      }
      executor.runOp(index, kv)
      for (const [role, { values, bounds }] of Object.entries(expected)) {
        const got = readRows(executor, op.places[role]!, values.length)
        for (const [t, row] of values.entries()) {
          for (let i = 0; i < row.length; i++) {
            const error = Math.abs(got[t]![i]! - row[i]!)
            const bound = bounds[t]![i]!
            compared++
            const isWorse = Number.isNaN(error) || error * worst.bound > worst.error * bound
            if (!isWorse || Number.isNaN(worst.error)) continue
            worst = { op: `op ${index} ${op.operation} ${role}, row ${t}, column ${i} at ${position}`, error, bound }
          }
        }
      }
    }
    position += tokens.length
  }
  expect(kv.length).toBe(position)
  return { worst, compared }
}

describe("every op by itself, against float64", () => {
  for (const [name, spec] of Object.entries(TINY_MODELS)) {
    for (const typeKv of ["f16", "f32"] as const) {
      test(`${name}, ${typeKv} cache`, async () => {
        using model = await load(writeTinyModel({ ...spec, path: join(folder, `${name}.gguf`) }), { nThreads: 2 })
        const { worst, compared } = walk(model, typeKv, [tinyTokens(20), [5], tinyTokens(3, 1)])
        expect(compared).toBeGreaterThan(10_000)
        expect(worst.error, worst.op).toBeLessThanOrEqual(worst.bound)
      })
    }
  }
})
