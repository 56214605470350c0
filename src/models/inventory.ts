// The models that are on this machine, known ones and those of the hub's cache: which there are, and removing one. Fetches
// nothing.

import { existsSync, readdirSync, rmSync, statSync } from "node:fs"
import { join } from "node:path"
import { ModelUnavailableError } from "../errors.ts"
import { tryLock } from "../setup/lock.ts"
import { fetchFolder, fetchLock } from "./fetch.ts"
import { CachedRepo, cachedRepos } from "./hub/cache.ts"
import { formatHubName, type HubName, modelLabels, modelsOf, parseHubName, parseRepo } from "./hub/name.ts"
import { hubFolder } from "./hub/settings.ts"
import { type KnownModel, knownModel, knownModels, modelPath } from "./manifest.ts"

export interface LocalModel {
  /** As one types it after -m; of an unfinished download of the hub, the repository's. */
  readonly name: string
  /** Of all parts. */
  readonly bytes: number
  /** Of the first part. */
  readonly path: string
  /** false: an unfinished download. */
  readonly isWhole: boolean
}

/** A name where a path makes no sense: of a known model, or of the hub, with or without hf: in front. */
export function parseModelName(text: string): KnownModel | HubName {
  const known = knownModels.find(({ name }) => name === text)
  return known ?? parseHubName(text) ?? (text.includes("/") ? parseRepo(text) : knownModel(text))
}

/** Every model on this machine, whole or unfinished. */
export function localModels(): LocalModel[] {
  return [...knownModels.flatMap(localKnown), ...cachedRepos(hubFolder()).flatMap(localOfRepo)]
}

function localKnown({ name }: KnownModel): LocalModel[] {
  const path = modelPath(name)
  const unfinished = fetchFolder(name, path)
  if (existsSync(path)) return [{ name, bytes: statSync(path).size, path, isWhole: true }]
  return existsSync(unfinished) ? [{ name, bytes: bytesBelow(unfinished), path: unfinished, isWhole: false }] : []
}

function localOfRepo(cache: CachedRepo): LocalModel[] {
  const found = new Map<string, LocalModel>() // by the first part's path: the newest snapshot that has it counts
  for (const commit of cache.commits()) {
    const files = cache.files(commit)
    const labels = modelLabels(cache.repo, files)
    for (const [i, { parts, missing }] of modelsOf(files).entries()) {
      const bytes = parts.reduce((sum, part) => sum + part.bytes, 0)
      const model = { name: labels[i]!, bytes, path: parts[0].local, isWhole: missing.length === 0 }
      if (!found.has(parts[0].path)) found.set(parts[0].path, model)
    }
  }
  const name = formatHubName({ repo: cache.repo })
  const partials = cache.partials().map(({ local, bytes }) => ({ name, bytes, path: local, isWhole: false }))
  return [...found.values(), ...partials]
}

/**
 * Removes a model; of the hub without a quant or a file, every model of the repository and what is unfinished. Files that
 * are none of asdsl's stay. Returns the bytes set free. Throws ModelUnavailableError where there is nothing to remove, with
 * what there is, and where another process is fetching it.
 */
export function removeModel(text: string): number {
  const name = parseModelName(text)
  const freed = "repo" in name ? removeOfHub(name) : removeKnown(name)
  if (freed !== undefined) return freed
  const there = localModels().map((model) => model.name)
  const list = there.length === 0 ? "no model at all" : [...new Set(there)].join(", ")
  throw new ModelUnavailableError(`${text} is not on this machine, it has ${list}`)
}

function removeKnown({ name }: KnownModel): number | undefined {
  const [there] = localKnown(knownModel(name))
  if (there === undefined) return undefined
  using _lock = lockOf(fetchLock(name, modelPath(name)), name)
  for (const path of [modelPath(name), fetchFolder(name, modelPath(name))])
    rmSync(path, { recursive: true, force: true })
  return there.bytes
}

function removeOfHub(name: HubName): number | undefined {
  const cache = new CachedRepo(hubFolder(), name.repo)
  const paths = new Set(cache.commits().flatMap((commit) => pathsOf(cache, commit, name)))
  const isAll = name.quant === undefined && name.file === undefined
  const partials = isAll ? cache.partials() : []
  if (paths.size === 0 && partials.length === 0) return undefined
  let freed = 0
  for (const partial of partials) {
    using _lock = lockOf(cache.lock(partial.etag), formatHubName(name))
    freed += cache.removePartial(partial)
  }
  return freed + cache.removeFiles(paths)
}

/** The files of a snapshot that a name means: all parts of a model, or of every model. */
function pathsOf(cache: CachedRepo, commit: string, name: HubName): string[] {
  const files = cache.files(commit)
  const labels = modelLabels(name.repo, files)
  const wanted = formatHubName(name)
  return modelsOf(files).flatMap(({ parts }, i) => {
    const paths = parts.map(({ path }) => path)
    const isMeant =
      name.file === undefined ? name.quant === undefined || labels[i] === wanted : paths.includes(name.file)
    return isMeant ? paths : []
  })
}

function lockOf(path: string, name: string): Disposable {
  const held = tryLock(path)
  if (held === undefined)
    throw new ModelUnavailableError(`${name} is being fetched by another process: stop that first`)
  return held
}

function bytesBelow(folder: string): number {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" })
  return names.reduce((sum, name) => {
    const stats = statSync(join(folder, name), { throwIfNoEntry: false })
    return sum + (stats?.isFile() ? stats.size : 0)
  }, 0)
}
