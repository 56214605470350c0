// Writes a model's interleaved copy behind its back: the weights are in memory already, so a thread of its own takes them
// from there while the model answers. What can go wrong costs the copy, never the model.

import { join } from "node:path"
import { AsdslError } from "../errors.ts"
import type { GgufFile } from "../gguf/reader.ts"
import type { Buffer } from "../native/handles.ts"
import type { WeightPlan } from "../weights.ts"
import { GROUP_ROWS } from "./format.ts"
import { type FilePlan, type PlacedTensor, planFile } from "./plan.ts"
import { SidecarKey, sidecarMetadata, sidecarPath } from "./sidecar.ts"

/** Bytes of a tensor: of the weights in memory, or of a part of the source. */
export interface SavedPiece {
  readonly file: number | undefined
  readonly offset: number
  readonly bytes: number
}

/** What the thread is told. */
export interface SaveRequest {
  readonly target: string
  readonly header: Uint8Array
  readonly fileBytes: number
  /** Of the source. */
  readonly headerDigest: string
  /** Where each tensor begins, and what it is made of. */
  readonly tensors: readonly { readonly offset: number; readonly pieces: readonly SavedPiece[] }[]
  readonly files: readonly string[]
  /** A handle of the weights, for the thread to release. */
  readonly weights: number
}

/** What the thread says. "taken": another process is writing the same file. */
export type SaveReport =
  | { readonly type: "progress"; readonly done: number; readonly total: number }
  | { readonly type: "saved" | "taken" }
  | { readonly type: "failed"; readonly message: string }

export interface SaveResult {
  readonly path: string
  /** Why it was not saved; undefined: it was, here or by another process. */
  readonly failure: string | undefined
}

/** Begins to write the copy of `source` into `folder`. Resolves when it is there or has failed, and never rejects. */
export function saveBehind(
  folder: string,
  source: GgufFile,
  weights: WeightPlan,
  memory: Buffer,
  onProgress?: (done: number, total: number) => void,
): Promise<SaveResult> {
  let path = folder
  try {
    path = sidecarPath(folder, source.path) ?? join(folder, "?")
    const facts = sidecarMetadata(source)
    if (facts === undefined) return Promise.resolve({ path, failure: `${source.path} has changed while it was loaded` })
    const plan = planFile(source, weights, GROUP_ROWS[0], facts)
    const headerDigest = String(facts.get(SidecarKey.headerDigest))
    return runThread(path, { ...requestOf(path, source, plan, memory), headerDigest }, onProgress)
  } catch (error) {
    if (!(error instanceof Error)) throw error
    return Promise.resolve({ path, failure: error.message })
  }
}

function requestOf(
  target: string,
  { files }: GgufFile,
  plan: FilePlan,
  memory: Buffer,
): Omit<SaveRequest, "headerDigest"> {
  const tensors = plan.tensors.map((tensor) => ({ offset: tensor.offset, pieces: piecesOf(tensor) }))
  return { target, header: plan.header, fileBytes: plan.fileBytes, tensors, files, weights: memory.share() }
}

/** An interleaved tensor is what the weights made of it are, one after the other. */
function piecesOf({ source, interleave, bytes, weights }: PlacedTensor): SavedPiece[] {
  if (interleave === undefined) return [{ file: source.file, offset: source.offset, bytes }]
  const inOrder = [...weights].sort((a, b) => a.firstRow - b.firstRow)
  const sum = inOrder.reduce((total, weight) => total + weight.bytes, 0)
  if (sum !== bytes) throw new AsdslError("unsupported", `the graph uses ${sum} of ${bytes} bytes of ${source.name}`)
  return inOrder.map((weight) => ({ file: undefined, offset: weight.offset, bytes: weight.bytes }))
}

function runThread(
  path: string,
  request: SaveRequest,
  onProgress: ((done: number, total: number) => void) | undefined,
): Promise<SaveResult> {
  const { promise, resolve } = Promise.withResolvers<SaveResult>()
  const worker = new Worker(new URL("./save-worker.ts", import.meta.url).href)
  const end = (failure: string | undefined) => {
    worker.terminate()
    resolve({ path, failure })
  }
  worker.onerror = ({ message }) => end(message)
  worker.onmessage = ({ data }: MessageEvent<SaveReport>) => {
    if (data.type === "progress") onProgress?.(data.done, data.total)
    else end(data.type === "failed" ? data.message : undefined)
  }
  worker.postMessage(request)
  return promise
}
