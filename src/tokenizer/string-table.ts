// From a string's bytes to its index, over strings that lie in one buffer. Open addressing, nothing copied, nothing
// removed; built in one pass that compares no strings, so 10^5 of them take milliseconds.

import { FormatError } from "../errors.ts"

/** Hash of bytes[begin, end). */
export function hashBytes(bytes: Uint8Array, begin: number, end: number): number {
  let h = 0x811c9dc5 ^ (end - begin)
  for (let i = begin; i < end; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  // The last bytes must reach the high bits and the high bits the low ones, which choose the slot.
  h ^= h >>> 15
  h = Math.imul(h, 0x2c1b3c6d)
  return h ^ (h >>> 13)
}

export function bytesEqual(a: Uint8Array, aBegin: number, b: Uint8Array, bBegin: number, n: number): boolean {
  for (let i = 0; i < n; i++) if (a[aBegin + i] !== b[bBegin + i]) return false
  return true
}

const LONG_CHAIN = 64
const HOPELESS_CHAIN = 4096

export class StringTable {
  #data: Uint8Array
  #starts: Uint32Array // (string), into #data
  #lengths: Uint32Array // (string), bytes
  #slots: Int32Array // (power of two): index of a string, or -1

  /** Empty strings are left out; of equal strings the first is found. */
  constructor(data: Uint8Array, starts: Uint32Array, lengths: Uint32Array, n: number) {
    this.#data = data
    this.#starts = starts
    this.#lengths = lengths
    let capacity = 1024
    while (capacity < 2 * n) capacity *= 2
    const slots = new Int32Array(capacity).fill(-1)
    const mask = capacity - 1
    for (let i = 0; i < n; i++) {
      const length = lengths[i]!
      if (length === 0) continue
      const start = starts[i]!
      let slot = hashBytes(data, start, start + length) & mask
      let probes = 0
      while (slots[slot]! >= 0 && !(++probes > LONG_CHAIN && this.#endsChain(i, slots[slot]!, probes))) {
        slot = (slot + 1) & mask
      }
      if (slots[slot]! < 0) slots[slot] = i
    }
    this.#slots = slots
  }

  // Chance makes no long chain: the strings are equal (padding tokens that share a text) or made to collide.
  #endsChain(i: number, other: number, probes: number): boolean {
    if (probes > HOPELESS_CHAIN) throw new FormatError(`string ${i} of a vocabulary collides with ${probes} others`)
    const n = this.#lengths[i]!
    return this.#lengths[other] === n && bytesEqual(this.#data, this.#starts[i]!, this.#data, this.#starts[other]!, n)
  }

  /** The index of the string equal to bytes[begin, end), or -1. */
  find(bytes: Uint8Array, begin: number, end: number): number {
    const slots = this.#slots
    const mask = slots.length - 1
    const n = end - begin
    let slot = hashBytes(bytes, begin, end) & mask
    for (;;) {
      const i = slots[slot]!
      if (i < 0) return -1
      if (this.#lengths[i] === n && bytesEqual(this.#data, this.#starts[i]!, bytes, begin, n)) return i
      slot = (slot + 1) & mask
    }
  }
}
