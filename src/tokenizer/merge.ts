// Merging neighbouring symbols, the heart of both SPM and BPE: always the pair of lowest rank, leftmost first, until
// none is left. O(n log n) by a heap over a linked list. Symbols are token ids; knows no text.

/** What a pair of neighbouring symbols becomes and how early. */
export interface PairRanks {
  /** The rank of (left, right), lower is earlier, or -1 when the two do not merge; sets `merged`. */
  rank(left: number, right: number): number
  /** What the pair of the last successful rank() becomes. */
  readonly merged: number
}

/** (left, right) -> (rank, merged) in one flat open-addressing table. */
export class PairTable {
  #entries: Int32Array // (capacity, 4): left or -1, right, rank, merged
  #mask: number
  #size = 0

  constructor(nExpected: number) {
    let capacity = 1024
    while (capacity < 2 * nExpected) capacity *= 2
    this.#entries = new Int32Array(4 * capacity).fill(-1)
    this.#mask = capacity - 1
  }

  get size(): number {
    return this.#size
  }

  /** The entry's place for rankAt and mergedAt, or -1. */
  find(left: number, right: number): number {
    const entries = this.#entries
    let slot = pairHash(left, right) & this.#mask
    for (;;) {
      const at = 4 * slot
      const key = entries[at]!
      if (key === left && entries[at + 1] === right) return at
      if (key < 0) return -1
      slot = (slot + 1) & this.#mask
    }
  }

  rankAt(at: number): number {
    return this.#entries[at + 2]!
  }

  mergedAt(at: number): number {
    return this.#entries[at + 3]!
  }

  /** Adds a pair; the first entry of a pair keeps it. */
  add(left: number, right: number, rank: number, merged: number): void {
    if (2 * this.#size > this.#mask) this.#grow()
    const entries = this.#entries
    let slot = pairHash(left, right) & this.#mask
    for (;;) {
      const at = 4 * slot
      const key = entries[at]!
      if (key === left && entries[at + 1] === right) return
      if (key < 0) {
        entries[at] = left
        entries[at + 1] = right
        entries[at + 2] = rank
        entries[at + 3] = merged
        this.#size += 1
        return
      }
      slot = (slot + 1) & this.#mask
    }
  }

  #grow(): void {
    const old = this.#entries
    this.#entries = new Int32Array(2 * old.length).fill(-1)
    this.#mask = this.#entries.length / 4 - 1
    this.#size = 0
    for (let at = 0; at < old.length; at += 4) {
      if (old[at]! >= 0) this.add(old[at]!, old[at + 1]!, old[at + 2]!, old[at + 3]!)
    }
  }
}

function pairHash(left: number, right: number): number {
  let h = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  h ^= h >>> 15
  h = Math.imul(h, 0x2c1b3c6d)
  return h ^ (h >>> 13)
}

// A heap key is rank * 2^32 + index: exact in a double while rank < 2^21 and index < 2^32, and ordered by rank, then
// from left to right.
const INDEX_SPAN = 2 ** 32

/** Reusable working memory of one merge. */
export class Merger {
  symbols = new Int32Array(64) // (n): token ids in, and after run() the merged ones in [0, result)
  #next = new Int32Array(64) // (n), -1 at the end
  #previous = new Int32Array(64) // (n), -1 at the start
  #ranks = new Int32Array(64) // (n): rank of the pair that begins here, -1 without one or when merged away
  #merged = new Int32Array(64) // (n): what that pair becomes
  #heap = new Float64Array(128)
  #heapSize = 0

  /** Makes `symbols` hold at least n. Its contents are lost when it grows. */
  reserve(n: number): void {
    if (this.symbols.length >= n) return
    const capacity = Math.max(n, 2 * this.symbols.length)
    this.symbols = new Int32Array(capacity)
    this.#next = new Int32Array(capacity)
    this.#previous = new Int32Array(capacity)
    this.#ranks = new Int32Array(capacity)
    this.#merged = new Int32Array(capacity)
  }

  /** Merges symbols[0, n) in place and returns how many are left, in order from index 0. */
  run(n: number, pairs: PairRanks): number {
    if (n < 2) return n
    const symbols = this.symbols
    const next = this.#next
    const previous = this.#previous
    const ranks = this.#ranks
    this.#heapSize = 0
    for (let i = 0; i < n; i++) {
      next[i] = i + 1 < n ? i + 1 : -1
      previous[i] = i - 1
    }
    ranks[n - 1] = -1
    for (let i = 0; i + 1 < n; i++) this.#rankPair(i, i + 1, pairs)
    while (this.#heapSize > 0) {
      const key = this.#pop()
      const rank = Math.floor(key / INDEX_SPAN)
      const left = key - rank * INDEX_SPAN
      if (ranks[left] !== rank) continue // the pair is gone or another one now
      const right = next[left]!
      symbols[left] = this.#merged[left]!
      ranks[right] = -1
      const after = next[right]!
      next[left] = after
      if (after >= 0) {
        previous[after] = left
        this.#rankPair(left, after, pairs)
      } else {
        ranks[left] = -1
      }
      const before = previous[left]!
      if (before >= 0) this.#rankPair(before, left, pairs)
    }
    let count = 0
    for (let i = 0; i >= 0; i = next[i]!) symbols[count++] = symbols[i]!
    return count
  }

  #rankPair(left: number, right: number, pairs: PairRanks): void {
    const rank = pairs.rank(this.symbols[left]!, this.symbols[right]!)
    this.#ranks[left] = rank
    if (rank < 0) return
    this.#merged[left] = pairs.merged
    this.#push(rank * INDEX_SPAN + left)
  }

  #push(key: number): void {
    if (this.#heapSize === this.#heap.length) {
      const grown = new Float64Array(2 * this.#heap.length)
      grown.set(this.#heap)
      this.#heap = grown
    }
    const heap = this.#heap
    let i = this.#heapSize++
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (heap[parent]! <= key) break
      heap[i] = heap[parent]!
      i = parent
    }
    heap[i] = key
  }

  #pop(): number {
    const heap = this.#heap
    const top = heap[0]!
    const n = --this.#heapSize
    const key = heap[n]!
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= n) break
      if (child + 1 < n && heap[child + 1]! < heap[child]!) child += 1
      if (heap[child]! >= key) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = key
    return top
  }
}
