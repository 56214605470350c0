// The cache on disk is huggingface_hub's: what asdsl writes is the tree that Python's hf_hub_download leaves, and what Python
// or llama.cpp left is found. Oracle: trees written down from huggingface_hub's documentation ("Understand caching") and source
// (file_download.py); scan_cache_dir and hf_hub_download(local_files_only=True) of version 2.4.0 have accepted ours.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test"
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, relative } from "node:path"
import { CachedRepo, cachedRepos } from "../src/models/hub/cache.ts"
import { type HubOptions, resolveHubModel } from "../src/models/hub/index.ts"
import { parseRepo } from "../src/models/hub/name.ts"
import { COMMIT, HubServer, sha256 } from "./fixtures/hub-server.ts"

const base = mkdtempSync(join(tmpdir(), "asdsl-hub-cache-"))
afterAll(() => rmSync(base, { recursive: true }))

const REPO = "some-user/Model-1B-GGUF"
const content = new TextEncoder().encode("GGUF and so on")
const other = new TextEncoder().encode("GGUF and another")
const OLD = "a".repeat(40)

let folder = ""
let cache: CachedRepo
let server: HubServer
let folders = 0
beforeEach(async () => {
  folder = join(base, String(folders++))
  cache = new CachedRepo(folder, REPO)
  server = await HubServer.start(REPO, {
    "m-Q4_K_M.gguf": content,
    "sub/dir/m-Q8_0.gguf": content,
    "m-Q6_K.gguf": other,
  })
})
afterEach(async () => {
  delete process.env.HF_HUB_DISABLE_SYMLINKS
  await server[Symbol.asyncDispose]()
})

function resolve(name: string, options: HubOptions = {}): Promise<string> {
  const settings = {
    endpoint: server.endpoint,
    folder,
    token: undefined,
    offline: options.offline ?? false,
    retryMs: 2,
  }
  return resolveHubModel(parseRepo(name), options, settings)
}

/** Every file below the cache: its content, or "-> " and where a link leads. */
function tree(): Record<string, string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
  return Object.fromEntries(
    files.map(({ parentPath, name }) => {
      const path = join(parentPath, name)
      const isLink = lstatSync(path).isSymbolicLink()
      return [relative(folder, path), isLink ? `-> ${readlinkSync(path)}` : readFileSync(path, "utf8")]
    }),
  )
}

/** What Python leaves for a file. */
function leave(commit: string, path: string, bytes: Uint8Array): void {
  const pointer = cache.pointer(commit, path)
  for (const each of [cache.blob("x"), pointer]) mkdirSync(dirname(each), { recursive: true })
  writeFileSync(cache.blob(sha256(bytes)), bytes)
  symlinkSync(relative(dirname(pointer), cache.blob(sha256(bytes))), pointer)
}

function leaveMain(commit: string): void {
  mkdirSync(join(cache.folder, "refs"), { recursive: true })
  writeFileSync(join(cache.folder, "refs/main"), commit)
}

describe("what asdsl writes", () => {
  test("blobs by their sha256, links to them relative, refs/main, locks, the tag for backup programs", async () => {
    await resolve(`${REPO}:Q4_K_M`)
    await resolve(`${REPO}:Q8_0`)
    const [root, etag] = ["models--some-user--Model-1B-GGUF", sha256(content)]
    const { "CACHEDIR.TAG": tag, ...files } = tree()
    expect(tag).toStartWith("Signature: 8a477f597d28d172789f06886806bc55\n")
    expect(files).toEqual({
      [`.locks/${root}/${etag}.lock`]: "",
      [`${root}/blobs/${etag}`]: "GGUF and so on",
      [`${root}/refs/main`]: COMMIT,
      [`${root}/snapshots/${COMMIT}/m-Q4_K_M.gguf`]: `-> ../../blobs/${etag}`,
      [`${root}/snapshots/${COMMIT}/sub/dir/m-Q8_0.gguf`]: `-> ../../../../blobs/${etag}`,
    })
    expect(server.fileRequests.length).toBe(1) // the same bytes are one blob
  })

  test("without symbolic links the file itself is in the snapshot, and is found", async () => {
    process.env.HF_HUB_DISABLE_SYMLINKS = "1"
    const path = await resolve(`${REPO}:Q4_K_M`)
    expect(lstatSync(path).isFile()).toBe(true)
    expect(existsSync(cache.blob(sha256(content)))).toBe(false)
    expect(await resolve(`${REPO}:Q4_K_M`, { offline: true })).toBe(path)
    expect(cache.removeFiles(new Set(["m-Q4_K_M.gguf"]))).toBe(content.length)
    expect(existsSync(cache.folder)).toBe(false)
  })

  test("a link to a blob that is gone is made whole again", async () => {
    const path = await resolve(REPO)
    rmSync(cache.blob(sha256(content)))
    expect(await resolve(REPO)).toBe(path)
    expect(readFileSync(path).equals(content)).toBe(true)
  })

  test("a file that has lost bytes: pull fetches it again", async () => {
    const path = await resolve(REPO)
    writeFileSync(cache.blob(sha256(content)), content.subarray(0, 5))
    expect(await resolve(REPO, { update: true })).toBe(path)
    expect(readFileSync(path).equals(content)).toBe(true)
    expect(server.fileRequests.map(({ from }) => from)).toEqual([0, 0])
  })

  test("names with blanks and signs", async () => {
    server.files.set("a b/m+1 #2 100%-Q5_K_M.gguf", other)
    const path = await resolve(`${REPO}:q5_k_m`)
    expect(path).toBe(cache.pointer(COMMIT, "a b/m+1 #2 100%-Q5_K_M.gguf"))
    expect(readFileSync(path).equals(other)).toBe(true)
  })

  test("a failed download leaves main where it was", async () => {
    leave(OLD, "m-Q4_K_M.gguf", other)
    leaveMain(OLD)
    server.onFile = () => ({ status: 404 })
    expect(resolve(`${REPO}:Q8_0`)).rejects.toThrow("404")
    await resolve(`${REPO}:Q8_0`).catch(() => {})
    expect(readFileSync(join(cache.folder, "refs/main"), "utf8")).toBe(OLD)
  })
})

describe("what others wrote", () => {
  test("a snapshot of Python's: found without a request, by quant and by file", async () => {
    leave(COMMIT, "m-Q4_K_M.gguf", content)
    leave(COMMIT, "config.json", other)
    leaveMain(COMMIT)
    for (const name of [REPO, `${REPO}:q4_k_m`, `${REPO}/m-Q4_K_M.gguf`]) {
      expect(await resolve(name)).toBe(cache.pointer(COMMIT, "m-Q4_K_M.gguf"))
    }
    expect(server.requests.length).toBe(0)
  })

  test("main's snapshot counts before others, those by age; one without refs is found too", async () => {
    for (const [i, commit] of ["1", "2", "3"].map((digit) => digit.repeat(40)).entries()) {
      leave(commit, "m-Q4_K_M.gguf", content)
      utimesSync(cache.snapshot(commit), i, i)
    }
    expect(await resolve(REPO)).toBe(cache.pointer("3".repeat(40), "m-Q4_K_M.gguf"))
    leaveMain("2".repeat(40))
    expect(await resolve(REPO)).toBe(cache.pointer("2".repeat(40), "m-Q4_K_M.gguf"))
    leave("1".repeat(40), "m-Q6_K.gguf", other)
    expect(await resolve(`${REPO}:Q6_K`, { offline: true })).toBe(cache.pointer("1".repeat(40), "m-Q6_K.gguf"))
  })

  test("a split model of which a part is missing is not taken, and its other parts are not fetched again", async () => {
    const parts = [1, 2].map((i) => `s-Q4_K_S-0000${i}-of-00002.gguf`)
    server.files.set(parts[0]!, content).set(parts[1]!, other)
    leave(COMMIT, parts[0]!, content)
    leaveMain(COMMIT)
    expect(resolve(`${REPO}:Q4_K_S`, { offline: true })).rejects.toThrow("lacks 1 parts")
    expect(await resolve(`${REPO}:Q4_K_S`)).toBe(cache.pointer(COMMIT, parts[0]!))
    expect(server.fileRequests.map(({ path }) => path.split("/").at(-1))).toEqual([parts[1]])
  })

  test("an unfinished file of an older huggingface_hub is resumed", async () => {
    mkdirSync(dirname(cache.blob("x")), { recursive: true })
    writeFileSync(`${cache.blob(sha256(content))}.incomplete`, content.subarray(0, 5))
    await resolve(REPO)
    expect(server.fileRequests.map(({ from }) => from)).toEqual([5])
  })

  test("a cache that cannot be written and has the model: pull is satisfied", async () => {
    leave(COMMIT, "m-Q4_K_M.gguf", content)
    writeFileSync(join(cache.folder, "refs"), "a file where a folder should be")
    expect(await resolve(REPO, { update: true })).toBe(cache.pointer(COMMIT, "m-Q4_K_M.gguf"))
  })

  test("folders that are no models', broken links and strange names are passed over", async () => {
    for (const name of ["datasets--a--b", ".locks", "models--a", "version.txt"])
      mkdirSync(join(folder, name), { recursive: true })
    leave(COMMIT, "m-Q4_K_M.gguf", content)
    rmSync(cache.blob(sha256(content)))
    mkdirSync(join(cache.folder, "snapshots", "not-a-commit"))
    expect(cachedRepos(folder).map(({ repo }) => repo)).toEqual([REPO])
    expect(cache.commits()).toEqual([COMMIT])
    expect(cache.files(COMMIT)).toEqual([])
  })
})

describe("removing", () => {
  test("a blob goes with the last snapshot that needs it; what is left stays as it was", async () => {
    await resolve(`${REPO}:Q4_K_M`)
    await resolve(`${REPO}:Q8_0`)
    await resolve(`${REPO}:Q6_K`)
    expect(cache.removeFiles(new Set(["m-Q4_K_M.gguf"]))).toBe(0)
    expect(
      cache
        .files(COMMIT)
        .map(({ path }) => path)
        .sort(),
    ).toEqual(["m-Q6_K.gguf", "sub/dir/m-Q8_0.gguf"])
    expect(cache.removeFiles(new Set(["sub/dir/m-Q8_0.gguf"]))).toBe(content.length)
    expect(readdirSync(join(cache.folder, "blobs"))).toEqual([sha256(other)])
    expect(cache.removeFiles(new Set(["m-Q6_K.gguf"]))).toBe(other.length)
    expect(readdirSync(folder).sort()).toEqual([".locks", "CACHEDIR.TAG"])
    expect(readdirSync(join(folder, ".locks"))).toEqual([])
  })
})
