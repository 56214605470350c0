// The phi3 architecture: Phi-3, Phi-3.5 and Phi-4-mini. Queries, keys and values are one tensor, gate and up another; part
// of each head may turn, by one set of factors in contexts up to the original length and by another one beyond.

import type { Architecture, Metadata, ModelConfig } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"

const FACTORS = ["rope_factors_short.weight", "rope_factors_long.weight"]

/** Every layer sees attention.sliding_window keys (0: all), as the models' own code has it (transformers, Phi3Attention).
 * llama.cpp leaves the window out (pull request 13676): only Phi-3-mini-4k and -medium-4k, whose window is 2047, differ
 * from it, and only beyond that many tokens. */
function phi3Config(m: Metadata): ModelConfig {
  const config = decoderConfig(m)
  const window = m.integer("attention.sliding_window", 0, 2 ** 30, 0)
  const windows = config.windows.map(() => window)
  if (!FACTORS.some((name) => m.header.tensors.has(name))) return { ...config, windows }
  const nCtxOriginal = m.integer("rope.scaling.original_context_length", 1, config.nCtxTrain)
  return { ...config, windows, nCtxOriginal }
}

export const phi3: Architecture = {
  config: phi3Config,
  build: (graph, config) => buildDecoder(graph, config, { ropeMode: 1, isFused: true }),
}
