// The thread that writes interleaved copies: entry of a Bun Worker; save.ts is the other end. It blocks on the disk as it
// likes. One process at a time writes a copy; one that finds another at it leaves it to that.

import { mkdirSync, readdirSync, rmSync, statfsSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { AsdslError } from "../errors.ts"
import { readGguf } from "../gguf/reader.ts"
import { Buffer } from "../native/handles.ts"
import { TEMPORARY_NAME } from "../output-file.ts"
import { tryLock } from "../setup/lock.ts"
import { readInterleaved } from "./format.ts"
import { InterleavedOutput } from "./output.ts"
import { viewed } from "./repack.ts"
import type { SaveReport, SaveRequest } from "./save.ts"
import { SidecarKey } from "./sidecar.ts"
import { removeOutdated } from "./store.ts"

declare const self: Worker

/** Between two reports. */
const REPORT_MS = 100

function save({ target, ...request }: SaveRequest): SaveReport {
  using weights = Buffer.adopt(request.weights, false)
  const folder = dirname(target)
  mkdirSync(folder, { recursive: true })
  using lock = tryLock(`${target}.lock`)
  if (lock === undefined) return { type: "taken" }
  if (isCopyOf(target, request.headerDigest)) return { type: "saved" } // another process was faster
  removeLeftovers(target)
  checkRoom(folder, request.fileBytes)
  write({ target, ...request }, weights)
  removeOutdated(folder, target)
  return { type: "saved" }
}

/** Whether a file is the sound copy of a source with that header: one that is not is written over. */
function isCopyOf(path: string, headerDigest: string): boolean {
  try {
    const file = readGguf(path)
    return readInterleaved(file) !== undefined && file.metadata.get(SidecarKey.headerDigest) === headerDigest
  } catch {
    return false
  }
}

/** Of a process that was killed: who holds the lock has none of its own yet. */
function removeLeftovers(target: string): void {
  const [folder, name] = [dirname(target), basename(target)]
  for (const each of readdirSync(folder)) {
    if (each.startsWith(name) && TEMPORARY_NAME.test(each)) rmSync(join(folder, each), { force: true })
  }
}

/** A cache is not worth the last of a disk. */
function checkRoom(folder: string, bytes: number): void {
  const { bavail, bsize, blocks } = statfsSync(folder)
  const [free, spare] = [bavail * bsize, Math.min(0.02 * blocks * bsize, 2 ** 30)]
  if (free >= bytes + spare) return
  const gigabytes = (n: number) => (n / 1e9).toFixed(1)
  throw new AsdslError("io", `${folder} has ${gigabytes(free)} GB left, the file needs ${gigabytes(bytes)}`)
}

function write({ target, header, fileBytes, tensors, files }: SaveRequest, weights: Buffer): void {
  using owned = new DisposableStack()
  const sources = files.map((path) => owned.use(Buffer.map(path)))
  const out = owned.use(new InterleavedOutput(target))
  let reportedAt = 0
  out.write(header)
  for (const { offset, pieces } of tensors) {
    out.padTo(offset)
    for (const { file, offset: at, bytes } of pieces) {
      for (const view of viewed(file === undefined ? weights : sources[file]!, at, bytes)) out.write(view)
    }
    if (performance.now() - reportedAt < REPORT_MS) continue
    reportedAt = performance.now()
    self.postMessage({ type: "progress", done: out.written, total: fileBytes } satisfies SaveReport)
  }
  out.padTo(fileBytes)
  for (const source of sources) source.check()
  out.finish()
}

self.onmessage = ({ data }: MessageEvent<SaveRequest>) => {
  let report: SaveReport
  try {
    report = save(data)
  } catch (error) {
    report = { type: "failed", message: error instanceof Error ? error.message : String(error) }
  }
  self.postMessage(report)
}
