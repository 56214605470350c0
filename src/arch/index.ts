// The architectures that asdsl knows. Adding one touches this folder alone.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { GgufHeader } from "../gguf/types.ts"
import type { GraphBuilder } from "../graph.ts"
import { type Architecture, Metadata, type ModelConfig } from "./config.ts"
import { gemma3 } from "./gemma3.ts"
import { llama } from "./llama.ts"
import { phi3 } from "./phi3.ts"
import { qwen2 } from "./qwen2.ts"
import { qwen3 } from "./qwen3.ts"
import { qwen3moe } from "./qwen3moe.ts"

const ARCHITECTURES: Readonly<Record<string, Architecture>> = { gemma3, llama, phi3, qwen2, qwen3, qwen3moe }

/** Names of the architectures that can be loaded. */
export function knownArchitectures(): string[] {
  return Object.keys(ARCHITECTURES)
}

/** The architecture of a file and its configuration. */
export function architectureOf(header: GgufHeader): { architecture: Architecture; config: ModelConfig } {
  const name = header.metadata.get("general.architecture")
  if (typeof name !== "string") throw new FormatError(`${header.path}: general.architecture is missing`)
  if (!Object.hasOwn(ARCHITECTURES, name)) {
    throw new UnsupportedError(`architecture ${name} is not supported; known: ${knownArchitectures().join(", ")}`)
  }
  const architecture = ARCHITECTURES[name]!
  return { architecture, config: architecture.config(new Metadata(header, name)) }
}

/** Describes a pass of a model and checks that it accounts for every tensor of the file: one that is left over would
 * mean that the model computes something else. */
export function buildGraph(graph: GraphBuilder, architecture: Architecture, config: ModelConfig): void {
  architecture.build(graph, config)
  const unused = graph.weights.unused()
  if (unused.length === 0) return
  const more = unused.length > 4 ? ` and ${unused.length - 4} more` : ""
  throw new UnsupportedError(
    `${config.arch}: tensors that this architecture does not have: ${unused.slice(0, 4).join(", ")}${more}`,
  )
}
