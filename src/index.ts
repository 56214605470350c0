// What is public is what this file exports.

export type { ModelConfig } from "./arch/config.ts"
export { knownArchitectures } from "./arch/index.ts"
export { Chat, type ChatOptions, type SayOptions } from "./chat/conversation.ts"
export type { Message, Tool, ToolCall } from "./chat/messages.ts"
export { ChatTemplate, type Prompt, type RenderOptions } from "./chat/template.ts"
export * from "./errors.ts"
export type { OutputRow } from "./executor.ts"
export type { FinishReason, GenerateOptions, Generation, GenerationResult, Piece } from "./generate.ts"
export type { GgufHeader, TensorInfo } from "./gguf/types.ts"
export type { DraftModelOptions, LoadOptions } from "./load-options.ts"
export { load, Model, type OpReport } from "./model.ts"
export { cancelProgram, cpuInfo, type EngineInfo } from "./native/handles.ts"
export { PromptCache, type PromptCacheOptions } from "./prompt-cache.ts"
export { type Distribution, type LogitRow, Sampler, type SamplerOptions, type TokenSampler } from "./sampler.ts"
export {
  type ExtendOptions,
  type LoadedSession,
  type LoadSessionOptions,
  type SaveOptions,
  Session,
  type SyncOptions,
} from "./session.ts"
export type { Speculation } from "./speculative/accept.ts"
export type {
  Draft,
  Drafter,
  DraftGate,
  DraftSampler,
  DraftSource,
  ProposeOptions,
} from "./speculative/drafter.ts"
export type { SpeculativeMode } from "./speculative/options.ts"
export type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "./tokenizer/types.ts"
