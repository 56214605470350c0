// llama.cpp through node-llama-cpp: opening the model, raw logits, and the provenance that every stored output carries.
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
