// The only importer of bun:ffi: one table of symbols, the library opened once, C's errors as typed errors.
//
// Callers pass JavaScript memory as TypedArrays for the length of one call and never keep an address of it; memory that
// outlives a call is C's and is seen through nativeMemory(). bun:ffi turns undefined and NaN into 0 without a word, so
// handles.ts checks every argument before it comes here. An N-API door of the same shape would replace this file alone.

import { type CString, dlopen, FFIType, type Pointer, toArrayBuffer } from "bun:ffi"
import { ArgumentError, type AsdslError, CancelledError, NativeError, UnsupportedError } from "../errors.ts"
import { ABI_VERSION, Abi, Level, OPERATIONS, readField, STRUCTS, Status, type StructLayout, viewOf } from "./abi.ts"
import { ensureLibrary } from "./build.ts"

const { u32, i32, f64, ptr, cstring } = FFIType

const SYMBOLS = {
  asdsl_abi: { args: [ptr], returns: FFIType.void },
  asdsl_describe: { args: [], returns: cstring },
  asdsl_last_error: { args: [], returns: cstring },
  asdsl_last_status: { args: [], returns: i32 },
  asdsl_cpu_info: { args: [ptr], returns: i32 },
  asdsl_topology: { args: [cstring, ptr], returns: i32 },
  asdsl_try_level: { args: [i32], returns: i32 },
  asdsl_release: { args: [u32], returns: i32 },
  asdsl_engine_create: { args: [ptr], returns: u32 },
  asdsl_engine_info: { args: [u32, ptr], returns: i32 },
  asdsl_engine_workers: { args: [u32, ptr], returns: i32 },
  asdsl_probe: { args: [u32, i32], returns: f64 },
  asdsl_count: { args: [u32, i32], returns: f64 },
  asdsl_buffer_create: { args: [f64], returns: u32 },
  asdsl_buffer_map: { args: [cstring], returns: u32 },
  asdsl_buffer_data: { args: [u32], returns: ptr },
  asdsl_buffer_bytes: { args: [u32], returns: f64 },
  asdsl_buffer_share: { args: [u32], returns: u32 },
  asdsl_buffer_check: { args: [u32], returns: i32 },
  asdsl_buffer_prefetch: { args: [u32, f64, f64], returns: i32 },
  asdsl_buffer_lock: { args: [u32], returns: i32 },
  asdsl_buffer_pages: { args: [u32, ptr], returns: i32 },
  asdsl_tensor_bytes: { args: [i32, i32, i32, i32], returns: f64 },
  asdsl_activation_type: { args: [i32], returns: i32 },
  asdsl_repack: { args: [u32, ptr], returns: i32 },
  asdsl_quantize: { args: [u32, ptr], returns: f64 },
  asdsl_kv_create: { args: [ptr], returns: u32 },
  asdsl_kv_length: { args: [u32], returns: i32 },
  asdsl_kv_truncate: { args: [u32, i32], returns: i32 },
  asdsl_kv_fork: { args: [u32], returns: u32 },
  asdsl_kv_bytes: { args: [u32], returns: f64 },
  asdsl_kv_state: { args: [u32, ptr], returns: i32 },
  asdsl_kv_read: { args: [u32, f64, ptr, i32], returns: i32 },
  asdsl_kv_write: { args: [u32, f64, ptr, i32], returns: i32 },
  asdsl_kv_restore: { args: [u32, i32], returns: i32 },
  asdsl_program_create: { args: [u32, ptr, i32, ptr, i32, ptr], returns: u32 },
  asdsl_program_params: { args: [u32], returns: ptr },
  asdsl_run: { args: [u32, u32, i32, i32], returns: i32 },
  asdsl_cancel: { args: [u32], returns: i32 },
  asdsl_op_slot: { args: [u32, i32], returns: cstring },
  asdsl_op_time: { args: [u32, i32], returns: f64 },
} as const

type Bytes = Uint8Array | Uint32Array

/** The exported functions as TypeScript sees them; contracts are in csrc/asdsl.h. */
export interface Native {
  asdsl_abi(out: Bytes): void
  asdsl_describe(): CString
  asdsl_last_error(): CString
  asdsl_last_status(): number
  asdsl_cpu_info(out: Bytes): number
  asdsl_topology(root: string, out: Bytes): number
  asdsl_try_level(level: number): number
  asdsl_release(handle: number): number
  asdsl_engine_create(options: Bytes): number
  asdsl_engine_info(engine: number, out: Bytes): number
  asdsl_engine_workers(engine: number, out: Bytes): number
  asdsl_probe(engine: number, kind: number): number
  asdsl_count(engine: number, counter: number): number
  asdsl_buffer_create(bytes: number): number
  asdsl_buffer_map(path: string): number
  asdsl_buffer_data(buffer: number): Pointer | null
  asdsl_buffer_bytes(buffer: number): number
  asdsl_buffer_share(buffer: number): number
  asdsl_buffer_check(buffer: number): number
  asdsl_buffer_prefetch(buffer: number, offset: number, bytes: number): number
  asdsl_buffer_lock(buffer: number): number
  asdsl_buffer_pages(buffer: number, out: Bytes): number
  asdsl_tensor_bytes(type: number, layout: number, rows: number, cols: number): number
  asdsl_activation_type(weightType: number): number
  asdsl_repack(engine: number, job: Bytes): number
  asdsl_quantize(engine: number, job: Bytes): number
  asdsl_kv_create(options: Bytes): number
  asdsl_kv_length(kv: number): number
  asdsl_kv_truncate(kv: number, length: number): number
  asdsl_kv_fork(kv: number): number
  asdsl_kv_bytes(kv: number): number
  asdsl_kv_state(kv: number, out: Bytes): number
  asdsl_kv_read(kv: number, offset: number, out: Bytes, bytes: number): number
  asdsl_kv_write(kv: number, offset: number, data: Bytes, bytes: number): number
  asdsl_kv_restore(kv: number, length: number): number
  asdsl_program_create(
    engine: number,
    ops: Bytes,
    nOps: number,
    buffers: Bytes,
    nBuffers: number,
    options: Bytes,
  ): number
  asdsl_program_params(program: number): Pointer | null
  asdsl_run(program: number, kv: number, first: number, count: number): number
  asdsl_cancel(program: number): number
  asdsl_op_slot(program: number, index: number): CString | null
  asdsl_op_time(program: number, index: number): number
}

let opened: Native | undefined

/** The library, opened (and built where needed) at the first call. */
export function native(): Native {
  opened ??= open()
  return opened
}

function open(): Native {
  const path = ensureLibrary()
  let symbols: Native
  try {
    symbols = dlopen(path, SYMBOLS).symbols as unknown as Native
  } catch (cause) {
    throw new UnsupportedError(`${path}: cannot be loaded: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    })
  }
  checkAbi(symbols, path)
  return symbols
}

/** Both sides were compiled from one header, or nothing may be called. */
function checkAbi(symbols: Native, path: string): void {
  const out = new Uint8Array(Abi.bytes)
  const view = viewOf(out)
  symbols.asdsl_abi(out)
  const version = readField(view, 0, Abi, "version")
  if (version !== ABI_VERSION) {
    throw new UnsupportedError(`${path} has ABI version ${version}, this asdsl needs ${ABI_VERSION}`)
  }
  const sizes: Record<string, string> = { row_stats: "stats" }
  for (const { name, bytes } of STRUCTS as readonly StructLayout[]) {
    const short = name.replace("asdsl_", "")
    const field = `${sizes[short] ?? short}_bytes`
    if (short === "abi") continue
    const theirs = readField(view, 0, Abi as StructLayout, field)
    if (theirs !== bytes) throw new UnsupportedError(`${path}: struct ${name} has ${theirs} bytes, expected ${bytes}`)
  }
  const nOps = readField(view, 0, Abi, "n_op_codes")
  if (nOps !== OPERATIONS.length) {
    throw new UnsupportedError(`${path} knows ${nOps} operations, expected ${OPERATIONS.length}`)
  }
}

/** What the failing call left behind on this thread, as the error it stands for. */
export function lastError(): AsdslError {
  return errorOf(native().asdsl_last_status(), String(native().asdsl_last_error()))
}

function errorOf(status: number, text: string): AsdslError {
  if (status === Status.E_CANCELLED) return new CancelledError(text)
  if (status === Status.E_UNSUPPORTED) return new UnsupportedError(text)
  return new NativeError(status, text)
}

/** A negative status or size throws; anything else comes back. */
export function checked(result: number): number {
  if (result < 0 || Number.isNaN(result)) throw lastError()
  return result
}

/** A handle of 0 throws. */
export function checkedHandle(handle: number): number {
  if (handle === 0) throw lastError()
  return handle
}

/** Memory of C's, without a copy: bytes [offset, offset + bytes) behind an address. At most 2^32 bytes at a time. The
 * caller makes sure that the memory outlives the ArrayBuffer, or detaches it (handles.ts does). */
export function nativeMemory(address: Pointer, offset: number, bytes: number): ArrayBuffer {
  return toArrayBuffer(address, offset, bytes)
}

export type { Pointer }

const LEVELS = Object.keys(Level)
  .filter((name) => name !== "AUTO")
  .map((name) => name.toLowerCase())

/** The number of an instruction-set level by its name; "" and "auto" are the best of this CPU. */
export function levelNumber(name: string): number {
  if (name === "" || name === "auto") return Level.AUTO
  const level = LEVELS.includes(name) ? Level[name.toUpperCase() as keyof typeof Level] : undefined
  if (level === undefined) throw new ArgumentError(`level ${name} is not known: ${LEVELS.join(", ")}, auto`)
  return level
}

/** The name of a level by its number. */
export function levelName(level: number): string {
  return LEVELS.find((name) => Level[name.toUpperCase() as keyof typeof Level] === level) ?? `level ${level}`
}

/** The level that ASDSL_ISA asks for, else the best of this CPU. */
export function defaultLevel(): number {
  return levelNumber(process.env.ASDSL_ISA ?? "")
}
