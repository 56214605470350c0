// The line below a reply: how fast it came, and what share of the machine's limit that is.

import type { GenerationResult } from "../generate.ts"
import type { Speculation } from "../speculative/accept.ts"

export interface Limit {
  /** Weight bytes that a pass reads. */
  readonly streamedBytes: number
  /** Bytes that the machine reads in a second; undefined where it was not measured. */
  readonly bytesPerSecond: number | undefined
}

/** Tokens a second behind the first token; undefined where there was no second one. */
export function generationRate({ nGenerated, generationMs }: GenerationResult): number | undefined {
  return nGenerated > 1 && generationMs > 0 ? (1000 * (nGenerated - 1)) / generationMs : undefined
}

export function footer(result: GenerationResult, limit: Limit): string {
  const { nPromptTokens, nReused, nGenerated, promptMs, firstTokenMs, finishReason, speculation } = result
  const nEvaluated = nPromptTokens - nReused
  const reused = nReused > 0 ? ` (and ${nReused} reused)` : ""
  const parts = [
    `prompt ${nEvaluated} tokens${reused}${promptMs > 0 ? `, ${rate((1000 * nEvaluated) / promptMs)}` : ""}`,
  ]
  if (nGenerated > 0) {
    const perSecond = generationRate(result)
    parts.push(`reply ${nGenerated} tokens${perSecond === undefined ? "" : `, ${rate(perSecond)}`}`)
    parts.push(`first token ${Math.round(firstTokenMs)} ms`)
    if (perSecond !== undefined && limit.bytesPerSecond !== undefined) {
      parts.push(share((1000 * speculation.nPasses) / result.generationMs, limit))
    }
    if (speculation.nDrafted > 0) parts.push(drafts(speculation))
  }
  if (finishReason === "length") parts.push("ended by -n")
  if (finishReason === "context") parts.push("ended because the context is full")
  if (finishReason === "cancelled") parts.push("stopped")
  return `[ ${parts.join(" · ")} ]`
}

function drafts({ nDrafted, nAccepted, acceptanceRate, tokensPerPass, estimatedSpeedUp }: Speculation): string {
  const percent = Math.round(100 * (acceptanceRate ?? 0))
  const gain = estimatedSpeedUp === undefined ? "" : `, about ${estimatedSpeedUp.toFixed(2)} times as fast as without`
  return `${nAccepted} of ${nDrafted} drafted accepted (${percent} %), ${(tokensPerPass ?? 1).toFixed(2)} tokens a pass${gain}`
}

/** A pass reads the weights once, whatever it verifies. */
function share(perSecond: number, { streamedBytes, bytesPerSecond = 0 }: Limit): string {
  const read = streamedBytes * perSecond
  const percent = Math.round((100 * read) / bytesPerSecond)
  return `${percent} % of the roofline (${(read / 1e9).toFixed(1)} of ${(bytesPerSecond / 1e9).toFixed(1)} GB/s)`
}

function rate(perSecond: number): string {
  return `${perSecond < 100 ? perSecond.toFixed(1) : Math.round(perSecond)} tok/s`
}
