// Oracle: the flags' own table and llama.cpp's habits: one dash with several letters, long twins, lists, ignored GPU flags.

import { describe, expect, test } from "bun:test"
import {
  type Command,
  group,
  helpText,
  integer,
  integers,
  nearest,
  number,
  parseArguments,
  text,
  texts,
  toggle,
  UsageError,
} from "../src/cli/arguments.ts"
import { contextFlags, modelFlags, outputFlag, promptFlags, samplingFlags, threadFlags } from "../src/cli/flags.ts"

const shared = {
  ...modelFlags,
  ...promptFlags,
  ...threadFlags,
  ...contextFlags,
  ...samplingFlags,
  ...outputFlag(["md", "json"]),
}

const command = {
  name: "asdsl test",
  summary: "a command with flags of every kind",
  usage: "[flags]",
  flags: {
    ...shared,
    ...group("Own", {
      sizes: integers("-r, --sizes", { min: 0, max: 4096, initial: [5], help: "sizes" }),
      single: toggle("-st, --single-turn", { initial: false, help: "once" }),
      chats: toggle("-cnv, --conversation", { offNames: "-no-cnv, --no-conversation", help: "as a chat" }),
      stops: texts("--stop", { help: "end at" }),
      exact: integer("--exact", { min: -2, max: 2, help: "small" }),
      ratio: number("--ratio", { min: 0, max: 1, help: "share" }),
      form: text("--form", { choices: ["a", "b"], help: "form" }),
    }),
  },
} satisfies Command

const parse = (...args: string[]) => parseArguments(command, args)
const valuesOf = (...args: string[]) => parse(...args).values

/** The one sentence that a wrong command line gets. */
function complaint(...args: string[]): string {
  try {
    parse(...args)
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError)
    const { message } = error as UsageError
    expect(message).not.toContain("\n")
    return message
  }
  throw new Error(`${args.join(" ")} was accepted`)
}

test("without arguments every flag has its initial value and none was given", () => {
  const { values, given, warnings, asks } = parse()
  for (const [key, flag] of Object.entries(command.flags))
    expect(values[key as keyof typeof values]).toEqual(flag.initial)
  expect([given.size, warnings.length, asks]).toEqual([0, 0, undefined])
})

test("every name of every flag with a value sets its key and takes the next argument or what follows =", () => {
  for (const [key, flag] of Object.entries(command.flags)) {
    if (flag.value === undefined) continue
    const sample = key === "form" ? "b" : flag.value.split("|")[0] === flag.value ? "1" : flag.value.split("|")[1]!
    for (const name of flag.names) {
      const spaced = parse(name, sample)
      expect([...spaced.given]).toEqual([key as never])
      expect(parse("-st", name, sample, "-st").values).toMatchObject({ single: true })
      if (!name.startsWith("--")) continue
      expect(parse(`${name}=${sample}`).values).toEqual(spaced.values)
      expect(parse(name.slice(0, 2) + name.slice(2).replaceAll("-", "_"), sample).values).toEqual(spaced.values)
    }
  }
})

test("no name stands for two flags", () => {
  const names = Object.values(command.flags).flatMap(({ names, offNames = [] }) => [...names, ...offNames])
  expect(new Set(names).size).toBe(names.length)
})

test("the flags that users of llama.cpp type are there, with llama.cpp's defaults", () => {
  const typed =
    "-m m.gguf -p hi -f file -c 4096 -t 2 -tb 3 -b 64 -ub 32 -ctk f32 -ctv f16 -s 7 --temp 0 --top-k 1 --top-p 0.5"
  const values = valuesOf(...typed.split(" "), "--min-p", ".1", "--repeat-penalty", "1.1", "--repeat-last-n", "-1")
  expect(values).toMatchObject({
    ...{ model: "m.gguf", prompt: "hi", file: "file", nCtx: 4096, nThreads: 2, nThreadsBatch: 3, nBatch: 64 },
    ...{ nUbatch: 32, typeK: "f32", typeV: "f16", seed: 7, temperature: 0, topK: 1, topP: 0.5, minP: 0.1 },
    ...{ repeatPenalty: 1.1, repeatLastN: -1 },
  })
  expect(valuesOf("-C", "0x5", "--cpu-mask", "8", "-Cr", "6-7", "--poll", "0")).toMatchObject({
    ...{ cpuMask: [0, 2, 3], cpuRange: [6, 7], poll: 0 },
  })
  expect(complaint("-C", "0")).toMatch(/^-C: CPU mask "0", /)
  expect(valuesOf()).toMatchObject({
    ...{ seed: -1, temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05, repeatLastN: 64, repeatPenalty: 1 },
    ...{ presencePenalty: 0, frequencyPenalty: 0, ignoreEos: false, nBatch: 2048, nUbatch: 512, nCtx: 0 },
    ...{ cpuMask: [], cpuRange: [], poll: 50 },
  })
})

describe("values", () => {
  test("the last of a repeated flag counts, lists and texts collect", () => {
    expect(valuesOf("-c", "1", "-c", "2").nCtx).toBe(2)
    expect(valuesOf("-r", "1,2", "-r", "3").sizes).toEqual([1, 2, 3])
    expect(valuesOf("--stop", "a", "--stop", "b").stops).toEqual(["a", "b"])
  })

  test("llama-bench's ranges", () => {
    expect(valuesOf("-r", "1-4").sizes).toEqual([1, 2, 3, 4])
    expect(valuesOf("-r", "1-8+3").sizes).toEqual([1, 4, 7])
    expect(valuesOf("-r", "8-64*2,5").sizes).toEqual([8, 16, 32, 64, 5])
    for (const wrong of ["4-1", "0-8*2", "1-8*1", "1-8+0", "1-4097", "1-1002", "1,,2", "", "1-", "a"]) {
      expect(complaint("-r", wrong)).toStartWith("-r is ")
    }
  })

  test("a value may begin with a dash, a flag in its place is noticed", () => {
    expect(valuesOf("--exact", "-2").exact).toBe(-2)
    expect(valuesOf("-p", "- a list").prompt).toBe("- a list")
    expect(valuesOf("--prompt=-p").prompt).toBe("-p")
    expect(complaint("-m", "-p", "x")).toMatch(/^-m needs a value.*-p$/)
    expect(complaint("-st", "-c")).toBe("-c needs a value: -c N")
  })

  test("switches: on, off by another name, with a value", () => {
    expect([valuesOf("-cnv").chats, valuesOf("-no-cnv").chats, valuesOf().chats]).toEqual([true, false, undefined])
    expect([valuesOf("-cnv", "-no-cnv").chats, valuesOf("--single-turn=off").single]).toEqual([false, false])
    expect(complaint("--single-turn=maybe")).toContain("maybe")
    expect(complaint("--no-conversation=on")).toContain("takes no value")
  })

  test("numbers out of range or of another form: flag, value and what is allowed", () => {
    for (const wrong of ["3", "-3", "1.5", "", " 1", "0x1", "1e1", "NaN", "99999999999999999999"]) {
      expect(complaint("--exact", wrong)).toBe(`--exact is "${wrong}", a whole number from -2 to 2 is needed`)
    }
    for (const wrong of ["1.01", "-0.1", "x", "", "Infinity", "0,5", "1e", "."]) {
      expect(complaint("--ratio", wrong)).toBe(`--ratio is "${wrong}", a number from 0 to 1 is needed`)
    }
    expect(valuesOf("--ratio", "1e-3").ratio).toBe(0.001)
    expect(complaint("--top-k", "-1")).toBe('--top-k is "-1", a whole number of 0 or more is needed')
    expect(complaint("--form", "c")).toBe('--form is "c", allowed: a, b')
  })
})

describe("unknown flags", () => {
  test("the nearest known one is suggested where one is near", () => {
    expect(complaint("--thread", "2")).toBe('unknown flag "--thread", did you mean --threads?')
    expect(complaint("-temp", "2")).toContain("did you mean --temp?")
    expect(complaint("--topp", "1")).toContain("did you mean --top-p?")
    expect(complaint("--ctx-szie", "1")).toContain("did you mean --ctx-size?")
    expect(complaint("-x")).not.toContain("did you mean")
    expect(complaint("--flugelhorn")).not.toContain("did you mean")
  })

  test("a flag that resembles no other is found again with any one letter missing", () => {
    const known = Object.values(command.flags).flatMap((flag) => flag.names)
    for (const name of ["--threads-batch", "--repeat-last-n", "--frequency-penalty", "--single-turn", "--ignore-eos"]) {
      for (let i = 2; i < name.length; i++) expect(nearest(name.slice(0, i) + name.slice(i + 1), known)).toBe(name)
    }
  })

  test("a word without a flag is refused", () => {
    expect(complaint("hello")).toContain('unexpected argument "hello"')
    expect(complaint("-")).toContain('unexpected argument "-"')
  })
})

test("GPU flags of pasted command lines are skipped with their values and named in one warning", () => {
  const { values, warnings } = parse(
    ...["-ngl", "99", "-fa", "-c", "8", "--flash-attn", "auto", "-mg", "0", "-ts", "3,1", "-sm", "none"],
    ...["--n-gpu-layers=all", "-fa", "1", "--no-mmap", "-t", "2"],
  )
  expect([values.nCtx, values.nThreads]).toEqual([8, 2])
  expect(warnings.length).toBe(1)
  for (const name of ["-ngl", "-fa", "--flash-attn", "-mg", "-ts", "-sm", "--n-gpu-layers", "--no-mmap"]) {
    expect(warnings[0]).toContain(name)
  }
})

test("-h and --version win over what stands behind them", () => {
  expect(parse("-c", "1", "-h", "--nonsense").asks).toBe("help")
  expect(parse("--help").asks).toBe("help")
  expect(parse("--version", "-c").asks).toBe("version")
  expect(valuesOf("-p", "-h").prompt).toBe("-h")
})

test("help names every flag, its groups once, its default, and no line is wider than a terminal likes", () => {
  const help = helpText(command)
  for (const { names, offNames = [] } of Object.values(command.flags)) {
    for (const name of [...names, ...offNames]) expect(help).toContain(name)
  }
  for (const title of ["Model", "Prompt", "Threads", "Context", "Sampling", "Output", "Own"]) {
    expect(help.split("\n").filter((line) => line === title).length).toBe(1)
  }
  expect(help).toContain("(default 0.95)")
  expect(Math.max(...help.split("\n").map((line) => line.length))).toBeLessThanOrEqual(120)
})
