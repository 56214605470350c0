// The gemma3 architecture, its text model: most layers see a window of keys and turn by frequencies of their own, every
// sixth one sees all; embeddings are scaled, results are normed before they are added, gates are gelu. Norms' weights have
// their + 1 in the file already.

import { FormatError } from "../errors.ts"
import type { Architecture, Metadata, ModelConfig } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"

/** Keys that each layer sees. sliding_window_pattern: a flag for each layer, or that every n-th layer sees all. */
function windowsOf(m: Metadata, nLayers: number): number[] {
  const window = m.integer("attention.sliding_window", 0, 2 ** 30, 0)
  const key = "attention.sliding_window_pattern"
  const pattern = m.get(key)
  if (pattern instanceof Uint8Array) {
    if (pattern.length !== nLayers) {
      throw new FormatError(`${m.arch}.${key} has ${pattern.length} flags, the model ${nLayers} layers`)
    }
    return Array.from(pattern, (isLocal) => (isLocal ? window : 0))
  }
  const period = m.integer(key, 0, nLayers + 6, 6) // 0: no layer sees all
  return Array.from({ length: nLayers }, (_, l) => (period > 0 && l % period === period - 1 ? 0 : window))
}

function gemma3Config(m: Metadata): ModelConfig {
  const config = decoderConfig(m)
  const { nLayers, dim, nHeads, headDim } = config
  const windows = windowsOf(m, nLayers)
  // The 27 B model, of 62 layers, was trained with its width in place of the heads': gemma_pytorch, config.py.
  const scaleDim = nLayers === 62 ? Math.floor(dim / nHeads) : headDim
  return {
    ...config,
    windows,
    ...(windows.some((window) => window > 0) ? { ropeBaseLocal: m.number("rope.freq_base_swa", 1, 1e12, 10000) } : {}),
    embeddingScale: Math.sqrt(dim),
    attentionScale: 1 / Math.sqrt(scaleDim),
    attentionSoftcap: m.number("attn_logit_softcapping", 0, 1e6, 0),
    logitSoftcap: m.number("final_logit_softcapping", 0, 1e6, 0),
  }
}

export const gemma3: Architecture = {
  config: gemma3Config,
  build: (graph, config) => {
    buildDecoder(graph, config, { ropeMode: 1, hasQkNorms: true, hasPostNorms: true, activation: "gelu" })
  },
}
