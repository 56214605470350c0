// Quality of quantised files of one model beside their source: perplexity, and KL divergence from the source's distributions,
// on the same chunks of a text, by llama-perplexity's conventions. The first file is what the others are compared with, token
// by token. What a run has no time for, the next one goes on with: what each file has given lies in --work, and the source's
// distributions too, 2 bytes a token of the vocabulary (77 MB a chunk of 512 tokens where it has 151,936).
//
//   bun bench/divergence.ts --source F16.gguf -f TEXT --skip 64 --chunks 32 --seconds 100 --save NAME THEIRS.gguf OURS.gguf ...

import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { type Command, group, integer, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { contextFlags, loadFlags, threadFlags } from "../src/cli/flags.ts"
import { loadFile, loadOptions } from "../src/cli/load.ts"
import { runCommand, warn, writeOut } from "../src/cli/program.ts"
import { StatusLine } from "../src/cli/status.ts"
import { type Column, formatBytes, tableHead, tableRow } from "../src/cli/table.ts"
import { divergenceOf } from "../src/eval/kl-divergence.ts"
import { LogitsReader, LogitsWriter } from "../src/eval/logits-file.ts"
import { evaluationTokens, scoreChunk, scoredRows } from "../src/eval/perplexity.ts"
import { Sums } from "../src/eval/statistics.ts"
import type { Model } from "../src/index.ts"
import { resumableFlags, UNFINISHED } from "./resumable.ts"
import { reportOf, saveReport } from "./save.ts"

const flags = {
  ...group("Tests", {
    source: text("--source", { value: "FILE", help: "the model that was quantised" }),
    file: text("-f, --file", { value: "TEXT", help: "the text" }),
    skip: integer("--skip", { min: 0, initial: 0, help: "chunks at the text's beginning that are left out" }),
    nChunks: integer("--chunks", { min: 1, initial: 32, help: "chunks that are scored" }),
    ...resumableFlags("divergence"),
  }),
  ...loadFlags,
  nCtx: { ...contextFlags.nCtx, initial: 512, help: "tokens of a chunk" },
  ...threadFlags,
}

const command: Command<typeof flags> = {
  name: "bench/divergence.ts",
  summary: "perplexity and KL divergence of quantised files from their source",
  usage: "--source FILE -f TEXT [--skip 0] [--chunks 32] [-c 512] [--seconds 100] [--save NAME] FILE ...",
  flags,
  takesOperands: true,
}

/** Of one scored token: loss, divergence from the source, whether the likeliest token is the source's. */
const WIDTH = 3

/** The chunks of a text, and what files have given on them. */
class Chunks {
  readonly #folder: string
  readonly #name: string
  readonly #range: { skip: number; n: number; nCtx: number }
  #tokens: Int32Array | undefined

  constructor(folder: string, name: string, range: { skip: number; n: number; nCtx: number }) {
    this.#folder = folder
    this.#name = name
    this.#range = range
  }

  /** Chunks by their places in the text. */
  get places(): number[] {
    return Array.from({ length: this.#range.n }, (_, i) => this.#range.skip + i)
  }

  #path(file: string, place: number, what: string): string {
    const { size, mtimeMs } = statSync(file)
    const version = Bun.hash(`${file} ${size} ${mtimeMs}`).toString(36)
    return join(this.#folder, `${basename(file)}-${version}-${this.#name}-${this.#range.nCtx}-${place}.${what}`)
  }

  #chunk(model: Model, source: string, place: number): Int32Array {
    const { nCtx } = this.#range
    this.#tokens ??= evaluationTokens(model.tokenizer, source)
    const chunk = this.#tokens.slice(place * nCtx, (place + 1) * nCtx)
    if (chunk.length < nCtx) {
      throw new UsageError(`the text has ${Math.floor(this.#tokens.length / nCtx)} chunks, chunk ${place} is asked for`)
    }
    return chunk
  }

  hasBase(file: string, place: number): boolean {
    return existsSync(this.#path(file, place, "logits"))
  }

  /** Stores the source's distributions of a chunk. */
  writeBase(model: Model, file: string, text: string, place: number): void {
    const { nCtx } = this.#range
    const chunk = this.#chunk(model, text, place)
    const header = { nCtx, nVocab: model.config.nVocab, nChunks: 1 }
    using writer = new LogitsWriter(this.#path(file, place, "logits"), header, chunk)
    scoreChunk(model, chunk, (row, i) => writer.chunk.set(i, row))
    writer.writeChunk()
    writer.finish()
  }

  hasScores(file: string, place: number): boolean {
    return existsSync(this.#path(file, place, "scores"))
  }

  /** Compares a model with the source's distributions of a chunk. */
  writeScores(model: Model, file: string, source: string, place: number): void {
    using base = new LogitsReader(this.#path(source, place, "logits"))
    const rows = base.next()
    const scores = new Float64Array(WIDTH * rows.nRows)
    scoreChunk(model, base.tokens, (row, i, next) => {
      const { divergence, top } = divergenceOf(rows.row(i), row)
      scores.set([row.logsumexp - row.logits[next]!, divergence, top === row.argmax ? 1 : 0], WIDTH * i)
    })
    const path = this.#path(file, place, "scores")
    writeFileSync(`${path}.tmp`, new Uint8Array(scores.buffer))
    renameSync(`${path}.tmp`, path)
  }

  /** Of all chunks, WIDTH numbers a token. */
  scores(file: string): Float64Array {
    const all = this.places.map((place) => readFileSync(this.#path(file, place, "scores")))
    return new Float64Array(new Uint8Array(Buffer.concat(all)).buffer)
  }

  /** Losses of the source itself, as stored. */
  baseLosses(file: string): Sums {
    const sums = new Sums()
    const { first, count } = scoredRows(this.#range.nCtx)
    for (const place of this.places) {
      using base = new LogitsReader(this.#path(file, place, "logits"))
      const rows = base.next()
      for (let i = 0; i < count; i++) {
        const { scale, minimum, codes } = rows.row(i)
        sums.add(-(minimum + scale * codes[base.tokens[first + i + 1]!]!))
      }
    }
    return sums
  }
}

interface Result {
  readonly file: string
  readonly bytes: number
  readonly perplexity: number
  readonly divergence: number
  readonly divergenceError: number
  /** Of the divergence to the first file's, and the standard error of that: compared token by token. */
  readonly ratio: number
  readonly ratioError: number
  /** Share of tokens whose likeliest is the source's. */
  readonly sameTop: number
}

function resultOf(file: string, scores: Float64Array, first: Float64Array): Result {
  const [loss, own, difference, top, firsts] = Array.from({ length: 5 }, () => new Sums()) as [
    ...[Sums, Sums, Sums, Sums, Sums],
  ]
  for (let i = 0; i < scores.length; i += WIDTH) {
    loss.add(scores[i]!)
    own.add(scores[i + 1]!)
    difference.add(scores[i + 1]! - first[i + 1]!)
    firsts.add(first[i + 1]!)
    top.add(scores[i + 2]!)
  }
  return {
    ...{ file: basename(file), bytes: statSync(file).size, perplexity: Math.exp(loss.mean) },
    ...{ divergence: own.mean, divergenceError: own.error, sameTop: top.mean },
    ...{ ratio: own.mean / firsts.mean, ratioError: difference.error / firsts.mean },
  }
}

const COLUMNS: readonly Column[] = [
  { name: "file", width: 12, align: "left" },
  { name: "size", width: 10, align: "right" },
  { name: "perplexity", width: 8, align: "right" },
  { name: "mean KL divergence", width: 18, align: "right" },
  { name: "to the first", width: 18, align: "right" },
  { name: "same likeliest token", width: 8, align: "right" },
]

interface Report {
  readonly source: string
  readonly text: string
  readonly nCtx: number
  readonly skip: number
  readonly nChunks: number
  readonly sourcePerplexity: number
  readonly results: readonly Result[]
}

function markdown({ source, text: name, nCtx, skip, nChunks, sourcePerplexity, results }: Report): string {
  const rows = results.map((each, i) => {
    const change = `${(100 * (each.ratio - 1)).toFixed(2)} ± ${(100 * each.ratioError).toFixed(2)} %`
    return tableRow(COLUMNS, [
      ...[each.file, formatBytes(each.bytes), each.perplexity.toFixed(4)],
      `${each.divergence.toFixed(6)} ± ${each.divergenceError.toFixed(6)}`,
      ...[i === 0 ? "" : change, `${(100 * each.sameTop).toFixed(2)} %`],
    ])
  })
  const about = `Chunks ${skip} to ${skip + nChunks - 1} of ${nCtx} tokens of ${name}; ${source} has perplexity ${sourcePerplexity.toFixed(4)}.`
  return `${about}\n\n${tableHead(COLUMNS)}${rows.join("")}`
}

async function run(
  values: Values<typeof flags>,
  _given: ReadonlySet<string>,
  files: readonly string[],
): Promise<number> {
  const { source, file, skip, nChunks, nCtx, seconds, work, save } = values
  if (source === undefined || file === undefined || files.length === 0) {
    throw new UsageError("--source FILE, -f TEXT and a file to compare are needed")
  }
  mkdirSync(work, { recursive: true })
  const text = readFileSync(file, "utf8")
  const chunks = new Chunks(work, basename(file), { skip, n: nChunks, nCtx })
  let until: number | undefined
  const goOn = async (
    path: string,
    isDone: (place: number) => boolean,
    body: (model: Model, place: number) => void,
  ) => {
    const places = chunks.places.filter((place) => !isDone(place))
    if (places.length === 0) return true
    using model = await loadFile(path, { ...loadOptions(values), nCtx, maxOutputs: 64, maxTopK: 0 })
    using status = new StatusLine()
    until ??= seconds === 0 ? Infinity : performance.now() + 1000 * seconds
    for (const [i, place] of places.entries()) {
      if (performance.now() > until) return false
      body(model, place)
      status.show(`${basename(path)}: ${i + 1} of ${places.length} chunks`)
    }
    return true
  }
  let isDone = await goOn(
    source,
    (place) => chunks.hasBase(source, place),
    (model, place) => chunks.writeBase(model, source, text, place),
  )
  for (const path of files) {
    if (!isDone) break
    isDone = await goOn(
      path,
      (place) => chunks.hasScores(path, place),
      (model, place) => chunks.writeScores(model, path, source, place),
    )
  }
  if (!isDone) {
    warn("not done: the same command goes on")
    return UNFINISHED
  }
  const first = chunks.scores(files[0]!)
  const report: Report = {
    ...{ source: basename(source), text: basename(file), nCtx, skip, nChunks },
    sourcePerplexity: Math.exp(chunks.baseLosses(source).mean),
    results: files.map((path) => resultOf(path, chunks.scores(path), first)),
  }
  await writeOut(markdown(report))
  if (save === undefined) return 0
  const line = `bun bench/divergence.ts --source ${report.source} -f ${report.text} --skip ${skip} --chunks ${nChunks} -c ${nCtx} --save ${save} ${files.map((path) => basename(path)).join(" ")}`
  warn(`written: ${saveReport(save, reportOf(report), line, markdown(report))}`)
  return 0
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
