// A reply that a timer stops, what it came to, and the conversation going on: bun examples/stop-a-reply.ts
import { load } from "asdsl"

using model = await load("smollm2")
using chat = model.chat({ seed: 7, maxTokens: 2000, ignoreEos: true })

const story = chat.say("Tell me a long story about a lighthouse.", { signal: AbortSignal.timeout(1000) })
for await (const { text } of story) process.stdout.write(text)
const { finishReason, nGenerated, firstTokenMs } = story.result
console.log(`\n[${finishReason} after ${nGenerated} tokens, the first one after ${Math.round(firstTokenMs)} ms]`)

// What was said stays in the cache: only the new words are evaluated.
const next = await chat.say("Give it a title.", { maxTokens: 12 }).finish()
console.log(next.text)
console.log(`[${next.nReused} of ${next.nPromptTokens} prompt tokens were there already]`)
