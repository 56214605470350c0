// node-llama-cpp's turn in compare.ts, run by Node: prompt and generation speed as llama-bench measures them.
//
// In the time: what its API does around llama.cpp's decode call for each batch and each generated token (a promise, locks,
// a worker thread), and the output matrix for the last token of each call. Not in the time: tokenizing, sampling
// (`_noSampling`, which its own embedding context uses) and copying logits.
//
//   node node-llama-cpp.mjs MODEL THREADS FLASH(0|1) PROMPT GEN REPETITIONS  ->  {"version", "samples": {"pp", "tg"}} (ns)

import { readFileSync } from "node:fs"
import { getLlama, LlamaLogLevel } from "node-llama-cpp"

const [modelPath, ...numbers] = process.argv.slice(2)
const [threads, flash, nPrompt, nGen, repetitions] = numbers.map(Number)

const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error })
const model = await llama.loadModel({ modelPath })
const contextSize = Math.max(nPrompt, nGen, 1) + 8
const context = await model.createContext({
  contextSize,
  batchSize: Math.min(512, contextSize), // llama-bench's -ub
  sequences: 1,
  threads: { ideal: threads, min: threads },
  flashAttention: flash === 1,
})
const sequence = context.getSequence()
const nVocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length
let state = 1

function randomToken() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * nVocab)
}

/** One call of llama.cpp's decode, with the last token's logits. */
async function decode(tokens) {
  for await (const token of sequence.evaluate(tokens, { _noSampling: true })) throw new Error(`sampled ${token}`)
}

async function time(nTokens, evaluate) {
  await sequence.clearHistory()
  const tokens = Array.from({ length: nTokens }, randomToken)
  const since = process.hrtime.bigint()
  await evaluate(tokens)
  return Number(process.hrtime.bigint() - since)
}

const prompt = () => time(nPrompt, decode)
const generation = () =>
  time(nGen, async (tokens) => {
    for (const token of tokens) await decode([token])
  })

async function measure(nTokens, run) {
  if (nTokens === 0) return []
  await run() // warm-up, as llama-bench
  const samples = []
  for (let i = 0; i < repetitions; i++) samples.push(await run())
  return samples
}

const packageJson = new URL("node_modules/node-llama-cpp/package.json", import.meta.url)
const result = {
  version: JSON.parse(readFileSync(packageJson, "utf8")).version,
  threads: context.currentThreads,
  samples: { pp: await measure(nPrompt, prompt), tg: await measure(nGen, generation) },
}
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
