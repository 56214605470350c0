// Reading an architecture's configuration out of GGUF metadata: typed, bounded, with the key in every complaint.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { GgufHeader, MetadataValue } from "../gguf/types.ts"
import type { GraphBuilder, Mixture } from "../graph.ts"
import type { Yarn } from "./rope.ts"

/** Facts of a model that the rest of asdsl may ask for. */
export interface ModelConfig {
  readonly arch: string
  readonly nLayers: number
  /** Width of the residual stream. */
  readonly dim: number
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
  /** Dimensions of a head that are rotated. */
  readonly nRot: number
  readonly nFfn: number
  /** Of a mixture of experts. */
  readonly experts?: Experts
  readonly nVocab: number
  /** Context length the model was trained for. */
  readonly nCtxTrain: number
  /** Where there are two sets of rotary factors: longer contexts than this take the long one. */
  readonly nCtxOriginal?: number
  readonly normEps: number
  readonly ropeBase: number
  /** Linear position scaling: positions are divided by it. 1: none. */
  readonly ropeScale: number
  /** Scaling of some frequencies instead of positions. */
  readonly yarn?: Yarn
  /** Multiplies the rotation's cosines and sines. 1: none. */
  readonly ropeMagnitude: number
  /** Keys that a token sees, itself included, by layer. 0: all before it. */
  readonly windows: readonly number[] // (nLayers)
  /** Base of the layers with a window, which turn without scaling. Absent: all layers turn alike. */
  readonly ropeBaseLocal?: number
  /** Multiplies embeddings. */
  readonly embeddingScale: number
  /** Multiplies q k. */
  readonly attentionScale: number
  /** scores = softcap * tanh(score / softcap). 0: as they are. */
  readonly attentionSoftcap: number
  /** The same for logits. */
  readonly logitSoftcap: number
  /** The output matrix is the embedding table. */
  readonly isTied: boolean
}

/** Feed-forward networks of which each token goes through a few. */
export interface Experts extends Mixture {
  readonly nExperts: number
  /** Width of one expert's feed-forward. */
  readonly nFfn: number
}

export interface Architecture {
  /** Reads and checks the metadata. Throws before anything large is allocated. */
  config(metadata: Metadata): ModelConfig
  /** Describes a pass. */
  build(graph: GraphBuilder, config: ModelConfig): void
}

/** Bounds far beyond any model and far below what overflows; C has the same. */
export const MAX_DIM = 2 ** 24
export const MAX_LAYERS = 65536
export const MAX_HEADS = 65536
export const MAX_HEAD_DIM = 1024
export const MAX_EXPERTS = 1024

/** The metadata of one architecture: keys are given without its prefix. */
export class Metadata {
  readonly header: GgufHeader
  readonly arch: string

  constructor(header: GgufHeader, arch: string) {
    this.header = header
    this.arch = arch
  }

  get(key: string): MetadataValue | undefined {
    return this.header.metadata.get(`${this.arch}.${key}`)
  }

  /** A whole number in [min, max]. A per-layer array counts where all its values are equal. */
  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.#scalar(key, fallback)
    if (Number.isInteger(value) && value >= min && value <= max) return value
    throw new FormatError(`${this.arch}.${key} is ${value}, a whole number from ${min} to ${max} is needed`)
  }

  /** A finite number in [min, max]. */
  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.#scalar(key, fallback)
    if (value >= min && value <= max) return value
    throw new FormatError(`${this.arch}.${key} is ${value}, a number from ${min} to ${max} is needed`)
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback
    if (typeof value === "boolean") return value
    throw new FormatError(`${this.arch}.${key} is not true or false`)
  }

  string(key: string, fallback: string): string {
    const value = this.get(key)
    if (value === undefined) return fallback
    if (typeof value === "string") return value
    throw new FormatError(`${this.arch}.${key} is not a string`)
  }

  #scalar(key: string, fallback: number | undefined): number {
    const value = this.get(key) ?? fallback
    if (typeof value === "number") return value
    if (value === undefined) throw new FormatError(`${this.header.path}: ${this.arch}.${key} is missing`)
    if (ArrayBuffer.isView(value)) {
      const values = [...(value as Int32Array)].map(Number)
      const first = values[0]
      if (first !== undefined && values.every((other) => other === first)) return first
      throw new UnsupportedError(`${this.arch}.${key} differs between layers (${values.slice(0, 8).join(", ")} ...)`)
    }
    throw new FormatError(`${this.arch}.${key} is not a number`)
  }
}
