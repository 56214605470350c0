// node-llama-cpp's own speculation, run by Node for bench/peers/speculation.ts: greedy replies behind prompts given as tokens:
// plain, with its lookup in the input, or with its draft model predictor. In the time: everything from the first token to
// the last, sampling included, as there.
//
//   node speculative.mjs SETTING MODEL DRAFT|"" THREADS N_GEN CONTEXT   prompts as JSON on stdin: [[token, ...], ...]
//     ->  {"version", "replies": [{"nTokens", "milliseconds"}, ...]}

import { readFileSync } from "node:fs"
import { DraftSequenceTokenPredictor, getLlama, InputLookupTokenPredictor, LlamaLogLevel } from "node-llama-cpp"

const [setting, modelPath, draftPath, ...words] = process.argv.slice(2)
const [threads, nGen, contextSize] = words.map(Number)
const prompts = JSON.parse(readFileSync(0, "utf8"))

// Its draft predictor drafts while the model evaluates. With as many threads in each context they take turns on the cores,
// 0.5 s a token on two of them, so the threads are shared out.
const llama = await getLlama({
  ...{ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error },
  maxThreads: threads,
})

async function openContext(path) {
  const model = await llama.loadModel({ modelPath: path })
  return await model.createContext({ contextSize, batchSize: 512, sequences: 1, threads })
}

const context = await openContext(modelPath)
const draftContext = setting.startsWith("draft") ? await openContext(draftPath) : undefined

/** Its defaults, and short drafts: on a CPU a pass over many tokens costs more than their acceptance brings. */
const predictors = {
  plain: () => undefined,
  lookup: () => new InputLookupTokenPredictor(),
  "draft 4": () => new DraftSequenceTokenPredictor(draftContext.getSequence(), { maxTokens: 4 }),
  draft: () => new DraftSequenceTokenPredictor(draftContext.getSequence()),
}

async function reply(tokens, predictor) {
  const sequence = context.getSequence(predictor === undefined ? {} : { tokenPredictor: predictor })
  try {
    let nTokens = 0
    let since = 0
    for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
      if (nTokens++ === 0) since = performance.now()
      if (nTokens === nGen) break
    }
    return { nTokens: Math.max(nTokens - 1, 0), milliseconds: performance.now() - since }
  } finally {
    await sequence.dispose()
    await predictor?.draftSequence?.dispose()
  }
}

await reply(prompts[0].slice(0, 8), undefined) // pages are warm then
const replies = []
for (const tokens of prompts) replies.push(await reply(tokens, predictors[setting]()))
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url), "utf8"),
)
process.stdout.write(`${JSON.stringify({ version, replies })}\n`, () => process.exit(0))
