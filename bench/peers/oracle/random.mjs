// llama.cpp's probabilities on random models -> test/conformance/expected/random.json
//
// test/peer-models.ts writes the models (run by the project's own Bun) and says which tokens go through each. Stored are
// the sha256 of every file and, per position, the ids and log-probabilities of the 16 likeliest tokens: base64 of uint16
// and float32, little endian. KV is f16, all tokens are one batch, flash attention is off: that is llama.cpp's closest
// way to a float64 forward pass.

import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { evaluateLogits, expectedFolder, logSumExp, openModel, openSequence, provenance, sha256 } from "./llama.mjs"

const TOP = 16
const root = fileURLToPath(new URL("../../../", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "asdsl-random-"))
const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64")

const bun = join(root, "node_modules/.bin/bun")
const writer = spawnSync(bun, [join(root, "test/peer-models.ts"), folder], { encoding: "utf8" })
if (writer.status !== 0) throw new Error(`test/peer-models.ts failed: ${writer.stderr}`)
const models = writer.stdout.trim().split("\n").map(JSON.parse)

const stored = {}
for (const { name, path, tokens } of models) {
  const { model } = await openModel(path)
  const { context, sequence } = await openSequence(model, { contextSize: 128, batchSize: 128, flashAttention: false })
  const ids = new Uint16Array(tokens.length * TOP)
  const logProbabilities = new Float32Array(tokens.length * TOP)
  await evaluateLogits(sequence, tokens, new Set(tokens.keys()), (position, logits) => {
    const lse = logSumExp(logits)
    const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a])
    for (let i = 0; i < TOP; i++) {
      ids[position * TOP + i] = order[i]
      logProbabilities[position * TOP + i] = logits[order[i]] - lse
    }
  })
  await context.dispose()
  await model.dispose()
  stored[name] = { sha256: await sha256(path), ids: base64(ids), logProbabilities: base64(logProbabilities) }
  console.log(`${name}: ${tokens.length} positions`)
}
const { model: _, modelSha256: __, ...peer } = await provenance("random.mjs", models[0].path)
const output = {
  provenance: { ...peer, models: "test/peer-models.ts", command: "node bench/peers/oracle/random.mjs" },
  top: TOP,
  models: stored,
}
rmSync(folder, { recursive: true })
mkdirSync(expectedFolder, { recursive: true })
writeFileSync(join(expectedFolder, "random.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
