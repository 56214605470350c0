// asdsl quantize from file to file. Oracles: src/gguf/dequantize.ts, which test/dequantize holds to the reference package;
// the plain quantisers of fixtures/quantize.ts, which round to nearest and search nothing: ours may never be worse.

import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ArgumentError, CancelledError, FormatError } from "../src/errors.ts"
import { dequantize } from "../src/gguf/dequantize.ts"
import { type GgufFile, readGguf } from "../src/gguf/reader.ts"
import { isStringArray } from "../src/gguf/strings.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { writeGguf } from "../src/gguf/writer.ts"
import { load } from "../src/model.ts"
import { Buffer, Engine } from "../src/native/handles.ts"
import { estimateImportance } from "../src/quantize/estimate.ts"
import { openGgufSource } from "../src/quantize/gguf-source.ts"
import { Importance, readImportance } from "../src/quantize/importance.ts"
import { planTypes } from "../src/quantize/policy.ts"
import { quantizeModel } from "../src/quantize/quantize.ts"
import type { ModelSource } from "../src/quantize/source.ts"
import { ENCODED_TYPES, MIXTURES, type MixtureName } from "../src/quantize/types.ts"
import { quantize } from "./fixtures/quantize.ts"
import { weightsOf } from "./fixtures/quantize-cases.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { splitModel } from "./fixtures/split-model.ts"
import { LEVELS } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

const root = mkdtempSync(join(tmpdir(), "asdsl-quantize-"))
afterAll(() => rmSync(root, { recursive: true }))

const MAIN = join(import.meta.dir, "../src/cli/main.ts")
const IN = join(root, "in.gguf")
const SHAPE = { dim: 256, nHeads: 4, nKvHeads: 2, nFfn: 512, nVocab: 320, nCtx: 64, nLayers: 2, biases: false }
writeRandomModel(IN, { ...SHAPE, seed: 3, type: "F16", tied: true })

/** x encoded by an engine. */
function encode(
  engine: Engine,
  type: TensorTypeName,
  x: Float32Array<ArrayBufferLike>,
  cols: number,
  importance?: Float32Array,
) {
  const rows = x.length / cols
  using source = Buffer.create(x.byteLength)
  using target = Buffer.create((x.length / TENSOR_TYPES[type].block) * TENSOR_TYPES[type].bytes)
  using weights = importance === undefined ? undefined : Buffer.create(importance.byteLength)
  new Float32Array(source.view(0, x.byteLength)).set(x)
  if (importance !== undefined) new Float32Array(weights!.view(0, importance.byteLength)).set(importance)
  const nNotFinite = engine.quantize({
    ...{ source, sourceOffset: 0, sourceType: TENSOR_TYPES.F32.id, target, targetOffset: 0 },
    ...{ targetType: TENSOR_TYPES[type].id, rows, cols },
    importance: weights === undefined ? undefined : { buffer: weights, offset: 0 },
  })
  return { bytes: new Uint8Array(target.view(0, target.bytes)).slice(), nNotFinite }
}

/** What the encoders make small: csrc/kernels/encode.h. */
function errorOf(type: TensorTypeName, x: Float32Array, bytes: Uint8Array, importance?: Float32Array): number {
  const y = dequantize(TENSOR_TYPES[type].id, bytes, x.length)
  const weights = weightsOf(type, x)
  return x.reduce((sum, v, i) => sum + (importance?.[i % importance.length] ?? 1) * weights[i]! * (v - y[i]!) ** 2, 0)
}

const KINDS: Record<string, (next: () => number, i: number) => number> = {
  plain: (next) => next() + next() + next() - 1.5,
  "heavy tails": (next) => (next() - 0.5) ** 5,
  constant: () => 0.3,
  "constant below 0": () => -0.3,
  "all above 0": (next) => 1 + next(),
  tiny: (next) => (next() - 0.5) * 1e-5,
  huge: (next) => (next() - 0.5) * 6e4,
  outliers: (next, i) => (i % 61 === 0 ? 50 : 1) * (next() - 0.5),
  "one weight": (_next, i) => (i % 256 === 77 ? -3 : 0),
  zero: () => 0,
}

describe("never worse than rounding to nearest", () => {
  for (const type of ENCODED_TYPES) {
    test(type, () => {
      using engine = Engine.create({ nThreads: 1 })
      for (const [kind, value] of Object.entries(KINDS)) {
        const next = random(11)
        const x = Float32Array.from({ length: 4096 }, (_, i) => value(next, i))
        const importance = Float32Array.from({ length: 512 }, () => Math.exp(4 * next() - 2))
        const plain = quantize(type, x)
        for (const weights of [undefined, importance]) {
          const error = errorOf(type, x, encode(engine, type, x, 512, weights).bytes, weights)
          const most = errorOf(type, x, plain, weights)
          const isBetter = error <= most * (1 + 1e-6)
          expect({ kind, isWeighted: weights !== undefined, isBetter }).toEqual({
            kind,
            isWeighted: weights !== undefined,
            isBetter: true,
          })
        }
      }
    })
  }
})

test("what lies on a grid is found again", () => {
  using engine = Engine.create({ nThreads: 1 })
  const next = random(5)
  for (const type of ENCODED_TYPES) {
    const { id } = TENSOR_TYPES[type]
    const x = Float32Array.from({ length: 2048 }, () => next() - 0.5)
    const once = dequantize(id, encode(engine, type, x, 1024).bytes, x.length)
    const error = errorOf(type, once, encode(engine, type, once, 1024).bytes)
    const first = errorOf(type, x, encode(engine, type, x, 1024).bytes)
    expect({ type, isFound: error <= first / 10 }).toEqual({ type, isFound: true })
  }
})

test("the same bytes at every level, with any number of threads, from any place", () => {
  const next = random(7)
  const x = Float32Array.from({ length: 37 * 768 }, () => (next() - 0.5) ** 3)
  for (const type of ENCODED_TYPES) {
    using first = Engine.create({ nThreads: 1, level: "portable" })
    const expected = encode(first, type, x, 768).bytes
    for (const level of LEVELS) {
      for (const nThreads of level === LEVELS.at(-1) ? [1, 2, 3] : [2]) {
        using engine = Engine.create({ nThreads, level })
        expect(Bun.hash(encode(engine, type, x, 768).bytes)).toBe(Bun.hash(expected))
      }
    }
    const row = encode(first, type, x.subarray(36 * 768), 768).bytes
    expect(row).toEqual(expected.subarray(expected.length - row.length))
  }
})

test("every type is read", () => {
  using engine = Engine.create({ nThreads: 2 })
  const next = random(9)
  for (const type of Object.keys(TENSOR_TYPES) as TensorTypeName[]) {
    const x = Float32Array.from({ length: 19 * 256 }, () => next() - 0.5)
    const bytes = quantize(type, x)
    using source = Buffer.create(bytes.length)
    using target = Buffer.create(4 * x.length)
    new Uint8Array(source.view(0, bytes.length)).set(bytes)
    engine.quantize({
      ...{ source, sourceOffset: 0, sourceType: TENSOR_TYPES[type].id, target, targetOffset: 0 },
      ...{ targetType: TENSOR_TYPES.F32.id, rows: 19, cols: 256 },
    })
    const y = new Float32Array(target.view(0, target.bytes)).slice()
    expect(y).toEqual(new Float32Array(dequantize(TENSOR_TYPES[type].id, bytes, x.length)))
  }
})

test("jobs that go out of bounds or make no sense are refused", () => {
  using engine = Engine.create({ nThreads: 1 })
  using buffer = Buffer.create(4096)
  using other = Buffer.create(4096)
  const job = {
    ...{ source: buffer, sourceOffset: 0, sourceType: 0, target: other, targetOffset: 0, targetType: 12 },
    ...{ rows: 1, cols: 256 },
  }
  expect(engine.quantize(job)).toBe(0)
  for (const [change, message] of [
    [{ cols: 224 }, /a 1 x 224 matrix from f32 to q4_k: the second must be a multiple of 1 and of 256/],
    [{ rows: 5 }, /source needs 5120 bytes at 0, the buffer has 4096/],
    [{ targetOffset: 4000 }, /destination needs 144 bytes at 4000/],
    [{ targetType: 10 }, /q2_k\) cannot be made/],
    [{ targetType: 99 }, /unknown\) cannot be made/],
    [{ sourceType: 99 }, /unknown tensor type 99/],
    [{ target: buffer }, /overlap/],
    [{ importance: { buffer: other, offset: 4000 } }, /importance needs 1024 bytes at 4000/],
  ] as const) {
    expect(() => engine.quantize({ ...job, ...change })).toThrow(message)
  }
  new Float32Array(other.view(0, 1024)).fill(-1)
  expect(() =>
    engine.quantize({ ...job, target: buffer, targetOffset: 2048, importance: { buffer: other, offset: 0 } }),
  ).toThrow(/importance 0 is -1/)
})

// ---- files ----

const plain = (value: MetadataValue) =>
  isStringArray(value) ? Array.from({ length: value.length }, (_, i) => value.at(i)) : value
const rows = (file: GgufFile) => [...file.tensors.values()]

async function quantizeTo(
  mixture: MixtureName,
  output: string,
  input = IN,
  importance?: Importance,
): Promise<GgufFile> {
  using source = openGgufSource(input)
  using engine = Engine.create({ nThreads: 2 })
  const types = planTypes(source.tensors, source.metadata, { mixture, hasImportance: importance !== undefined })
  await quantizeModel(source, output, { types, engine, importance, fileType: MIXTURES[mixture].fileType })
  return readGguf(output)
}

describe("a file", () => {
  for (const mixture of Object.keys(MIXTURES) as MixtureName[]) {
    test(`of ${mixture} loads, and has everything else of its source`, async () => {
      const before = readGguf(IN)
      const after = await quantizeTo(mixture, join(root, `${mixture}.gguf`))
      expect(rows(after).map(({ name, shape }) => ({ name, shape }))).toEqual(
        rows(before).map(({ name, shape }) => ({ name, shape })),
      )
      const { fileType } = MIXTURES[mixture]
      expect(after.metadata.get("general.file_type")).toBe(fileType)
      expect(after.metadata.get("general.quantization_version")).toBe(2)
      for (const [key, value] of before.metadata) {
        if (key !== "general.file_type")
          expect({ key, value: plain(after.metadata.get(key)!) }).toEqual({ key, value: plain(value) })
        expect(after.metadataTypes.get(key)).toBe(before.metadataTypes.get(key))
      }
      using model = await load(after.path, { nThreads: 1 })
      using session = model.createSession()
      session.sync([1, 5, 7])
      expect(session.row().nNotFinite).toBe(0)
    })
  }

  test("keeps what it does not quantise to the byte, and is the same every time", async () => {
    const first = await quantizeTo("Q4_K_M", join(root, "a.gguf"))
    await quantizeTo("Q4_K_M", join(root, "b.gguf"))
    expect(readFileSync(join(root, "a.gguf"))).toEqual(readFileSync(join(root, "b.gguf")))
    const data = (file: GgufFile, name: string) => {
      const { offset, bytes } = file.tensors.get(name)!
      return readFileSync(file.path).subarray(offset, offset + bytes)
    }
    const before = readGguf(IN)
    for (const name of ["output_norm.weight", "blk.1.ffn_norm.weight"]) {
      expect(data(first, name)).toEqual(data(before, name))
    }
  })

  test("from a split model is one file", async () => {
    const path = splitModel(IN, root, "split", 3)[1]!
    const joined = await quantizeTo("Q4_K_S", join(root, "joined.gguf"), path)
    const whole = await quantizeTo("Q4_K_S", join(root, "whole.gguf"))
    expect(joined.metadata.has("split.count")).toBe(false)
    const sorted = (file: GgufFile) =>
      rows(file)
        .map(({ name, type }) => `${name} ${type}`)
        .sort()
    expect(sorted(joined)).toEqual(sorted(whole))
  })

  test("with weights that are not finite is refused, and nothing is left", async () => {
    const path = join(root, "nan.gguf")
    const data = new Float32Array(512)
    data[300] = Number.NaN
    const tensor = {
      name: "blk.0.attn_q.weight",
      type: "F32" as const,
      shape: [256, 2],
      data: () => [new Uint8Array(data.buffer)],
    }
    writeGguf(path, { metadata: new Map([["general.architecture", "llama"]]), tensors: [tensor] })
    const output = join(root, "nan-out.gguf")
    await expect(quantizeTo("Q8_0", output, path)).rejects.toThrow(FormatError)
    await expect(quantizeTo("Q8_0", output, path)).rejects.toThrow(
      /blk.0.attn_q.weight has 1 weights that are not finite/,
    )
    expect(readdirSync(root).filter((name) => name.startsWith("nan-out"))).toEqual([])
  })

  test("that is cancelled is not there", async () => {
    const output = join(root, "cancelled.gguf")
    using source = openGgufSource(IN)
    using engine = Engine.create({ nThreads: 1 })
    const controller = new AbortController()
    const types = planTypes(source.tensors, source.metadata, { mixture: "Q4_0" })
    const done = quantizeModel(source, output, {
      ...{ types, engine, fileType: 2, signal: controller.signal },
      onProgress: (bytes, total) => bytes > total / 3 && controller.abort(),
    })
    await expect(done).rejects.toThrow(CancelledError)
    expect(readdirSync(root).filter((name) => name.startsWith("cancelled"))).toEqual([])
  })
})

test("a draft has 4.5 bits in every matrix, whether or not 256 divides its rows, and 3.4 in ffn_down", async () => {
  const odd = join(root, "odd.gguf")
  writeRandomModel(odd, { ...SHAPE, dim: 224, nHeads: 7, nKvHeads: 1, seed: 3, type: "F16", tied: false })
  const typesOf = ({ tensors, metadata }: ModelSource) =>
    planTypes(tensors, metadata, { mixture: "Q4_K_S", forDraft: true })
  using even = openGgufSource(IN)
  for (const [i, type] of typesOf(even).entries()) {
    const { name, shape } = even.tensors[i]!
    if (shape.length > 1) expect(type).toBe(name.includes("ffn_down") ? "Q3_K" : "Q4_K")
  }
  using source = openGgufSource(odd)
  using engine = Engine.create({ nThreads: 2 })
  const types = typesOf(source)
  for (const [i, { shape }] of source.tensors.entries()) {
    if (shape.length > 1) expect(types[i]).toBe(shape[0] === 512 ? "Q3_K" : "IQ4_NL")
  }
  const path = join(root, "draft.gguf")
  await quantizeModel(source, path, { types, engine, fileType: 25 })
  using model = await load(path, { nThreads: 1 })
  using session = model.createSession()
  session.sync([1, 5, 7])
  expect(session.row().nNotFinite).toBe(0)
})

// ---- importance ----

describe("an importance matrix", () => {
  const name = "blk.0.ffn_down.weight"
  const sums = Float32Array.from({ length: 512 }, (_, i) => (i % 16 === 0 ? 4000 : 1))
  const make = (entries: Record<string, { sums: Float32Array; counts: Float32Array }>) =>
    new Importance("made up", new Map(Object.entries(entries)), { dataset: "a text", chunkSize: 64, nChunks: 3 })

  test("is written and read", () => {
    const path = join(root, "imatrix.gguf")
    make({ [name]: { sums, counts: Float32Array.of(192) } }).write(path)
    const read = readImportance(path)
    expect(read.facts).toEqual({ dataset: "a text", chunkSize: 64, nChunks: 3 })
    const values = read.of({ name, type: "F16", shape: [512, 256] }, 0)!
    const mean = sums.reduce((sum, value) => sum + value, 0) / 512
    expect(values).toEqual(sums.map((value) => value / mean))
    expect(read.of({ name: "blk.1.ffn_down.weight", type: "F16", shape: [512, 256] }, 0)).toBeUndefined()
    expect(() => read.of({ name, type: "F16", shape: [256, 256] }, 0)).toThrow(ArgumentError)
    expect(() => readImportance(IN)).toThrow(/no imatrix/)
  })

  test("moves error from the inputs that matter to the others", async () => {
    const importance = make({ [name]: { sums, counts: Float32Array.of(192) } })
    const plain = await quantizeTo("Q4_K_S", join(root, "plain.gguf"))
    const weighted = await quantizeTo("Q4_K_S", join(root, "weighted.gguf"), IN, importance)
    expect(weighted.metadata.get("quantize.imatrix.chunks_count")).toBe(3)
    const values = (file: GgufFile) => {
      const { type, offset, bytes, shape } = file.tensors.get(name)!
      return dequantize(type, readFileSync(file.path).subarray(offset, offset + bytes), shape[0]! * shape[1]!)
    }
    const [x, a, b] = [readGguf(IN), plain, weighted].map(values) as [Float32Array, Float32Array, Float32Array]
    const error = (y: Float32Array) => x.reduce((sum, v, i) => sum + sums[i % 512]! * (v - y[i]!) ** 2, 0)
    expect(error(b)).toBeLessThan(0.8 * error(a))
  })
})

// ---- the command ----

async function run(...args: string[]) {
  const child = Bun.spawn([process.execPath, MAIN, "quantize", ...args], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { code: await child.exited, stdout, stderr }
}

const PATIENCE = 60_000

describe("the command", () => {
  test(
    "--dry-run prints types and writes nothing",
    async () => {
      const output = join(root, "dry.gguf")
      const { code, stdout } = await run(IN, output, "q4_k_m", "--dry-run", "--tensor-type", "attn_[qk]=Q8_0")
      expect(code).toBe(0)
      expect(stdout).toMatch(/^token_embd\.weight +F16 +-> Q6_K +\[256, 320\]$/m)
      expect(stdout).toMatch(/^blk\.0\.attn_q\.weight +F16 +-> Q8_0 /m)
      expect(stdout).toMatch(/^blk\.0\.attn_norm\.weight +F32 +-> F32 /m)
      expect(stdout).toMatch(/bits a weight$/m)
      expect(existsSync(output)).toBe(false)
    },
    PATIENCE,
  )

  test(
    "writes the file that the library writes, silent in a pipe",
    async () => {
      const output = join(root, "command.gguf")
      using source = openGgufSource(IN)
      using engine = Engine.create({ nThreads: 2 })
      for (const importance of [await estimateImportance(source, { engine }), undefined]) {
        const options = importance === undefined ? ["--no-estimate"] : []
        const { code, stdout, stderr } = await run(IN, output, "Q5_K_M", "-t", "1", ...options)
        expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" })
        await quantizeTo("Q5_K_M", join(root, "library.gguf"), IN, importance)
        expect(readFileSync(output)).toEqual(readFileSync(join(root, "library.gguf")))
        const keys = [...readGguf(output).metadata.keys()]
        expect(keys.filter((key) => key.startsWith("quantize."))).toEqual([])
      }
    },
    PATIENCE,
  )

  test(
    "quantises a model that cannot be run, with a warning",
    async () => {
      const [input, output] = [join(root, "abacus.gguf"), join(root, "abacus-q4.gguf")]
      const { metadata, tensors } = readGguf(IN)
      const bytes = readFileSync(IN)
      writeGguf(input, {
        metadata: new Map([...metadata, ["general.architecture", "abacus"]]),
        tensors: [...tensors.values()].map(({ name, type, shape, offset, bytes: n }) => ({
          ...{ name, shape, type: type === TENSOR_TYPES.F32.id ? ("F32" as const) : ("F16" as const) },
          data: () => [bytes.subarray(offset, offset + n)],
        })),
      })
      const { code, stderr } = await run(input, output, "Q4_K_M")
      expect({ code, stderr }).toEqual({
        code: 0,
        stderr: expect.stringMatching(/^asdsl quantize: all inputs count alike.*architecture abacus is not supported/),
      })
      await run(input, join(root, "alike.gguf"), "Q4_K_M", "--no-estimate")
      expect(readFileSync(output)).toEqual(readFileSync(join(root, "alike.gguf")))
    },
    PATIENCE,
  )

  test(
    "refuses what is wrong",
    async () => {
      const output = join(root, "refused.gguf")
      for (const [args, code, message] of [
        [[IN, output], 2, /IN, OUT and TYPE are needed/],
        [[IN, output, "Q3"], 2, /TYPE is "Q3", allowed: Q4_K_M/],
        [[IN, IN, "Q4_0"], 2, /the same file/],
        [[IN, output, "Q4_0", "--tensor-type", "x=Q2_K"], 2, /REGEX=TYPE is needed/],
        [[IN, output, "Q4_0", "--tensor-type", "(=Q8_0"], 2, /--tensor-type/],
        [[IN, output, "Q8_0", "--for-draft"], 2, /4.5 bits/],
        [[join(root, "none.gguf"), output, "Q4_0"], 1, /there is no such file/],
        [[IN, join(root, "no/folder.gguf"), "Q4_0"], 1, /cannot be written/],
      ] as const) {
        const result = await run(...args)
        expect(result.code).toBe(code)
        expect(result.stderr).toMatch(message)
      }
      expect(existsSync(output)).toBe(false)
    },
    PATIENCE,
  )
})
