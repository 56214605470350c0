// Oracle: what each example says that it shows. An example that no test knows fails.

import { expect, setDefaultTimeout, test } from "bun:test"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { projectFolder } from "../src/setup/project.ts"
import { hasDefaultModel } from "./tokenizer-fixtures.ts"

setDefaultTimeout(120_000)

const folder = join(projectFolder, "examples")

const EXPECTED: Readonly<Record<string, RegExp>> = {
  "quick-start.ts": /^[^\n]*Paris[^\n]*\n$/,
  "stop-a-reply.ts":
    /\n\[cancelled after \d+ tokens, the first one after \d+ ms\]\n[\s\S]+\n\[\d+ of \d+ prompt tokens were there already\]\n$/,
  "next-token.ts":
    /^ [ \d.]+ % {2}" cold"\n( .* %.*\n){4}The opposite of hot is cold.*\nThe opposite of hot is not.*\n$/,
}

test("each example has its test", () => {
  expect(readdirSync(folder).sort()).toEqual(Object.keys(EXPECTED).sort())
})

test.skipIf(!hasDefaultModel).each(Object.entries(EXPECTED))("%s", async (name, expected) => {
  const child = Bun.spawn([process.execPath, join(folder, name)], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  expect({ stderr, exitCode: await child.exited }).toEqual({ stderr: "", exitCode: 0 })
  expect(stdout).toMatch(expected)
})
