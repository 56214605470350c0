// Child process of gguf-fuzz.test.ts: damages sound GGUF files and reads what comes of it, the models among them through
// load() and a token of evaluation. Usage: bun test/gguf-fuzz-child.ts SEED FILES LOADS FOLDER; prints counts as JSON.
// The mutant at hand is the file SEED.gguf in FOLDER: after a crash it is still there.

import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { AsdslError } from "../src/errors.ts"
import { readGguf } from "../src/gguf/reader.ts"
import { FlatStrings } from "../src/gguf/strings.ts"
import { type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { type TensorData, writeGguf } from "../src/gguf/writer.ts"
import { type LoadOptions, load } from "../src/index.ts"
import { fieldsOf, type GgufField } from "./fixtures/gguf-fields.ts"
import { writeRandomModel } from "./fixtures/random-model.ts"
import { LEVELS, TYPES } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

const [seed = 1, nFiles = 100, nLoads = 10] = process.argv.slice(2, 5).map(Number)
const path = join(process.argv[5]!, `${seed}.gguf`)

const next = random(seed)
const whole = (n: number) => Math.floor(next() * n)
const pick = <T>(values: readonly T[]) => values[whole(values.length)]!

// ---- sound files ----

interface Original {
  readonly bytes: Uint8Array
  readonly fields: GgufField[]
  readonly byKind: readonly (readonly GgufField[])[]
}

function original(write: (path: string) => void): Original {
  write(path)
  readGguf(path)
  const bytes = new Uint8Array(readFileSync(path))
  const fields = fieldsOf(bytes)
  const kinds = [...new Set(fields.map(({ kind }) => kind))]
  return { bytes, fields, byKind: kinds.map((kind) => fields.filter((field) => field.kind === kind)) }
}

/** Every metadata type and every tensor type. */
function writeVariety(to: string): void {
  const metadata = new Map<string, MetadataValue>([
    ["general.alignment", 64],
    ...[0, -1, 0.5, 1e300, true, 2n ** 60n, -(2n ** 60n), "text"].map((value, i) => [`scalar.${i}`, value] as const),
    ["bytes", new Uint8Array(5)],
    ["shorts", new Int16Array(3)],
    ["floats", new Float32Array(9)],
    ["longs", new BigInt64Array(2)],
    ["strings", FlatStrings.from(["a", "bc", "", "\u2581def"])],
    ["nested", [new Uint32Array(2), FlatStrings.from(["x"]), [new Float64Array(1), []]]],
  ])
  const tensors = Object.entries(TENSOR_TYPES).map(([type, { block, bytes }], i): TensorData => {
    const shape = [2 * block, 3, 1, 1].slice(0, 1 + (i % 4))
    const n = shape.reduce((product, size) => product * size, 1)
    const data = () => [new Uint8Array((n / block) * bytes)]
    return { name: `t${i}`, type: type as TensorTypeName, shape, data }
  })
  writeGguf(to, { metadata, tensors })
}

function modelOf(type: TensorTypeName, nVocab: number): Original {
  const isWide = TENSOR_TYPES[type].block === 256
  const [dim, nHeads, nKvHeads] = isWide ? [256, 4, 2] : [32, 4, 2]
  return original((to) =>
    writeRandomModel(to, {
      ...{ seed, type, nLayers: 1, dim, nHeads, nKvHeads, nFfn: dim, nVocab, nCtx: 32 },
      ...{ tied: seed % 2 === 0, biases: true },
    }),
  )
}

// ---- damage ----

const WORDS = [0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 31, 32, 33, 64, 255, 256, 65535, 65536, 2 ** 24, 2 ** 31 - 1, 2 ** 31]
const WILD = [2 ** 32 - 1, 2 ** 32, 2 ** 40, 2 ** 53, 2 ** 63, 2 ** 64 - 2048]
const FLOATS = [0, -1, 1e-30, 1e30, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]

/** One mutation of a copy; returns what is left of it. */
function damage({ fields, byKind }: Original, bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer)
  const field = pick(pick(byKind))
  const { at, bytes: n } = field
  if (at + n > bytes.length) return bytes // an earlier mutation has cut it off
  switch (whole(12)) {
    case 0:
      return bytes.subarray(0, whole(bytes.length)) // anywhere, mostly in the data
    case 1:
      return bytes.subarray(0, Math.max(0, at + pick([-1, 0, 1, n - 1, n, whole(n + 1)])))
    case 2:
    case 3: {
      const header = fields.at(-1)!.at + 8
      for (let k = 1 + whole(4); k > 0; k--) {
        const i = Math.min(whole(3) === 0 ? whole(bytes.length) : whole(header), bytes.length - 1)
        bytes[i]! ^= 1 << whole(8)
      }
      return bytes
    }
    case 4: {
      // another field of the same kind and size in this place
      const other = pick(fields.filter((each) => each.kind === field.kind && each.bytes === n))
      if (other.at + n <= bytes.length) bytes.copyWithin(at, other.at, other.at + n)
      return bytes
    }
    case 5: {
      // a span of the header moved over another
      const from = whole(bytes.length)
      bytes.copyWithin(at, from, from + 1 + whole(64))
      return bytes
    }
    case 6: {
      // bytes cut out, so that everything behind them slips
      const cut = pick([1, 4, 8, n, whole(100)])
      return Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + cut)])
    }
    default:
      overwrite(view, field)
      return bytes
  }
}

function overwrite(view: DataView, { kind, at, bytes: n }: GgufField): void {
  if (n === 0) return
  if (kind === "text" || (n !== 4 && n !== 8)) {
    view.setUint8(at + whole(n), whole(256))
  } else if (n === 4) {
    const type = pick(Object.values(TENSOR_TYPES)).id
    const before = view.getUint32(at, true)
    if (kind === "value" && whole(3) === 0) view.setFloat32(at, pick(FLOATS), true)
    else if (kind === "tensor type" && whole(2) === 0) view.setUint32(at, type, true)
    else view.setUint32(at, pick([...WORDS, before + 1, before - 1, 2 * before, whole(2 ** 32), 2 ** 32 - 1]), true)
  } else {
    const before = Number(view.getBigUint64(at, true))
    const nearby = [before + 1, Math.max(0, before - 1), 2 * before, before + 32, Math.floor(before / 2)]
    view.setBigUint64(at, BigInt(pick([...WORDS, ...WILD, ...nearby, ...nearby, view.byteLength])), true)
  }
}

/** Another model, in a file that is mostly sound: other metadata, shapes, tensor types, places, names, weights. */
function otherModel({ bytes: from, fields, byKind }: Original): Uint8Array {
  const bytes = from.slice()
  const telling = byKind.filter(([field]) => ["value", "size", "tensor type", "offset", "text"].includes(field!.kind))
  for (let n = 1 + whole(3); n > 0; n--) {
    const { kind, at, bytes: size } = pick(pick(telling))
    const alike = fields.filter((field) => field.kind === kind && field.bytes === size)
    if (whole(4) === 0) {
      const dataStart = fields.at(-1)!.at + 8
      for (let k = whole(400); k > 0; k--) bytes[dataStart + whole(bytes.length - dataStart)] = whole(256)
    } else if (whole(2) === 0) {
      overwrite(new DataView(bytes.buffer), { kind, at, bytes: size })
    } else {
      const other = pick(alike)
      bytes.copyWithin(at, other.at, other.at + size)
    }
  }
  return bytes
}

function mutantOf(from: Original): Uint8Array {
  let bytes: Uint8Array = from.bytes.slice()
  for (let n = pick([1, 1, 1, 1, 2, 3]); n > 0; n--) bytes = damage(from, bytes)
  return bytes
}

// ---- what comes of it ----

const counts = { read: 0, refused: 0, ran: 0, failed: 0, slowestMs: 0, grownMb: 0 }
const before = process.memoryUsage().rss

/** Errors on purpose are fine; anything else ends the process. */
async function attempt(body: () => unknown, ok: "read" | "ran", bad: "refused" | "failed"): Promise<void> {
  const since = performance.now()
  try {
    await body()
    counts[ok]++
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    counts[bad]++
  }
  counts.slowestMs = Math.max(counts.slowestMs, Math.round(performance.now() - since))
  counts.grownMb = Math.max(counts.grownMb, Math.round((process.memoryUsage().rss - before) / 2 ** 20))
}

async function run(): Promise<void> {
  const options: LoadOptions = { nThreads: 1, level: pick(LEVELS), ...(whole(4) === 0 ? {} : { nCtx: 16, nUbatch: 8 }) }
  using model = await load(path, options)
  using session = model.createSession()
  session.sync([1, 2, 3])
  session.row()
  const { tokenizer } = model
  tokenizer.decode(tokenizer.encode("a word, \u00e9", { addSpecial: true, parseSpecial: true }))
}

const models = TYPES.map((type) => modelOf(type, type === "F32" ? 400 : 40))
const originals = [original(writeVariety), original(writeVariety), models[0]!, pick(models)]

for (let i = 0; i < nFiles; i++) {
  writeFileSync(path, mutantOf(pick(originals)))
  await attempt(() => readGguf(path), "read", "refused")
}
for (let i = 0; i < nLoads; i++) {
  const from = pick(models)
  const make = pick([otherModel, otherModel, mutantOf])
  writeFileSync(path, i % 16 === 0 ? from.bytes : make(from)) // one in sixteen stays sound
  await attempt(run, "ran", "failed")
}
console.log(JSON.stringify(counts))
