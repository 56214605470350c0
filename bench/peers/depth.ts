// The child process of bench/depth.ts for asdsl: one model, a context for each depth, tests on demand.
//
//   bun bench/peers/depth.ts -m MODEL -t 2 -c 16640 -ctk q8_0 -ctv q8_0
//
// stdin: "decode DEPTH N", "prompt N", "probe", "resident"; stdout: "ready COMMIT", then for each line nanoseconds, of a probe
// bytes/s, of "resident" the bytes of memory that is the process's own (0 where the system does not tell).

import { existsSync, readFileSync } from "node:fs"
import type { Command, Values } from "../../src/cli/arguments.ts"
import { contextFlags, modelFlags, threadFlags } from "../../src/cli/flags.ts"
import { loadFile, loadOptions, modelFile } from "../../src/cli/load.ts"
import { runCommand, writeOut } from "../../src/cli/program.ts"
import { runTest } from "../../src/eval/speed.ts"
import type { Session } from "../../src/session.ts"
import { sourceCommit } from "../machine.ts"

const flags = { ...modelFlags, ...contextFlags, ...threadFlags }

const command: Command<typeof flags> = {
  name: "bench/peers/depth.ts",
  summary: "speed tests at the depths that stdin asks for",
  usage: "-m MODEL [-t N] [-c N] [-ctk TYPE -ctv TYPE]",
  flags,
}

/** Linux's RssAnon: without mapped files, so without weights. */
function residentBytes(): number {
  if (!existsSync("/proc/self/status")) return 0
  const [, kilobytes] = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8")) ?? []
  return 1024 * Number(kilobytes ?? 0)
}

async function run(values: Values<typeof flags>): Promise<void> {
  using model = await loadFile(await modelFile(values), loadOptions(values))
  await model.saved
  using sessions = new DisposableStack()
  const byDepth = new Map<number, Session>()
  const sessionOf = (depth: number): Session => {
    const known = byDepth.get(depth)
    if (known !== undefined) return known
    const session = sessions.use(model.createSession())
    byDepth.set(depth, session)
    return session
  }
  await writeOut(`ready ${sourceCommit()}\n`)
  for await (const line of console) {
    const [what, first, second] = line.split(" ")
    const [a, b] = [Number(first), Number(second)]
    if (what === "resident") {
      await writeOut(`${residentBytes()}\n`)
    } else if (what === "probe") {
      await writeOut(`${Math.round(model.probe("bandwidth"))}\n`)
    } else if (what === "decode") {
      await writeOut(`${runTest(sessionOf(a), { nPrompt: 0, nGen: b, nDepth: a })}\n`)
    } else {
      await writeOut(`${runTest(sessionOf(a), { nPrompt: a, nGen: 0, nDepth: 0 })}\n`)
    }
  }
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
