// asdsl repack: a model into the file that it is used in place from, and back; or whether such a file is whole.

import { GROUP_ROWS } from "../interleaved/format.ts"
import { repack, unpack } from "../interleaved/repack.ts"
import { verify } from "../interleaved/verify.ts"
import { resolveModel } from "../models/index.ts"
import { ProgressBar } from "../setup/progress.ts"
import { type Command, group, integer, toggle, UsageError, type Values } from "./arguments.ts"
import { threadFlags } from "./flags.ts"
import { fetched } from "./load.ts"
import { runCommand, writeOut } from "./program.ts"

const flags = {
  ...group("Direction", {
    rows: integer("--rows", { min: 4, max: 16, initial: 16, help: "rows of a group: 16, or 4 for comparison" }),
    unpack: toggle("--unpack", { initial: false, help: "write the GGUF file that IN was made of" }),
    verify: toggle("--verify", { initial: false, help: "compare each repacked file with its digest, write nothing" }),
  }),
  nThreads: threadFlags.nThreads,
}

export const command: Command<typeof flags> = {
  name: "asdsl repack",
  summary: "writes a model as the kernels read it, to be mapped instead of loaded",
  usage: "[--rows 16|4] IN OUT | --unpack IN OUT | --verify FILE...",
  flags,
  takesOperands: true,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(
  values: Values<typeof flags>,
  _given: ReadonlySet<string>,
  operands: readonly string[],
): Promise<void> {
  if (values.verify) {
    if (operands.length === 0 || values.unpack) throw new UsageError("--verify FILE...: which files?")
    for (const path of operands) {
      await during("verifying", (options) => verify(path, options))
      await writeOut(`${path} is as it was written\n`)
    }
    return
  }
  const [from, to, ...more] = operands
  const rows = GROUP_ROWS.find((each) => each === values.rows)
  if (rows === undefined) throw new UsageError(`--rows is ${values.rows}, ${GROUP_ROWS.join(" or ")} are possible`)
  if (from === undefined || to === undefined || more.length > 0) throw new UsageError("IN and OUT are needed")
  const nThreads = Math.max(values.nThreads, 0)
  await during(values.unpack ? "unpacking" : "repacking", async (options) => {
    const file = await resolveModel(from, { signal: options.signal })
    await (values.unpack ? unpack(file, to, options) : repack(file, to, { ...options, nThreads, rows }))
  })
}

/** Work with a bar; the first Ctrl-C ends it. */
async function during(
  label: string,
  body: (options: { onProgress(done: number, total: number): void; signal: AbortSignal }) => Promise<void>,
): Promise<void> {
  using bar = new ProgressBar(label)
  await fetched((signal) => body({ signal, onProgress: (done, total) => bar.update(done, total) }))
}
