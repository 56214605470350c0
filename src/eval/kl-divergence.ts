// KL divergence of a model's distributions from stored ones, with llama-perplexity's figures. Tokens that the base holds
// for less likely than exp(-16) are left out of a row's sum, as there.

import { ArgumentError } from "../errors.ts"
import type { OutputRow } from "../executor.ts"
import type { Model } from "../model.ts"
import type { LogitsReader } from "./logits-file.ts"
import { scoreChunk } from "./perplexity.ts"
import { covarianceOfMeans, percentile, Sums } from "./statistics.ts"

const LEAST_LOG_PROBABILITY = -16

export interface Estimate {
  readonly value: number
  /** Standard error. */
  readonly error: number
}

export interface DivergenceResult {
  readonly nChunks: number
  readonly nScored: number
  readonly perplexity: Estimate
  readonly basePerplexity: Estimate
  /** ln(PPL / PPL(base)) */
  readonly logRatio: Estimate
  readonly ratio: Estimate
  readonly difference: Estimate
  /** Correlation of the two models' ln PPL. */
  readonly correlation: number
  readonly divergence: Estimate
  /** Difference of the probabilities of the actual next token, model minus base. */
  readonly probabilityDifference: Estimate
  /** Its root mean square. */
  readonly probabilityDifferenceRms: Estimate
  /** Share of rows whose likeliest token is the base's. */
  readonly sameTop: Estimate
}

/** A row of stored log-probabilities: minimum + scale * codes. */
export interface BaseRow {
  readonly scale: number
  readonly minimum: number
  readonly codes: Uint16Array
}

/** KL(base || row) and the base's likeliest token, the smallest id on a tie. */
export function divergenceOf({ scale, minimum, codes }: BaseRow, { logits, logsumexp }: OutputRow) {
  // Codes rise with log-probabilities, so the threshold and the likeliest token are found in codes.
  const least = scale > 0 ? (LEAST_LOG_PROBABILITY - minimum) / scale : minimum > LEAST_LOG_PROBABILITY ? -1 : 0
  let sum = 0
  let top = 0
  let topCode = -1
  for (let token = 0; token < codes.length; token++) {
    const code = codes[token]!
    if (code > topCode) {
      topCode = code
      top = token
    }
    if (code <= least) continue
    const p = minimum + scale * code
    sum += Math.exp(p) * (p - logits[token]! + logsumexp)
  }
  return { divergence: sum, top }
}

/** What llama-perplexity keeps of every row. */
export class DivergenceSums {
  readonly #nll = new Sums()
  readonly #baseNll = new Sums()
  readonly #divergence = new Sums()
  readonly #difference = new Sums()
  readonly #squaredDifference = new Sums()
  readonly #divergences: number[] = []
  readonly #differences: number[] = []
  #nllProducts = 0
  #nSameTop = 0

  add(base: BaseRow, row: OutputRow, next: number): void {
    const nll = row.logsumexp - row.logits[next]!
    const baseNll = -(base.minimum + base.scale * base.codes[next]!)
    const { divergence, top } = divergenceOf(base, row)
    const difference = Math.exp(-nll) - Math.exp(-baseNll)
    this.#nll.add(nll)
    this.#baseNll.add(baseNll)
    this.#nllProducts += nll * baseNll
    this.#divergence.add(divergence)
    this.#difference.add(difference)
    this.#squaredDifference.add(difference ** 2)
    this.#divergences.push(divergence)
    this.#differences.push(difference)
    if (top === row.argmax) this.#nSameTop++
  }

  get count(): number {
    return this.#nll.count
  }

  result(nChunks: number): DivergenceResult {
    const [a, b] = [this.#nll, this.#baseNll]
    const covariance = covarianceOfMeans(a, b, this.#nllProducts)
    const perplexity = exponential(a)
    const basePerplexity = exponential(b)
    const logRatio = {
      value: a.mean - b.mean,
      error: Math.sqrt(Math.max(a.error ** 2 + b.error ** 2 - 2 * covariance, 0)),
    }
    const ratio = Math.exp(logRatio.value)
    const product = perplexity.value * basePerplexity.value
    const differenceVariance = perplexity.error ** 2 + basePerplexity.error ** 2 - 2 * product * covariance
    const rms = Math.sqrt(this.#squaredDifference.mean)
    const same = this.#nSameTop / this.count
    return {
      nChunks,
      nScored: this.count,
      perplexity,
      basePerplexity,
      logRatio,
      ratio: { value: ratio, error: ratio * logRatio.error },
      difference: {
        value: perplexity.value - basePerplexity.value,
        error: Math.sqrt(Math.max(differenceVariance, 0)),
      },
      correlation: covariance / (a.error * b.error),
      divergence: estimate(this.#divergence),
      probabilityDifference: estimate(this.#difference),
      probabilityDifferenceRms: { value: rms, error: rms > 0 ? (0.5 / rms) * this.#squaredDifference.error : 0 },
      sameTop: { value: same, error: Math.sqrt((same * (1 - same)) / Math.max(this.count - 1, 1)) },
    }
  }

  /** The row divergences at fractions 0 (least) to 1 (largest). */
  divergencePercentiles(fractions: readonly number[]): number[] {
    return percentiles(this.#divergences, fractions)
  }

  /** The same of the probability differences. */
  differencePercentiles(fractions: readonly number[]): number[] {
    return percentiles(this.#differences, fractions)
  }
}

function estimate(sums: Sums): Estimate {
  return { value: sums.mean, error: sums.error }
}

function exponential(sums: Sums): Estimate {
  const value = Math.exp(sums.mean)
  return { value, error: value * sums.error }
}

function percentiles(values: readonly number[], fractions: readonly number[]): number[] {
  const ascending = Float64Array.from(values).sort()
  return fractions.map((fraction) => percentile(ascending, fraction))
}

export interface DivergenceOptions {
  /** Chunks at most; absent: all of the file. */
  nChunks?: number
  /** After each chunk; waited for. */
  onChunk?(nDone: number, nChunks: number, sums: DivergenceSums): void | Promise<void>
  signal?: AbortSignal
}

/** Compares a model with stored log-probabilities over the tokens stored with them. */
export async function klDivergence(
  model: Model,
  base: LogitsReader,
  options: DivergenceOptions = {},
): Promise<DivergenceSums> {
  const { nCtx, nVocab, nChunks: stored } = base.header
  if (nVocab !== model.config.nVocab) {
    throw new ArgumentError(`the base has a vocabulary of ${nVocab}, the model one of ${model.config.nVocab}`)
  }
  const nChunks = Math.min(stored, options.nChunks ?? stored)
  const sums = new DivergenceSums()
  for (let chunk = 0; chunk < nChunks; chunk++) {
    const rows = base.next()
    const tokens = base.tokens.subarray(chunk * nCtx, (chunk + 1) * nCtx)
    scoreChunk(model, tokens, (row, index, next) => sums.add(rows.row(index), row, next), options.signal)
    await options.onChunk?.(chunk + 1, nChunks, sums)
  }
  return sums
}
