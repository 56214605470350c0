// Byte-level BPE: pieces by the pre-tokenizer, each byte a symbol, merges by the rank in tokenizer.ggml.merges.

import type { StringArray } from "../gguf/types.ts"
import { BYTE_OF_CODE, CODE_OF_BYTE } from "./bytes.ts"
import { Merger, PairTable } from "./merge.ts"
import { PieceCache } from "./piece-cache.ts"
import { cutPieces, type PreTokenizer } from "./pretokenizer.ts"
import { StringTable } from "./string-table.ts"
import type { TokenList } from "./token-list.ts"
import { CodePoints } from "./unicode.ts"
import type { Vocabulary } from "./vocabulary.ts"

const BLANK = 0x20

// Above this the memory of pairs is emptied: 16 bytes an entry.
const MAX_PAIRS = 1 << 20

export class BpeEncoder {
  merged = -1 // PairRanks
  #vocabulary: Vocabulary
  #pre: PreTokenizer
  #merges: StringTable
  #distance = 0 // of a merge's product from its rank, by the last one asked for
  #pairs = new PairTable(1 << 12) // every pair met so far, rank -1 for those that do not merge
  #scratch = new Uint8Array(256)
  #byteTokens = new Int32Array(256) // (byte), -1 where the vocabulary has none
  #merger = new Merger()
  #cache = new PieceCache()
  #text = new CodePoints()
  #cuts = new Uint8Array(0)
  #stored = new Uint8Array(256) // a piece in the form of the vocabulary, two bytes a byte at most

  constructor(vocabulary: Vocabulary, pre: PreTokenizer, merges: StringArray) {
    this.#vocabulary = vocabulary
    this.#pre = pre
    this.#readByteTokens()
    this.#merges = new StringTable(merges.data, merges.starts, merges.lengths, merges.length)
  }

  /** The tokens of bytes[begin, end) (sound UTF-8) go to `out`. */
  encode(bytes: Uint8Array, begin: number, end: number, out: TokenList): void {
    const text = this.#text
    text.load(bytes, begin, end)
    const n = text.length
    if (this.#cuts.length <= n) this.#cuts = new Uint8Array(Math.max(n + 1, 2 * this.#cuts.length))
    const cuts = this.#cuts
    cutPieces(this.#pre.stages, text, cuts)
    const { offsets } = text
    let from = 0
    while (from < n) {
      let to = from + 1
      while (cuts[to] === 0) to++
      this.#encodePiece(bytes, offsets[from]!, offsets[to]!, out)
      from = to
    }
  }

  rank(left: number, right: number): number {
    if (left < 0 || right < 0) return -1
    const known = this.#pairs.find(left, right)
    if (known >= 0) {
      this.merged = this.#pairs.mergedAt(known)
      return this.#pairs.rankAt(known)
    }
    const rank = this.#readMerge(left, right)
    if (this.#pairs.size >= MAX_PAIRS) this.#pairs = new PairTable(1 << 12)
    this.#pairs.add(left, right, rank, this.merged)
    return rank
  }

  // A merge is stored as "left right". Its product is nearly always as far behind the merge's rank as that of another
  // merge, so the table of all tokens is seldom asked.
  #readMerge(left: number, right: number): number {
    const vocabulary = this.#vocabulary
    const { data, starts, lengths } = vocabulary
    const nLeft = lengths[left]!
    const n = nLeft + lengths[right]!
    if (n + 1 > this.#scratch.length) this.#scratch = new Uint8Array(2 * n)
    const scratch = this.#scratch
    for (let i = 0; i < nLeft; i++) scratch[i] = data[starts[left]! + i]!
    scratch[nLeft] = BLANK
    for (let i = nLeft; i < n; i++) scratch[i + 1] = data[starts[right]! + i - nLeft]!
    const rank = this.#merges.find(scratch, 0, n + 1)
    if (rank < 0) return -1
    scratch.copyWithin(nLeft, nLeft + 1, n + 1)
    let merged = rank + this.#distance
    if (!vocabulary.isStoredAs(merged, scratch, n)) {
      merged = vocabulary.lookup(scratch, 0, n)
      if (merged < 0 || !vocabulary.isPlain(merged)) return -1
      this.#distance = merged - rank
    }
    this.merged = merged
    return vocabulary.isPlain(merged) ? rank : -1
  }

  #encodePiece(bytes: Uint8Array, begin: number, end: number, out: TokenList): void {
    if (end - begin === 1) {
      const token = this.#byteTokens[bytes[begin]!]!
      if (token >= 0) out.push(token)
      return
    }
    if (this.#cache.copyTo(bytes, begin, end, out)) return
    const before = out.length
    const whole = this.#pre.ignoreMerges ? this.#wholePiece(bytes, begin, end) : -1
    if (whole >= 0) out.push(whole)
    else this.#merge(bytes, begin, end, out)
    this.#cache.add(bytes, begin, end, out, before)
  }

  #merge(bytes: Uint8Array, begin: number, end: number, out: TokenList): void {
    const merger = this.#merger
    merger.reserve(end - begin)
    const { symbols } = merger
    let n = 0
    for (let i = begin; i < end; i++) {
      const token = this.#byteTokens[bytes[i]!]!
      // A byte that no token stands for cannot be said with this vocabulary; llama.cpp drops it too, but it still keeps
      // its neighbours from merging: -1 is in no pair.
      symbols[n++] = token
    }
    n = merger.run(n, this)
    for (let i = 0; i < n; i++) if (symbols[i]! >= 0) out.push(symbols[i]!)
  }

  #wholePiece(bytes: Uint8Array, begin: number, end: number): number {
    if (2 * (end - begin) > this.#stored.length) return -1 // longer than any token worth having
    const n = this.#toStored(bytes, begin, end)
    const id = this.#vocabulary.lookup(this.#stored, 0, n)
    return id >= 0 && this.#vocabulary.isPlain(id) ? id : -1
  }

  #toStored(bytes: Uint8Array, begin: number, end: number): number {
    const stored = this.#stored
    let n = 0
    for (let i = begin; i < end; i++) {
      const code = CODE_OF_BYTE[bytes[i]!]!
      if (code < 0x80) {
        stored[n++] = code
      } else {
        stored[n++] = 0xc0 | (code >> 6)
        stored[n++] = 0x80 | (code & 0x3f)
      }
    }
    return n
  }

  #readByteTokens(): void {
    const one = new Uint8Array(1)
    for (let byte = 0; byte < 256; byte++) {
      one[0] = byte
      this.#byteTokens[byte] = this.#vocabulary.lookup(this.#stored, 0, this.#toStored(one, 0, 1))
    }
  }
}

/** The bytes that a stored text stands for; a character outside the byte alphabet stands for itself. */
export function bytesOfStored(stored: Uint8Array): Uint8Array {
  const out = new Uint8Array(stored.length)
  let n = 0
  let i = 0
  while (i < stored.length) {
    const lead = stored[i]!
    const size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
    const code = size === 1 ? lead : size === 2 ? ((lead & 0x1f) << 6) | (stored[i + 1]! & 0x3f) : -1
    const byte = code >= 0 && code < BYTE_OF_CODE.length ? BYTE_OF_CODE[code]! : -1
    if (byte >= 0) {
      out[n++] = byte
    } else {
      for (let j = i; j < i + size && j < stored.length; j++) out[n++] = stored[j]!
    }
    i += size
  }
  return out.subarray(0, n)
}
