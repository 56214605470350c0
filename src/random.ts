// Random numbers that a seed reproduces: xoshiro128** 1.1 (Blackman and Vigna, public domain, prng.di.unimi.it), its state
// filled by splitmix32. Not for secrets.

import { ArgumentError } from "./errors.ts"

/** Largest seed. */
export const MAX_SEED = 2 ** 32 - 1

export class Random {
  readonly #state = new Int32Array(4)

  /** @param seed 0 to MAX_SEED, or the generator's whole state, of which not all may be 0. */
  constructor(seed: number | ArrayLike<number>) {
    if (typeof seed !== "number") this.#state.set(seed)
    else for (let i = 0; i < 4; i++) this.#state[i] = splitmix32(seed + Math.imul(i + 1, 0x9e3779b9))
    if (this.#state.every((word) => word === 0)) throw new ArgumentError("a state of zeros gives zeros for ever")
  }

  /** A seed from the operating system. */
  static seed(): number {
    return crypto.getRandomValues(new Uint32Array(1))[0]!
  }

  /** Uniform over the 2^32 unsigned integers. */
  uint32(): number {
    const s = this.#state
    const s1 = s[1]!
    const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0
    s[2]! ^= s[0]!
    s[3]! ^= s1
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= s1 << 9
    s[3] = rotateLeft(s[3]!, 11)
    return result
  }

  /** Uniform over the 2^53 multiples of 2^-53 in [0, 1). */
  double(): number {
    const high = this.uint32() >>> 5
    return (high * 2 ** 26 + (this.uint32() >>> 6)) / 2 ** 53
  }
}

function rotateLeft(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits))
}

/** The finaliser of splitmix32: neighbouring seeds get unrelated states. */
function splitmix32(x: number): number {
  let z = x | 0
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
  return z ^ (z >>> 16)
}
