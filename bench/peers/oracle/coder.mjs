// llama.cpp on a Qwen2.5-Coder model: greedy text of 20 coding prompts x 64 tokens, how far it agrees with itself on that
// text given as a prompt, and its perplexity over 16 x 512 tokens of WikiText-2 -> test/larger/expected/NAME.json
//
//   ASDSL_TEST_DATA=... ASDSL_PEER_PERPLEXITY=.../llama-perplexity node coder.mjs qwen-coder-1.5b
//
// The name is one of models/manifest.json, and the model has to be fetched (asdsl pull NAME). Perplexity comes from
// llama-perplexity of the same llama.cpp release: a Map of 151,936 logits a position takes node-llama-cpp too long.

import { spawnSync } from "node:child_process"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import {
  cacheFolder,
  greedyCase,
  openModel,
  openSequence,
  provenance,
  selfAgreement,
  sha256,
  testData,
} from "./llama.mjs"

const N_TOKENS = 64
const N_CTX = 512
const N_CHUNKS = 16
const TEXT = "text/wikitext2-valid-tokens.txt"
const SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

const chat = (user) =>
  `<|im_start|>system\n${SYSTEM}<|im_end|>\n<|im_start|>user\n${user}<|im_end|>\n<|im_start|>assistant\n`

const PROMPTS = [
  ["chat-reverse", chat("Write a TypeScript function that reverses the words of a sentence.")],
  ["chat-fibonacci", chat("Write a Python function that returns the n-th Fibonacci number without recursion.")],
  ["chat-debounce", chat("Implement debounce in JavaScript and explain when to use it.")],
  ["chat-sql", chat("Write an SQL query that finds the second highest salary in a table `employees`.")],
  ["chat-regex", chat("Give me a regular expression that matches ISO 8601 dates, and explain each part.")],
  ["chat-rust", chat("Show me how to read a file line by line in Rust with error handling.")],
  ["chat-binary-search", chat("Implement binary search in C and state its invariant.")],
  ["chat-git", chat("How do I undo my last commit in git without losing my changes?")],
  ["chat-lru", chat("Write an LRU cache class in Python with get and put in O(1).")],
  [
    "chat-bug",
    chat("What is wrong with this code?\n\n```js\nfor (var i = 0; i < 3; i++) setTimeout(() => console.log(i))\n```"),
  ],
  ["chat-promise", chat("Write a TypeScript helper that runs promises with a limit on how many run at once.")],
  ["chat-docker", chat("Write a Dockerfile for a small Node.js web server.")],
  ["chat-tests", chat("Write unit tests with pytest for a function `slugify(text)`.")],
  ["chat-haskell", chat("Explain `foldr` in Haskell with two examples.")],
  ["text-typescript", "// A queue with two stacks\nexport class Queue<T> {\n  #in: T[] = []\n"],
  [
    "text-c",
    "#include <stdio.h>\n#include <stdlib.h>\n\n/* Sorts n integers in place. */\nvoid merge_sort(int *a, size_t n) {\n",
  ],
  ["text-python", 'def is_prime(n: int) -> bool:\n    """Whether n is a prime number."""\n'],
  ["text-go", 'package main\n\nimport (\n\t"fmt"\n\t"net/http"\n)\n\nfunc main() {\n'],
  ["text-html", '<!DOCTYPE html>\n<html lang="en">\n<head>\n  <meta charset="utf-8">\n'],
  ["text-bash", "#!/usr/bin/env bash\n# Renames all *.jpeg files below the given folder to *.jpg\nset -euo pipefail\n"],
]

const [name] = process.argv.slice(2)
const folder = fileURLToPath(new URL("../../..", import.meta.url))
const { models } = JSON.parse(readFileSync(join(folder, "models/manifest.json"), "utf8"))
const known = models.find((each) => each.name === name)
if (!known || !process.env.ASDSL_PEER_PERPLEXITY) throw new Error("see the comment at the top of this file")
const modelPath = join(cacheFolder, "models", known.file)

/** Perplexity and its standard error, as llama-perplexity prints them. */
function perplexity() {
  const args = [
    "-m",
    modelPath,
    "-f",
    testData(TEXT),
    "-c",
    `${N_CTX}`,
    "-b",
    `${N_CTX}`,
    "--chunks",
    `${N_CHUNKS}`,
    "-t",
    "2",
  ]
  const run = spawnSync(process.env.ASDSL_PEER_PERPLEXITY, args, { encoding: "utf8", maxBuffer: 2 ** 26 })
  const [, value, error] = /Final estimate: PPL = ([\d.]+) \+\/- ([\d.]+)/.exec(run.stdout + run.stderr) ?? []
  if (value === undefined) throw new Error(`llama-perplexity: ${run.stderr.slice(-500)}`)
  return { perplexity: Number(value), error: Number(error) }
}

const { model } = await openModel(modelPath)
const { context, sequence } = await openSequence(model)
const cases = []
for (const [title, text] of PROMPTS) cases.push(await greedyCase(model, sequence, title, text, N_TOKENS))
await context.dispose()
const asPrompt = []
for (const batchSize of [512, 32])
  asPrompt.push(await selfAgreement(model, cases, { flashAttention: "auto", batchSize }))
await model.dispose()

const output = {
  provenance: await provenance(`coder.mjs ${name}`, modelPath),
  nTokens: N_TOKENS,
  cases,
  asPrompt,
  likelihood: { path: TEXT, sha256: await sha256(testData(TEXT)), nCtx: N_CTX, nChunks: N_CHUNKS, ...perplexity() },
}
const expected = join(folder, "test/larger/expected")
mkdirSync(expected, { recursive: true })
writeFileSync(join(expected, `${name}.json`), `${JSON.stringify(output, null, 2)}\n`)
process.exit(0)
