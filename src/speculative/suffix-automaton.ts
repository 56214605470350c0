// The suffix automaton of a text that grows: every substring is a path from state 0, and substrings that end at the same
// places share a state. Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text". Building it takes
// constant time for each token, amortised; the places and the counts that it keeps beside are bounded by MAX_CONTEXTS.
//
// States and edges are rows of typed arrays that double when they are full, at most 2 states and 3 edges a token. Edges of
// a state form a list, newest first, and a hash table finds the edge of a state and a token.

/** States that learn of an occurrence, longest context first. A suffix of a text is rarely in more of them, so counts are
 * exact but for the shortest contexts of texts such as "aaaa...", which are too small there. */
export const MAX_CONTEXTS = 64

/** Edges of a state that next() looks at, newest first. */
const MAX_EDGES = 64

const NONE = -1
const FIRST_SIZE = 1024

export class SuffixAutomaton {
  #nTokens = 0
  #last = 0

  #nStates = 0
  #length = new Int32Array(FIRST_SIZE) // of the state's longest substring
  #link = new Int32Array(FIRST_SIZE) // the state of its longest suffix that ends at more places
  #edges = new Int32Array(FIRST_SIZE) // first of its list
  #count = new Int32Array(FIRST_SIZE) // places where it ends
  #end = new Int32Array(FIRST_SIZE) // the last of them, as a number of tokens

  #nEdges = 0
  #token = new Int32Array(FIRST_SIZE)
  #target = new Int32Array(FIRST_SIZE)
  #nextEdge = new Int32Array(FIRST_SIZE)
  #from = new Int32Array(FIRST_SIZE)
  #table = new Int32Array(4 * FIRST_SIZE) // edge + 1 by hash of (from, token), open addressing; 0: empty

  constructor() {
    this.reset()
  }

  reset(): void {
    this.#nTokens = 0
    this.#last = 0
    this.#nStates = 0
    this.#nEdges = 0
    this.#table.fill(0)
    this.#addState(0, NONE)
  }

  /** Tokens of the text. */
  get nTokens(): number {
    return this.#nTokens
  }

  /** The state of the longest suffix of the text that also ends somewhere before; 0 where no suffix does. */
  get repeated(): number {
    return Math.max(this.#link[this.#last]!, 0)
  }

  /** Tokens of a state's longest substring. */
  length(state: number): number {
    return this.#length[state]!
  }

  /** Places at which a state's substrings end. */
  count(state: number): number {
    return this.#count[state]!
  }

  /** The state of the longest suffix that also ends elsewhere. */
  shorter(state: number): number {
    return Math.max(this.#link[state]!, 0)
  }

  /** The edge to the token that followed a state most often, of equals the one that did so last; -1 where none did. */
  next(state: number): number {
    let best = NONE
    let edge = this.#edges[state]!
    for (let i = 0; edge !== NONE && i < MAX_EDGES; i++, edge = this.#nextEdge[edge]!) {
      if (best === NONE || this.#isAhead(this.#target[edge]!, this.#target[best]!)) best = edge
    }
    return best
  }

  /** How often a state was followed by any token. */
  nFollowed(state: number): number {
    let sum = 0
    let edge = this.#edges[state]!
    for (let i = 0; edge !== NONE && i < MAX_EDGES; i++, edge = this.#nextEdge[edge]!) {
      sum += this.#count[this.#target[edge]!]!
    }
    return sum
  }

  /** An edge's token. */
  token(edge: number): number {
    return this.#token[edge]!
  }

  /** Where an edge leads. */
  target(edge: number): number {
    return this.#target[edge]!
  }

  push(token: number): void {
    const added = this.#addState(++this.#nTokens, 0)
    let state = this.#last
    let edge = NONE
    for (; state !== NONE; state = this.#link[state]!) {
      edge = this.#find(state, token)
      if (edge !== NONE) break
      this.#addEdge(state, token, added)
    }
    if (edge !== NONE) this.#link[added] = this.#split(state, edge, token)
    this.#last = added
    let each = added
    for (let i = 0; each > 0 && i < MAX_CONTEXTS; i++, each = this.#link[each]!) {
      this.#count[each]!++
      this.#end[each] = this.#nTokens
    }
  }

  #isAhead(state: number, other: number): boolean {
    const more = this.#count[state]! - this.#count[other]!
    return more > 0 || (more === 0 && this.#end[state]! > this.#end[other]!)
  }

  /** The state of exactly `state`'s longest substring and the token, to which an edge leads: where that state has longer
   * substrings too, these ended elsewhere alone until now, and the others get a state of their own. */
  #split(state: number, edge: number, token: number): number {
    const whole = this.#target[edge]!
    const length = this.#length[state]! + 1
    if (this.#length[whole] === length) return whole
    const part = this.#addState(length, this.#link[whole]!)
    this.#count[part] = this.#count[whole]!
    this.#end[part] = this.#end[whole]!
    // In the list's order: next() counts on the newest being first.
    let tail = NONE
    for (let each = this.#edges[whole]!; each !== NONE; each = this.#nextEdge[each]!) {
      const copy = this.#newEdge(part, this.#token[each]!, this.#target[each]!)
      if (tail === NONE) this.#edges[part] = copy
      else this.#nextEdge[tail] = copy
      tail = copy
    }
    let shorter = state
    for (let each = edge; each !== NONE && this.#target[each] === whole; ) {
      this.#target[each] = part
      shorter = this.#link[shorter]!
      each = shorter === NONE ? NONE : this.#find(shorter, token)
    }
    this.#link[whole] = part
    return part
  }

  #addState(length: number, link: number): number {
    const state = this.#nStates++
    if (state === this.#length.length) {
      this.#length = doubled(this.#length)
      this.#link = doubled(this.#link)
      this.#edges = doubled(this.#edges)
      this.#count = doubled(this.#count)
      this.#end = doubled(this.#end)
    }
    this.#length[state] = length
    this.#link[state] = link
    this.#edges[state] = NONE
    this.#count[state] = 0
    this.#end[state] = 0
    return state
  }

  #addEdge(from: number, token: number, target: number): void {
    const edge = this.#newEdge(from, token, target)
    this.#nextEdge[edge] = this.#edges[from]!
    this.#edges[from] = edge
  }

  /** An edge that the table knows and no list does. */
  #newEdge(from: number, token: number, target: number): number {
    const edge = this.#nEdges++
    if (edge === this.#token.length) {
      this.#token = doubled(this.#token)
      this.#target = doubled(this.#target)
      this.#nextEdge = doubled(this.#nextEdge)
      this.#from = doubled(this.#from)
      this.#table = new Int32Array(2 * this.#table.length)
      for (let each = 0; each < edge; each++) this.#table[this.#slot(this.#from[each]!, this.#token[each]!)] = each + 1
    }
    this.#from[edge] = from
    this.#token[edge] = token
    this.#target[edge] = target
    this.#nextEdge[edge] = NONE
    this.#table[this.#slot(from, token)] = edge + 1
    return edge
  }

  #find(from: number, token: number): number {
    return this.#table[this.#slot(from, token)]! - 1
  }

  /** The slot of an edge, or the empty one where it belongs. */
  #slot(from: number, token: number): number {
    const mask = this.#table.length - 1
    const hash = Math.imul(from, 0x9e3779b1) ^ Math.imul(token + 1, 0x85ebca6b)
    let slot = (hash ^ (hash >>> 15)) & mask
    for (;;) {
      const edge = this.#table[slot]! - 1
      if (edge === NONE || (this.#from[edge] === from && this.#token[edge] === token)) return slot
      slot = (slot + 1) & mask
    }
  }
}

function doubled(array: Int32Array): Int32Array<ArrayBuffer> {
  const grown = new Int32Array(2 * array.length)
  grown.set(array)
  return grown
}
