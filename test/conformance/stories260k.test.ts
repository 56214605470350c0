// Oracle: llama2.c's own greedy text of its stories260K model (../shared/data, MIT), 200 tokens after BOS.

import { expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { load } from "../../src/index.ts"
import { LEVELS } from "../tiny-model.ts"

const data = process.env.ASDSL_TEST_DATA

for (const level of LEVELS) {
  for (const type of ["f16", "f32"] as const) {
    for (const nThreads of [1, 2]) {
      test.skipIf(!data)(`greedy text at level ${level}, ${nThreads} threads, ${type} cache`, async () => {
        const folder = join(data!, "stories260K")
        const options = { level, nThreads, typeK: type, typeV: type }
        using model = await load(join(folder, "stories260K-f32.gguf"), options)
        using session = model.createSession()
        const tokens: number[] = []
        session.sync([model.tokenizer.bos!])
        for (let i = 0; i < 200; i++) {
          tokens.push(session.row().argmax)
          session.extend(tokens.slice(-1))
        }
        // llama2.c leaves out the blank of the token after BOS and ends with a line feed.
        const text = Buffer.concat(tokens.map((token) => model.tokenizer.tokenBytes(token))).toString()
        expect(`${text.replace(/^ /, "")}\n`).toBe(readFileSync(join(folder, "expected_greedy.txt"), "utf8"))
      })
    }
  }
}
