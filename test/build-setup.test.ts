// The bootstrap (scripts/setup.mjs) in a project of its own, and how `npm test` counts (scripts/test.ts).
// Oracle: a pretended npm that writes down each of its calls; reports as bun 1.4.5 wrote them.

import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readJunit } from "../scripts/junit.ts"
import { judge, TIMED } from "../scripts/test.ts"
import { projectFolder } from "../src/setup/project.ts"

const node = Bun.which("node")
const canRun = node !== null && process.platform !== "win32"
if (!canRun) console.warn("build-setup.test.ts runs the bootstrap by Node on a POSIX system: skipped on this machine")

const base = mkdtempSync(join(tmpdir(), "asdsl-setup-"))
afterAll(() => rmSync(base, { recursive: true }))

let root = ""
let roots = 0
beforeEach(() => {
  root = join(base, String(roots++))
  mkdirSync(join(root, "scripts"), { recursive: true })
  cpSync(join(projectFolder, "scripts", "setup.mjs"), join(root, "scripts", "setup.mjs"))
  writeLock("1.0.0")
})

function writeLock(version: string): void {
  const packages = {
    "": { name: "x" },
    "node_modules/bun": { version },
    "node_modules/elsewhere": { version: "1.0.0", optional: true },
  }
  writeFileSync(join(root, "package-lock.json"), JSON.stringify({ packages }))
}

/** npm-cli.js that installs a Bun, which is a program that says what it was asked to run. */
function pretendNpm(body = ""): string {
  const path = join(root, "npm-cli.js")
  writeFileSync(
    path,
    `const fs = require("node:fs")
fs.appendFileSync("calls", process.argv.slice(2).join(" ") + "\\n")
${body}
const { version } = JSON.parse(fs.readFileSync("package-lock.json", "utf8")).packages["node_modules/bun"]
fs.mkdirSync("node_modules/bun/bin", { recursive: true })
fs.writeFileSync("node_modules/bun/package.json", JSON.stringify({ version }))
fs.writeFileSync("node_modules/bun/bin/bun.exe", "#!/bin/sh\\necho bun runs $(basename $1)\\nexit 0\\n" + "#".repeat(1e6), { mode: 0o755 })
`,
  )
  return path
}

function setup(npm: string, ...words: string[]): { exitCode: number; out: string; err: string } {
  const child = Bun.spawnSync([node!, join(root, "scripts", "setup.mjs"), ...words], {
    env: { ...process.env, npm_execpath: npm },
    stdin: "ignore",
  })
  return { exitCode: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() }
}

const calls = () =>
  existsSync(join(root, "calls")) ? readFileSync(join(root, "calls"), "utf8").trim().split("\n") : []

describe.skipIf(!canRun)("scripts/setup.mjs", () => {
  test("installs the packages of the lock once and hands over to Bun, silently in a pipe", () => {
    const npm = pretendNpm()
    for (let i = 0; i < 2; i++) {
      expect(setup(npm)).toEqual({ exitCode: 0, out: "bun runs setup.ts\n", err: "" })
    }
    expect(calls().length).toBe(1)
    expect(calls()[0]).toStartWith("ci --include=dev")
    expect(setup(npm, "packages")).toEqual({ exitCode: 0, out: "", err: "" })
  })

  test("installs again where the lock has another version", () => {
    const npm = pretendNpm()
    setup(npm, "packages")
    writeLock("1.0.1")
    setup(npm, "packages")
    setup(npm, "packages")
    expect(calls().length).toBe(2)
  })

  test("runs Bun's own installation where npm left it out", () => {
    const npm = pretendNpm()
    setup(npm, "packages")
    const bun = join(root, "node_modules", "bun", "bin", "bun.exe")
    const whole = readFileSync(bun)
    writeFileSync(bun, "a stub")
    writeFileSync(join(root, "whole"), whole, { mode: 0o755 })
    writeFileSync(
      join(root, "node_modules", "bun", "install.js"),
      `require("node:fs").copyFileSync("../../whole", "bin/bun.exe")`,
    )
    expect(setup(npm).out).toBe("bun runs setup.ts\n")
    expect(calls().length).toBe(1)
  })

  test("without a network: one sentence", () => {
    const npm = pretendNpm('console.error("npm error code ENOTFOUND"); process.exit(1)')
    const { exitCode, out, err } = setup(npm)
    expect([exitCode, out]).toEqual([1, ""])
    expect(err).toMatch(/^asdsl set-up: .*npm registry cannot be reached.*\n$/)
  })

  test("any other failure of npm is shown in its own words", () => {
    const npm = pretendNpm('console.error("npm error the disk is full"); process.exit(1)')
    const { exitCode, err } = setup(npm)
    expect(exitCode).toBe(1)
    expect(err).toContain("npm error the disk is full")
  })

  test("what Bun's part ends with is what the set-up ends with", () => {
    const npm = pretendNpm()
    setup(npm, "packages")
    const bun = join(root, "node_modules", "bun", "bin", "bun.exe")
    writeFileSync(bun, readFileSync(bun, "utf8").replace("exit 0", "exit 7"))
    expect(setup(npm).exitCode).toBe(7)
  })
})

describe("Bun alone, without node_modules", () => {
  /** A program whose Worker imports a package, in a project whose set-up is `setup`. */
  const runProgram = (setup: string, ...words: string[]) => {
    mkdirSync(join(root, "src", "setup"), { recursive: true })
    for (const file of ["packages.ts", "project.ts"]) {
      cpSync(join(projectFolder, "src", "setup", file), join(root, "src", "setup", file))
    }
    writeFileSync(join(root, "scripts", "setup.mjs"), setup)
    writeFileSync(join(root, "worker.ts"), `import { text } from "@huggingface/jinja"\npostMessage(text)\n`)
    writeFileSync(
      join(root, "program.ts"),
      `import { withPackages } from "./src/setup/packages.ts"
process.exitCode = await withPackages(async () => {
  const worker = new Worker(new URL("./worker.ts", import.meta.url).href)
  const text = await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data)
    worker.onerror = reject
  })
  worker.terminate()
  console.log(text, process.argv.slice(2).join(" "), await Bun.stdin.text())
  return 5
})
`,
    )
    const child = Bun.spawnSync([process.execPath, join(root, "program.ts"), ...words], {
      cwd: root,
      stdin: new TextEncoder().encode("typed"),
    })
    return [child.exitCode, child.stdout.toString()]
  }

  const INSTALLS = `import { appendFileSync, mkdirSync, writeFileSync } from "node:fs"
appendFileSync("calls", process.argv[2] + "\\n")
mkdirSync("node_modules/@huggingface/jinja", { recursive: true })
writeFileSync("node_modules/@huggingface/jinja/index.js", "export const text = 'from the package'")
console.log("not for stdout")
`

  test("a program goes on in another process: words, stdin, stdout and exit code are its own", () => {
    for (let i = 0; i < 2; i++) {
      expect(runProgram(INSTALLS, "one", "two words")).toEqual([5, "from the package one two words typed\n"])
    }
    expect(calls()).toEqual(["packages"])
  })

  test("packages that cannot be installed end it with 1", () => {
    expect(runProgram("process.exit(9)")).toEqual([1, ""])
  })
})

const report = (cases: string) => `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="bun test" tests="4"><testsuite name="x.test.ts">${cases}</testsuite></testsuites>
`
const PASSED = `<testcase name="a &lt;b&gt; &amp; &quot;c&quot;" classname="" time="0" file="x.test.ts" assertions="1" />`
const SKIPPED = `<testcase name="s" time="0"><skipped /></testcase><testcase name="t"><skipped message="TODO" /></testcase>`
const FAILED = `<testsuite name="in"><testcase name="f"><failure message="m">skipped &lt;skipped /&gt;</failure></testcase></testsuite>`

describe("counting", () => {
  const saved = process.env.ASDSL_TEST_DATA
  afterEach(() => {
    if (saved === undefined) delete process.env.ASDSL_TEST_DATA
    else process.env.ASDSL_TEST_DATA = saved
  })

  test("a report says what passed, failed and was skipped, by name", () => {
    expect(readJunit(report(PASSED + SKIPPED + FAILED))).toEqual({
      passed: ['a <b> & "c"'],
      failed: ["f"],
      skipped: ["s", "t"],
    })
  })

  test("no report, half a report and an end without any failed test are failures", () => {
    for (const text of ["", report(PASSED).slice(0, -5)]) {
      expect(judge("test/x.test.ts", text, "SIGSEGV").failed).toEqual(["ended without a report (SIGSEGV)"])
    }
    expect(judge("test/x.test.ts", report(PASSED), 1).failed).toEqual(["ended with 1 outside of any test"])
    expect(judge("test/x.test.ts", report(PASSED), 0).failed).toEqual([])
    expect(judge("test/x.test.ts", report(FAILED), 1).failed).toEqual(["f"])
  })

  test("files that run alone are there under their names", () => {
    expect(TIMED.filter((file) => !existsSync(join(projectFolder, file)))).toEqual([])
  })

  test("a skip is a failure in test/conformance alone, and only with $ASDSL_TEST_DATA", () => {
    process.env.ASDSL_TEST_DATA = "/data"
    expect(judge("test/x.test.ts", report(SKIPPED), 0)).toEqual({ passed: [], failed: [], skipped: ["s", "t"] })
    const failed = ["s (skipped)", "t (skipped)"]
    expect(judge("test/conformance/x.test.ts", report(SKIPPED), 0)).toEqual({ passed: [], failed, skipped: [] })
    delete process.env.ASDSL_TEST_DATA
    expect(judge("test/conformance/x.test.ts", report(SKIPPED), 0).skipped).toEqual(["s", "t"])
  })
})
