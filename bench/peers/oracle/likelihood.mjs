// llama.cpp's likelihoods over 16 x 512 tokens of WikiText-2, and its distance from a float-activation forward pass on
// the same positions -> test/conformance/expected/likelihood.json
//
// The convention is llama-perplexity's: the file is tokenised whole (BOS only where the model adds one), cut into chunks
// of 512, each evaluated from an empty cache; positions 256 to 510 of each are scored, 255 a chunk, 4,080 in all.
// The reference is reference.py (double precision). Its full distributions, 800 MB, are kept in oracle/wikitext2-512
// under $ASDSL_MODELS, else ~/.cache/asdsl, and made when missing: reference-NN.f32 holds (255, n_vocab) float32
// log-probabilities of chunk NN, tokens.i32 the (16, 512) token ids.
//
// In the JSON, base64 holds little-endian float32 (nll, logProbabilities, kl) or uint16 (ids):
//   nll               (4080) negative log-likelihood of the next token at each scored position
//   sample            every 8th scored position (510): the reference's 24 likeliest tokens with their log-probabilities;
//                     the rest of the mass is one more outcome. `kl` is KL(reference || llama.cpp) per sampled position
//                     over these 25 outcomes: never more than the KL over the whole vocabulary, and measured in the same
//                     way for anything compared with it.

import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import {
  cacheFolder,
  defaultModel,
  evaluateLogits,
  expectedFolder,
  logSumExp,
  openModel,
  openSequence,
  provenance,
  sha256,
  testData,
} from "./llama.mjs"

const N_CTX = 512
const N_CHUNKS = 16
const FIRST = N_CTX / 2
const N_SCORED = N_CTX - 1 - FIRST // a chunk
const SAMPLE_STEP = 8
const TOP = 24
const TEXT = "text/wikitext2-valid-tokens.txt"

const { model } = await openModel()
const folder = join(cacheFolder, "oracle/wikitext2-512")
mkdirSync(folder, { recursive: true })
const tokens = Int32Array.from(model.tokenize(readFileSync(testData(TEXT), "utf8"), false)).slice(0, N_CTX * N_CHUNKS)
writeFileSync(join(folder, "tokens.i32"), tokens)

const referencePath = (chunk) => join(folder, `reference-${String(chunk).padStart(2, "0")}.f32`)
if (!existsSync(referencePath(N_CHUNKS - 1))) {
  const script = fileURLToPath(new URL("reference.py", import.meta.url))
  const run = spawnSync("python3", [script, defaultModel, folder, String(N_CHUNKS)], { stdio: "inherit" })
  if (run.status !== 0) throw new Error("reference.py failed")
}
function readReference(chunk) {
  const bytes = readFileSync(referencePath(chunk))
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

const nVocab = readReference(0).length / N_SCORED
const nSampled = Math.ceil((N_SCORED * N_CHUNKS) / SAMPLE_STEP)
const referenceNll = new Float32Array(N_SCORED * N_CHUNKS)
const sampleIds = new Uint16Array(nSampled * TOP)
const sampleLogProbabilities = new Float32Array(nSampled * TOP)
for (let chunk = 0; chunk < N_CHUNKS; chunk++) {
  const rows = readReference(chunk)
  for (let j = 0; j < N_SCORED; j++) {
    const row = rows.subarray(j * nVocab, (j + 1) * nVocab)
    const at = chunk * N_SCORED + j
    referenceNll[at] = -row[tokens[chunk * N_CTX + FIRST + j + 1]]
    if (at % SAMPLE_STEP !== 0) continue
    const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a])
    for (let i = 0; i < TOP; i++) {
      sampleIds[(at / SAMPLE_STEP) * TOP + i] = order[i]
      sampleLogProbabilities[(at / SAMPLE_STEP) * TOP + i] = row[order[i]]
    }
  }
}

/** KL(p || q) of log-probabilities */
function divergence(p, q) {
  let sum = 0
  for (let i = 0; i < p.length; i++) sum += Math.exp(p[i]) * (p[i] - q[i])
  return sum
}

/** The same with everything outside the sample's ids as one outcome. */
function sampledDivergence(sample, q) {
  let sum = 0
  let pRest = 1
  let qRest = 1
  for (let i = 0; i < TOP; i++) {
    const p = sampleLogProbabilities[sample * TOP + i]
    const other = q[sampleIds[sample * TOP + i]]
    sum += Math.exp(p) * (p - other)
    pRest -= Math.exp(p)
    qRest -= Math.exp(other)
  }
  return sum + Math.max(pRest, 1e-12) * Math.log(Math.max(pRest, 1e-12) / Math.max(qRest, 1e-12))
}

async function measure(flashAttention) {
  const { context, sequence } = await openSequence(model, { contextSize: N_CTX, batchSize: N_CTX, flashAttention })
  const nll = new Float32Array(N_SCORED * N_CHUNKS)
  const sampledKl = new Float32Array(nSampled)
  let kl = 0
  let agreeing = 0
  for (let chunk = 0; chunk < N_CHUNKS; chunk++) {
    const rows = readReference(chunk)
    const ids = Array.from(tokens.subarray(chunk * N_CTX, (chunk + 1) * N_CTX))
    const wanted = new Set(Array.from({ length: N_SCORED }, (_, j) => FIRST + j))
    await evaluateLogits(sequence, ids, wanted, (index, logits) => {
      const j = index - FIRST
      const at = chunk * N_SCORED + j
      const lse = logSumExp(logits)
      const q = Float64Array.from(logits, (x) => x - lse)
      const p = rows.subarray(j * nVocab, (j + 1) * nVocab)
      nll[at] = -q[ids[index + 1]]
      kl += divergence(p, q)
      if (largest(p) === largest(q)) agreeing += 1
      if (at % SAMPLE_STEP === 0) sampledKl[at / SAMPLE_STEP] = sampledDivergence(at / SAMPLE_STEP, q)
    })
    console.log(`llama.cpp (flash attention ${flashAttention}): chunk ${chunk + 1} of ${N_CHUNKS}`)
  }
  await context.dispose()
  return { nll, sampledKl, meanKl: kl / nll.length, sameTop: agreeing / nll.length }
}

function largest(values) {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i
  return best
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length
const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64")

const llama = await measure("auto")
const plain = await measure(false)
const output = {
  provenance: {
    ...(await provenance("likelihood.mjs", defaultModel)),
    reference: "bench/peers/oracle/reference.py: numpy, double precision, weights dequantised by the package gguf",
  },
  text: { path: TEXT, sha256: await sha256(testData(TEXT)) },
  nCtx: N_CTX,
  nChunks: N_CHUNKS,
  nScoredPerChunk: N_SCORED,
  tokensSha256: createHash("sha256").update(tokens).digest("hex"),
  reference: { perplexity: Math.exp(mean(referenceNll)), nll: base64(referenceNll) },
  llama: {
    perplexity: Math.exp(mean(llama.nll)),
    meanKl: llama.meanKl,
    sameTop: llama.sameTop,
    nll: base64(llama.nll),
  },
  llamaWithoutFlashAttention: {
    perplexity: Math.exp(mean(plain.nll)),
    meanKl: plain.meanKl,
    sameTop: plain.sameTop,
    sampleMeanKl: mean(plain.sampledKl),
  },
  sample: {
    step: SAMPLE_STEP,
    top: TOP,
    ids: base64(sampleIds),
    logProbabilities: base64(sampleLogProbabilities),
    llamaMeanKl: mean(llama.sampledKl),
    llamaKl: base64(llama.sampledKl),
  },
}
mkdirSync(expectedFolder, { recursive: true })
writeFileSync(join(expectedFolder, "likelihood.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
