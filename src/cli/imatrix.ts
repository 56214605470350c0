// asdsl imatrix: how much each input of a model's matrices matters on a text, for asdsl quantize and llama-quantize.

import { readFileSync } from "node:fs"
import { basename } from "node:path"
import { evaluationTokens } from "../eval/perplexity.ts"
import type { LoadOptions } from "../load-options.ts"
import { collectImportance } from "../quantize/collect.ts"
import { type Command, group, integer, text, UsageError, type Values } from "./arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "./flags.ts"
import { Interrupts } from "./interrupt.ts"
import { loadFile, loadOptions, modelFile } from "./load.ts"
import { runCommand } from "./program.ts"
import { StatusLine } from "./status.ts"

const { nBatch, nUbatch } = contextFlags
const MAX_OUTPUTS = 64 // as asdsl perplexity

const flags = {
  ...modelFlags,
  ...group("Importance", {
    file: text("-f, --file", { value: "TEXT", help: "a file that holds the text" }),
    output: text("-o, --output-file, --output", {
      value: "FILE",
      initial: "imatrix.gguf",
      help: "what to write: a GGUF file as llama-imatrix's",
    }),
    nChunks: integer("--chunks", { min: -1, max: 2 ** 30, initial: -1, help: "chunks at most; -1: all" }),
  }),
  ...threadFlags,
  nCtx: { ...contextFlags.nCtx, initial: 512, help: "tokens of a chunk" },
  nBatch,
  nUbatch,
}

export const command: Command<typeof flags> = {
  name: "asdsl imatrix",
  summary: "measures how much each input of a model's matrices matters on a text, for asdsl quantize",
  usage: "[-m MODEL] -f TEXT [-o FILE] [-c 512] [--chunks N]",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<void> {
  const { file, output, nCtx, nChunks } = values
  if (file === undefined) throw new UsageError("a text is needed: -f FILE")
  if (nChunks === 0) throw new UsageError('--chunks is "0", -1 or a whole number of 1 or more is needed')
  const source = readFileSync(file, "utf8")
  const options: LoadOptions = { ...loadOptions(values), nCtx, maxOutputs: MAX_OUTPUTS, maxTopK: 0 }
  using model = await loadFile(await modelFile(values), options)
  const controller = new AbortController()
  using interrupts = new Interrupts()
  using status = new StatusLine()
  const importance = await interrupts.during(
    () => controller.abort(),
    () =>
      collectImportance(model, evaluationTokens(model.tokenizer, source), {
        ...{ nCtx, dataset: basename(file), signal: controller.signal },
        ...(nChunks < 0 ? {} : { nChunks }),
        async onChunk(nDone, total) {
          status.show(`chunk ${nDone} of ${total}`)
          await new Promise((resume) => setImmediate(resume))
        },
      }),
  )
  importance.write(output)
}
