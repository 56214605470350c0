#!/usr/bin/env bun
// The program `asdsl`: finds the command and loads its module, and that one only.

import { withPackages } from "../setup/packages.ts"
import { nearest } from "./arguments.ts"
import { type CommandModule, versionText, warn, writeOut } from "./program.ts"

const COMMANDS: Readonly<Record<string, () => Promise<CommandModule>>> = {
  chat: () => import("./chat.ts"),
  run: () => import("./run.ts"),
  pull: () => import("./pull.ts"),
  list: () => import("./list.ts"),
  rm: () => import("./rm.ts"),
  repack: () => import("./repack.ts"),
  cache: () => import("./cache.ts"),
  bench: () => import("./bench.ts"),
  info: () => import("./info.ts"),
  tokenize: () => import("./tokenize.ts"),
  "draft-vocab": () => import("./draft-vocab.ts"),
  perplexity: () => import("./perplexity.ts"),
  quantize: () => import("./quantize.ts"),
  imatrix: () => import("./imatrix.ts"),
}

async function helpText(): Promise<string> {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length))
  const lines = await Promise.all(
    Object.entries(COMMANDS).map(
      async ([name, module]) => `  ${name.padEnd(width)}  ${(await module()).command.summary}`,
    ),
  )
  const head = "asdsl: large language models on an ordinary CPU\n\nusage: asdsl COMMAND [flags]\n"
  return `${head}\n${lines.join("\n")}\n\nasdsl COMMAND --help lists a command's flags.\n`
}

/** Runs a command line; resolves to the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const [name = "--help", ...rest] = args
  if (name === "-h" || name === "--help" || name === "help") return writeOut(await helpText())
  if (name === "--version" || name === "version") return writeOut(versionText())
  if (Object.hasOwn(COMMANDS, name)) return (await COMMANDS[name]!()).main(rest)
  const meant = nearest(name, Object.keys(COMMANDS))
  const hint = meant === undefined ? `known: ${Object.keys(COMMANDS).join(", ")}` : `did you mean ${meant}?`
  warn(`asdsl: unknown command "${name.slice(0, 60)}", ${hint}`)
  return 2
}

if (import.meta.main) process.exitCode = await withPackages(() => main(process.argv.slice(2)))
