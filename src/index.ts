// What is public is what this file exports.

export type { ModelConfig } from "./arch/config.ts"
export { knownArchitectures } from "./arch/index.ts"
export * from "./errors.ts"
export type { OutputRow } from "./executor.ts"
export type { GgufHeader, TensorInfo } from "./gguf/types.ts"
export { type LoadOptions, load, Model, type OpReport } from "./model.ts"
export { cancelProgram, cpuInfo, type EngineInfo } from "./native/handles.ts"
export { type ExtendOptions, Session, type SyncOptions } from "./session.ts"
export type { DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer } from "./tokenizer/types.ts"
