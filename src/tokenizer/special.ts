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
  #first = new Uint8Array(256)
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
  }

  get isEmpty(): boolean {
    return this.#tokens.length === 0
  }

  /** Matches in the text's order, never overlapping. */
  find(bytes: Uint8Array): SpecialMatch[] {
    const candidates = this.#candidates(bytes)
    if (candidates.length === 0) return []
    candidates.sort((a, b) => a.place - b.place || a.begin - b.begin)
    const taken = new Uint8Array(bytes.length)
    const matches: SpecialMatch[] = []
    for (const { place, begin } of candidates) {
      const token = this.#tokens[place]!
      let end = begin + this.#vocabulary.lengths[token]!
      // Whatever was taken before is at least as long: an overlap covers one of the two ends.
      if (taken[begin] !== 0 || taken[end - 1] !== 0) continue
      if (this.#stripsRight(token)) {
        while (end < bytes.length && taken[end] === 0 && isAsciiSpace(bytes[end]!)) end++
      }
      taken.fill(1, begin, end)
      matches.push({ token, begin, end })
    }
    return matches.sort((a, b) => a.begin - b.begin)
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

  #candidates(bytes: Uint8Array): { place: number; begin: number }[] {
    const found: { place: number; begin: number }[] = []
    if (this.isEmpty) return found
    for (let begin = 0; begin < bytes.length; begin++) {
      if (this.#first[bytes[begin]!] === 0) continue
      let node: number | undefined = 0
      for (let i = begin; i < bytes.length; i++) {
        node = this.#children.get(node * 256 + bytes[i]!)
        if (node === undefined) break
        const place = this.#place[node]!
        if (place >= 0) found.push({ place, begin })
      }
    }
    return found
  }
}
