// Plain decoding beside drafts, on Spec-Bench's prompts ($ASDSL_TEST_DATA/prompts) and on prompts of our own whose answers
// copy (bench/prompts): each prompt in every setting, in turns, greedy unless --temp says otherwise. A speed-up is plain
// decoding's time for the same tokens over the setting's, summed over a category's prompts; the text has to be the same.
// --peers: what others have of speculation on the same files and prompts, after each category, a setting at a time with our
// own plain and auto right behind it (bench/peers/speculation.ts); their tokens may differ. A prompt's turn and a peer's
// setting are kept in --work, so that --seconds at a time make up the whole.
//
//   bun bench/speculative.ts -m MODEL.gguf [-md DRAFT.gguf] -n 128 --prompts 10 --draft 2,4,8 [--peers] [--seconds 60]

import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import {
  type Command,
  group,
  integer,
  integers,
  number,
  text,
  texts,
  toggle,
  UsageError,
  type Values,
} from "../src/cli/arguments.ts"
import { contextFlags, draftFlags, modelFlags, outputFlag, threadFlags } from "../src/cli/flags.ts"
import { draftOptions, loadFile, loadOptions, modelFile } from "../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import type { GenerateOptions, GenerationResult, Model, Session, SpeculativeMode } from "../src/index.ts"
import { type PeerPrompt, type PeerReply, peerSettings } from "./peers/speculation.ts"
import { resumableFlags, UNFINISHED } from "./resumable.ts"
import { reportOf, saveReport } from "./save.ts"

const flags = {
  ...modelFlags,
  ...draftFlags,
  ...group("Tests", {
    nGen: integer("-n, --n-gen", { min: 2, max: 2 ** 20, initial: 128, help: "tokens of a reply at most" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 1, help: "times that each prompt is answered" }),
    nPrompts: integer("--prompts", { min: 1, initial: 10, help: "prompts of a category at most" }),
    categories: texts("--category", { value: "NAME", help: "only this category" }),
    drafts: integers("--draft, --draft-max", {
      ...{ min: 1, max: 2 ** 16, initial: [2, 4, 8] },
      help: "tokens of a draft, where the draft model always drafts",
    }),
    lookups: integers("--lookup", {
      ...{ min: 1, max: 2 ** 16, initial: [8, 16] },
      help: "tokens of a draft, where lookups always draft",
    }),
    temperature: number("--temp", { min: 0, initial: 0, help: "temperature; 0: always the likeliest token" }),
    hasPeers: toggle("--peers", { initial: false, help: "the peers' speculation beside ours" }),
    peerSeconds: integer("--peer-seconds", {
      ...{ min: 1, max: 3600, initial: 60, help: "for a peer's setting on a category's prompts; longer is an error" },
    }),
    peerDraft: text("--peer-draft", { value: "FILE", help: "the peers' draft model, if not ours" }),
    ...resumableFlags("speculative"),
    data: text("--data", { value: "FOLDER", help: "where prompts/spec-bench.jsonl is; absent: $ASDSL_TEST_DATA" }),
  }),
  ...contextFlags,
  ...threadFlags,
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/speculative.ts",
  summary: "plain decoding beside drafts, by category of prompts",
  usage: "[-m MODEL] [-n 128] [-r 1] [--prompts 10] [--category NAME] [--draft 2,4,8] [--lookup 8,16] [-o md|json]",
  flags,
}

/** Passes and steps timed for what a step costs. */
const STEP_TURNS = 15

interface Setting {
  readonly name: string
  readonly options: GenerateOptions
}

/** What a setting came to on a prompt, or over those of a category. */
interface Total {
  nTokens: number
  milliseconds: number
  nPasses: number
  nDrafted: number
  nAccepted: number
  /** By place in the draft. */
  byPosition: { nDrafted: number; nAccepted: number }[]
}

/** A peer's setting on a category's prompts, and what our own came to right behind it. */
interface PeerEntry {
  readonly category: string
  readonly peer: string
  readonly replies: readonly PeerReply[]
  readonly own: { readonly plain: Total; readonly auto: Total }
}

/** What runs leave behind, a line each. */
type Entry =
  | { readonly category: string; readonly turn: number; readonly totals: Readonly<Record<string, Total>> }
  | PeerEntry

interface Prompt {
  readonly category: string
  readonly turns: readonly string[]
}

function promptsOf({
  data = process.env.ASDSL_TEST_DATA,
  categories,
  nPrompts,
}: Values<typeof flags>): Map<string, Prompt[]> {
  const files = [join(import.meta.dir, "prompts/copy-heavy.jsonl")]
  if (data === undefined) warn("without --data and $ASDSL_TEST_DATA: the prompts of bench/prompts alone")
  else files.push(join(data, "prompts/spec-bench.jsonl"))
  const lines = files.flatMap((file) => readFileSync(file, "utf8").trimEnd().split("\n"))
  const all = Map.groupBy(
    lines.map((line): Prompt => JSON.parse(line)),
    ({ category }) => category,
  )
  const chosen = [...all].filter(([category]) => categories.length === 0 || categories.includes(category))
  if (chosen.length === 0) throw new UsageError(`no such category; there are: ${[...all.keys()].join(", ")}`)
  return new Map(chosen.map(([category, prompts]) => [category, prompts.slice(0, nPrompts)]))
}

function settingsOf({ drafts, lookups }: Values<typeof flags>, hasDraftModel: boolean): Setting[] {
  const fixed = (speculative: SpeculativeMode, lengths: readonly number[]) =>
    lengths.map((maxDraft): Setting => ({ name: `${speculative} ${maxDraft}`, options: { speculative, maxDraft } }))
  return [
    { name: "plain", options: { speculative: "off" } },
    { name: "auto", options: { speculative: "auto" } },
    ...fixed("lookup", lookups),
    ...(hasDraftModel ? fixed("draft", drafts) : []),
  ]
}

/** One reply, in a fork of a session that has read the prompt: a draft model has not. */
async function reply(prompted: Session, options: GenerateOptions): Promise<GenerationResult> {
  using session = prompted.fork()
  return await session.generate([...session.tokens], { ...options, stop: session.model.template.stop }).finish()
}

function prompted(model: Model, prompt: Prompt): Session {
  const session = model.createSession()
  session.sync(tokensOf(model, prompt.turns[0]!))
  return session
}

function totalOf({ nGenerated, generationMs, speculation }: GenerationResult): Total {
  const { nPasses, nDrafted, nAccepted, byPosition } = speculation
  const nTokens = Math.max(nGenerated - 1, 0)
  return { nTokens, milliseconds: generationMs, nPasses, nDrafted, nAccepted, byPosition: [...byPosition] }
}

function sumOf(totals: readonly Total[]): Total {
  const sum: Total = { nTokens: 0, milliseconds: 0, nPasses: 0, nDrafted: 0, nAccepted: 0, byPosition: [] }
  for (const total of totals) {
    for (const name of ["nTokens", "milliseconds", "nPasses", "nDrafted", "nAccepted"] as const)
      sum[name] += total[name]
    for (const [place, { nDrafted, nAccepted }] of total.byPosition.entries()) {
      sum.byPosition[place] ??= { nDrafted: 0, nAccepted: 0 }
      sum.byPosition[place].nDrafted += nDrafted
      sum.byPosition[place].nAccepted += nAccepted
    }
  }
  return sum
}

/** A prompt in every setting; each turn begins with another one. */
async function measure(
  model: Model,
  prompt: Prompt,
  turn: number,
  settings: readonly Setting[],
  { nGen, temperature }: Values<typeof flags>,
): Promise<Record<string, Total>> {
  using session = prompted(model, prompt)
  const totals: Record<string, Total> = {}
  const texts = new Set<string>()
  for (let i = 0; i < settings.length; i++) {
    const { name, options } = settings[(turn + i) % settings.length]!
    const result = await reply(session, { temperature, seed: turn, maxTokens: nGen, ...options })
    totals[name] = totalOf(result)
    texts.add(result.tokens.join())
  }
  if (texts.size > 1) throw new Error(`drafts changed the reply to: ${prompt.turns[0]}`)
  return totals
}

function rowOf(setting: string, total: Total, plain: Total) {
  const { nTokens, milliseconds, nPasses, nDrafted, nAccepted, byPosition } = total
  return {
    setting,
    tokensPerSecond: (1000 * nTokens) / milliseconds,
    speedUp: plain.milliseconds / milliseconds,
    tokensPerPass: (nPasses + nAccepted) / nPasses,
    ...{ nDrafted, nAccepted, acceptanceRate: nDrafted > 0 ? nAccepted / nDrafted : undefined },
    acceptanceByPosition: byPosition.map((place) => place.nAccepted / place.nDrafted),
  }
}

/** A peer's row, against our own plain decoding: its own is one of its settings. */
function peerRow({ peer, replies, own }: PeerEntry) {
  const nTokens = sum(replies.map((each) => each.nTokens))
  const tokensPerSecond = (1000 * nTokens) / sum(replies.map((each) => each.milliseconds))
  const [plain, auto] = [own.plain, own.auto].map((total) => (1000 * total.nTokens) / total.milliseconds)
  const ratios = { speedUp: tokensPerSecond / plain!, autoOverIt: auto! / tokensPerSecond }
  return { setting: peer, tokensPerSecond, ...ratios, plainTokensPerSecond: plain, autoTokensPerSecond: auto }
}

function tokensOf({ template }: Model, said: string): Int32Array {
  return template.encode(template.render([{ role: "user", content: said }]))
}

function peerPrompt(model: Model, { turns }: Prompt): PeerPrompt {
  const said = turns[0]!
  const { text } = model.template.render([{ role: "user", content: said }])
  return { said, text, tokens: tokensOf(model, said) }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, n) => total + n, 0)
}

type Row = ReturnType<typeof rowOf>

const COLUMNS: readonly Column[] = [
  { name: "category", width: 16, align: "left" },
  { name: "setting", width: 24, align: "left" },
  { name: "tok/s", width: 7, align: "right" },
  { name: "speed-up", width: 8, align: "right" },
  { name: "tokens a pass", width: 8, align: "right" },
  { name: "drafted", width: 7, align: "right" },
  { name: "accepted", width: 12, align: "right" },
  { name: "auto over it", width: 12, align: "right" },
]

function line(category: string, row: Row): string {
  const { setting, tokensPerSecond, speedUp, tokensPerPass, nDrafted, nAccepted, acceptanceRate } = row
  const accepted = acceptanceRate === undefined ? "" : `${nAccepted} (${(100 * acceptanceRate).toFixed(0)} %)`
  const numbers = [tokensPerSecond.toFixed(1), speedUp.toFixed(2), tokensPerPass.toFixed(2)]
  return tableRow(COLUMNS, [category, setting, ...numbers, nDrafted > 0 ? String(nDrafted) : "", accepted, ""])
}

/** Where a measurement's entries are: one of other models, settings or lengths has others. */
function entriesPath(
  { work, nGen, temperature }: Values<typeof flags>,
  model: Model,
  settings: readonly Setting[],
): string {
  const facts = [basename(model.path), model.draft && basename(model.draft.path), nGen, temperature, settings]
  mkdirSync(work, { recursive: true })
  return join(work, `${Bun.hash(JSON.stringify(facts)).toString(16)}.jsonl`)
}

function readEntries(path: string): Entry[] {
  const text = existsSync(path) ? readFileSync(path, "utf8").trimEnd() : ""
  return text === "" ? [] : text.split("\n").map((line): Entry => JSON.parse(line))
}

/** Measures what is not among the entries, until it is all there or the time is up. */
async function measureRest(
  model: Model,
  categories: ReadonlyMap<string, readonly Prompt[]>,
  settings: readonly Setting[],
  values: Values<typeof flags>,
): Promise<{ entries: readonly Entry[]; isDone: boolean }> {
  const { rounds, seconds, hasPeers, peerDraft, peerSeconds, nGen } = values
  const path = entriesPath(values, model, settings)
  const entries = readEntries(path)
  const keep = (entry: Entry) => {
    appendFileSync(path, `${JSON.stringify(entry)}\n`)
    entries.push(entry)
  }
  const since = performance.now()
  const isLate = () => seconds > 0 && performance.now() - since > 1000 * seconds
  for (const [category, prompts] of categories) {
    const own = entries.filter((entry) => entry.category === category)
    for (let turn = 0; turn < rounds * prompts.length; turn++) {
      if (own.some((entry) => "turn" in entry && entry.turn === turn)) continue
      if (isLate()) return { entries, isDone: false }
      keep({ category, turn, totals: await measure(model, prompts[turn % prompts.length]!, turn, settings, values) })
    }
    for (const peer of hasPeers ? peerSettings(model.draft !== undefined) : []) {
      if (own.some((entry) => "peer" in entry && entry.peer === peer.name)) continue
      if (isLate()) return { entries, isDone: false }
      const replies = await peer.run({
        ...{ model: model.path, draft: peerDraft ?? model.draft?.path, nThreads: model.engineInfo().nThreads, nGen },
        ...{ prompts: prompts.map((prompt) => peerPrompt(model, prompt)), seconds: peerSeconds },
      })
      keep({ category, peer: peer.name, replies, own: await measureBeside(model, prompts, settings, values) })
    }
  }
  return { entries, isDone: true }
}

/** Our own plain and auto, on a category's prompts. */
async function measureBeside(
  model: Model,
  prompts: readonly Prompt[],
  settings: readonly Setting[],
  values: Values<typeof flags>,
): Promise<PeerEntry["own"]> {
  const pair = settings.filter(({ name }) => name === "plain" || name === "auto")
  const all: Record<string, Total>[] = []
  for (const [turn, prompt] of prompts.entries()) all.push(await measure(model, prompt, turn, pair, values))
  return { plain: sumOf(all.map(({ plain }) => plain!)), auto: sumOf(all.map(({ auto }) => auto!)) }
}

function resultOf(category: string, entries: readonly Entry[], settings: readonly Setting[]) {
  const own = entries.filter((entry) => entry.category === category)
  const turns = own.flatMap((entry) => ("turn" in entry ? [entry.totals] : []))
  const plain = sumOf(turns.map((totals) => totals.plain!))
  return {
    category,
    nTurns: turns.length,
    rows: settings.map(({ name }) => rowOf(name, sumOf(turns.map((totals) => totals[name]!)), plain)),
    peers: own.flatMap((entry) => ("peer" in entry ? [peerRow(entry)] : [])),
    turns,
  }
}

function tableOf(results: readonly ReturnType<typeof resultOf>[]): string {
  const lines = results.flatMap(({ category, rows, peers }) => [
    ...rows.map((row) => line(category, row)),
    ...peers.map(({ setting, tokensPerSecond, speedUp, autoOverIt }) => {
      const ratios = [speedUp.toFixed(2), "", "", "", autoOverIt.toFixed(2)]
      return tableRow(COLUMNS, [category, setting, tokensPerSecond.toFixed(1), ...ratios])
    }),
  ])
  return tableHead(COLUMNS) + lines.join("")
}

/** What both models take of memory, and the draft model of the machine's time: a step over a pass of the target, both over
 * one token, medians of turns. */
async function factsOf(model: Model, prompt: Prompt) {
  const tokens = tokensOf(model, prompt.turns[0]!)
  const { draft } = model
  using sessions = new DisposableStack()
  const timer = (each: Model) => {
    const session = sessions.use(each.createSession())
    session.topK = 0
    session.sync(tokens)
    const times: number[] = []
    return {
      turn() {
        const startedAt = performance.now()
        session.extend([tokens[0]!])
        times.push(performance.now() - startedAt)
        session.truncate(tokens.length)
      },
      median: () => times.toSorted((a, b) => a - b)[times.length >> 1]!,
      kvBytes: () => session.kvBytes,
    }
  }
  const own = timer(model)
  const drafts = draft && timer(draft)
  for (let turn = 0; turn < STEP_TURNS; turn++) {
    own.turn()
    drafts?.turn()
  }
  return {
    nTokens: tokens.length,
    passMs: own.median(),
    draftStepMs: drafts?.median(),
    stepShare: drafts && drafts.median() / own.median(),
    weightBytes: model.weightBytes,
    draftWeightBytes: draft?.weightBytes,
    kvBytes: own.kvBytes(),
    draftKvBytes: drafts?.kvBytes(),
    residentBytes: process.memoryUsage.rss(),
  }
}

async function run(values: Values<typeof flags>): Promise<number> {
  const categories = promptsOf(values)
  const path = await modelFile(values)
  const draft = await draftOptions(values)
  const settings = settingsOf(values, draft.draft !== undefined)
  const options = loadOptions(values)
  using model = await loadFile(path, { ...options, ...draft })
  const first = [...categories.values()][0]![0]!
  // Pages and caches are warm then, and what passes cost is known.
  using session = prompted(model, first)
  await reply(session, { maxTokens: 16, speculative: "off" })
  if (model.draft !== undefined) await reply(session, { maxTokens: 24, speculative: "auto" })
  const facts = await factsOf(model, first)
  const { entries, isDone } = await measureRest(model, categories, settings, values)
  const results = [...categories.keys()]
    .filter((category) => entries.some((entry) => entry.category === category && "turn" in entry))
    .map((category) => resultOf(category, entries, settings))
  const { nThreads, level } = model.engineInfo()
  const { nGen, rounds, temperature, save } = values
  const names = { model: basename(path), draft: model.draft && basename(model.draft.path) }
  const report = reportOf({ ...names, nThreads, level, nGen, rounds, temperature, facts, results })
  const table = tableOf(results)
  if (values.output === "json") await writeOut(`${JSON.stringify(report, null, 2)}\n`)
  else await writeOut(`${table}${factsText(facts)}`)
  if (!isDone) return UNFINISHED
  if (save !== undefined) saveReport(save, report, `bun ${command.name}`, `${table}\n${factsText(facts)}`)
  return 0
}

function factsText(facts: Awaited<ReturnType<typeof factsOf>>): string {
  const megabytes = (bytes: number | undefined) => `${((bytes ?? 0) / 1e6).toFixed(0)} MB`
  const { passMs, draftStepMs, stepShare, weightBytes, draftWeightBytes, kvBytes, draftKvBytes, residentBytes } = facts
  const step =
    draftStepMs === undefined
      ? ""
      : `, a draft step ${draftStepMs.toFixed(2)} ms = ${stepShare!.toFixed(3)} of it; its weights ${megabytes(draftWeightBytes)}, KV ${megabytes(draftKvBytes)}`
  return `a pass ${passMs.toFixed(2)} ms${step}; weights ${megabytes(weightBytes)}, KV ${megabytes(kvBytes)}, resident ${megabytes(residentBytes)}\n`
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
