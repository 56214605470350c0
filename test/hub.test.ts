// Downloads from the Hugging Face hub: every fault a server, a network or a disk may have, by name. Oracle: a server on this
// machine that has each fault on demand, writes down what it was asked, and knows the right bytes and their hash.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { CancelledError, DownloadError, ModelUnavailableError } from "../src/errors.ts"
import { CachedRepo } from "../src/models/hub/cache.ts"
import { type HubOptions, resolveHubModel } from "../src/models/hub/index.ts"
import { parseRepo } from "../src/models/hub/name.ts"
import { COMMIT, type HubRequest, HubServer, type Reply, sha256 } from "./fixtures/hub-server.ts"
import { random } from "./tokenizer-fixtures.ts"

const base = mkdtempSync(join(tmpdir(), "asdsl-hub-"))
afterAll(() => rmSync(base, { recursive: true }))

const REPO = "some-user/Model-1B-GGUF"
const FILE = "model-1b-q4_k_m.gguf"
const content = crypto.getRandomValues(new Uint8Array(400_000))
content.set(new TextEncoder().encode("GGUF"))
const etag = sha256(content)

let folder = ""
let cache: CachedRepo
let server: HubServer
let folders = 0
beforeEach(async () => {
  folder = join(base, String(folders++))
  cache = new CachedRepo(folder, REPO)
  server = await HubServer.start(REPO, { [FILE]: content, "README.md": new TextEncoder().encode("# hello\n") })
})
afterEach(() => server[Symbol.asyncDispose]())

/** As the program does it, but impatient and without what this machine's environment says. */
function fetchModel(options: HubOptions & { name?: string; timeoutMs?: number } = {}): Promise<string> {
  const { name = REPO, timeoutMs = 5000, token, ...rest } = options
  const settings = {
    endpoint: server.endpoint,
    folder,
    offline: options.offline ?? false,
    token,
    timeoutMs,
    retryMs: 2,
  }
  return resolveHubModel(parseRepo(name), rest, settings)
}

async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error("nothing was thrown")
}

/** A DownloadError of one sentence. */
async function failure(promise: Promise<unknown>): Promise<DownloadError> {
  const error = await rejection(promise)
  expect(error).toBeInstanceOf(DownloadError)
  expect(error.message).not.toContain("\n")
  return error as DownloadError
}

function expectRight(path: string): void {
  expect(path).toBe(join(folder, `models--some-user--Model-1B-GGUF/snapshots/${COMMIT}/${FILE}`))
  expect(readFileSync(path).equals(content)).toBe(true)
  expect(readdirSync(dirname(cache.blob(etag)))).toEqual([etag])
}

function leavePartial(bytes: Uint8Array): void {
  mkdirSync(dirname(cache.partial(etag)), { recursive: true })
  writeFileSync(cache.partial(etag), bytes)
}

const partialBytes = () => readFileSync(cache.partial(etag))
const isGone = () => expect([existsSync(cache.partial(etag)), existsSync(cache.blob(etag))]).toEqual([false, false])
const starts = () => server.fileRequests.map(({ from }) => from)

/** Every request went on where the one before it was cut; what was on its way just then may have been lost. */
function expectResumed(nRequests: number): void {
  const seen = starts()
  expect([seen.length, seen[0]]).toEqual([nRequests, 0])
  for (const [i, start] of seen.entries()) if (i > 0) expect(start).toBeGreaterThan(seen[i - 1]!)
}

describe("a sound server", () => {
  test("one listing, one request, progress up to the size; then nothing is asked any more", async () => {
    const seen: number[] = []
    const onProgress = (done: number, total: number) => {
      seen.push(done)
      expect(total).toBe(content.length)
    }
    expectRight(await fetchModel({ onProgress }))
    expect(seen.at(-1)).toBe(content.length)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
    expect(server.requests.length).toBe(2)
    expectRight(await fetchModel())
    expectRight(await fetchModel({ name: `${REPO}:q4_k_m` }))
    expectRight(await fetchModel({ offline: true }))
    expect(server.requests.length).toBe(2)
  })

  test("a file that git itself keeps is checked against git's hash", async () => {
    server.onList = () => {
      const listing = JSON.parse(server.listing().body as string)
      for (const sibling of listing.siblings) delete sibling.lfs
      return { body: JSON.stringify(listing) }
    }
    server.onFile = (request) => ({ ...server.file(request), headers: {} })
    const path = await fetchModel()
    expect(readFileSync(path).equals(content)).toBe(true)
    const child = Bun.spawnSync(["git", "hash-object", path])
    expect(readdirSync(join(cache.folder, "blobs"))).toEqual([child.stdout.toString().trim()])
  })

  test("a new commit: update asks for it, what has not changed is not fetched again", async () => {
    await fetchModel()
    server.commit = "f".repeat(40)
    const path = await fetchModel({ update: true })
    expect(path).toBe(cache.pointer(server.commit, FILE))
    expect(readFileSync(path).equals(content)).toBe(true)
    expect(server.fileRequests.length).toBe(1)
    expect(readFileSync(join(cache.folder, "refs/main"), "utf8")).toBe(server.commit)
  })

  test("all parts of a split model, and the first one's path", async () => {
    server.files.clear()
    const parts = [1, 2, 3].map((i) => `Q4_K_M/big-Q4_K_M-0000${i}-of-00003.gguf`)
    for (const [i, path] of parts.entries()) server.files.set(path, content.subarray(i * 1000, 200_000 + i))
    const totals: number[] = []
    const path = await fetchModel({ onProgress: (_, total) => totals.push(total) })
    expect(path).toBe(cache.pointer(COMMIT, parts[0]!))
    for (const part of parts) {
      expect(readFileSync(cache.pointer(COMMIT, part)).equals(server.files.get(part)!)).toBe(true)
    }
    expect(new Set(totals)).toEqual(new Set([[...server.files.values()].reduce((sum, { length }) => sum + length, 0)]))
    expect(await fetchModel({ offline: true })).toBe(path)
    expect(server.fileRequests.length).toBe(3)
  })
})

describe("resuming", () => {
  test("what an earlier run left is kept: the rest alone is asked for", async () => {
    leavePartial(content.subarray(0, 150_000))
    expectRight(await fetchModel())
    expect(starts()).toEqual([150_000])
    expect(server.bytesSent).toBe(content.length - 150_000)
  })

  test("a connection that is cut: goes on by itself from where it was", async () => {
    server.onFile = (request, nth) => (nth < 3 ? { ...server.file(request), cutAfter: 100_000 } : undefined)
    expectRight(await fetchModel())
    expectResumed(4)
  })

  test("a connection that is always cut before anything comes: an end after some tries, and what came is kept", async () => {
    leavePartial(content.subarray(0, 150_000))
    server.onFile = (request) => ({ ...server.file(request), cutAfter: 0 })
    const { message } = await failure(fetchModel())
    expect(message).toContain("cannot be reached, the connection broke off")
    expect(starts()).toEqual(new Array(6).fill(150_000))
    expect(partialBytes().equals(content.subarray(0, 150_000))).toBe(true)
  })

  test("a server that ignores ranges (200 instead of 206): starts over, right", async () => {
    leavePartial(content.subarray(0, 150_000))
    server.onFile = (request) => server.file({ ...request, from: 0 })
    expectRight(await fetchModel())
    expect(starts()).toEqual([150_000])
  })

  test("a part that is damaged: found by the hash, deleted, fetched again", async () => {
    leavePartial(new Uint8Array(150_000))
    expectRight(await fetchModel())
    expect(starts()).toEqual([150_000, 0])
  })

  test("a part that is larger than the file: deleted, fetched again", async () => {
    leavePartial(new Uint8Array(content.length + 1))
    expectRight(await fetchModel())
    expect(starts()).toEqual([0])
  })

  test("a part that is the whole file: no request for it", async () => {
    leavePartial(content)
    expectRight(await fetchModel())
    expect(starts()).toEqual([])
  })

  test("416 for a part: starts over once", async () => {
    leavePartial(content.subarray(0, 150_000))
    server.onFile = ({ from }) => (from > 0 ? { status: 416 } : undefined)
    expectRight(await fetchModel())
    expect(starts()).toEqual([150_000, 0])
  })

  test("416 always: an error", async () => {
    leavePartial(content.subarray(0, 150_000))
    server.onFile = () => ({ status: 416 })
    expect((await failure(fetchModel())).status).toBe(416)
    expect(starts()).toEqual([150_000, 0])
  })

  test("another range than was asked for: refused, nothing of it is written", async () => {
    leavePartial(content.subarray(0, 150_000))
    server.onFile = (request) => server.file({ ...request, from: 100 })
    expect((await failure(fetchModel())).message).toContain("asked for bytes from 150000 on")
    expect(partialBytes().equals(content.subarray(0, 150_000))).toBe(true)
  })

  test("another file under the same name in between (ETag): the new one is fetched, nothing of the old one is in it", async () => {
    const old = content.map((byte) => byte ^ 1)
    server.files.set(FILE, old)
    server.onFile = (request, nth) => {
      if (nth > 0) return undefined
      const reply = { ...server.file(request), cutAfter: 100_000 }
      server.files.set(FILE, content)
      return reply
    }
    const path = await fetchModel()
    expect(readFileSync(path).equals(content)).toBe(true)
    expect(starts()).toEqual([0, expect.any(Number), 0])
    expect(readdirSync(join(cache.folder, "blobs"))).toEqual([etag])
  })

  test("Ctrl-C: what came is kept, the message says so, the next call goes on", async () => {
    server.onFile = (request) => ({ ...server.file(request), piece: 20_000 })
    const controller = new AbortController()
    const onProgress = (done: number) => done >= 100_000 && controller.abort()
    const error = await rejection(fetchModel({ onProgress, signal: controller.signal }))
    expect(error).toBeInstanceOf(CancelledError)
    expect(error.message).toMatch(/0\.1 of 0\.4 MB are kept, the same command goes on/)
    const kept = partialBytes().length
    expect(kept).toBeGreaterThanOrEqual(100_000)
    server.onFile = undefined
    expectRight(await fetchModel())
    expect(starts()).toEqual([0, kept])
  })
})

describe("a server that lies", () => {
  test("wrong bytes: the file is deleted, the error has both hashes", async () => {
    const wrong = content.map((byte, i) => (i === 1234 ? byte ^ 1 : byte))
    server.onFile = () => ({ body: wrong })
    const { message } = await failure(fetchModel())
    expect(message).toContain(`${sha256(wrong)} instead of ${etag}; it was deleted`)
    expect(starts()).toEqual([0])
    isGone()
  })

  test.each([
    [
      "a length that is too small",
      { length: 1000, body: content.subarray(0, 1000) },
      "sends 1000 bytes, the hub lists 400000",
    ],
    ["a sign-in page with status 200", { body: "<html>please pay</html>" }, "sends 23 bytes, the hub lists 400000"],
    [
      "a range of a file of another size",
      { status: 206, headers: { "Content-Range": "bytes 0-99/100" } },
      "sends 100 bytes",
    ],
  ] as [string, Reply, string][])("%s: refused before anything is written", async (_, reply, expected) => {
    server.onFile = () => reply
    expect((await failure(fetchModel())).message).toContain(expected)
    expect(partialBytes().length).toBe(0)
  })

  test("a length that is too large for what comes, always: what came is kept and said", async () => {
    server.onFile = (request) => {
      const reply = server.file(request)
      return {
        ...reply,
        length: content.length - request.from,
        body: (reply.body as Uint8Array).subarray(0, 1000),
        cutAfter: 1000,
      }
    }
    const { message } = await failure(fetchModel())
    expect(message).toContain("cannot be reached, the connection broke off")
    expectResumed(6)
    expect(partialBytes().equals(content.subarray(0, partialBytes().length))).toBe(true)
  })

  test("no length and a body that ends early: goes on; one that is too long: refused", async () => {
    server.onFile = (request, nth) => {
      const reply = { ...server.file(request), length: null }
      return nth === 0 ? { ...reply, body: content.subarray(0, 70_000) } : reply
    }
    expectRight(await fetchModel())
    expectResumed(2)
    rmSync(folder, { recursive: true })
    server.onFile = () => ({ length: null, body: Buffer.concat([content, content]) })
    expect((await failure(fetchModel())).message).toContain("more than 400000 bytes")
    expect(partialBytes().length).toBe(0)
  })

  test.each([
    ["no JSON", { body: "<html>welcome to this hotel</html>" }, "no sign-in page"],
    ["no commit", { body: JSON.stringify({ sha: "main", siblings: [] }) }, "no commit"],
    ["paths out of the cache", listOf("../../evil-q4_k_m.gguf"), "no GGUF file at all"],
    ["an etag that is a path", listOf("a-q4_k_m.gguf", "../../x"), "without sizes and hashes"],
  ])("a listing with %s: refused, nothing is written", async (_, reply, expected) => {
    server.onList = () => reply
    const error = await rejection(fetchModel())
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain(expected)
    expect(existsSync(folder)).toBe(false)
  })
})

function listOf(rfilename: string, sha = etag): Reply {
  return {
    body: JSON.stringify({
      sha: COMMIT,
      siblings: [{ rfilename, size: 5, blobId: sha, lfs: { sha256: sha, size: 5 } }],
    }),
  }
}

test("any mixture of faults: the right file or an error, never another file; the right one once the faults are over", async () => {
  const next = random(20)
  const wrong = content.map((byte, i) => (i % 50_000 === 7 ? byte ^ 1 : byte))
  const fault = (request: HubRequest): Reply | undefined => {
    const cutAfter = Math.floor(next() * 250_000)
    const whole = server.file({ ...request, from: 0 })
    const rest = server.file(request)
    const faults: (Reply | undefined)[] = [
      { ...rest, cutAfter },
      { ...whole, cutAfter },
      { ...rest, cutAfter, length: null },
      { ...rest, body: wrong.subarray(request.from), cutAfter },
      { ...whole, body: wrong },
      { status: 503 },
      { status: 416 },
      { ...rest, length: cutAfter, body: content.subarray(0, cutAfter) },
      { ...rest, stallAfter: cutAfter },
      undefined,
    ]
    return faults[Math.floor(next() * faults.length)]
  }
  let nFailed = 0
  for (let round = 0; round < 30; round++) {
    server.onFile = fault
    const outcome = await fetchModel({ timeoutMs: 60 }).catch((error: Error) => error)
    if (outcome instanceof Error) {
      nFailed++
      expect(outcome).toBeInstanceOf(DownloadError)
      expect([existsSync(cache.blob(etag)), existsSync(cache.pointer(COMMIT, FILE))]).toEqual([false, false])
      if (round % 2 === 0) continue // the next round finds what this one left
    }
    server.onFile = undefined
    expectRight(await fetchModel())
    rmSync(folder, { recursive: true })
  }
  expect(nFailed).toBeGreaterThan(0)
  expect(nFailed).toBeLessThan(30)
}, 60_000)

describe("a server that refuses", () => {
  test.each([
    [401, "RepoNotFound", undefined, ["is the name right?", "HF_TOKEN"]],
    [401, "GatedRepo", undefined, ["accept its terms", "HF_TOKEN"]],
    [401, "", "hf_secret", ["accept its terms", "the one in use may not"]],
    [403, "GatedRepo", "hf_secret", ["accept its terms", "the one in use may not"]],
    [403, "", "hf_secret", ["access is refused", "HF_TOKEN"]],
    [404, "RepoNotFound", undefined, ["is not there", "is the name right?"]],
    [410, "", undefined, ["refused", "410"]],
  ])("%d %s: one request, a sentence that says what to do", async (status, code, token, expected) => {
    server.onList = () => ({ status, headers: { "X-Error-Code": code }, body: '{"error":"no"}' })
    const error = await failure(fetchModel(token === undefined ? {} : { token }))
    expect(error.status).toBe(status)
    for (const part of [REPO, String(status), ...expected]) expect(error.message).toContain(part)
    expect(error.message).not.toContain("hf_secret")
    expect(server.requests.length).toBe(1)
    expect(existsSync(folder)).toBe(false)
  })

  test("404 for a file that the listing has", async () => {
    server.onFile = () => ({ status: 404 })
    expect(await failure(fetchModel())).toMatchObject({ status: 404 })
  })

  test.each([408, 429, 500, 502, 503, 504])("%d some times, then the file: goes on", async (status) => {
    server.onList = (_, nth) => (nth < 2 ? { status } : undefined)
    server.onFile = (request, nth) => {
      if (nth % 2 === 1) return { status }
      return nth < 4 ? { ...server.file(request), cutAfter: 100_000 } : undefined
    }
    expectRight(await fetchModel())
  })

  test("500 always: an end after some tries", async () => {
    server.onFile = () => ({ status: 500 })
    expect(await failure(fetchModel())).toMatchObject({ status: 500 })
    expect(server.fileRequests.length).toBe(6)
  })

  test("429 with Retry-After: waits that long, and not for an hour", async () => {
    server.onFile = (_, nth) => (nth === 0 ? { status: 429, headers: { "Retry-After": "1" } } : undefined)
    const start = performance.now()
    expectRight(await fetchModel())
    expect(performance.now() - start).toBeGreaterThan(950)
    rmSync(folder, { recursive: true })
    const later = new Date(Date.now() + 3_600_000).toUTCString()
    for (const headers of [
      { "Retry-After": "3600" },
      { "Retry-After": later },
      { RateLimit: '"api";r=0;t=3600' },
    ] as Record<string, string>[]) {
      server.onList = () => ({ status: 429, headers })
      const error = await failure(fetchModel())
      expect(error).toMatchObject({ status: 429 })
      expect(error.message).toMatch(/try again in (3600|359\d) s/)
    }
  })
})

describe("redirects", () => {
  test("to another host: the file comes from there, the token does not go there", async () => {
    await using other = await HubServer.start("cdn/blobs", { [FILE]: content })
    other.onFile = (request) => ({
      ...other.file(request),
      headers: { ...other.file(request).headers, ETag: '"of-the-cdn"' },
    })
    server.onFile = () => ({
      status: 302,
      headers: {
        Location: `${other.endpoint}/cdn/blobs/resolve/x/${FILE}`,
        "X-Linked-Etag": `"${etag}"`,
      },
    })
    leavePartial(content.subarray(0, 150_000))
    expectRight(await fetchModel({ token: "hf_secret" }))
    expect(server.requests.map(({ headers }) => headers.get("authorization"))).toEqual([
      "Bearer hf_secret",
      "Bearer hf_secret",
    ])
    expect(other.requests.map(({ headers, from }) => [headers.get("authorization"), from])).toEqual([
      [undefined, 150_000],
    ])
  })

  test("on the same host, relative: followed with the token", async () => {
    const path = (suffix: string) => `/${REPO}-renamed${suffix}`
    server.onFile = (request) => {
      if (request.path.startsWith(path("/"))) return undefined
      return { status: 307, headers: { Location: request.path.replace(`/${REPO}/`, path("/")) } }
    }
    expectRight(await fetchModel({ token: "hf_secret" }))
    expect(server.fileRequests.map(({ headers }) => headers.get("authorization"))).toEqual(
      new Array(2).fill("Bearer hf_secret"),
    )
  })

  test("in a circle: an end", async () => {
    server.onFile = (request) => ({ status: 302, headers: { Location: request.path } })
    expect((await failure(fetchModel())).message).toContain("redirects in a circle")
    expect(server.fileRequests.length).toBe(11)
  })

  test("to something that is no address of the web: refused", async () => {
    server.onFile = () => ({ status: 302, headers: { Location: "file:///etc/passwd" } })
    expect((await failure(fetchModel())).message).toContain("file:///etc/passwd")
  })
})

describe("a slow or silent network", () => {
  test("a throttled server takes longer than the time limit for silence: no fault", async () => {
    server.onFile = (request) => ({ ...server.file(request), piece: 10_000 })
    expectRight(await fetchModel({ timeoutMs: 300 }))
    expect(starts()).toEqual([0])
  })

  test("a server that stalls: given up after the time limit, then it goes on", async () => {
    server.onFile = (request, nth) => (nth === 0 ? { ...server.file(request), stallAfter: 100_000 } : undefined)
    expectRight(await fetchModel({ timeoutMs: 200 }))
    expectResumed(2)
  })

  test("a server that always stalls: an end that says what to do", async () => {
    server.onFile = (request) => ({ ...server.file(request), stallAfter: 0 })
    const { message } = await failure(fetchModel({ timeoutMs: 100 }))
    expect(message).toContain("has sent nothing for 0.1 s")
    expect(message).toContain("HF_HUB_DOWNLOAD_TIMEOUT")
  })

  test("no network: the sentence says so and names --offline", async () => {
    const { endpoint } = server
    await server[Symbol.asyncDispose]()
    const settings = { endpoint, folder, offline: false, token: undefined, timeoutMs: 1000, retryMs: 2 }
    const { message } = await failure(resolveHubModel(parseRepo(REPO), {}, settings))
    expect(message).toContain("the connection was refused: is there a network?")
    const nowhere = { ...settings, endpoint: "http://hub.invalid" }
    const unknown = await failure(resolveHubModel(parseRepo(REPO), {}, nowhere))
    expect(unknown.message).toContain("hub.invalid cannot be reached")
  })

  test("no network, and a model that stands in for the default is in the cache: that one", async () => {
    server.files.clear()
    server.files.set("model-Q8_0.gguf", content)
    const path = await fetchModel()
    expect(path).toEndWith("model-Q8_0.gguf")
    for (const reply of [{ cutAfter: 0, body: "x" }, { status: 503 }, { status: 429 }]) {
      server.onList = () => reply
      expect(await fetchModel()).toBe(path)
    }
    server.onList = () => ({ status: 404 })
    expect(await failure(fetchModel())).toMatchObject({ status: 404 })
  })

  test("offline: no request, and a sentence with what the cache has", async () => {
    const error = await rejection(fetchModel({ offline: true }))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain(`asdsl pull hf:${REPO}`)
    await fetchModel()
    const before = server.requests.length
    const other = await rejection(fetchModel({ offline: true, name: `${REPO}:Q8_0` }))
    expect(other.message).toContain(`no Q8_0 of ${REPO}, it has hf:${REPO}:Q4_K_M`)
    expect(server.requests.length).toBe(before)
  })
})

describe("a disk that refuses", () => {
  test("a model that is larger than the room that is left, all parts together: refused with both numbers, before any byte", async () => {
    const { bavail, bsize } = statfsSync(base)
    const size = Math.round(0.7 * bavail * bsize)
    const parts = [1, 2].map((i) => ({ rfilename: `m-0000${i}-of-00002.gguf`, size, blobId: String(i).repeat(40) }))
    server.onList = () => ({ body: JSON.stringify({ sha: COMMIT, siblings: parts }) })
    const { message } = await failure(fetchModel())
    expect(message).toMatch(/no room in .*: \d+\.\d MB are still to come and \d+\.\d MB are free/)
    expect(message).toContain(`${((2 * size) / 1e6).toFixed(1)} MB are still to come`)
    expect(server.fileRequests.length).toBe(0)
    expect(existsSync(folder)).toBe(false)
  })

  test("a disk that is full half-way: the sentence says so, no blob is there", async () => {
    mkdirSync(dirname(cache.partial(etag)), { recursive: true })
    symlinkSync("/dev/full", cache.partial(etag))
    expect((await failure(fetchModel())).message).toContain("is full; what came is kept, make room")
    expect(existsSync(cache.blob(etag))).toBe(false)
    expect(existsSync(cache.pointer(COMMIT, FILE))).toBe(false)
  })

  test("a folder that cannot be written: named, with HF_HUB_CACHE", async () => {
    writeFileSync(folder, "a file")
    const { message } = await failure(fetchModel())
    for (const part of [folder, "HF_HUB_CACHE"]) expect(message).toContain(part)
  })

  test("a folder without the right to write: named, with HF_HUB_CACHE", async () => {
    const isRoot = process.getuid?.() === 0 // who may write everywhere but in the kernel's own folders
    if (!isRoot) mkdirSync(folder, { mode: 0o500 })
    else folder = "/sys/asdsl"
    const { message } = await failure(fetchModel())
    for (const part of [folder, "HF_HUB_CACHE"]) expect(message).toContain(part)
  })
})
