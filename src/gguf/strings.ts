// Arrays of strings kept as bytes of a larger block. Knows nothing of where the block comes from.

import type { MetadataValue, StringArray } from "./types.ts"

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
const encoder = new TextEncoder()

/** UTF-8 as a string; invalid sequences become U+FFFD. */
export function decodeUtf8(bytes: Uint8Array): string {
  return decoder.decode(bytes)
}

/** A StringArray over a block of bytes. The block may be set later, once it is complete. */
export class FlatStrings implements StringArray {
  data: Uint8Array
  readonly starts: Uint32Array
  readonly lengths: Uint32Array

  constructor(starts: Uint32Array, lengths: Uint32Array, data: Uint8Array = new Uint8Array(0)) {
    this.data = data
    this.starts = starts
    this.lengths = lengths
  }

  /** A copy of `strings`; lone surrogates become U+FFFD. */
  static from(strings: readonly string[]): FlatStrings {
    const parts = strings.map((text) => encoder.encode(text))
    const lengths = Uint32Array.from(parts, (part) => part.length)
    const starts = new Uint32Array(parts.length)
    for (let i = 1; i < parts.length; i++) starts[i] = starts[i - 1]! + lengths[i - 1]!
    const data = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
    for (const [i, part] of parts.entries()) data.set(part, starts[i]!)
    return new FlatStrings(starts, lengths, data)
  }

  get length(): number {
    return this.starts.length
  }

  bytes(i: number): Uint8Array {
    const start = this.starts[i]!
    return this.data.subarray(start, start + this.lengths[i]!)
  }

  at(i: number): string {
    return decodeUtf8(this.bytes(i))
  }
}

export function isStringArray(value: MetadataValue): value is StringArray {
  return typeof value === "object" && "starts" in value
}
