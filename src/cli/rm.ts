// asdsl rm: models by name off this machine.

import { sidecarFolder } from "../interleaved/sidecar.ts"
import { removeOrphans } from "../interleaved/store.ts"
import { parseModelName, removeModel } from "../models/inventory.ts"
import { type Command, UsageError } from "./arguments.ts"
import { runCommand, writeOut } from "./program.ts"
import { formatBytes } from "./table.ts"

const flags = {}

export const command: Command<typeof flags> = {
  name: "asdsl rm",
  summary: "removes models by name",
  usage: "MODEL..., each a name that asdsl list shows; hf:user/repo: all of its models and what is unfinished",
  flags,
  takesOperands: true,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(_values: unknown, _given: unknown, names: readonly string[]): Promise<void> {
  if (names.length === 0) throw new UsageError("which model? asdsl list shows them")
  for (const name of names) parseModelName(name) // a wrong name is known before anything is removed
  for (const name of names) await writeOut(`removed ${name}: ${formatBytes(removeModel(name))}\n`)
  const folder = sidecarFolder()
  const freed = folder === undefined ? 0 : removeOrphans(folder)
  if (freed > 0) await writeOut(`removed repacked copies of models that are gone: ${formatBytes(freed)}\n`)
}
