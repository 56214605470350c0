// asdsl perplexity: llama-perplexity's measure of a text, and its KL divergence from another model's stored distributions.

import { readFileSync } from "node:fs"
import { type DivergenceResult, type DivergenceSums, type Estimate, klDivergence } from "../eval/kl-divergence.ts"
import { LogitsReader, LogitsWriter } from "../eval/logits-file.ts"
import { chunksOf, evaluationTokens, type PerplexityResult, perplexity } from "../eval/perplexity.ts"
import type { LoadOptions } from "../load-options.ts"
import type { Model } from "../model.ts"
import { type Command, group, integer, text, toggle, UsageError, type Values } from "./arguments.ts"
import { contextFlags, loadFlags, modelFlags, outputFlag, promptFlags, threadFlags } from "./flags.ts"
import { loadFile, loadOptions, modelFile } from "./load.ts"
import { runCommand, warn, writeOut } from "./program.ts"

const MAX_OUTPUTS = 64 // rows of logits at once: enough for the matrix kernel, little memory with a large vocabulary

const flags = {
  ...modelFlags,
  ...loadFlags,
  ...promptFlags,
  ...group("Perplexity", {
    nChunks: integer("--chunks", { min: -1, max: 2 ** 30, initial: -1, help: "chunks at most; -1: all" }),
    logitsFile: text("--kl-divergence-base, --save-all-logits", {
      value: "FILE",
      help: "file of log-probabilities, as llama-perplexity's: written, or with --kl-divergence read",
    }),
    klDivergence: toggle("--kl-divergence", {
      initial: false,
      help: "compare with that file, which holds the tokens as well",
    }),
  }),
  ...threadFlags,
  ...contextFlags,
  nCtx: { ...contextFlags.nCtx, initial: 512, help: "tokens of a chunk" },
  ...outputFlag(["text", "json"]),
}

export const command: Command<typeof flags> = {
  name: "asdsl perplexity",
  summary: "perplexity of a text in chunks, by llama-perplexity's conventions, and KL divergence",
  usage: "[-m MODEL] -f TEXT [-c 512] [--chunks N] [--kl-divergence-base FILE [--kl-divergence]]",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<void> {
  if (values.klDivergence) await runDivergence(values)
  else await runPerplexity(values)
}

function chunksWanted({ nChunks }: Values<typeof flags>): { nChunks?: number } {
  if (nChunks === 0) throw new UsageError('--chunks is "0", -1 or a whole number of 1 or more is needed')
  return nChunks < 0 ? {} : { nChunks }
}

async function loadForEvaluation(values: Values<typeof flags>, nCtx: number): Promise<Model> {
  const options: LoadOptions = { ...loadOptions(values), nCtx, maxOutputs: MAX_OUTPUTS, maxTopK: 0 }
  const model = await loadFile(await modelFile(values), options)
  const { nCtxTrain } = model.config
  if (nCtx > nCtxTrain) warn(`asdsl perplexity: the model was trained on ${nCtxTrain} tokens, -c is ${nCtx}`)
  return model
}

// ---- Perplexity ----

async function runPerplexity(values: Values<typeof flags>): Promise<void> {
  const { nCtx, file, prompt, logitsFile } = values
  if ((file === undefined) === (prompt === undefined)) throw new UsageError("a text is needed: -f FILE (or -p TEXT)")
  const wanted = chunksWanted(values)
  const source = prompt ?? readFileSync(file!, "utf8")
  using model = await loadForEvaluation(values, nCtx)
  const tokens = evaluationTokens(model.tokenizer, source)
  const nChunks = chunksOf(tokens.length, nCtx, wanted.nChunks)
  const isText = values.output === "text"
  warn(`asdsl perplexity: ${nChunks} chunks of ${nCtx} tokens, of ${tokens.length}`)
  using writer =
    logitsFile === undefined
      ? undefined
      : new LogitsWriter(logitsFile, { nCtx, nVocab: model.config.nVocab, nChunks }, tokens.slice(0, nCtx * nChunks))
  const result = await perplexity(model, tokens, {
    nCtx,
    nChunks,
    onRow: (row, index) => writer?.chunk.set(index % writer.chunk.nRows, row),
    async onChunk(nDone, _nChunks, sofar) {
      writer?.writeChunk()
      if (isText) await writeOut(`[${nDone}]${sofar.perplexity.toFixed(4)},`)
    },
  })
  writer?.finish()
  await writeOut(isText ? `\n${perplexityText(result, nCtx)}` : `${JSON.stringify({ nCtx, ...result }, null, 2)}\n`)
}

function perplexityText({ perplexity: value, error, nChunks }: PerplexityResult, nCtx: number): string {
  return `Final estimate: PPL over ${nChunks} chunks for n_ctx=${nCtx} = ${value.toFixed(4)} +/- ${error.toFixed(5)}\n`
}

// ---- KL divergence ----

async function runDivergence(values: Values<typeof flags>): Promise<void> {
  if (values.logitsFile === undefined) {
    throw new UsageError("--kl-divergence needs --kl-divergence-base FILE, a file of log-probabilities")
  }
  const wanted = chunksWanted(values)
  using base = new LogitsReader(values.logitsFile)
  using model = await loadForEvaluation(values, base.header.nCtx)
  const isText = values.output === "text"
  if (isText) await writeOut(CHUNK_HEAD)
  const sums = await klDivergence(model, base, {
    ...wanted,
    async onChunk(nDone, _nChunks, sofar) {
      if (isText) await writeOut(chunkLine(sofar.result(nDone)))
    },
  })
  const result = sums.result(Math.min(base.header.nChunks, wanted.nChunks ?? base.header.nChunks))
  await writeOut(isText ? divergenceText(result, sums) : divergenceJson(result, sums))
}

const CHUNK_HEAD =
  "\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n"

function spread({ value, error }: Estimate, width: number, digits: number, factor = 1): string {
  return `${(factor * value).toFixed(digits).padStart(width)} ± ${(factor * error).toFixed(digits).padStart(width)}`
}

function chunkLine(result: DivergenceResult): string {
  const columns = [
    spread(result.perplexity, 9, 4),
    spread(result.logRatio, 10, 5),
    spread(result.divergence, 10, 5),
    `${spread(result.probabilityDifferenceRms, 6, 3, 100)} %`,
    `${spread(result.sameTop, 6, 3, 100)} %`,
  ]
  return `${String(result.nChunks).padStart(4)}    ${columns.join("    ")}\n`
}

const DIVERGENCE_FRACTIONS = [1, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001, 0]
const DIFFERENCE_FRACTIONS = [1, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001, 0]

function fractionName(fraction: number): string {
  if (fraction === 1) return "Maximum"
  if (fraction === 0) return "Minimum"
  return fraction === 0.5 ? "Median " : `${(100 * fraction).toFixed(1).padStart(4)}%  `
}

function divergenceText(result: DivergenceResult, sums: DivergenceSums): string {
  const divergences = sums.divergencePercentiles(DIVERGENCE_FRACTIONS)
  const differences = sums.differencePercentiles(DIFFERENCE_FRACTIONS)
  const percent = (share: number) => `${(100 * share).toFixed(3).padStart(6)}%`
  return [
    "",
    "====== Perplexity statistics ======",
    `Mean PPL(Q)                   : ${spread(result.perplexity, 10, 6)}`,
    `Mean PPL(base)                : ${spread(result.basePerplexity, 10, 6)}`,
    `Cor(ln(PPL(Q)), ln(PPL(base))): ${(100 * result.correlation).toFixed(2).padStart(6)}%`,
    `Mean ln(PPL(Q)/PPL(base))     : ${spread(result.logRatio, 10, 6)}`,
    `Mean PPL(Q)/PPL(base)         : ${spread(result.ratio, 10, 6)}`,
    `Mean PPL(Q)-PPL(base)         : ${spread(result.difference, 10, 6)}`,
    "",
    "====== KL divergence statistics ======",
    `Mean    KLD: ${spread(result.divergence, 10, 6)}`,
    ...DIVERGENCE_FRACTIONS.map((f, i) => `${fractionName(f)} KLD: ${divergences[i]!.toFixed(6).padStart(10)}`),
    "",
    "====== Token probability statistics ======",
    `Mean    Δp: ${spread(result.probabilityDifference, 6, 3, 100)} %`,
    ...DIFFERENCE_FRACTIONS.map((f, i) => `${fractionName(f)} Δp: ${percent(differences[i]!)}`),
    `RMS Δp    : ${spread(result.probabilityDifferenceRms, 6, 3, 100)} %`,
    `Same top p: ${spread(result.sameTop, 6, 3, 100)} %`,
    "",
  ].join("\n")
}

function divergenceJson(result: DivergenceResult, sums: DivergenceSums): string {
  const table = (fractions: readonly number[], values: readonly number[]) =>
    Object.fromEntries(fractions.map((fraction, i) => [String(fraction), values[i]]))
  return `${JSON.stringify(
    {
      ...result,
      divergencePercentiles: table(DIVERGENCE_FRACTIONS, sums.divergencePercentiles(DIVERGENCE_FRACTIONS)),
      differencePercentiles: table(DIFFERENCE_FRACTIONS, sums.differencePercentiles(DIFFERENCE_FRACTIONS)),
    },
    null,
    2,
  )}\n`
}
