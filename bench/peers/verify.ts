// The verify curve of asdsl, for compare.ts: sweeps over passes of all lengths by a loaded model, each behind a measurement of
// the read bandwidth. On a host whose bandwidth doubles from one second to the next only a sweep's own passes compare.
//
//   bun bench/peers/verify.ts -m MODEL -t 2 --n-verify 1,8 -r 10
//     ->  {"readBytesPerSecond": [a sweep's, ...], "ns": {"verify1": [ns, ...], ...}, "work": {"verify1": {...}, ...}}

import { type Command, group, integer, integers, type Values } from "../../src/cli/arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "../../src/cli/flags.ts"
import { loadOptions, modelFile } from "../../src/cli/load.ts"
import { runCommand, writeOut } from "../../src/cli/program.ts"
import { runTest, testName, workOf } from "../../src/eval/speed.ts"
import { load } from "../../src/index.ts"
import type { Outcome } from "./engines.ts"

const flags = {
  ...modelFlags,
  ...threadFlags,
  ...contextFlags,
  ...group("Tests", {
    nVerify: integers("--n-verify", { min: 1, max: 65536, initial: [1, 2, 4, 8, 16], help: "tokens of a pass" }),
    repetitions: integer("-r, --repetitions", { min: 1, max: 1000, initial: 10, help: "sweeps" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/peers/verify.ts",
  summary: "passes with logits for each of their tokens, in sweeps over their lengths",
  usage: "[-m MODEL] [-t N] [--n-verify 1,2,4,8,16] [-r 10]",
  flags,
}

async function run(values: Values<typeof flags>): Promise<void> {
  using model = await load(await modelFile(values), loadOptions({ ...values, nCtx: Math.max(...values.nVerify) + 8 }))
  using session = model.createSession()
  const tests = values.nVerify.map((nVerify) => ({ nPrompt: 0, nGen: 0, nDepth: 0, nVerify }))
  for (const test of tests) runTest(session, test)
  const readBytesPerSecond: number[] = []
  const samples = tests.map((): number[] => [])
  for (let sweep = 0; sweep < values.repetitions; sweep++) {
    readBytesPerSecond.push(model.probe("bandwidth"))
    for (const [i, test] of tests.entries()) samples[i]!.push(runTest(session, test))
  }
  const work = tests.map((test) => {
    const { weightBytesPerToken, kvBytesPerToken, matrixMacs, attentionMacs } = workOf(model, test)
    return { weightBytes: weightBytesPerToken, kvBytes: kvBytesPerToken, macs: matrixMacs + attentionMacs }
  })
  const byName = <T>(values: readonly T[]) => Object.fromEntries(tests.map((test, i) => [testName(test), values[i]!]))
  const outcome: Outcome = { readBytesPerSecond, ns: byName(samples), work: byName(work) }
  await writeOut(`${JSON.stringify(outcome)}\n`)
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
