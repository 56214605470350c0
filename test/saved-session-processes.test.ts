// Oracle: whatever happens to those who write a session's file, whoever reads it finds one that some of them has saved, to
// the bit. ASDSL_FULL_COUNT=1: 200 kills instead of 6.

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load, type Model, SavedSessionError } from "../src/index.ts"
import { savedTokens } from "./saved-tokens.ts"
import { bits, writeTinyModel } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

setDefaultTimeout(300_000)

const N_KILLS = process.env.ASDSL_FULL_COUNT ? 200 : 6
const folder = mkdtempSync(join(tmpdir(), "asdsl-saved-processes-"))
const modelPath = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q4_0" })
const child = join(import.meta.dir, "saved-session-child.ts")
const file = join(folder, "sessions", "session")
let model: Model

beforeAll(async () => {
  model = await load(modelPath, { nThreads: 1, nCtx: 900 })
  mkdirSync(join(folder, "sessions"))
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

function start(first: number, rounds: number) {
  return Bun.spawn([process.execPath, child, modelPath, file, String(first), String(rounds)], {
    stdout: "pipe",
    stderr: "inherit",
  })
}

/** Waits for the first session that a child has saved. */
async function untilSaved(stdout: ReadableStream<Uint8Array>): Promise<void> {
  const reader = stdout.getReader()
  for (let text = ""; !text.includes("saved"); ) {
    const { value, done } = await reader.read()
    if (done) throw new Error(`the child ended: ${text}`)
    text += new TextDecoder().decode(value)
  }
  reader.releaseLock()
}

/** Reads the file; which child saved it. */
function firstToken(): number {
  using session = model.createSession()
  session.load(file)
  const first = session.tokens[0]!
  const tokens = [...session.tokens]
  const round = Array.from({ length: 344 }, (_, i) => i).find((i) => savedTokens(first, i).length === tokens.length)
  expect(tokens).toEqual(savedTokens(first, round!))
  session.extend([1])
  const row = bits(session.row().logits)
  using fresh = model.createSession()
  fresh.sync([...tokens, 1])
  expect(bits(fresh.row().logits)).toBe(row)
  return first
}

function besides(): string[] {
  return readdirSync(join(folder, "sessions")).filter((name) => name !== "session")
}

test("a process that is killed while it saves leaves a whole file, and what it had begun is cleared away later", async () => {
  const next = random(5)
  for (let kill = 0; kill < N_KILLS; kill++) {
    const running = start(kill % 7, 0)
    await untilSaved(running.stdout)
    await Bun.sleep(next() * 30)
    running.kill("SIGKILL")
    await running.exited
    expect(firstToken()).toBe(kill % 7)
  }
  writeFileSync(`${file}.somebody.tmp`, "")
  using session = model.createSession()
  session.sync([1])
  session.save(file)
  expect(besides()).toEqual(["session.somebody.tmp"])
})

test("processes that save to one file: each reader finds one session, whole", async () => {
  rmSync(file, { force: true })
  const children = [start(3, 60), start(4, 60)]
  await Promise.all(children.map(({ stdout }) => untilSaved(stdout)))
  const seen = new Set<number>()
  for (let isOver = false; !isOver; ) {
    isOver = children.every(({ exitCode }) => exitCode !== null)
    seen.add(firstToken())
    await Bun.sleep(1)
  }
  expect([...seen].every((first) => first === 3 || first === 4)).toBe(true)
  expect(children.map(({ exitCode }) => exitCode)).toEqual([0, 0])
})

test.skipIf(process.platform === "win32")("a disk without room: said, and the session of before stays", async () => {
  using session = model.createSession()
  session.sync(savedTokens(5, 0))
  session.save(file)
  const before = readFileSync(file)
  // A file of 64 blocks of 512 bytes at most: what is longer is refused like on a full disk.
  const limited = `trap "" XFSZ; ulimit -f 64; exec "$0" "$@"`
  const command = ["sh", "-c", limited, process.execPath, child, modelPath, file, "6", "1"]
  const said = await Bun.spawn(command, { stdout: "pipe", stderr: "inherit" }).stdout.text()
  expect(said).toBe(`system: ${file}: the session cannot be written (EFBIG)\nsaved\n`)
  expect(readFileSync(file).equals(before)).toBe(true)
  expect(besides()).toEqual(["session.somebody.tmp"])
})

test("a folder that is not there: said", () => {
  using session = model.createSession()
  session.sync([1])
  const path = join(folder, "nowhere", "session")
  expect(() => session.save(path)).toThrow(
    new SavedSessionError("system", `${path}: the session cannot be written (ENOENT)`),
  )
  expect(existsSync(path)).toBe(false)
})
