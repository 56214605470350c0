// asdsl run: raw completion. The prompt is evaluated as it stands, without a chat template, and what follows it is printed
// (not the prompt itself, which llama.cpp repeats: stdout is what the model wrote; --echo puts it in front).
// Special tokens in the prompt are recognised, as by llama.cpp: fill-in-the-middle prompts need them.

import type { Listener } from "../chat/client.ts"
import { type Command, group, toggle, UsageError, type Values } from "./arguments.ts"
import {
  contextFlags,
  draftFlags,
  loadFlags,
  modelFlags,
  outputFlag,
  promptFlags,
  samplingFlags,
  threadFlags,
} from "./flags.ts"
import { INTERRUPTED, Interrupts } from "./interrupt.ts"
import { draftOptions, loadOptions, modelFile } from "./load.ts"
import { generateOptions, generationFlags, promptCacheFlags, promptCacheOf, promptText } from "./options.ts"
import { runCommand } from "./program.ts"
import { Footers, finish, openClient, showReply, writeReply } from "./reply.ts"

const flags = {
  ...modelFlags,
  ...loadFlags,
  ...draftFlags,
  ...promptFlags,
  ...group("Output", {
    echo: toggle("--echo", { offNames: "--no-display-prompt", initial: false, help: "print the prompt first" }),
  }),
  ...outputFlag(["text", "json"]),
  ...generationFlags,
  ...promptCacheFlags("keep what is generated behind the prompt too"),
  ...contextFlags,
  ...threadFlags,
  ...samplingFlags,
}

export const command: Command<typeof flags> = {
  name: "asdsl run",
  summary: "completes a text",
  usage: "[-m MODEL] [-p TEXT | -f FILE] [-n N], else the text comes from stdin",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<number> {
  const prompt = promptText(values) ?? (await Bun.stdin.text())
  if (prompt === "") throw new UsageError("the prompt is empty")
  const isJson = values.output === "json"
  if (isJson && values.echo) throw new UsageError("--echo is for -o text")
  const options = { ...generateOptions(values), parseSpecial: true }
  const promptCache = promptCacheOf(values)
  const load = { ...loadOptions(values), ...(await draftOptions(values)) }
  using client = await openClient(await modelFile(values), load, undefined, promptCache)
  using interrupts = new Interrupts()
  const result = await interrupts.during(
    () => client.abort(),
    () => {
      const start = (listener: Listener) => client.complete(prompt, options, listener)
      return isJson ? writeReply(start) : showReply(start, values.echo ? prompt : "")
    },
  )
  await new Footers(client).show(result)
  await finish(client, interrupts)
  return result.finishReason === "cancelled" ? INTERRUPTED : 0
}
