// The qwen3moe architecture (Qwen3-30B-A3B): qwen3 with a mixture of experts in every layer, the weights of those chosen
// adding up to 1.

import type { Architecture } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"
import { expertsConfig } from "./experts.ts"

export const qwen3moe: Architecture = {
  config: (metadata) => {
    const config = decoderConfig(metadata, true)
    return { ...config, experts: expertsConfig(metadata, config.nFfn, true) }
  },
  build: (graph, config) => buildDecoder(graph, config, { ropeMode: 1, hasQkNorms: true }),
}
