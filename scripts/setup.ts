// The part of the set-up that Bun runs (scripts/setup.mjs has installed it): the engine, with zig if it has to be built,
// and the default model. Both are no-ops where they are there.

import { AsdslError } from "../src/errors.ts"
import { defaultModelName, resolveModel } from "../src/models/index.ts"
import { ensureLibrary } from "../src/native/build.ts"

/** Whether everything is there now; what is missing was said on stderr, a sentence each. */
export async function prepare(): Promise<boolean> {
  const engine = await succeeds(async () => ensureLibrary())
  const model = await succeeds(() => resolveModel(defaultModelName))
  return engine && model
}

async function succeeds(job: () => Promise<unknown>): Promise<boolean> {
  try {
    await job()
    return true
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    console.error(`asdsl set-up: ${error.message}`)
    return false
  }
}

if (import.meta.main) process.exitCode = (await prepare()) ? 0 : 1
