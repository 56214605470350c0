// Oracle: the Python package gguf on the same files (expected/gguf.json, written by fixtures/make-gguf-expected.py).

import { describe, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type GgufFile, readGguf } from "../../src/gguf/reader.ts"
import { isStringArray } from "../../src/gguf/strings.ts"
import type { MetadataValue } from "../../src/gguf/types.ts"
import expected from "./expected/gguf.json"

const data = process.env.ASDSL_TEST_DATA
if (data === undefined) console.error("skipped: the GGUF files of ASDSL_TEST_DATA, which is not set")

const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex")

function describeValue(value: MetadataValue, type: string): unknown {
  if (typeof value !== "object") return { type, value }
  if (Array.isArray(value)) throw new Error("no nested array is expected")
  const digest = createHash("sha256")
  if (isStringArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const bytes = value.bytes(i)
      digest.update(new Uint8Array(Uint32Array.of(bytes.length).buffer)).update(bytes)
    }
  } else {
    digest.update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
  }
  return { type, length: value.length, sha256: digest.digest("hex") }
}

function describeTensors({ path, tensors }: GgufFile): string {
  const file = readFileSync(path)
  const lines = [...tensors.values()].map(({ name, type, shape, offset, bytes }) => {
    const hash = sha256(file.subarray(offset, offset + bytes))
    return `${name} ${type} ${shape.join(",")} ${offset} ${bytes} ${hash}\n`
  })
  return sha256(lines.join(""))
}

describe.skipIf(data === undefined)("reads what the Python package reads", () => {
  for (const [name, stored] of Object.entries(expected.files)) {
    test(name, () => {
      const path = join(data!, name)
      expect(sha256(readFileSync(path))).toBe(stored.fileSha256)
      const file = readGguf(path)
      const metadata = Object.fromEntries(
        [...file.metadata].map(([key, value]) => [key, describeValue(value, file.metadataTypes.get(key)!)]),
      )
      expect(metadata).toEqual(stored.metadata)
      expect(Object.keys(metadata)).toEqual(Object.keys(stored.metadata))
      expect([file.version, file.alignment, file.tensors.size]).toEqual([
        stored.version,
        stored.alignment,
        stored.nTensors,
      ])
      expect(describeTensors(file)).toBe(stored.tensorsSha256)
    })
  }
})
