// Perplexity by the type of cached keys and values: the same tokens of a text at several context lengths, by
// llama-perplexity's conventions, each type beside the first one. What a run has no time for, the next one goes on with:
// losses and the session of a chunk that is not finished lie in --work.
//
//   bun bench/kv-perplexity.ts -m MODEL -f TEXT --kv f16,q8_0 -c 512,2048,0 --tokens 32768 --seconds 100 --save kv-perplexity

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { type Command, group, integer, integers, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "../src/cli/flags.ts"
import { loadFile, loadOptions, modelFile } from "../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { StatusLine } from "../src/cli/status.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { evaluationTokens, scoredRows } from "../src/eval/perplexity.ts"
import { Sums } from "../src/eval/statistics.ts"
import type { Model, Session } from "../src/index.ts"
import type { KvType } from "../src/load-options.ts"
import { SessionFile } from "../src/session-file.ts"
import { resumableFlags, UNFINISHED } from "./resumable.ts"
import { reportOf, saveReport } from "./save.ts"

const flags = {
  ...modelFlags,
  ...group("Tests", {
    file: text("-f, --file", { value: "FILE", help: "the text" }),
    types: text("--kv", {
      value: "TYPES",
      initial: "f16,q8_0",
      help: "types of keys and values, the first is compared to",
    }),
    contexts: integers("-c, --ctx-size", {
      ...{ min: 0, max: 2 ** 30, initial: [512, 2048, 0] },
      help: "tokens of a chunk; 0: the context that the model was trained for",
    }),
    nTokens: integer("--tokens", { min: 8, initial: 32768, help: "tokens of the text, from its beginning" }),
    ...resumableFlags("kv-perplexity"),
  }),
  nUbatch: contextFlags.nUbatch,
  ...threadFlags,
}

const command: Command<typeof flags> = {
  name: "bench/kv-perplexity.ts",
  summary: "perplexity by the type of the KV cache",
  usage: "-m MODEL -f TEXT [--kv f16,q8_0] [-c 512,2048,0] [--tokens 32768] [--seconds 100] [--save NAME]",
  flags,
}

/** The losses of one type at one context length, as far as they are known, and where the rest of them goes on. */
class Task {
  readonly nCtx: number
  readonly nChunks: number
  readonly losses: number[]
  readonly #path: string

  constructor(path: string, nCtx: number, nTokens: number) {
    this.#path = path
    this.nCtx = nCtx
    this.nChunks = Math.floor(nTokens / nCtx)
    this.losses = existsSync(this.#lossFile) ? Array.from(new Float64Array(bufferOf(this.#lossFile))) : []
    const nOfChunk = this.losses.length % this.#perChunk
    if (this.#savedRows() === nOfChunk) return
    this.losses.length -= nOfChunk // a run was killed
    rmSync(this.#sessionFile, { force: true })
  }

  /** Rows of the unfinished chunk that its session has behind it. */
  #savedRows(): number {
    if (!existsSync(this.#sessionFile)) return 0
    using file = SessionFile.open(this.#sessionFile)
    return Math.max(0, file.saved.tokens.length - scoredRows(this.nCtx).first)
  }

  get #lossFile(): string {
    return `${this.#path}.losses`
  }

  get #sessionFile(): string {
    return `${this.#path}.session`
  }

  /** Losses of a chunk. */
  get #perChunk(): number {
    return scoredRows(this.nCtx).count
  }

  get isDone(): boolean {
    return this.losses.length === this.nChunks * this.#perChunk
  }

  /** Goes on until all is done or the time is up; then what there is gets saved. */
  run(model: Model, tokens: Int32Array, until: number, onProgress: (done: number, total: number) => void): void {
    while (!this.isDone && performance.now() < until) {
      const chunk = Math.floor(this.losses.length / this.#perChunk)
      using session = model.createSession({ nCtx: this.nCtx })
      session.topK = 0
      if (existsSync(this.#sessionFile)) session.load(this.#sessionFile)
      const part = tokens.slice(chunk * this.nCtx, (chunk + 1) * this.nCtx)
      if (model.tokenizer.addBos) part[0] = model.tokenizer.bos!
      this.#goOn(session, part, until)
      if (session.tokens.length < this.nCtx - 1) session.save(this.#sessionFile)
      else rmSync(this.#sessionFile, { force: true })
      onProgress(this.losses.length, this.nChunks * this.#perChunk)
    }
    writeFileSync(`${this.#lossFile}.tmp`, new Uint8Array(Float64Array.from(this.losses).buffer))
    renameSync(`${this.#lossFile}.tmp`, this.#lossFile)
  }

  /** The rest of a chunk; its last token decides nothing. */
  #goOn(session: Session, chunk: Int32Array, until: number): void {
    const { first } = scoredRows(this.nCtx)
    const { nUbatch } = session.model
    while (session.tokens.length < this.nCtx - 1 && performance.now() < until) {
      const at = session.tokens.length
      const end = Math.min(at + nUbatch, at < first ? first : this.nCtx - 1)
      if (at < first) {
        session.extend(chunk.subarray(at, end), { outputs: "none" })
        continue
      }
      session.extend(chunk.subarray(at, end), {
        outputs: "all",
        onRows: (firstRow, nRows) => {
          for (let j = 0; j < nRows; j++) {
            const row = session.row(j)
            this.losses.push(row.logsumexp - row.logits[chunk[at + firstRow + j + 1]!]!)
          }
        },
      })
    }
  }
}

function bufferOf(path: string): ArrayBuffer {
  return new Uint8Array(readFileSync(path)).buffer
}

interface Result {
  readonly nCtx: number
  readonly type: string
  readonly nChunks: number
  readonly nScored: number
  readonly perplexity: number
  /** Standard error of the perplexity. */
  readonly error: number
  /** Of the perplexity to the first type's, and the standard error of that: the losses are compared token by token. */
  readonly ratio: number
  readonly ratioError: number
}

function resultOf(type: string, task: Task, base: Task): Result {
  const [own, difference] = [new Sums(), new Sums()]
  for (const [i, loss] of task.losses.entries()) {
    own.add(loss)
    difference.add(loss - base.losses[i]!)
  }
  const [perplexity, ratio] = [Math.exp(own.mean), Math.exp(difference.mean)]
  return {
    ...{ nCtx: task.nCtx, type, nChunks: task.nChunks, nScored: own.count },
    ...{ perplexity, error: perplexity * own.error, ratio, ratioError: ratio * difference.error },
  }
}

interface ModelResults {
  readonly model: string
  readonly text: string
  readonly nTokens: number
  readonly results: readonly Result[]
}

const COLUMNS: readonly Column[] = [
  { name: "model", width: 12, align: "left" },
  { name: "context", width: 7, align: "right" },
  { name: "chunks", width: 6, align: "right" },
  { name: "tokens scored", width: 6, align: "right" },
  { name: "KV", width: 4, align: "left" },
  { name: "perplexity", width: 17, align: "right" },
  { name: "to the first", width: 18, align: "right" },
]

function markdown(models: readonly ModelResults[]): string {
  const rows = models.flatMap(({ model, results }) =>
    results.map(({ nCtx, type, nChunks, nScored, perplexity, error, ratio, ratioError }) => {
      const change = `${(100 * (ratio - 1)).toFixed(3)} ± ${(100 * ratioError).toFixed(3)} %`
      const isFirst = ratio === 1 && ratioError === 0
      const numbers = [String(nCtx), String(nChunks), String(nScored), type]
      return tableRow(COLUMNS, [
        model,
        ...numbers,
        `${perplexity.toFixed(4)} ± ${error.toFixed(3)}`,
        isFirst ? "" : change,
      ])
    }),
  )
  const texts = [...new Set(models.map(({ text: name, nTokens }) => `${nTokens} tokens of ${name}`))]
  return `${texts.join("; ")}.\n\n${tableHead(COLUMNS)}${rows.join("")}`
}

/** The models that a saved report has, with this one's results instead of its old ones. */
function withOthers(name: string, own: ModelResults): ModelResults[] {
  const path = join(import.meta.dir, "results", `${name}.json`)
  const saved = existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")).models as ModelResults[]) : []
  return [...saved.filter(({ model }) => model !== own.model), own].sort((a, b) => (a.model < b.model ? -1 : 1))
}

async function run(values: Values<typeof flags>): Promise<number> {
  const { file, types, contexts, nTokens, seconds, work, save } = values
  if (file === undefined) throw new UsageError("-f TEXT is needed")
  let until: number | undefined
  mkdirSync(work, { recursive: true })
  const path = await modelFile(values)
  const tasks = new Map<string, Task[]>()
  let tokens: Int32Array | undefined
  for (const type of types.split(",") as KvType[]) {
    using model = await loadFile(path, { ...loadOptions(values), typeK: type, typeV: type, maxOutputs: 64, maxTopK: 0 })
    until ??= seconds === 0 ? Infinity : performance.now() + 1000 * seconds
    tokens ??= evaluationTokens(model.tokenizer, readFileSync(file, "utf8")).slice(0, nTokens)
    if (tokens.length < nTokens) throw new UsageError(`the text has ${tokens.length} tokens, --tokens is ${nTokens}`)
    using status = new StatusLine()
    const own: Task[] = []
    for (const nCtx of contexts.map((n) => n || model.config.nCtxTrain)) {
      const task = new Task(join(work, `${basename(path)}-${basename(file)}-${type}-${nCtx}`), nCtx, nTokens)
      own.push(task)
      task.run(model, tokens, until, (done, total) =>
        status.show(`${type}, ${nCtx}: ${done} of ${total} tokens scored`),
      )
    }
    tasks.set(type, own)
    if (!own.every(({ isDone }) => isDone)) break
  }
  const all = [...tasks]
  for (const [type, own] of all) {
    for (const { nCtx, isDone, losses } of own)
      if (!isDone) warn(`${type}, context ${nCtx}: ${losses.length} scored so far`)
  }
  if (all.length < types.split(",").length || all.some(([, own]) => own.some(({ isDone }) => !isDone))) {
    warn("not done: the same command goes on")
    return UNFINISHED
  }
  const results = contexts.flatMap((_, i) => all.map(([type, own]) => resultOf(type, own[i]!, all[0]![1][i]!)))
  const model: ModelResults = { model: basename(path, ".gguf"), text: basename(file), nTokens, results }
  const models = save === undefined ? [model] : withOthers(save, model)
  await writeOut(markdown(models))
  if (save === undefined) return 0
  const line = `bun bench/kv-perplexity.ts -m MODEL -f ${basename(file)} --kv ${types} -c ${contexts.join()} --tokens ${nTokens}`
  warn(`written: ${saveReport(save, reportOf({ models }), `${line} --save ${save}`, markdown(models))}`)
  return 0
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
