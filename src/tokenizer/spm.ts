// SentencePiece's BPE kind: blanks become U+2581, each character is a symbol, neighbours merge by the score of the token
// that they form, and a character without a token is spelled in byte tokens.
//
// A merge never crosses from another character into U+2581 when no token does, which holds for all characters in the
// vocabularies of the Llama family and for all but ">" in Gemma's: there text is cut into words and the words are
// remembered; the result is the same.

import { Merger, PairTable } from "./merge.ts"
import { PieceCache } from "./piece-cache.ts"
import type { TokenList } from "./token-list.ts"
import { KIND, type Vocabulary } from "./vocabulary.ts"

// U+2581 in UTF-8
const MARK_0 = 0xe2
const MARK_1 = 0x96
const MARK_2 = 0x81
const BLANK = 0x20

// Above this the memory of merged pairs is emptied: 16 bytes an entry.
const MAX_PAIRS = 1 << 20

export class SpmEncoder {
  merged = -1 // PairRanks
  #vocabulary: Vocabulary
  #ranks: Int32Array // (token): place in the order of falling scores, equal for equal scores
  #byteTokens = new Int32Array(256) // (byte), -1 where the vocabulary has none
  #joins: Uint8Array // (byte): 1 where some token has U+2581 right behind it, the last of another character
  #unknown: number // -1 without one
  #pairs = new PairTable(1 << 12) // every pair met so far, rank -1 for those that do not merge
  #merger = new Merger()
  #cache = new PieceCache()
  #scratch = new Uint8Array(256)
  #spelled = new Uint32Array(128) // (characters without a token, 2): begin and end in the word at hand

  constructor(vocabulary: Vocabulary, unknown: number | undefined) {
    this.#vocabulary = vocabulary
    this.#unknown = unknown ?? -1
    this.#ranks = ranksByScore(vocabulary)
    this.#joins = bytesThatJoin(vocabulary)
    const text = new TextEncoder()
    for (let byte = 0; byte < 256; byte++) {
      const name = text.encode(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)
      const id = vocabulary.lookup(name, 0, name.length)
      this.#byteTokens[byte] = id
    }
  }

  /** The tokens of escaped text (see escapeBlanks) go to `out`. */
  encode(bytes: Uint8Array, out: TokenList): void {
    let begin = 0
    while (begin < bytes.length) {
      const end = wordEnd(bytes, begin, this.#joins)
      if (!this.#cache.copyTo(bytes, begin, end, out)) {
        const before = out.length
        this.#encodeWord(bytes, begin, end, out)
        this.#cache.add(bytes, begin, end, out, before)
      }
      begin = end
    }
  }

  rank(left: number, right: number): number {
    if (left < 0 || right < 0) return -1
    const known = this.#pairs.find(left, right)
    if (known >= 0) {
      this.merged = this.#pairs.mergedAt(known)
      return this.#pairs.rankAt(known)
    }
    const { data, starts, lengths } = this.#vocabulary
    const nLeft = lengths[left]!
    const n = nLeft + lengths[right]!
    if (n > this.#scratch.length) this.#scratch = new Uint8Array(2 * n)
    const scratch = this.#scratch
    for (let i = 0; i < nLeft; i++) scratch[i] = data[starts[left]! + i]!
    for (let i = nLeft; i < n; i++) scratch[i] = data[starts[right]! + i - nLeft]!
    const id = this.#plain(scratch, 0, n)
    const rank = id < 0 ? -1 : this.#ranks[id]!
    if (this.#pairs.size >= MAX_PAIRS) this.#pairs = new PairTable(1 << 12)
    this.#pairs.add(left, right, rank, id)
    this.merged = id
    return rank
  }

  #encodeWord(bytes: Uint8Array, begin: number, end: number, out: TokenList): void {
    const merger = this.#merger
    merger.reserve(end - begin)
    const { symbols } = merger
    if (this.#spelled.length < 2 * (end - begin)) this.#spelled = new Uint32Array(4 * (end - begin))
    const places = this.#spelled
    let n = 0
    let spelled = 0
    for (let i = begin; i < end; ) {
      const next = characterEnd(bytes, i, end)
      const id = this.#plain(bytes, i, next)
      if (id < 0) {
        // Not a token: -2, -3 ... name the characters to be spelled, whose places are kept.
        places[2 * spelled] = i
        places[2 * spelled + 1] = next
        spelled += 1
      }
      symbols[n++] = id < 0 ? -1 - spelled : id
      i = next
    }
    n = merger.run(n, this)
    for (let i = 0; i < n; i++) {
      const symbol = symbols[i]!
      if (symbol >= 0) out.push(symbol)
      else this.#spell(bytes, places[2 * (-2 - symbol)]!, places[2 * (-2 - symbol) + 1]!, out)
    }
  }

  #spell(bytes: Uint8Array, begin: number, end: number, out: TokenList): void {
    for (let i = begin; i < end; i++) {
      const token = this.#byteTokens[bytes[i]!]!
      if (token >= 0) out.push(token)
      else if (this.#unknown >= 0) {
        out.push(this.#unknown)
        return
      }
    }
  }

  #plain(bytes: Uint8Array, begin: number, end: number): number {
    const id = this.#vocabulary.lookup(bytes, begin, end)
    return id >= 0 && this.#vocabulary.isPlain(id) ? id : -1
  }
}

/** text with U+2581 for each blank, and one in front if `prefix` */
export function escapeBlanks(bytes: Uint8Array, begin: number, end: number, prefix: boolean): Uint8Array {
  let nBlanks = prefix ? 1 : 0
  for (let i = begin; i < end; i++) if (bytes[i] === BLANK) nBlanks += 1
  const out = new Uint8Array(end - begin + 2 * nBlanks + (prefix ? 1 : 0))
  let n = 0
  const mark = () => {
    out[n++] = MARK_0
    out[n++] = MARK_1
    out[n++] = MARK_2
  }
  if (prefix) mark()
  for (let i = begin; i < end; i++) {
    if (bytes[i] === BLANK) mark()
    else out[n++] = bytes[i]!
  }
  return out
}

/** Runs of blanks become one, those at both ends go (tokenizer.ggml.remove_extra_whitespaces). */
export function removeExtraBlanks(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length)
  let n = 0
  for (const byte of bytes) if (byte !== BLANK || (n > 0 && out[n - 1] !== BLANK)) out[n++] = byte
  if (n > 0 && out[n - 1] === BLANK) n -= 1
  return out.subarray(0, n)
}

/** Stored text with blanks for U+2581. */
export function unescapeBlanks(stored: Uint8Array): Uint8Array {
  const out = new Uint8Array(stored.length)
  let n = 0
  for (let i = 0; i < stored.length; i++) {
    if (isMark(stored, i)) {
      out[n++] = BLANK
      i += 2
    } else {
      out[n++] = stored[i]!
    }
  }
  return out.subarray(0, n)
}

/** The byte of a token written <0xNN>, or -1. */
export function byteOfStored(stored: Uint8Array): number {
  const found = /^<0x([0-9A-Fa-f]{2})>$/.exec(String.fromCharCode(...stored.subarray(0, 8)))
  return found === null ? -1 : Number.parseInt(found[1]!, 16)
}

function isMark(bytes: Uint8Array, i: number): boolean {
  return bytes[i] === MARK_0 && bytes[i + 1] === MARK_1 && bytes[i + 2] === MARK_2
}

function characterEnd(bytes: Uint8Array, i: number, end: number): number {
  const lead = bytes[i]!
  return Math.min(end, i + (lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4))
}

/** The end of the marks and other characters that begin at `begin`: the next mark that no token joins to what is before. */
function wordEnd(bytes: Uint8Array, begin: number, joins: Uint8Array): number {
  let i = begin
  do {
    while (i < bytes.length && isMark(bytes, i)) i += 3
    while (i < bytes.length && !isMark(bytes, i)) i += 1
  } while (i < bytes.length && joins[bytes[i - 1]!] !== 0)
  return i
}

function bytesThatJoin(vocabulary: Vocabulary): Uint8Array {
  const { data, starts, lengths, kinds } = vocabulary
  const joins = new Uint8Array(256)
  for (let id = 0; id < vocabulary.nTokens; id++) {
    if (kinds[id] === KIND.control || kinds[id] === KIND.unknown || kinds[id] === KIND.byte) continue
    const begin = starts[id]!
    const end = begin + lengths[id]!
    let inWord = false
    for (let i = begin; i < end; i++) {
      if (data[i] === MARK_0 && i + 2 < end && isMark(data, i)) {
        if (inWord) joins[data[i - 1]!] = 1
        inWord = false
        i += 2
      } else {
        inWord = true
      }
    }
  }
  return joins
}

// Sorts exact doubles that hold the score's order in the upper 32 bits' worth and the id below: one native sort of
// numbers instead of 10^5 calls of a comparison.
function ranksByScore(vocabulary: Vocabulary): Int32Array {
  const { nTokens, scores } = vocabulary
  const ranks = new Int32Array(nTokens)
  if (scores === undefined) return ranks
  const bits = new Int32Array(Float32Array.from(scores.subarray(0, nTokens)).buffer)
  const idSpan = 2 ** 21
  const keys = new Float64Array(nTokens)
  for (let id = 0; id < nTokens; id++) {
    const b = scores[id] === 0 ? 0 : bits[id]! // -0 equals 0
    // Falling scores: negative floats grow with their bits, positive ones fall.
    const order = b < 0 ? 0x80000000 + (b & 0x7fffffff) : 0x7fffffff - b
    keys[id] = order * idSpan + id
  }
  keys.sort()
  let rank = 0
  let last = -1
  for (let i = 0; i < nTokens; i++) {
    const order = Math.floor(keys[i]! / idSpan)
    if (i > 0 && order !== last) rank += 1
    last = order
    ranks[keys[i]! - order * idSpan] = rank
  }
  return ranks
}
