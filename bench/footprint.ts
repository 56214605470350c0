// What a process takes beside its weights and its keys and values, and where its start goes: `asdsl run`, `asdsl chat` and a
// program of its own, each after 100 tokens, as the system counts them from outside.
//
//   bun bench/footprint.ts MODEL.gguf... [--save]
//
// Needs Linux (/proc/PID/smaps), and a repacked copy of each model, which is made where there is none. Weights are what is
// resident of the file; keys and values what the cache holds for the text; the rest is Bun, the program, the vocabulary, the
// arena. MB are 10^6 bytes.

import { readFileSync } from "node:fs"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { load } from "../src/index.ts"
import { projectFolder } from "../src/setup/project.ts"
import { reportOf, saveReport } from "./save.ts"

const N_TOKENS = 100
const PROMPT = "Tell me about the sea."
/** The text comes a token or a few at a time; behind the last of it the command measures the memory's speed. */
const N_EXTRA = 12

interface Resident {
  readonly all: number
  readonly weights: number
}

/** Bytes in the page tables of a process: all, and those of a file. */
function residentOf(pid: number, file: string): Resident {
  let [all, weights, isFile] = [0, 0, false]
  for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isFile = line.endsWith(file)
    const [, kilobytes] = /^Rss: +(\d+) kB/.exec(line) ?? []
    if (kilobytes === undefined) continue
    all += 1024 * Number(kilobytes)
    if (isFile) weights += 1024 * Number(kilobytes)
  }
  return { all, weights }
}

/** What a command has resident when all but the last of its text is out. */
async function residentOfCommand(words: readonly string[], stdin: string, file: string): Promise<Resident> {
  const main = join(projectFolder, "src/cli/main.ts")
  const child = Bun.spawn([process.execPath, main, ...words], {
    ...{ stdin: new Blob([stdin]), stdout: "pipe", stderr: "ignore" },
  })
  const samples: Resident[] = []
  for await (const _ of child.stdout) samples.push(residentOf(child.pid, file))
  if ((await child.exited) !== 0 || samples.length <= N_EXTRA) throw new Error(`asdsl ${words.join(" ")} failed`)
  return samples.at(-N_EXTRA / 2)!
}

/** A process of its own that loads the model and writes N_TOKENS: what it has resident, and ms by what they went into. */
async function program(model: string, file: string): Promise<{ resident: Resident; start: Record<string, number> }> {
  const child = Bun.spawn([process.execPath, import.meta.path, "--child", model], {
    ...{ stdin: "pipe", stdout: "pipe", stderr: "inherit" },
  })
  const { value } = await child.stdout.getReader().read()
  const start = JSON.parse(new TextDecoder().decode(value))
  const resident = residentOf(child.pid, file)
  child.stdin.end()
  await child.exited
  return { resident, start }
}

async function childMain(path: string): Promise<void> {
  const start: Record<string, number> = { "Bun and modules": performance.now() }
  let since = performance.now()
  const lap = (name: string) => {
    start[name] = performance.now() - since
    since = performance.now()
  }
  using model = await load(path, { save: false })
  lap("header, graph, map, threads")
  model.tokenizer.encode(PROMPT)
  lap("vocabulary")
  model.template.render([{ role: "user", content: PROMPT }])
  lap("chat template")
  using session = model.createSession()
  session.sync(model.tokenizer.encode(PROMPT))
  lap("first pass")
  for await (const _ of session.generate(PROMPT, { maxTokens: N_TOKENS, temperature: 0, ignoreEos: true }));
  process.stdout.write(JSON.stringify(start))
  for await (const _ of Bun.stdin.stream());
}

async function footprintOf(path: string) {
  let [file, kvBytes, name] = ["", 0, ""]
  {
    using model = await load(path, { nCtx: 512 })
    await model.saved
  }
  {
    using model = await load(path, { nCtx: 512 })
    using session = model.createSession()
    session.sync(model.tokenizer.encode(PROMPT))
    ;[file, kvBytes, name] = [model.loadedFrom.path, session.kvBytes, String(model.header.metadata.get("general.name"))]
  }
  const flags = ["-m", path, "-n", String(N_TOKENS + N_EXTRA), "--temp", "0", "--ignore-eos"]
  const { resident, start } = await program(path, file)
  const residents: Record<string, Resident> = {
    "asdsl run": await residentOfCommand(["run", ...flags, "-p", PROMPT], "", file),
    "asdsl chat": await residentOfCommand(["chat", ...flags], PROMPT, file),
    "a program": resident,
  }
  return { name, kvBytes, residents, start }
}

function tableOf(models: readonly Awaited<ReturnType<typeof footprintOf>>[]): string {
  const mb = (bytes: number) => (bytes / 1e6).toFixed(1).padStart(8)
  const lines = models.flatMap(({ name, kvBytes, residents }) =>
    Object.entries(residents).map(([command, { all, weights }]) => {
      const cells = [all, weights, kvBytes, all - weights - kvBytes].map(mb)
      return `| ${name.padEnd(28)} | ${command.padEnd(10)} | ${cells.join(" | ")} |`
    }),
  )
  const starts = models.map(({ name, start }) => {
    const parts = Object.entries(start).map(([part, ms]) => `${part} ${ms.toFixed(0)} ms`)
    return `${name}, a program's start: ${parts.join(", ")}.`
  })
  const head = `| ${"model, MB after 100 tokens".padEnd(28)} | ${"process".padEnd(10)} | resident |  weights |      K,V | the rest |`
  const rule = `| :${"-".repeat(27)} | :${"-".repeat(9)} |${" -------: |".repeat(4)}`
  return `${[head, rule, ...lines].join("\n")}\n\n${starts.join("\n\n")}\n`
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { save: { type: "boolean", default: false }, child: { type: "boolean", default: false } },
  })
  if (values.child) return await childMain(positionals[0]!)
  if (positionals.length === 0) throw new Error("usage: bun bench/footprint.ts MODEL.gguf... [--save]")
  const models = []
  for (const path of positionals) models.push(await footprintOf(path))
  const text = tableOf(models)
  console.log(text)
  if (values.save) saveReport("footprint", reportOf({ models }), "bun bench/footprint.ts MODEL... --save", text)
}

await main()
