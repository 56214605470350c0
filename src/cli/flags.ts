// The flags that commands share, named and preset as in llama.cpp. A command's table is composed from these groups and
// its own flags: `{ ...modelFlags, ...threadFlags, ...group("Benchmark", { ... }) }`; a key given again replaces the flag.

import { ArgumentError } from "../errors.ts"
import { DEFAULT_KV_TYPE, KV_TYPES, PREFILL_MODES } from "../load-options.ts"
import { cpusOfMask, cpusOfRange } from "../native/cpus.ts"
import { type Flag, group, integer, number, text, texts, toggle, UsageError } from "./arguments.ts"

/** llama.cpp's default. */
const DEFAULT_POLL = 50
const MAX_TOKENS = 2 ** 30

/** Of the Hugging Face hub. */
export const hubFlags = group("Model", {
  hfToken: text("-hft, --hf-token", {
    value: "TOKEN",
    help: "token for the Hugging Face hub; absent: $HF_TOKEN, else what hf auth login has saved",
  }),
})

/** What to load. */
export const modelFlags = group("Model", {
  model: text("-m, --model", {
    value: "MODEL",
    help: "GGUF file, name of a known model, or hf:user/repo[:quant]; absent: the default model",
  }),
  hfRepo: text("-hf, -hfr, --hf-repo", {
    value: "USER/REPO[:QUANT]",
    help: "model of the Hugging Face hub, fetched once; quant absent: Q4_K_M, else Q8_0, else the only one",
  }),
  hfFile: text("-hff, --hf-file", { value: "FILE", help: "this file of the -hf repository" }),
  ...hubFlags,
  offline: toggle("--offline", { help: "fetch nothing; absent: nothing of the hub where $HF_HUB_OFFLINE says so" }),
})

/** How to load it. */
export const loadFlags = group("Loading", {
  cache: toggle("--cache", {
    offNames: "--no-cache",
    initial: true,
    help: "use a repacked copy in $ASDSL_CACHE (asdsl cache shows them), and write one after the first load",
  }),
  mmap: toggle("--mmap", { offNames: "--no-mmap", initial: true, help: "map repacked files instead of reading them" }),
  mlock: toggle("--mlock", { initial: false, help: "keep the weights in memory: the system may not drop them" }),
  prefetch: toggle("--prefetch", {
    offNames: "--no-prefetch",
    initial: true,
    help: "read a mapped file ahead of the first pass",
  }),
  verify: toggle("--verify", { initial: false, help: "compare a repacked file with its digest before it is used" }),
})

/** What to say to it. */
export const promptFlags = group("Prompt", {
  prompt: text("-p, --prompt", { help: "the text itself" }),
  file: text("-f, --file", { value: "FILE", help: "a file that holds the text" }),
})

/** Logical CPUs in a form of llama.cpp's; several add up. */
function cpus(name: string, value: string, help: string, parse: (text: string) => number[]): Flag<readonly number[]> {
  return {
    names: name.split(", "),
    value,
    help,
    initial: [],
    read(given, typed, earlier = []) {
      try {
        return [...earlier, ...parse(given)]
      } catch (error) {
        if (!(error instanceof ArgumentError)) throw error
        throw new UsageError(`${typed}: ${error.message}`)
      }
    },
  }
}

export const threadFlags = group("Threads", {
  nThreads: integer("-t, --threads", {
    min: -1,
    max: 1024,
    initial: 0,
    help: "threads at most; 0 or -1: one per physical core, within the CPU quota",
  }),
  nThreadsBatch: integer("-tb, --threads-batch", {
    min: -1,
    max: 1024,
    initial: 0,
    help: "threads for passes of more than one token; 0 or -1: as -t",
  }),
  cpuMask: cpus("-C, --cpu-mask", "HEX", "logical CPUs to keep to, as a mask; --cpu-range adds to them", cpusOfMask),
  cpuRange: cpus(
    "-Cr, --cpu-range",
    "LO-HI",
    "logical CPUs to keep to, as a range; --cpu-mask adds to them",
    cpusOfRange,
  ),
  poll: integer("--poll", {
    min: 0,
    max: 100,
    initial: DEFAULT_POLL,
    help: "how long threads wait awake for the next token, 0: not at all",
  }),
  level: text("--level", {
    value: "NAME",
    help: "instruction set: portable, avx2, avxvnni, avx512, neon; absent: $ASDSL_ISA, else the best of this CPU",
  }),
})

export const contextFlags = group("Context", {
  nCtx: integer("-c, --ctx-size", { min: 0, max: MAX_TOKENS, initial: 0, help: "context in tokens; 0: the model's" }),
  nBatch: integer("-b, --batch-size", { min: 1, max: MAX_TOKENS, initial: 2048, help: "tokens of a batch at most" }),
  nUbatch: integer("-ub, --ubatch-size", { min: 1, max: 65536, initial: 512, help: "tokens of one pass at most" }),
  prefill: text("--prefill", {
    choices: PREFILL_MODES,
    initial: "exact",
    help: "matrices of prompts: to the bit as those of replies, or with weights rounded once more, where that is faster",
  }),
  typeK: text("-ctk, --cache-type-k", {
    choices: KV_TYPES,
    initial: DEFAULT_KV_TYPE,
    help: "element type of cached keys",
  }),
  typeV: text("-ctv, --cache-type-v", {
    choices: KV_TYPES,
    initial: DEFAULT_KV_TYPE,
    help: "element type of cached values",
  }),
})

/** A model that drafts for the one of modelFlags. */
export const draftFlags = group("Draft model", {
  draftModel: text("-md, --model-draft, --spec-draft-model", {
    value: "MODEL",
    help: "a small model with the same vocabulary that drafts what the model verifies, named as by -m",
  }),
  draftHfRepo: text("-hfd, -hfrd, --hf-repo-draft, --spec-draft-hf", {
    value: "USER/REPO[:QUANT]",
    help: "the same, of the Hugging Face hub",
  }),
  draftVocabulary: text("--draft-vocab", {
    value: "FILE|all",
    help: "the tokens that it may draft, a list of asdsl draft-vocab; absent: the list beside its file, else the first ids",
  }),
  draftCtx: integer("-cd, --ctx-size-draft", {
    min: 0,
    max: MAX_TOKENS,
    initial: 0,
    help: "its context in tokens; 0: the model's",
  }),
  draftTypeK: text("-ctkd, --cache-type-k-draft", {
    choices: KV_TYPES,
    help: "type of its cached keys; absent: as -ctk",
  }),
  draftTypeV: text("-ctvd, --cache-type-v-draft", {
    choices: KV_TYPES,
    help: "type of its cached values; absent: as -ctv",
  }),
})

/** llama.cpp's samplers with its defaults. */
export const samplingFlags = group("Sampling", {
  seed: integer("-s, --seed", { min: -1, max: 2 ** 32 - 1, initial: -1, help: "seed; -1: a random one" }),
  temperature: number("--temp, --temperature", {
    min: 0,
    initial: 0.8,
    help: "temperature; 0: always the likeliest token",
  }),
  topK: integer("--top-k", { min: 0, initial: 40, help: "the k likeliest tokens; 0: all" }),
  topP: number("--top-p", { min: 0, max: 1, initial: 0.95, help: "the likeliest tokens up to this mass; 1: all" }),
  minP: number("--min-p", {
    min: 0,
    max: 1,
    initial: 0.05,
    help: "tokens at least this likely relative to the likeliest; 0: all",
  }),
  repeatLastN: integer("--repeat-last-n", {
    min: -1,
    initial: 64,
    help: "tokens that penalties look back at; 0: none, -1: the context",
  }),
  repeatPenalty: number("--repeat-penalty", { min: 0, initial: 1, help: "penalty for repeated tokens; 1: none" }),
  presencePenalty: number("--presence-penalty", { initial: 0, help: "penalty for tokens that occurred; 0: none" }),
  frequencyPenalty: number("--frequency-penalty", { initial: 0, help: "penalty per occurrence; 0: none" }),
  logitBias: texts("-l, --logit-bias", { value: "TOKEN(+|-)BIAS", help: "added to a token's logit, as 15043+1" }),
  ignoreEos: toggle("--ignore-eos", { initial: false, help: "go on past the end of generation" }),
})

/** -o, the output form everywhere. */
export function outputFlag<const C extends readonly [string, ...string[]]>(choices: C) {
  return group("Output", { output: text("-o, --output", { choices, initial: choices[0], help: "output form" }) })
}
