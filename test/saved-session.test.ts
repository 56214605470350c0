// Oracle: the session itself that was saved, by the tokens it generates and the bits of its logits; for a file that
// something is wrong with, that it is refused by name and nothing changes.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type LoadOptions, load, type Model, SavedSessionError, type Session } from "../src/index.ts"
import { Type } from "../src/native/abi.ts"
import { Engine, KvCache } from "../src/native/handles.ts"
import { AttentionProgram } from "./attention-program.ts"
import { bits, tinyTokens, writeTinyModel } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(60_000)

const N_CTX = 900
const LOAD: LoadOptions = { nThreads: 1, nCtx: N_CTX, nUbatch: 128 }
const folder = mkdtempSync(join(tmpdir(), "asdsl-saved-"))
const modelPath = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q4_0" })
const file = join(folder, "session")
let model: Model

beforeAll(async () => {
  model = await load(modelPath, LOAD)
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

function sessionOf(tokens: ArrayLike<number>, of = model): Session {
  const session = of.createSession()
  session.sync(tokens)
  return session
}

/** What a session holds and computes next. */
function state(session: Session): unknown {
  using copy = session.fork()
  const rows = [5, 77, 5].map((token) => {
    copy.extend([token])
    return bits(copy.row().logits)
  })
  return [[...session.tokens], rows]
}

function problemOf(body: () => unknown): SavedSessionError["problem"] {
  try {
    body()
  } catch (error) {
    if (error instanceof SavedSessionError) return error.problem
    throw error
  }
  throw new Error("nothing was thrown")
}

/** The file is refused, and a session that holds something else stays as it was. */
function refusal(path: string, session: Session): SavedSessionError["problem"] {
  const before = [...session.tokens]
  const problem = problemOf(() => session.load(path))
  expect([...session.tokens]).toEqual(before)
  return problem
}

describe("a session comes back", () => {
  const lengths = [1, 15, 16, 63, 64, 65, 255, 256, 257, 511, 512, 513, N_CTX - 3]

  test.each([
    ["f16", "f16"],
    ["f32", "f16"],
    ["f16", "f32"],
    ["q8_0", "q8_0"],
    ["q8_0", "f16"],
  ] as const)("with %s keys and %s values, of any length, in another process' model", async (typeK, typeV) => {
    using first = await load(modelPath, { ...LOAD, typeK, typeV })
    const moved = join(folder, "moved.gguf")
    copyFileSync(modelPath, moved)
    using second = await load(moved, { ...LOAD, typeK, typeV, nUbatch: 33, nThreads: 2 })
    for (const n of lengths) {
      using session = sessionOf(tinyTokens(n, n), first)
      session.save(file, { note: `längd ${n}` })
      using other = second.createSession()
      expect(other.load(file)).toEqual({ tokens: tinyTokens(n, n), note: `längd ${n}` })
      expect(state(other)).toEqual(state(session))
      expect(other.kvBytes).toBe(session.kvBytes)
    }
  })

  test("after a truncation and with a draft behind it: what it holds, and no more", () => {
    using session = sessionOf(tinyTokens(700))
    session.truncate(300)
    session.speculate(7, [8, 9, 10])
    session.save(file)
    using other = model.createSession()
    other.load(file)
    using fresh = sessionOf([...tinyTokens(300), 7])
    expect(state(other)).toEqual(state(fresh))
    expect(other.tokens.length).toBe(301)
  })

  test("as far as a prompt begins likewise", () => {
    using session = sessionOf(tinyTokens(600))
    session.save(file)
    for (const n of [0, 1, 16, 255, 256, 257, 512, 513, 599, 600]) {
      const prompt = [...tinyTokens(n), ...(n < 600 ? [(tinyTokens(600)[n]! + 1) % 200] : []), 3, 4]
      using other = sessionOf([1, 2, 3])
      expect(other.load(file, { prompt }).tokens.length).toBe(600)
      expect(other.tokens).toEqual(tinyTokens(n))
      other.sync(prompt)
      using fresh = sessionOf(prompt)
      expect(state(other)).toEqual(state(fresh))
    }
  })

  test("into a smaller context, if that holds it", () => {
    using session = sessionOf(tinyTokens(300))
    session.save(file)
    using exact = model.createSession({ nCtx: 301 })
    exact.load(file)
    exact.extend([9])
    const row = bits(exact.row().logits)
    session.extend([9])
    expect(row).toBe(bits(session.row().logits))
    using small = model.createSession({ nCtx: 299 })
    expect(() => small.load(file)).toThrow("the prompt has 300 tokens, the context holds 299")
    small.load(file, { prompt: tinyTokens(280) })
    expect(small.tokens).toEqual(tinyTokens(280))
  })

  test("through a link, which stays", () => {
    const link = join(folder, "link")
    writeFileSync(file, "")
    symlinkSync(file, link)
    using session = sessionOf(tinyTokens(20))
    session.save(link)
    using other = model.createSession()
    other.load(file)
    expect(other.tokens).toEqual(tinyTokens(20))
    expect(
      readdirSync(folder, { withFileTypes: true })
        .find(({ name }) => name === "link")!
        .isSymbolicLink(),
    ).toBe(true)
  })
})

describe("a file is refused", () => {
  test("that is not there, empty, a folder, or something else; nothing is lost", () => {
    using session = sessionOf(tinyTokens(10))
    expect(refusal(join(folder, "none"), session)).toBe("missing")
    writeFileSync(file, "")
    expect(refusal(file, session)).toBe("missing")
    expect(refusal(folder, session)).toBe("unknown")
    for (const text of ["b", "no", "asteroids", "some letters of somebody", "x".repeat(10_000)]) {
      writeFileSync(file, text)
      expect([text, refusal(file, session)]).toEqual([text, "unknown"])
    }
    expect(refusal(modelPath, session)).toBe("unknown")
  })

  test("of other weights with the same header, other cache types, a cache of another shape, other products", async () => {
    using session = sessionOf(tinyTokens(10))
    session.save(file)
    const others: [string, LoadOptions][] = [
      [writeTinyModel({ path: join(folder, "other.gguf"), type: "Q4_0", seed: 2 }), LOAD],
      [writeTinyModel({ path: join(folder, "wide.gguf"), type: "Q4_1" }), LOAD],
      [modelPath, { ...LOAD, typeK: "f32" }],
      [modelPath, { ...LOAD, typeV: "f32" }],
      [modelPath, { ...LOAD, typeK: "f16", typeV: "f16" }],
      [modelPath, { ...LOAD, nCtx: 100 }],
      [modelPath, { ...LOAD, prefill: "fast" }],
    ]
    for (const [path, options] of others) {
      using other = await load(path, options)
      using own = sessionOf([1], other)
      expect([options, refusal(file, own)]).toEqual([options, "model"])
    }
  })

  test("whichever bit of its header or byte of its content is wrong", () => {
    const { bytes, contentAt } = savedFile()
    const next = random(1)
    const places = [
      ...Array.from({ length: contentAt }, (_, i) => i),
      ...Array.from({ length: 300 }, () => contentAt + Math.floor(next() * (bytes.length - contentAt))),
      bytes.length - 1,
    ]
    using session = sessionOf([1, 2])
    const seen = new Set<string>()
    for (const at of places) {
      const damaged = Buffer.from(bytes)
      damaged[at]! ^= 1 << Math.floor(next() * 8)
      writeFileSync(file, damaged)
      seen.add(refusal(file, session))
    }
    expect(seen).toEqual(new Set(["damaged", "version"]))
  })

  test("however much of it is gone, or too much", () => {
    const { bytes, contentAt } = savedFile()
    using session = sessionOf([1, 2])
    for (let n = 1; n < contentAt + 100; n += n < 300 ? 1 : 97) {
      writeFileSync(file, bytes.subarray(0, n))
      expect([n, refusal(file, session)]).toEqual([n, "damaged"])
    }
    for (const n of [1, 1000, 4096]) {
      writeFileSync(file, bytes.subarray(0, bytes.length - n))
      expect(refusal(file, session)).toBe("damaged")
      writeFileSync(file, Buffer.concat([bytes, Buffer.alloc(n)]))
      expect(refusal(file, session)).toBe("damaged")
    }
  })

  test("whatever its fields say, checksums right or not", () => {
    const { bytes } = savedFile()
    const [N_FIELDS, NOTE_BYTES] = [12, 11]
    using session = sessionOf([1, 2])
    for (let field = 0; field < N_FIELDS; field++) {
      for (const value of [0n, 1n, 2n, 255n, 2n ** 31n - 1n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 64n - 1n]) {
        if (bytes.readBigUInt64LE(16 + 8 * field) === value) continue
        const changed = Buffer.from(bytes)
        changed.writeBigUInt64LE(value, 16 + 8 * field)
        writeFileSync(file, withChecksum(changed))
        if (field === NOTE_BYTES && value < 256n) {
          using other = model.createSession()
          expect(other.load(file).note).toStartWith("a note".slice(0, Number(value))) // that of another note
          continue
        }
        const problem = refusal(file, session)
        expect([field, value, ["damaged", "version", "model"].includes(problem)]).toEqual([field, value, true])
      }
    }
  })

  test("with tokens that the vocabulary lacks; any content with right checksums is safe", () => {
    const { bytes, contentAt } = savedFile()
    const tokensAt = 16 + 8 * 12 + 32
    for (const token of [-1, 200, 2 ** 31 - 1]) {
      const changed = Buffer.from(bytes)
      changed.writeInt32LE(token, tokensAt + 4 * 2)
      writeFileSync(file, withChecksum(changed))
      using session = sessionOf([1, 2])
      expect(() => session.load(file)).toThrow(`the saved session has token ${token}, which its model lacks`)
      expect(session.tokens).toEqual([1, 2])
    }
    const noise = Buffer.from(bytes)
    for (let i = contentAt; i < noise.length; i++) noise[i] = (i * 2654435761) >>> 24
    writeFileSync(file, withChecksum(noise))
    using session = model.createSession()
    session.load(file)
    session.extend([1])
    expect(session.row().logits.length).toBe(200)
  })
})

/** A sound file of ours: 40 tokens, one chunk. */
function savedFile(): { bytes: Buffer; contentAt: number } {
  using session = sessionOf(tinyTokens(40))
  session.save(file, { note: "a note" })
  const bytes = readFileSync(file)
  return { bytes, contentAt: bytes.length - session.kvBytes }
}

/** With the checksums that the header's 4096 bytes, and the content in one piece, should have. */
function withChecksum(bytes: Buffer): Buffer {
  const tokensAt = 16 + 8 * 12 + 32
  const pieceAt = tokensAt + 4 * 40
  bytes.writeBigUInt64LE(Bun.hash.xxHash3(bytes.subarray(4096)), pieceAt)
  bytes.writeBigUInt64LE(Bun.hash.xxHash3(bytes.subarray(0, 4088)), 4088)
  return bytes
}

// Where this fails because a chunk's bytes lie elsewhere or mean something else now: one more for KV_LAYOUT_VERSION in
// csrc/kv.h, and the hashes of the new version here, or files of the version before would be read as if they were new.
test("a cache's content is what its layout version stands for", () => {
  const shape = { nHeads: 4, nKvHeads: 2, headDim: 40, scale: 1 }
  const wave = (n: number, step: number) =>
    Float32Array.from({ length: n }, (_, i) => Math.fround(((i * step) % 97) / 16 - 3))
  const n = 300
  const rows = { n, q: wave(n * 160, 7), k: wave(n * 80, 11), v: wave(n * 80, 13) }
  using engine = Engine.create({ nThreads: 1 })
  using program = new AttentionProgram(engine, shape, 64, 1)
  const hashes = [Type.F16, Type.F32, Type.Q8_0].map((type) => {
    using kv = KvCache.create({ nLayers: 2, nKvHeads: 2, headDim: 40, capacity: 1000, typeK: type, typeV: type })
    program.runAll(kv, rows, [64, 1, 7])
    kv.truncate(0)
    kv.restore(300)
    const content = new Uint8Array(2 * kv.state.chunkBytes)
    kv.read(0, content)
    return [type, kv.state.version, Bun.hash.xxHash3(content).toString(16)]
  })
  expect(hashes).toEqual([
    [Type.F16, 1, "2adb753f29c86c5f"],
    [Type.F32, 1, "630e283d1cb4a83"],
    [Type.Q8_0, 1, "7e17dea4644ebaf7"],
  ])
})

test("checksums are XXH3 with 64 bits", () => {
  // https://github.com/Cyan4973/xxHash: the empty input and seed 0 of its sanity check.
  expect(Bun.hash.xxHash3(new Uint8Array(0))).toBe(0x2d06800538d394c2n)
})
