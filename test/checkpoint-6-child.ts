// A process of checkpoint-6.test.ts: repacks, or loads a model and says what it came to, as one line of JSON. `hold` then
// waits for the end of its stdin and says it again; `shrink` cuts the file short first that it has mapped.

import { truncateSync } from "node:fs"
import { AsdslError } from "../src/errors.ts"
import { load } from "../src/index.ts"
import { repack } from "../src/interleaved/repack.ts"
import type { Model } from "../src/model.ts"
import { bits, tinyTokens } from "./tiny-model.ts"

const [mode = "", path = "", other = ""] = process.argv.slice(2)

function say(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

function logits(model: Model): string {
  using session = model.createSession()
  session.sync(tinyTokens(9))
  return bits(session.row().logits)
}

if (mode === "repack") {
  await repack(path, other)
} else {
  using model = await load(path, { nThreads: 1, nCtx: 128, cache: other === "" ? false : other })
  if (mode === "shrink") {
    truncateSync(model.loadedFrom.path, 2 ** 21 + 4096)
    try {
      say({ logits: logits(model) })
    } catch (error) {
      say({ error: error instanceof AsdslError ? error.message : String(error) })
    }
  } else {
    say({ logits: logits(model), kind: model.loadedFrom.kind, pages: model.pages().mapped })
    await model.saved
    if (mode === "hold") {
      for await (const _ of Bun.stdin.stream());
      say({ pages: model.pages().mapped })
    }
  }
}
