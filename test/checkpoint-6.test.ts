// Checkpoint 6: the interleaved file. Oracles: the source's own bytes (unpacking gives them back, hashes are equal); the
// model loaded in memory (logits to the bit); the kernel's own counts of pages; what a later process makes of a file.

import { afterAll, describe, expect, test } from "bun:test"
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readGguf } from "../src/gguf/reader.ts"
import { TENSOR_TYPES } from "../src/gguf/types.ts"
import { load } from "../src/index.ts"
import { DATA_ALIGNMENT, TENSOR_ALIGNMENT } from "../src/interleaved/format.ts"
import { AlignedPieces, PIECE_BYTES } from "../src/interleaved/output.ts"
import { roundUp } from "../src/interleaved/plan.ts"
import { repack, unpack } from "../src/interleaved/repack.ts"
import { cachedCopies, removeCopy, removeOrphans } from "../src/interleaved/store.ts"
import { verify } from "../src/interleaved/verify.ts"
import type { LoadOptions } from "../src/load-options.ts"
import { modelPath } from "../src/models/index.ts"
import { Buffer as NativeBuffer } from "../src/native/handles.ts"
import { Random } from "../src/random.ts"
import { bits, TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-checkpoint-6-"))
afterAll(() => rmSync(folder, { recursive: true }))

async function logits(path: string, options: LoadOptions = {}): Promise<string> {
  using model = await load(path, { nThreads: 2, nCtx: 128, cache: false, ...options })
  using session = model.createSession()
  session.sync(tinyTokens(9))
  return bits(session.row().logits)
}

async function identity(path: string): Promise<string> {
  using model = await load(path, { nThreads: 1, nCtx: 128, cache: false })
  return model.identity
}

const digestOf = (bytes: Uint8Array) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")
const digest = (path: string) => digestOf(readFileSync(path))

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
    test(`${name}: unpacking gives the source's bytes, groups of 16 and of 4 rows the logits of memory`, async () => {
      const { plain, file } = await repacked(name)
      const back = `${file}.back`
      await unpack(file, back)
      expect(digest(back)).toBe(digest(plain))
      await verify(file)
      const expected = await logits(plain)
      expect(await logits(file)).toBe(expected)
      expect(await logits(file, { mmap: false })).toBe(expected)
      expect(await logits(file, { prefetch: false, mlock: true })).toBe(expected)
      expect(await identity(file)).toBe(await identity(plain))
      const small = `${file}.4`
      await repack(plain, small, { rows: 4 })
      await unpack(small, back)
      expect(digest(back)).toBe(digest(plain))
      expect(await logits(small)).toBe(expected)
      for (const path of [plain, file, back, small]) rmSync(path)
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

  test("goes out in large aligned pieces, whatever the sizes of tensors: the page cache makes large pages of such alone", () => {
    const random = new Random(6)
    const pieces: Uint8Array[] = []
    const out = new AlignedPieces((piece) => pieces.push(piece.slice()))
    const expected: Uint8Array[] = []
    const size = () => Math.floor((random.double() < 0.5 ? 2 ** 13 : 2 ** 24) * random.double())
    for (let i = 0; i < 20; i++) {
      const bytes = new Uint8Array(size()).fill(i + 1)
      out.write(bytes)
      expected.push(bytes)
      const end = roundUp(out.written, TENSOR_ALIGNMENT)
      expected.push(new Uint8Array(end - out.written))
      out.padTo(end)
    }
    out.flush()
    expect(pieces.length).toBeGreaterThan(4)
    expect(pieces.slice(0, -1).every(({ length }) => length === PIECE_BYTES)).toBe(true)
    expect(PIECE_BYTES % DATA_ALIGNMENT).toBe(0)
    expect(digestOf(Buffer.concat(pieces))).toBe(digestOf(Buffer.concat(expected)))
  })

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

/** 100 when asked for. */
const KILLS = Number(process.env.ASDSL_KILLS ?? 4)

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

  test(
    "killed at random moments, a repack leaves nothing that a later start takes",
    async () => {
      const source = modelPath("smollm2")
      const expected = await logits(source)
      const cache = mkdtempSync(join(folder, "killed-"))
      const out = join(folder, "killed.bin")
      const begun = performance.now()
      await child("load", source, cache).exited
      const usual = performance.now() - begun
      const seed = Number(process.env.ASDSL_SEED ?? Date.now() % 2 ** 31)
      const random = new Random(seed)
      for (let i = 0; i < KILLS; i++) {
        for (const copy of cachedCopies(cache)) removeCopy(copy)
        const process = i % 2 === 0 ? child("load", source, cache) : child("repack", source, out)
        await Bun.sleep(usual * random.double())
        process.kill("SIGKILL")
        await process.exited
        for (const { path, state } of cachedCopies(cache)) if (state === "current") await verify(path)
        if (existsSync(out)) await verify(out)
        expect(`seed ${seed}, kill ${i}: ${await logits(source, { cache, save: false })}`).toEndWith(`: ${expected}`)
        rmSync(out, { force: true })
      }
      await child("load", source, cache).exited
      await repack(source, out)
      expect(cachedCopies(cache).map(({ state }) => state)).toEqual(["current"]) // and what was left is gone
      expect(readdirSync(folder).filter((name) => name.startsWith("killed.bin"))).toEqual(["killed.bin"])
      rmSync(out)
      rmSync(cache, { recursive: true })
    },
    60_000 + 15_000 * KILLS,
  )

  test("a source replaced by another of its name is noticed", async () => {
    const cache = mkdtempSync(join(folder, "replaced-"))
    const path = join(cache, "model.gguf.source")
    const [first, second] = [join(cache, "1.gguf"), join(cache, "2.gguf")]
    for (const [file, seed] of [
      [first, 1],
      [second, 2],
    ] as const)
      writeTinyModel({ path: file, type: "Q4_0", seed })
    expect(statSync(first).size).toBe(statSync(second).size)
    const [one, two] = [await logits(first), await logits(second)]
    expect(one).not.toBe(two)
    copyFileSync(first, path)
    const seen: unknown[] = []
    const look = async () => {
      using model = await load(path, { nThreads: 1, nCtx: 128, cache })
      using session = model.createSession()
      session.sync(tinyTokens(9))
      seen.push([model.loadedFrom.kind, bits(session.row().logits)])
      expect((await model.saved)?.failure).toBeUndefined()
    }
    await look()
    await look()
    const { atime, mtime } = statSync(path)
    copyFileSync(second, `${path}.new`)
    utimesSync(`${path}.new`, atime, mtime)
    renameSync(`${path}.new`, path) // of the same size and time
    await look()
    await look()
    const now = statSync(path)
    writeFileSync(path, readFileSync(first)) // in place: the same inode
    utimesSync(path, now.atime, now.mtime)
    await look()
    await look()
    const expected = [one, one, two, two, one, one].map((bits, i) => [i % 2 === 0 ? "plain" : "copy", bits])
    expect(seen).toEqual(expected)
    expect(cachedCopies(cache).filter(({ state }) => state === "current").length).toBe(1)
    rmSync(path)
    expect(removeOrphans(cache)).toBeGreaterThan(0)
    expect(cachedCopies(cache).filter(({ state }) => state === "current" || state === "outdated")).toEqual([])
  }, 60_000)
})

describe("copies in the cache folder", () => {
  test("two processes that write the same one are both fine", async () => {
    const cache = mkdtempSync(join(folder, "race-"))
    const source = modelPath("smollm2")
    const said = await Promise.all([1, 2, 3].map(() => output(child("load", source, cache))))
    expect(new Set(said.map(({ logits }) => logits)).size).toBe(1)
    const copies = cachedCopies(cache)
    expect(copies.map(({ state }) => state)).toEqual(["current"])
    await verify(copies[0]!.path)
    rmSync(cache, { recursive: true })
  }, 60_000)

  test("a folder that cannot be written costs a note", async () => {
    const path = writeTinyModel({ path: join(folder, "unwritable.gguf"), type: "Q4_0" })
    const notes: string[] = []
    using model = await load(path, {
      nThreads: 1,
      cache: join(path, "below-a-file"),
      onNote: (text) => notes.push(text),
    })
    expect((await model.saved)?.failure).toContain("ENOTDIR")
    expect(notes.join()).toContain("no repacked copy")
  }, 60_000)

  test.skipIf(process.platform === "win32")(
    "a disk that is full costs a note, and nothing is left",
    async () => {
      const path = writeTinyModel({ path: join(folder, "full.gguf"), type: "Q4_0" })
      const cache = mkdtempSync(join(folder, "full-"))
      const command = [process.execPath, childPath, "load", path, cache]
      const limited = Bun.spawn(["sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh", ...command], {
        ...{ stdout: "pipe", stderr: "pipe", stdin: "ignore" },
      })
      expect((await output(limited)).logits).toBe(await logits(path))
      expect(await new Response(limited.stderr).text()).toMatch(/no repacked copy.*cannot be written/)
      expect(cachedCopies(cache)).toEqual([])
    },
    60_000,
  )
})

describe.skipIf(process.platform !== "linux")("the map", () => {
  test("ends in a page of zeros and one that nobody may touch", async () => {
    const { file } = await repacked("Q4_1")
    using _map = NativeBuffer.map(file)
    const lines = readFileSync("/proc/self/maps", "utf8").split("\n")
    const last = lines.findLastIndex((line) => line.endsWith(file))
    const [, guard] = [1, 2].map((i) => lines[last + i]!.split(" ")[1])
    expect(lines[last + 1]).toMatch(/ r--p .* 0 *$/)
    expect(guard).toBe("---p")
  }, 60_000)

  test("is shared by two processes", async () => {
    const file = join(folder, "shared.gguf")
    await repack(modelPath("smollm2"), file)
    const holder = Bun.spawn([process.execPath, childPath, "hold", file], { stdin: "pipe", stdout: "pipe" })
    const reader = holder.stdout.getReader()
    await reader.read() // it has read all of its weights
    using model = await load(file, { nThreads: 1, nCtx: 128, cache: false })
    using session = model.createSession()
    session.sync(tinyTokens(9))
    const { mapped } = model.pages()
    expect(mapped!.resident).toBeGreaterThan(0.95 * model.weightBytes)
    expect(mapped!.proportional / mapped!.resident).toBeCloseTo(0.5, 1)
    holder.stdin.end()
    const theirs = JSON.parse(new TextDecoder().decode((await reader.read()).value)).pages
    expect(theirs.proportional / theirs.resident).toBeCloseTo(0.5, 1)
    expect(await holder.exited).toBe(0)
    rmSync(file)
  }, 60_000)

  test("of a file that is cut short is an error that names it, in whatever thread it is found", async () => {
    const { file } = await repacked("Q6_K")
    const cut = child("shrink", file)
    const { error } = await output(cut)
    expect(error).toContain(`${file}: a part of the file is gone`)
    expect(await cut.exited).toBe(0)
    await expect(load(file)).rejects.toThrow()
  }, 60_000)
})

const childPath = new URL("./checkpoint-6-child.ts", import.meta.url).pathname

function child(...words: string[]): Bun.Subprocess<"ignore", "pipe", "inherit"> {
  return Bun.spawn([process.execPath, childPath, ...words], { stdin: "ignore", stdout: "pipe", stderr: "inherit" })
}

async function output(process: { readonly stdout: ReadableStream }): Promise<Record<string, string>> {
  return JSON.parse(await new Response(process.stdout).text())
}
