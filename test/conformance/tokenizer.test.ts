// Tokenizers against stored expectations: the cases of the five shared vocabularies (oracle: llama.cpp's own test data)
// and 1,000 lines of Shakespeare and WikiText (oracle: llama.cpp on the default model, expected/tokens.json, written by
// bench/peers/oracle/tokens.mjs). The vocabularies also have to give any text back, and a megabyte of it in time.

import { describe, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { inflateRawSync } from "node:zlib"
import { defaultModelPath, random, randomText, tokenizerOf } from "../tokenizer-fixtures.ts"
import expected from "./expected/tokens.json"

const data = process.env.ASDSL_TEST_DATA
const skip = data === undefined
const folder = data ?? ""

const VOCABULARIES = ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2"]
const vocabularyPath = (name: string) => join(folder, `vocab/ggml-vocab-${name}.gguf`)

describe.skipIf(skip)("the shared vocabularies", () => {
  for (const name of VOCABULARIES) {
    test(`${name}: every case of llama.cpp's`, () => {
      const path = vocabularyPath(name)
      const t = tokenizerOf(path)
      const inputs = readFileSync(`${path}.inp`, "utf8").split("\n__ggml_vocab_test__\n")
      const outputs = readFileSync(`${path}.out`, "utf8").split("\n")
      expect([inputs.length, outputs.length]).toEqual([47, 47])
      inputs.forEach((text, i) => {
        const ids = outputs[i]!.trim().split(/\s+/).filter(Boolean).map(Number)
        expect({ text, ids: Array.from(t.encode(text)) }).toEqual({ text, ids })
        expect(t.decode(t.encode(text))).toBe(text)
      })
    })

    test(`${name}: random text comes back`, () => {
      const t = tokenizerOf(vocabularyPath(name))
      const next = random(11)
      for (let i = 0; i < 300; i++) {
        let text = randomText(next, Math.floor(next() * 80)).toWellFormed()
        if (t.kind === "spm") text = text.replaceAll("\u2581", "") // its blank
        expect(t.decode(t.encode(text))).toBe(text)
      }
    })

    test(`${name}: a megabyte takes seconds at most`, () => {
      const t = tokenizerOf(vocabularyPath(name))
      const next = random(12)
      const bytes = Uint8Array.from({ length: 1_000_000 }, () => Math.floor(next() * 256))
      const texts = {
        shakespeare: readFileSync(join(folder, "text/tinyshakespeare.txt"), "utf8"),
        "one letter": "a".repeat(1_000_000),
        "random bytes": new TextDecoder().decode(bytes),
      }
      for (const [kind, text] of Object.entries(texts)) {
        const start = performance.now()
        const tokens = t.encode(text)
        expect({ kind, inTime: performance.now() - start < 5000 }).toEqual({ kind, inTime: true })
        expect(t.decode(tokens) === text).toBe(true)
      }
    }, 60_000)
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
  test("on 1,000 lines", () => {
    expect(expected.files.reduce((sum, { nLines }) => sum + nLines, 0)).toBe(1000)
  })

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
      expect(lines.length).toBeGreaterThanOrEqual(file.nLines) // no line is taken twice
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
