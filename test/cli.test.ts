// Oracles: the exit codes and streams that a shell user relies on, files written by the test, and the library's own
// answers for the same input. Every test runs the program as its own process.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import packageJson from "../package.json"
import { evaluationTokens, perplexity } from "../src/eval/perplexity.ts"
import { writeGguf } from "../src/gguf/writer.ts"
import { cpuInfo, load } from "../src/index.ts"
import { readTopology } from "../src/native/cpus.ts"
import { LEVELS, writeTinyModel } from "./tiny-model.ts"
import {
  bpeMetadata,
  defaultModelPath,
  hasDefaultModel,
  random,
  randomText,
  spmMetadata,
  tokenizerOf,
} from "./tokenizer-fixtures.ts"

const MAIN = join(import.meta.dir, "../src/cli/main.ts")
const COMMANDS = [
  ...["chat", "run", "pull", "list", "rm", "repack", "cache", "bench", "info", "tokenize", "draft-vocab"],
  ...["perplexity", "quantize", "imatrix"],
]

let folder: string
let tiny: string
const path = (name: string) => join(folder, name)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "asdsl-cli-"))
  tiny = writeTinyModel({ path: path("tiny.gguf"), type: "Q4_0", seed: 5 })
  writeGguf(path("bpe.gguf"), {
    metadata: bpeMetadata(["h e", "l l", "he ll", "Ġ w"], [{ text: "<|end|>", kind: 3 }], {
      "tokenizer.ggml.bos_token_id": 260,
      "tokenizer.ggml.add_bos_token": true,
    }),
    tensors: [],
  })
  writeGguf(path("spm.gguf"), {
    metadata: spmMetadata([
      ["▁", -1],
      ["▁he", -2],
      ["ll", -3],
    ]),
    tensors: [],
  })
})

afterAll(() => rmSync(folder, { recursive: true }))

interface Result {
  code: number
  out: string
  err: string
}

async function asdsl(args: readonly string[], stdin = ""): Promise<Result> {
  const child = Bun.spawn([process.execPath, MAIN, ...args], {
    stdin: new TextEncoder().encode(stdin),
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ASDSL_ISA: undefined },
  })
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { code: await child.exited, out, err }
}

/** One sentence on stderr, nothing on stdout. */
function expectComplaint({ code, out, err }: Result, wanted: number, what: string | RegExp): void {
  expect([code, out]).toEqual([wanted, ""])
  expect(err).toMatch(what)
  expect(err.trimEnd()).not.toContain("\n")
}

describe("the program", () => {
  test("help on stdout names every command; each command's help names its flags", async () => {
    const [main, bare] = await Promise.all([asdsl(["--help"]), asdsl([])])
    expect(bare).toEqual(main)
    expect([main.code, main.err]).toEqual([0, ""])
    for (const name of COMMANDS) {
      expect(main.out).toMatch(new RegExp(`^  ${name} +\\w`, "m"))
      const help = await asdsl([name, "-h"])
      expect([help.code, help.err]).toEqual([0, ""])
      expect(help.out).toContain(`usage: asdsl ${name}`)
      const isAboutOne = !["pull", "list", "rm", "repack", "cache", "quantize"].includes(name)
      expect(help.out.includes("-m, --model MODEL")).toBe(isAboutOne)
    }
  })

  test("version", async () => {
    for (const args of [["--version"], ["bench", "--version"]]) {
      expect(await asdsl(args)).toEqual({ code: 0, out: `asdsl ${packageJson.version}\n`, err: "" })
    }
  })

  test("a wrong command line: exit 2, one sentence on stderr, nothing on stdout", async () => {
    expectComplaint(await asdsl(["bnech"]), 2, "did you mean bench?")
    expectComplaint(await asdsl(["frobnicate"]), 2, COMMANDS.join(", "))
    expectComplaint(await asdsl(["bench", "--thread", "2"]), 2, "did you mean --threads?")
    expectComplaint(await asdsl(["info", "-o", "csv"]), 2, '-o is "csv", allowed: md, json')
    expectComplaint(await asdsl(["bench", "-r", "0"]), 2, '-r is "0", a whole number from 1')
    expectComplaint(await asdsl(["bench", "-p", "0", "-n", "0"]), 2, "nothing to measure")
    expectComplaint(await asdsl(["bench", "-pg", "12"]), 2, "-pg 512,128")
    expectComplaint(await asdsl(["tokenize", "-p", "a", "-f", "b"]), 2, "exclude each other")
    expectComplaint(await asdsl(["perplexity", "-m", tiny]), 2, "-f FILE")
    expectComplaint(await asdsl(["info", "-m", tiny, "-hf", "user/repo"]), 2, "-m and -hf exclude each other")
    expectComplaint(await asdsl(["tokenize", "-hff", "a.gguf"]), 2, "-hf USER/REPO")
    expectComplaint(await asdsl(["perplexity", "--kl-divergence"]), 2, "--kl-divergence-base FILE")
  })

  test("a wrong file: exit 1 and one sentence", async () => {
    writeFileSync(path("empty.gguf"), "")
    writeFileSync(path("half.gguf"), (await Bun.file(tiny).bytes()).subarray(0, 5000))
    mkdirSync(path("a-folder"))
    for (const name of ["nowhere.gguf", "empty.gguf", "half.gguf", "a-folder"]) {
      for (const args of [["bench", "-p", "4", "-n", "0"], ["tokenize", "-p", "a"], ["info"]]) {
        expectComplaint(await asdsl([...args, "-m", path(name)]), 1, name)
      }
    }
    expectComplaint(await asdsl(["tokenize", "-m", tiny, "-f", path("nowhere.txt")]), 1, "nowhere.txt")
    expectComplaint(await asdsl(["tokenize", "-hf", "asdsl-test/no-repo", "--offline"]), 1, "asdsl-test/no-repo")
  }, 30_000)

  test("a reader that leaves early ends it without a word", async () => {
    writeFileSync(path("long.txt"), "hello ".repeat(300_000))
    const shell = `"${process.execPath}" "${MAIN}" tokenize -m "${path("bpe.gguf")}" -f "${path("long.txt")}" | head -c 3`
    const child = Bun.spawn(["bash", "-c", `set -o pipefail; ${shell}`], { stdout: "pipe", stderr: "pipe" })
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    expect([await child.exited, out, err]).toEqual([0, "[25", ""])
  })
})

describe("info", () => {
  test("the machine: what the library knows, and limits that were measured", async () => {
    const { code, out, err } = await asdsl(["info", "-t", "1", "-o", "json"])
    expect([code, err]).toEqual([0, ""])
    const { machine, model } = JSON.parse(out)
    const { cpu, levels, level, nCores, nPhysical, nPerformance, isHybrid, cacheBytes } = cpuInfo()
    expect(machine).toMatchObject({ cpu, level, nCores, nPhysical, nPerformance, isHybrid, cacheBytes, nThreads: 1 })
    expect(machine.workerCores).toEqual([null]) // a thread alone may stay where it is
    const { quotaCores, cores } = readTopology()
    expect(machine).toMatchObject({ quotaCores, nPackages: new Set(cores.map((core) => core.package)).size })
    const known = levels.filter((name) => name !== "reference")
    expect(machine.levels).toEqual(known)
    expect([...machine.levels, ...machine.hiddenLevels].toSorted()).toEqual(LEVELS.toSorted())
    expect(machine.readBytesPerSecond).toBeGreaterThan(1e8)
    expect(machine.int8MacsPerSecond).toBeGreaterThan(1e8)
    expect(model).toBe(null)
  })

  test("a model: what its file was written with", async () => {
    const { code, out, err } = await asdsl(["info", "-t", "1", "-m", tiny, "-o", "json"])
    expect([code, err]).toEqual([0, ""])
    using loaded = await load(tiny)
    const { machine, model } = JSON.parse(out)
    expect(model.architecture).toMatchObject({ nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 192, isTied: true })
    expect(model.architecture.streamedBytes).toBe(loaded.streamedBytes)
    expect(model.architecture.decodeCeiling).toBeCloseTo(machine.readBytesPerSecond / loaded.streamedBytes, 3)
    expect(model.fileBytes).toBe(Bun.file(tiny).size)
    expect([model.nParams, model.vocabulary]).toEqual([loaded.nParams, { kind: "spm", pre: null, nTokens: 200 }])
    const bytes = model.tensorTypes.reduce((sum: number, share: { bytes: number }) => sum + share.bytes, 0)
    expect([bytes, model.tensorTypes[0].type]).toEqual([model.tensorBytes, "Q4_0"])
    const table = await asdsl(["info", "-t", "1", "-m", tiny])
    for (const text of ["read bandwidth", "int8 peak", "tensors Q4_0", "spm, 200 tokens", "decode ceiling"]) {
      expect(table.out).toContain(text)
    }
  })

  test("a vocabulary alone: its facts, and why it cannot be loaded", async () => {
    const { code, out } = await asdsl(["info", "-t", "1", "-m", path("bpe.gguf"), "-o", "json"])
    const { model } = JSON.parse(out)
    expect([code, model.architecture]).toEqual([0, null])
    expect(model.reason).toContain("general.architecture is missing")
    expect(model.vocabulary).toEqual({ kind: "bpe", pre: "gpt-2", nTokens: 261 })
  })
})

describe("bench", () => {
  const bench = (...more: string[]) => asdsl(["bench", "-m", tiny, "-p", "16", "-n", "4", "-r", "2", ...more])

  test("JSON: llama-bench's fields, every sample, and shares that follow from them", async () => {
    const { code, out, err } = await bench("-t", "1,2", "-d", "0,8", "-pg", "8,2", "-o", "json")
    expect([code, err]).toEqual([0, ""])
    const records = JSON.parse(out) as Record<string, number | string | number[] | null>[]
    const order = ["pp16", "tg4", "pp8+tg2", "pp16 @ d8", "tg4 @ d8", "pp8+tg2 @ d8"]
    expect(records.map((record) => [record.n_threads, record.test])).toEqual(
      [1, 2].flatMap((threads) => order.map((name) => [threads, name])),
    )
    using model = await load(tiny)
    for (const record of records) {
      const { samples_ns, n_prompt, n_gen, n_depth } = record as { [key: string]: number } & { samples_ns: number[] }
      const speeds = samples_ns.map((ns) => ((n_prompt! + n_gen!) * 1e9) / ns)
      expect(record.samples_ts).toEqual(speeds)
      expect(record.avg_ts).toBeCloseTo((speeds[0]! + speeds[1]!) / 2, 6)
      expect(record.stddev_ts).toBeCloseTo(Math.abs(speeds[0]! - speeds[1]!) / Math.SQRT2, 4)
      for (const key of ["cpu_info", "level", "build_commit", "model_type", "test_time"])
        expect(record[key]).toBeTruthy()
      expect(record.weight_bytes_per_token).toBe(model.streamedBytes)
      // q8_0 keys and values (an f32 scale to a head) of 2 layers, 1 head of 32, for the tokens that each generated one sees.
      const seen = Array.from({ length: n_gen! }, (_, i) => n_depth! + n_prompt! + i + 1)
      const kvBytes = seen.reduce((sum, n) => sum + n * 2 * 1 * (32 + 4) * 2, 0) / Math.max(seen.length, 1)
      expect(record.kv_bytes_per_token).toBe(kvBytes)
      expect(record.read_share === null).toBe(n_prompt! > 0)
      expect(record.int8_share === null).toBe(n_gen! > 0)
      const limit = record.limit_read_bytes_per_second as number
      if (n_prompt === 0)
        expect(record.read_share).toBeCloseTo(
          (((speeds[0]! + speeds[1]!) / 2) * (model.streamedBytes + kvBytes)) / limit,
          6,
        )
    }
  }, 30_000)

  test("--profile: tables by operation and by layer, the same numbers in JSON, none in CSV", async () => {
    const [markdown, json, csv] = [
      await bench("-t", "1", "--profile"),
      await bench("-t", "1", "--profile", "-o", "json"),
      await bench("-t", "1", "--profile", "-o", "csv"),
    ]
    for (const test of ["pp16", "tg4"]) {
      for (const by of ["operation", "layer"]) expect(markdown.out).toContain(`| ${test}, 1 threads, by ${by} `)
    }
    const records = JSON.parse(json.out) as { profile: { kinds: { what: string }[]; layers: { what: string }[] } }[]
    const isOp = ({ what }: { what: string }) => what !== "between ops" // a row where it is more than rounding
    for (const { profile } of records) {
      expect(profile.layers.filter(isOp)).toHaveLength(3)
      for (const { what } of profile.kinds.filter(isOp)) expect(markdown.out).toContain(`| ${what} `)
    }
    expect(markdown.out.match(/^hardware counters: \S/gm)).toHaveLength(2)
    expectComplaint(csv, 2, "--profile needs -o md or json")
  }, 30_000)

  test("--n-verify: passes with logits for each of their tokens", async () => {
    const { code, out } = await asdsl([
      "bench",
      "-m",
      tiny,
      "-p",
      "0",
      "-n",
      "0",
      "--n-verify",
      "1,4",
      "-r",
      "2",
      "-o",
      "json",
    ])
    expect(code).toBe(0)
    const records = JSON.parse(out) as { test: string; n_prompt: number; n_gen: number; n_verify: number }[]
    expect(records.map(({ test, n_prompt, n_gen, n_verify }) => [test, n_prompt, n_gen, n_verify])).toEqual([
      ["verify1", 0, 0, 1],
      ["verify4", 0, 0, 4],
    ])
  }, 30_000)

  test("Markdown and CSV have the same rows", async () => {
    const [markdown, csv] = [await bench("-t", "1"), await bench("-t", "1", "-o", "csv")]
    expect([markdown.code, markdown.err, csv.code, csv.err]).toEqual([0, "", 0, ""])
    const rows = markdown.out.split("\n").filter((line) => line.startsWith("|"))
    expect(rows[0]!.split("|").map((cell) => cell.trim())).toContain("t/s")
    expect(new Set(rows.map((row) => row.split("|").length)).size).toBe(1)
    const lines = csv.out.trimEnd().split("\n")
    expect([rows.length - 2, lines.length - 1]).toEqual([2, 2])
    const column = lines[0]!.split(",").indexOf('"test"')
    const names = lines.slice(1).map((line) => line.split(/(?<="),(?=")/)[column]!.replaceAll('"', ""))
    expect(rows.slice(2).map((row) => row.split("|")[6]!.trim())).toEqual(names)
    expect(rows.slice(2).every((row) => / \d+\.\d\d ± \d+\.\d\d /.test(row))).toBe(true)
  }, 30_000)

  test("flags for graphics cards are ignored with a warning on stderr alone", async () => {
    const { code, out, err } = await asdsl([
      "bench",
      "-m",
      tiny,
      "-ngl",
      "99",
      "-fa",
      "1",
      "-p",
      "4",
      "-n",
      "0",
      "-r",
      "1",
    ])
    expect([code, err]).toEqual([0, "asdsl bench: ignored, there is nothing for them to do here: -ngl, -fa\n"])
    expect(out).toContain("pp4")
  })
})

describe("draft models", () => {
  test("draft-vocab: a list beside the model, frequent tokens of texts first; run and chat load it with the model", async () => {
    const text = "he he he tea tea oh"
    writeFileSync(path("words.txt"), text)
    expectComplaint(await asdsl(["draft-vocab", "-m", tiny]), 2, "-f TEXT")
    const made = await asdsl(["draft-vocab", "-m", tiny, "-f", path("words.txt"), "-n", "40"])
    expect(made.err).toBe("")
    expect(made.out).toStartWith(`${path("tiny.draft-vocab.json")}: 40 of 200 tokens; 100.00 % of `)
    const list = JSON.parse(readFileSync(path("tiny.draft-vocab.json"), "utf8"))
    const tokens = new Set<number>(JSON.parse((await asdsl(["tokenize", "-m", tiny, "-p", text])).out))
    expect(list.tokens).toHaveLength(40)
    for (const token of tokens) expect(list.tokens).toContain(token)
    const run = async (...args: string[]) => {
      const { out } = await asdsl([
        "run",
        "-m",
        tiny,
        "-p",
        "tea",
        "-n",
        "12",
        "--temp",
        "0",
        "--ignore-eos",
        "-o",
        "json",
        ...args,
      ])
      return JSON.parse(out)
    }
    const [plain, drafted] = [await run("--spec", "off"), await run("-md", tiny, "--spec", "draft", "--draft-max", "3")]
    expect(drafted.text).toBe(plain.text)
    const { nDrafted, nAccepted, nPasses, draftMs } = drafted.speculation
    expect([nDrafted > 0, nPasses + nAccepted, draftMs > 0]).toEqual([true, 11, true])
    expectComplaint(await asdsl(["run", "-m", tiny, "-p", "a", "--draft-vocab", "all"]), 2, "-md MODEL")
    expectComplaint(await asdsl(["run", "-m", tiny, "-p", "a", "-md", "a", "-hfd", "b/c"]), 2, "-md and -hfd")
    expectComplaint(await asdsl(["run", "-m", tiny, "-p", "a", "--spec", "draft"]), 1, "without a draft model")
  }, 30_000)
})

describe("tokenize", () => {
  test("-p, -f and stdin give the tokenizer's own ids, and --decode the text back", async () => {
    const next = random(7)
    const text = randomText(next, 300).replaceAll("\0", "").toWellFormed()
    writeFileSync(path("text.txt"), text)
    for (const file of [path("bpe.gguf"), path("spm.gguf"), tiny, ...(hasDefaultModel ? [defaultModelPath] : [])]) {
      const tokenizer = tokenizerOf(file)
      const own = Array.from(tokenizer.encode(text))
      const [fromFlag, fromFile, fromStdin] = await Promise.all([
        asdsl(["tokenize", "-m", file, `--prompt=${text}`]),
        asdsl(["tokenize", "-m", file, "-f", path("text.txt")]),
        asdsl(["tokenize", "-m", file], text),
      ])
      expect([fromFlag.code, fromFlag.err, JSON.parse(fromFlag.out)]).toEqual([0, "", own])
      expect([fromFile, fromStdin]).toEqual([fromFlag, fromFlag])
      expect(fromFlag.out.trimEnd()).not.toContain("\n")
      const back = await asdsl(["tokenize", "-m", file, "--decode"], fromFlag.out)
      expect(back).toEqual({ code: 0, out: tokenizer.decode(own, { special: true }), err: "" })
      if ([path("bpe.gguf"), path("spm.gguf")].includes(file)) expect(back.out).toBe(text) // these spell every byte
    }
  }, 30_000)

  test("--add-special adds BOS, --parse-special reads special tokens, ids may stand between blanks", async () => {
    const file = path("bpe.gguf")
    const run = async (...args: string[]) => (await asdsl(["tokenize", "-m", file, ...args])).out
    expect(JSON.parse(await run("-p", "hell"))).toEqual([258])
    expect(JSON.parse(await run("-p", "hell", "--add-special"))).toEqual([260, 258])
    expect(JSON.parse(await run("-p", "hell<|end|>", "--parse-special"))).toEqual([258, 260])
    expect(await run("--decode", "-p", "258 260,258")).toBe("hell<|end|>hell")
    expect(await run("--decode", "-p", "")).toBe("")
  })

  test("what is no token id is refused with its place", async () => {
    for (const [wrong, place] of [
      ["[1, 2, 261]", /token 2 is "261", the vocabulary has 0 to 260/],
      ["1 -1", /token 1 is "-1"/],
      ["[1, [2]]", /token 0 is/],
      ["hello", /token 0 is "hello"/],
    ] as const) {
      expectComplaint(await asdsl(["tokenize", "-m", path("bpe.gguf"), "--decode"], wrong), 2, place)
    }
  })
})

describe("perplexity", () => {
  const text = "the cat sat on the mat and the rat ate the hat. ".repeat(6)

  test("is the library's, chunk by chunk on stdout as llama-perplexity prints it", async () => {
    writeFileSync(path("prose.txt"), text)
    using model = await load(tiny)
    const partial: string[] = []
    const result = await perplexity(model, evaluationTokens(model.tokenizer, text), {
      nCtx: 32,
      onChunk: (n, _all, sofar) => void partial.push(`[${n}]${sofar.perplexity.toFixed(4)},`),
    })
    const { code, out, err } = await asdsl(["perplexity", "-m", tiny, "-f", path("prose.txt"), "-c", "32"])
    const [value, error] = [result.perplexity.toFixed(4), result.error.toFixed(5)]
    const last = `Final estimate: PPL over ${result.nChunks} chunks for n_ctx=32 = ${value} +/- ${error}\n`
    expect([code, out]).toEqual([0, `${partial.join("")}\n${last}`])
    expect(err).toContain(`${result.nChunks} chunks of 32 tokens`)
    const json = await asdsl(["perplexity", "-m", tiny, "-p", text, "-c", "32", "--chunks", "2", "-o", "json"])
    expect(JSON.parse(json.out)).toMatchObject({ nCtx: 32, nChunks: 2, nScored: 30 })
  })

  test("a text shorter than two chunks: both numbers", async () => {
    expectComplaint(
      await asdsl(["perplexity", "-m", tiny, "-p", "a cat", "-c", "64"]),
      1,
      /has \d+ tokens.*at least 128/,
    )
  })

  test("writes the file of log-probabilities and compares with it", async () => {
    const base = path("base.kld")
    const saved = await asdsl(["perplexity", "-m", tiny, "-p", text, "-c", "32", "--kl-divergence-base", base])
    expect(saved.code).toBe(0)
    const compare = (...more: string[]) =>
      asdsl(["perplexity", "-m", tiny, "--kl-divergence", "--kl-divergence-base", base, ...more])
    const { code, out } = await compare("-o", "json")
    const result = JSON.parse(out)
    expect([code, result.sameTop.value]).toEqual([0, 1])
    expect(Math.abs(result.divergence.value)).toBeLessThan(1e-4)
    const printed = await compare("--chunks", "2")
    for (const title of ["Perplexity", "KL divergence", "Token probability"]) {
      expect(printed.out).toContain(`====== ${title} statistics ======`)
    }
    expect(printed.out.split("\n").filter((line) => /^ {3}\d {4}/.test(line)).length).toBe(2)
    expectComplaint(
      await asdsl(["perplexity", "-m", tiny, "--kl-divergence", "--kl-divergence-base", tiny]),
      1,
      "_logits_",
    )
  })
})
