// The llama architecture: SmolLM2, TinyLlama, Llama 2 and 3 and what shares their shape.

import type { Architecture } from "./config.ts"
import { buildDecoder, decoderConfig } from "./decoder.ts"

export const llama: Architecture = {
  config: decoderConfig,
  build: (graph, config) => buildDecoder(graph, config, { ropeMode: 0 }),
}
