// --prompt-cache of `asdsl run` and chat.ts as processes, on the default model. Oracle: the same command without the flag.

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { projectFolder } from "../src/setup/project.ts"
import { hasDefaultModel } from "./tokenizer-fixtures.ts"

setDefaultTimeout(120_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-prompt-cache-program-"))
const file = join(folder, "cache")
const CHAT = [process.execPath, join(projectFolder, "chat.ts"), "--temp", "0", "-n", "12", "-c", "1024"]
const RUN = [process.execPath, join(projectFolder, "src/cli/main.ts"), "run", "--temp", "0", "-n", "12"]

afterAll(() => rmSync(folder, { recursive: true }))

async function run(command: readonly string[], input = "") {
  const child = Bun.spawn([...command], { stdin: new Blob([input]), stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { stdout, stderr, exitCode: await child.exited }
}

describe.skipIf(!hasDefaultModel)("asdsl run", () => {
  const prompt = ["-p", `${"The quick brown fox jumps over the lazy dog. ".repeat(30)}Once upon a time`]

  test("the second run reuses all of the prompt; a damaged file is said, and replaced", async () => {
    const plain = await run([...RUN, ...prompt])
    const cached = [...RUN, ...prompt, "--prompt-cache", file]
    const first = await run(cached)
    const second = await run(cached)
    expect([first.stdout, second.stdout]).toEqual([plain.stdout, plain.stdout])
    expect(first.stderr).toMatch(/^\[ prompt \d+ tokens,/)
    expect(second.stderr).toMatch(/^\[ prompt 1 tokens \(and 30\d reused\),/)
    const bytes = readFileSync(file)
    bytes[20_000]! ^= 4
    writeFileSync(file, bytes)
    const third = await run(cached)
    expect(third.stdout).toBe(plain.stdout)
    expect(third.stderr).toStartWith(
      `${file}: the saved session is damaged in the 1048576 bytes from byte 0 of its content; `,
    )
    expect(readFileSync(file).equals(bytes)).toBe(false)
    const last = await run([...cached, "--prompt-cache-ro"])
    expect([last.stdout, last.stderr.includes("reused")]).toEqual([plain.stdout, true])
  })

  test.each([[["--prompt-cache-all"]], [["--prompt-cache-ro"]], [["--prompt-cache", ""]]])(
    "%p alone is a mistake",
    async (flag) => {
      const { stderr, exitCode } = await run([...RUN, "-p", "a", ...flag])
      expect(stderr).toMatch(/^asdsl run: --prompt-cache.* FILE$|needs the name of a file$/m)
      expect(exitCode).toBe(2)
    },
  )
})

describe.skipIf(!hasDefaultModel)("chat.ts", () => {
  test("a conversation goes on with its file", async () => {
    rmSync(file, { force: true })
    const turns = ["Name a river.", "And another one?"]
    const whole = await run(CHAT, turns.join("\n"))
    const cached = [...CHAT, "--prompt-cache", file, "--prompt-cache-all"]
    const parts = [await run(cached, turns[0]), await run([...cached, "-v"], turns[1])]
    expect(parts.map(({ stdout }) => stdout).join("")).toBe(whole.stdout)
    expect(parts[1]!.stderr).toContain("goes on with 3 messages")
    expect(parts[1]!.stderr).toMatch(/prompt \d+ tokens \(and \d+ reused\)/)
    expect(parts.map(({ exitCode }) => exitCode)).toEqual([0, 0])
  })
})
