// A checkpoint folder as Hugging Face's transformers writes it (config.json, safetensors files, tokenizer.json), seen as
// the model that its GGUF file will be. Reads headers and JSON when it is opened, tensor data when it is asked for.

import { basename, dirname, join, resolve } from "node:path"
import { ModelUnavailableError } from "../errors.ts"
import type { ModelSource, TensorSource } from "../quantize/source.ts"
import { addConfig } from "./config.ts"
import { Entries } from "./entries.ts"
import { Fields } from "./fields.ts"
import { isFile, isFolder } from "./files.ts"
import { computedSource, storedSource } from "./rows.ts"
import { addSampling } from "./sampling.ts"
import { Shards } from "./shards.ts"
import { addChatTemplates } from "./templates.ts"
import { mapTensors } from "./tensors.ts"
import { addTokenizer } from "./tokenizer.ts"

const MAX_CONFIG_BYTES = 2 ** 24
const MAX_TOKENIZER_BYTES = 2 ** 28 // 262,144 tokens with merges take 33 MB

export interface Checkpoint extends ModelSource {
  /** What the GGUF file cannot say, or says otherwise: for people. */
  readonly warnings: readonly string[]
}

/** Whether a path is a folder with a config.json. */
export function isCheckpoint(path: string): boolean {
  return isFolder(path) && isFile(join(path, "config.json"))
}

/** Opens a folder; its files stay open until it is disposed of. Matrices are in the types that they are stored in, vectors
 * in F32, as llama.cpp's converter has them. Throws ModelUnavailableError where a file is missing, FormatError where one
 * is damaged or contradicts another, UnsupportedError for what GGUF or asdsl has no form for. */
export function openCheckpoint(folder: string): Checkpoint {
  const warnings: string[] = []
  const warn = (text: string) => warnings.push(text)
  const entries = new Entries()
  const read = (name: string, maxBytes = MAX_CONFIG_BYTES) => {
    return isFile(join(folder, name)) ? Fields.read(join(folder, name), maxBytes) : undefined
  }
  const require = (name: string, maxBytes?: number): Fields => {
    const fields = read(name, maxBytes)
    if (fields !== undefined) return fields
    const isOther = name === "tokenizer.json" && isFile(join(folder, "tokenizer.model"))
    const hint = isOther
      ? " (of tokenizer.model, transformers' AutoTokenizer makes one: from_pretrained, save_pretrained)"
      : ""
    throw new ModelUnavailableError(`${folder}: there is no ${name}, a checkpoint folder has one${hint}`)
  }
  const config = require("config.json")
  const { shape, tensors: computed } = addConfig(entries, config, warn)
  entries.string("general.type", "model")
  entries.string("general.name", nameOf(folder))
  const generationConfig = read("generation_config.json")
  addSampling(entries, generationConfig)
  const shards = new Shards(folder)
  try {
    const mapped = mapTensors(folder, shards.tensors, shape)
    const tokenizerConfig = read("tokenizer_config.json")
    const tokenizer = require("tokenizer.json", MAX_TOKENIZER_BYTES)
    const table = addTokenizer(entries, { tokenizer, tokenizerConfig, config, generationConfig }, shape.nVocab, warn)
    const strips = table.added.some((token) => token.stripsRight)
    entries.string("general.name", nameFor(nameOf(folder), shape.arch === "phi3" && strips))
    addChatTemplates(entries, folder, tokenizerConfig)
    const [embedding, ...others] = mapped.map(storedSource)
    const tensors: TensorSource[] = [embedding!, ...computed.map(computedSource), ...others]
    const { values: metadata, types: metadataTypes } = entries
    const close = () => shards[Symbol.dispose]()
    return { path: folder, metadata, metadataTypes, tensors, warnings, [Symbol.dispose]: close }
  } catch (error) {
    shards[Symbol.dispose]()
    throw error
  }
}

/** White space behind special tokens belongs to them in Phi-3's tokenizers. No field of GGUF says so: readers go by "phi-3"
 * or "phi3" in the name. */
function nameFor(name: string, isStripping: boolean): string {
  const isNamed = /phi-?3/i.test(name)
  if (isStripping) return isNamed ? name : `phi3 ${name}`
  return name.replaceAll(/(phi)-?3/gi, "$1 3")
}

/** The folder's name; in the hub's cache that of the repository. */
function nameOf(folder: string): string {
  const path = resolve(folder)
  const repository = /^models--.+--(.+)$/.exec(basename(dirname(dirname(path))))?.[1]
  return basename(dirname(path)) === "snapshots" && repository !== undefined ? repository : basename(path)
}
