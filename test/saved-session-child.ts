// A process that saves sessions of the tiny model to one file, for tests that kill it, let two of them meet, or leave it no
// room. Arguments: model, file, first token, rounds (0: until it is killed). Says "saved" on stdout after the first round,
// and what SavedSessionError said.

import { load, SavedSessionError } from "../src/index.ts"
import { savedTokens } from "./saved-tokens.ts"

const [modelPath, file, first, rounds] = process.argv.slice(2)
using model = await load(modelPath!, { nThreads: 1, nCtx: 900 })
using session = model.createSession()
for (let round = 0; round < Number(rounds) || Number(rounds) === 0; round++) {
  session.sync(savedTokens(Number(first), round))
  try {
    session.save(file!)
  } catch (error) {
    if (!(error instanceof SavedSessionError)) throw error
    console.log(`${error.problem}: ${error.message}`)
  }
  if (round === 0) console.log("saved")
}
