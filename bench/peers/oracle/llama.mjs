// llama.cpp through node-llama-cpp: opening the model, raw logits, greedy text, how far llama.cpp agrees with itself, and
// the provenance that every stored output carries.
// Run by Node. What the product's tests read are only the JSON files that these scripts write.

import { createHash } from "node:crypto"
import { createReadStream, readFileSync } from "node:fs"
import { homedir } from "node:os"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import { getLlama, LlamaLogLevel } from "node-llama-cpp"

const here = fileURLToPath(new URL(".", import.meta.url))

export const expectedFolder = join(here, "../../../test/conformance/expected")
export const cacheFolder = process.env.ASDSL_MODELS ?? join(homedir(), ".cache/asdsl")
export const defaultModel = join(cacheFolder, "models/SmolLM2-135M-Instruct.Q4_1.gguf")

/** A file of the shared test data. */
export function testData(path) {
  if (!process.env.ASDSL_TEST_DATA) throw new Error("set ASDSL_TEST_DATA to the folder of the shared test data")
  return join(process.env.ASDSL_TEST_DATA, path)
}

export async function sha256(path) {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path)) hash.update(chunk)
  return hash.digest("hex")
}

export async function openModel(path = defaultModel) {
  const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error })
  const model = await llama.loadModel({ modelPath: path })
  return { llama, model }
}

/** A context of one sequence with llama.cpp's defaults: f16 KV, flash attention "auto" unless given. */
export async function openSequence(model, { contextSize = 512, batchSize = 512, flashAttention = "auto" } = {}) {
  const context = await model.createContext({ contextSize, batchSize, sequences: 1, threads: 2, flashAttention })
  return { context, sequence: context.getSequence() }
}

/** Evaluates tokens from an empty cache and calls `onLogits(index, Float32Array)` for each index in `wanted`. */
export async function evaluateLogits(sequence, tokens, wanted, onLogits) {
  await sequence.clearHistory()
  const input = tokens.map((token, i) => (wanted.has(i) ? [token, { generateNext: { logits: true } }] : token))
  await sequence.controlledEvaluate(input, {
    onTokenResult(index, result) {
      if (!wanted.has(index)) return
      const logits = new Float32Array(result.next.logits.size).fill(Number.NaN)
      for (const [token, logit] of result.next.logits) logits[token] = logit
      onLogits(index, logits)
      result.next.logits.clear()
    },
  })
}

/** The likeliest tokens after tokens[index], best first: all a position needs, and a Map of a whole vocabulary takes long. */
async function best(sequence, tokens, wanted, n, onBest) {
  const logits = { filter: { includeTop: n } }
  const input = tokens.map((token, i) =>
    wanted.has(i) ? [token, { generateNext: { logits, totalLogitWeight: true } }] : token,
  )
  await sequence.controlledEvaluate(input, {
    onTokenResult(index, { next }) {
      if (wanted.has(index))
        onBest(
          index,
          [...next.logits].sort((a, b) => b[1] - a[1]),
          next.totalLogitWeight,
        )
    },
  })
}

/** Greedy text token by token (decode passes after one prefill), going on past ends of generation. Token lists are ids in
 * decimal between blanks. `top2` is base64 of float32, little endian: per position the log-probability of the first and
 * of the second token (to 1e-4: node-llama-cpp sums in float; their difference is exact); `second` the ids of the
 * second ones. */
export async function greedyCase(model, sequence, name, text, nTokens) {
  const prompt = Array.from(model.tokenize(text, true))
  await sequence.clearHistory()
  const tokens = []
  const second = []
  const top2 = new Float32Array(2 * nTokens)
  let input = prompt
  for (let i = 0; i < nTokens; i++) {
    await best(sequence, input, new Set([input.length - 1]), 2, (_index, [[a, logitA], [b, logitB]], total) => {
      top2[2 * i] = -Math.log(total) // sum of exp(logit - the largest)
      top2[2 * i + 1] = top2[2 * i] + logitB - logitA
      tokens.push(a)
      second.push(b)
    })
    input = tokens.slice(-1)
  }
  console.log(`${name}: ${JSON.stringify(model.detokenize(tokens, true))}`)
  return {
    name,
    text,
    prompt: prompt.join(" "),
    tokens: tokens.join(" "),
    second: second.join(" "),
    top2: Buffer.from(top2.buffer).toString("base64"),
  }
}

/** Greedy cases evaluated again as prompts: where another token is the likeliest now, and by how much it was not then. */
export async function selfAgreement(model, cases, { flashAttention, batchSize }) {
  const { context, sequence } = await openSequence(model, { flashAttention, batchSize })
  const ids = (text) => text.split(" ").map(Number)
  const gaps = []
  let nPositions = 0
  for (const each of cases) {
    const [prompt, tokens] = [ids(each.prompt), ids(each.tokens)]
    const top2 = new Float32Array(Uint8Array.from(Buffer.from(each.top2, "base64")).buffer)
    const wanted = new Set(tokens.map((_, i) => prompt.length - 1 + i))
    await sequence.clearHistory()
    await best(sequence, [...prompt, ...tokens.slice(0, -1)], wanted, 1, (index, [[token]]) => {
      const i = index - prompt.length + 1
      nPositions++
      if (token !== tokens[i]) gaps.push(top2[2 * i] - top2[2 * i + 1])
    })
  }
  await context.dispose()
  const result = { flashAttention, batchSize, nPositions, nMisses: gaps.length, largestGap: Math.max(0, ...gaps) }
  console.log(JSON.stringify(result))
  return result
}

export async function provenance(script, modelPath) {
  const packageOf = (name) =>
    JSON.parse(readFileSync(join(here, "../node_modules", name, "package.json"), "utf8")).version
  const release = JSON.parse(
    readFileSync(join(here, "../node_modules/node-llama-cpp/llama/binariesGithubRelease.json"), "utf8"),
  ).release
  return {
    peer: "node-llama-cpp",
    peerVersion: packageOf("node-llama-cpp"),
    binary: `@node-llama-cpp/linux-x64 ${packageOf("@node-llama-cpp/linux-x64")}`,
    llamaCppRelease: release,
    model: basename(modelPath),
    modelSha256: await sha256(modelPath),
    date: new Date().toISOString().slice(0, 10),
    command: `ASDSL_TEST_DATA=... node bench/peers/oracle/${script}`,
  }
}

/** sum exp(logits), as log, in double precision */
export function logSumExp(logits) {
  let max = Number.NEGATIVE_INFINITY
  for (const x of logits) if (x > max) max = x
  let sum = 0
  for (const x of logits) sum += Math.exp(x - max)
  return max + Math.log(sum)
}
