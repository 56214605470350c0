// Oracle: the same model in a file of the default alignment. Where a file's tensors lie changes nothing, to the bit.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readGguf } from "../src/gguf/reader.ts"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { writeGguf } from "../src/gguf/writer.ts"
import { load } from "../src/index.ts"
import { bits, TYPES, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-gguf-load-"))
afterAll(() => rmSync(folder, { recursive: true }))

async function logits(path: string): Promise<string> {
  using model = await load(path, { nThreads: 2 })
  using session = model.createSession()
  session.sync(tinyTokens(9))
  return bits(session.row().logits)
}

const typeName = (type: number) => Object.entries(TENSOR_TYPES).find(([, { id }]) => id === type)![0] as TensorTypeName

for (const type of TYPES) {
  test(`${type} at any alignment, in any order, in version 2 and 3`, async () => {
    const path = writeTinyModel({ path: join(folder, `${type}.gguf`), type, biases: true })
    const expected = await logits(path)
    const { metadata, metadataTypes, tensors } = readGguf(path)
    const file = readFileSync(path)
    const other = join(folder, "other.gguf")
    for (const alignment of [1, 2, 4096]) {
      writeGguf(other, {
        metadata: new Map([...metadata, ["general.alignment", alignment], ["x".repeat(alignment % 7), 0]]),
        metadataTypes,
        tensors: [...tensors.values()].reverse().map((info) => ({
          name: info.name,
          type: typeName(info.type),
          shape: info.shape,
          data: () => [file.subarray(info.offset, info.offset + info.bytes)],
        })),
      })
      expect(readGguf(other).alignment).toBe(alignment)
      expect(await logits(other)).toBe(expected)
    }
    const version2 = new Uint8Array(file)
    version2[4] = 2 // the same layout: version 3 only allows for big-endian files
    writeFileSync(other, version2)
    expect(readGguf(other).version).toBe(2)
    expect(await logits(other)).toBe(expected)
  })
}
