// From flags to a loaded model, with a bar on a terminal. What commands that need a model share.

import type { DraftModelOptions, KvType, LoadOptions, PrefillMode } from "../load-options.ts"
import type { Model } from "../model.ts"
import { formatHubName, parseRepo } from "../models/hub/name.ts"
import { defaultModelName, resolveModel } from "../models/index.ts"
import { ProgressBar } from "../setup/progress.ts"
import { UsageError, type Values } from "./arguments.ts"
import type { contextFlags, draftFlags, loadFlags, modelFlags, threadFlags } from "./flags.ts"
import { Interrupts } from "./interrupt.ts"

/** The file of the model that was asked for, fetched if need be; Ctrl-C stops that and keeps what came. */
export async function modelFile(values: Values<typeof modelFlags>): Promise<string> {
  return fetched((signal) => resolveModel(modelName(values), { signal, ...hubOptions(values) }))
}

function modelName({ model, hfRepo, hfFile }: Values<typeof modelFlags>): string {
  if (hfFile !== undefined && hfRepo === undefined) throw new UsageError("-hff FILE is a file of -hf USER/REPO")
  if (hfRepo === undefined) return model ?? defaultModelName
  if (model !== undefined) throw new UsageError("-m and -hf exclude each other")
  const { repo, ...rest } = parseRepo(hfRepo.replace(/^hf:/, ""), hfRepo)
  return formatHubName(hfFile === undefined ? { repo, ...rest } : { repo, file: hfFile })
}

/** What the flags say of fetching. */
export function hubOptions({ offline, hfToken }: Partial<Values<typeof modelFlags>>) {
  return { ...(offline === undefined ? {} : { offline }), ...(hfToken === undefined ? {} : { token: hfToken }) }
}

/** Runs what fetches: the first Ctrl-C aborts its signal. */
export async function fetched<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  using interrupts = new Interrupts()
  return await interrupts.during(
    () => controller.abort(),
    () => body(controller.signal),
  )
}

/** How to load it, as the flags say. */
export function loadOptions(
  values: Partial<Values<typeof threadFlags> & Values<typeof contextFlags> & Values<typeof loadFlags>>,
): LoadOptions {
  const { nThreads = 0, nThreadsBatch = 0, level, nCtx = 0, nBatch, nUbatch, prefill, typeK, typeV } = values
  const cpus = [...(values.cpuMask ?? []), ...(values.cpuRange ?? [])]
  const { cache = true, mmap = true, mlock = false, prefetch = true, verify = false } = values
  return {
    ...{ cache, mmap, mlock, prefetch, verify },
    nThreads: Math.max(nThreads, 0),
    nThreadsBatch: Math.max(nThreadsBatch, 0),
    nCtx,
    ...(cpus.length === 0 ? {} : { cpus }),
    ...(values.poll === undefined ? {} : { poll: values.poll }),
    ...(level === undefined ? {} : { level }),
    ...(nBatch === undefined ? {} : { nBatch }),
    ...(nUbatch === undefined ? {} : { nUbatch }),
    ...(prefill === undefined ? {} : { prefill: prefill as PrefillMode }),
    ...(typeK === undefined ? {} : { typeK: typeK as KvType }),
    ...(typeV === undefined ? {} : { typeV: typeV as KvType }),
  }
}

/** The draft model that the flags ask for, its file fetched if need be. */
export async function draftOptions(
  values: Values<typeof draftFlags> & Values<typeof modelFlags>,
): Promise<{ draft?: DraftModelOptions }> {
  const { draftModel, draftHfRepo, draftVocabulary, draftCtx, draftTypeK, draftTypeV } = values
  if (draftModel !== undefined && draftHfRepo !== undefined) throw new UsageError("-md and -hfd exclude each other")
  if (draftModel === undefined && draftHfRepo === undefined) {
    const orphan = draftVocabulary ?? draftTypeK ?? draftTypeV
    if (orphan !== undefined || draftCtx > 0) throw new UsageError("there is no draft model: -md MODEL names one")
    return {}
  }
  const model = await modelFile({ ...values, model: draftModel, hfRepo: draftHfRepo, hfFile: undefined })
  return {
    draft: {
      ...{ model, nCtx: draftCtx },
      ...(draftVocabulary === undefined ? {} : { vocabulary: draftVocabulary }),
      ...(draftTypeK === undefined ? {} : { typeK: draftTypeK as KvType }),
      ...(draftTypeV === undefined ? {} : { typeV: draftTypeV as KvType }),
    },
  }
}

/** Loads a file, with a bar on a terminal. */
export async function loadFile(file: string, options: LoadOptions): Promise<Model> {
  const { load } = await import("../model.ts") // not for commands whose engine is a thread: it would be there twice
  using bar = new ProgressBar("loading")
  return await load(file, { ...options, onProgress: (done, total) => bar.update(done, total) })
}
