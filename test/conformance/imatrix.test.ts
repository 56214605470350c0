// asdsl imatrix on SmolLM2. Oracle: llama-imatrix on the same file and text, stored (bench/peers/oracle/imatrix.py). Ours sums
// inputs as matrices read them, rounded to int8, llama.cpp before that, and the roundings before them differ as well:
// totals differ by up to 1.0 %, single sums by more where inputs are small.

import { expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { evaluationTokens } from "../../src/eval/perplexity.ts"
import { load } from "../../src/index.ts"
import { collectImportance } from "../../src/quantize/collect.ts"
import { sha256 } from "../fixtures/dequantize-blocks.ts"
import { F16_CACHE } from "../teacher-forced.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"
import expected from "./expected/imatrix.json"

const data = process.env.ASDSL_TEST_DATA

test.skipIf(!hasDefaultModel || data === undefined)(
  "llama-imatrix's tensors, counts and sums",
  async () => {
    const { nCtx, nChunks, stride, text, tensors } = expected
    const bytes = readFileSync(join(data!, text.path))
    expect(sha256(bytes)).toBe(text.sha256)
    using model = await load(defaultModelPath, { ...F16_CACHE, nCtx, maxOutputs: 64, maxTopK: 0 })
    const { entries } = await collectImportance(model, evaluationTokens(model.tokenizer, bytes.toString()), {
      ...{ nCtx, nChunks },
    })
    expect([...entries.keys()].sort()).toEqual(Object.keys(tensors))
    for (const [tensor, { count, total, some }] of Object.entries(tensors)) {
      const { sums, counts } = entries.get(tensor)!
      expect({ tensor, counts: [...counts] }).toEqual({ tensor, counts: [count] })
      const change = sums.reduce((sum, value) => sum + value, 0) / total - 1
      expect({ tensor, isNear: Math.abs(change) < 0.02 }).toEqual({ tensor, isNear: true })
      const own = some.map((_, i) => sums[stride * i]!)
      const apart = own.reduce((sum, value, i) => sum + Math.abs(value - some[i]!), 0)
      const isNear = apart < 0.03 * some.reduce((sum, value) => sum + value, 0)
      expect({ tensor, isNear }).toEqual({ tensor, isNear: true })
    }
  },
  60_000,
)
