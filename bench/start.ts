// From nothing to the first token: whole processes, on a model whose pages are in memory and on one whose pages were just
// dropped, asdsl beside itself without what makes it fast, and beside llama.cpp and ik_llama.cpp where they lie beside the
// llama-bench that $ASDSL_PEER_LLAMA_CPP or $ASDSL_PEER_IK names. Then decoding from the map beside decoding from memory.
//
//   bun bench/start.ts MODEL.gguf [-r 3] [--read-ahead KB] [--save]
//
// A start is the time until the first byte of a reply to 16 tokens is on stdout, 2 threads. Pages are dropped by
// posix_fadvise through Python: needs Linux. Rounds alternate; medians are printed, all samples are saved. In each round the
// copy is also read a little by direct I/O: what the disk was able to at the time.
//
// Without the prefetch threads it is the kernel's own read-ahead that counts, and machines differ there: 128 KB by default,
// 8 MB on some virtual ones. --read-ahead sets it for the time of two more starts (as root).

import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs"
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
const N_DECODE = 64
/** Pairs of them: what is asked is 2 %, and one pair is good to about that. */
const DECODE_ROUNDS = 7
const TEXT = "Once upon a time, in a small village by the sea, there lived a young fisherman who could not swim at all"

interface Start {
  readonly name: string
  readonly command: readonly string[]
  /** Read into memory before each run, or dropped from it. */
  readonly warm?: readonly string[]
  readonly cold?: readonly string[]
  /** Removed after each run. */
  readonly removes?: string
  /** Set while it runs, in KB: the kernel's read-ahead of the disk. */
  readonly readAhead?: number
}

/** As many words of TEXT as are 16 tokens. */
function promptFor(model: string): string {
  const tokenizer = createTokenizer(readModelHeader(model).metadata)
  const words = TEXT.split(" ")
  const n = words.findIndex((_, i) => tokenizer.encode(words.slice(0, i + 1).join(" ")).length >= N_PROMPT)
  return words.slice(0, n + 1).join(" ")
}

function startsOf(model: string, prompt: string, cache: string, emptyCache: string, readAhead?: number): Start[] {
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
  const plain = { name: PLAIN, command: asdsl(cache, "--no-prefetch"), cold: copy }
  const fetched = { name: FETCHED, command: asdsl(cache), cold: copy }
  const slower = [plain, fetched].map((start) => {
    return { ...start, name: `${start.name}, ${readAhead} KB ahead`, readAhead: readAhead! }
  })
  return [
    ...(readAhead === undefined ? [] : slower),
    plain,
    fetched,
    { name: WARM, command: asdsl(cache) }, // as the start before it has left it there
    {
      name: DIRECT,
      command: ["dd", `if=${copy[0]}`, "iflag=direct", "bs=8M", `count=${DIRECT_MB / 8}`, "status=none"],
    },
    { name: "asdsl --no-cache, model in memory", command: asdsl(cache, "--no-cache"), warm: [model] },
    { name: "asdsl, first start, model in memory", command: asdsl(emptyCache), warm: [model], removes: emptyCache },
    ...(llama ? [{ name: "llama.cpp, model in memory", command: llama, warm: [model] }] : []),
    ...(llama ? [{ name: "llama.cpp, model dropped", command: llama, cold: [model] }] : []),
    ...(ik ? [{ name: "ik_llama.cpp -rtr, model in memory", command: [...ik, "-rtr"], warm: [model] }] : []),
  ]
}

const PLAIN = "asdsl --no-prefetch, copy dropped"
const FETCHED = "asdsl, copy dropped"
const WARM = "asdsl, copy in memory"
/** Enough to see the rate: disks of virtual machines have a budget, and slow down by two orders once it is spent. */
const DIRECT_MB = 256
const DIRECT = `reading ${DIRECT_MB} MB by direct I/O`

/** The kernel's read-ahead of the disk that a file is on, in KB. */
function readAheadOf(path: string): { readonly file: string; readonly kilobytes: number } {
  const { dev } = statSync(path)
  const device = `/sys/dev/block/${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & 0xfff00)}`
  const file = [`${device}/queue/read_ahead_kb`, `${device}/../queue/read_ahead_kb`].find((each) => existsSync(each))
  if (file === undefined) throw new Error(`${device} is no disk that says how far it reads ahead`)
  return { file, kilobytes: Number(readFileSync(file, "utf8")) }
}

function drop(paths: readonly string[]): void {
  const program =
    "import os,sys\nfor p in sys.argv[1:]:\n f=os.open(p,os.O_RDONLY)\n os.posix_fadvise(f,0,0,os.POSIX_FADV_DONTNEED)"
  Bun.spawnSync(["python3", "-c", program, ...paths], { stdio: ["ignore", "inherit", "inherit"] })
}

/** Seconds from the start of a process to the first byte of its output; it may go on. Of DIRECT, to its end. */
async function firstByte({ name, command, warm, cold, removes }: Start): Promise<number> {
  for (const path of warm ?? []) Bun.spawnSync(["cat", path], { stdio: ["ignore", "ignore", "inherit"] })
  if (cold !== undefined) drop(cold)
  const isDirect = name === DIRECT
  const begun = performance.now()
  const child = Bun.spawn([...command], {
    ...{ stdin: "ignore", stdout: isDirect ? "ignore" : "pipe", stderr: "ignore" },
  })
  const reader = child.stdout?.getReader()
  const first = isDirect ? await child.exited : (await reader!.read()).value
  const seconds = (performance.now() - begun) / 1000
  if (first === undefined || (isDirect && first !== 0)) throw new Error(`${name} failed: ${command.join(" ")}`)
  while (reader !== undefined && !(await reader.read()).done);
  await child.exited
  if (removes !== undefined) rmSync(removes, { recursive: true, force: true })
  return seconds
}

/** firstByte with the kernel's read-ahead that the start asks for. */
async function timed(start: Start, path: string): Promise<number> {
  if (start.readAhead === undefined) return await firstByte(start)
  const { file, kilobytes } = readAheadOf(path)
  writeFileSync(file, String(start.readAhead))
  try {
    return await firstByte(start)
  } finally {
    writeFileSync(file, String(kilobytes))
  }
}

/** Tokens a second of single tokens, from memory and from the map in turns. */
async function decodeSpeeds(model: string, cache: string, rounds: number) {
  drop([...new Bun.Glob("*.gguf").scanSync(cache)].map((name) => join(cache, name))) // read anew, by the prefetch threads
  using memory = await load(model, { nThreads: 2, nCtx: 256, cache: false })
  using mapped = await load(model, { nThreads: 2, nCtx: 256, cache, save: false })
  const samples: Record<string, number[]> = { memory: [], mapped: [] }
  const run = (each: Model) => {
    using session = each.createSession()
    return (N_DECODE * 1e9) / runTest(session, { nPrompt: 0, nGen: N_DECODE, nDepth: 0 })
  }
  for (let i = -1; i < rounds; i++) {
    for (const [name, each] of Object.entries({ memory, mapped })) {
      const speed = run(each)
      if (i >= 0) samples[name]!.push(speed) // the first round warms up
    }
  }
  const ratios = samples.mapped!.map((speed, i) => speed / samples.memory![i]!)
  const pages = { memory: memory.pages().memory, mapped: mapped.pages().mapped! }
  return {
    samples,
    ratio: median(ratios),
    pages,
    streamedBytes: mapped.streamedBytes,
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
}

interface Result {
  readonly name: string
  readonly seconds: readonly number[]
}

function table(starts: readonly Result[]): string {
  const width = Math.max(...starts.map(({ name }) => name.length))
  const rows = starts.map(
    ({ name, seconds }) => `| ${name.padEnd(width)} | ${median(seconds).toFixed(3).padStart(8)} |`,
  )
  return `| ${"start".padEnd(width)} | first, s |\n| :${"-".repeat(width - 1)} | -------: |\n${rows.join("\n")}\n`
}

/** What the samples say in words. */
function findings(
  starts: readonly Result[],
  decode: Awaited<ReturnType<typeof decodeSpeeds>>,
  kilobytes: number,
): string {
  const seconds = (wanted: string) => median(starts.find(({ name }) => name === wanted)!.seconds)
  const plain = seconds(PLAIN)
  const rate = (DIRECT_MB * 2 ** 20) / seconds(DIRECT)
  const { resident, huge } = decode.pages.mapped
  return [
    `With the copy dropped the first token comes ${(plain / seconds(FETCHED)).toFixed(2)} times as fast as by the kernel's own ` +
      `read-ahead of ${kilobytes} KB. A pass reads ${(decode.streamedBytes / 1e6).toFixed(0)} MB; direct reads of 8 MB, one at ` +
      `a time, get ${(rate / 1e9).toFixed(2)} GB/s of the disk.`,
    ...starts
      .filter(({ name }) => name.endsWith("KB ahead"))
      .slice(0, 1)
      .map(({ name }) => {
        const ahead = name.slice(PLAIN.length)
        return `With the kernel reading ${ahead.replace(", ", "")} it is ${(seconds(PLAIN + ahead) / seconds(FETCHED + ahead)).toFixed(2)} times.`
      }),
    `Decoding from the map is ${decode.ratio.toFixed(3)} times as fast as from memory (median of ${DECODE_ROUNDS} pairs of ` +
      `${N_DECODE} tokens); ${((100 * huge) / resident).toFixed(1)} % of what is mapped are pages of 2 MiB.`,
  ].join("\n\n")
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      r: { type: "string", short: "r", default: "3" },
      "read-ahead": { type: "string" },
      save: { type: "boolean", default: false },
    },
  })
  if (positionals.length !== 1)
    throw new Error("usage: bun bench/start.ts MODEL.gguf [-r 3] [--read-ahead KB] [--save]")
  const model = realpathSync(positionals[0]!)
  const folder = mkdtempSync(join(tmpdir(), "asdsl-start-"))
  try {
    const cache = join(folder, "cache")
    {
      using first = await load(model, { nThreads: 2, nCtx: 256, cache })
      const saved = await first.saved
      if (saved?.failure !== undefined) throw new Error(saved.failure)
    }
    const readAhead = values["read-ahead"] === undefined ? undefined : Number(values["read-ahead"])
    const starts = startsOf(model, promptFor(model), cache, join(folder, "empty"), readAhead).map((start) => ({
      ...{ start, name: start.name, seconds: [] as number[] },
    }))
    for (let round = 0; round < Number(values.r); round++) {
      for (const { start, seconds } of starts) seconds.push(await timed(start, model))
    }
    const decode = await decodeSpeeds(model, cache, DECODE_ROUNDS)
    const results = starts.map(({ name, seconds }) => ({ name, seconds }))
    const { kilobytes } = readAheadOf(model)
    const text = `${table(results)}\n${findings(results, decode, kilobytes)}\n`
    console.log(text)
    console.log(decode.samples, decode.pages)
    const report = reportOf({ starts: results, readAheadKilobytes: kilobytes, decode })
    if (values.save) saveReport("start", report, "bun bench/start.ts MODEL --save", text)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

await main()
