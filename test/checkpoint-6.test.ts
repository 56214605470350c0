// Checkpoint 6: the interleaved file. Oracles: the source's own bytes (unpacking gives them back, hashes are equal); the
// model loaded in memory (logits to the bit); the kernel's own counts of pages; what a later process makes of a file.

import { afterAll, describe, expect, test } from "bun:test"
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readGguf } from "../src/gguf/reader.ts"
import { TENSOR_TYPES } from "../src/gguf/types.ts"
import { load } from "../src/index.ts"
import { DATA_ALIGNMENT, TENSOR_ALIGNMENT } from "../src/interleaved/format.ts"
import { repack, unpack } from "../src/interleaved/repack.ts"
import { verify } from "../src/interleaved/verify.ts"
import type { LoadOptions } from "../src/model.ts"
import { modelPath } from "../src/models/index.ts"
import { bits, TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-6-"))
afterAll(() => rmSync(folder, { recursive: true }))

async function logits(path: string, options: LoadOptions = {}): Promise<string> {
  using model = await load(path, { nThreads: 2, nCtx: 128, cache: false, ...options })
  using session = model.createSession()
  session.sync(tinyTokens(9))
  return bits(session.row().logits)
}

const digest = (path: string) => new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex")

/** A tiny model and its interleaved file. */
async function repacked(name: string): Promise<{ plain: string; file: string }> {
  const stem = join(folder, name.replaceAll(/[^\w]+/g, "-"))
  const [plain, file] = [`${stem}.gguf`, `${stem}.repacked.gguf`]
  writeTinyModel({ ...TINY_MODELS[name]!, path: plain })
  await repack(plain, file)
  return { plain, file }
}

describe("line 1: the file", () => {
  for (const name of Object.keys(TINY_MODELS)) {
    test(`${name}: unpacking gives the source's bytes, mapping the logits of memory`, async () => {
      const { plain, file } = await repacked(name)
      const back = `${file}.back`
      await unpack(file, back)
      expect(digest(back)).toBe(digest(plain))
      await verify(file)
      const expected = await logits(plain)
      expect(await logits(file)).toBe(expected)
      expect(await logits(file, { mmap: false })).toBe(expected)
      expect(await logits(file, { prefetch: false, mlock: true })).toBe(expected)
      for (const path of [plain, file, back]) rmSync(path)
    }, 60_000)
  }

  test("the default model", async () => {
    const [plain, file, back] = [modelPath("smollm2"), join(folder, "smollm2.gguf"), join(folder, "smollm2.back.gguf")]
    await repack(plain, file)
    await unpack(file, back)
    expect(digest(back)).toBe(digest(plain))
    expect(await logits(file)).toBe(await logits(plain))
    rmSync(back)
  }, 60_000)

  test("is a GGUF container whose data and tensors are aligned, and that no other program takes for a model", async () => {
    const { file } = await repacked("Q4_K with Q6_K, untied")
    const known = new Set<number>(Object.values(TENSOR_TYPES).map(({ id }) => id))
    const header = readGguf(file)
    const tensors = [...header.tensors.values()]
    expect(Math.min(...tensors.map(({ offset }) => offset)) % DATA_ALIGNMENT).toBe(0)
    expect(tensors.every(({ offset }) => offset % TENSOR_ALIGNMENT === 0)).toBe(true)
    const order = tensors.map(({ name }) => name)
    expect(order.indexOf("blk.0.attn_q.weight")).toBeLessThan(order.indexOf("blk.0.ffn_down.weight"))
    expect(order.at(-1)).toBe("token_embd.weight") // only gathered from: behind what a pass reads whole, and as it was
    expect(tensors.filter(({ type }) => known.has(type)).map(({ name }) => name)).toEqual([
      ...order.filter((name) => name.includes("norm")),
      "token_embd.weight",
    ])
  }, 60_000)
})

/** One bit of a file. */
function flip(path: string, at: number): void {
  const fd = openSync(path, "r+")
  const byte = new Uint8Array(1)
  readSync(fd, byte, 0, 1, at)
  byte[0]! ^= 1 << (at % 8)
  writeSync(fd, byte, 0, 1, at)
  closeSync(fd)
}

describe("line 4: damage", () => {
  test("a flipped bit is found by verify wherever it is", async () => {
    const { file } = await repacked("Q4_K")
    const fileBytes = statSync(file).size
    const first = Math.min(...Array.from(readGguf(file).tensors.values(), ({ offset }) => offset))
    const places = [5, 60, 200, first - 1, first, fileBytes - 1]
    for (let i = 0; i < 14; i++) places.push(Math.floor((fileBytes / 14) * (i + 0.37)))
    for (const at of places) {
      flip(file, at)
      const found = await verify(file).then(() => "nothing", String)
      expect(`${at}: ${found}`).toMatch(/Error/)
      flip(file, at)
    }
    await verify(file)
  }, 60_000)

  test("a file that is cut short is refused", async () => {
    const { file } = await repacked("Q8_0")
    writeFileSync(`${file}.short`, readFileSync(file).subarray(0, statSync(file).size - TENSOR_ALIGNMENT))
    await expect(load(`${file}.short`)).rejects.toThrow("it was cut short")
  }, 60_000)
})
