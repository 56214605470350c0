// No tensor is computed by anything but its own kernel of the asked-for level: asdsl_op_slot says where each op ran.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { load, type OpReport } from "../src/index.ts"
import { LEVELS, TYPES, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-slots-"))
afterAll(() => rmSync(folder, { recursive: true }))

const MATRIX_OPS = new Set(["matmul", "matmul_add", "gate_up"])
const SHARED = new Set(["rope_table.double", "gather_outputs.copy"]) // one code for all levels

/** Ops whose slot is not `expected` says. */
function strays(ops: OpReport[], kernel: "gemv" | "gemm", name: string, level: string): string[] {
  return ops
    .filter(({ operation, slot }) => {
      if (MATRIX_OPS.has(operation)) return slot !== `${name}.${kernel}.${level}`
      if (operation === "embed") return slot !== `${name}.gather_row.${level}`
      return !SHARED.has(slot) && !(slot.startsWith(operation) && slot.endsWith(`.${level}`))
    })
    .map(({ index, operation, slot }) => `op ${index} ${operation}: ${slot}`)
}

describe("every tensor type runs in its own kernels", () => {
  for (const type of TYPES) {
    test(type, async () => {
      const path = writeTinyModel({ path: join(folder, `${type}.gguf`), type })
      for (const level of LEVELS) {
        using model = await load(path, { level, nThreads: 2, maxOutputs: 64 })
        using session = model.createSession()
        session.extend(tinyTokens(40), { outputs: "all" })
        expect(strays(model.ops(), "gemm", type.toLowerCase(), level)).toEqual([])
        session.extend([1])
        expect(strays(model.ops(), "gemv", type.toLowerCase(), level)).toEqual([])
      }
    })
  }
})

test("the activation format is a function of the weight type alone", async () => {
  const formats: Partial<Record<TensorTypeName, string>> = {}
  for (const type of Object.keys(TENSOR_TYPES) as TensorTypeName[]) {
    using model = await load(join(folder, `${type}.gguf`), { nThreads: 1 })
    using session = model.createSession()
    session.sync(tinyTokens(3))
    formats[type] =
      model
        .ops()
        .find(({ operation }) => operation === "quantize")
        ?.slot.split(".")[0] ?? "floats"
  }
  expect(formats).toEqual({
    ...{ F32: "floats", F16: "floats", BF16: "floats" },
    ...{ Q4_0: "quantize_q8_32", Q4_1: "quantize_q8_32", Q8_0: "quantize_q8_32" },
    ...{ Q5_0: "quantize_q8_32", Q5_1: "quantize_q8_32", IQ4_NL: "quantize_q8_32" },
    ...{ Q2_K: "quantize_q8_256", Q3_K: "quantize_q8_256", Q4_K: "quantize_q8_256" },
    ...{ Q5_K: "quantize_q8_256", Q6_K: "quantize_q8_256", IQ4_XS: "quantize_q8_256" },
  })
})
