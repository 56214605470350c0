// Plain decoding beside drafts, on Spec-Bench's prompts ($ASDSL_TEST_DATA/prompts) and on prompts of our own whose answers
// copy (bench/prompts): each prompt in every setting, in turns, greedy unless --temp says otherwise. A speed-up is plain
// decoding's time for the same tokens over the setting's, summed over a category's prompts; the text has to be the same.
// --peers: node-llama-cpp's own speculation on the same files and prompts, after each category; its tokens may differ.
//
//   bun bench/speculative.ts -m MODEL.gguf [-md DRAFT.gguf] -n 128 --prompts 10 --draft 4,16 [--peers]

import { readFileSync } from "node:fs"
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
import type { GenerateOptions, GenerationResult, Model, SpeculativeMode } from "../src/index.ts"
import { runPeer } from "./peers/speculation.ts"

const flags = {
  ...modelFlags,
  ...draftFlags,
  ...group("Tests", {
    nGen: integer("-n, --n-gen", { min: 2, max: 2 ** 20, initial: 128, help: "tokens of a reply at most" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 1, help: "times that each prompt is answered" }),
    nPrompts: integer("--prompts", { min: 1, initial: 10, help: "prompts of a category at most" }),
    categories: texts("--category", { value: "NAME", help: "only this category" }),
    drafts: integers("--draft, --draft-max", {
      ...{ min: 1, max: 2 ** 16, initial: [2, 4, 8, 16] },
      help: "tokens of a draft, for the settings that always draft",
    }),
    temperature: number("--temp", { min: 0, initial: 0, help: "temperature; 0: always the likeliest token" }),
    hasPeers: toggle("--peers", { initial: false, help: "node-llama-cpp's speculation beside ours" }),
    data: text("--data", { value: "FOLDER", help: "where prompts/spec-bench.jsonl is; absent: $ASDSL_TEST_DATA" }),
  }),
  ...contextFlags,
  ...threadFlags,
  ...outputFlag(["md", "json"]),
}

const command: Command<typeof flags> = {
  name: "bench/speculative.ts",
  summary: "plain decoding beside drafts, by category of prompts",
  usage: "[-m MODEL] [-n 128] [-r 1] [--prompts 10] [--category NAME] [--draft 2,4,8,16] [-o md|json]",
  flags,
}

interface Setting {
  readonly name: string
  readonly options: GenerateOptions
}

/** What a setting came to over the prompts of a category. */
interface Total {
  nTokens: number
  milliseconds: number
  nPasses: number
  nDrafted: number
  nAccepted: number
  /** By place in the draft. */
  byPosition: { nDrafted: number; nAccepted: number }[]
}

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

function settingsOf({ drafts }: Values<typeof flags>, hasDraftModel: boolean): Setting[] {
  const modes: SpeculativeMode[] = hasDraftModel ? ["lookup", "draft"] : ["lookup"]
  return [
    { name: "plain", options: { speculative: "off" } },
    { name: "auto", options: { speculative: "auto" } },
    ...modes.flatMap((speculative) =>
      drafts.map((maxDraft) => ({ name: `${speculative} ${maxDraft}`, options: { speculative, maxDraft } })),
    ),
  ]
}

/** One reply, in a session of its own. */
async function reply(model: Model, prompt: Prompt, options: GenerateOptions): Promise<GenerationResult> {
  using session = model.createSession()
  return await session.generate(tokensOf(model, prompt.turns[0]!), { ...options, stop: model.template.stop }).finish()
}

function add(total: Total, { nGenerated, generationMs, speculation }: GenerationResult): void {
  total.nTokens += Math.max(nGenerated - 1, 0)
  total.milliseconds += generationMs
  total.nPasses += speculation.nPasses
  total.nDrafted += speculation.nDrafted
  total.nAccepted += speculation.nAccepted
  for (const [place, { nDrafted, nAccepted }] of speculation.byPosition.entries()) {
    total.byPosition[place] ??= { nDrafted: 0, nAccepted: 0 }
    total.byPosition[place].nDrafted += nDrafted
    total.byPosition[place].nAccepted += nAccepted
  }
}

/** Every setting on every prompt of a category. Each turn begins with another setting. */
async function measure(
  model: Model,
  prompts: readonly Prompt[],
  settings: readonly Setting[],
  { nGen, rounds, temperature }: Values<typeof flags>,
): Promise<Total[]> {
  const totals = settings.map(
    (): Total => ({ ...{ nTokens: 0, milliseconds: 0, nPasses: 0, nDrafted: 0, nAccepted: 0 }, byPosition: [] }),
  )
  for (let turn = 0; turn < rounds * prompts.length; turn++) {
    const texts = new Set<string>()
    for (let i = 0; i < settings.length; i++) {
      const which = (turn + i) % settings.length
      const options = { temperature, seed: turn, maxTokens: nGen, ...settings[which]!.options }
      const result = await reply(model, prompts[turn % prompts.length]!, options)
      add(totals[which]!, result)
      texts.add(result.tokens.join())
    }
    if (texts.size > 1) throw new Error(`drafts changed the reply to: ${prompts[turn % prompts.length]!.turns[0]}`)
  }
  return totals
}

function rowOf({ name }: Setting, total: Total, plain: Total) {
  const { nTokens, milliseconds, nPasses, nDrafted, nAccepted, byPosition } = total
  return {
    setting: name,
    tokensPerSecond: (1000 * nTokens) / milliseconds,
    speedUp: plain.milliseconds / milliseconds,
    tokensPerPass: (nPasses + nAccepted) / nPasses,
    ...{ nDrafted, nAccepted, acceptanceRate: nDrafted > 0 ? nAccepted / nDrafted : undefined },
    acceptanceByPosition: byPosition.map((place) => place.nAccepted / place.nDrafted),
  }
}

/** The peer's rows, against our own plain decoding: its own is one of them. */
async function peerRows(
  model: Model,
  prompts: readonly Prompt[],
  { nGen }: Values<typeof flags>,
  plain: Total,
): Promise<{ setting: string; tokensPerSecond: number; speedUp: number }[]> {
  const { results } = await runPeer({
    ...{ model: model.path, draft: model.draft?.path, nThreads: model.engineInfo().nThreads, nGen },
    prompts: prompts.map(({ turns }) => tokensOf(model, turns[0]!)),
  })
  return Object.entries(results).map(([name, replies]) => {
    const [nTokens, milliseconds] = [
      sum(replies.map((each) => each.nTokens)),
      sum(replies.map((each) => each.milliseconds)),
    ]
    const tokensPerSecond = (1000 * nTokens) / milliseconds
    return {
      setting: `peer ${name}`,
      tokensPerSecond,
      speedUp: (tokensPerSecond * plain.milliseconds) / (1000 * plain.nTokens),
    }
  })
}

function tokensOf({ template }: Model, said: string): Int32Array {
  return template.encode(template.render([{ role: "user", content: said }]))
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, n) => total + n, 0)
}

type Row = ReturnType<typeof rowOf>

const COLUMNS: readonly Column[] = [
  { name: "category", width: 16, align: "left" },
  { name: "setting", width: 12, align: "left" },
  { name: "tok/s", width: 7, align: "right" },
  { name: "speed-up", width: 8, align: "right" },
  { name: "tokens a pass", width: 8, align: "right" },
  { name: "drafted", width: 7, align: "right" },
  { name: "accepted", width: 12, align: "right" },
]

function line(category: string, row: Row): string {
  const { setting, tokensPerSecond, speedUp, tokensPerPass, nDrafted, nAccepted, acceptanceRate } = row
  const accepted = acceptanceRate === undefined ? "" : `${nAccepted} (${(100 * acceptanceRate).toFixed(0)} %)`
  const numbers = [tokensPerSecond.toFixed(1), speedUp.toFixed(2), tokensPerPass.toFixed(2)]
  return tableRow(COLUMNS, [category, setting, ...numbers, nDrafted > 0 ? String(nDrafted) : "", accepted])
}

async function run(values: Values<typeof flags>): Promise<void> {
  const categories = promptsOf(values)
  const path = await modelFile(values)
  const draft = await draftOptions(values)
  const settings = settingsOf(values, draft.draft !== undefined)
  using model = await loadFile(path, { ...loadOptions(values), ...draft })
  const isJson = values.output === "json"
  const results: { category: string; nPrompts: number; rows: Row[]; peers: Awaited<ReturnType<typeof peerRows>> }[] = []
  await reply(model, [...categories.values()][0]![0]!, { maxTokens: 16, speculative: "off" }) // pages and caches are warm then
  if (!isJson) await writeOut(tableHead(COLUMNS))
  for (const [category, prompts] of categories) {
    const totals = await measure(model, prompts, settings, values)
    const rows = settings.map((setting, i) => rowOf(setting, totals[i]!, totals[0]!))
    const peers = values.hasPeers ? await peerRows(model, prompts, values, totals[0]!) : []
    results.push({ category, nPrompts: prompts.length, rows, peers })
    if (isJson) continue
    await writeOut(rows.map((row) => line(category, row)).join(""))
    for (const { setting, tokensPerSecond, speedUp } of peers) {
      await writeOut(tableRow(COLUMNS, [category, setting, tokensPerSecond.toFixed(1), speedUp.toFixed(2), "", "", ""]))
    }
  }
  const memory = {
    weightBytes: model.weightBytes,
    draftWeightBytes: model.draft?.weightBytes,
    residentBytes: process.memoryUsage.rss(),
  }
  if (!isJson) return void (await writeOut(`resident: ${(memory.residentBytes / 1e6).toFixed(0)} MB\n`))
  const { cpu, nThreads, level } = model.engineInfo()
  const { nGen, rounds, temperature } = values
  await writeOut(
    `${JSON.stringify({ model: basename(path), cpu, nThreads, level, nGen, rounds, temperature, memory, results }, null, 2)}\n`,
  )
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
