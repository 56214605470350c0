// From what a person calls a model to a file on this machine.

import { existsSync, type Stats, statSync } from "node:fs"
import { ModelUnavailableError } from "../errors.ts"
import { type FetchOptions, fetchModel } from "./fetch.ts"
import { knownModel, knownModels, modelPath } from "./manifest.ts"

export type { FetchOptions } from "./fetch.ts"
export { cacheFolder, defaultModelName, type KnownModel, knownModels, modelPath } from "./manifest.ts"

/**
 * The path of a model's file: an existing path comes back as it is, a name of models/manifest.json is fetched unless it
 * has been. Throws ModelUnavailableError for anything else and where fetching fails, CancelledError at `signal`.
 */
export async function resolveModel(nameOrPath: string, options: FetchOptions = {}): Promise<string> {
  const isKnown = knownModels.some((model) => model.name === nameOrPath)
  const stats = statsOf(nameOrPath)
  if (stats && !(isKnown && stats.isDirectory())) return nameOrPath // a folder's reader says what is wrong with it
  const path = modelPath(nameOrPath)
  if (!existsSync(path)) await fetchModel(knownModel(nameOrPath), path, options)
  return path
}

function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch (cause) {
    throw new ModelUnavailableError(cause instanceof Error ? cause.message : String(cause), { cause })
  }
}
