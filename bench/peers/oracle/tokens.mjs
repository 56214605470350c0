// Tokens by llama.cpp -> test/conformance/expected/tokens.json: of 500 lines each of tiny Shakespeare and WikiText-2 with the
// default model's vocabulary, and of the texts of test/peer-vocabularies.ts with the vocabularies there.
//
// Lines are the file's non-blank lines number floor(i * n / 500), without their line end; no special tokens are added or
// recognised. `tokens` is base64 of raw deflate of little-endian base-128 numbers: per line the count, then the ids. Of the
// vocabularies the sha256 says that they are the same; `special` are the tokens with special ones recognised.

import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
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

const packed = (lists) =>
  deflateRawSync(varints(lists.flatMap((ids) => [ids.length, ...ids])), { level: 9 }).toString("base64")

async function vocabularies() {
  const root = fileURLToPath(new URL("../../../", import.meta.url))
  const folder = mkdtempSync(join(tmpdir(), "asdsl-vocabularies-"))
  const writer = spawnSync(join(root, "node_modules/.bin/bun"), [join(root, "test/peer-vocabularies.ts"), folder], {
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  })
  if (writer.status !== 0) throw new Error(`test/peer-vocabularies.ts failed: ${writer.stderr}`)
  const stored = {}
  for (const line of writer.stdout.trim().split("\n")) {
    const { name, path, texts } = JSON.parse(line)
    const { model } = await openModel(path)
    const [plain, special] = [false, true].map((parses) =>
      texts.map((text) => Array.from(model.tokenize(text, parses))),
    )
    await model.dispose()
    stored[name] = { sha256: await sha256(path), plain: packed(plain), special: packed(special) }
    console.log(`${name}: ${texts.length} texts`)
  }
  rmSync(folder, { recursive: true })
  return stored
}

const { model } = await openModel()
const files = []
for (const path of ["text/tinyshakespeare.txt", "text/wikitext2-valid-tokens.txt"]) {
  const all = readFileSync(testData(path), "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "")
  const lines = []
  for (let i = 0; i < N_LINES; i++) {
    lines.push(Array.from(model.tokenize(all[Math.floor((i * all.length) / N_LINES)], false)))
  }
  files.push({
    path,
    sha256: await sha256(testData(path)),
    nLines: N_LINES,
    tokens: packed(lines),
  })
}
mkdirSync(expectedFolder, { recursive: true })
const output = {
  provenance: await provenance("tokens.mjs", defaultModel),
  files,
  vocabularies: await vocabularies(),
}
writeFileSync(join(expectedFolder, "tokens.json"), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
