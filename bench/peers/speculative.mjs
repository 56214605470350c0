// node-llama-cpp's own speculation, run by Node for bench/speculative.ts: greedy replies behind prompts given as tokens, plain,
// with its lookup in the input, and with its draft model predictor. In the time: everything from the first token to the last,
// sampling included, as there.
//
//   node speculative.mjs MODEL DRAFT|"" THREADS N_GEN CONTEXT   prompts as JSON on stdin: [[token, ...], ...]
//     ->  {"version", "results": {"plain": [{"nTokens", "milliseconds"}, ...], "lookup": ..., "draft 4": ..., "draft": ...}}

import { readFileSync } from "node:fs"
import { DraftSequenceTokenPredictor, getLlama, InputLookupTokenPredictor, LlamaLogLevel } from "node-llama-cpp"

const [modelPath, draftPath, ...words] = process.argv.slice(2)
const [threads, nGen, contextSize] = words.map(Number)
const prompts = JSON.parse(readFileSync(0, "utf8"))

const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error })

async function openContext(path) {
  const model = await llama.loadModel({ modelPath: path })
  return await model.createContext({
    contextSize,
    batchSize: 512,
    sequences: 1,
    threads: { ideal: threads, min: threads },
  })
}

const context = await openContext(modelPath)
const draftContext = draftPath === "" ? undefined : await openContext(draftPath)

/** Its defaults, and short drafts: on a CPU a pass over many tokens costs more than their acceptance brings. */
const settings = {
  plain: () => undefined,
  lookup: () => new InputLookupTokenPredictor(),
  ...(draftContext === undefined
    ? {}
    : {
        "draft 4": () => new DraftSequenceTokenPredictor(draftContext.getSequence(), { maxTokens: 4 }),
        draft: () => new DraftSequenceTokenPredictor(draftContext.getSequence()),
      }),
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

const results = Object.fromEntries(Object.keys(settings).map((name) => [name, []]))
await reply(prompts[0].slice(0, 8), undefined) // pages are warm then
for (const tokens of prompts) {
  for (const [name, predictor] of Object.entries(settings)) results[name].push(await reply(tokens, predictor()))
}
const { version } = JSON.parse(
  readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url), "utf8"),
)
process.stdout.write(`${JSON.stringify({ version, results })}\n`, () => process.exit(0))
