// Retrieval by the type of cached keys and values: a fact planted at several depths of a long text, asked for behind it.
// Greedy replies, all types on the same prompts. What a run has no time for, the next one goes on with: replies lie in --work.
//
//   bun bench/kv-retrieval.ts -m MODEL -f TEXT --kv f16,q8_0 --tokens 8192 --seconds 100 --save kv-retrieval

import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import { type Command, group, integer, integers, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "../src/cli/flags.ts"
import { loadFile, loadOptions, modelFile } from "../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { StatusLine } from "../src/cli/status.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import type { Model } from "../src/index.ts"
import type { KvType } from "../src/load-options.ts"
import { writeJson } from "./machine.ts"
import { resumableFlags, UNFINISHED } from "./resumable.ts"
import { reportOf, saveReport } from "./save.ts"

const flags = {
  ...modelFlags,
  ...group("Tests", {
    file: text("-f, --file", { value: "FILE", help: "the text in which the fact is planted" }),
    types: text("--kv", { value: "TYPES", initial: "f16,q8_0", help: "types of keys and values" }),
    nTokens: integer("--tokens", { min: 64, initial: 8192, help: "tokens of the text around the fact" }),
    depths: integers("--depths", {
      ...{ min: 0, max: 100, initial: [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100] },
      help: "where the fact stands, in percent of the text",
    }),
    ...resumableFlags("kv-retrieval"),
  }),
  nUbatch: contextFlags.nUbatch,
  ...threadFlags,
}

const command: Command<typeof flags> = {
  name: "bench/kv-retrieval.ts",
  summary: "retrieval of a planted fact by the type of the KV cache",
  usage: "-m MODEL -f TEXT [--kv f16,q8_0] [--tokens 8192] [--depths 0,50,100] [--seconds 100] [--save NAME]",
  flags,
}

/** Tokens behind the text: template, question and reply. */
const ROOM = 256

interface Reply {
  readonly depth: number
  readonly code: string
  readonly nPromptTokens: number
  readonly text: string
  readonly isFound: boolean
}

/** Five digits that no text has, another number at each depth. */
function codeAt(depth: number): string {
  return String(10_000 + ((depth * 7919 + 31337) % 90_000))
}

/** The text cut to `nTokens` tokens, with the fact between two of its lines. */
function promptWith(model: Model, lines: readonly string[], depth: number): ArrayLike<number> {
  const at = Math.round((depth / 100) * lines.length)
  const fact = `The secret number of the lighthouse keeper is ${codeAt(depth)}.`
  const text = [...lines.slice(0, at), fact, ...lines.slice(at)].join("\n")
  const question = "What is the secret number of the lighthouse keeper? Answer with the number alone."
  const content = `Read this text.\n\n${text}\n\n${question}`
  return model.template.encode(model.template.render([{ role: "user", content }]))
}

function linesOf(model: Model, path: string, nTokens: number): string[] {
  const lines = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "")
  const counts = lines.map((line) => model.tokenizer.encode(`${line}\n`).length)
  let n = 0
  const end = counts.findIndex((count) => {
    n += count
    return n > nTokens
  })
  if (end < 0) throw new UsageError(`the text has ${n} tokens, --tokens is ${nTokens}`)
  return lines.slice(0, end)
}

/** The depths that have no reply yet, from the end of the text backwards: what is in front of the fact stays in the cache,
 * and for the next run in a file. */
async function answer(
  model: Model,
  lines: readonly string[],
  depths: readonly number[],
  { until, cache, found }: { until: number; cache: string; found: (reply: Reply) => void },
): Promise<void> {
  using session = model.createSession()
  using status = new StatusLine()
  const controller = new AbortController()
  if (existsSync(cache)) session.load(cache)
  for (const depth of [...depths].sort((a, b) => b - a)) {
    const generation = session.generate(promptWith(model, lines, depth), {
      ...{ temperature: 0, maxTokens: 12, stop: model.template.stop, speculative: "off", signal: controller.signal },
      onProgress(done, total) {
        status.show(`depth ${depth} %: ${done} of ${total} tokens`)
        if (performance.now() > until) controller.abort()
      },
    })
    const { text, nPromptTokens, finishReason } = await generation.finish()
    if (finishReason === "cancelled") break
    const code = codeAt(depth)
    found({ depth, code, nPromptTokens, text, isFound: text.includes(code) })
  }
  session.save(cache)
}

const COLUMNS = (types: readonly string[]): Column[] => [
  { name: "depth", width: 5, align: "right" },
  { name: "planted", width: 7, align: "right" },
  ...types.map((name): Column => ({ name, width: 14, align: "left" })),
  { name: "prompt", width: 6, align: "right" },
]

interface Retrieval {
  readonly model: string
  readonly text: string
  readonly nTokens: number
  readonly replies: Readonly<Record<string, readonly Reply[]>>
}

function markdown({ model, text: name, replies }: Retrieval): string {
  const types = Object.keys(replies)
  const first = replies[types[0]!]!
  const rows = first.map(({ depth, code, nPromptTokens }, i) => {
    const said = types.map((type) => {
      const { text, isFound } = replies[type]![i]!
      return isFound ? `found: ${text.trim()}` : `not: ${text.trim().replaceAll(/[|\n]/g, " ")}`
    })
    return tableRow(COLUMNS(types), [`${depth} %`, code, ...said, String(nPromptTokens)])
  })
  const counts = types.map((type) => `${type} ${replies[type]!.filter(({ isFound }) => isFound).length}`)
  const isEqual = types.every((type) => replies[type]!.every(({ text }, i) => text === first[i]!.text))
  const end = `Found of ${first.length}: ${counts.join(", ")}; the replies are ${isEqual ? "the same" : "not all the same"}.`
  return `${model}, in ${name}.\n\n${tableHead(COLUMNS(types))}${rows.join("")}\n${end}\n`
}

async function run(values: Values<typeof flags>): Promise<number> {
  const { file, nTokens, depths, seconds, work, save } = values
  const types = values.types.split(",") as KvType[]
  if (file === undefined) throw new UsageError("-f TEXT is needed")
  let until: number | undefined
  mkdirSync(work, { recursive: true })
  const path = await modelFile(values)
  const all: Record<string, Reply[]> = {}
  for (const type of types) {
    const name = join(work, `${basename(path)}-${basename(file)}-${type}-${nTokens}`)
    const known = existsSync(`${name}.json`) ? (JSON.parse(readFileSync(`${name}.json`, "utf8")) as Reply[]) : []
    all[type] = known
    const missing = depths.filter((depth) => !known.some((reply) => reply.depth === depth))
    if (missing.length > 0) {
      using model = await loadFile(path, { ...loadOptions(values), typeK: type, typeV: type, nCtx: nTokens + ROOM })
      until ??= seconds === 0 ? Infinity : performance.now() + 1000 * seconds
      const lines = linesOf(model, file, nTokens)
      const found = (reply: Reply) => {
        known.push(reply)
        writeJson(`${name}.json`, known)
      }
      await answer(model, lines, missing, { until, cache: `${name}.session`, found })
    }
    if (depths.some((depth) => !known.some((reply) => reply.depth === depth))) {
      warn(`${type}: ${known.length} depths so far; not done: the same command goes on`)
      return UNFINISHED
    }
    all[type] = depths.map((depth) => known.find((reply) => reply.depth === depth)!)
  }
  const result: Retrieval = { model: basename(path, ".gguf"), text: basename(file), nTokens, replies: all }
  await writeOut(markdown(result))
  if (save === undefined) return 0
  const line = `bun bench/kv-retrieval.ts -m MODEL -f ${basename(file)} --kv ${types} --tokens ${nTokens} --save ${save}`
  warn(`written: ${saveReport(save, reportOf(result), line, markdown(result))}`)
  return 0
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
