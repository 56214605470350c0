// asdsl quantize: a model into a smaller file, by llama-quantize's names of mixtures.

import { existsSync, realpathSync } from "node:fs"
import { isCheckpoint, openCheckpoint } from "../convert/index.ts"
import { FormatError, UnsupportedError } from "../errors.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../gguf/types.ts"
import { Engine } from "../native/handles.ts"
import { estimateImportance } from "../quantize/estimate.ts"
import { openGgufSource } from "../quantize/gguf-source.ts"
import { type Importance, readImportance } from "../quantize/importance.ts"
import { type Override, planTypes } from "../quantize/policy.ts"
import { quantizeModel } from "../quantize/quantize.ts"
import { type ModelSource, rowBytes, rowCount, rowLength } from "../quantize/source.ts"
import { DRAFT_FILE_TYPES, ENCODED_TYPES, MIXTURES, type MixtureName, nameIn } from "../quantize/types.ts"
import { ProgressBar } from "../setup/progress.ts"
import { type Command, group, text, texts, toggle, UsageError, type Values } from "./arguments.ts"
import { threadFlags } from "./flags.ts"
import { Interrupts } from "./interrupt.ts"
import { loadOptions } from "./load.ts"
import { runCommand, warn, writeOut } from "./program.ts"
import { formatBytes } from "./table.ts"

const MIXTURE_NAMES = Object.keys(MIXTURES) as MixtureName[]
const { nThreads, level } = threadFlags

const flags = {
  ...group("Quantising", {
    imatrix: text("--imatrix", { value: "FILE", help: "how much each input of each matrix matters: asdsl imatrix" }),
    estimate: toggle("--estimate", {
      offNames: "--no-estimate",
      initial: true,
      help: "without --imatrix: estimate it from a pass over made-up tokens",
    }),
    tensorTypes: texts("--tensor-type", {
      value: "REGEX=TYPE",
      help: "type of the tensors in whose names the expression is found; the first that is decides",
    }),
    pure: toggle("--pure", { initial: false, help: "one type for all matrices, no mixture" }),
    forDraft: toggle("--for-draft", {
      initial: false,
      help: "a model whose drafts another one verifies: 4.5 bits a weight, in ffn_down 3.4; TYPE may be left out",
    }),
    dryRun: toggle("--dry-run", { initial: false, help: "print the type that each tensor would get, write nothing" }),
  }),
  nThreads,
  level,
}

export const command: Command<typeof flags> = {
  name: "asdsl quantize",
  summary: "writes a model with fewer bits a weight, from a GGUF file or a checkpoint folder",
  usage: `IN OUT TYPE [--imatrix FILE | --no-estimate] [--tensor-type REGEX=TYPE] [--pure] [--for-draft] [-t N] [--dry-run]
  IN: a GGUF file, or a folder with config.json, safetensors files and tokenizer.json
  TYPE: ${MIXTURE_NAMES.join(", ")}`,
  flags,
  takesOperands: true,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

interface Operands {
  readonly input: string
  readonly output: string
  readonly mixture: MixtureName
}

function operandsOf(values: Values<typeof flags>, operands: readonly string[]): Operands {
  const [input, output, type = values.forDraft ? "Q4_K_S" : undefined, ...rest] = operands
  if (input === undefined || output === undefined || type === undefined || rest.length > 0) {
    throw new UsageError(`IN, OUT and TYPE are needed, ${operands.length} words are given`)
  }
  const mixture = nameIn(MIXTURE_NAMES, type)
  if (mixture === undefined) throw new UsageError(`TYPE is "${type}", allowed: ${MIXTURE_NAMES.join(", ")}`)
  if (values.forDraft && !/^Q4_/.test(mixture))
    throw new UsageError(`--for-draft has 4.5 bits a weight and less, not ${mixture}`)
  if (existsSync(input) && existsSync(output) && realpathSync(output) === realpathSync(input)) {
    throw new UsageError("IN and OUT are the same file")
  }
  return { input, output, mixture }
}

/** REGEX=TYPE: types have no "=" in them, expressions may. */
function overrideOf(given: string): Override {
  const at = given.lastIndexOf("=")
  const type = nameIn(ENCODED_TYPES, given.slice(at + 1))
  if (at < 1 || type === undefined) {
    throw new UsageError(`--tensor-type is "${given}", REGEX=TYPE is needed, TYPE one of ${ENCODED_TYPES.join(", ")}`)
  }
  try {
    return { pattern: new RegExp(given.slice(0, at)), type }
  } catch (error) {
    throw new UsageError(`--tensor-type "${given}": ${error instanceof Error ? error.message : error}`)
  }
}

function openSource(path: string): ModelSource {
  if (!isCheckpoint(path)) return openGgufSource(path)
  const checkpoint = openCheckpoint(path)
  for (const warning of checkpoint.warnings) warn(`asdsl quantize: ${warning}`)
  return checkpoint
}

async function run(
  values: Values<typeof flags>,
  _given: ReadonlySet<string>,
  operands: readonly string[],
): Promise<void> {
  const { input, output, mixture } = operandsOf(values, operands)
  const overrides = values.tensorTypes.map(overrideOf)
  using source = openSource(input)
  const importance = values.imatrix === undefined ? undefined : readImportance(values.imatrix)
  const types = planTypes(source.tensors, source.metadata, {
    ...{ mixture, overrides, isPure: values.pure, forDraft: values.forDraft },
    hasImportance: importance !== undefined,
  })
  warnOfFallbacks(source, types)
  if (values.dryRun) {
    await writeOut(dryRunText(source, types))
    return
  }
  const options = loadOptions(values)
  using engine = Engine.create({
    nThreads: options.nThreads ?? 0,
    ...(options.level === undefined ? {} : { level: options.level }),
  })
  const controller = new AbortController()
  using interrupts = new Interrupts()
  const { signal } = controller
  const fileType = values.forDraft ? draftFileType(types) : MIXTURES[mixture].fileType
  const isEstimated = values.estimate && types.some((type, i) => isWeighed(type) && type !== source.tensors[i]!.type)
  await interrupts.during(
    () => controller.abort(),
    async () => {
      const weights = importance ?? (isEstimated ? await estimated(source, engine, signal) : undefined)
      using bar = new ProgressBar("quantising")
      const onProgress = (done: number, total: number) => bar.update(done, total)
      await quantizeModel(source, output, { types, importance: weights, engine, fileType, onProgress, signal })
    },
  )
}

/** Whether rounding to a type is coarse enough for importance to matter. */
function isWeighed(type: TensorTypeName): boolean {
  const { block, bytes } = TENSOR_TYPES[type]
  return (8 * bytes) / block < 8
}

/** undefined, and a warning, for models that asdsl cannot run. */
async function estimated(source: ModelSource, engine: Engine, signal: AbortSignal): Promise<Importance | undefined> {
  using bar = new ProgressBar("estimating importance")
  try {
    return await estimateImportance(source, { engine, onProgress: (done, total) => bar.update(done, total), signal })
  } catch (error) {
    if (!(error instanceof UnsupportedError || error instanceof FormatError)) throw error
    warn(`asdsl quantize: all inputs count alike, for the model cannot be run: ${error.message}`)
    return undefined
  }
}

function draftFileType(types: readonly TensorTypeName[]): number {
  const isOf = (type: TensorTypeName) => types.filter((each) => each === type).length
  return DRAFT_FILE_TYPES[isOf("IQ4_NL") > isOf("Q4_K") ? "IQ4_NL" : "Q4_K"]!
}

function warnOfFallbacks({ tensors }: ModelSource, types: readonly TensorTypeName[]): void {
  const odd = tensors.filter((tensor, i) => types[i] !== tensor.type && rowLength(tensor) % 256 !== 0)
  const [first] = odd
  if (first === undefined || !types.some((type) => TENSOR_TYPES[type].block === 256)) return
  warn(
    `asdsl quantize: ${odd.length} of ${tensors.length} tensors have rows that 256 does not divide (${first.name}: ${rowLength(first)}), they get types of 32 weights a block`,
  )
}

function dryRunText({ tensors }: ModelSource, types: readonly TensorTypeName[]): string {
  const width = Math.max(...tensors.map(({ name }) => name.length))
  const lines = tensors.map((tensor, i) => {
    const { name, type, shape } = tensor
    return `${name.padEnd(width)}  ${type.padEnd(5)} -> ${types[i]!.padEnd(5)}  [${shape.join(", ")}]`
  })
  const bytes = tensors.reduce((sum, tensor, i) => sum + rowCount(tensor) * rowBytes(tensor, types[i]!), 0)
  const nWeights = tensors.reduce((sum, tensor) => sum + rowCount(tensor) * rowLength(tensor), 0)
  return `${lines.join("\n")}\n${tensors.length} tensors, ${formatBytes(bytes)}, ${((8 * bytes) / nWeights).toFixed(2)} bits a weight\n`
}
