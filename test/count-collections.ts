// Runs 10,000 passes of one token, first with an object made for each and then without, and says where each begins and
// ends: the child process of checkpoint-2.test.ts, which counts the garbage collections between.
// Usage: BUN_JSC_logGC=1 BUN_JSC_gcMaxHeapSize=65536 bun test/count-collections.ts MODEL

import { writeSync } from "node:fs"
import { load } from "../src/index.ts"
import { Type } from "../src/native/abi.ts"
import { KvCache } from "../src/native/handles.ts"

const N = 10_000
const N_CTX = 64

using model = await load(process.argv[2]!, { nThreads: 1, nCtx: N_CTX })
const { nLayers, nKvHeads, headDim } = model.config
using kv = KvCache.create({ nLayers, nKvHeads, headDim, capacity: N_CTX, typeK: Type.F16, typeV: Type.F16 })
const executor = model.executorFor(1)
const tokens = [5]
let sum = 0
const made: { token: number }[] = [{ token: 0 }]

/** What decoding does for a token: a pass, and a look at the row that it leaves. */
function passes(n: number, isMaking: boolean): void {
  for (let i = 0; i < n; i++) {
    if (i % N_CTX === 0) kv.truncate(0)
    executor.run(kv, tokens, 0, 1, i % N_CTX, 0, 5)
    const { argmax, logsumexp } = executor.row(0)
    tokens[0] = argmax
    sum += logsumexp
    if (isMaking) made[0] = { token: argmax }
  }
}

function measure(name: string, isMaking: boolean): void {
  Bun.gc(true)
  writeSync(2, `begin ${name}\n`)
  passes(N, isMaking)
  writeSync(2, `end ${name}\n`)
}

passes(N, true) // compiled by then
measure("passes with an object each", true)
measure("passes", false)
if (!Number.isFinite(sum)) throw new Error(`logsumexp became ${sum}`)
