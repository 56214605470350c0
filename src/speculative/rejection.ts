// The rejection rule of speculative sampling (Leviathan et al. 2023, theorem 1; Chen et al. 2023, theorem 1): what it gives
// is distributed as the target's token, whatever the draft was drawn from. All that a sampler does to logits is done to both
// distributions before.

import { Random } from "../random.ts"
import type { Distribution, LogitRow, TokenSampler } from "../sampler.ts"
import type { DraftSampler } from "./drafter.ts"

/** A sampler that says what it draws from, and draws random numbers for others. */
export interface OpenSampler extends TokenSampler {
  distribution(row: LogitRow, history: ArrayLike<number>): Distribution
  /** The next of its random numbers, in [0, 1). */
  random(): number
  /** Always the likeliest token: nothing is drawn. */
  readonly isGreedy: boolean
}

export function isOpen(sampler: TokenSampler | undefined): sampler is OpenSampler {
  return sampler !== undefined && "distribution" in sampler && "random" in sampler && "isGreedy" in sampler
}

/** The token for a place where `drafted` was drawn from `q` and the target would draw from `p`: the drafted one with
 * probability min(1, p / q), else one drawn from max(0, p - q). */
export function drawByRejection(p: Distribution, q: Distribution, drafted: number, random: () => number): number {
  if (random() * probabilityOf(q, drafted) < probabilityOf(p, drafted)) return drafted
  const byToken = new Map<number, number>()
  for (const [i, token] of q.tokens.entries()) byToken.set(token, q.probabilities[i]!)
  const rest = p.probabilities.map((probability, i) => Math.max(0, probability - (byToken.get(p.tokens[i]!) ?? 0)))
  // Nothing is left where p is q but for rounding.
  return drawFrom(p.tokens, rest.some((weight) => weight > 0) ? rest : p.probabilities, random)
}

/** Draws by weights, which need not add up to 1. */
export function drawFrom(tokens: Int32Array, weights: Float64Array, random: () => number): number {
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0)
  let last = 0 // the last token that can be drawn: rounding may leave something
  for (const [i, weight] of weights.entries()) {
    if (weight === 0) continue
    left -= weight
    last = tokens[i]!
    if (left < 0) break
  }
  return last
}

function probabilityOf({ tokens, probabilities }: Distribution, token: number): number {
  const i = tokens.indexOf(token)
  return i < 0 ? 0 : probabilities[i]!
}

/** What a draft model draws with: the sampler's own distributions, and random numbers of its own. */
export function draftSampler(sampler: OpenSampler): DraftSampler {
  const random = new Random((sampler.seed ^ 0x5bd1e995) >>> 0)
  return {
    distribution: (row, history) => sampler.distribution(row, history),
    draw: ({ tokens, probabilities }) => drawFrom(tokens, probabilities, () => random.double()),
  }
}
