// A model off every quantiser's grid: the weights of a quantised file plus seeded uniform noise of half a step either way,
// saved as F16. A quantiser that only finds back the grid on which its source lies proves nothing; this source has none.
//
//   bun bench/offgrid.ts IN.gguf OUT.gguf

import { closeSync, openSync, readSync } from "node:fs"
import { dequantize } from "../src/gguf/dequantize.ts"
import { readModelHeader } from "../src/gguf/split.ts"
import { TENSOR_TYPES, type TensorInfo, type TensorTypeName } from "../src/gguf/types.ts"
import { type TensorData, writeGguf } from "../src/gguf/writer.ts"
import { Random } from "../src/random.ts"

const PIECE_BLOCKS = 2 ** 14

/** Bytes of one block -> the distance between neighbouring values of each of its sub-blocks, all of one width. */
type StepReader = (view: DataView, at: number) => number[]

const first = (view: DataView, at: number) => [Math.abs(view.getFloat16(at, true))]

function scaledSteps(view: DataView, at: number): number[] {
  const d = view.getFloat16(at, true)
  return Array.from({ length: 8 }, (_, sub) => {
    const a = view.getUint8(at + 4 + (sub & 3))
    const scale = sub < 4 ? a & 63 : (view.getUint8(at + 8 + sub) & 15) | ((a >> 6) << 4)
    return Math.abs(d * scale)
  })
}

/** Types that quantised files are made of; the layout of blocks is src/gguf/dequantize.ts's. */
const STEPS: Partial<Record<TensorTypeName, StepReader>> = {
  Q4_0: first,
  Q4_1: first,
  Q5_0: first,
  Q5_1: first,
  Q8_0: first,
  Q4_K: scaledSteps,
  Q5_K: scaledSteps,
  Q6_K: (view, at) =>
    Array.from({ length: 16 }, (_, sub) => Math.abs(view.getFloat16(at + 208, true) * view.getInt8(at + 192 + sub))),
}

export function writeOffGrid(input: string, output: string, seed = 7): void {
  const header = readModelHeader(input)
  const names = new Map<number, TensorTypeName>(
    Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name as TensorTypeName]),
  )
  const files = header.files.map((path) => openSync(path, "r"))
  const random = new Random(seed)
  const tensors = [...header.tensors.values()].map((info): TensorData => {
    const type = names.get(info.type)!
    const { name, shape } = info
    if (shape.length < 2) return { name, type, shape, data: () => [read(files[info.file]!, info.offset, info.bytes)] }
    return { name, type: "F16", shape, data: () => noisy(files[info.file]!, info, type, random) }
  })
  const { metadata, metadataTypes } = header
  writeGguf(output, { metadata: new Map([...metadata, ["general.file_type", 1]]), metadataTypes, tensors })
  for (const fd of files) closeSync(fd)
}

function read(fd: number, offset: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes)
  for (let done = 0; done < bytes; ) done += readSync(fd, out, done, bytes - done, offset + done)
  return out
}

function* noisy(fd: number, info: TensorInfo, type: TensorTypeName, random: Random): Iterable<Uint8Array> {
  const { block, bytes: blockBytes } = TENSOR_TYPES[type]
  const steps = STEPS[type]
  const nBlocks = info.bytes / blockBytes
  for (let done = 0; done < nBlocks; done += PIECE_BLOCKS) {
    const n = Math.min(PIECE_BLOCKS, nBlocks - done)
    const bytes = read(fd, info.offset + done * blockBytes, n * blockBytes)
    const values = dequantize(TENSOR_TYPES[type].id, bytes, n * block)
    const view = new DataView(bytes.buffer)
    for (let b = 0; b < n && steps !== undefined; b++) {
      const of = steps(view, b * blockBytes)
      const width = block / of.length
      for (let i = 0; i < block; i++)
        values[b * block + i]! += of[Math.floor(i / width)]! * (random.uint32() / 2 ** 32 - 0.5)
    }
    yield new Uint8Array(new Float16Array(values).buffer)
  }
}

if (import.meta.main) {
  const [input, output] = process.argv.slice(2)
  if (input === undefined || output === undefined) throw new Error("bun bench/offgrid.ts IN.gguf OUT.gguf")
  writeOffGrid(input, output)
}
