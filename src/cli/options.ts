// Flags of generation: what chat and run share beside flags.ts, and the one place where flags become sampling options.

import { readFileSync } from "node:fs"
import type { PlainPromptCache } from "../chat/protocol.ts"
import type { GenerateOptions } from "../generate.ts"
import { DEFAULT_MAX_DRAFT, SPECULATIVE_MODES, type SpeculativeMode } from "../speculative/options.ts"
import { group, integer, number, text, texts, toggle, UsageError, type Values } from "./arguments.ts"
import type { promptFlags, samplingFlags } from "./flags.ts"

export const generationFlags = {
  ...group("Generation", {
    nPredict: integer("-n, --predict, --n-predict", {
      min: -2,
      initial: -1,
      help: "tokens at most; -1 or -2: until the context is full",
    }),
    stop: texts("-r, --reverse-prompt", { help: "text that ends a reply and is no part of it" }),
  }),
  ...group("Speculation", {
    spec: text("--spec", {
      choices: SPECULATIVE_MODES,
      initial: "auto",
      help: "drafts that one pass verifies, the text is the same with and without: as far as that pays, never, always where the text so far has a continuation, or always by the draft model",
    }),
    maxDraft: integer("--draft, --draft-n, --draft-max, --spec-draft-n-max", {
      min: 0,
      max: 2 ** 16,
      initial: DEFAULT_MAX_DRAFT,
      help: "tokens of a draft at most",
    }),
    minDraft: integer("--draft-min, --draft-n-min, --spec-draft-n-min", {
      min: 0,
      max: 2 ** 16,
      initial: 0,
      help: "shorter drafts are not verified",
    }),
    minDraftConfidence: number("--draft-p-min, --spec-draft-p-min", {
      min: 0,
      max: 1,
      initial: 0,
      help: "a draft model's draft ends before a token less likely to it",
    }),
  }),
}

/** llama.cpp's. `all`: what it means for the command. */
export function promptCacheFlags(all: string) {
  return group("Prompt cache", {
    promptCache: text("--prompt-cache", {
      value: "FILE",
      help: "keeps what the model computes for the prompt in a file, for the next run with a prompt that begins likewise",
    }),
    promptCacheAll: toggle("--prompt-cache-all", { initial: false, help: all }),
    promptCacheReadOnly: toggle("--prompt-cache-ro", { initial: false, help: "use the file, leave it as it is" }),
  })
}

/** What the flags say of a prompt cache. */
export function promptCacheOf(values: Values<ReturnType<typeof promptCacheFlags>>): PlainPromptCache | undefined {
  const { promptCache: path, promptCacheAll: all, promptCacheReadOnly: readOnly } = values
  if (path !== undefined && path !== "") return { path, all, readOnly }
  if (path === "") throw new UsageError("--prompt-cache needs the name of a file")
  if (all) throw new UsageError("--prompt-cache-all goes with --prompt-cache FILE")
  if (readOnly) throw new UsageError("--prompt-cache-ro goes with --prompt-cache FILE")
  return undefined
}

/** What the flags ask of a generation. */
export function generateOptions(
  values: Values<typeof generationFlags> & Values<typeof samplingFlags>,
): Omit<GenerateOptions, "sampler" | "drafter" | "promptCache" | "signal" | "onProgress"> {
  const { temperature, topK, topP, minP, repeatPenalty, repeatLastN, presencePenalty, frequencyPenalty } = values
  return {
    ...{ temperature, topK, topP, minP, repeatPenalty, repeatLastN, presencePenalty, frequencyPenalty },
    logitBias: new Map(values.logitBias.map(readBias)),
    seed: values.seed,
    ignoreEos: values.ignoreEos,
    maxTokens: Math.max(values.nPredict, -1),
    stop: values.stop,
    speculative: values.spec as SpeculativeMode,
    maxDraft: values.maxDraft,
    minDraft: values.minDraft,
    minDraftConfidence: values.minDraftConfidence,
  }
}

/** The text of -p or -f. */
export function promptText({ prompt, file }: Values<typeof promptFlags>): string | undefined {
  if (prompt !== undefined && file !== undefined) throw new UsageError("-p and -f exclude each other")
  return file === undefined ? prompt : readFileSync(file, "utf8")
}

/** llama.cpp's form: 15043+1, 15043-1.5, and 15043-inf to ban a token. */
function readBias(given: string): [number, number] {
  const parts = /^(\d+)([+-](?:\d+\.?\d*|\.\d+|inf))$/.exec(given)
  if (parts === null || parts[2] === "+inf") {
    throw new UsageError(`--logit-bias is "${given.slice(0, 60)}", TOKEN+BIAS or TOKEN-BIAS is needed, as 15043+1`)
  }
  return [Number(parts[1]), parts[2] === "-inf" ? -Infinity : Number(parts[2])]
}
