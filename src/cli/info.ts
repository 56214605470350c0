// asdsl info: this machine's CPU and its two limits, and with -m what a model is and how fast they let it be.

import { architectureOf } from "../arch/index.ts"
import { AsdslError } from "../errors.ts"
import { headBytes } from "../eval/speed.ts"
import type { GgufHeader } from "../gguf/types.ts"
import { openModel } from "../interleaved/open.ts"
import { DEFAULT_KV_TYPE } from "../load-options.ts"
import type { Model } from "../model.ts"
import { readTopology } from "../native/cpus.ts"
import { cpuInfo, Engine } from "../native/handles.ts"
import { executes, hiddenLevels } from "../native/hidden-level.ts"
import { levelNumber } from "../native/library.ts"
import { createTokenizer } from "../tokenizer/index.ts"
import type { Command, Values } from "./arguments.ts"
import { loadFlags, modelFlags, outputFlag, threadFlags } from "./flags.ts"
import { loadFile, loadOptions, modelFile } from "./load.ts"
import { modelType, paramsOf, type TypeShare, tensorBytesOf, typeShares } from "./model-facts.ts"
import { runCommand, warn, writeOut } from "./program.ts"
import { StatusLine } from "./status.ts"
import { factTable, formatBytes, formatCount } from "./table.ts"

const { nThreads, cpuMask, cpuRange, level } = threadFlags
const flags = { ...modelFlags, ...loadFlags, nThreads, cpuMask, cpuRange, level, ...outputFlag(["md", "json"]) }

export const command: Command<typeof flags> = {
  name: "asdsl info",
  summary: "shows the CPU, its levels and limits, and with -m a model's facts",
  usage: "[-m MODEL] [-t N] [-o md|json]",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

interface MachineFacts {
  readonly cpu: string
  readonly levels: readonly string[]
  /** Levels that CPUID hides and that execute all the same when asked for. */
  readonly hiddenLevels: readonly string[]
  readonly level: string
  /** Logical cores that this process may use, physical ones, and those that are P-cores. */
  readonly nCores: number
  readonly nPhysical: number
  readonly nPerformance: number
  readonly isHybrid: boolean
  readonly nPackages: number
  /** CPU time that a control group leaves this process, in cores. */
  readonly quotaCores: number | null
  readonly cacheBytes: readonly number[]
  readonly nThreads: number
  /** The logical CPU that each thread is pinned to while it runs; null: the system places it. */
  readonly workerCores: readonly (number | null)[]
  readonly readBytesPerSecond: number
  readonly int8MacsPerSecond: number
}

interface ModelFacts {
  readonly path: string
  readonly type: string
  readonly name: string | null
  readonly version: number
  readonly nFiles: number
  readonly fileBytes: number
  readonly tensorBytes: number
  readonly nParams: number
  readonly tensorTypes: readonly TypeShare[]
  readonly vocabulary: { readonly kind: string; readonly pre: string | null; readonly nTokens: number } | null
  /** null for a file that cannot be loaded; `reason` says why. */
  readonly architecture: Architecture | null
  readonly reason: string | null
}

interface Architecture {
  readonly nLayers: number
  readonly dim: number
  readonly nHeads: number
  readonly nKvHeads: number
  readonly headDim: number
  readonly nFfn: number
  /** Of a mixture of experts: how many there are, how many a token goes through, and the width of one. */
  readonly experts: { readonly nExperts: number; readonly nUsed: number; readonly nFfn: number } | null
  readonly nCtxTrain: number
  readonly isTied: boolean
  /** Weight bytes that a generated token reads. */
  readonly streamedBytes: number
  /** Of the keys and values of a token. */
  readonly kvBytesPerToken: number
  readonly macsPerToken: number
  /** What the read bandwidth allows with an empty context. */
  readonly decodeCeiling: number
  readonly weights: WeightFacts
}

/** Where the weights are once a token has been read, and by what pages; bytes, negative: the system does not say. */
interface WeightFacts {
  readonly kind: "plain" | "repacked" | "copy"
  readonly path: string
  readonly isMapped: boolean
  readonly residentBytes: number
  /** In pages of 2 MiB: FilePmdMapped of a mapped file, AnonHugePages of memory. */
  readonly hugeBytes: number
}

async function run(values: Values<typeof flags>, given: ReadonlySet<string>): Promise<void> {
  const isWanted = given.has("model") || given.has("hfRepo")
  const header = isWanted ? openModel(await modelFile(values), undefined).header : null // a wrong file is known before anything is measured
  const machine = machineFacts(values)
  const model = header === null ? null : await modelFacts(header, values, machine)
  if (values.output === "json") {
    await writeOut(`${JSON.stringify({ machine, model }, null, 2)}\n`)
    return
  }
  await writeOut(machineTable(machine))
  if (model !== null) await writeOut(`\n${modelTable(model)}`)
}

function machineFacts(values: Values<typeof flags>): MachineFacts {
  using status = new StatusLine()
  status.show("measuring this machine's limits")
  const { level, nThreads, cpus } = loadOptions(values)
  using engine = Engine.create({
    nThreads: nThreads ?? 0,
    ...(level === undefined ? {} : { level }),
    ...(cpus === undefined ? {} : { cpus }),
  })
  const info = engine.info()
  const topology = readTopology()
  return {
    cpu: info.cpu,
    levels: info.levels.filter((name) => name !== "reference"),
    hiddenLevels: hiddenLevels(cpuInfo().levels).filter((name) => executes(levelNumber(name))),
    level: info.level,
    nCores: info.nCores,
    nPhysical: info.nPhysical,
    nPerformance: info.nPerformance,
    isHybrid: info.isHybrid,
    nPackages: new Set(topology.cores.map((core) => core.package)).size,
    quotaCores: topology.quotaCores,
    cacheBytes: info.cacheBytes,
    nThreads: info.nThreads,
    workerCores: engine.workers().map(({ core }) => core),
    readBytesPerSecond: engine.probe("bandwidth"),
    int8MacsPerSecond: engine.probe("int8"),
  }
}

async function modelFacts(
  header: GgufHeader,
  values: Values<typeof flags>,
  { readBytesPerSecond }: MachineFacts,
): Promise<ModelFacts> {
  const { path } = header
  const name = header.metadata.get("general.name")
  const facts = {
    path,
    type: modelType(header),
    name: typeof name === "string" ? name : null,
    version: header.version,
    nFiles: header.files.length,
    fileBytes: header.fileBytes,
    tensorBytes: tensorBytesOf(header),
    nParams: paramsOf(header),
    tensorTypes: typeShares(header),
    vocabulary: vocabularyFacts(header),
  }
  try {
    architectureOf(header) // before a large file is loaded
    return { ...facts, architecture: await loadedFacts(path, values, readBytesPerSecond), reason: null }
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    return { ...facts, architecture: null, reason: error.message }
  }
}

function vocabularyFacts(header: GgufHeader): ModelFacts["vocabulary"] {
  const pre = header.metadata.get("tokenizer.ggml.pre")
  try {
    const { kind, nVocab } = createTokenizer(header.metadata)
    return { kind, pre: typeof pre === "string" ? pre : null, nTokens: nVocab }
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    warn(`asdsl info: ${error.message}`)
    return null
  }
}

/** Streamed bytes follow from the graph, so the model is loaded with the shortest of contexts. */
async function loadedFacts(path: string, values: Values<typeof flags>, bandwidth: number): Promise<Architecture> {
  const options = loadOptions(values)
  const { typeK = DEFAULT_KV_TYPE, typeV = DEFAULT_KV_TYPE } = options
  using model = await loadFile(path, { ...options, nCtx: 1, save: false })
  const { nLayers, dim, nHeads, nKvHeads, headDim, nFfn, nCtxTrain, isTied, experts } = model.config
  return {
    ...{ nLayers, dim, nHeads, nKvHeads, headDim, nFfn, nCtxTrain, isTied },
    experts: experts ? { nExperts: experts.nExperts, nUsed: experts.nUsed, nFfn: experts.nFfn } : null,
    streamedBytes: model.streamedBytes,
    kvBytesPerToken: nLayers * nKvHeads * (headBytes(typeK, headDim) + headBytes(typeV, headDim)),
    macsPerToken: model.macsPerToken + model.macsPerOutput,
    decodeCeiling: bandwidth / model.streamedBytes,
    weights: weightFacts(model),
  }
}

function weightFacts(model: Model): WeightFacts {
  using session = model.createSession()
  session.sync([0]) // reads all that a token reads
  const { memory, mapped } = model.pages()
  const { resident, huge } = mapped ?? memory
  return { ...model.loadedFrom, residentBytes: resident, hugeBytes: huge }
}

function machineTable(machine: MachineFacts): string {
  const { nCores, nPhysical, nPerformance, isHybrid, nPackages, quotaCores } = machine
  const caches = machine.cacheBytes.map((bytes, i) => (bytes > 0 ? `L${i + 1} ${formatBytes(bytes)}` : ""))
  const kinds = isHybrid ? `, ${nPerformance} P and ${nPhysical - nPerformance} E` : ""
  const threads = `with ${machine.nThreads} ${machine.nThreads === 1 ? "thread" : "threads"}`
  return factTable("machine", [
    ["CPU", machine.cpu],
    ["levels", `${machine.levels.join(", ")}; in use: ${machine.level}`],
    ...machine.hiddenLevels.map((name) => [`level ${name}`, "hidden by CPUID, and executes"] as [string, string]),
    ["cores", `${nCores} logical, ${nPhysical} physical${kinds}${nPackages > 1 ? `, in ${nPackages} packages` : ""}`],
    ...(quotaCores === null ? [] : [["CPU quota", `${quotaCores.toFixed(1)} cores`] as [string, string]]),
    ["threads", threadText(machine.workerCores)],
    ["caches of a core", caches.filter((text) => text !== "").join(", ") || "unknown"],
    ["read bandwidth", `${(machine.readBytesPerSecond / 1e9).toFixed(1)} GB/s ${threads}`],
    ["int8 peak", `${(machine.int8MacsPerSecond / 1e9).toFixed(0)} GMAC/s ${threads}`],
  ])
}

/** "4, on CPUs 0, 2, 4, 6". */
function threadText(cores: readonly (number | null)[]): string {
  const pinned = cores.filter((core) => core !== null)
  const where =
    pinned.length < cores.length
      ? "where the system puts them"
      : `on ${pinned.length === 1 ? "CPU" : "CPUs"} ${formatRanges(pinned)}`
  return `${cores.length}, ${where}`
}

/** "0-7, 16": neighbours in the list that follow each other become one range. */
function formatRanges(numbers: readonly number[]): string {
  const ranges: [number, number][] = []
  for (const n of numbers) {
    const last = ranges.at(-1)
    if (last !== undefined && n === last[1] + 1) last[1] = n
    else ranges.push([n, n])
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ")
}

function modelTable(model: ModelFacts): string {
  const { architecture, vocabulary } = model
  const facts: [string, string][] = [
    ["file", model.path],
    ["type", model.type],
    ...(model.name === null ? [] : [["name", model.name] as [string, string]]),
    [
      "file size",
      `${formatBytes(model.fileBytes)}${model.nFiles > 1 ? ` in ${model.nFiles} files` : ""}, GGUF version ${model.version}`,
    ],
    ["parameters", formatCount(model.nParams)],
    ...model.tensorTypes.map(
      ({ type, nTensors, nParams, bytes }) =>
        [`tensors ${type}`, `${nTensors}, ${formatCount(nParams)}, ${formatBytes(bytes)}`] as [string, string],
    ),
  ]
  if (vocabulary !== null) {
    const pre = vocabulary.pre === null ? "" : ` (${vocabulary.pre})`
    facts.push(["vocabulary", `${vocabulary.kind}${pre}, ${vocabulary.nTokens} tokens`])
  }
  if (architecture !== null) facts.push(...architectureRows(architecture))
  else facts.push(["cannot be loaded", model.reason ?? ""])
  return factTable("model", facts)
}

function architectureRows(facts: Architecture): [string, string][] {
  const { experts } = facts
  const feedForward =
    experts === null ? `${facts.nFfn}` : `${experts.nUsed} of ${experts.nExperts} experts of ${experts.nFfn}`
  return [
    ["layers", `${facts.nLayers} of width ${facts.dim}, feed-forward ${feedForward}`],
    ["heads", `${facts.nHeads} of ${facts.headDim}, ${facts.nKvHeads} for keys and values`],
    ["output matrix", facts.isTied ? "the embedding table" : "its own"],
    ["context", `${facts.nCtxTrain} tokens, ${formatBytes(facts.kvBytesPerToken)} of keys and values each`],
    ["read for a token", `${(facts.streamedBytes / 1e6).toFixed(1)} MB, ${formatCount(facts.macsPerToken)} MAC`],
    ["weights", weightsText(facts.weights)],
    ["pages", pagesText(facts.weights)],
    ["decode ceiling", `${facts.decodeCeiling.toFixed(1)} tokens/s at that bandwidth, empty context`],
  ]
}

function weightsText({ kind, path, isMapped }: WeightFacts): string {
  if (kind === "plain")
    return "interleaved in memory at every start: no repacked copy (the first chat, run or bench writes it)"
  const from = kind === "copy" ? `the repacked copy ${path}` : path
  return `${isMapped ? "mapped from" : "read from"} ${from}`
}

function pagesText({ residentBytes, hugeBytes }: WeightFacts): string {
  if (residentBytes < 0) return "this system does not say"
  const share = residentBytes > 0 ? (100 * hugeBytes) / residentBytes : 0
  return `${formatBytes(residentBytes)} resident, ${share.toFixed(0)} % of them in pages of 2 MiB`
}
