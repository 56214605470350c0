// Tokenizers against stored expectations: the cases of the five shared vocabularies (oracle: llama.cpp's own test data)
// and 1,000 lines of Shakespeare and WikiText (oracle: llama.cpp on the default model, expected/tokens.json, written by
// bench/peers/oracle/tokens.mjs). The vocabularies also have to give any text back, and a megabyte of it in time.

import { describe, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { defaultModelPath, random, randomText, tokenizerOf } from "../tokenizer-fixtures.ts"
import expected from "./expected/tokens.json"
import { readTokenLists } from "./expected.ts"

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
      const lists = readTokenLists(file.tokens)
      expect(lists.length).toBe(file.nLines)
      expect(lines.length).toBeGreaterThanOrEqual(file.nLines) // no line is taken twice
      lists.forEach((ids, i) => {
        const line = lines[Math.floor((i * lines.length) / file.nLines)]!
        expect({ line, ids: Array.from(t.encode(line)) }).toEqual({ line, ids })
      })
    })
  }
})
