// The engine's library is built when a source's content changed and never else, by zig of the right version alone, by one
// process at a time. Oracle: a pretended zig that writes down each of its calls.

import { afterAll, beforeEach, describe, expect, test } from "bun:test"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { BuildError } from "../src/errors.ts"
import { buildIfStale, ensureLibrary } from "../src/native/build.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig, zigEnvironment, zigVersion } from "../src/setup/zig.ts"

const isPosix = process.platform !== "win32"
if (!isPosix) console.warn("build.test.ts pretends to be zig with shell scripts: skipped on this system")

const base = mkdtempSync(join(tmpdir(), "asdsl-build-"))
afterAll(() => rmSync(base, { recursive: true }))

const LIBRARY = process.platform === "darwin" ? "libasdsl.dylib" : "libasdsl.so"

let root = ""
let projects = 0
beforeEach(() => {
  root = join(base, String(projects++))
  mkdirSync(join(root, "csrc", "kernels"), { recursive: true })
  for (const folder of ["platform", "test"]) mkdirSync(join(root, "csrc", folder))
  writeFileSync(join(root, "build.zig"), 'const zig_version = "9.9.9";\n')
  for (const file of ["a.c", "a.h", "kernels/k.c", "test/t.c"]) writeFileSync(join(root, "csrc", file), "one\n")
})

/** A program that answers `version`, else logs its call, does `body` and writes the library below the prefix. */
function pretendZig(body = "", version = "9.9.9", name = "zig"): string {
  return program(
    name,
    `[ "$1" = version ] && { echo ${version}; exit 0; }
echo "$@" >> "${root}/calls"
${body}
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/lib" && cat ${root}/csrc/a.c > "$2/lib/${LIBRARY}"`,
  )
}

function program(name: string, script: string): string {
  const path = join(root, name)
  writeFileSync(path, `#!/bin/sh\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

function calls(): number {
  const log = join(root, "calls")
  return existsSync(log) ? readFileSync(log, "utf8").trim().split("\n").length : 0
}

function leftOver(): string[] {
  return readdirSync(join(root, "zig-out"), { recursive: true, encoding: "utf8" }).filter((n) => n.includes("partial"))
}

const thrown = (job: () => unknown): Error => {
  try {
    job()
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error("nothing was thrown")
}

describe.skipIf(!isPosix)("buildIfStale", () => {
  const neverAsked = () => {
    throw new Error("asked for zig with nothing to build")
  }

  test("builds once, and does not look for zig again", () => {
    const zig = pretendZig()
    const library = buildIfStale(root, () => zig)
    expect(library).toBe(join(root, "zig-out", "lib", LIBRARY))
    expect(readFileSync(library, "utf8")).toBe("one\n")
    for (let i = 0; i < 3; i++) expect(buildIfStale(root, neverAsked)).toBe(library)
    expect([calls(), leftOver()]).toEqual([1, []])
  })

  test("a file that is new in time but not in content is no change", () => {
    const zig = pretendZig()
    buildIfStale(root, () => zig)
    utimesSync(join(root, "csrc", "a.c"), 1, 1)
    buildIfStale(root, neverAsked)
    buildIfStale(root, neverAsked)
    expect(calls()).toBe(1)
  })

  test.each([
    "build.zig",
    "csrc/a.c",
    "csrc/a.h",
    "csrc/kernels/k.c",
    "csrc/new.c",
    "csrc/platform/new.c",
    "csrc/kernels/new.h",
  ])("a change of %s builds again", (file) => {
    const zig = pretendZig()
    buildIfStale(root, () => zig)
    writeFileSync(join(root, file), "two\n")
    buildIfStale(root, () => zig)
    buildIfStale(root, neverAsked)
    expect(calls()).toBe(2)
  })

  test("a source that is gone, a library that is gone and a damaged stamp build again; C tests do not", () => {
    const zig = pretendZig()
    const library = buildIfStale(root, () => zig)
    writeFileSync(join(root, "csrc", "test", "t.c"), "two\n")
    buildIfStale(root, neverAsked)
    rmSync(join(root, "csrc", "kernels", "k.c"))
    buildIfStale(root, () => zig)
    rmSync(library)
    buildIfStale(root, () => zig)
    writeFileSync(join(root, "zig-out", "lib", "build-stamp.json"), "{")
    buildIfStale(root, () => zig)
    buildIfStale(root, neverAsked)
    expect(calls()).toBe(4)
  })

  test("a build that fails says what the compiler said and leaves the library as it was", () => {
    const good = pretendZig()
    const library = buildIfStale(root, () => good)
    writeFileSync(join(root, "csrc", "a.c"), "two\n")
    const bad = pretendZig("echo 'a.c:7: this is no C' >&2; exit 3", "9.9.9", "bad-zig")
    const error = thrown(() => buildIfStale(root, () => bad))
    expect(error).toBeInstanceOf(BuildError)
    expect(error.message).toContain("exit code 3")
    expect(error.message).toContain("a.c:7: this is no C")
    expect(readFileSync(library, "utf8")).toBe("one\n")
    expect(leftOver()).toEqual([])
    buildIfStale(root, () => good)
    expect(readFileSync(library, "utf8")).toBe("two\n")
  })

  test("a source that changes during the build makes the library stale", () => {
    const zig = pretendZig(`[ -e ${root}/once ] || { touch ${root}/once; echo late > ${root}/csrc/kernels/k.c; }`)
    buildIfStale(root, () => zig)
    buildIfStale(root, () => zig)
    buildIfStale(root, neverAsked)
    expect(calls()).toBe(2)
  })

  const child = (zig: string) => {
    const module = join(projectFolder, "src", "native", "build.ts")
    const script = `import { buildIfStale } from "${module}"; console.log(buildIfStale("${root}", () => "${zig}"))`
    return Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" })
  }

  test("four processes at once: one builds, all get the library", async () => {
    const zig = pretendZig("sleep 0.5")
    const children = [1, 2, 3, 4].map(() => child(zig))
    const paths = await Promise.all(children.map(async (each) => (await new Response(each.stdout).text()).trim()))
    expect(new Set(paths)).toEqual(new Set([join(root, "zig-out", "lib", LIBRARY)]))
    expect(calls()).toBe(1)
  }, 30_000)

  test("a process that was killed while it built is in nobody's way", async () => {
    const slow = pretendZig("sleep 20", "9.9.9", "slow-zig")
    const killed = child(slow)
    while (calls() === 0) await Bun.sleep(10)
    killed.kill("SIGKILL")
    await killed.exited
    const zig = pretendZig()
    expect(existsSync(buildIfStale(root, () => zig))).toBe(true)
    expect(leftOver()).toEqual([])
  }, 30_000)
})

describe.skipIf(!isPosix)("findZig", () => {
  const saved = { ZIG: process.env.ZIG, PATH: process.env.PATH, PYTHON: process.env.PYTHON }
  const withEnvironment = <T>(environment: Partial<typeof saved>, job: () => T): T => {
    try {
      for (const name of ["ZIG", "PATH", "PYTHON"] as const) setVariable(name, environment[name] ?? saved[name])
      return job()
    } finally {
      for (const name of ["ZIG", "PATH", "PYTHON"] as const) setVariable(name, saved[name])
    }
  }
  const setVariable = (name: string, value: string | undefined) => {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }

  test("$ZIG comes first", () => {
    const zig = pretendZig("", "9.9.9", "my-zig")
    expect(withEnvironment({ ZIG: zig }, () => findZig(root))).toBe(zig)
  })

  test("$ZIG of another version, or that is no zig, is refused by name", () => {
    const old = pretendZig("", "0.14.0", "old-zig")
    const error = thrown(() => withEnvironment({ ZIG: old }, () => findZig(root)))
    expect(error).toBeInstanceOf(BuildError)
    for (const part of [old, "0.14.0", "9.9.9"]) expect(error.message).toContain(part)
    const none = thrown(() => withEnvironment({ ZIG: join(root, "nowhere") }, () => findZig(root)))
    expect(none).toBeInstanceOf(BuildError)
    expect(none.message).toContain("does not run")
  })

  test("the project's own folder comes before PATH, and PATH before an installation", () => {
    const onPath = pretendZig()
    const environment = { ZIG: "", PATH: `${root}:/usr/bin:/bin`, PYTHON: join(root, "nowhere") }
    expect(withEnvironment(environment, () => findZig(root))).toBe(onPath)
    mkdirSync(join(root, ".tools", "ziglang", "ziglang"), { recursive: true })
    const own = pretendZig("", "9.9.9", join(".tools", "ziglang", "ziglang", "zig"))
    expect(withEnvironment(environment, () => findZig(root))).toBe(own)
  })

  test("is installed whole, once, where the one on PATH is another version", () => {
    pretendZig("", "0.11.0")
    const python = program(
      "python3",
      `echo "$@" >> ${root}/calls
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/ziglang" "$2/ziglang-9.9.9.dist-info"
printf '#!/bin/sh\\necho 9.9.9\\n' > "$2/ziglang/zig" && chmod +x "$2/ziglang/zig"`,
    )
    const environment = { ZIG: "", PATH: `${root}:/usr/bin:/bin`, PYTHON: python }
    const own = join(root, ".tools", "ziglang", "ziglang", "zig")
    for (let i = 0; i < 2; i++) expect(withEnvironment(environment, () => findZig(root))).toBe(own)
    expect(calls()).toBe(1)
    expect(readFileSync(join(root, "calls"), "utf8")).toContain("ziglang==9.9.9")
    expect(readdirSync(join(root, ".tools")).sort()).toEqual(["ziglang", "ziglang.lock"])
  })

  test.each([
    ["no network", "echo 'WARNING: Retrying (Retry(total=1)): NewConnectionError' >&2; exit 1", "network"],
    ["no pip", "echo 'python3: No module named pip' >&2; exit 1", "python3-pip"],
    ["no such version", "echo 'ERROR: No matching distribution' >&2; exit 1", "No matching"],
  ])("%s: one sentence, and nothing half installed", (_, script, expected) => {
    pretendZig("", "0.11.0")
    const python = program("python3", script)
    const environment = { ZIG: "", PATH: `${root}:/usr/bin:/bin`, PYTHON: python }
    const error = thrown(() => withEnvironment(environment, () => findZig(root)))
    expect(error).toBeInstanceOf(BuildError)
    for (const part of [expected, "ziglang 9.9.9", "0.11.0"]) expect(error.message).toContain(part)
    expect(error.message.split("\n").length).toBe(1)
    expect(readdirSync(join(root, ".tools"))).toEqual(["ziglang.lock"])
  })

  test("without Python the sentence says so", () => {
    const environment = { ZIG: "", PATH: "/nowhere", PYTHON: join(root, "nowhere") }
    const error = thrown(() => withEnvironment(environment, () => findZig(root)))
    expect(error).toBeInstanceOf(BuildError)
    expect(error.message).toContain("is not installed")
  })
})

describe("build.zig", () => {
  test("refuses a zig that it is not written for, by both names", () => {
    const real = zigVersion()
    const source = readFileSync(join(projectFolder, "build.zig"), "utf8")
    writeFileSync(join(root, "build.zig"), source.replace(`"${real}"`, '"0.1.2"'))
    const child = Bun.spawnSync([findZig(), "build"], { cwd: root, env: zigEnvironment() })
    expect(child.exitCode).not.toBe(0)
    expect(child.stderr.toString()).toContain(`asdsl is built by zig 0.1.2 exactly, and this is zig ${real}`)
  }, 60_000)
})

describe("ensureLibrary", () => {
  test("$ASDSL_LIBRARY is taken as it is, or missed by name", () => {
    const saved = process.env.ASDSL_LIBRARY
    try {
      process.env.ASDSL_LIBRARY = import.meta.path
      expect(ensureLibrary()).toBe(import.meta.path)
      process.env.ASDSL_LIBRARY = join(root, "nowhere.so")
      const error = thrown(ensureLibrary)
      expect(error).toBeInstanceOf(BuildError)
      expect(error.message).toContain("nowhere.so")
    } finally {
      if (saved === undefined) delete process.env.ASDSL_LIBRARY
      else process.env.ASDSL_LIBRARY = saved
    }
  })
})
