// How a model is loaded: the options of load() and the names that they take. Imports no engine: programs that load on
// another thread check what they are asked for by this file alone.

import type { SourceOptions } from "./interleaved/source.ts"

export interface LoadOptions extends SourceOptions {
  /** Threads at most; 0 or absent: one per physical core this process may use, within its CPU quota. */
  nThreads?: number
  /** Threads for passes of more than one token; absent: nThreads. */
  nThreadsBatch?: number
  /** Logical CPUs that threads keep to; absent or empty: any that this process may use. */
  cpus?: readonly number[]
  /** How long threads wait awake for the next pass, as llama.cpp's --poll: 0 (not at all) to 100. Default 50. */
  poll?: number
  /** For tests: the last thread takes so much longer for its share, as a slower core would. */
  slowPercent?: number
  /** For tests: passes of a few tokens are run as beside a busy process: threads join and leave them, and stay so long. */
  stayMicroseconds?: number
  /** portable, avx2, avxvnni, avx512, neon or reference; absent: $ASDSL_ISA, else the best of this CPU. avxvnni may be one
   * that CPUID hides: a child process tries it first. */
  level?: string
  /** Context length of sessions; 0 or absent: the model's. */
  nCtx?: number
  /** Tokens of one pass at most, as in llama.cpp; nUbatch is never larger. */
  nBatch?: number
  /** Tokens of one pass. Default 512. */
  nUbatch?: number
  /** How prompts multiply matrices: "exact" to the bit as single tokens do, or "fast" with weights rounded once more where
   * that is faster, to int8 in passes of 128 tokens and more, IQ4_NL to 6 bits at level avx2 in passes of 17: more tokens/s,
   * slightly other logits. Replies are exact in either. Default exact. */
  prefill?: PrefillMode
  /** Element type of cached keys; q8_0: int8, half the memory of f16, and faster. Default q8_0. */
  typeK?: KvType
  /** Element type of cached values. Default q8_0. */
  typeV?: KvType
  /** Rows of logits that one pass can hold. Default 32. */
  maxOutputs?: number
  /** Candidates per row that a session may ask for. Default 1024. */
  maxTopK?: number
  /** A small model with the same vocabulary that drafts what this one verifies, on the same threads: a file or a name. */
  draft?: string | DraftModelOptions
  /** Bytes of weights loaded so far. */
  onProgress?(done: number, total: number): void
  signal?: AbortSignal
}

/** Element types of a KV cache. */
export const KV_TYPES = ["f16", "f32", "q8_0"] as const
export type KvType = (typeof KV_TYPES)[number]
/** Within 0.3 % of f16's perplexity and with its answers (bench/results/kv-perplexity.md, kv-retrieval.md), in half the
 * bytes. */
export const DEFAULT_KV_TYPE: KvType = "q8_0"

/** What `--prefill` takes. */
export const PREFILL_MODES = ["exact", "fast"] as const
export type PrefillMode = (typeof PREFILL_MODES)[number]

export interface DraftModelOptions {
  /** A path or a name, as load() takes it. */
  model: string
  /** Its context: where the text is longer, it sees the end of it. 0 or absent: that of the model it drafts for, or its
   * own where that is shorter. */
  nCtx?: number
  typeK?: KvType
  typeV?: KvType
  /** Its output matrix is kept for the tokens of this list alone (asdsl draft-vocab makes one), or "all". Absent: the list
   * beside the file, else the first ids of the vocabulary. */
  vocabulary?: string
}
