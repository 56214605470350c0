// asdsl tokenize: a text to a JSON array of token ids, or the reverse. A vocabulary is all it needs: nothing is loaded.

import { readFileSync } from "node:fs"
import { readModelHeader } from "../gguf/split.ts"
import { createTokenizer } from "../tokenizer/index.ts"
import type { Tokenizer } from "../tokenizer/types.ts"
import { type Command, group, toggle, UsageError, type Values } from "./arguments.ts"
import { modelFlags, promptFlags } from "./flags.ts"
import { modelFile } from "./load.ts"
import { runCommand, writeOut } from "./program.ts"

const flags = {
  ...modelFlags,
  ...promptFlags,
  ...group("Tokens", {
    addSpecial: toggle("--add-special", {
      offNames: "--no-add-special",
      initial: false,
      help: "add BOS and EOS as the model's metadata says",
    }),
    parseSpecial: toggle("--parse-special", {
      offNames: "--no-parse-special",
      initial: false,
      help: "read special tokens that are written in the text, as <|im_end|>",
    }),
    decode: toggle("--decode", {
      initial: false,
      help: "the text is token ids, in JSON or between blanks: print what they stand for",
    }),
  }),
}

export const command: Command<typeof flags> = {
  name: "asdsl tokenize",
  summary: "prints a text's tokens as one JSON array of ids, or with --decode the text of ids",
  usage: "[-m MODEL] [-p TEXT | -f FILE] [--add-special] [--decode], else the text comes from stdin",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<void> {
  if (values.prompt !== undefined && values.file !== undefined) throw new UsageError("-p and -f exclude each other")
  const tokenizer = createTokenizer(readModelHeader(await modelFile(values)).metadata)
  const text = values.prompt ?? (values.file === undefined ? await Bun.stdin.text() : readFileSync(values.file, "utf8"))
  if (values.decode) {
    await writeOut(tokenizer.decode(readIds(text, tokenizer), { special: true }))
    return
  }
  const { addSpecial, parseSpecial } = values
  await writeOut(`[${tokenizer.encode(text, { addSpecial, parseSpecial }).join(", ")}]\n`)
}

/** "[1, 2]" or "1 2": whole numbers that the vocabulary has. */
function readIds(text: string, { nVocab }: Tokenizer): number[] {
  const inner = /^\s*\[([^[\]]*)\]\s*$/.exec(text)?.[1] ?? text
  const words = inner.split(/[\s,]+/).filter((word) => word !== "")
  return words.map((word, i) => {
    const id = /^\d{1,10}$/.test(word) ? Number(word) : Number.NaN
    if (id < nVocab) return id
    throw new UsageError(`token ${i} is "${word.slice(0, 40)}", the vocabulary has 0 to ${nVocab - 1}`)
  })
}
