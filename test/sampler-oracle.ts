// The oracle of sampler.test.ts: sampling as its definitions read, over the whole row, every step a new array, float64
// sums. Also rows as the engine would leave them, made from bare logits.

import type { Distribution, LogitRow, SamplerOptions } from "../src/sampler.ts"

type Candidate = { token: number; logit: number }

/** What a token is drawn from, by the definitions of llama.cpp's samplers in their default order. */
export function naiveDistribution(
  logits: Float32Array,
  history: readonly number[],
  options: SamplerOptions,
): Distribution {
  const { temperature = 0.8, topK = 40, topP = 0.95, minP = 0.05, repeatLastN = 64 } = options
  const window = repeatLastN < 0 ? history : history.slice(Math.max(0, history.length - repeatLastN))
  let kept: Candidate[] = [...logits].map((logit, token) => ({ token, logit: changed(logit, token, window, options) }))
  kept = kept.filter(({ logit }) => logit !== -Infinity)
  kept.sort((a, b) => b.logit - a.logit || a.token - b.token)
  if (topK > 0) kept = kept.slice(0, topK)
  kept = untilMass(kept, topP)
  kept = kept.filter(({ logit }) => logit >= kept[0]!.logit + Math.log(minP))
  if (temperature <= 0) kept = kept.slice(0, 1)
  const tempered = kept.map(({ token, logit }) => ({ token, logit: logit / (temperature <= 0 ? 1 : temperature) }))
  return {
    tokens: Int32Array.from(tempered, ({ token }) => token),
    probabilities: Float64Array.from(softmax(tempered)),
  }
}

function changed(logit: number, token: number, window: readonly number[], options: SamplerOptions): number {
  const { repeatPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, logitBias = {} } = options
  const bias = new Map(logitBias instanceof Map ? logitBias : Object.entries(logitBias).map(([k, v]) => [Number(k), v]))
  let value = logit + (bias.get(token) ?? 0)
  const count = window.filter((other) => other === token).length
  if (count > 0) {
    value = value <= 0 ? value * repeatPenalty : value / repeatPenalty
    value -= count * frequencyPenalty + presencePenalty
  }
  return Math.fround(value)
}

function softmax(candidates: readonly Candidate[]): number[] {
  const weights = candidates.map(({ logit }) => Math.exp(logit - candidates[0]!.logit))
  const total = weights.reduce((a, b) => a + b, 0)
  return weights.map((weight) => weight / total)
}

/** The fewest first candidates whose probabilities reach `mass`, one at least. */
function untilMass(candidates: readonly Candidate[], mass: number): Candidate[] {
  if (mass >= 1) return [...candidates]
  let sum = 0
  const last = softmax(candidates).findIndex((probability) => {
    sum += probability
    return sum >= mass
  })
  return candidates.slice(0, last < 0 ? candidates.length : last + 1)
}

/** A row as C leaves it: the nCandidates likeliest tokens sorted, the sum of all. */
export function rowOf(logits: Float32Array, nCandidates: number): LogitRow {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
  const max = logits[order[0]!]!
  const tokens = Int32Array.from(order.slice(0, nCandidates))
  return {
    logits,
    logsumexp: max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0)),
    argmax: order[0]!,
    nCandidates: tokens.length,
    tokens,
    candidateLogits: Float32Array.from(tokens, (token) => logits[token]!),
    nNotFinite: 0,
  }
}
