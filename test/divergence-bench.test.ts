// bench/divergence.ts says what asdsl perplexity says of the same chunks. Oracle: src/eval's perplexity and KL divergence.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { klDivergence } from "../src/eval/kl-divergence.ts"
import { LogitsReader, LogitsWriter } from "../src/eval/logits-file.ts"
import { evaluationTokens, perplexity } from "../src/eval/perplexity.ts"
import { load } from "../src/index.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { random, randomText } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-divergence-"))
afterAll(() => rmSync(folder, { recursive: true }))

const [N_CTX, SKIP, N_CHUNKS] = [32, 2, 3]
const SHAPE = { seed: 3, nLayers: 2, dim: 64, nHeads: 2, nKvHeads: 1, nFfn: 96, nVocab: 500, nCtx: 64 } as const
const path = (name: string) => join(folder, `${name}.gguf`)
const text = join(folder, "text.txt")

test("perplexity and divergence of each file, again from what the first run has left", async () => {
  for (const type of ["F32", "Q8_0", "Q4_0"] as const) {
    writeRandomModel(path(type), { ...SHAPE, type, tied: true, biases: false })
  }
  const next = random(9)
  writeFileSync(text, Array.from({ length: 40 }, () => randomText(next, 60).replaceAll(/\s+/g, " ")).join("\n"))

  const bench = async (...more: string[]) => {
    const flags = ["--source", path("F32"), "-f", text, "-c", String(N_CTX), "--skip", String(SKIP), "--no-cache"]
    const program = [process.execPath, join(import.meta.dir, "../bench/divergence.ts"), ...flags, "-t", "1"]
    const child = Bun.spawn(
      [...program, "--chunks", String(N_CHUNKS), "--work", join(folder, "work"), ...more, path("Q4_0"), path("Q8_0")],
      { stdout: "pipe", stderr: "inherit" },
    )
    const stdout = await child.stdout.text()
    return { code: await child.exited, stdout }
  }
  const { code, stdout } = await bench()
  expect(code).toBe(0)

  using source = await load(path("F32"), { nThreads: 1, nCtx: N_CTX, cache: false })
  const all = evaluationTokens(source.tokenizer, readFileSync(text, "utf8"))
  const tokens = all.slice(SKIP * N_CTX, (SKIP + N_CHUNKS) * N_CTX)
  const base = join(folder, "base.logits")
  using writer = new LogitsWriter(base, { nCtx: N_CTX, nVocab: SHAPE.nVocab, nChunks: N_CHUNKS }, tokens)
  const own = await perplexity(source, tokens, {
    nCtx: N_CTX,
    onRow: (row, index) => writer.chunk.set(index % writer.chunk.nRows, row),
    onChunk: () => writer.writeChunk(),
  })
  writer.finish()
  const head = /^Chunks 2 to 4 of 32 tokens of text.txt; F32.gguf has perplexity ([\d.]+)\.$/m.exec(stdout)
  expect(Math.abs(Number(head?.[1]) / own.perplexity - 1)).toBeLessThan(1e-4) // of log-probabilities in 16 bits
  for (const name of ["Q4_0", "Q8_0"]) {
    using reader = new LogitsReader(base)
    using model = await load(path(name), { nThreads: 1, nCtx: N_CTX, cache: false })
    const wanted = (await klDivergence(model, reader)).result(N_CHUNKS)
    const row = stdout.split("\n").find((line) => line.startsWith(`| ${name}.gguf`))!
    const { divergence, sameTop } = wanted
    expect(row).toContain(` ${wanted.perplexity.value.toFixed(4)} |`)
    expect(row).toContain(`${divergence.value.toFixed(6)} ± ${divergence.error.toFixed(6)}`)
    expect(row).toContain(`${(100 * sameTop.value).toFixed(2)} %`)
  }
  expect((await bench()).stdout).toBe(stdout)
}, 60_000)
