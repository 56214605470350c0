// From what a person calls a model to a file on this machine: a path, a name of the manifest, a name of the hub.

import { existsSync, type Stats, statSync } from "node:fs"
import { ModelUnavailableError } from "../errors.ts"
import type { HubOptions } from "./hub/index.ts"
import { parseHubName } from "./hub/name.ts"
import { knownModel, knownModels, modelPath } from "./manifest.ts"

export { cacheFolder, defaultModelName, type KnownModel, knownModels, modelPath } from "./manifest.ts"

/**
 * The path of a model's file: an existing path comes back as it is; a name of models/manifest.json is fetched unless it has
 * been; hf:user/repo[:quant] and hf:user/repo/file.gguf come from the Hugging Face hub's cache, or from the hub into it
 * (of a split model the first part's path). Throws ModelUnavailableError for anything else and where fetching fails,
 * CancelledError at `signal`.
 */
export async function resolveModel(nameOrPath: string, options: HubOptions = {}): Promise<string> {
  const isKnown = knownModels.some((model) => model.name === nameOrPath)
  const stats = statsOf(nameOrPath)
  if (stats && !(isKnown && stats.isDirectory())) return nameOrPath // a folder's reader says what is wrong with it
  const hubName = parseHubName(nameOrPath)
  // What fetches is imported where something is fetched: it takes memory that a process with a file has no use for.
  if (hubName) return (await import("./hub/index.ts")).resolveHubModel(hubName, options)
  const path = modelPath(nameOrPath)
  if (existsSync(path)) return path
  if (options.offline) {
    throw new ModelUnavailableError(`${nameOrPath} is not at ${path}; offline, nothing is fetched: leave --offline out`)
  }
  const { fetchModel } = await import("./fetch.ts")
  await fetchModel(knownModel(nameOrPath), path, options)
  return path
}

function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch (cause) {
    throw new ModelUnavailableError(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}
