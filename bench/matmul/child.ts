// The process that measures one library ($ASDSL_LIBRARY) for bench/gemm.ts: a request in, an answer out, one at a time.
//
// One process to a library, because a process opens one; it keeps its weights' memory from case to case.

import { Buffer, cpuInfo } from "../../src/native/handles.ts"
import { type MatmulCase, MatmulProgram, type MatmulSample } from "./program.ts"

export interface Requests {
  levels: { request: Record<string, never>; answer: readonly string[] }
  /** Makes the matrices; what was open before is gone. */
  open: { request: MatmulCase; answer: { nMatrices: number; matrixBytes: number } }
  measure: { request: { columns: number; milliseconds: number }; answer: MatmulSample }
  bits: { request: { columns: number }; answer: string }
  probe: { request: Record<string, never>; answer: { readBytesPerSecond: number; int8MacsPerSecond: number } }
}

/** Beyond what a case asks for: the rounding of its matrices to whole pages and whole matrices. */
const SPARE_BYTES = 64 << 20

let weights: Buffer | undefined
let program: MatmulProgram | undefined

function opened(): MatmulProgram {
  if (program === undefined) throw new Error("nothing is open")
  return program
}

const handlers: { [K in keyof Requests]: (request: Requests[K]["request"]) => Requests[K]["answer"] } = {
  levels: () => cpuInfo().levels,
  open(request) {
    program?.[Symbol.dispose]()
    program = undefined
    if (weights === undefined || weights.bytes < request.weightBytes + SPARE_BYTES) {
      weights?.[Symbol.dispose]()
      weights = Buffer.create(request.weightBytes + SPARE_BYTES)
    }
    program = new MatmulProgram(request, weights)
    return { nMatrices: program.nMatrices, matrixBytes: program.matrixBytes }
  },
  measure: ({ columns, milliseconds }) => opened().measure(columns, milliseconds),
  bits: ({ columns }) => opened().bits(columns),
  probe: () => opened().probe(),
}

process.on("message", ({ kind, request }: { kind: keyof Requests; request: never }) => {
  try {
    process.send!({ answer: handlers[kind](request) })
  } catch (error) {
    process.send!({ error: error instanceof Error ? error.message : String(error) })
  }
})
