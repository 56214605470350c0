// What `asdsl quantize` makes: mixtures by name, and the tensor types that the engine can encode. Knows no tensor.
// Source of the names and numbers: llama.cpp, include/llama.h (enum llama_ftype).

import type { TensorTypeName } from "../gguf/types.ts"

/** A mixture: the type of most tensors, and general.file_type. */
export interface Mixture {
  readonly base: TensorTypeName
  readonly fileType: number
}

export const MIXTURES = {
  Q4_K_M: { base: "Q4_K", fileType: 15 },
  Q4_K_S: { base: "Q4_K", fileType: 14 },
  Q5_K_M: { base: "Q5_K", fileType: 17 },
  Q5_K_S: { base: "Q5_K", fileType: 16 },
  Q6_K: { base: "Q6_K", fileType: 18 },
  Q8_0: { base: "Q8_0", fileType: 7 },
  Q4_0: { base: "Q4_0", fileType: 2 },
  Q4_1: { base: "Q4_1", fileType: 3 },
  Q5_0: { base: "Q5_0", fileType: 8 },
  Q5_1: { base: "Q5_1", fileType: 9 },
  F16: { base: "F16", fileType: 1 },
  BF16: { base: "BF16", fileType: 32 },
  F32: { base: "F32", fileType: 0 },
} as const satisfies Record<string, Mixture>

/** general.file_type of a draft, by the type of most of its tensors. */
export const DRAFT_FILE_TYPES: Partial<Record<TensorTypeName, number>> = { Q4_K: 14, IQ4_NL: 25 }

export type MixtureName = keyof typeof MIXTURES

/** Types that the engine encodes: csrc/kernels/table.c. */
export const ENCODED_TYPES = [
  ...["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q3_K", "Q4_K", "Q5_K", "Q6_K"],
] as readonly string[] as readonly TensorTypeName[]

/** The entry of a list that is the same word in any case; undefined where there is none. */
export function nameIn<T extends string>(names: readonly T[], given: string): T | undefined {
  return names.find((name) => name.toLowerCase() === given.toLowerCase())
}
