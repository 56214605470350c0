// Checkpoint folders (checkpoint-models.ts) against what other programs make of them, stored in
// fixtures/checkpoint-expected.json with its provenance and made again by fixtures/make-checkpoint-expected.py. Oracles:
// tokens of Hugging Face's tokenizers; logits of transformers in float32; metadata and tensors of llama.cpp's converter.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Checkpoint, openCheckpoint } from "../src/convert/index.ts"
import { isStringArray } from "../src/gguf/strings.ts"
import type { MetadataValue } from "../src/gguf/types.ts"
import { load } from "../src/index.ts"
import { rowBytes, rowCount } from "../src/quantize/source.ts"
import { KIND } from "../src/tokenizer/vocabulary.ts"
import {
  CHECKPOINTS,
  checkpointTokens,
  N_CTX,
  STORED_POSITIONS,
  TEXTS,
  writeCheckpointCase,
} from "./checkpoint-models.ts"
import { writeSource } from "./fixtures/checkpoint.ts"
import stored from "./fixtures/checkpoint-expected.json"

setDefaultTimeout(60_000)

const folder = mkdtempSync(join(tmpdir(), "asdsl-convert-peers-"))
const open = new Map<string, Checkpoint>()

interface Expected {
  weightsSha256: string
  tokenizerSha256: string
  tokens: number[][]
  logits: string[]
  gguf: {
    metadata: Record<string, { type: string; value?: unknown; length?: number; sha256?: string }>
    tensors: string[][]
    ropeFactors: Record<string, number[]>
  }
}

const expected = stored.checkpoints as unknown as Record<string, Expected>
const names = Object.keys(CHECKPOINTS)

beforeAll(() => {
  for (const name of names) {
    const path = writeCheckpointCase(folder, name)
    const source = openCheckpoint(path)
    open.set(name, source)
    writeSource(`${path}.converted.gguf`, source, 64)
  }
})
afterAll(() => {
  for (const source of open.values()) source[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

const sha256 = (...parts: Uint8Array[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex")

test("the folders are those that the others saw", () => {
  expect(Object.keys(expected)).toEqual(names)
  for (const name of names) {
    const path = join(folder, name)
    const weights = readdirSync(path)
      .filter((file) => file.endsWith(".safetensors"))
      .sort()
    expect({
      weightsSha256: sha256(...weights.map((file) => readFileSync(join(path, file)))),
      tokenizerSha256: sha256(readFileSync(join(path, "tokenizer.json"))),
    }).toEqual({ weightsSha256: expected[name]!.weightsSha256, tokenizerSha256: expected[name]!.tokenizerSha256 })
  }
})

describe("tokens of tokenizers", () => {
  for (const name of names) {
    test(name, async () => {
      using model = await load(join(folder, `${name}.converted.gguf`), { nThreads: 1 })
      for (const [i, text] of TEXTS.entries()) {
        expect([text, ...model.tokenizer.encode(text, { parseSpecial: true })]).toEqual([
          text,
          ...expected[name]!.tokens[i]!,
        ])
      }
    })
  }
})

describe("logits of transformers", () => {
  for (const name of names) {
    test(name, async () => {
      using model = await load(join(folder, `${name}.converted.gguf`), {
        nThreads: 2,
        nCtx: N_CTX,
        typeK: "f32",
        typeV: "f32",
      })
      using session = model.createSession()
      const tokens = checkpointTokens()
      const rows: Float32Array[] = []
      session.extend(tokens, {
        outputs: "all",
        onRows: (_, n) => {
          for (let j = 0; j < n; j++) rows.push(session.row(j).logits.slice())
        },
      })
      for (const [i, position] of STORED_POSITIONS.entries()) {
        const bytes = Uint8Array.from(Buffer.from(expected[name]!.logits[i]!, "base64"))
        const theirs = new Float32Array(bytes.buffer)
        const ours = rows[position]!
        expect(ours.length).toBe(theirs.length)
        const error = Math.sqrt(theirs.reduce((sum, x, j) => sum + (x - ours[j]!) ** 2, 0) / theirs.length)
        const size = Math.sqrt(theirs.reduce((sum, x) => sum + x * x, 0) / theirs.length)
        // Two float32 programs of two layers; a wrong base, factor or row is off by a tenth at least.
        expect(error / size).toBeLessThan(2e-5)
      }
    })
  }
})

// ---- llama.cpp's converter ----

/** What its file has and ours has not: made for lists of models, or by the quantiser later. */
const THEIRS = /^general\.(size_label|basename|finetune|version|organization|file_type|quantization_version)$/
/** What ours has besides: a reader's default said aloud. */
const OURS = /^tokenizer\.ggml\.(add_bos_token|add_eos_token|add_space_prefix)$/
/** What is not the same: capitals and blanks in the name; without SentencePiece's own file it gives all tokens one score, so
 * that merges have no order; and <unk> is control to it. */
const DIFFERENT = ["general.name", "tokenizer.ggml.scores"]

function describeValue(value: MetadataValue, type: string | undefined): Expected["gguf"]["metadata"][string] {
  const names_: Record<string, string> = { u32: "UINT32", i32: "INT32", f32: "FLOAT32", bool: "BOOL", string: "STRING" }
  const element = names_[type ?? ""] ?? String(type)
  if (typeof value !== "object") return { type: element, value }
  if (isStringArray(value)) {
    const parts = Array.from({ length: value.length }, (_, i) => {
      const length = new Uint8Array(4)
      new DataView(length.buffer).setUint32(0, value.lengths[i]!, true)
      return [length, value.bytes(i)]
    })
    return { type: element, length: value.length, sha256: sha256(...parts.flat()) }
  }
  const { buffer, byteOffset, byteLength, length } = value as Int32Array
  return { type: element, length, sha256: sha256(new Uint8Array(buffer, byteOffset, byteLength)) }
}

describe("llama.cpp's converter", () => {
  for (const name of names) {
    test(`${name}: metadata`, () => {
      const { metadata, metadataTypes } = open.get(name)!
      const theirs = expected[name]!.gguf.metadata
      const kinds = metadata.get("tokenizer.ggml.token_type") as Int32Array
      const withControl = kinds.map((kind) => (kind === KIND.unknown ? KIND.control : kind)) // what <unk> is to it
      const ours = Object.fromEntries(
        [...metadata].map(([key, value]) => [key, describeValue(value, metadataTypes.get(key))]),
      )
      ours["tokenizer.ggml.token_type"] = describeValue(withControl, "i32")
      const keys = new Set([...Object.keys(ours), ...Object.keys(theirs)])
      for (const key of keys) {
        if (THEIRS.test(key) && !(key in ours)) continue
        if (OURS.test(key) && !(key in theirs)) continue
        if (DIFFERENT.includes(key)) continue
        expect({ [key]: ours[key] }).toEqual({ [key]: theirs[key] })
      }
    })

    test(`${name}: tensors`, () => {
      const { tensors, ropeFactors } = expected[name]!.gguf
      const ours = open.get(name)!.tensors.map((tensor) => {
        const data = new Uint8Array(rowCount(tensor) * rowBytes(tensor))
        tensor.readRows(0, data)
        return { name: tensor.name, type: tensor.type, data }
      })
      const isFactors = (tensor: { name: string }) => tensor.name.startsWith("rope_")
      const hashed = ours
        .filter((tensor) => !isFactors(tensor))
        .map((tensor) => [tensor.name, tensor.type, sha256(tensor.data)])
      expect(hashed.sort()).toEqual(tensors)
      const factors = ours.filter(isFactors)
      expect(factors.map((tensor) => tensor.name).sort()).toEqual(Object.keys(ropeFactors).sort())
      for (const { name: factorName, data } of factors) {
        const values = new Float32Array(data.buffer)
        expect(values.length).toBe(ropeFactors[factorName]!.length)
        // Powers in float32 differ in their last bits between libraries.
        for (const [i, value] of values.entries()) expect(value / ropeFactors[factorName]![i]!).toBeCloseTo(1, 6)
      }
    })
  }
})
