// A file that is written once, front to back. Pieces go out as large aligned calls: that is what the size of pages in the
// page cache, and so of those in a process, depends on (csrc/platform/linux.c).
// Knows nothing of what it writes but where the digest goes.

import { OutputFile } from "../output-file.ts"
import { DIGEST_OFFSET } from "./format.ts"

/** A multiple of the largest page. */
export const PIECE_BYTES = 2 ** 23

/** Bytes as they come, into pieces that begin and end at multiples of PIECE_BYTES, whatever is written at a time; only the
 * last one may be shorter. A piece is good until the next. */
export class AlignedPieces {
  written = 0
  readonly #take: (piece: Uint8Array) => void
  readonly #piece = new Uint8Array(PIECE_BYTES)
  #held = 0

  constructor(take: (piece: Uint8Array) => void) {
    this.#take = take
  }

  write(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const n = Math.min(bytes.length - done, PIECE_BYTES - this.#held)
      this.#piece.set(bytes.subarray(done, done + n), this.#held)
      done += n
      this.#hold(n)
    }
  }

  /** Zeros up to `offset`. */
  padTo(offset: number): void {
    while (this.written < offset) {
      const n = Math.min(offset - this.written, PIECE_BYTES - this.#held)
      this.#piece.fill(0, this.#held, this.#held + n)
      this.#hold(n)
    }
  }

  #hold(n: number): void {
    this.#held += n
    this.written += n
    if (this.#held === PIECE_BYTES) this.flush()
  }

  /** What is left: nothing may follow. */
  flush(): void {
    if (this.#held > 0) this.#take(this.#piece.subarray(0, this.#held))
    this.#held = 0
  }
}

export class InterleavedOutput implements Disposable {
  readonly #file: OutputFile
  readonly #hash = new Bun.CryptoHasher("sha256")
  readonly #pieces = new AlignedPieces((piece) => this.#append(piece))

  constructor(path: string) {
    this.#file = new OutputFile(path)
  }

  get written(): number {
    return this.#pieces.written
  }

  write(bytes: Uint8Array): void {
    this.#pieces.write(bytes)
  }

  /** Zeros up to `offset`. */
  padTo(offset: number): void {
    this.#pieces.padTo(offset)
  }

  #append(piece: Uint8Array): void {
    this.#hash.update(piece)
    this.#file.write(piece)
  }

  /** Puts the digest in its place, waits until all is on the disk, and gives the file its name. */
  finish(): void {
    this.#pieces.flush()
    this.#file.writeAt(DIGEST_OFFSET, new TextEncoder().encode(this.#hash.digest("hex")))
    this.#file.sync()
    this.#file.finish()
  }

  /** What is not finished goes away. */
  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]()
  }
}
