// The file of a saved session: what it is of, the tokens it stands for, a note, and a cache's content by chunks. Owns the
// bytes on disk: nothing of a file is believed before a checksum covers it. Knows no model and no cache, and nothing of what
// a chunk's bytes mean.
//
// Little-endian: magic, FIELDS (u64 each), model identity, then by their counts tokens (i32), checksums of the content's
// pieces (u64) and the note (UTF-8), zeros up to the checksum (u64) of all before it, which ends a page; then the chunks.
// A piece is MiB or the rest of a chunk: a prefix of the tokens needs only the chunks they are in. Checksums are XXH3 (64
// bits): they find damage, not forgery, which the engine survives (any content is safe) and which no checksum would stop.

import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs"
import { SavedSessionError, type SavedSessionProblem } from "./errors.ts"
import { systemCode } from "./file-errors.ts"
import { OutputFile } from "./output-file.ts"

const MAGIC = new TextEncoder().encode("asdsl session\r\n\0")
const FORMAT_VERSION = 1
/** The fields that make a content usable: equal in the file and in the cache that wants it. */
const KIND_FIELDS = [
  ...["layoutVersion", "typeK", "typeV", "nLayers", "nKvHeads", "headDim", "chunkTokens", "chunkBytes", "prefill"],
] as const
const FIELDS = ["formatVersion", ...KIND_FIELDS, "nTokens", "noteBytes"] as const
type FieldName = (typeof FIELDS)[number]

const IDENTITY_BYTES = 32
const FIELD_BYTES = 8
const FIXED_BYTES = MAGIC.length + FIELD_BYTES * FIELDS.length + IDENTITY_BYTES
const CHECKSUM_BYTES = 8
const PAGE = 4096
/** Stays in a core's second cache while it is read, summed and copied. */
const PIECE_BYTES = 2 ** 20

/** What a content is of: numbers as C has them. */
export type ContentKind = Readonly<Record<(typeof KIND_FIELDS)[number], number>>

export interface SavedSession {
  readonly kind: ContentKind
  /** SHA-256, hexadecimal. */
  readonly model: string
  readonly tokens: ArrayLike<number>
  /** Whatever its owner wants to find again. */
  readonly note: string
}

/** A session's file, open and its header sound. */
export class SessionFile implements Disposable {
  readonly path: string
  readonly saved: SavedSession
  readonly #fd: number
  readonly #plan: Plan
  readonly #checksums: DataView

  private constructor(path: string, fd: number) {
    this.path = path
    this.#fd = fd
    const { saved, plan, checksums } = readHeader(path, fd)
    this.saved = saved
    this.#plan = plan
    this.#checksums = checksums
  }

  /** Throws SavedSessionError. */
  static open(path: string): SessionFile {
    // A look before opening: opening a pipe waits for its writer.
    const stats = system(path, "read", () => statSync(path))
    if (!stats.isFile()) fail("unknown", path, "is not a regular file")
    const fd = system(path, "read", () => openSync(path, "r"))
    try {
      return new SessionFile(path, fd)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /** Chunks that `nTokens` tokens are in. */
  nChunks(nTokens: number): number {
    return Math.ceil(nTokens / this.saved.kind.chunkTokens)
  }

  /** Gives the content of the first chunks, piece by piece and each after its checksum was right; `write` must not keep
   * the bytes. Throws SavedSessionError at the first piece that is damaged. */
  read(nChunks: number, write: (offset: number, bytes: Uint8Array) => void): void {
    const buffer = new Uint8Array(PIECE_BYTES)
    for (const { index, offset, bytes } of pieces(this.#plan, nChunks)) {
      const piece = buffer.subarray(0, bytes)
      const n = system(this.path, "read", () => readFully(this.#fd, piece, this.#plan.contentAt + offset))
      if (n < bytes || checksum(piece) !== this.#checksums.getBigUint64(CHECKSUM_BYTES * index, true)) {
        fail(
          "damaged",
          this.path,
          `the saved session is damaged in the ${bytes} bytes from byte ${offset} of its content`,
        )
      }
      write(offset, piece)
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }
}

/** Writes a session's file beside `path` and renames it there. `read` fills the bytes with content from an offset on.
 * Throws SavedSessionError, and whatever was at `path` is still there. */
export function writeSession(
  path: string,
  { kind, model, tokens, note }: SavedSession,
  read: (offset: number, out: Uint8Array) => void,
): void {
  const noteBytes = new TextEncoder().encode(note)
  const plan = planOf({ ...kind, formatVersion: FORMAT_VERSION, nTokens: tokens.length, noteBytes: noteBytes.length })
  system(path, "written", () => {
    using file = new OutputFile(path)
    // No sync: what a power cut leaves half written, checksums refuse.
    const checksums = writeContent(file, plan, read)
    file.writeAt(0, headerBytes(plan, model, tokens, checksums, noteBytes))
    file.finish()
  })
}

function writeContent(file: OutputFile, plan: Plan, read: (offset: number, out: Uint8Array) => void): BigUint64Array {
  const checksums = new BigUint64Array(plan.nPieces)
  const buffer = new Uint8Array(PIECE_BYTES)
  for (const { index, offset, bytes } of pieces(plan, plan.nChunks)) {
    const piece = buffer.subarray(0, bytes)
    read(offset, piece)
    checksums[index] = checksum(piece)
    file.writeAt(plan.contentAt + offset, piece)
  }
  return checksums
}

// ---- layout ----

type Fields = Readonly<Record<FieldName, number>>

/** Where everything lies, by the fields alone. Of a damaged file the numbers may be anything: checkPlan(). */
interface Plan {
  readonly fields: Fields
  readonly tokensAt: number
  readonly checksumsAt: number
  readonly noteAt: number
  /** The header ends with its checksum and the content begins here. */
  readonly contentAt: number
  readonly nChunks: number
  readonly nPieces: number
  readonly fileBytes: number
}

function planOf(fields: Fields): Plan {
  const { nTokens, chunkTokens, chunkBytes, noteBytes } = fields
  const nChunks = Math.ceil(nTokens / chunkTokens)
  const nPieces = nChunks * Math.ceil(chunkBytes / PIECE_BYTES)
  const checksumsAt = Math.ceil((FIXED_BYTES + 4 * nTokens) / CHECKSUM_BYTES) * CHECKSUM_BYTES
  const noteAt = checksumsAt + CHECKSUM_BYTES * nPieces
  const contentAt = Math.ceil((noteAt + noteBytes + CHECKSUM_BYTES) / PAGE) * PAGE
  return {
    ...{ fields, tokensAt: FIXED_BYTES, checksumsAt, noteAt, contentAt, nChunks, nPieces },
    fileBytes: contentAt + nChunks * chunkBytes,
  }
}

interface Piece {
  readonly index: number
  /** In the content. */
  readonly offset: number
  readonly bytes: number
}

function* pieces({ fields: { chunkBytes } }: Plan, nChunks: number): Generator<Piece> {
  for (let chunk = 0, index = 0; chunk < nChunks; chunk++) {
    for (let at = 0; at < chunkBytes; at += PIECE_BYTES) {
      yield { index: index++, offset: chunk * chunkBytes + at, bytes: Math.min(PIECE_BYTES, chunkBytes - at) }
    }
  }
}

function fieldAt(index: number): number {
  return MAGIC.length + FIELD_BYTES * index
}

function checksum(bytes: Uint8Array): bigint {
  return Bun.hash.xxHash3(bytes)
}

// ---- header ----

function headerBytes(
  plan: Plan,
  model: string,
  tokens: ArrayLike<number>,
  checksums: BigUint64Array,
  note: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(plan.contentAt)
  const view = new DataView(bytes.buffer)
  bytes.set(MAGIC)
  for (const [i, name] of FIELDS.entries()) view.setBigUint64(fieldAt(i), BigInt(plan.fields[name]), true)
  bytes.set(Uint8Array.fromHex(model), FIXED_BYTES - IDENTITY_BYTES)
  for (let i = 0; i < tokens.length; i++) view.setInt32(plan.tokensAt + 4 * i, tokens[i]!, true)
  for (const [i, sum] of checksums.entries()) view.setBigUint64(plan.checksumsAt + CHECKSUM_BYTES * i, sum, true)
  bytes.set(note, plan.noteAt)
  const end = plan.contentAt - CHECKSUM_BYTES
  view.setBigUint64(end, checksum(bytes.subarray(0, end)), true)
  return bytes
}

function readHeader(path: string, fd: number): { saved: SavedSession; plan: Plan; checksums: DataView } {
  const { size } = system(path, "read", () => fstatSync(fd))
  if (size === 0) fail("missing", path, "is empty")
  const head = readAt(path, fd, 0, Math.min(size, FIXED_BYTES))
  checkMagic(path, head)
  if (size < FIXED_BYTES) fail("damaged", path, `the saved session is truncated: ${size} bytes are left of it`)
  const plan = checkPlan(path, planOf(readFields(head)), size)
  const bytes = readAt(path, fd, 0, plan.contentAt)
  const view = new DataView(bytes.buffer)
  const end = plan.contentAt - CHECKSUM_BYTES
  if (view.getBigUint64(end, true) !== checksum(bytes.subarray(0, end))) {
    fail("damaged", path, `the saved session is damaged in the first ${plan.contentAt} bytes`)
  }
  const { formatVersion: _, nTokens, noteBytes, ...kind } = plan.fields
  return {
    saved: {
      kind,
      model: bytes.subarray(FIXED_BYTES - IDENTITY_BYTES, FIXED_BYTES).toHex(),
      tokens: Array.from({ length: nTokens }, (_, i) => view.getInt32(plan.tokensAt + 4 * i, true)),
      note: new TextDecoder().decode(bytes.subarray(plan.noteAt, plan.noteAt + noteBytes)),
    },
    plan,
    checksums: new DataView(bytes.buffer, plan.checksumsAt, CHECKSUM_BYTES * plan.nPieces),
  }
}

/** A damaged file of ours may be replaced, somebody's letters may not: a quarter of the magic may be wrong. */
function checkMagic(path: string, head: Uint8Array): void {
  const n = Math.min(head.length, MAGIC.length)
  let nWrong = 0
  for (let i = 0; i < n; i++) if (head[i] !== MAGIC[i]) nWrong++
  if (4 * nWrong > n) fail("unknown", path, "is not a saved session")
  if (nWrong > 0) fail("damaged", path, `the saved session is damaged in its first ${n} bytes`)
}

function readFields(head: Uint8Array): Fields {
  const view = new DataView(head.buffer)
  const entries = FIELDS.map((name, i) => [name, Number(view.getBigUint64(fieldAt(i), true))])
  return Object.fromEntries(entries) as Record<FieldName, number>
}

/** Before anything is allocated by them: the sizes are those of the file. */
function checkPlan(path: string, plan: Plan, size: number): Plan {
  const { formatVersion, nTokens, chunkTokens, chunkBytes } = plan.fields
  if (formatVersion !== FORMAT_VERSION) {
    fail("version", path, `the saved session is of format ${formatVersion}, this asdsl reads ${FORMAT_VERSION}`)
  }
  const isPossible = nTokens > 0 && chunkTokens > 0 && chunkBytes > 0
  if (!isPossible || plan.fileBytes !== size) {
    const wanted = isPossible ? `${plan.fileBytes} bytes by its header` : "an impossible header"
    fail("damaged", path, `the saved session is damaged: ${wanted}, the file has ${size} bytes`)
  }
  return plan
}

// ---- system ----

function fail(problem: SavedSessionProblem, path: string, text: string): never {
  throw new SavedSessionError(problem, `${path}: ${text}`)
}

/** What the system refuses, as SavedSessionError. */
function system<T>(path: string, what: "read" | "written", body: () => T): T {
  try {
    return body()
  } catch (cause) {
    const code = systemCode(cause)
    if (code === undefined) throw cause
    if (what === "read" && code === "ENOENT") {
      throw new SavedSessionError("missing", `${path}: there is no such file`, { cause })
    }
    throw new SavedSessionError("system", `${path}: the session cannot be ${what} (${code})`, { cause })
  }
}

function readAt(path: string, fd: number, at: number, n: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(n)
  if (system(path, "read", () => readFully(fd, bytes, at)) < n) fail("damaged", path, "the saved session was cut short")
  return bytes
}

/** Bytes read: fewer only where the file ends. */
function readFully(fd: number, bytes: Uint8Array, at: number): number {
  let done = 0
  while (done < bytes.length) {
    const n = readSync(fd, bytes, done, bytes.length - done, at + done)
    if (n === 0) break
    done += n
  }
  return done
}
