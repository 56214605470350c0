// Split models. Oracle: the same model in one file, to the bit; and the promises of src/gguf/split.ts for parts that do
// not belong together.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, renameSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { readGguf } from "../src/gguf/reader.ts"
import { readModelHeader, splitNames } from "../src/gguf/split.ts"
import { FormatError, load, ModelUnavailableError } from "../src/index.ts"
import { type SplitFaults, splitModel } from "./fixtures/split-model.ts"
import { bits, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-split-"))
afterAll(() => rmSync(folder, { recursive: true }))

const whole = writeTinyModel({ path: join(folder, "whole.gguf"), type: "Q4_1", biases: true })

async function logits(path: string): Promise<string> {
  using model = await load(path, { nThreads: 2 })
  using session = model.createSession()
  session.sync(tinyTokens(9))
  return bits(session.row().logits)
}

describe("loading", () => {
  for (const nParts of [1, 2, 3, 40]) {
    test(`${nParts} parts, by the path of the first, of the last`, async () => {
      const paths = splitModel(whole, folder, "model", nParts)
      const expected = await logits(whole)
      expect(await logits(paths[0]!)).toBe(expected)
      expect(await logits(paths.at(-1)!)).toBe(expected)
    })
  }

  test("the joined header: the first part's metadata, every tensor, all bytes", () => {
    const paths = splitModel(whole, folder, "header", 3)
    const [joined, one] = [readModelHeader(paths[1]!), readGguf(whole)]
    expect(joined.path).toBe(paths[0]!)
    expect(joined.files).toEqual(paths)
    expect(joined.fileBytes).toBe(paths.reduce((sum, path) => sum + Bun.file(path).size, 0))
    expect([...joined.tensors.keys()].sort()).toEqual([...one.tensors.keys()].sort())
    for (const [name, { file, type, shape, bytes, offset }] of joined.tensors) {
      const part = readGguf(paths[file]!).tensors.get(name)
      expect(part).toMatchObject({ type, shape, bytes, offset })
    }
    expect(joined.metadata).toEqual(readGguf(paths[0]!).metadata)
    for (const key of one.metadata.keys()) expect(joined.metadata.has(key)).toBeTrue()
  })
})

describe("names", () => {
  test("of all parts, from any of them", () => {
    const names = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    for (const name of names) expect(splitNames(name)).toEqual(names)
    expect(splitNames("x-00001-of-00002-00001-of-00001.gguf")).toEqual(["x-00001-of-00002-00001-of-00001.gguf"])
  })

  test("that are not a part's", () => {
    const names = ["a.gguf", "a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin"]
    for (const name of names) expect(splitNames(name)).toBeUndefined()
  })
})

describe("parts that do not belong together", () => {
  function faulty(faults: SplitFaults): string[] {
    return splitModel(whole, folder, "faulty", 3, faults)
  }

  test("a missing part is named, and how many there should be", async () => {
    const paths = faulty({})
    rmSync(paths[1]!)
    const error = await load(paths[0]!).catch((cause) => cause)
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain(basename(paths[1]!))
    expect(error.message).toContain("3 files")
  })

  test("a part under another name", async () => {
    const [first] = faulty({})
    const renamed = join(folder, "renamed.gguf")
    renameSync(first!, renamed)
    expect(load(renamed)).rejects.toThrow(/one of 3 parts .* -00001-of-00003\.gguf/)
  })

  const wrong: Record<string, [SplitFaults, RegExp]> = {
    "a wrong number": [
      { mark: (part, key, value) => (key === "split.no" && part === 1 ? 2 : value) },
      /part 2 of 3 .*is 1 of 3/,
    ],
    "a wrong count": [{ mark: (part, key, value) => (key === "split.count" && part === 2 ? 4 : value) }, /part 2 of 4/],
    "a tensor in two parts": [
      { tensors: (part, own, all) => (part === 2 ? [...own, all[0]!] : own) },
      /is in two parts: .*00001-of.*00003-of/,
    ],
    "a tensor in no part": [
      { tensors: (part, own) => (part === 2 ? own.slice(1) : own) },
      /has \d+ tensors, its 3 parts \d+/,
    ],
  }
  for (const [name, [faults, message]] of Object.entries(wrong)) {
    test(name, () => {
      const [first] = faulty(faults)
      expect(() => readModelHeader(first!)).toThrow(FormatError)
      expect(() => readModelHeader(first!)).toThrow(message)
    })
  }
})
