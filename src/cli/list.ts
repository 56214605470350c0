// asdsl list: the models that are on this machine.

import { defaultModelName } from "../models/index.ts"
import { type LocalModel, localModels } from "../models/inventory.ts"
import type { Command, Values } from "./arguments.ts"
import { outputFlag } from "./flags.ts"
import { runCommand, warn, writeOut } from "./program.ts"
import { type Column, formatBytes, tableHead, tableRow } from "./table.ts"

const flags = outputFlag(["md", "json"])

export const command: Command<typeof flags> = {
  name: "asdsl list",
  summary: "shows the models on this machine, those of the Hugging Face hub's cache among them",
  usage: "[-o md|json]",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run({ output }: Values<typeof flags>): Promise<void> {
  const models = localModels()
  if (models.length === 0) warn(`no model is here yet: asdsl pull ${defaultModelName} fetches the default one`)
  await writeOut(output === "json" ? `${JSON.stringify(models, null, 2)}\n` : table(models))
}

function table(models: readonly LocalModel[]): string {
  const rows = models.map(({ name, bytes, path, isWhole }) => [
    ...[name, isWhole ? "" : "unfinished", formatBytes(bytes), path],
  ])
  const columns = ["model", "", "size", "file"].map((name, i): Column => {
    const width = Math.max(...rows.map((row) => row[i]!.length), 0)
    return { name, width, align: name === "size" ? "right" : "left" }
  })
  return tableHead(columns) + rows.map((row) => tableRow(columns, row)).join("")
}
