// Ask a model and print its reply as it comes: bun examples/quick-start.ts
import { load } from "asdsl"

using model = await load("smollm2") // fetched once; a path to any GGUF file of a known architecture does too
using chat = model.chat({ system: "You are a helpful AI assistant. The answer should be short.", temperature: 0 })
for await (const { text } of chat.say("What is the capital of France?")) process.stdout.write(text)
console.log()
