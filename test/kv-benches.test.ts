// The measures of a KV type's quality say what they claim to say: bench/kv-perplexity.ts by src/eval's perplexity of the
// same tokens, bench/kv-retrieval.ts by the replies of a session of the same model. bench/prompt-cache.ts sees that a file was
// read, and that a damaged one was not.

import { afterAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { evaluationTokens, perplexity } from "../src/eval/perplexity.ts"
import { load } from "../src/index.ts"
import { projectFolder } from "../src/setup/project.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { random, randomText } from "./tokenizer-fixtures.ts"

setDefaultTimeout(120_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-kv-benches-"))
const modelPath = join(folder, "tiny.gguf")
const textPath = join(folder, "text.txt")
writeRandomModel(modelPath, {
  ...{ seed: 3, type: "Q4_0", nLayers: 2, dim: 96, nHeads: 3, nKvHeads: 1, nFfn: 192 },
  ...{ nVocab: 600, nCtx: 400, tied: false, biases: true },
})
const next = random(9)
writeFileSync(
  textPath,
  Array.from({ length: 120 }, () => `${randomText(next, 60).replaceAll(/\s+/g, " ")} .`).join("\n"),
)
afterAll(() => rmSync(folder, { recursive: true }))

async function bench(name: string, ...args: string[]): Promise<string> {
  const command = [process.execPath, join(projectFolder, "bench", name), "-m", modelPath, "-f", textPath, "-t", "1"]
  const child = Bun.spawn([...command, ...args], { stdout: "pipe", stderr: "inherit" })
  const stdout = await child.stdout.text()
  expect(await child.exited).toBe(0)
  return stdout
}

test("perplexity by type and context length, again from what the first run has left", async () => {
  const args = ["--kv", "f16,q8_0", "-c", "64,0", "--tokens", "1200", "-ub", "48", "--work", join(folder, "work")]
  const table = await bench("kv-perplexity.ts", ...args)
  for (const typeK of ["f16", "q8_0"] as const) {
    using model = await load(modelPath, { nThreads: 1, typeK, typeV: typeK, nCtx: 400 })
    const tokens = evaluationTokens(model.tokenizer, readFileSync(textPath, "utf8")).slice(0, 1200)
    for (const nCtx of [64, 400]) {
      const { perplexity: value, error, nChunks, nScored } = await perplexity(model, tokens, { nCtx })
      const row = [nCtx, nChunks, nScored, typeK, `${value.toFixed(4)} ± ${error.toFixed(3)}`].join(" | ")
      expect(table.replaceAll(/ +/g, " ")).toContain(`| ${row} |`)
    }
  }
  expect(await bench("kv-perplexity.ts", ...args)).toBe(table)
})

test("retrieval: each type's greedy reply to the same prompts", async () => {
  const table = await bench(
    "kv-retrieval.ts",
    "--kv",
    "f16,f32",
    "--tokens",
    "100",
    "--depths",
    "0,50,100",
    "--work",
    join(folder, "found"),
  )
  expect(table).toMatch(/\| +0 % \| +41337 \|.*\n\| +50 % .*\n\| +100 % /)
  expect(table).toContain("Found of 3: f16 0, f32 0;")
})

test("prompt cache: all of the prompt but its last token comes out of the file, nothing out of a damaged one", async () => {
  const table = await bench("prompt-cache.ts", "-p", "300", "-n", "4", "-r", "2")
  const rows = Array.from(
    table.matchAll(/^\| (\w[\w ]*\w) +\| +\d+ \| +[\d.]+ \| +(\d+) \| +(\w+) \|$/gm),
    ([, ...cells]) => cells,
  )
  expect(rows).toEqual([
    ["without a file", "0", "yes"],
    ["writing it", "0", "yes"],
    ["reading it", "299", "yes"],
    ["beside a damaged one", "0", "yes"],
  ])
  expect(table).toContain("The damaged one: cache: the saved session is damaged")
})
