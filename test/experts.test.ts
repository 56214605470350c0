// Mixtures of experts: what a header has to say, which bytes count, and passes in which one expert has very many rows.
// Oracles: the rules of the format, sums over the file's tensors, the same tokens in smaller passes.

import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FormatError, UnsupportedError } from "../src/errors.ts"
import { readGguf } from "../src/gguf/reader.ts"
import type { MetadataValue } from "../src/gguf/types.ts"
import { type TensorData, writeGguf } from "../src/gguf/writer.ts"
import { CancelledError, load } from "../src/index.ts"
import { Layout } from "../src/native/abi.ts"
import { tensorBytes } from "../src/native/handles.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { bits, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-experts-"))
afterAll(() => rmSync(folder, { recursive: true }))

const experts = { nExperts: 5, nUsed: 2, nFfn: 64 }
const sound = writeTinyModel({ path: join(folder, "sound.gguf"), type: "Q8_0", arch: "qwen3moe", experts, tied: false })

/** The sound model with other metadata (undefined: none) or without some tensors, or others in their place. */
function changed(
  metadata: Record<string, MetadataValue | undefined>,
  tensor: (info: TensorData) => TensorData | undefined = (info) => info,
): string {
  const header = readGguf(sound)
  const file = readFileSync(sound)
  const all = new Map(header.metadata)
  for (const [key, value] of Object.entries(metadata)) {
    if (value === undefined) all.delete(`qwen3moe.${key}`)
    else all.set(`qwen3moe.${key}`, value)
  }
  const tensors = [...header.tensors.values()].map(({ name, type, shape, offset, bytes }) => {
    const data = () => [file.subarray(offset, offset + bytes)]
    return tensor({ name, type: type === 0 ? "F32" : "Q8_0", shape, data })
  })
  const path = join(folder, "changed.gguf")
  writeGguf(path, {
    metadata: all,
    metadataTypes: header.metadataTypes,
    tensors: tensors.filter((info) => info !== undefined),
  })
  return path
}

describe("headers that do not fit are refused, with the numbers", () => {
  const refuse = (
    what: string,
    metadata: Record<string, MetadataValue | undefined>,
    message: string,
    kind: typeof FormatError | typeof UnsupportedError = FormatError,
    tensor?: (info: TensorData) => TensorData | undefined,
  ) => {
    test(what, async () => {
      const error: unknown = await load(changed(metadata, tensor), { nThreads: 1 }).catch((reason) => reason)
      expect(error).toBeInstanceOf(kind)
      expect((error as Error).message).toEndWith(message)
    })
  }
  refuse("no number of experts", { expert_count: undefined }, "qwen3moe.expert_count is missing")
  refuse("no experts", { expert_count: 0 }, "expert_count is 0, a whole number from 1 to 1024 is needed")
  refuse("too many", { expert_count: 1025 }, "expert_count is 1025, a whole number from 0 to 1024 is needed")
  refuse("none used", { expert_used_count: 0 }, "expert_used_count is 0, a whole number from 1 to 1024 is needed")
  refuse("more used than there are", { expert_used_count: 6 }, "expert_used_count is 6, expert_count only 5")
  refuse(
    "other experts than tensors have",
    { expert_count: 4 },
    "blk.0.ffn_gate_inp.weight has shape [96, 5], the configuration needs [96, 4] (inputs, outputs)",
  )
  refuse(
    "another width than tensors have",
    { expert_feed_forward_length: 96 },
    "blk.0.ffn_gate_exps.weight has shape [96, 64, 5], the configuration needs [96, 96, 5] (inputs, outputs, experts)",
  )
  refuse(
    "no width: a part of the whole",
    { expert_feed_forward_length: undefined },
    "blk.0.ffn_gate_exps.weight has shape [96, 64, 5], the configuration needs [96, 96, 5] (inputs, outputs, experts)",
  )
  refuse(
    "a weight's scale",
    { expert_weights_scale: -1 },
    "expert_weights_scale is -1, a number from 0 to 1000000 is needed",
  )
  refuse("not a boolean", { expert_weights_norm: 1 }, "qwen3moe.expert_weights_norm is not true or false")
  refuse(
    "another gating function",
    { expert_gating_func: 2 },
    "qwen3moe.expert_gating_func 2 is not supported; known: 1 (softmax)",
    UnsupportedError,
  )
  refuse(
    "shared experts",
    { expert_shared_count: 1 },
    "qwen3moe.expert_shared_count is 1; only models without are supported",
    UnsupportedError,
  )
  refuse(
    "a missing tensor",
    {},
    "tensor blk.1.ffn_up_exps.weight is missing (the file has 26)",
    FormatError,
    (info) => {
      return info.name === "blk.1.ffn_up_exps.weight" ? undefined : info
    },
  )
})

test("experts of which a token goes through a few: their share of bytes and work counts", async () => {
  using model = await load(sound, { nThreads: 1 })
  let [bytes, macs] = [0, 0]
  for (const { name, type, shape } of readGguf(sound).tensors.values()) {
    const share = name.endsWith("_exps.weight") ? experts.nUsed / experts.nExperts : 1
    if (name === "token_embd.weight") continue
    const [cols = 1, rows = 1, n = 1] = shape
    bytes += n * tensorBytes(type, shape.length > 1 ? Layout.INTERLEAVED : Layout.ROWS, rows, cols) * share
    if (shape.length > 1) macs += cols * rows * n * share
  }
  expect(model.streamedBytes).toBe(bytes + 4 * (model.config.nRot / 2)) // and the rotary frequencies
  expect(model.macsPerToken + model.macsPerOutput).toBe(macs)
  const ops = model.ops()
  expect(ops.reduce((sum, { streamedBytes }) => sum + streamedBytes, 0)).toBe(model.streamedBytes)
  const all = model.ops().filter(({ operation }) => operation === "moe_down")
  for (const op of all) expect(op.streamedBytesOfBatch).toBe((op.streamedBytes * experts.nExperts) / experts.nUsed)
})

test("more rows for one expert than are gathered at once: the same bits as in small passes", async () => {
  const path = join(folder, "crowded.gguf")
  const shape = { nLayers: 2, dim: 64, nHeads: 2, nKvHeads: 1, nFfn: 64, nVocab: 200, nCtx: 1400 }
  const crowded = { nExperts: 2, nUsed: 1, nFfn: 32 }
  writeRandomModel(path, {
    seed: 3,
    type: "Q8_0",
    arch: "qwen3moe",
    ...shape,
    experts: crowded,
    tied: true,
    biases: false,
  })
  const tokens = tinyTokens(1300)
  const hashes = []
  for (const [nUbatch, nThreads] of [
    [1300, 2],
    [1300, 1],
    [96, 2],
  ] as const) {
    using model = await load(path, { nThreads, nUbatch })
    using session = model.createSession()
    session.sync(tokens)
    hashes.push(bits(session.row().logits))
  }
  expect(new Set(hashes).size).toBe(1)
})

test("loading can be cancelled", async () => {
  const controller = new AbortController()
  const onProgress = () => controller.abort()
  const error: unknown = await load(sound, { nThreads: 1, onProgress, signal: controller.signal }).catch(
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(CancelledError)
})
