// How a person names a model of the Hugging Face hub, and which of a repository's files that means. Knows neither network
// nor disk.

import { ModelUnavailableError } from "../../errors.ts"

export interface HubName {
  /** "user/repo". */
  readonly repo: string
  /** Upper case. Neither this nor `file`: the default. */
  readonly quant?: string
  /** Path in the repository. */
  readonly file?: string
}

/** The parts of one model in order: one file, or -00001-of-0000N.gguf and so on. */
export type Parts<T> = readonly [T, ...T[]]

interface FileName {
  /** In the repository, with slashes. */
  readonly path: string
}

const DEFAULT_QUANTS = ["Q4_K_M", "Q8_0"] // llama.cpp's
const WORD = "[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
const REPO = new RegExp(`^${WORD}/${WORD}$`)
const QUANTIFIED = new RegExp(`^${WORD}/${WORD}:[\\w.-]+$`)
const PAGE = /^\/([^/]+\/[^/]+)(?:\/(?:blob|resolve|tree)\/main)?(?:(?<=\/main)\/(.+?))?\/?$/
const FORMS = "hf:user/repo, hf:user/repo:quant or hf:user/repo/path/file.gguf"

/**
 * Reads hf:user/repo, hf:user/repo:quant, user/repo:quant, hf:user/repo/path/file.gguf and the address of a repository or of
 * a file in it on the hub's web site; undefined for what does not begin like one. Throws ModelUnavailableError for what does
 * and is none.
 */
export function parseHubName(text: string): HubName | undefined {
  if (text.startsWith("hf:")) return parseRepo(text.slice(3), text)
  if (QUANTIFIED.test(text)) return parseRepo(text)
  if (!/^https?:\/\//.test(text)) return undefined
  if (!/^https:\/\/(www\.)?(huggingface\.co|hf\.co)\//.test(text)) {
    throw new ModelUnavailableError(
      `${text.slice(0, 200)} is not on the Hugging Face hub: download it and give its path`,
    )
  }
  const [, repo = "", file] = PAGE.exec(new URL(text).pathname) ?? []
  return parseRepo(decoded(file === undefined ? repo : `${repo}/${file}`), text)
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path)
  } catch {
    return "" // which is no name
  }
}

/** The same without the hf: in front, which -hf and the commands that take names alone do not need. */
export function parseRepo(text: string, given = text): HubName {
  const [, repo = "", quant, file] = /^([^/:]+\/[^/:]+)(?::([^/:]+)|\/(.+))?$/.exec(text) ?? []
  const isRepo = REPO.test(repo) && repo.length <= 200
  const isWhole =
    isRepo && (quant === undefined || /^[\w.-]+$/.test(quant)) && (file === undefined || isModelPath(file))
  if (!isWhole) throw new ModelUnavailableError(`"${given.slice(0, 200)}" names no model of the hub: ${FORMS} does`)
  if (file !== undefined) return { repo, file }
  return quant === undefined || quant.toLowerCase() === "latest" ? { repo } : { repo, quant: quant.toUpperCase() }
}

/** As one types it after -m. */
export function formatHubName({ repo, quant, file }: HubName): string {
  return `hf:${repo}${quant === undefined ? "" : `:${quant}`}${file === undefined ? "" : `/${file}`}`
}

/** Whether a path that a server or a user gave stays inside the folder that it is joined to, on every system. */
export function isSafePath(path: string): boolean {
  const parts = path.split("/")
  return parts.every((part) => part !== "" && part !== "." && part !== ".." && !/[\\:]|\p{Cc}/u.test(part))
}

function isModelPath(path: string): boolean {
  return /\.gguf$/i.test(path) && isSafePath(path)
}

/** Files beside a model that are none of their own: projectors, importance matrices, draft heads. */
const COMPANION = /(^|\/)[^/]*(mmproj|imatrix)[^/]*$|(^|\/)(mtp|eagle3|dflash|dspark)-[^/]*$/i

const SPLIT = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/i

/** The models of a repository: its GGUF files, those of a split model together; `missing` parts are not among the files. */
export function modelsOf<T extends FileName>(files: readonly T[]): { parts: Parts<T>; missing: number[] }[] {
  const groups = Map.groupBy(
    files.filter(({ path }) => isModelPath(path)),
    ({ path }) => path.replace(SPLIT, "$1-of-$3.gguf"),
  )
  return [...groups.values()].map((group) => {
    const parts = group.toSorted((a, b) => (a.path < b.path ? -1 : 1)) as [T, ...T[]]
    const count = Number(SPLIT.exec(parts[0].path)?.[3] ?? 1)
    const there = new Set(parts.map(({ path }) => Number(SPLIT.exec(path)?.[2] ?? 1)))
    return { parts, missing: range(count).filter((index) => !there.has(index)) }
  })
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i + 1)
}

export interface Choice<T> {
  readonly parts: Parts<T>
  /** Whatever else the repository may have, it is this: false where a default was not there and another one stands in. */
  readonly isExact: boolean
}

/**
 * The model that is meant. A quant is looked for as a whole word before the end of a path's word or folder, without regard
 * to case; without one it is Q4_K_M, else Q8_0, else the only model there is. Throws ModelUnavailableError, which lists
 * what there is, where none or several match and where parts are missing. `where` is said in front: "the hub".
 */
export function chooseModel<T extends FileName>(name: HubName, files: readonly T[], where: string): Choice<T> {
  const all = modelsOf(files)
  const models = all.filter(({ parts }) => !COMPANION.test(parts[0].path))
  const choose = (wanted: string, found: typeof all, isExact: boolean): Choice<T> => {
    if (found.length > 1) {
      const names = found.map(({ parts }) => formatHubName({ repo: name.repo, file: parts[0].path }))
      throw new ModelUnavailableError(`${wanted} means several models of ${name.repo}, name one: ${listed(names)}`)
    }
    const { parts, missing } = found[0]!
    if (missing.length === 0) return { parts, isExact }
    throw new ModelUnavailableError(
      `${where} lacks ${missing.length} parts of ${parts[0].path}: number ${listed(missing)}`,
    )
  }
  if (name.file !== undefined) {
    const found = all.filter(({ parts }) => parts.some(({ path }) => path.toLowerCase() === name.file!.toLowerCase()))
    const exact = found.filter(({ parts }) => parts.some(({ path }) => path === name.file))
    if (found.length > 0) return choose(name.file, exact.length > 0 ? exact : found, true)
  }
  const quants = name.quant !== undefined ? [name.quant] : name.file === undefined ? DEFAULT_QUANTS : []
  for (const [i, quant] of quants.entries()) {
    const found = matching(models, quant)
    if (found.length > 0) return choose(quant, found, i === 0)
  }
  if (name.quant === undefined && name.file === undefined && models.length === 1) return choose("", models, false)
  throw nothing(name, files, where)
}

/** What `files` has instead. */
function nothing(name: HubName, files: readonly FileName[], where: string): ModelUnavailableError {
  const labels = modelLabels(name.repo, files)
  const wanted = name.file ?? name.quant ?? DEFAULT_QUANTS.join(" and no ")
  const has = labels.length === 0 ? "no GGUF file at all" : `${listed(labels)}`
  return new ModelUnavailableError(`${where} has no ${wanted} of ${name.repo}, it has ${has}`)
}

/** A short name for each model of a repository that means this one and no other. */
export function modelLabels(repo: string, files: readonly FileName[]): string[] {
  const models = modelsOf(files)
  const isModel = ({ parts }: (typeof models)[number]) => !COMPANION.test(parts[0].path)
  return models.map((model) => {
    const quant = isModel(model) ? quantOf(model.parts[0].path) : undefined
    const found = quant === undefined ? [] : matching(models.filter(isModel), quant)
    return formatHubName(
      found.length === 1 && found[0] === model ? { repo, quant: quant! } : { repo, file: model.parts[0].path },
    )
  })
}

/** Where a single file and a split one of the same name are both there, the single file counts: some repositories do that. */
function matching<T extends FileName, M extends { parts: Parts<T> }>(models: readonly M[], quant: string): M[] {
  const escaped = quant.replaceAll(".", "\\.")
  const pattern = new RegExp(`(?:^|[-._/])${escaped}(?=$|[-./])`, "i")
  const stem = ({ parts }: M) => parts[0].path.replace(SPLIT, "$1").replace(/\.gguf$/i, "")
  const found = models.filter((model) => pattern.test(stem(model)))
  const atEnd = found.filter((model) => new RegExp(`[-._/]${escaped}$`, "i").test(stem(model)))
  const best = atEnd.length > 0 ? atEnd : found
  const single = new Set(best.filter(({ parts }) => !SPLIT.test(parts[0].path)).map(stem))
  return best.filter((model) => !SPLIT.test(model.parts[0].path) || !single.has(stem(model)))
}

/** "Q4_K_M" of "model-q4_k_m-00001-of-00002.gguf". */
function quantOf(path: string): string | undefined {
  const stem = path.replace(SPLIT, "$1").replace(/\.gguf$/i, "")
  const quant = /[-._/]((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|NVFP4|BF16|F16|FP16|F32))$/i.exec(stem)
  return quant?.[1]?.toUpperCase()
}

function listed(names: readonly (string | number)[]): string {
  const shown = names.slice(0, 40).join(", ")
  return names.length > 40 ? `${shown} and ${names.length - 40} more` : shown
}
