// Tokens of 500 lines each of tiny Shakespeare and WikiText-2 by llama.cpp -> test/conformance/expected/tokens.json
//
// Lines are the file's non-blank lines number floor(i * n / 500), without their line end; no special tokens are added or
// recognised. `tokens` is base64 of raw deflate of little-endian base-128 numbers: per line the count, then the ids.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { deflateRawSync } from "node:zlib"
import { defaultModel, expectedFolder, openModel, provenance, sha256, testData } from "./llama.mjs"

const N_LINES = 500

function varints(numbers) {
  const bytes = []
  for (let x of numbers) {
    while (x >= 0x80) {
      bytes.push((x & 0x7f) | 0x80)
      x >>>= 7
    }
    bytes.push(x)
  }
  return Uint8Array.from(bytes)
}

const { model } = await openModel()
const files = []
for (const path of ["text/tinyshakespeare.txt", "text/wikitext2-valid-tokens.txt"]) {
  const all = readFileSync(testData(path), "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "")
  const numbers = []
  for (let i = 0; i < N_LINES; i++) {
    const ids = model.tokenize(all[Math.floor((i * all.length) / N_LINES)], false)
    numbers.push(ids.length, ...ids)
  }
  files.push({
    path,
    sha256: await sha256(testData(path)),
    nLines: N_LINES,
    tokens: deflateRawSync(varints(numbers), { level: 9 }).toString("base64"),
  })
}
mkdirSync(expectedFolder, { recursive: true })
const output = { provenance: await provenance("tokens.mjs", defaultModel), files }
writeFileSync(join(expectedFolder, "tokens.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
