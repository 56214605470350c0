// From nothing to the first token: whole processes, on a model whose pages are in memory and on one whose pages were just
// dropped, asdsl beside itself without what makes it fast, and beside llama.cpp and ik_llama.cpp where they lie beside the
// llama-bench that $ASDSL_PEER_LLAMA_CPP or $ASDSL_PEER_IK names. Then decoding from the map beside decoding from memory, and
// what a process takes beyond its weights.
//
//   bun bench/start.ts MODEL.gguf [-r 3] [--save]
//
// A start is the time until the first byte of a reply to 16 tokens is on stdout, 2 threads. Pages are dropped by
// posix_fadvise through Python: needs Linux. Rounds alternate; medians are printed, all samples are saved.

import { existsSync, mkdtempSync, realpathSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { parseArgs } from "node:util"
import { runTest } from "../src/eval/speed.ts"
import { readModelHeader } from "../src/gguf/split.ts"
import { load, type Model } from "../src/index.ts"
import { projectFolder } from "../src/setup/project.ts"
import { createTokenizer } from "../src/tokenizer/index.ts"
import { reportOf, saveReport } from "./save.ts"

const N_PROMPT = 16
const TEXT = "Once upon a time, in a small village by the sea, there lived a young fisherman who could not swim at all"

interface Start {
  readonly name: string
  readonly command: readonly string[]
  /** Read into memory before each run, or dropped from it. */
  readonly warm?: readonly string[]
  readonly cold?: readonly string[]
  /** Removed after each run. */
  readonly removes?: string
}

/** As many words of TEXT as are 16 tokens. */
function promptFor(model: string): string {
  const tokenizer = createTokenizer(readModelHeader(model).metadata)
  const words = TEXT.split(" ")
  const n = words.findIndex((_, i) => tokenizer.encode(words.slice(0, i + 1).join(" ")).length >= N_PROMPT)
  return words.slice(0, n + 1).join(" ")
}

function startsOf(model: string, prompt: string, cache: string, emptyCache: string): Start[] {
  const run = ["run", "-m", model, "-t", "2", "-n", "1", "--temp", "0", "--ignore-eos", "-p", prompt]
  const asdsl = (folder: string, ...flags: string[]) => {
    return ["env", `ASDSL_CACHE=${folder}`, process.execPath, join(projectFolder, "src/cli/main.ts"), ...run, ...flags]
  }
  const peer = (bench: string | undefined, flags: readonly string[]) => {
    const names = ["llama-completion", "llama-cli"].map((name) => join(dirname(bench ?? "/nowhere/"), name))
    const path = names.find((each) => existsSync(each))
    return path && [path, ...run.slice(1), "--no-warmup", "--no-display-prompt", ...flags]
  }
  const copy = [...new Bun.Glob("*.gguf").scanSync(cache)].map((name) => join(cache, name))
  const llama = peer(process.env.ASDSL_PEER_LLAMA_CPP, ["-no-cnv"])
  const ik = peer(process.env.ASDSL_PEER_IK, ["--log-disable"])
  return [
    { name: "asdsl, copy in memory", command: asdsl(cache), warm: [model, ...copy] },
    { name: "asdsl, copy dropped", command: asdsl(cache), cold: [model, ...copy] },
    { name: "asdsl --no-prefetch, copy dropped", command: asdsl(cache, "--no-prefetch"), cold: [model, ...copy] },
    { name: "asdsl --no-cache, model in memory", command: asdsl(cache, "--no-cache"), warm: [model] },
    { name: "asdsl, first start, model in memory", command: asdsl(emptyCache), warm: [model], removes: emptyCache },
    ...(llama ? [{ name: "llama.cpp, model in memory", command: llama, warm: [model] }] : []),
    ...(llama ? [{ name: "llama.cpp, model dropped", command: llama, cold: [model] }] : []),
    ...(ik ? [{ name: "ik_llama.cpp -rtr, model in memory", command: [...ik, "-rtr"], warm: [model] }] : []),
  ]
}

function drop(paths: readonly string[]): void {
  const program =
    "import os,sys\nfor p in sys.argv[1:]:\n f=os.open(p,os.O_RDONLY)\n os.posix_fadvise(f,0,0,os.POSIX_FADV_DONTNEED)"
  Bun.spawnSync(["python3", "-c", program, ...paths], { stdio: ["ignore", "inherit", "inherit"] })
}

/** Seconds from the start of a process to the first byte of its output; it may go on. */
async function firstByte({ name, command, warm, cold, removes }: Start): Promise<number> {
  for (const path of warm ?? []) Bun.spawnSync(["cat", path], { stdio: ["ignore", "ignore", "inherit"] })
  if (cold !== undefined) drop(cold)
  const begun = performance.now()
  const child = Bun.spawn([...command], { stdin: "ignore", stdout: "pipe", stderr: "ignore" })
  const reader = child.stdout.getReader()
  const { done } = await reader.read()
  const seconds = (performance.now() - begun) / 1000
  if (done) throw new Error(`${name} printed nothing: ${command.join(" ")}`)
  while (!(await reader.read()).done);
  await child.exited
  if (removes !== undefined) rmSync(removes, { recursive: true, force: true })
  return seconds
}

/** Tokens a second of single tokens, from memory and from the map in turns. */
async function decodeSpeeds(model: string, cache: string, rounds: number) {
  using memory = await load(model, { nThreads: 2, nCtx: 256, cache: false })
  using mapped = await load(model, { nThreads: 2, nCtx: 256, cache, save: false })
  const samples: Record<string, number[]> = { memory: [], mapped: [] }
  const run = (each: Model) => {
    using session = each.createSession()
    return 32e9 / runTest(session, { nPrompt: 0, nGen: 32, nDepth: 0 })
  }
  for (let i = -1; i < rounds; i++) {
    for (const [name, each] of Object.entries({ memory, mapped })) {
      const speed = run(each)
      if (i >= 0) samples[name]!.push(speed) // the first round warms up
    }
  }
  const ratios = samples.mapped!.map((speed, i) => speed / samples.memory![i]!)
  return { samples, ratio: median(ratios), pages: { memory: memory.pages().memory, mapped: mapped.pages().mapped } }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
}

function table(starts: readonly { name: string; seconds: readonly number[] }[]): string {
  const rows = starts.map(({ name, seconds }) => `| ${name.padEnd(36)} | ${median(seconds).toFixed(3).padStart(8)} |`)
  return `| ${"start".padEnd(36)} | first, s |\n| :${"-".repeat(35)} | -------: |\n${rows.join("\n")}\n`
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { r: { type: "string", short: "r", default: "3" }, save: { type: "boolean", default: false } },
  })
  if (positionals.length !== 1) throw new Error("usage: bun bench/start.ts MODEL.gguf [-r 3] [--save]")
  const model = realpathSync(positionals[0]!)
  const folder = mkdtempSync(join(tmpdir(), "asdsl-start-"))
  try {
    const cache = join(folder, "cache")
    {
      using first = await load(model, { nThreads: 2, nCtx: 256, cache })
      const saved = await first.saved
      if (saved?.failure !== undefined) throw new Error(saved.failure)
    }
    const starts = startsOf(model, promptFor(model), cache, join(folder, "empty")).map((start) => ({
      ...{ start, name: start.name, seconds: [] as number[] },
    }))
    for (let round = 0; round < Number(values.r); round++) {
      for (const { start, seconds } of starts) seconds.push(await firstByte(start))
    }
    const decode = await decodeSpeeds(model, cache, Number(values.r))
    const text = `${table(starts)}\nDecoding from the map is ${decode.ratio.toFixed(3)} times as fast as from memory.\n`
    console.log(text)
    console.log(decode.samples, decode.pages)
    const results = starts.map(({ name, seconds }) => ({ name, seconds }))
    if (values.save) saveReport("start", reportOf({ starts: results, decode }), "bun bench/start.ts MODEL --save", text)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

await main()
