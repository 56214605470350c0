// Whether an interleaved file is what was written: its digest, over every byte of it.

import { closeSync, openSync, readSync } from "node:fs"
import { FormatError } from "../errors.ts"
import { readGguf } from "../gguf/reader.ts"
import type { LoadProgress } from "../weights.ts"
import { DIGEST_OFFSET, isInterleaved, Key, NO_DIGEST, readInterleaved } from "./format.ts"

const PIECE_BYTES = 2 ** 23

/** Reads all of an interleaved file. Throws FormatError where it is damaged. */
export async function verify(path: string, { onProgress, signal }: LoadProgress = {}): Promise<void> {
  const file = readGguf(path)
  if (!isInterleaved(file)) throw new FormatError(`${path} is no interleaved file: it has no digest to be checked by`)
  readInterleaved(file)
  const hash = new Bun.CryptoHasher("sha256")
  const piece = new Uint8Array(PIECE_BYTES)
  const fd = openSync(path, "r")
  try {
    for (let done = 0; done < file.fileBytes; ) {
      signal?.throwIfAborted()
      const n = readSync(fd, piece, 0, PIECE_BYTES, done)
      if (n === 0) throw new FormatError(`${path} was cut short while it was read`)
      if (done === 0) piece.set(new TextEncoder().encode(NO_DIGEST), DIGEST_OFFSET)
      hash.update(piece.subarray(0, n))
      done += n
      onProgress?.(done, file.fileBytes)
      await new Promise((resume) => setImmediate(resume))
    }
  } finally {
    closeSync(fd)
  }
  const [expected, found] = [file.metadata.get(Key.sha256), hash.digest("hex")]
  if (found !== expected) {
    throw new FormatError(`${path} is damaged: its sha256 is ${found}, ${String(expected)} was written`)
  }
}
