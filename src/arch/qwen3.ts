// The qwen3 architecture: no biases, but a norm over each head of queries and keys; heads need not add up to the width.

import type { Architecture } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"

export const qwen3: Architecture = {
  config: decoderConfig,
  build: (graph, config) => buildDecoder(graph, config, { ropeMode: 1, hasQkNorms: true }),
}
