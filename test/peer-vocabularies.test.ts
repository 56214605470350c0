// Oracle: llama.cpp's tokens on the same vocabularies (conformance/expected/tokens.json, written by
// bench/peers/oracle/tokens.mjs; the sha256 says that the files are the same).

import { afterAll, describe, expect, test } from "bun:test"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import expected from "./conformance/expected/tokens.json"
import { readTokenLists } from "./conformance/expected.ts"
import { PEER_VOCABULARIES, writePeerVocabulary } from "./peer-vocabularies.ts"
import { tokenizerOf } from "./tokenizer-fixtures.ts"

const folder = mkdtempSync(join(tmpdir(), "asdsl-vocabularies-"))
afterAll(() => rmSync(folder, { recursive: true }))

describe("llama.cpp's tokens", () => {
  test("are stored for each vocabulary", () => {
    expect(Object.keys(expected.vocabularies)).toEqual(Object.keys(PEER_VOCABULARIES))
  })

  test.each(Object.entries(expected.vocabularies))("%s", (name, stored) => {
    const path = writePeerVocabulary(folder, name)
    expect(createHash("sha256").update(readFileSync(path)).digest("hex")).toBe(stored.sha256)
    const { texts } = PEER_VOCABULARIES[name]!
    const tokenizer = tokenizerOf(path)
    for (const parseSpecial of [false, true]) {
      const lists = readTokenLists(parseSpecial ? stored.special : stored.plain)
      expect(lists.length).toBe(texts.length)
      texts.forEach((text, i) => {
        expect({ text, ids: Array.from(tokenizer.encode(text, { parseSpecial })) }).toEqual({ text, ids: lists[i]! })
      })
    }
  })
})
