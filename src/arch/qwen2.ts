// The qwen2 architecture: Qwen2 and Qwen2.5. Queries, keys and values have biases.

import type { Architecture } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"

export const qwen2: Architecture = {
  config: decoderConfig,
  build: (graph, config) => buildDecoder(graph, config, { ropeMode: 1 }),
}
