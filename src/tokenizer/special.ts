// Finding special tokens written out in text. Longer ones first, then from left to right: the order of llama.cpp.

import { KIND, type Vocabulary } from "./vocabulary.ts"

/** A found token: text bytes [begin, end) are taken by it, stripped white space included. */
export interface SpecialMatch {
  readonly token: number
  readonly begin: number
  readonly end: number
}

export interface SpecialRules {
  /** Control and unknown tokens too, not only user-defined ones. */
  readonly parseSpecial: boolean
  /** White space after these tokens is dropped. */
  readonly stripsRight: (token: number) => boolean
}

function isAsciiSpace(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d)
}

/** Matches every listed token at once: a trie over bytes, entered only where a first byte fits. */
export class SpecialMatcher {
  #tokens: Int32Array // longest text first; a match is named by its place here
  #children = new Map<number, number>() // node * 256 + byte -> node
  #place = [-1] // (node) place in #tokens of the token that ends here
  #shorter: Int32Array // (place): the place of the longest token that this one begins with, or -1
  #first = new Uint8Array(256) // (byte): 1 where a token begins with it
  #stripsRight: (token: number) => boolean
  #vocabulary: Vocabulary

  constructor(vocabulary: Vocabulary, rules: SpecialRules) {
    const { kinds, lengths, nTokens } = vocabulary
    const found: number[] = []
    for (let id = 0; id < nTokens; id++) {
      const kind = kinds[id]!
      const listed =
        kind === KIND.userDefined || (rules.parseSpecial && (kind === KIND.control || kind === KIND.unknown))
      if (listed && lengths[id]! > 0) found.push(id)
    }
    found.sort((a, b) => lengths[b]! - lengths[a]! || a - b)
    this.#tokens = Int32Array.from(found)
    this.#stripsRight = rules.stripsRight
    this.#vocabulary = vocabulary
    for (let place = 0; place < found.length; place++) this.#insert(vocabulary.stored(found[place]!), place)
    this.#shorter = Int32Array.from(found, (id) => {
      const text = vocabulary.stored(id)
      return this.#longest(text, 0, text.length - 1)
    })
  }

  /** Matches in the text's order, never overlapping. Bytes at `literal` (ascending) belong to user-defined tokens at most. */
  find(bytes: Uint8Array, literal: readonly number[] = []): SpecialMatch[] {
    const begins = this.#candidates(bytes)
    if (begins.size === 0) return []
    const taken = new Uint8Array(bytes.length)
    const matches: SpecialMatch[] = []
    for (let place = 0; place < this.#tokens.length; place++) {
      const token = this.#tokens[place]!
      const length = this.#vocabulary.lengths[token]!
      for (const begin of (begins.get(place) ?? []).sort((a, b) => a - b)) {
        let end = begin + length
        // Whatever was taken before is at least as long: an overlap covers one of the two ends.
        if (taken[begin] !== 0) continue
        if (taken[end - 1] !== 0 || this.#isLiteral(token, begin, end, literal)) {
          addTo(begins, this.#shorter[place]!, begin)
          continue
        }
        if (this.#stripsRight(token)) {
          while (end < bytes.length && taken[end] === 0 && isAsciiSpace(bytes[end]!)) end++
        }
        taken.fill(1, begin, end)
        matches.push({ token, begin, end })
      }
    }
    return matches.sort((a, b) => a.begin - b.begin)
  }

  #isLiteral(token: number, begin: number, end: number, literal: readonly number[]): boolean {
    if (literal.length === 0 || this.#vocabulary.kinds[token] === KIND.userDefined) return false
    let low = 0 // offsets before `begin`
    for (let high = literal.length; low < high; ) {
      const middle = (low + high) >>> 1
      if (literal[middle]! < begin) low = middle + 1
      else high = middle
    }
    return low < literal.length && literal[low]! < end
  }

  #insert(text: Uint8Array, place: number): void {
    this.#first[text[0]!] = 1
    let node = 0
    for (const byte of text) {
      const key = node * 256 + byte
      let child = this.#children.get(key)
      if (child === undefined) {
        child = this.#place.length
        this.#place.push(-1)
        this.#children.set(key, child)
      }
      node = child
    }
    if (this.#place[node]! < 0) this.#place[node] = place
  }

  /** Where tokens begin, by the place of the longest one there; a shorter one is looked for when that is refused. */
  #candidates(bytes: Uint8Array): Map<number, number[]> {
    const begins = new Map<number, number[]>()
    if (this.#tokens.length === 0) return begins
    for (let begin = 0; begin < bytes.length; begin++) {
      if (this.#first[bytes[begin]!] !== 0) addTo(begins, this.#longest(bytes, begin, bytes.length), begin)
    }
    return begins
  }

  /** The place of the longest token in bytes[begin, end) that begins there, or -1. */
  #longest(bytes: Uint8Array, begin: number, end: number): number {
    let best = -1
    let node: number | undefined = 0
    for (let i = begin; i < end; i++) {
      node = this.#children.get(node * 256 + bytes[i]!)
      if (node === undefined) break
      if (this.#place[node]! >= 0) best = this.#place[node]!
    }
    return best
  }
}

function addTo(begins: Map<number, number[]>, place: number, begin: number): void {
  if (place < 0) return
  const list = begins.get(place)
  if (list === undefined) begins.set(place, [begin])
  else list.push(begin)
}
