// Greedy text by node-llama-cpp, for bench/hyperfine.sh: a whole process from start to the last token.
//
//   node generate.mjs MODEL THREADS N PROMPT

import { getLlama, LlamaLogLevel } from "node-llama-cpp"

const [modelPath, threads, n, prompt] = process.argv.slice(2)
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error })
const model = await llama.loadModel({ modelPath })
const tokens = model.tokenize(prompt)
const context = await model.createContext({
  contextSize: tokens.length + Number(n) + 8,
  sequences: 1,
  threads: { ideal: Number(threads), min: Number(threads) },
})
const generated = []
for await (const token of context.getSequence().evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
  generated.push(token)
  process.stdout.write(model.detokenize([token], true, generated.slice(0, -1).slice(-4)))
  if (generated.length === Number(n)) break
}
process.stdout.write("\n", () => process.exit(0))
