// Hashes of the logits of small models at every level of this machine, as JSON: {model: {level: sha256}}.
// Usage: bun test/logit-hashes.ts FOLDER; scripts/test-arm64.ts compares what two architectures print.
//
// The first run writes the models into FOLDER, the others read them: all work on the same files. A hash covers one pass of
// many tokens (the gemm kernels) and passes of one (gemv), every position. Every tensor type and every architecture is
// among the models, and stories260K where $ASDSL_TEST_DATA has it.

import { existsSync } from "node:fs"
import { join } from "node:path"
import { load } from "../src/index.ts"
import { PEER_MODELS, writePeerModel } from "./peer-models.ts"
import { LEVELS, TINY_MODELS, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const N_AT_ONCE = 40
const N_ONE_BY_ONE = 8

/** Writes a model to a path. */
type Writer = (path: string) => void

function models(folder: string): Map<string, { path: string; write?: Writer }> {
  const found = new Map<string, { path: string; write?: Writer }>()
  for (const [name, model] of Object.entries(TINY_MODELS)) {
    found.set(name, { path: join(folder, `tiny ${name}.gguf`), write: (path) => writeTinyModel({ ...model, path }) })
  }
  for (const [name, { arch }] of Object.entries(PEER_MODELS)) {
    if (arch === undefined) continue // llama's are among the tiny ones
    found.set(name, { path: join(folder, `${name}.gguf`), write: () => writePeerModel(folder, name) })
  }
  const data = process.env.ASDSL_TEST_DATA
  if (data) found.set("stories260K", { path: join(data, "stories260K", "stories260K-f32.gguf") })
  return found
}

async function hashOf(path: string, level: string): Promise<string> {
  using model = await load(path, { level, nThreads: 2 })
  using session = model.createSession()
  const hash = new Bun.CryptoHasher("sha256")
  const tokens = tinyTokens(N_AT_ONCE + N_ONE_BY_ONE)
  const add = (part: number[]) => {
    session.extend(part, {
      outputs: "all",
      onRows(_, n) {
        for (let j = 0; j < n; j++) hash.update(session.row(j).logits)
      },
    })
  }
  add(tokens.slice(0, N_AT_ONCE))
  for (const token of tokens.slice(N_AT_ONCE)) add([token])
  return hash.digest("hex")
}

const folder = process.argv[2]
if (folder === undefined) throw new Error("usage: bun test/logit-hashes.ts FOLDER")
const hashes: Record<string, Record<string, string>> = {}
for (const [name, { path, write }] of models(folder)) {
  if (!existsSync(path)) write?.(path)
  hashes[name] = {}
  for (const level of LEVELS) hashes[name][level] = await hashOf(path, level)
}
console.log(JSON.stringify(hashes))
