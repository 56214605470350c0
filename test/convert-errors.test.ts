// Checkpoint folders that are damaged, contradict themselves or need what asdsl does not have: a typed error with the
// numbers in it, and never anything else (fuzz). Oracle of what a sound safetensors header is: the format's own reader,
// Metadata::validate of huggingface/safetensors, whose rules the cases go through one by one.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { isCheckpoint, openCheckpoint } from "../src/convert/index.ts"
import { AsdslError, FormatError, ModelUnavailableError, UnsupportedError } from "../src/errors.ts"
import { rowBytes, rowCount } from "../src/quantize/source.ts"
import {
  type CheckpointModel,
  type Json,
  type Stored,
  safetensors,
  withHeader,
  writeCheckpoint,
} from "./fixtures/checkpoint.ts"
import { random } from "./tokenizer-fixtures.ts"

const root = mkdtempSync(join(tmpdir(), "asdsl-convert-errors-"))
afterAll(() => rmSync(root, { recursive: true }))

const model: CheckpointModel = {
  ...{
    seed: 3,
    arch: "llama",
    type: "F16",
    nLayers: 1,
    dim: 32,
    nHeads: 2,
    nKvHeads: 1,
    nFfn: 48,
    nVocab: 300,
    nCtx: 64,
  },
  ...{ tied: false, biases: false },
}

beforeAll(() => {
  writeCheckpoint(join(root, "sound"), model)
  writeCheckpoint(join(root, "sharded"), model, { nShards: 3 })
})

let n = 0

/** A copy of a sound folder. */
function copy(of: "sound" | "sharded"): string {
  const folder = join(root, `${++n}`)
  cpSync(join(root, of), folder, { recursive: true })
  return folder
}

function change(folder: string, file: string, edit: (json: Json) => void): void {
  const json = JSON.parse(readFileSync(join(folder, file), "utf8")) as Json
  edit(json)
  writeFileSync(join(folder, file), JSON.stringify(json))
}

type ErrorClass = new (...args: never[]) => AsdslError

function expectError(folder: string, kind: ErrorClass, message: RegExp): void {
  let caught: unknown
  try {
    openCheckpoint(folder)[Symbol.dispose]()
  } catch (error) {
    caught = error
  }
  expect(caught).toBeInstanceOf(kind)
  expect((caught as Error).message).toMatch(message)
}

test("a folder without what a checkpoint has", () => {
  expect([
    isCheckpoint(join(root, "sound")),
    isCheckpoint(root),
    isCheckpoint(join(root, "sound", "config.json")),
  ]).toEqual([true, false, false])
  expectError(root, ModelUnavailableError, /there is no config.json/)
  for (const file of ["model.safetensors", "tokenizer.json"]) {
    const folder = copy("sound")
    rmSync(join(folder, file))
    expectError(
      folder,
      ModelUnavailableError,
      file === "tokenizer.json" ? /no tokenizer.json/ : /neither model.safetensors nor/,
    )
  }
  const pickled = copy("sound")
  renameSync(join(pickled, "model.safetensors"), join(pickled, "pytorch_model.bin"))
  expectError(pickled, UnsupportedError, /pytorch_model.bin are pickled tensors/)
})

describe("config.json", () => {
  const cases: [string, Json, ErrorClass, RegExp][] = [
    ["an unknown family", { architectures: ["GemmaForCausalLM"] }, UnsupportedError, /GemmaForCausalLM .*known: Llama/],
    ["no family", { architectures: undefined, model_type: "bert" }, UnsupportedError, /bert cannot be converted/],
    ["quantised weights", { quantization_config: { quant_method: "gptq" } }, UnsupportedError, /quantised \(gptq\)/],
    ["another activation", { hidden_act: "gelu" }, UnsupportedError, /hidden_act gelu/],
    ["no size", { hidden_size: undefined }, FormatError, /hidden_size is missing, a whole number/],
    ["a size of another kind", { hidden_size: "32" }, FormatError, /hidden_size is "32", a whole number from 1/],
    [
      "heads that cannot be shared",
      { num_key_value_heads: 3 },
      FormatError,
      /num_key_value_heads is 3, a divisor of .* 2/,
    ],
    [
      "heads that do not add up",
      { num_attention_heads: 3, num_key_value_heads: 3 },
      FormatError,
      /num_attention_heads|head_dim/,
    ],
    ["odd heads", { head_dim: 15 }, FormatError, /head_dim is 15, an even size/],
    [
      "another size than the tensors'",
      { hidden_size: 64, head_dim: 16 },
      FormatError,
      /shape \[300, 32\].*says \[300, 64\]/,
    ],
    ["fewer layers than tensors", { num_hidden_layers: 2 }, FormatError, /missing: model.layers.1.input_layernorm/],
    ["no output matrix where one is left", { tie_word_embeddings: "no" }, FormatError, /tie_word_embeddings is "no"/],
    [
      "unknown scaling",
      { rope_scaling: { rope_type: "dynamic", factor: 2 } },
      UnsupportedError,
      /rope_type dynamic .*known/,
    ],
    ["scaling without a factor", { rope_scaling: { type: "linear" } }, FormatError, /factor is missing/],
    [
      "bands of llama3 in the wrong order",
      { rope_scaling: { rope_type: "llama3", low_freq_factor: 4, high_freq_factor: 1 } },
      FormatError,
      /high_freq_factor is 1, a number above low_freq_factor, 4/,
    ],
    ["layers of another kind", { layer_types: ["linear_attention"] }, UnsupportedError, /linear_attention/],
  ]
  for (const [name, edit, kind, message] of cases) {
    test(name, () => {
      const folder = copy("sound")
      change(folder, "config.json", (json) => Object.assign(json, edit))
      expectError(folder, kind, message)
    })
  }

  test("a window ends the context", () => {
    const folder = copy("sound")
    change(folder, "config.json", (json) => Object.assign(json, { sliding_window: 16 }))
    using source = openCheckpoint(folder)
    expect(source.metadata.get("llama.context_length")).toBe(16)
    expect(source.warnings).toEqual(["sliding_window 16 is not supported: the context ends there, instead of at 64"])
  })

  test("a tied output matrix that is stored all the same is left out", () => {
    const folder = copy("sound")
    change(folder, "config.json", (json) => Object.assign(json, { tie_word_embeddings: true }))
    using source = openCheckpoint(folder)
    expect(source.tensors.some(({ name }) => name === "output.weight")).toBe(false)
  })
})

describe("safetensors", () => {
  const floats = (name: string, shape: number[], dtype = "F32"): Stored => ({
    ...{ name, dtype, shape },
    data: new Uint8Array(shape.reduce((product, size) => product * size, 1) * (dtype === "F32" ? 4 : 2)),
  })
  const header = (entries: Json, data: number) => withHeader(JSON.stringify(entries), [new Uint8Array(data)])
  const f32 = (begin: number, end: number, shape: unknown = [(end - begin) / 4]) => {
    return { dtype: "F32", shape, data_offsets: [begin, end] }
  }
  const length = (value: bigint) => {
    const bytes = new Uint8Array(64)
    new DataView(bytes.buffer).setBigUint64(0, value, true)
    return bytes
  }
  const cases: [string, Uint8Array, ErrorClass, RegExp][] = [
    ["empty", new Uint8Array(0), FormatError, /0 bytes are no safetensors/],
    ["a header longer than the file", length(57n), FormatError, /header would have 57 bytes, the file has 64/],
    ["a header of 2^63 bytes", length(2n ** 63n), FormatError, /9223372036854776000 bytes/],
    ["no JSON", withHeader("{", []), FormatError, /is not JSON/],
    ["no object", withHeader("[]", []), FormatError, /is not a JSON object/],
    ["nested beyond every parser", withHeader("[".repeat(100_000), []), FormatError, /is not JSON/],
    ["a tensor that is a number", header({ a: 1 }, 0), FormatError, /a is not a JSON object/],
    ["an unknown type", header({ a: { ...f32(0, 4), dtype: "F12" } }, 4), FormatError, /dtype is "F12"/],
    [
      "a type by the name of a method",
      header({ a: { ...f32(0, 4), dtype: "toString" } }, 4),
      FormatError,
      /dtype is "toString"/,
    ],
    ["no shape", header({ a: { ...f32(0, 4), shape: undefined } }, 4), FormatError, /shape is missing/],
    ["a negative size", header({ a: f32(0, 4, [-1]) }, 4), FormatError, /shape is \[-1\]/],
    ["a size that is no number", header({ a: f32(0, 4, ["1"]) }, 4), FormatError, /shape is \["1"\]/],
    [
      "offsets the wrong way round",
      header({ a: { ...f32(0, 4), data_offsets: [4, 0] } }, 4),
      FormatError,
      /data_offsets is \[4,0\]/,
    ],
    ["three offsets", header({ a: { ...f32(0, 4), data_offsets: [0, 4, 4] } }, 4), FormatError, /begin, end/],
    [
      "a size that is not the shape's",
      header({ a: f32(0, 8, [3]) }, 8),
      FormatError,
      /takes 12 bytes, its data_offsets 0 to 8 are 8/,
    ],
    ["a shape that overflows", header({ a: f32(0, 4, [2 ** 31, 2 ** 31, 2 ** 31]) }, 4), FormatError, /are 4/],
    ["data behind the end", header({ a: f32(0, 4), b: f32(4, 12) }, 8), FormatError, /truncated: b ends at byte/],
    [
      "overlapping tensors",
      header({ a: f32(0, 8), b: f32(4, 12) }, 12),
      FormatError,
      /b begins at byte \d+, inside of a/,
    ],
    [
      "a gap between tensors",
      header({ a: f32(0, 4), b: f32(8, 12) }, 12),
      FormatError,
      /bytes \d+ to \d+, behind a, belong to no/,
    ],
    ["bytes behind the last tensor", header({ a: f32(0, 4) }, 5), FormatError, /end at byte \d+, the file at \d+/],
    [
      "a tensor of another model",
      safetensors([floats("transformer.wte", [2, 2])]),
      FormatError,
      /missing: model.embed_tokens/,
    ],
  ]
  for (const [name, bytes, kind, message] of cases) {
    test(name, () => {
      const folder = copy("sound")
      writeFileSync(join(folder, "model.safetensors"), bytes)
      expectError(folder, kind, message)
    })
  }

  test("a tensor more, one of whole numbers, one of another shape", () => {
    const stored = readStored(join(root, "sound", "model.safetensors"))
    const write = (tensors: Stored[]) => {
      const folder = copy("sound")
      writeFileSync(join(folder, "model.safetensors"), safetensors(tensors))
      return folder
    }
    expectError(
      write([...stored, floats("model.layers.1.mlp.up_proj.weight", [1])]),
      UnsupportedError,
      /llama does not have: model.layers.1/,
    )
    const replace = (with_: Partial<Stored>) => stored.map((tensor, i) => (i === 0 ? { ...tensor, ...with_ } : tensor))
    expectError(
      write(replace({ dtype: "I16" })),
      UnsupportedError,
      /embed_tokens.weight is of type I16; known: F32, F16, BF16/,
    )
    expectError(write(replace({ shape: [32, 300] })), FormatError, /shape \[32, 300\], config.json says \[300, 32\]/)
    // What old checkpoints hold besides is no tensor of the model.
    using source = openCheckpoint(write([...stored, floats("model.layers.0.self_attn.rotary_emb.inv_freq", [8])]))
    expect(source.tensors.length).toBe(stored.length)
  })

  test("a file that ends while it is read", () => {
    const folder = copy("sound")
    using source = openCheckpoint(folder)
    truncateSync(join(folder, "model.safetensors"), 20_000)
    const read = () => {
      for (const tensor of source.tensors) tensor.readRows(0, new Uint8Array(rowCount(tensor) * rowBytes(tensor)))
    }
    expect(read).toThrow(/truncated: \d+ bytes from byte \d+ are needed, the file ends at 20000/)
  })
})

describe("shards", () => {
  const INDEX = "model.safetensors.index.json"
  const shard = (i: number) => `model-0000${i}-of-00003.safetensors`
  const weights = (json: Json) => json.weight_map as Record<string, string>

  test("are found without an index too", () => {
    const folder = copy("sharded")
    rmSync(join(folder, INDEX))
    using source = openCheckpoint(folder)
    using whole = openCheckpoint(join(root, "sound"))
    expect(source.tensors.map(({ name }) => name)).toEqual(whole.tensors.map(({ name }) => name))
  })

  test("one is missing", () => {
    for (const hasIndex of [true, false]) {
      const folder = copy("sharded")
      rmSync(join(folder, shard(2)))
      if (!hasIndex) rmSync(join(folder, INDEX))
      expectError(folder, ModelUnavailableError, /1 of 3 files are missing: model-00002-of-00003/)
    }
  })

  test("one is cut short", () => {
    const folder = copy("sharded")
    truncateSync(join(folder, shard(3)), 5000)
    expectError(folder, FormatError, /model-00003-of-00003.safetensors: truncated: /)
  })

  test("two hold the same tensor", () => {
    const folder = copy("sharded")
    cpSync(join(folder, shard(1)), join(folder, shard(2)))
    expectError(folder, FormatError, /is in two files: .*00001-of-00003.* and .*00002-of-00003/)
  })

  test("the index says otherwise", () => {
    const cases: [(json: Json) => void, RegExp][] = [
      [
        (json) => (weights(json)["model.norm.weight"] = shard(1)),
        /has model.norm.weight in .*00001-of.* but it is in .*0000[23]-of/,
      ],
      [(json) => (weights(json).more = shard(1)), /has more in .* but it is in none/],
      [(json) => delete weights(json)["model.norm.weight"], /does not list model.norm.weight, .*0000\d-of/],
      [
        (json) => (weights(json)["model.norm.weight"] = "../model.safetensors"),
        /"..\/model.safetensors", the name of a .safetensors/,
      ],
      [(json) => (weights(json)["model.norm.weight"] = "/etc/passwd"), /the name of a .safetensors file is needed/],
      [(json) => (json.weight_map = {}), /weight_map is empty/],
      [(json) => delete json.weight_map, /weight_map is missing/],
    ]
    for (const [edit, message] of cases) {
      const folder = copy("sharded")
      change(folder, INDEX, edit)
      expectError(folder, FormatError, message)
    }
  })
})

function readStored(path: string): Stored[] {
  const file = readFileSync(path)
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString("utf8", 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  return Object.entries(header).flatMap(([name, entry]) => {
    if (name === "__metadata__") return []
    const [begin, end] = entry.data_offsets
    return {
      name,
      dtype: entry.dtype,
      shape: entry.shape,
      data: new Uint8Array(file.subarray(start + begin, start + end)),
    }
  })
}

// ---- fuzz ----

const WILD: unknown[] = [
  ...[null, true, "", "x", [], {}, 0, -1, 0.5, 1e300, 2 ** 31, 2 ** 53, [1], ["a", "b"], { type: "Sequence" }],
  ...["__proto__", "constructor", "\ud800", "\u0000"],
]

/** Replaces, takes away or adds one thing somewhere in a JSON value. */
function mutateJson(value: unknown, next: () => number): unknown {
  const pick = <T>(values: readonly T[]) => values[Math.floor(next() * values.length)]!
  const isLeaf = typeof value !== "object" || value === null
  if (isLeaf || next() < 0.05) return pick(WILD)
  if (Array.isArray(value)) {
    const at = Math.floor(next() * (value.length + 1))
    if (next() < 0.2) return [...value.slice(0, at), ...value.slice(at + 1)]
    return value.length === 0
      ? [pick(WILD)]
      : value.with(Math.min(at, value.length - 1), mutateJson(value[Math.min(at, value.length - 1)], next))
  }
  const keys = Object.keys(value)
  const key = pick(keys.length === 0 ? ["x"] : keys)
  const copied: Json = { ...value }
  const dice = next()
  if (dice < 0.1) delete copied[key]
  else if (dice < 0.15) copied[pick(keys)] = copied[key]
  else copied[key] = mutateJson(copied[key], next)
  return copied
}

test("damage of any kind is a typed error or a sound source", () => {
  const next = random(Number(process.env.ASDSL_FUZZ_SEED ?? 1))
  const rounds = Number(process.env.ASDSL_FUZZ_ROUNDS ?? 600)
  const names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
  const sound = Object.fromEntries(names.map((name) => [name, readFileSync(join(root, "sound", name))]))
  const folder = copy("sound")
  const counts = { sound: 0, refused: 0 }
  for (let round = 0; round < rounds; round++) {
    const name = names[round % names.length]!
    const damaged = name === "model.safetensors" ? mutateWeights(sound[name]!, next) : mutateFile(sound[name]!, next)
    writeFileSync(join(folder, name), damaged)
    try {
      using source = openCheckpoint(folder)
      for (const tensor of source.tensors) tensor.readRows(0, new Uint8Array(rowCount(tensor) * rowBytes(tensor)))
      counts.sound++
    } catch (error) {
      if (!(error instanceof AsdslError)) throw new Error(`round ${round}, ${name}: ${(error as Error).stack}`)
      counts.refused++
    }
    writeFileSync(join(folder, name), sound[name]!)
  }
  // Both outcomes were reached, or this test shows nothing.
  expect(Math.min(counts.sound, counts.refused)).toBeGreaterThan(rounds / 20)
}, 60_000)

function mutateFile(file: Buffer, next: () => number): string | Uint8Array {
  if (next() < 0.2) return flipped(file, next)
  return JSON.stringify(mutateJson(JSON.parse(file.toString()), next))
}

function mutateWeights(file: Buffer, next: () => number): Uint8Array {
  const start = 8 + Number(file.readBigUInt64LE(0))
  if (next() < 0.2) return new Uint8Array(file.subarray(0, Math.floor(next() * file.length)))
  if (next() < 0.3) return flipped(file.subarray(0, start), next, file.subarray(start))
  const header = mutateJson(JSON.parse(file.toString("utf8", 8, start)), next)
  return withHeader(JSON.stringify(header) ?? "", [file.subarray(start)])
}

function flipped(bytes: Uint8Array, next: () => number, rest: Uint8Array = new Uint8Array(0)): Uint8Array {
  const damaged = new Uint8Array(bytes)
  for (let i = 0; i < 1 + next() * 3; i++) damaged[Math.floor(next() * damaged.length)] = Math.floor(next() * 256)
  return new Uint8Array(Buffer.concat([damaged, rest]))
}
