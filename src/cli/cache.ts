// asdsl cache: the repacked copies of models in the cache folder: which there are, and removing them.

import { AsdslError } from "../errors.ts"
import { sidecarFolder } from "../interleaved/sidecar.ts"
import { type CachedCopy, cachedCopies, removeCopy } from "../interleaved/store.ts"
import { verify } from "../interleaved/verify.ts"
import { forgetLearnt } from "../speculative/learnt.ts"
import { type Command, group, toggle, UsageError, type Values } from "./arguments.ts"
import { outputFlag } from "./flags.ts"
import { runCommand, warn, writeOut } from "./program.ts"
import { type Column, formatBytes, tableHead, tableRow } from "./table.ts"

const flags = {
  ...group("Copies", {
    all: toggle("--all", { initial: false, help: "prune: current ones too, and what was learnt of passes" }),
    verify: toggle("--verify", { initial: false, help: "list: compare each with its digest, which reads all of it" }),
  }),
  ...outputFlag(["md", "json"]),
}

export const command: Command<typeof flags> = {
  name: "asdsl cache",
  summary: "shows or prunes the repacked copies of models, made when a model is loaded for the first time",
  usage: "[list [--verify] [-o md|json] | prune [--all]]; prune removes those whose model is gone or has changed",
  flags,
  takesOperands: true,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(
  values: Values<typeof flags>,
  _given: ReadonlySet<string>,
  [verb = "list", ...more]: readonly string[],
): Promise<number> {
  if (more.length > 0 || !["list", "prune"].includes(verb)) throw new UsageError(`list or prune, not ${verb}`)
  const folder = sidecarFolder()
  if (folder === undefined) {
    warn("ASDSL_CACHE is off: no copies are used or written")
    return 0
  }
  const copies = cachedCopies(folder)
  return verb === "list" ? await list(folder, copies, values) : await prune(folder, copies, values.all)
}

async function list(folder: string, copies: readonly CachedCopy[], values: Values<typeof flags>): Promise<number> {
  const damaged = values.verify ? await damagedOf(copies) : []
  if (copies.length === 0) warn(`no copies in ${folder}`)
  await writeOut(values.output === "json" ? `${JSON.stringify(copies, null, 2)}\n` : table(copies))
  return damaged.length === 0 ? 0 : 1
}

async function damagedOf(copies: readonly CachedCopy[]): Promise<string[]> {
  const damaged: string[] = []
  for (const { path, state } of copies) {
    if (state === "unfinished") continue
    try {
      await verify(path)
    } catch (error) {
      if (!(error instanceof AsdslError)) throw error
      warn(error.message)
      damaged.push(path)
    }
  }
  return damaged
}

function table(copies: readonly CachedCopy[]): string {
  const rows = copies.map(({ path, bytes, state, source, modified }) => [
    ...[source ?? "", state, formatBytes(bytes), modified.toISOString().slice(0, 10), path],
  ])
  const columns = ["model", "", "size", "written", "copy"].map((name, i): Column => {
    const width = Math.max(name.length, ...rows.map((row) => row[i]!.length))
    return { name, width, align: name === "size" ? "right" : "left" }
  })
  return tableHead(columns) + rows.map((row) => tableRow(columns, row)).join("")
}

async function prune(folder: string, copies: readonly CachedCopy[], isAll: boolean): Promise<number> {
  let freed = 0
  for (const copy of copies) {
    if (copy.state === "current" && !isAll) continue
    if (removeCopy(copy)) {
      freed += copy.bytes
      await writeOut(`removed ${copy.path}\n`)
    } else {
      warn(`${copy.path} is being written by another process`)
    }
  }
  if (isAll) for (const path of forgetLearnt(folder)) await writeOut(`removed ${path}\n`)
  await writeOut(`${formatBytes(freed)} freed\n`)
  return 0
}
