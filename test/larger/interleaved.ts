// The interleaved file of Qwen2.5-Coder 1.5B, 1.1 GB: `npm run test:larger -- interleaved`. Oracles: the source's own bytes,
// which unpacking gives back, and the model loaded in memory, whose logits are the map's to the bit. Needs 2.3 GB of disk.

import { expect, test } from "bun:test"
import { createReadStream, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { load } from "../../src/index.ts"
import { repack, unpack } from "../../src/interleaved/repack.ts"
import { verify } from "../../src/interleaved/verify.ts"
import type { LoadOptions } from "../../src/load-options.ts"
import { resolveModel } from "../../src/models/index.ts"
import { bits } from "../tiny-model.ts"

const MINUTES = 60_000

async function digest(path: string): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256")
  for await (const piece of createReadStream(path, { highWaterMark: 2 ** 23 })) hash.update(piece)
  return hash.digest("hex")
}

/** After a prompt and after each of some single tokens. */
async function logits(path: string, options: LoadOptions): Promise<string[]> {
  using model = await load(path, { nCtx: 128, save: false, ...options })
  using session = model.createSession()
  const tokens = [...model.tokenizer.encode("Write a function that merges two sorted lists.\n")]
  const rows: string[] = []
  for (let i = 0; i < 5; i++) {
    session.sync(tokens)
    const row = session.row()
    rows.push(bits(row.logits))
    tokens.push(row.logits.indexOf(Math.max(...row.logits.subarray(0, 1000))))
  }
  return rows
}

test(
  "repack and unpack are the identity, logits of the map those of memory",
  async () => {
    const source = await resolveModel("qwen-coder-1.5b")
    const folder = mkdtempSync(join(tmpdir(), "asdsl-interleaved-"))
    try {
      const [file, back] = [join(folder, "repacked.gguf"), join(folder, "back.gguf")]
      await repack(source, file)
      await verify(file)
      const expected = await logits(source, { cache: false })
      expect(await logits(file, {})).toEqual(expected)
      expect(await logits(file, { mmap: false })).toEqual(expected)
      await unpack(file, back)
      expect(await digest(back)).toBe(await digest(source))
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
  20 * MINUTES,
)
