// One file of the hub into the cache's blobs: one process at a time, resumed where an earlier one stopped, hashed while it
// comes, renamed into place when it is whole and right. Knows nothing of models and their names.
//
// The lock keeps processes from fetching twice; it is not what keeps a file right. Writes go to explicit positions, so two
// processes that a network disk's broken lock lets through write the same bytes to the same places.

import { constants, existsSync, statfsSync, statSync } from "node:fs"
import { type FileHandle, open, rename, rm } from "node:fs/promises"
import { dirname } from "node:path"
import { AsdslError, CancelledError, DownloadError } from "../../errors.ts"
import { lock } from "../../setup/lock.ts"
import type { CachedRepo } from "./cache.ts"
import { type Answer, bodyOf, type HubClient, type HubFile, Retries, TransientError } from "./client.ts"

const TRIES = 6
/** A try that brings less than this does not count as progress. */
const PROGRESS_BYTES = 1 << 16
const CHUNK_BYTES = 1 << 20

export interface Job {
  readonly client: HubClient
  readonly cache: CachedRepo
  readonly commit: string
  readonly file: HubFile
  readonly signal: AbortSignal | undefined
  /** Bytes of the file that are there. */
  progress(done: number): void
  /** Another process fetches the same file. */
  onWait?(): void
}

/** The hub has another file under this name by now. */
export class ChangedError extends Error {}

/** Fetches a file into a snapshot. Throws DownloadError, CancelledError (what came is kept), ChangedError. */
export async function fetchFile(job: Job): Promise<void> {
  const { cache, commit, file, signal } = job
  const pointer = cache.pointer(commit, file.path)
  try {
    if (sizeOf(pointer) === file.bytes) return
    cache.prepare(commit, file.path)
    const waiting = { ...(signal ? { signal } : {}), onWait: () => job.onWait?.() }
    using _lock = await lock(cache.lock(file.etag), waiting)
    if (sizeOf(pointer) === file.bytes) return // by the process that had the lock
    await rm(pointer, { force: true })
    if (sizeOf(cache.blob(file.etag)) !== file.bytes) await fetchBlob(job)
    cache.link(commit, file.path, file.etag)
  } catch (error) {
    if (signal?.aborted) throw new CancelledError("the download was stopped")
    if (error instanceof AsdslError || error instanceof ChangedError || !(error instanceof Error)) throw error
    throw diskError(job, error as NodeJS.ErrnoException)
  }
}

/** A file that lost bytes, to a broken disk say, is none. */
function sizeOf(path: string): number | undefined {
  try {
    return statSync(path).size
  } catch {
    return undefined // writing there will say what is wrong
  }
}

async function fetchBlob(job: Job): Promise<void> {
  const partial = job.cache.partial(job.file.etag)
  const resumed = await fillAndCheck(job, partial)
  if (resumed === "wrong") await fillAndCheck(job, partial) // what an earlier run left may have been what was wrong
  await rename(partial, job.cache.blob(job.file.etag))
}

/** Fetches what is missing. A file that is wrong is deleted: "wrong" if a part of it is from an earlier run, else an error. */
async function fillAndCheck(job: Job, path: string): Promise<"right" | "wrong"> {
  const { file, client } = job
  const writer = new PartialWriter(await open(path, constants.O_RDWR | constants.O_CREAT), file)
  let kept: number
  let etag: string
  try {
    kept = await writer.readKept(job)
    await fill(job, writer)
    etag = await writer.finish()
  } finally {
    await writer.close()
  }
  if (etag === file.etag) return "right"
  await rm(path, { force: true })
  if (kept > 0) return "wrong"
  const host = new URL(client.settings.endpoint).host
  throw new DownloadError(
    `${file.path}: what came is not the file that ${host} lists, its hash is ${etag} instead of ${file.etag}; ` +
      "it was deleted: try again, and if that does not help, something between here and the server changes files",
  )
}

/** Requests until all bytes are there. */
async function fill(job: Job, writer: PartialWriter): Promise<void> {
  const { client, cache, commit, file, signal } = job
  const retries = new Retries(client.settings, TRIES)
  let hasStartedOver = false
  while (writer.done < file.bytes) {
    const before = writer.done
    try {
      const answer = await client.openFile(cache.repo, commit, file, writer.done, signal)
      try {
        if (answer.response.status === 416 && writer.done > 0 && !hasStartedOver) {
          hasStartedOver = true
          await writer.startOver()
        } else await take(job, writer, answer)
      } finally {
        await answer.close()
      }
    } catch (error) {
      if (writer.done - before >= PROGRESS_BYTES) retries.reset()
      await retries.pause(error, signal)
    }
  }
}

/** Writes one answer's body. */
async function take(job: Job, writer: PartialWriter, answer: Answer): Promise<void> {
  const { client, file } = job
  const { response, host, etag } = answer
  const { status, headers } = response
  if (status !== 200 && status !== 206) throw await client.refusal(answer, file.path)
  if (etag !== undefined && etag !== file.etag) {
    await rm(job.cache.partial(file.etag), { force: true }) // nobody has the rest of it any more
    throw new ChangedError()
  }
  const range = status === 206 ? /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") : undefined
  const start = range ? Number(range[1]) : 0
  const length = headers.get("content-length")
  const total = range ? range[2]! : length === null || headers.has("content-encoding") ? "*" : length
  if (status === 206 && start !== writer.done) {
    throw new DownloadError(
      `${file.path}: asked for bytes from ${writer.done} on, ${host} sends others: try again later`,
    )
  }
  if (total !== "*" && Number(total) !== file.bytes) throw wrongLength(file, host, total)
  if (start < writer.done) await writer.startOver() // the server ignores ranges: all of it comes again
  for await (const chunk of bodyOf(answer)) {
    if (writer.done + chunk.length > file.bytes) {
      await writer.startOver()
      throw wrongLength(file, host, `more than ${file.bytes}`)
    }
    await writer.write(chunk)
    job.progress(writer.done)
  }
  if (writer.done < file.bytes) {
    const lacks = `${writer.done} of ${file.bytes} bytes have come`
    throw new TransientError(
      new DownloadError(
        `${file.path}: ${host} ends too early, ${lacks} and are kept: try again, it goes on from there`,
      ),
    )
  }
}

function wrongLength(file: HubFile, host: string, bytes: string): DownloadError {
  const advice = "is there a sign-in page or a proxy in between? Try again later"
  return new DownloadError(`${file.path}: ${host} sends ${bytes} bytes, the hub lists ${file.bytes}: ${advice}`)
}

/** The file under way, and the hash of what is in it. */
class PartialWriter {
  readonly #handle: FileHandle
  readonly #file: HubFile
  #hash: Bun.CryptoHasher
  /** Bytes that are there. */
  done = 0

  constructor(handle: FileHandle, file: HubFile) {
    this.#handle = handle
    this.#file = file
    this.#hash = hasherOf(file)
  }

  /** Takes what an earlier run left into the hash; returns how much that is. */
  async readKept({ progress, signal, file }: Job): Promise<number> {
    const { size } = await this.#handle.stat()
    if (size > file.bytes) {
      await this.#handle.truncate(0)
      return 0
    }
    const buffer = new Uint8Array(CHUNK_BYTES)
    while (this.done < size) {
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, this.done)
      if (bytesRead === 0) break
      if (signal?.aborted) throw signal.reason
      this.#hash.update(buffer.subarray(0, bytesRead))
      this.done += bytesRead
      progress(this.done)
    }
    return this.done
  }

  async write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; ) {
      const { bytesWritten } = await this.#handle.write(chunk, at, chunk.length - at, this.done + at)
      at += bytesWritten
    }
    this.#hash.update(chunk)
    this.done += chunk.length
  }

  async startOver(): Promise<void> {
    await this.#handle.truncate(0)
    this.#hash = hasherOf(this.#file)
    this.done = 0
  }

  /** Brings everything to the disk and returns the hash. */
  async finish(): Promise<string> {
    await this.#handle.datasync()
    const { size } = await this.#handle.stat()
    return size === this.#file.bytes ? this.#hash.digest("hex") : `that of a file of ${size} bytes`
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}

/** Blobs of large files are named by their sha256, others by git's hash of a blob: sha1 of "blob <size>\0" and the bytes. */
function hasherOf({ etag, bytes }: HubFile): Bun.CryptoHasher {
  return etag.length === 64 ? new Bun.CryptoHasher("sha256") : new Bun.CryptoHasher("sha1").update(`blob ${bytes}\0`)
}

/** Throws DownloadError if the files of a model, those parts that are not there yet, are more than the disk has room for. */
export function checkRoom(cache: CachedRepo, commit: string, files: readonly HubFile[]): void {
  const missing = files.reduce((sum, file) => sum + missingBytes(cache, commit, file), 0)
  let folder = cache.folder
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder)
  const { blocks, bavail, bsize } = statfsSync(folder)
  const free = bavail * bsize
  if (free >= missing || blocks === 0) return // a disk that tells nothing of itself has to be tried
  const numbers = `${megabytes(missing)} are still to come and ${megabytes(free)} are free`
  throw new DownloadError(`no room in ${cache.folder}: ${numbers}; make room, or set HF_HUB_CACHE to another folder`)
}

function missingBytes(cache: CachedRepo, commit: string, { path, bytes, etag }: HubFile): number {
  const isThere = [cache.pointer(commit, path), cache.blob(etag)].some((local) => sizeOf(local) === bytes)
  return isThere ? 0 : bytes - Math.min(bytes, sizeOf(cache.partial(etag)) ?? 0)
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}

function diskError({ cache, file }: Job, cause: NodeJS.ErrnoException): DownloadError {
  const { code, message } = cause
  const kept = "what came is kept, make room and try again"
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") {
    return new DownloadError(`${file.path}: the disk of ${cache.folder} is full; ${kept}`, { cause })
  }
  const advice = "set HF_HUB_CACHE to a folder that can be written"
  return new DownloadError(`${file.path} cannot be written below ${cache.folder}, ${message}: ${advice}`, { cause })
}
