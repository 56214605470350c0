// From flags to a loaded model, with a bar on a terminal. What commands that need a model share.

import { UnsupportedError } from "../errors.ts"
import { type LoadOptions, load, type Model } from "../model.ts"
import { defaultModelName, resolveModel } from "../models/index.ts"
import { ProgressBar } from "../setup/progress.ts"
import type { Values } from "./arguments.ts"
import type { contextFlags, modelFlags, threadFlags } from "./flags.ts"

/** The file of the model that was asked for, fetched if need be. */
export async function modelFile({ model, hfRepo }: Values<typeof modelFlags>): Promise<string> {
  if (model === undefined && hfRepo !== undefined) {
    throw new UnsupportedError(`-hf ${hfRepo}: fetching from Hugging Face is not supported, give a file with -m`)
  }
  return resolveModel(model ?? defaultModelName)
}

/** How to load it, as the flags say. */
export function loadOptions(values: Partial<Values<typeof threadFlags> & Values<typeof contextFlags>>): LoadOptions {
  const { nThreads = 0, nThreadsBatch = 0, level, nCtx = 0, nBatch, nUbatch, typeK, typeV } = values
  return {
    nThreads: Math.max(nThreads, 0),
    nThreadsBatch: Math.max(nThreadsBatch, 0),
    nCtx,
    ...(level === undefined ? {} : { level }),
    ...(nBatch === undefined ? {} : { nBatch }),
    ...(nUbatch === undefined ? {} : { nUbatch }),
    ...(typeK === undefined ? {} : { typeK: typeK as "f16" | "f32" }),
    ...(typeV === undefined ? {} : { typeV: typeV as "f16" | "f32" }),
  }
}

/** Loads a file, with a bar on a terminal. */
export async function loadFile(file: string, options: LoadOptions): Promise<Model> {
  using bar = new ProgressBar("loading")
  return await load(file, { ...options, onProgress: (done, total) => bar.update(done, total) })
}
