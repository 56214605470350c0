// asdsl pull: models by name onto this machine.

import { formatHubName } from "../models/hub/name.ts"
import { resolveModel } from "../models/index.ts"
import { parseModelName } from "../models/inventory.ts"
import { type Command, UsageError, type Values } from "./arguments.ts"
import { hubFlags } from "./flags.ts"
import { fetched, hubOptions } from "./load.ts"
import { runCommand, writeOut } from "./program.ts"

export const command: Command<typeof hubFlags> = {
  name: "asdsl pull",
  summary: "fetches models by name, or looks for newer ones, and prints where they are",
  usage: "MODEL..., each the name of a known model, hf:user/repo[:quant] or hf:user/repo/file.gguf",
  flags: hubFlags,
  takesOperands: true,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof hubFlags>, _given: unknown, names: readonly string[]): Promise<void> {
  if (names.length === 0) throw new UsageError("which model? asdsl pull hf:user/repo:quant")
  const models = names.map(parseModelName) // a wrong name is known before anything is fetched
  for (const model of models) {
    const name = "repo" in model ? formatHubName(model) : model.name
    const path = await fetched((signal) => resolveModel(name, { signal, update: true, ...hubOptions(values) }))
    await writeOut(`${path}\n`)
  }
}
