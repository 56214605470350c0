// `asdsl quantize FOLDER OUT TYPE` as a person runs it. Oracle: the same command on the GGUF file that the same random
// model was written to; convert.test.ts has the rest.

import { afterAll, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readGguf } from "../src/gguf/reader.ts"
import { load } from "../src/index.ts"
import { type CheckpointModel, tensorBytes, withHeader, writeCheckpoint } from "./fixtures/checkpoint.ts"
import { bits, tinyTokens } from "./tiny-model.ts"

const root = mkdtempSync(join(tmpdir(), "asdsl-convert-cli-"))
afterAll(() => rmSync(root, { recursive: true }))

const MAIN = join(import.meta.dir, "../src/cli/main.ts")
const shape = { nLayers: 2, dim: 256, nHeads: 4, nKvHeads: 2, nFfn: 512, nVocab: 400, nCtx: 64, seed: 9 }

function run(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, "quantize", ...args], { stderr: "pipe" })
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() }
}

async function logitsOf(path: string): Promise<string> {
  using model = await load(path, { nThreads: 2 })
  using session = model.createSession()
  session.extend(tinyTokens(12))
  return bits(session.row(0).logits)
}

for (const [arch, type] of [
  ["llama", "F16"],
  ["qwen2", "BF16"],
  ["qwen3", "F32"],
  ["phi3", "BF16"],
] as const) {
  test(`${arch} of ${type}: a folder and its GGUF file become the same`, async () => {
    const folder = join(root, arch)
    const model: CheckpointModel = { ...shape, arch, type, tied: arch === "qwen2", biases: arch === "qwen2" }
    writeCheckpoint(folder, model, { nShards: arch === "llama" ? 2 : 1 })
    for (const target of arch === "llama" ? ["Q4_K_M", "BF16"] : ["Q4_K_M"]) {
      const [ours, theirs] = [`${folder} ours.gguf`, `${folder} theirs.gguf`]
      expect(run(folder, ours, target, "-t", "2")).toEqual({ exitCode: 0, stdout: "", stderr: "" })
      expect(run(`${folder}.gguf`, theirs, target, "-t", "2").exitCode).toBe(0)
      expect([...tensorBytes(ours)]).toEqual([...tensorBytes(theirs)])
      expect(readGguf(ours).metadata.get("general.file_type")).toBe(readGguf(theirs).metadata.get("general.file_type")!)
      expect(await logitsOf(ours)).toBe(await logitsOf(theirs))
    }
  })
}

test("--dry-run reads headers only", () => {
  const folder = join(root, "large")
  writeCheckpoint(folder, { ...shape, arch: "llama", type: "BF16", tied: true, biases: false })
  const path = join(folder, "model.safetensors")
  // The same tensors for a vocabulary of 2^20: 512 MB of embeddings that were never written.
  const nVocab = 2 ** 20
  const file = readFileSync(path)
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString("utf8", 8, start)) as Record<
    string,
    { shape: number[]; data_offsets: number[] }
  >
  const grown = 2 * 256 * (nVocab - shape.nVocab)
  for (const [name, tensor] of Object.entries(header)) {
    if (name === "__metadata__") continue
    if (name === "model.embed_tokens.weight") tensor.shape[0] = nVocab
    else tensor.data_offsets[0]! += grown
    tensor.data_offsets[1]! += grown
  }
  const front = withHeader(JSON.stringify(header), [])
  writeFileSync(path, front)
  truncateSync(path, front.length + file.length - start + grown) // a hole in the file
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, vocab_size: nVocab }))
  const { exitCode, stdout, stderr } = run(folder, join(root, "out.gguf"), "Q4_K_M", "--dry-run")
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" })
  expect(stdout).toMatch(/^token_embd.weight +BF16 +-> Q6_K +\[256, 1048576\]$/m)
  expect(stdout).toMatch(/^blk.1.attn_norm.weight +F32 +-> F32 +\[256\]$/m)
  expect(existsSync(join(root, "out.gguf"))).toBe(false)
})

test("warnings and errors are lines on stderr, and nothing is left behind", () => {
  const folder = join(root, "window")
  const out = join(root, "window out.gguf")
  writeCheckpoint(
    folder,
    { ...shape, arch: "llama", type: "F16", tied: true, biases: false },
    { config: { sliding_window: 32 } },
  )
  const { exitCode, stderr } = run(folder, out, "Q8_0")
  expect([exitCode, stderr]).toEqual([
    0,
    "asdsl quantize: sliding_window 32 is not supported: the context ends there, instead of at 64\n",
  ])
  expect(readGguf(out).metadata.get("llama.context_length")).toBe(32)
  rmSync(join(folder, "tokenizer.json"))
  writeFileSync(join(folder, "tokenizer.model"), "")
  const failed = run(folder, `${out} 2`, "Q8_0")
  expect(failed.exitCode).toBe(1)
  expect(failed.stderr).toMatch(/^asdsl quantize: .*there is no tokenizer.json, .*tokenizer.model.*\n$/)
  expect(existsSync(`${out} 2`)).toBe(false)
})
