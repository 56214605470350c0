// Speed by llama-bench's conventions: what a test evaluates, how long it takes, and the work it does by the model's sizes,
// to be held against the machine's two limits. Random tokens; neither tokenizing nor sampling is in the time, the
// reduction of each logits row to its stats is. Knows no terminal and no peer.

import { DEFAULT_KV_TYPE, type KvType } from "../load-options.ts"
import type { Model } from "../model.ts"
import type { Session } from "../session.ts"

/** nPrompt tokens in passes of nUbatch, then nGen one by one, or else nVerify in one pass with a row of logits for each, as a
 * draft is verified; behind nDepth that are not timed. */
export interface SpeedTest {
  readonly nPrompt: number
  readonly nGen: number
  readonly nDepth: number
  /** Absent: 0. */
  readonly nVerify?: number
}

/** llama-bench's name of a test: pp512, tg128, pp512+tg128, tg128 @ d4096; verify8 of one that it does not have. */
export function testName({ nPrompt, nGen, nDepth, nVerify = 0 }: SpeedTest): string {
  const lengths = { pp: nPrompt, tg: nGen, verify: nVerify }
  const parts = Object.entries(lengths).flatMap(([name, n]) => (n > 0 ? [`${name}${n}`] : []))
  return `${parts.join("+")}${nDepth > 0 ? ` @ d${nDepth}` : ""}`
}

/** Tokens of a context that holds a test. */
export function testLength({ nPrompt, nGen, nDepth, nVerify = 0 }: SpeedTest): number {
  return nDepth + nPrompt + nGen + nVerify
}

/** What one run of a test reads and computes. */
export interface Work {
  /** Weight bytes read for a generated token; a tied output matrix counts, a table that is only gathered from does not. */
  readonly weightBytesPerToken: number
  /** Bytes of keys and values read for a generated token, on average over the test. */
  readonly kvBytesPerToken: number
  /** Multiply-accumulates of the matrices, the output matrix for its rows alone. */
  readonly matrixMacs: number
  /** Of attention: a query and each key before it, a weight and each value. */
  readonly attentionMacs: number
}

/** Bytes of a token's head, without the padding of odd sizes. */
export function headBytes(type: KvType, headDim: number): number {
  return type === "q8_0" ? headDim + 4 : headDim * (type === "f16" ? 2 : 4)
}

/** Element types of cached keys and values; absent: the default. */
export interface KvTypes {
  typeK?: KvType
  typeV?: KvType
}

export function workOf(model: Model, test: SpeedTest, types: KvTypes = {}): Work {
  const { nLayers, nHeads, nKvHeads, headDim } = model.config
  const { nPrompt, nGen, nDepth, nVerify = 0 } = test
  // Token i of the test, counted from 0, sees nDepth + i + 1 tokens, itself included.
  const seenBy = (first: number, n: number) => n * (nDepth + first) + (n * (n + 1)) / 2
  const { typeK = DEFAULT_KV_TYPE, typeV = DEFAULT_KV_TYPE } = types
  const rowBytes = headBytes(typeK, headDim) + headBytes(typeV, headDim)
  const kvBytes = nLayers * nKvHeads * rowBytes * seenBy(nPrompt, nGen)
  const nTokens = nPrompt + nGen + nVerify
  const nOutputs = (nPrompt > 0 ? 1 : 0) + nGen + nVerify
  return {
    weightBytesPerToken: model.streamedBytes,
    kvBytesPerToken: nGen > 0 ? kvBytes / nGen : 0,
    matrixMacs: model.macsPerToken * nTokens + model.macsPerOutput * nOutputs,
    attentionMacs: 2 * nLayers * nHeads * headDim * seenBy(0, nTokens),
  }
}

/** Token ids as good as any: a linear congruential generator (Numerical Recipes), the same for every run. */
export function randomTokens(n: number, nVocab: number): Int32Array {
  let state = 1
  return Int32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * nVocab)
  })
}

/** Runs a test once and returns its nanoseconds. The session keeps the test's depth for the next run. */
export function runTest(session: Session, test: SpeedTest): number {
  const { nPrompt, nGen, nDepth, nVerify = 0 } = test
  const tokens = randomTokens(testLength(test), session.model.config.nVocab)
  if (session.tokens.length > nDepth) session.truncate(nDepth)
  const missing = tokens.subarray(session.tokens.length, nDepth)
  if (missing.length > 0) session.extend(missing, { outputs: "none" })
  const since = Bun.nanoseconds()
  if (nVerify > 0) session.extend(tokens.subarray(nDepth), { outputs: "all" })
  if (nPrompt > 0) session.extend(tokens.subarray(nDepth, nDepth + nPrompt))
  for (let i = nDepth + nPrompt; i < nDepth + nPrompt + nGen; i++) session.extend(tokens.subarray(i, i + 1))
  return Bun.nanoseconds() - since
}
