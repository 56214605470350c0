// Time to the first token by asdsl, for compare.ts: from a prompt's tokens to the first drawn token through the public API,
// the first time in a fresh process (as a moment, from which the caller takes its own), then by the loaded model.
//
//   bun bench/peers/first-token.ts -m MODEL -t 2 -p 512 -r 5   ->   {"startedAt": ms since 1970, "samples": [ns, ...]}

import { type Command, group, integer, type Values } from "../../src/cli/arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "../../src/cli/flags.ts"
import { loadOptions, modelFile } from "../../src/cli/load.ts"
import { runCommand, writeOut } from "../../src/cli/program.ts"
import { randomTokens } from "../../src/eval/speed.ts"
import { load } from "../../src/index.ts"

const flags = {
  ...modelFlags,
  ...threadFlags,
  ...contextFlags,
  ...group("Tests", {
    nPrompt: integer("-p, --n-prompt", { min: 1, max: 2 ** 20, initial: 512, help: "tokens of the prompt" }),
    repetitions: integer("-r, --repetitions", { min: 0, max: 1000, initial: 5, help: "runs behind the first one" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/peers/first-token.ts",
  summary: "time to the first token behind a prompt",
  usage: "[-m MODEL] [-t N] [-p 512] [-r 5]",
  flags,
}

async function run(values: Values<typeof flags>): Promise<void> {
  using model = await load(await modelFile(values), loadOptions({ ...values, nCtx: values.nPrompt + 8 }))
  using session = model.createSession()
  const tokens = randomTokens(values.nPrompt, model.config.nVocab)
  const firstToken = async () => {
    session.truncate(0) // or the prompt would be in the cache
    const since = Bun.nanoseconds()
    for await (const _ of session.generate(tokens, { temperature: 0, maxTokens: 1, ignoreEos: true })) break
    return Bun.nanoseconds() - since
  }
  await firstToken()
  const startedAt = performance.timeOrigin + performance.now()
  const samples: number[] = []
  for (let i = 0; i < values.repetitions; i++) samples.push(await firstToken())
  await writeOut(`${JSON.stringify({ startedAt, samples })}\n`)
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
