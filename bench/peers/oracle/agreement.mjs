// How well llama.cpp agrees with itself: its own greedy text (greedy.json, generated token by token) evaluated again as a
// prompt, in one batch with and without flash attention, and in batches of 32 -> test/conformance/expected/agreement.json
//
// Its matrix kernels quantise activations to int8, and any difference before them, as that of two attention kernels,
// grows to the size of that rounding. What is left is the most that another int8 program can be expected to agree.

import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { defaultModel, evaluateLogits, expectedFolder, openModel, openSequence, provenance } from "./llama.mjs"

const { cases } = JSON.parse(readFileSync(join(expectedFolder, "greedy.json"), "utf8"))
const { model } = await openModel()
const ids = (text) => text.split(" ").map(Number)
const float32 = (base64) => new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer)

function argmax(logits) {
  let best = 0
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i
  return best
}

async function agreement(flashAttention, batchSize) {
  const { context, sequence } = await openSequence(model, { flashAttention, batchSize })
  const gaps = []
  let nPositions = 0
  for (const { prompt, tokens, top2 } of cases.map((c) => ({
    prompt: ids(c.prompt),
    tokens: ids(c.tokens),
    top2: float32(c.top2),
  }))) {
    const wanted = new Set(tokens.map((_, i) => prompt.length - 1 + i))
    await evaluateLogits(sequence, [...prompt, ...tokens.slice(0, -1)], wanted, (index, logits) => {
      const i = index - prompt.length + 1
      nPositions++
      if (argmax(logits) !== tokens[i]) gaps.push(top2[2 * i] - top2[2 * i + 1])
    })
  }
  await context.dispose()
  const result = { flashAttention, batchSize, nPositions, nMisses: gaps.length, largestGap: Math.max(0, ...gaps) }
  console.log(JSON.stringify(result))
  return result
}

const asPrompt = [await agreement("auto", 512), await agreement(false, 512), await agreement("auto", 32)]
const output = { provenance: await provenance("agreement.mjs", defaultModel), asPrompt }
writeFileSync(join(expectedFolder, "agreement.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
