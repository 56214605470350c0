// Files of every TYPE that asdsl quantize offers, made of SmolLM2, in other programs: `npm run test:larger -- quantized-files`.
// Oracles: llama-perplexity ($ASDSL_PEER_PERPLEXITY, a path) loads each and finds the perplexity that we find; the Python
// package gguf ($PYTHON, else python3, with numpy) reads the same tensors, and their weights to the bit.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { evaluationTokens, perplexity } from "../../src/eval/perplexity.ts"
import { dequantize } from "../../src/gguf/dequantize.ts"
import { readGguf } from "../../src/gguf/reader.ts"
import { load } from "../../src/index.ts"
import { Engine } from "../../src/native/handles.ts"
import { openGgufSource } from "../../src/quantize/gguf-source.ts"
import { planTypes } from "../../src/quantize/policy.ts"
import { quantizeModel } from "../../src/quantize/quantize.ts"
import { MIXTURES, type MixtureName } from "../../src/quantize/types.ts"
import { sha256 } from "../fixtures/dequantize-blocks.ts"
import { defaultModelPath, hasDefaultModel } from "../tokenizer-fixtures.ts"

const data = process.env.ASDSL_TEST_DATA
const peer = process.env.ASDSL_PEER_PERPLEXITY
const [N_CTX, N_CHUNKS] = [128, 8]

const folder = mkdtempSync(join(tmpdir(), "asdsl-quantized-files-"))
afterAll(() => rmSync(folder, { recursive: true }))

async function write(mixture: MixtureName): Promise<string> {
  const output = join(folder, `${mixture}.gguf`)
  using source = openGgufSource(defaultModelPath)
  using engine = Engine.create()
  const types = planTypes(source.tensors, source.metadata, { mixture })
  await quantizeModel(source, output, { types, engine, fileType: MIXTURES[mixture].fileType })
  return output
}

async function outputOf(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  if ((await child.exited) !== 0) throw new Error(`${command[0]} failed:\n${stderr.slice(-2000)}`)
  return stdout + stderr
}

/** Name, type, shape and digest of the weights, of every tensor of some layers and of those outside of layers. */
async function readByPackage(path: string): Promise<unknown> {
  const script = join(import.meta.dir, "read-gguf.py")
  return JSON.parse(await outputOf([process.env.PYTHON || "python3", script, path, "blk.0.", "blk.29.", "output"]))
}

function readByUs(path: string): unknown {
  const file = readFileSync(path)
  return [...readGguf(path).tensors.values()]
    .filter(({ name }) => ["blk.0.", "blk.29.", "output"].some((prefix) => name.startsWith(prefix)))
    .map(({ name, type, shape, offset, bytes }) => {
      const n = shape.reduce((product, size) => product * size, 1)
      const values = dequantize(type, file.subarray(offset, offset + bytes), n)
      return { name, type, shape, sha256: sha256(new Uint8Array(values.buffer, values.byteOffset, 4 * n)) }
    })
}

test.skipIf(!hasDefaultModel || data === undefined || peer === undefined).each(Object.keys(MIXTURES) as MixtureName[])(
  "%s",
  async (mixture) => {
    const path = await write(mixture)
    expect(await readByPackage(path)).toEqual(readByUs(path))
    const text = join(data!, "text/wikitext2-valid-tokens.txt")
    const flags = ["-m", path, "-f", text, "-c", String(N_CTX), "--chunks", String(N_CHUNKS), "-t", "2"]
    const theirs = Number(/Final estimate: PPL = ([\d.]+)/.exec(await outputOf([peer!, ...flags]))?.[1])
    using model = await load(path, { typeK: "f16", typeV: "f16", nCtx: N_CTX, maxOutputs: 64, cache: false })
    const tokens = evaluationTokens(model.tokenizer, readFileSync(text, "utf8"))
    const ours = await perplexity(model, tokens, { nCtx: N_CTX, nChunks: N_CHUNKS })
    const change = ours.perplexity / theirs - 1
    console.log(
      `${mixture}: perplexity ${ours.perplexity.toFixed(4)}, llama.cpp ${theirs} (${(100 * change).toFixed(2)} %)`,
    )
    expect(Math.abs(change)).toBeLessThan(0.02)
    rmSync(path)
  },
  10 * 60_000,
)
