// Below the chat: a session holds tokens, and a row says what may come next. bun examples/next-token.ts
import { load } from "asdsl"

using model = await load("smollm2")
using session = model.createSession()
const { tokenizer } = model

const tokens = tokenizer.encode("The opposite of hot is", { addSpecial: true })
session.sync(tokens) // evaluates what the session does not hold yet
const row = session.row()
for (let i = 0; i < 5; i++) {
  const probability = Math.exp(row.candidateLogits[i]! - row.logsumexp)
  console.log(`${(100 * probability).toFixed(1).padStart(5)} %  ${JSON.stringify(tokenizer.decode([row.tokens[i]!]))}`)
}

// Two ways on from the same place: a fork has a cache of its own.
using other = session.fork()
for (const [each, next] of [
  [session, " cold"],
  [other, " not"],
] as const) {
  each.extend(tokenizer.encode(next))
  const { text } = await each.generate(each.tokens, { temperature: 0, maxTokens: 6, stop: "\n" }).finish()
  console.log(`The opposite of hot is${next}${text}`)
}
