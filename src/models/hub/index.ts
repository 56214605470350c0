// From the name of a model of the Hugging Face hub to its file on this machine: what is in the cache, or what comes there.

import { existsSync } from "node:fs"
import { CancelledError, DownloadError, ModelUnavailableError } from "../../errors.ts"
import { ProgressBar } from "../../setup/progress.ts"
import type { FetchOptions } from "../fetch.ts"
import { CachedRepo } from "./cache.ts"
import { HubClient, type HubFile, type RepoState } from "./client.ts"
import { ChangedError, checkRoom, fetchFile } from "./download.ts"
import { type Choice, chooseModel, formatHubName, type HubName } from "./name.ts"
import { type HubSettings, hubSettings } from "./settings.ts"

export interface HubOptions extends FetchOptions {
  /** Make no request. Default: $HF_HUB_OFFLINE. */
  offline?: boolean
  /** Default: $HF_TOKEN, else what `hf auth login` has saved. */
  token?: string
  /** Ask the hub whether there is a newer state of the repository even if the model is there. */
  update?: boolean
}

/**
 * The path of a model of the hub, of its first part where it is split: from the cache without a request where it is there,
 * else fetched. Throws ModelUnavailableError (DownloadError where a request or the disk failed) and CancelledError.
 */
export async function resolveHubModel(
  name: HubName,
  options: HubOptions = {},
  changes: Partial<HubSettings> = {},
): Promise<string> {
  const settings = { ...hubSettings(options), ...changes }
  const cache = new CachedRepo(settings.folder, name.repo)
  if (settings.offline) return cachedModel(cache, name)
  const there = options.update ? undefined : findCached(cache, name)
  if (there?.isExact) return there.path
  const client = new HubClient(settings)
  let state: RepoState
  try {
    state = await client.repoState(name.repo, options.signal)
  } catch (error) {
    if (there !== undefined && isSilent(error)) return there.path
    throw error
  }
  return fetchModel(client, cache, name, state, options)
}

/** No answer, or none that counts: what stands in for the default is better than nothing then. */
function isSilent(error: unknown): boolean {
  const status = error instanceof DownloadError ? (error.status ?? 500) : 0
  return status >= 500 || status === 429
}

async function fetchModel(
  client: HubClient,
  cache: CachedRepo,
  name: HubName,
  state: RepoState,
  options: HubOptions,
): Promise<string> {
  for (let changes = 0; ; changes++) {
    try {
      return await fetchState(client, cache, name, state, options)
    } catch (error) {
      if (!(error instanceof ChangedError)) throw error
      if (changes === 2) throw new DownloadError(`${name.repo} changes all the time: try again later`)
      state = await client.repoState(name.repo, options.signal)
    }
  }
}

async function fetchState(
  client: HubClient,
  cache: CachedRepo,
  name: HubName,
  { commit, files }: RepoState,
  options: HubOptions,
): Promise<string> {
  const { parts } = chooseModel(name, files, new URL(client.settings.endpoint).host)
  checkRoom(cache, commit, parts)
  const label = formatHubName(name)
  using bar = new ProgressBar(`fetching ${label}`)
  const report = options.onProgress ?? ((done, total) => bar.update(done, total))
  const total = sum(parts)
  let before = 0
  let done = 0
  try {
    for (const file of parts) {
      await fetchFile({
        ...{ client, cache, commit, file, signal: options.signal },
        progress(bytes) {
          done = before + bytes
          report(done, total)
        },
        onWait: () => bar.say(`waiting for another process that fetches ${label}`),
      })
      before += file.bytes
      report(before, total)
    }
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error
    const kept = `${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB are kept`
    throw new CancelledError(`fetching ${label} was stopped; ${kept}, the same command goes on from there`)
  }
  saveMain(cache, commit)
  return cache.pointer(commit, parts[0].path)
}

function sum(files: readonly HubFile[]): number {
  return files.reduce((bytes, file) => bytes + file.bytes, 0)
}

/** In a cache that cannot be written, which had the model all along, this is no reason to fail. */
function saveMain(cache: CachedRepo, commit: string): void {
  try {
    cache.writeMain(commit)
  } catch (cause) {
    if (!existsSync(cache.snapshot(commit))) throw cause
  }
}

/** What the cache has for a name: the first part's path. */
function findCached(cache: CachedRepo, name: HubName): { path: string; isExact: boolean } | undefined {
  let standIn: { path: string; isExact: boolean } | undefined
  for (const commit of cache.commits()) {
    const choice = chosenOf(cache, commit, name)
    if (choice === undefined) continue
    const found = { path: choice.parts[0].local, isExact: choice.isExact }
    if (found.isExact) return found
    standIn ??= found
  }
  return standIn
}

function chosenOf(cache: CachedRepo, commit: string, name: HubName) {
  try {
    return chooseModel(name, cache.files(commit), "the cache") satisfies Choice<unknown>
  } catch (error) {
    if (error instanceof ModelUnavailableError) return undefined
    throw error
  }
}

/** Without a request. Throws ModelUnavailableError, which says what the cache has. */
function cachedModel(cache: CachedRepo, name: HubName): string {
  const found = findCached(cache, name)
  if (found) return found.path
  const hint = `asdsl pull ${formatHubName(name)} fetches it where there is a network`
  const [commit] = cache.commits()
  try {
    if (commit !== undefined) chooseModel(name, cache.files(commit), cache.folder)
  } catch (cause) {
    if (!(cause instanceof ModelUnavailableError)) throw cause
    throw new ModelUnavailableError(`${cause.message}; offline, nothing is fetched: ${hint}`, { cause })
  }
  throw new ModelUnavailableError(`nothing of ${name.repo} is in ${cache.folder}; offline, nothing is fetched: ${hint}`)
}
