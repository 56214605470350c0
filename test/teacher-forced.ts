// llama.cpp's greedy texts as stored by bench/peers/oracle, and where a model of ours would have gone on otherwise.

import type { Model } from "../src/index.ts"

/** The cache that llama.cpp's stored outputs were made with. */
export const F16_CACHE = { typeK: "f16", typeV: "f16" } as const

export interface GreedyCase {
  readonly name: string
  readonly text: string
  readonly prompt: Int32Array
  /** llama.cpp's greedy continuation; tokens[i] follows prompt and tokens[0, i). */
  readonly tokens: Int32Array // (64)
  /** The second likeliest token at each position. */
  readonly second: Int32Array // (64)
  /** Log-probabilities of the first and the second: their gap says how close a miss was. */
  readonly top2: Float32Array // (64, 2)
}

/** How llama.cpp does on its own greedy text, evaluated again as a prompt. */
export interface SelfAgreement {
  readonly batchSize: number
  readonly nPositions: number
  readonly nMisses: number
  readonly largestGap: number
}

type StoredCase = Record<"name" | "text" | "prompt" | "tokens" | "second" | "top2", string>

export function float32(base64: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer)
}

const ids = (text: string) => Int32Array.from(text.split(" "), Number)

export function greedyCases(cases: readonly StoredCase[]): GreedyCase[] {
  return cases.map((c) => ({
    name: c.name,
    text: c.text,
    prompt: ids(c.prompt),
    tokens: ids(c.tokens),
    second: ids(c.second),
    top2: float32(c.top2),
  }))
}

/** The tokens that a model holds for likeliest after the prompt and after each of llama.cpp's own tokens but the last. */
function teacherForced(of: Model, { prompt, tokens }: GreedyCase): number[] {
  using session = of.createSession()
  session.topK = 0
  session.sync(prompt)
  const argmax = [session.row().argmax]
  session.extend(tokens.subarray(0, -1), {
    outputs: "all",
    onRows(_first, nRows) {
      for (let j = 0; j < nRows; j++) argmax.push(session.row(j).argmax)
    },
  })
  return argmax
}

/** Positions of llama.cpp's greedy text where a model's argmax is another: llama.cpp's gap between its first two, in nats.
 * The outcome is told on the console under the name `what`. */
export function misses(
  of: Model,
  cases: readonly GreedyCase[],
  what: string,
): { nPositions: number; gaps: number[]; largest: number } {
  let nPositions = 0
  const gaps: number[] = []
  for (const each of cases) {
    const ours = teacherForced(of, each)
    if (ours.length !== each.tokens.length) throw new Error(`${ours.length} rows for ${each.tokens.length} tokens`)
    nPositions += ours.length
    for (const [i, token] of ours.entries()) {
      if (token !== each.tokens[i]) gaps.push(each.top2[2 * i]! - each.top2[2 * i + 1]!)
    }
  }
  const share = ((100 * (nPositions - gaps.length)) / nPositions).toFixed(2)
  const largest = Math.max(0, ...gaps)
  console.log(
    `${what}: argmax equal at ${share} % of ${nPositions} positions, largest gap of a miss ${largest.toFixed(4)} nat`,
  )
  return { nPositions, gaps, largest }
}
