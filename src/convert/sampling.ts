// generation_config.json's sampling as GGUF says it (general.sampling.*).
// Source: llama.cpp's gguf-py/gguf/metadata.py (Metadata.load).

import type { Entries } from "./entries.ts"
import type { Fields } from "./fields.ts"

/** By key of generation_config.json. */
const FLOATS = { temperature: "temp", top_p: "top_p", min_p: "min_p", repetition_penalty: "penalty_repeat" } as const

export function addSampling(entries: Entries, generationConfig: Fields | undefined): void {
  if (generationConfig === undefined) return
  if (generationConfig.has("top_k")) {
    entries.i32("general.sampling.top_k", generationConfig.integer("top_k", 0, 2 ** 31 - 1))
  }
  for (const [key, name] of Object.entries(FLOATS)) {
    if (generationConfig.has(key)) entries.f32(`general.sampling.${name}`, generationConfig.number(key, 0, 1e6))
  }
}
