// The tokens of pieces met before: natural text says the same words again and again. Flat, bounded, and emptied as a
// whole when full; correctness never depends on what it holds.

import { bytesEqual, hashBytes } from "./string-table.ts"
import type { TokenList } from "./token-list.ts"

const N_SLOTS = 1 << 15
const MAX_ENTRIES = N_SLOTS >> 1
const MAX_PIECE_BYTES = 48
const KEY_POOL_BYTES = 1 << 18
const VALUE_POOL = 1 << 17

export class PieceCache {
  #slots = new Int32Array(N_SLOTS).fill(-1) // entry, open addressing
  #keyStarts = new Int32Array(MAX_ENTRIES + 1) // (entry), into #keys; the next entry's start is its end
  #valueStarts = new Int32Array(MAX_ENTRIES + 1) // (entry), into #values
  #keys = new Uint8Array(KEY_POOL_BYTES)
  #values = new Int32Array(VALUE_POOL)
  #size = 0

  /** Appends the tokens of a known piece to `out`; false for an unknown one. */
  copyTo(bytes: Uint8Array, begin: number, end: number, out: TokenList): boolean {
    const n = end - begin
    if (n > MAX_PIECE_BYTES) return false
    let slot = hashBytes(bytes, begin, end) & (N_SLOTS - 1)
    for (;;) {
      const entry = this.#slots[slot]!
      if (entry < 0) return false
      const start = this.#keyStarts[entry]!
      if (this.#keyStarts[entry + 1]! - start === n && bytesEqual(this.#keys, start, bytes, begin, n)) {
        out.append(this.#values, this.#valueStarts[entry]!, this.#valueStarts[entry + 1]!)
        return true
      }
      slot = (slot + 1) & (N_SLOTS - 1)
    }
  }

  /** Remembers that the piece's tokens are those of `out` from index `from` on. */
  add(bytes: Uint8Array, begin: number, end: number, out: TokenList, from: number): void {
    const n = end - begin
    if (n > MAX_PIECE_BYTES) return
    const nTokens = out.length - from
    const keyStart = this.#keyStarts[this.#size]!
    const valueStart = this.#valueStarts[this.#size]!
    if (this.#size === MAX_ENTRIES || keyStart + n > KEY_POOL_BYTES || valueStart + nTokens > VALUE_POOL) {
      this.#slots.fill(-1)
      this.#size = 0
      this.add(bytes, begin, end, out, from)
      return
    }
    let slot = hashBytes(bytes, begin, end) & (N_SLOTS - 1)
    while (this.#slots[slot]! >= 0) slot = (slot + 1) & (N_SLOTS - 1)
    this.#slots[slot] = this.#size
    for (let i = 0; i < n; i++) this.#keys[keyStart + i] = bytes[begin + i]!
    for (let i = 0; i < nTokens; i++) this.#values[valueStart + i] = out.items[from + i]!
    this.#size += 1
    this.#keyStarts[this.#size] = keyStart + n
    this.#valueStarts[this.#size] = valueStart + nTokens
  }
}
