// What the engine's thread and the main thread say to each other. All of it survives structured cloning.

import { AsdslError, CancelledError, ContextOverflowError } from "../errors.ts"
import type { GenerateOptions, GenerationResult } from "../generate.ts"
import type { LoadOptions } from "../load-options.ts"
import type { PromptCacheOptions } from "../prompt-cache.ts"
import type { ChatOptions, SayOptions } from "./conversation.ts"
import type { Message } from "./messages.ts"

export type PlainLoadOptions = Omit<LoadOptions, "onProgress" | "signal">
export type PlainChatOptions = Omit<ChatOptions, "sampler" | "drafter" | "promptCache">
export type PlainSayOptions = Omit<SayOptions, "onProgress" | "signal">
export type PlainGenerateOptions = Omit<
  GenerateOptions,
  "sampler" | "drafter" | "promptCache" | "onProgress" | "signal"
>
/** A PromptCache: of the conversation, or else of completions. */
export type PlainPromptCache = { path: string } & Omit<PromptCacheOptions, "onNotice">

/** Each but abort is answered by one Answer with its id, after the reports that belong to it. */
export type Request = { readonly id: number } & (
  | {
      readonly type: "open"
      path: string
      load: PlainLoadOptions
      chat: PlainChatOptions | undefined
      promptCache: PlainPromptCache | undefined
    }
  | { readonly type: "say"; said: string | readonly Message[]; options: PlainSayOptions }
  | { readonly type: "complete"; prompt: string; options: PlainGenerateOptions }
  | { readonly type: "clear" }
  | { readonly type: "keep" }
  | { readonly type: "probe" }
  /** Waits for what is written behind. */
  | { readonly type: "finish" }
  /** Ends the request with this id. */
  | { readonly type: "abort" }
)

export type Report = { readonly id: number } & (
  | { readonly type: "progress"; done: number; total: number }
  | { readonly type: "text"; text: string; reasoning: string }
  | { readonly type: "notice"; text: string }
)

export type Answer = { readonly id: number } & (
  | { readonly type: "done"; value: ModelFacts | GenerationResult | number | undefined }
  | { readonly type: "failed"; error: PlainError }
)

/** What the main thread wants to know of an opened model. */
export interface ModelFacts {
  readonly nParams: number
  readonly nCtx: number
  readonly nThreads: number
  readonly level: string
  /** Weight bytes that a token reads. */
  readonly streamedBytes: number
  /** The name of the chat template where the file has none. */
  readonly fallbackTemplate: string | undefined
  /** Of the conversation. */
  readonly seed: number | undefined
  /** Messages with which the conversation begins: the system's, and what a prompt cache holds. */
  readonly nMessages: number
  /** For cancelProgram. */
  readonly cancelHandle: number
}

export interface PlainError {
  readonly code: string | undefined
  readonly message: string
  readonly stack: string | undefined
  /** Of a ContextOverflowError: prompt tokens, context. */
  readonly numbers: readonly [number, number] | undefined
}

export function plainError(error: unknown): PlainError {
  return {
    code: error instanceof AsdslError ? error.code : undefined,
    message: error instanceof Error ? error.message : String(error),
    stack: error instanceof Error ? error.stack : undefined,
    numbers: error instanceof ContextOverflowError ? [error.nPromptTokens, error.nCtx] : undefined,
  }
}

/** The error again, of its class where programs look at that. */
export function errorOf({ code, message, stack, numbers }: PlainError): Error {
  if (numbers !== undefined) return new ContextOverflowError(...numbers)
  if (code === "cancelled") return new CancelledError(message)
  if (code !== undefined) return new AsdslError(code, message)
  const error = new Error(message)
  if (stack !== undefined) error.stack = stack
  return error
}
