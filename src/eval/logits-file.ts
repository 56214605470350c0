// llama-perplexity's file of log-probabilities (--kl-divergence-base), read and written. Source of the format:
// llama.cpp tools/perplexity/perplexity.cpp. All numbers are little-endian:
//
//   "_logits_", int32 nCtx, int32 nVocab, int32 nChunks, int32 tokens[nChunks][nCtx]
//   then for each scored row (nCtx - 1 - nCtx/2 a chunk, see perplexity.ts):
//   float32 scale, float32 minimum, uint16 codes[nVocab rounded up to an even number]
//
// A log-probability is minimum + scale * code. The minimum is that of the row, or 24 below the largest.

import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import { ArgumentError, FormatError } from "../errors.ts"
import type { OutputRow } from "../executor.ts"
import { OutputFile } from "../output-file.ts"
import { scoredRows } from "./perplexity.ts"

const MAGIC = "_logits_"
const HEADER_BYTES = MAGIC.length + 3 * 4
const RANGE = 24 // nats below the likeliest token that are kept
const LEVELS = 65535

export interface LogitsHeader {
  readonly nCtx: number
  readonly nVocab: number
  readonly nChunks: number
}

/** uint16 numbers of a row: scale and minimum are two each. */
function rowWords(nVocab: number): number {
  return 4 + 2 * Math.ceil(nVocab / 2)
}

function chunkBytes({ nCtx, nVocab }: LogitsHeader): number {
  return 2 * scoredRows(nCtx).count * rowWords(nVocab)
}

/** The rows of one chunk. */
export class LogitsChunk {
  readonly bytes: Uint8Array
  readonly nRows: number
  readonly #floats: Float32Array
  readonly #words: Uint16Array
  readonly #stride: number
  readonly #nVocab: number

  constructor(header: LogitsHeader) {
    this.nRows = scoredRows(header.nCtx).count
    this.#nVocab = header.nVocab
    this.#stride = rowWords(header.nVocab)
    this.bytes = new Uint8Array(chunkBytes(header))
    this.#words = new Uint16Array(this.bytes.buffer)
    this.#floats = new Float32Array(this.bytes.buffer)
  }

  /** Row i: log-probabilities are minimum + scale * codes. */
  row(i: number): { scale: number; minimum: number; codes: Uint16Array } {
    const at = i * this.#stride
    return {
      scale: this.#floats[at / 2]!,
      minimum: this.#floats[at / 2 + 1]!,
      codes: this.#words.subarray(at + 4, at + 4 + this.#nVocab),
    }
  }

  /** Stores a model's row as row i. */
  set(i: number, { logits, max, logsumexp }: OutputRow): void {
    const at = i * this.#stride
    const codes = this.#words.subarray(at + 4, at + 4 + this.#nVocab)
    let least = max
    for (let token = 0; token < logits.length; token++) if (logits[token]! < least) least = logits[token]!
    least = Math.max(least, max - RANGE)
    const scale = Math.fround((max - least) / LEVELS)
    this.#floats[at / 2] = scale
    this.#floats[at / 2 + 1] = least - logsumexp
    if (scale === 0) {
      codes.fill(0)
      return
    }
    for (let token = 0; token < logits.length; token++) {
      const above = logits[token]! - least
      codes[token] = above > 0 ? Math.min(Math.round(above / scale), LEVELS) : 0
    }
  }
}

/** Reads a file chunk by chunk. Throws FormatError for a file that is not what its header says. */
export class LogitsReader {
  readonly header: LogitsHeader
  /** All chunks' tokens, BOS not put in. */
  readonly tokens: Int32Array
  readonly #file: number
  readonly #chunk: LogitsChunk
  readonly #path: string
  #next = 0

  constructor(path: string) {
    this.#path = path
    this.#file = openSync(path, "r")
    try {
      this.header = this.#readHeader()
      this.tokens = new Int32Array(this.header.nCtx * this.header.nChunks)
      this.#read(new Uint8Array(this.tokens.buffer), HEADER_BYTES)
      this.#chunk = new LogitsChunk(this.header)
    } catch (error) {
      closeSync(this.#file)
      throw error
    }
  }

  #readHeader(): LogitsHeader {
    const { size } = fstatSync(this.#file)
    const bytes = new Uint8Array(HEADER_BYTES)
    if (size < HEADER_BYTES) throw new FormatError(`${this.#path} has ${size} bytes: no file of log-probabilities`)
    this.#read(bytes, 0)
    if (new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) {
      throw new FormatError(`${this.#path} does not begin with ${MAGIC}: no file of log-probabilities`)
    }
    const view = new DataView(bytes.buffer)
    const [nCtx, nVocab, nChunks] = [0, 4, 8].map((at) => view.getInt32(MAGIC.length + at, true)) as [
      number,
      number,
      number,
    ]
    const sizes = `context ${nCtx}, vocabulary ${nVocab}, chunks ${nChunks}`
    if (nCtx < 4 || nVocab < 1 || nChunks < 1) throw new FormatError(`${this.#path}: impossible sizes: ${sizes}`)
    const header = { nCtx, nVocab, nChunks }
    const expected = HEADER_BYTES + 4 * nCtx * nChunks + nChunks * chunkBytes(header)
    if (size !== expected) {
      throw new FormatError(`${this.#path} has ${size} bytes, its header (${sizes}) asks for ${expected}`)
    }
    return header
  }

  #read(into: Uint8Array, position: number): void {
    for (let done = 0; done < into.length; ) {
      const n = readSync(this.#file, into, done, into.length - done, position + done)
      if (n === 0) throw new FormatError(`${this.#path} ends at byte ${position + done}`)
      done += n
    }
  }

  /** The next chunk; the object is reused. */
  next(): LogitsChunk {
    const { nCtx, nChunks } = this.header
    const start = HEADER_BYTES + 4 * nCtx * nChunks
    this.#read(this.#chunk.bytes, start + this.#next++ * this.#chunk.bytes.length)
    return this.#chunk
  }

  [Symbol.dispose](): void {
    closeSync(this.#file)
  }
}

/** Writes a file chunk by chunk, under another name until it is complete. */
export class LogitsWriter {
  readonly chunk: LogitsChunk
  readonly #header: LogitsHeader
  readonly #file: OutputFile
  #nWritten = 0

  /** @param tokens of all chunks, BOS not put in. */
  constructor(path: string, header: LogitsHeader, tokens: Int32Array) {
    if (tokens.length !== header.nCtx * header.nChunks) {
      throw new ArgumentError(`${tokens.length} tokens for ${header.nChunks} chunks of ${header.nCtx}`)
    }
    this.#header = header
    this.chunk = new LogitsChunk(header)
    const bytes = new Uint8Array(HEADER_BYTES)
    bytes.set(new TextEncoder().encode(MAGIC))
    const view = new DataView(bytes.buffer)
    for (const [i, value] of [header.nCtx, header.nVocab, header.nChunks].entries()) {
      view.setInt32(MAGIC.length + 4 * i, value, true)
    }
    this.#file = new OutputFile(path)
    this.#file.write(bytes)
    this.#file.write(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength))
  }

  /** Appends `chunk` as it is now. */
  writeChunk(): void {
    this.#file.write(this.chunk.bytes)
    this.#nWritten++
  }

  /** Gives the file its name. */
  finish(): void {
    const { nChunks } = this.#header
    if (this.#nWritten !== nChunks) throw new ArgumentError(`${this.#nWritten} of ${nChunks} chunks were written`)
    this.#file.finish()
  }

  /** Removes what is not complete. */
  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]()
  }
}
