// Tokenizers against stored expectations: the cases of the five shared vocabularies (oracle: llama.cpp's own test data)
// and 1,000 lines of Shakespeare and WikiText (oracle: llama.cpp on the default model, expected/tokens.json, written by
// bench/peers/oracle/tokens.mjs).

import { describe, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { inflateRawSync } from "node:zlib"
import { defaultModelPath, tokenizerOf } from "../tokenizer-fixtures.ts"
import expected from "./expected/tokens.json"

const data = process.env.ASDSL_TEST_DATA
const skip = data === undefined
const folder = data ?? ""

describe.skipIf(skip)("the shared vocabularies", () => {
  for (const name of ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2"]) {
    test(name, () => {
      const path = join(folder, `vocab/ggml-vocab-${name}.gguf`)
      const t = tokenizerOf(path)
      const inputs = readFileSync(`${path}.inp`, "utf8").split("\n__ggml_vocab_test__\n")
      const outputs = readFileSync(`${path}.out`, "utf8").split("\n")
      expect(inputs.length).toBeGreaterThan(40)
      expect(outputs.length).toBeGreaterThanOrEqual(inputs.length)
      inputs.forEach((text, i) => {
        const ids = outputs[i]!.trim().split(/\s+/).filter(Boolean).map(Number)
        expect({ text, ids: Array.from(t.encode(text)) }).toEqual({ text, ids })
        expect(t.decode(t.encode(text))).toBe(text)
      })
    })
  }
})

function readVarints(base64: string): number[] {
  const numbers: number[] = []
  let value = 0
  let shift = 0
  for (const byte of inflateRawSync(Buffer.from(base64, "base64"))) {
    value |= (byte & 0x7f) << shift
    shift += 7
    if (byte < 0x80) {
      numbers.push(value)
      value = 0
      shift = 0
    }
  }
  return numbers
}

describe.skipIf(skip)("the default model's tokens are llama.cpp's", () => {
  for (const file of expected.files) {
    test(file.path, () => {
      const bytes = readFileSync(join(folder, file.path))
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(file.sha256)
      const lines = bytes
        .toString("utf8")
        .split("\n")
        .filter((line) => line.trim() !== "")
      const t = tokenizerOf(defaultModelPath)
      const numbers = readVarints(file.tokens)
      let at = 0
      for (let i = 0; i < file.nLines; i++) {
        const line = lines[Math.floor((i * lines.length) / file.nLines)]!
        const count = numbers[at]!
        const ids = numbers.slice(at + 1, at + 1 + count)
        at += 1 + count
        expect({ line, ids: Array.from(t.encode(line)) }).toEqual({ line, ids })
      }
      expect(at).toBe(numbers.length)
    })
  }
})
