// How well llama.cpp agrees with itself: its own greedy text (greedy.json, generated token by token) evaluated again as a
// prompt, in one batch with and without flash attention, and in batches of 32 -> test/conformance/expected/agreement.json
//
// Its matrix kernels quantise activations to int8, and any difference before them, as that of two attention kernels,
// grows to the size of that rounding. What is left is the most that another int8 program can be expected to agree.

import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { defaultModel, expectedFolder, openModel, provenance, selfAgreement } from "./llama.mjs"

const { cases } = JSON.parse(readFileSync(join(expectedFolder, "greedy.json"), "utf8"))
const { model } = await openModel()
const asPrompt = []
for (const [flashAttention, batchSize] of [
  ["auto", 512],
  [false, 512],
  ["auto", 32],
]) {
  asPrompt.push(await selfAgreement(model, cases, { flashAttention, batchSize }))
}
const output = { provenance: await provenance("agreement.mjs", defaultModel), asPrompt }
writeFileSync(join(expectedFolder, "agreement.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
