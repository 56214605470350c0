// Metadata of a GGUF file in the making: values with the types that the format gives them.

import type { MetadataTypeName } from "../gguf/metadata-types.ts"
import { FlatStrings } from "../gguf/strings.ts"
import type { MetadataValue } from "../gguf/types.ts"

export class Entries {
  readonly values = new Map<string, MetadataValue>()
  readonly types = new Map<string, MetadataTypeName>()

  u32(key: string, value: number): void {
    this.#set(key, value, "u32")
  }

  i32(key: string, value: number): void {
    this.#set(key, value, "i32")
  }

  f32(key: string, value: number): void {
    this.#set(key, Math.fround(value), "f32")
  }

  bool(key: string, value: boolean): void {
    this.#set(key, value, "bool")
  }

  string(key: string, value: string): void {
    this.#set(key, value, "string")
  }

  strings(key: string, values: readonly string[]): void {
    this.#set(key, FlatStrings.from(values), "string")
  }

  i32s(key: string, values: Int32Array): void {
    this.#set(key, values, "i32")
  }

  f32s(key: string, values: Float32Array): void {
    this.#set(key, values, "f32")
  }

  #set(key: string, value: MetadataValue, type: MetadataTypeName): void {
    this.values.set(key, value)
    this.types.set(key, type)
  }
}
