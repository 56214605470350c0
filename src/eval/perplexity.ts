// Perplexity by llama-perplexity's conventions: the text is tokenised whole and cut into chunks of nCtx tokens, each
// evaluated from an empty cache, its first token replaced by BOS where the model adds one. The second half of a chunk is
// scored: row i, nCtx/2 <= i <= nCtx - 2, by the token after it. Knows nothing of files, terminals and other models.

import { ArgumentError } from "../errors.ts"
import type { OutputRow } from "../executor.ts"
import type { Model } from "../model.ts"
import { checkInteger } from "../native/handles.ts"
import type { Tokenizer } from "../tokenizer/types.ts"
import { Sums } from "./statistics.ts"

export interface PerplexityOptions {
  /** Tokens of a chunk. Default 512. */
  nCtx?: number
  /** Chunks at most; absent: all. */
  nChunks?: number
  /** Each scored row, in order: its place among all scored rows and the token that follows. The row is valid until the
   * function returns. */
  onRow?(row: OutputRow, index: number, next: number): void
  /** After each chunk, with the result so far; waited for, and with it the event loop has its turn. */
  onChunk?(nDone: number, nChunks: number, sofar: PerplexityResult): void | Promise<void>
  signal?: AbortSignal
}

export interface PerplexityResult {
  readonly perplexity: number
  /** Standard error of the perplexity. */
  readonly error: number
  /** Mean negative log-likelihood, in nats. */
  readonly nll: number
  readonly nChunks: number
  readonly nScored: number
}

/** The tokens of a text as llama-perplexity has them: BOS in front where the model adds one, never EOS. */
export function evaluationTokens(tokenizer: Tokenizer, text: string): Int32Array {
  const tokens = tokenizer.encode(text)
  return tokenizer.addBos ? Int32Array.from([tokenizer.bos!, ...tokens]) : tokens
}

/** Chunks that `nTokens` tokens give. Two are the least, as in llama-perplexity: one alone says little. */
export function chunksOf(nTokens: number, nCtx: number, wanted?: number): number {
  checkInteger("nCtx", nCtx, 4, 2 ** 30)
  if (nTokens < 2 * nCtx) {
    throw new ArgumentError(`the text has ${nTokens} tokens, a context of ${nCtx} needs at least ${2 * nCtx}`)
  }
  const all = Math.floor(nTokens / nCtx)
  return wanted === undefined ? all : Math.min(all, checkInteger("nChunks", wanted, 1, 2 ** 30))
}

/** The first row of a chunk that is scored, and how many are. */
export function scoredRows(nCtx: number): { first: number; count: number } {
  const first = Math.floor(nCtx / 2)
  return { first, count: nCtx - 1 - first }
}

/** Evaluates one chunk and hands out its scored rows. The token behind the last scored row decides nothing, so it is not
 * evaluated. */
export function scoreChunk(
  model: Model,
  chunk: Int32Array,
  onRow: (row: OutputRow, index: number, next: number) => void,
  signal?: AbortSignal,
): void {
  const { first } = scoredRows(chunk.length)
  const { tokenizer } = model
  const tokens = chunk.slice(0, -1)
  if (tokenizer.addBos) tokens[0] = tokenizer.bos!
  using session = model.createSession({ nCtx: chunk.length })
  session.topK = 0
  const options = signal === undefined ? {} : { signal }
  session.extend(tokens.subarray(0, first), { ...options, outputs: "none" })
  session.extend(tokens.subarray(first), {
    ...options,
    outputs: "all",
    onRows(firstRow, nRows) {
      for (let j = 0; j < nRows; j++) onRow(session.row(j), firstRow + j, chunk[first + firstRow + j + 1]!)
    },
  })
}

/** Perplexity of `tokens` (see evaluationTokens). */
export async function perplexity(
  model: Model,
  tokens: Int32Array,
  options: PerplexityOptions = {},
): Promise<PerplexityResult> {
  const nCtx = options.nCtx ?? 512
  const nChunks = chunksOf(tokens.length, nCtx, options.nChunks)
  const losses = new Sums()
  let result = resultOf(losses, 0)
  for (let chunk = 0; chunk < nChunks; chunk++) {
    const part = tokens.subarray(chunk * nCtx, (chunk + 1) * nCtx)
    const score = (row: OutputRow, _index: number, next: number) => {
      const index = losses.count
      losses.add(row.logsumexp - row.logits[next]!)
      options.onRow?.(row, index, next)
    }
    scoreChunk(model, part, score, options.signal)
    result = resultOf(losses, chunk + 1)
    await options.onChunk?.(chunk + 1, nChunks, result)
  }
  return result
}

function resultOf(losses: Sums, nChunks: number): PerplexityResult {
  const perplexity = Math.exp(losses.mean)
  return { perplexity, error: perplexity * losses.error, nll: losses.mean, nChunks, nScored: losses.count }
}
