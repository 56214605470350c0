// llama.cpp's greedy text of 20 prompts x 64 tokens on the default model -> test/conformance/expected/greedy.json
// `greedy.mjs FLOAT.gguf greedy-float.json` does the same on the model's float copy (test/fixtures/float-copy.ts).
//
// What a case holds: greedyCase in llama.mjs.

import { mkdirSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { defaultModel, expectedFolder, greedyCase, openModel, openSequence, provenance } from "./llama.mjs"

const [modelPath = defaultModel, outputName = "greedy.json"] = process.argv.slice(2)
const N_TOKENS = 64
const SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

const chat = (user) =>
  `<|im_start|>system\n${SYSTEM}<|im_end|>\n<|im_start|>user\n${user}<|im_end|>\n<|im_start|>assistant\n`

const PROMPTS = [
  ["chat-capital", chat("What is the capital of France, and what is it known for?")],
  ["chat-story", chat("Write a short story about a lighthouse keeper who finds a message in a bottle.")],
  ["chat-list", chat("List ten things to pack for a week of hiking in the mountains.")],
  ["chat-code", chat("Write a Python function that returns the n-th Fibonacci number, and explain it.")],
  ["chat-why", chat("Why is the sky blue? Explain it to a child.")],
  ["chat-german", chat("Schreibe einen kurzen Brief an einen Freund über deinen Urlaub in Italien.")],
  ["chat-french", chat("Explique en quelques phrases comment on fait du pain.")],
  ["chat-math", chat("A train travels 120 km in 1.5 hours. What is its average speed? Show your steps.")],
  ["chat-poem", chat("Write a poem of three stanzas about the first snow of winter.")],
  ["chat-summary", chat("Summarise the causes of the First World War in five sentences.")],
  ["text-once", "Once upon a time, in a small village by the sea, there lived"],
  ["text-history", "The Roman Empire reached its greatest extent under"],
  ["text-science", "Photosynthesis is the process by which"],
  ["text-typescript", "// A queue with two stacks\nexport class Queue<T> {\n  #in: T[] = []\n"],
  ["text-c", '#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n        printf("'],
  ["text-recipe", "Ingredients:\n\n- 2 cups of flour\n- 1 teaspoon of salt\n"],
  ["text-dialogue", "ROMEO:\nBut, soft! what light through yonder window breaks?\n"],
  ["text-spanish", "La ciudad de Madrid es la capital de España y"],
  ["text-table", "| Planet | Distance from the Sun (million km) |\n| --- | --- |\n| Mercury | 58 |\n| Venus |"],
  ["text-numbers", "2, 3, 5, 7, 11, 13, 17, 19, 23,"],
]

const { model } = await openModel(modelPath)
const { sequence } = await openSequence(model)
const cases = []
for (const [name, text] of PROMPTS) cases.push(await greedyCase(model, sequence, name, text, N_TOKENS))
mkdirSync(expectedFolder, { recursive: true })
const command = ["greedy.mjs", ...(modelPath === defaultModel ? [] : [basename(modelPath), outputName])].join(" ")
const output = { provenance: await provenance(command, modelPath), nTokens: N_TOKENS, cases }
writeFileSync(join(expectedFolder, outputName), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
