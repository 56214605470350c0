// Models by name as a shell user meets them: run, pull, list, rm as processes. Oracles: the exit codes and streams that such
// a user relies on, what the server on this machine was asked for and sent, and a model that the test has written.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { CachedRepo } from "../src/models/hub/cache.ts"
import { COMMIT, HubServer, sha256 } from "./fixtures/hub-server.ts"
import { writeTinyModel } from "./tiny-model.ts"

setDefaultTimeout(60_000)

const ASDSL = [process.execPath, join(import.meta.dir, "../src/cli/main.ts")]
const TERMINAL = ["python3", join(import.meta.dir, "fixtures/terminal.py")]
const REPO = "some-user/tiny-GGUF"
const FILE = "tiny-Q4_K_M.gguf"
const MODEL = `hf:${REPO}`

const base = mkdtempSync(join(tmpdir(), "asdsl-hub-cli-"))
let content: Uint8Array<ArrayBuffer>
beforeAll(async () => {
  content = await Bun.file(writeTinyModel({ path: join(base, "tiny.gguf"), type: "Q4_0", seed: 3 })).bytes()
})
afterAll(() => rmSync(base, { recursive: true }))

let folder = ""
let cache: CachedRepo
let server: HubServer
let folders = 0
beforeEach(async () => {
  folder = join(base, String(folders++))
  cache = new CachedRepo(join(folder, "hub"), REPO)
  server = await HubServer.start(REPO, { [FILE]: content })
})
afterEach(() => server[Symbol.asyncDispose]())

/** Nothing of the user's own: neither models nor a token. */
function environment(): Record<string, string | undefined> {
  return {
    ...process.env,
    ...{ HF_HOME: folder, HF_HUB_CACHE: undefined, HUGGINGFACE_HUB_CACHE: undefined, HF_ENDPOINT: server.endpoint },
    ...{ HF_TOKEN: undefined, HUGGING_FACE_HUB_TOKEN: undefined, HF_TOKEN_PATH: undefined, HF_HUB_OFFLINE: undefined },
    ...{ ASDSL_MODELS: join(folder, "known") },
  }
}

function start(...args: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  return Bun.spawn([...ASDSL, ...args], { env: environment(), stdin: "ignore", stdout: "pipe", stderr: "pipe" })
}

async function outcome(child: Bun.Subprocess<"ignore", "pipe", "pipe">) {
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { code: await child.exited, out, err }
}

const asdsl = (...args: string[]) => outcome(start(...args))

const etag = () => sha256(content)
const pointer = () => cache.pointer(COMMIT, FILE)
const fetchedRight = () => expect(readFileSync(pointer()).equals(content)).toBe(true)

/** The server sends slowly: about 50 pieces. */
function throttle(): void {
  server.onFile = (request) => ({ ...server.file(request), piece: Math.ceil(content.length / 50) })
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(5)
}

describe("run", () => {
  const words = ["-p", "the cat", "-n", "8", "--temp", "1", "--seed", "3", "-t", "1"]

  test("-m hf:user/repo fetches and generates; --offline does the same when the server is gone", async () => {
    const path = join(base, "tiny.gguf")
    const [own, online] = [await asdsl("run", "-m", path, ...words), await asdsl("run", "-m", MODEL, ...words)]
    expect([online.code, online.out]).toEqual([0, own.out])
    expect(online.out.trim()).not.toBe("")
    expect(online.err).not.toContain("fetching")
    await server[Symbol.asyncDispose]()
    const offline = await asdsl("run", "-hf", `${REPO}:q4_k_m`, "--offline", ...words)
    expect([offline.code, offline.out]).toEqual([0, own.out])
    const byFile = await asdsl("run", "-hf", REPO, "-hff", FILE, ...words)
    expect([byFile.code, byFile.out]).toEqual([0, own.out])
  })

  test("what is not in the cache, offline: exit 1 and one sentence", async () => {
    const { code, out, err } = await asdsl("run", "-m", MODEL, "--offline", ...words)
    expect([code, out]).toEqual([1, ""])
    expect(err).toMatch(
      /^asdsl run: nothing of some-user\/tiny-GGUF is in [^\n]*asdsl pull hf:some-user\/tiny-GGUF[^\n]*\n$/,
    )
  })
})

describe("pull", () => {
  test("prints the path on stdout and nothing else in a pipe; --hf-token is the hub's", async () => {
    expect(await asdsl("pull", "-hft", "hf_given", REPO)).toEqual({ code: 0, out: `${pointer()}\n`, err: "" })
    fetchedRight()
    expect(server.requests.map(({ headers }) => headers.get("authorization"))).toEqual(
      new Array(2).fill("Bearer hf_given"),
    )
  })

  test("on a terminal: a bar with speed and the time that is left", async () => {
    throttle()
    const steps = JSON.stringify([["expect", `fetching ${MODEL} [#`], ["expect", " left"], ["end"]])
    const child = Bun.spawn([...TERMINAL, steps, ...ASDSL, "pull", MODEL], {
      ...{ env: environment(), stdin: "ignore", stdout: "pipe", stderr: "pipe" },
    })
    const { code, out, err } = await outcome(child as Bun.Subprocess<"ignore", "pipe", "pipe">)
    expect([code, err]).toEqual([0, ""])
    const { screen, exitCode } = JSON.parse(out)
    expect(exitCode).toBe(0)
    expect(screen).toMatch(/\[#+-+\] \d\.\d \/ \d\.\d MB, \d+\.\d MB\/s, 0:0\d left/)
    expect(screen).toContain(pointer())
    fetchedRight()
  })

  test("a large file is not kept in memory", async () => {
    server.files.set(FILE, new Uint8Array(160 << 20))
    const script = `
      import { resolveModel } from ${JSON.stringify(join(import.meta.dir, "../src/models/index.ts"))}
      const [before, peaks] = [process.memoryUsage.rss(), []]
      await resolveModel(${JSON.stringify(MODEL)}, { onProgress: () => void peaks.push(process.memoryUsage.rss()) })
      console.log(Math.max(...peaks) - before)`
    const child = Bun.spawn([process.execPath, "-e", script], {
      ...{ env: environment(), stdin: "ignore", stdout: "pipe", stderr: "pipe" },
    })
    const { out, err } = await outcome(child as Bun.Subprocess<"ignore", "pipe", "pipe">)
    expect(err).toBe("")
    expect(Number(out)).toBeGreaterThan(0)
    expect(Number(out)).toBeLessThan(96 << 20)
  })

  test("a process that was killed: the next one goes on from what it had", async () => {
    throttle()
    const child = start("pull", MODEL)
    await until(() => server.bytesSent > content.length / 4)
    child.kill("SIGKILL")
    await child.exited
    const kept = readFileSync(cache.partial(etag())).length
    expect(kept).toBeGreaterThan(0)
    expect(existsSync(pointer())).toBe(false)
    server.onFile = undefined
    server.bytesSent = 0
    expect((await asdsl("pull", MODEL)).code).toBe(0)
    expect(server.fileRequests.map(({ from }) => from)).toEqual([0, kept])
    expect(server.bytesSent).toBe(content.length - kept)
    fetchedRight()
  })

  test("Ctrl-C: exit 130, a sentence that says what is kept; the next one goes on", async () => {
    throttle()
    const child = start("pull", MODEL)
    await until(() => server.bytesSent > content.length / 4)
    child.kill("SIGINT")
    const { code, out, err } = await outcome(child)
    expect([code, out]).toEqual([130, ""])
    expect(err).toMatch(
      /^asdsl pull: fetching hf:some-user\/tiny-GGUF was stopped; \d\.\d of \d\.\d MB are kept, [^\n]*\n$/,
    )
    const kept = readFileSync(cache.partial(etag())).length
    server.onFile = undefined
    expect((await asdsl("pull", MODEL)).code).toBe(0)
    expect(server.fileRequests.map(({ from }) => from)).toEqual([0, kept])
    fetchedRight()
  })

  test("two processes at once: both succeed, it is downloaded once", async () => {
    throttle()
    const children = [start("pull", MODEL), start("pull", MODEL)]
    for (const child of children) expect(await outcome(child)).toEqual({ code: 0, out: `${pointer()}\n`, err: "" })
    expect(server.fileRequests.length).toBe(1)
    expect(server.bytesSent).toBe(content.length)
    fetchedRight()
  })

  test("a process that waits for one that is killed: takes over, from what that one had", async () => {
    throttle()
    const first = start("pull", MODEL)
    await until(() => server.bytesSent > 0)
    const second = start("pull", MODEL)
    await until(() => server.requests.filter(({ path }) => path.startsWith("/api/")).length === 2)
    first.kill("SIGKILL")
    expect((await outcome(second)).code).toBe(0)
    const [start0, taken] = server.fileRequests.map(({ from }) => from)
    expect([server.fileRequests.length, start0]).toEqual([2, 0])
    expect(taken).toBeGreaterThan(0)
    fetchedRight()
  })

  test.each([
    [[], 2, "which model?"],
    [["smollm3"], 1, "neither a file nor a model known by name"],
    [["hf:user"], 1, "names no model of the hub"],
    [[`${REPO}:Q8_0`], 1, `has no Q8_0 of ${REPO}, it has hf:${REPO}:Q4_K_M`],
    [["other/repo"], 1, "is not there, 127.0.0.1"],
  ])("%p: exit code and one sentence", async (args, wanted, expected) => {
    const { code, out, err } = await asdsl("pull", ...args)
    expect([code, out]).toEqual([wanted, ""])
    expect(err).toContain(expected)
    expect(err.trimEnd()).not.toContain("\n")
  })
})

describe("list and rm", () => {
  const list = async () => JSON.parse((await asdsl("list", "-o", "json")).out) as Record<string, unknown>[]

  test("nothing yet: an empty list, and on stderr how to get one", async () => {
    const { code, out, err } = await asdsl("list", "-o", "json")
    expect([code, out]).toEqual([0, "[]\n"])
    expect(err).toContain("asdsl pull smollm2")
  })

  test("known models, models of the hub, split ones, unfinished ones; each goes by its name and alone", async () => {
    const split = [1, 2].map((i) => `big-Q8_0-0000${i}-of-00002.gguf`)
    for (const path of split) server.files.set(path, content.slice(0, 1000 + Number(path.at(13))))
    server.files.set("README.md", new TextEncoder().encode("# tiny\n"))
    expect((await asdsl("pull", MODEL, `${MODEL}:q8_0`)).out.split("\n").length).toBe(3)
    mkdirSync(join(folder, "known/models"), { recursive: true })
    const known = join(folder, "known/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    writeFileSync(known, "GGUF")
    const unfinished = cache.partial("a".repeat(64))
    writeFileSync(unfinished, "12345")
    const q8 = { name: `${MODEL}:Q8_0`, bytes: 2003, path: cache.pointer(COMMIT, split[0]!), isWhole: true }
    const q4 = { name: `${MODEL}:Q4_K_M`, bytes: content.length, path: pointer(), isWhole: true }
    const rest = { name: MODEL, bytes: 5, path: unfinished, isWhole: false }
    const all = [{ name: "smollm2", bytes: 4, path: known, isWhole: true }, q8, q4, rest]
    const byName = (models: Record<string, unknown>[]) =>
      models.toSorted((a, b) => (`${a.path}` < `${b.path}` ? -1 : 1))
    expect(byName(await list())).toEqual(byName(all))
    const table = await asdsl("list")
    for (const { name, path } of all) expect(table.out).toMatch(new RegExp(`\\| ${name} +\\|.*${path}`))

    const removed = await asdsl("rm", "smollm2", `${REPO}:q8_0`)
    expect(removed).toEqual({ code: 0, out: `removed smollm2: 0.00 KiB\nremoved ${REPO}:q8_0: 1.96 KiB\n`, err: "" })
    expect(byName(await list())).toEqual(byName([q4, rest]))
    expect(readdirSync(dirname(unfinished)).length).toBe(2)
    expect((await asdsl("rm", MODEL)).code).toBe(0)
    expect(await list()).toEqual([])
    expect(existsSync(cache.folder)).toBe(false)
  })

  test("files that others keep in the same repository stay", async () => {
    expect((await asdsl("pull", MODEL)).code).toBe(0)
    const config = cache.pointer(COMMIT, "config.json")
    writeFileSync(config, "{}")
    expect((await asdsl("rm", MODEL)).code).toBe(0)
    expect([existsSync(config), existsSync(pointer()), existsSync(cache.blob(etag()))]).toEqual([true, false, false])
  })

  test("what another process is fetching is not removed under it", async () => {
    throttle()
    const child = start("pull", MODEL)
    await until(() => server.bytesSent > 0)
    const { code, err } = await asdsl("rm", MODEL)
    expect([code, err]).toEqual([1, `asdsl rm: ${MODEL} is being fetched by another process: stop that first\n`])
    expect((await outcome(child)).code).toBe(0)
    fetchedRight()
  })

  test.each([
    [["rm"], 2, "asdsl list shows them"],
    [["rm", MODEL], 1, "is not on this machine, it has no model at all"],
    [["rm", "./model.gguf"], 1, "names no model of the hub"],
    [["list", "x"], 2, 'unexpected argument "x"'],
  ])("%p: exit code and one sentence", async (args, wanted, expected) => {
    const { code, out, err } = await asdsl(...args)
    expect([code, out]).toEqual([wanted, ""])
    expect(err).toContain(expected)
    expect(err.trimEnd()).not.toContain("\n")
  })
})
