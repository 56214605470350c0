// node-llama-cpp's turn in compare.ts, run by Node: prompt and generation speed as llama-bench measures them, or the time to
// the first token behind a prompt.
//
// In the time: what its API does around llama.cpp's decode call for each batch and each generated token (a promise, locks,
// a worker thread), and the output matrix for the last token of each call. Not in the time: tokenizing, and, but for first
// tokens, which are drawn greedily, sampling (`_noSampling`, which its own embedding context uses) and copying logits.
//
//   node node-llama-cpp.mjs MODEL THREADS FLASH(0|1) RUNS '[{"kind": "prompt", "n": 512}, {"kind": "generation", "n": 128}]'
//     ->  {"samples": {"pp512": [ns, ...], "tg128": [...]}}
//   node node-llama-cpp.mjs MODEL THREADS FLASH(0|1) RUNS '[{"kind": "first", "n": 512}]'
//     ->  {"version", "startedAt": ms since 1970, "samples": [ns, ...]}   the first token of all, and of RUNS runs after it

import { readFileSync } from "node:fs"
import { getLlama, LlamaLogLevel } from "node-llama-cpp"

const [modelPath, ...words] = process.argv.slice(2)
const [threads, flash, runs] = words.map(Number)
const tests = JSON.parse(words[3])

const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error })
const model = await llama.loadModel({ modelPath })
const contextSize = Math.max(...tests.map(({ n }) => n)) + 8
const context = await model.createContext({
  contextSize,
  batchSize: Math.min(512, contextSize), // llama-bench's -ub
  sequences: 1,
  threads: { ideal: threads, min: threads },
  flashAttention: flash === 1,
})
const sequence = context.getSequence()
const nVocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length

/** asdsl's: src/eval/speed.ts. */
function randomTokens(n) {
  let state = 1
  return Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * nVocab)
  })
}

/** One call of llama.cpp's decode, with the last token's logits. */
async function decode(tokens) {
  for await (const token of sequence.evaluate(tokens, { _noSampling: true })) throw new Error(`sampled ${token}`)
}

const evaluations = {
  prompt: decode,
  async generation(tokens) {
    for (const token of tokens) await decode([token])
  },
  async first(tokens) {
    for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) break
  },
}

async function time({ kind, n }) {
  await sequence.clearHistory()
  const tokens = randomTokens(n)
  const since = process.hrtime.bigint()
  await evaluations[kind](tokens)
  return Number(process.hrtime.bigint() - since)
}

async function measure(test) {
  const samples = []
  for (let i = 0; i < runs; i++) samples.push(await time(test))
  return samples
}

async function firstTokens(test) {
  await time(test)
  const startedAt = performance.timeOrigin + performance.now()
  const packageJson = new URL("node_modules/node-llama-cpp/package.json", import.meta.url)
  const { version } = JSON.parse(readFileSync(packageJson, "utf8"))
  return { version, startedAt, samples: await measure(test) }
}

async function passes() {
  const samples = {}
  for (const test of tests) {
    await time(test) // warm-up, as llama-bench
    samples[`${test.kind === "prompt" ? "pp" : "tg"}${test.n}`] = await measure(test)
  }
  return { samples }
}

const result = tests[0].kind === "first" ? await firstTokens(tests[0]) : await passes()
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
