// What --prompt-cache saves: the time to the first token of a long prompt without a file, by a run that writes it, by one
// that reads it, and beside a damaged one; the model is loaded once, each run has a session of its own. Oracle: the tokens
// of the run without a file.
//
//   bun bench/prompt-cache.ts -m MODEL -f TEXT [-p 4096] [-n 32] [-r 3] [--save NAME]

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Command, group, integer, text, UsageError, type Values } from "../src/cli/arguments.ts"
import { modelFlags, threadFlags } from "../src/cli/flags.ts"
import { loadFile, modelFile } from "../src/cli/load.ts"
import { runCommand, writeOut } from "../src/cli/program.ts"
import { type Column, tableHead, tableRow } from "../src/cli/table.ts"
import { evaluationTokens } from "../src/eval/perplexity.ts"
import { median } from "../src/eval/statistics.ts"
import { type Model, PromptCache } from "../src/index.ts"
import { reportOf, saveReport } from "./save.ts"

const flags = {
  ...modelFlags,
  ...group("Test", {
    file: text("-f, --file", { value: "TEXT", help: "what the prompt is the beginning of" }),
    nPrompt: integer("-p, --n-prompt", { min: 2, initial: 4096, help: "tokens of the prompt" }),
    nGen: integer("-n, --n-gen", { min: 1, initial: 32, help: "tokens behind it" }),
    rounds: integer("-r, --rounds", { min: 1, max: 1000, initial: 3, help: "rounds" }),
    nThreads: threadFlags.nThreads,
    save: text("--save", { value: "NAME", help: "write bench/results/NAME.json and NAME.md" }),
  }),
}

const command: Command<typeof flags> = {
  name: "bench/prompt-cache.ts",
  summary: "the first token of a long prompt, computed and out of a file",
  usage: "-m MODEL -f TEXT [-p 4096] [-n 32] [-r 3] [-t N] [--save NAME]",
  flags,
}

const KINDS = ["without a file", "writing it", "reading it", "beside a damaged one"] as const

/** ms to the first token, prompt tokens out of the file, and what was generated. */
async function turn(model: Model, prompt: Int32Array, maxTokens: number, file?: string) {
  const notices: string[] = []
  const cache =
    file === undefined ? {} : { promptCache: new PromptCache(file, { onNotice: (line) => notices.push(line) }) }
  using session = model.createSession()
  const options = { maxTokens, temperature: 0, ignoreEos: true, ...cache }
  const { firstTokenMs, nReused, tokens } = await session.generate(prompt, options).finish()
  return { firstTokenMs, nReused, tokens, notices }
}

/** One byte in the middle is another. */
function damage(file: string): void {
  const bytes = readFileSync(file)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(file, bytes)
}

type Turn = Awaited<ReturnType<typeof turn>>

async function round(model: Model, prompt: Int32Array, nGen: number, file: string) {
  rmSync(file, { force: true })
  const plain = await turn(model, prompt, nGen)
  const written = await turn(model, prompt, nGen, file)
  const bytes = statSync(file).size
  const read = await turn(model, prompt, nGen, file)
  damage(file)
  return { turns: [plain, written, read, await turn(model, prompt, nGen, file)], bytes }
}

const COLUMNS: readonly Column[] = ["run", "first token, ms", "times faster", "prompt tokens reused", "same text"].map(
  (name, i) => ({ name, width: i === 0 ? 20 : 0, align: i === 0 ? "left" : "right" }),
)

async function run(values: Values<typeof flags>): Promise<void> {
  const { file: textFile, nPrompt, nGen, rounds } = values
  if (textFile === undefined) throw new UsageError("-f TEXT is needed")
  const folder = mkdtempSync(join(tmpdir(), "asdsl-prompt-cache-"))
  try {
    using model = await loadFile(await modelFile(values), {
      nThreads: Math.max(values.nThreads, 0),
      nCtx: nPrompt + nGen + 1,
    })
    const tokens = evaluationTokens(model.tokenizer, readFileSync(textFile, "utf8"))
    if (tokens.length < nPrompt) throw new UsageError(`the text has ${tokens.length} tokens, -p is ${nPrompt}`)
    const prompt = tokens.slice(0, nPrompt)
    const all: Turn[][] = []
    let bytes = 0
    for (let i = 0; i < rounds; i++) {
      const { turns, bytes: size } = await round(model, prompt, nGen, join(folder, "cache"))
      all.push(turns)
      bytes = size
    }
    const rows = KINDS.map((name, kind) => {
      const turns = all.map((each) => each[kind]!)
      const faster = median(all.map((each) => each[0]!.firstTokenMs / each[kind]!.firstTokenMs))
      const same = all.every((each) => each[kind]!.tokens.join() === each[0]!.tokens.join())
      const first = median(turns.map((each) => each.firstTokenMs))
      return [name, first.toFixed(0), faster.toFixed(1), `${turns[0]!.nReused}`, same ? "yes" : "NO"]
    })
    const table = `${tableHead(COLUMNS)}${rows.map((row) => tableRow(COLUMNS, row)).join("")}
${nPrompt} tokens of prompt, ${(bytes / 1e6).toFixed(1)} MB of file. The damaged one: ${all[0]![3]!.notices.join(" ").replaceAll(`${folder}/`, "")}
`
    await writeOut(table)
    if (values.save === undefined) return
    const ms = Object.fromEntries(KINDS.map((name, kind) => [name, all.map((each) => each[kind]!.firstTokenMs)]))
    saveReport(
      values.save,
      reportOf({ nPrompt, nGen, fileBytes: bytes, ms }),
      `bun bench/prompt-cache.ts -m MODEL -f TEXT -p ${nPrompt}`,
      table,
    )
  } finally {
    rmSync(folder, { recursive: true })
  }
}

process.exitCode = await runCommand(command, process.argv.slice(2), run)
