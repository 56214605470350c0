// How models of the hub are named and chosen, and where the cache is. Oracles: listings of well-known repositories (names of
// their files, written down by hand) with the file that llama.cpp takes for a tag, and the rules of huggingface_hub's
// documentation for its environment variables.

import { afterEach, beforeEach, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { homedir, tmpdir } from "node:os"
import { join } from "node:path"
import { DownloadError, ModelUnavailableError } from "../src/errors.ts"
import { chooseModel, formatHubName, isSafePath, modelLabels, parseHubName, parseRepo } from "../src/models/hub/name.ts"
import { hubSettings } from "../src/models/hub/settings.ts"
import { resolveModel } from "../src/models/index.ts"

const named = (...paths: string[]) => paths.map((path) => ({ path }))

/** Official Qwen repositories have the same model whole and split. */
const QWEN = named(
  ...[".gitattributes", "LICENSE", "README.md", "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf"],
  ...["qwen2.5-7b-instruct-fp16-00002-of-00002.gguf", "qwen2.5-7b-instruct-q2_k.gguf"],
  ...["qwen2.5-7b-instruct-q4_0.gguf", "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf"],
  ...["qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf", "qwen2.5-7b-instruct-q4_k_m.gguf"],
)
const UNSLOTH = named(
  ...["BF16/big-BF16-00002-of-00002.gguf", "BF16/big-BF16-00001-of-00002.gguf", "big-IQ4_NL.gguf", "big-Q4_K_M.gguf"],
  ...["big-Q4_K_S.gguf", "big-UD-Q4_K_XL.gguf", "imatrix_unsloth.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"],
)
const GGML_ORG = named("README.md", "small-f16.gguf", "small-Q8_0.gguf", "mmproj-small-Q8_0.gguf")

const choose = (quant: string | undefined, files: { path: string }[]) =>
  chooseModel(quant === undefined ? { repo: "u/r" } : { repo: "u/r", quant: quant.toUpperCase() }, files, "the hub")
const paths = (quant: string | undefined, files: { path: string }[]) =>
  choose(quant, files).parts.map(({ path }) => path)

function refusal(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect((error as Error).message).not.toContain("\n")
    return (error as Error).message
  }
  throw new Error("nothing was thrown")
}

describe("names", () => {
  test.each([
    ["hf:user/repo", { repo: "user/repo" }],
    ["hf:Some-User/Model-1.5B_x-GGUF:q4_k_m", { repo: "Some-User/Model-1.5B_x-GGUF", quant: "Q4_K_M" }],
    ["hf:user/repo:UD-Q4_K_XL", { repo: "user/repo", quant: "UD-Q4_K_XL" }],
    ["hf:user/repo:latest", { repo: "user/repo" }],
    ["user/repo:Q8_0", { repo: "user/repo", quant: "Q8_0" }],
    ["hf:user/repo/model.gguf", { repo: "user/repo", file: "model.gguf" }],
    ["hf:user/repo/Q4_K_M/model-00001-of-00002.gguf", { repo: "user/repo", file: "Q4_K_M/model-00001-of-00002.gguf" }],
    ["https://huggingface.co/user/repo", { repo: "user/repo" }],
    ["https://huggingface.co/user/repo/tree/main", { repo: "user/repo" }],
    ["https://huggingface.co/user/repo/blob/main/a%20b/m.gguf", { repo: "user/repo", file: "a b/m.gguf" }],
    ["https://hf.co/user/repo/resolve/main/m.gguf?download=true", { repo: "user/repo", file: "m.gguf" }],
  ])("%s", (text, name) => {
    expect(parseHubName(text)).toEqual(name)
    expect(parseHubName(formatHubName(name))).toEqual(name)
  })

  test.each(["model.gguf", "user/repo", "./user/repo:Q4_K_M", "a/b/c:d", "./hf/x", "C:\\models\\a.gguf", "smollm2"])(
    "%s is no name of the hub",
    (text) => expect(parseHubName(text)).toBeUndefined(),
  )

  test.each([
    ...["hf:", "hf:user", "hf:user/", "hf:/repo", "hf:user/repo:", "hf:user/repo/", "hf:user/repo/readme.md"],
    ...["hf:user/repo/../x.gguf", "hf:user/repo//x.gguf", "hf:../repo", "hf:user/..", "hf:user/a--b", "hf:-user/repo"],
    ...[
      "hf:user/repo:a/b",
      "hf:us er/repo",
      "hf:user/repo/a\\b.gguf",
      "https://huggingface.co/user/repo/blob/v2/m.gguf",
    ],
  ])("%s is refused with the forms that are known", (text) => {
    expect(refusal(() => parseHubName(text))).toContain("hf:user/repo:quant")
  })

  test("an address elsewhere: download it", () => {
    for (const text of [
      "https://example.com/a.gguf",
      "http://huggingface.co/u/r",
      "https://huggingface.co.evil.com/u/r",
    ]) {
      expect(refusal(() => parseHubName(text))).toContain("download it and give its path")
    }
  })

  test("-hf needs no hf: in front", () => {
    expect(parseRepo("user/repo:q8_0")).toEqual({ repo: "user/repo", quant: "Q8_0" })
  })

  test("a name that is nothing: the forms that are known", async () => {
    const error = await resolveModel("user/repo").catch((cause: Error) => cause)
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect((error as Error).message).toContain("hf:user/repo")
  })

  test("paths that would leave their folder, on any system", () => {
    for (const path of ["a", "a/b.gguf", "..a/b..", "a b"]) expect([path, isSafePath(path)]).toEqual([path, true])
    for (const path of ["", "/a", "a//b", "../a", "a/..", ".", "a\\b", "c:a", "\\\\host\\a", "a\0b"]) {
      expect([path, isSafePath(path)]).toEqual([path, false])
    }
  })
})

describe("which file of a repository", () => {
  test("Q4_K_M without a quant, the single file before the split one, every part of a split one in order", () => {
    expect(paths(undefined, QWEN)).toEqual(["qwen2.5-7b-instruct-q4_k_m.gguf"])
    expect(paths("q4_0", QWEN)).toEqual(["qwen2.5-7b-instruct-q4_0.gguf"])
    expect(paths("fp16", QWEN)).toEqual([1, 2].map((i) => `qwen2.5-7b-instruct-fp16-0000${i}-of-00002.gguf`))
    expect(paths("bf16", UNSLOTH)).toEqual([1, 2].map((i) => `BF16/big-BF16-0000${i}-of-00002.gguf`))
    expect(paths("q4_k_xl", UNSLOTH)).toEqual(["big-UD-Q4_K_XL.gguf"])
    expect(paths("UD-Q4_K_XL", UNSLOTH)).toEqual(["big-UD-Q4_K_XL.gguf"])
  })

  test("a part's path names the whole; a companion is taken by its path alone", () => {
    const file = (path: string) =>
      chooseModel({ repo: "u/r", file: path }, UNSLOTH, "the hub").parts.map(({ path }) => path)
    expect(file("BF16/big-BF16-00002-of-00002.gguf")).toEqual(paths("BF16", UNSLOTH))
    expect(file("big-q4_k_m.GGUF")).toEqual(["big-Q4_K_M.gguf"])
    expect(file("mmproj-F16.gguf")).toEqual(["mmproj-F16.gguf"])
    expect(refusal(() => choose("F16", UNSLOTH))).toContain("has no F16 of u/r")
  })

  test("without Q4_K_M: Q8_0, else the only one, else an error that lists what there is", () => {
    expect(choose(undefined, GGML_ORG)).toEqual({ parts: [{ path: "small-Q8_0.gguf" }], isExact: false })
    expect(paths(undefined, named("only.gguf", "mmproj-only.gguf"))).toEqual(["only.gguf"])
    const message = refusal(() => choose(undefined, named("a-Q5_K_M.gguf", "a-Q6_K.gguf")))
    expect(message).toContain("no Q4_K_M and no Q8_0 of u/r, it has hf:u/r:Q5_K_M, hf:u/r:Q6_K")
    expect(refusal(() => choose(undefined, named("README.md")))).toContain("no GGUF file at all")
  })

  test("a quant that is not there: the error lists what there is, by names that work", () => {
    const message = refusal(() => choose("Q3_K_L", UNSLOTH))
    const labels = modelLabels("u/r", UNSLOTH)
    expect(message).toContain(`the hub has no Q3_K_L of u/r, it has ${labels.join(", ")}`)
    for (const label of labels) {
      const { file, quant } = parseHubName(label)!
      const name = { repo: "u/r", ...(file === undefined ? { quant: quant! } : { file }) }
      expect(() => chooseModel(name, UNSLOTH, "the hub")).not.toThrow()
    }
    expect(labels).toContain("hf:u/r:BF16")
    expect(labels).toContain("hf:u/r/mmproj-BF16.gguf")
  })

  test("a quant is a whole word: Q4_K is not Q4_K_M, 4_0 not Q4_0, Q4_XS not IQ4_XS", () => {
    for (const [quant, path] of [
      ["Q4_K", "m-Q4_K_M"],
      ["4_0", "m-Q4_0"],
      ["Q4_XS", "m-IQ4_XS"],
      ["Q4_0", "m-Q4_0_4_4"],
    ]) {
      expect(refusal(() => choose(quant, named(`${path}.gguf`, "other.gguf")))).toContain(`no ${quant}`)
    }
  })

  test("several matches: the error names each", () => {
    const files = named("a-1b-Q4_K_M.gguf", "a-3b-Q4_K_M.gguf", "a-1b-Q8_0.gguf")
    expect(refusal(() => choose(undefined, files))).toContain("hf:u/r/a-1b-Q4_K_M.gguf, hf:u/r/a-3b-Q4_K_M.gguf")
    expect(paths("Q8_0", files)).toEqual(["a-1b-Q8_0.gguf"])
    expect(modelLabels("u/r", files)).toEqual(["hf:u/r/a-1b-Q4_K_M.gguf", "hf:u/r/a-3b-Q4_K_M.gguf", "hf:u/r:Q8_0"])
  })

  test("a split model with a part missing: which", () => {
    const files = named("m-Q4_K_M-00001-of-00004.gguf", "m-Q4_K_M-00003-of-00004.gguf")
    expect(refusal(() => choose("Q4_K_M", files))).toContain(
      "lacks 2 parts of m-Q4_K_M-00001-of-00004.gguf: number 2, 4",
    )
  })
})

describe("the environment", () => {
  const NAMES = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_ENDPOINT", "HF_TOKEN"]
  const MORE = [
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DOWNLOAD_TIMEOUT",
  ]
  let saved: Record<string, string | undefined> = {}
  let home = ""
  beforeEach(() => {
    saved = Object.fromEntries([...NAMES, ...MORE].map((name) => [name, process.env[name]]))
    home = mkdtempSync(join(tmpdir(), "asdsl-hub-env-"))
    set({ HF_TOKEN_PATH: join(home, "no-token") })
  })
  afterEach(() => {
    set(saved)
    rmSync(home, { recursive: true })
  })

  /** These variables and no others. */
  function set(variables: Record<string, string | undefined>): void {
    for (const name of [...NAMES, ...MORE]) {
      if (variables[name] === undefined) delete process.env[name]
      else process.env[name] = variables[name]
    }
  }

  const HF_TOKEN_PATH = "/nowhere/token"

  test.each([
    [{ HF_HUB_CACHE: "/a", HUGGINGFACE_HUB_CACHE: "/b", HF_HOME: "/c", XDG_CACHE_HOME: "/d" }, "/a"],
    [{ HUGGINGFACE_HUB_CACHE: "/b", HF_HOME: "/c", XDG_CACHE_HOME: "/d" }, "/b"],
    [{ HF_HOME: "/c", XDG_CACHE_HOME: "/d" }, "/c/hub"],
    [{ HF_HOME: "~/c" }, join(homedir(), "c/hub")],
    [{ XDG_CACHE_HOME: "/d" }, "/d/huggingface/hub"],
    [{ HF_HUB_CACHE: "", HF_HOME: "" }, join(homedir(), ".cache/huggingface/hub")],
    [{}, join(homedir(), ".cache/huggingface/hub")],
  ])("%p: the cache is %s", (variables, expected) => {
    set({ HF_TOKEN_PATH, ...variables })
    expect(hubSettings().folder).toBe(expected)
  })

  test("the token: an option, the variables, the file that a log-in leaves", () => {
    writeFileSync(join(home, "token"), "hf_from_file\n")
    const variables = { HF_HOME: home, HF_TOKEN: "hf_a", HUGGING_FACE_HUB_TOKEN: "hf_b" }
    set(variables)
    expect(hubSettings({ token: "hf_option" }).token).toBe("hf_option")
    expect(hubSettings().token).toBe("hf_a")
    set({ ...variables, HF_TOKEN: undefined })
    expect(hubSettings().token).toBe("hf_b")
    set({ HF_HOME: home })
    expect(hubSettings().token).toBe("hf_from_file")
    set({ HF_HOME: join(home, "nowhere") })
    expect(hubSettings().token).toBeUndefined()
    set({ HF_TOKEN: "hf_a\nX-Evil: 1" })
    expect(() => hubSettings()).toThrow(DownloadError)
  })

  test("offline, endpoint and time limit", () => {
    expect(hubSettings()).toMatchObject({ offline: false, endpoint: "https://huggingface.co", timeoutMs: 30_000 })
    for (const value of ["1", "ON", "yes", "True"]) {
      set({ HF_TOKEN_PATH, HF_HUB_OFFLINE: value })
      expect([hubSettings().offline, hubSettings({ offline: false }).offline]).toEqual([true, false])
    }
    set({ HF_TOKEN_PATH, HF_HUB_OFFLINE: "0", HF_ENDPOINT: "http://mirror:8080/hub/", HF_HUB_DOWNLOAD_TIMEOUT: "5" })
    expect(hubSettings()).toMatchObject({ offline: false, endpoint: "http://mirror:8080/hub", timeoutMs: 5000 })
    for (const endpoint of ["mirror", "file:///x"]) {
      set({ HF_TOKEN_PATH, HF_ENDPOINT: endpoint })
      expect(() => hubSettings()).toThrow("HF_ENDPOINT")
    }
  })
})
