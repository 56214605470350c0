// What load() says to files that are no model it can run: the class of the error, and the words that help. Oracle: the
// promises of src/errors.ts, and that a message names what was found and what is known.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { MetadataTypeName } from "../src/gguf/metadata-types.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { FlatStrings } from "../src/gguf/strings.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorInfo, type TensorTypeName } from "../src/gguf/types.ts"
import { writeGguf } from "../src/gguf/writer.ts"
import { ArgumentError, FormatError, load, ModelUnavailableError, UnsupportedError } from "../src/index.ts"
import { fieldsOf } from "./fixtures/gguf-fields.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-load-errors-"))
afterAll(() => rmSync(folder, { recursive: true }))

const sound = join(folder, "sound.gguf")
writeRandomModel(sound, {
  ...{ seed: 1, type: "F32", nLayers: 2, dim: 32, nHeads: 4, nKvHeads: 2, nFfn: 64, nVocab: 100, nCtx: 64 },
  ...{ tied: false, biases: false },
})
const { metadata, metadataTypes, tensors } = readGguf(sound)
const weights = readFileSync(sound)

interface Change {
  /** Other metadata; undefined takes a key away. */
  metadata?: Record<string, MetadataValue | undefined>
  types?: Record<string, MetadataTypeName>
  /** Other shapes or types of tensors; undefined takes a tensor away. Data of another size are zeros. */
  tensors?: Record<string, { shape?: readonly number[]; type?: TensorTypeName } | undefined>
}

/** The sound model, changed. */
function changed(change: Change): string {
  const path = join(folder, "changed.gguf")
  const values = new Map(metadata)
  const types = new Map([...metadataTypes, ...Object.entries(change.types ?? {})])
  for (const [key, value] of Object.entries(change.metadata ?? {})) {
    if (change.types?.[key] === undefined) types.delete(key)
    if (value === undefined) values.delete(key)
    else values.set(key, value)
  }
  const infos: TensorInfo[] = [...tensors.values()]
  for (const name of Object.keys(change.tensors ?? {})) {
    if (!tensors.has(name)) infos.push({ name, type: 0, shape: [1], file: 0, offset: 0, bytes: 0 })
  }
  const kept = infos.filter(({ name }) => !(name in (change.tensors ?? {})) || change.tensors![name] !== undefined)
  writeGguf(path, {
    metadata: values,
    metadataTypes: types,
    tensors: kept.map((info) => {
      const { shape = info.shape, type = "F32" } = change.tensors?.[info.name] ?? {}
      const { block, bytes: blockBytes } = TENSOR_TYPES[type]
      const bytes = (shape.reduce((product, size) => product * size, 1) / block) * blockBytes
      const data = bytes === info.bytes ? weights.subarray(info.offset, info.offset + bytes) : new Uint8Array(bytes)
      return { name: info.name, type, shape, data: () => [data] }
    }),
  })
  return path
}

async function refusal(path: string, kind: new (...args: never[]) => Error): Promise<string> {
  try {
    using _ = await load(path, { nThreads: 1 })
  } catch (error) {
    expect(error).toBeInstanceOf(kind)
    return (error as Error).message
  }
  throw new Error("the model was loaded")
}

test("the sound model loads, changed in nothing", async () => {
  using model = await load(changed({}), { nThreads: 1 })
  using session = model.createSession()
  session.sync([1, 2, 3])
  expect(session.row().nNotFinite).toBe(0)
})

test("each tensor that is missing is named", async () => {
  for (const name of tensors.keys()) {
    if (name === "output.weight") continue // then the embedding table is the output
    const message = await refusal(changed({ tensors: { [name]: undefined } }), FormatError)
    expect(message).toContain(`tensor ${name} is missing`)
  }
  using tied = await load(changed({ tensors: { "output.weight": undefined } }), { nThreads: 1 })
  expect(tied.config.isTied).toBe(true)
})

test("each tensor of an impossible shape is named with both shapes", async () => {
  for (const [name, { shape }] of tensors) {
    const shapes = [
      shape.with(0, shape[0]! + 1),
      shape.with(-1, shape.at(-1)! + 1),
      [...shape, 2],
      shape.length === 2 ? [shape[0]! * shape[1]!] : [1, shape[0]!],
    ]
    for (const other of shapes) {
      // More rows than the vocabulary has tokens are padding, in the table that says how many there are.
      if (name === "token_embd.weight" && other[0] === 32 && other.length === 2) continue
      const message = await refusal(changed({ tensors: { [name]: { shape: other } } }), FormatError)
      expect(message).toContain(`${name} has shape [${other.join(", ")}], the configuration needs [`)
    }
  }
})

test("a tensor that the architecture does not have", async () => {
  const message = await refusal(changed({ tensors: { "blk.1.attn_sinks.weight": { shape: [4] } } }), UnsupportedError)
  expect(message).toContain("tensors that this architecture does not have: blk.1.attn_sinks.weight")
})

test("an unknown architecture is named, and the known ones", async () => {
  for (const name of ["mamba", "toString", "__proto__"]) {
    const message = await refusal(changed({ metadata: { "general.architecture": name } }), UnsupportedError)
    expect(message).toMatch(new RegExp(`architecture ${name} is not supported; known: .*llama`))
  }
  expect(await refusal(changed({ metadata: { "general.architecture": undefined } }), FormatError)).toContain(
    "general.architecture is missing",
  )
  expect(await refusal(changed({ metadata: { "general.architecture": 7 } }), FormatError)).toContain(
    "general.architecture is missing",
  )
})

test("an unknown tensor type is named, and the known ones", async () => {
  const bytes = new Uint8Array(readFileSync(sound))
  const field = fieldsOf(bytes).filter(({ kind }) => kind === "tensor type")
  const path = join(folder, "type.gguf")
  for (const type of [4, 5, 0xffffffff]) {
    new DataView(bytes.buffer).setUint32(field[2]!.at, type, true)
    writeFileSync(path, bytes)
    const message = await refusal(path, UnsupportedError)
    expect(message).toContain(
      `${[...tensors.keys()][2]} has tensor type ${type}, which is not supported; known: F32 (0)`,
    )
    for (const name of Object.keys(TENSOR_TYPES)) expect(message).toContain(name)
  }
})

test("a quantised vector is named", async () => {
  const change: Change = { tensors: { "blk.0.attn_norm.weight": { type: "Q8_0" } } }
  expect(await refusal(changed(change), UnsupportedError)).toContain(
    "blk.0.attn_norm.weight is a vector of type Q8_0; vectors are F32, F16 or BF16",
  )
})

test("numbers that no model has are named with what is needed", async () => {
  const INTEGERS = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "rope.dimension_count",
  ]
  for (const key of INTEGERS) {
    for (const value of [0, -1, 2 ** 32 - 1, 1.5, Number.NaN, 2n ** 60n, "8", true, FlatStrings.from(["8"])]) {
      const name = `llama.${key}`
      const message = await refusal(changed({ metadata: { [name]: value } }), FormatError)
      expect(message).toMatch(new RegExp(`${name} is (.*needed|not a number)`))
    }
  }
  for (const value of [-1, 2, Number.NaN, Number.POSITIVE_INFINITY]) {
    const name = "llama.attention.layer_norm_rms_epsilon"
    const change: Change = { metadata: { [name]: value }, types: { [name]: "f32" } }
    expect(await refusal(changed(change), FormatError)).toContain(`${name} is ${value}, a number from 0 to 1 is needed`)
  }
  for (const key of ["block_count", "embedding_length", "attention.head_count", "context_length"]) {
    const message = await refusal(changed({ metadata: { [`llama.${key}`]: undefined } }), FormatError)
    expect(message).toContain(`llama.${key} is missing`)
  }
})

test("settings that contradict each other", async () => {
  const cases: [Record<string, MetadataValue>, new (...args: never[]) => Error, RegExp][] = [
    [{ "llama.attention.head_count_kv": 3 }, FormatError, /4 query heads cannot share 3 key heads/],
    [{ "llama.attention.value_length": 16 }, UnsupportedError, /keys of 8 and values of 16/],
    [{ "llama.rope.dimension_count": 7 }, FormatError, /heads of 8 with 7 rotated/],
    [{ "llama.expert_count": 8 }, UnsupportedError, /mixtures of experts \(8\)/],
    [{ "llama.rope.scaling.type": "ntk" }, UnsupportedError, /type ntk is not supported; known: none, linear/],
    [{ "llama.block_count": 3 }, FormatError, /blk\.2\.attn_norm\.weight is missing/],
    [{ "llama.block_count": 1 }, UnsupportedError, /does not have: blk\.1\..* and 5 more/],
    [{ "llama.attention.head_count_kv": Uint32Array.of(2, 4) }, UnsupportedError, /differs between layers \(2, 4/],
  ]
  for (const [values, kind, message] of cases) {
    expect(await refusal(changed({ metadata: values }), kind)).toMatch(message)
  }
})

test("a vocabulary larger than the embedding table", async () => {
  const tokens = FlatStrings.from(Array.from({ length: 101 }, (_, i) => `t${i}`))
  const message = await refusal(changed({ metadata: { "tokenizer.ggml.tokens": tokens } }), FormatError)
  expect(message).toContain("the vocabulary has 101 tokens, token_embd.weight 100 rows")
})

test("a vocabulary-only file", async () => {
  const path = join(folder, "vocabulary.gguf")
  writeGguf(path, { metadata, metadataTypes, tensors: [] })
  expect(await refusal(path, FormatError)).toContain(
    `${path}: tensor token_embd.weight is missing (a vocabulary-only file?)`,
  )
})

test("what is no GGUF file", async () => {
  expect(await refusal(folder, FormatError)).toContain(`${folder} is a folder, a GGUF file is needed`)
  const path = join(folder, "other.gguf")
  writeFileSync(path, "")
  expect(await refusal(path, FormatError)).toContain(`${path}: the file is empty`)
  writeFileSync(path, "a text")
  expect(await refusal(path, FormatError)).toContain(`${path}: not a GGUF file`)
  writeFileSync(path, weights.subarray(0, weights.length - 4096))
  expect(await refusal(path, FormatError)).toMatch(/truncated: tensor output.weight takes 12800 bytes from byte \d+/)
  expect(await refusal(join(folder, "nowhere.gguf"), ModelUnavailableError)).toContain("nowhere.gguf")
  for (const none of ["", undefined, 7]) await expect(load(none as string)).rejects.toThrow(ArgumentError)
})
