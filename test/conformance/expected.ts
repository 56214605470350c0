// The stored outputs of llama.cpp and of the float reference, decoded. What each file holds is told at the top of the
// script that writes it: bench/peers/oracle/{tokens,greedy,agreement,likelihood}.mjs.

import { inflateRawSync } from "node:zlib"
import { float32, type GreedyCase, greedyCases, type SelfAgreement } from "../teacher-forced.ts"
import agreementJson from "./expected/agreement.json"
import greedyJson from "./expected/greedy.json"
import greedyFloatJson from "./expected/greedy-float.json"
import likelihoodJson from "./expected/likelihood.json"

function uint16(base64: string): Uint16Array {
  return new Uint16Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer)
}

/** Lists of token ids as tokens.mjs packs them. */
export function readTokenLists(base64: string): number[][] {
  const numbers: number[] = []
  let value = 0
  let shift = 0
  for (const byte of inflateRawSync(Buffer.from(base64, "base64"))) {
    value |= (byte & 0x7f) << shift
    shift += 7
    if (byte >= 0x80) continue
    numbers.push(value)
    value = 0
    shift = 0
  }
  const lists: number[][] = []
  for (let at = 0; at < numbers.length; at += 1 + numbers[at]!) lists.push(numbers.slice(at + 1, at + 1 + numbers[at]!))
  return lists
}

export const modelSha256 = greedyJson.provenance.modelSha256

export const greedy: readonly GreedyCase[] = greedyCases(greedyJson.cases)

/** The same prompts on the float copy of the model: every tensor as F32. */
export const greedyFloat: readonly GreedyCase[] = greedyCases(greedyFloatJson.cases)

/** How llama.cpp does on its own greedy text, evaluated as a prompt: in one batch with and without flash
 * attention, and in batches of 32. */
export const selfAgreement: readonly SelfAgreement[] = agreementJson.asPrompt

const { sample } = likelihoodJson

export const likelihood = {
  /** The text's path in the shared data. */
  path: likelihoodJson.text.path,
  /** Of the first nChunks * nCtx token ids of the whole text, little-endian int32. */
  tokensSha256: likelihoodJson.tokensSha256,
  nCtx: likelihoodJson.nCtx,
  nChunks: likelihoodJson.nChunks,
  /** The row of each chunk that is scored first, by the token after it; the last scored row is nCtx - 2. */
  first: likelihoodJson.nCtx - 1 - likelihoodJson.nScoredPerChunk,
  nScoredPerChunk: likelihoodJson.nScoredPerChunk,
  referencePerplexity: likelihoodJson.reference.perplexity,
  referenceNll: float32(likelihoodJson.reference.nll), // (nChunks * nScoredPerChunk)
  llamaPerplexity: likelihoodJson.llama.perplexity,
  llamaNll: float32(likelihoodJson.llama.nll), // (nChunks * nScoredPerChunk)
  /** llama.cpp's mean KL divergence from the reference over all scored positions and the whole vocabulary. */
  llamaMeanKl: likelihoodJson.llama.meanKl,
  /** Every sampleStep-th scored position, counted over all chunks, is sampled. */
  sampleStep: sample.step,
  nSamples: Math.ceil((likelihoodJson.nChunks * likelihoodJson.nScoredPerChunk) / sample.step),
  /** llama.cpp's mean of sampledDivergence. */
  sampleLlamaMeanKl: sample.llamaMeanKl,
}

const sampleIds = uint16(sample.ids) // (nSamples, top)
const sampleLogProbabilities = float32(sample.logProbabilities) // (nSamples, top)

/** KL(reference || q) at a sampled position, over the reference's likeliest tokens and the rest as one outcome. */
export function sampledDivergence(index: number, logProbability: (token: number) => number): number {
  let sum = 0
  let pRest = 1
  let qRest = 1
  for (let i = index * sample.top; i < (index + 1) * sample.top; i++) {
    const p = sampleLogProbabilities[i]!
    const q = logProbability(sampleIds[i]!)
    sum += Math.exp(p) * (p - q)
    pRest -= Math.exp(p)
    qRest -= Math.exp(q)
  }
  const floor = 1e-12 // rounding can leave nothing of a rest
  return sum + Math.max(pRest, floor) * Math.log(Math.max(pRest, floor) / Math.max(qRest, floor))
}

/** What the reference itself says of a sampled position. */
export function sampleReference(index: number): { ids: Uint16Array; logProbabilities: Float32Array } {
  const [from, to] = [index * sample.top, (index + 1) * sample.top]
  return { ids: sampleIds.subarray(from, to), logProbabilities: sampleLogProbabilities.subarray(from, to) }
}
