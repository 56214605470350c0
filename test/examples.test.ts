// Oracle: what each example says that it shows. An example that no test knows fails. The default model calls no tools: for
// tools.ts its replies are written here.

import { expect, setDefaultTimeout, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { ask, tools } from "../examples/tools.ts"
import { load } from "../src/index.ts"
import { projectFolder } from "../src/setup/project.ts"
import { defaultModelPath, hasDefaultModel } from "./tokenizer-fixtures.ts"

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
  expect(readdirSync(folder).sort()).toEqual([...Object.keys(EXPECTED), "tools.ts"].sort())
})

test.skipIf(!hasDefaultModel).each(Object.entries(EXPECTED))("%s", async (name, expected) => {
  const child = Bun.spawn([process.execPath, join(folder, name)], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  expect({ stderr, exitCode: await child.exited }).toEqual({ stderr: "", exitCode: 0 })
  expect(stdout).toMatch(expected)
})

test.skipIf(!hasDefaultModel)("tools.ts", async () => {
  using model = await load(defaultModelPath)
  const call = '<tool_call>\n{"name": "multiply", "arguments": {"a": 127, "b": 31}}\n</tool_call><|im_end|>'
  const tokens = model.tokenizer.encode(`${call}It is 3937.<|im_end|>`, { parseSpecial: true })
  let n = 0
  const sampler = { seed: 0, sample: () => tokens[n++]!, candidatesWanted: () => 0 }
  const template = readFileSync(join(import.meta.dir, "fixtures/chat-templates/qwen3.jinja"), "utf8")
  using chat = model.chat({ tools, template, sampler })
  expect(await ask(chat, "What is 127 times 31?")).toBe("It is 3937.")
  expect(chat.messages.map(({ role, content }) => [role, content])).toEqual([
    ["user", "What is 127 times 31?"],
    ["assistant", ""],
    ["tool", "3937"],
    ["assistant", "It is 3937."],
  ])
})
