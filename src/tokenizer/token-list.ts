// A growing list of token ids.

export class TokenList {
  length = 0
  items = new Int32Array(256) // (length)

  push(token: number): void {
    if (this.length === this.items.length) this.#grow(this.length + 1)
    this.items[this.length++] = token
  }

  /** Appends source[begin, end). */
  append(source: Int32Array, begin: number, end: number): void {
    if (this.length + end - begin > this.items.length) this.#grow(this.length + end - begin)
    for (let i = begin; i < end; i++) this.items[this.length++] = source[i]!
  }

  toArray(): Int32Array {
    return this.items.slice(0, this.length)
  }

  #grow(n: number): void {
    const grown = new Int32Array(Math.max(n, 2 * this.items.length))
    grown.set(this.items)
    this.items = grown
  }
}
