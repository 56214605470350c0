// The engine through its door: lifetimes, refusals with their numbers, probes, cancelling from another thread.
// Oracle: the contract in csrc/asdsl.h. What runs inside is tested in csrc/test and in the kernels' own tests.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { CancelledError, NativeError, UnsupportedError } from "../src/errors.ts"
import {
  Layout,
  NO_BUFFER,
  Op,
  Operand,
  operationCode,
  Status,
  Type,
  writeField,
  writeStruct,
} from "../src/native/abi.ts"
import { Buffer, cancelProgram, cpuInfo, Engine, KvCache, Program, tensorBytes } from "../src/native/handles.ts"
import { executes, hiddenLevels } from "../src/native/hidden-level.ts"
import { levelNumber } from "../src/native/library.ts"
import { FOREIGN_LEVEL } from "./tiny-model.ts"

const COLS = 4096
const ROWS = 8

/** n records that copy `ROWS` rows of COLS floats from offset 0 of buffer 0 to behind them. */
function copyRecords(n: number): Uint8Array {
  const bytes = new Uint8Array(n * Op.bytes)
  const view = new DataView(bytes.buffer)
  for (let i = 0; i < n; i++) {
    const base = i * Op.bytes
    writeField(view, base, Op, "code", operationCode("gather_outputs"))
    for (let j = 0; j < Op.fields.operand.count; j++) {
      const at = base + Op.fields.operand.offset + j * Operand.bytes
      if (j > 1) writeField(view, at, Operand, "buffer", NO_BUFFER)
      else {
        const offset = j === 0 ? 4 * ROWS * COLS : 0
        const shape = { rows: ROWS, cols: COLS, stride: COLS, layout: Layout.ROWS }
        writeStruct(view, at, Operand, { buffer: 0, type: Type.F32, offset, ...shape })
      }
    }
  }
  return bytes
}

const LIMITS = { maxTokens: ROWS, maxOutputs: ROWS, maxTopK: 0, nVocab: 10 }

/** A program of n copies, set up to copy all rows. */
function copyProgram(engine: Engine, buffer: Buffer, n: number): Program {
  const program = Program.create(engine, copyRecords(n), [buffer], LIMITS)
  program.head.set([ROWS, ROWS, 0, 0])
  program.outputs.set(Array.from({ length: ROWS }, (_, j) => j))
  return program
}

/** The error that `body` throws. */
function thrown(body: () => unknown): unknown {
  try {
    body()
  } catch (error) {
    return error
  }
  return undefined
}

function expectNative(body: () => unknown, status: number, text: string): void {
  const error = thrown(body)
  expect(error).toBeInstanceOf(NativeError)
  expect({ status: (error as NativeError).status, message: (error as NativeError).message }).toEqual({
    status,
    message: expect.stringContaining(text) as unknown as string,
  })
}

/** A level of which only CPUID may be wrong, if there is one here. */
const [HIDDEN] = hiddenLevels(cpuInfo().levels)

let folder = ""
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "asdsl-engine-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("engines", () => {
  test("create, describe themselves, release", () => {
    const facts = cpuInfo()
    expect(facts.levels).toContain("portable")
    expect(facts.levels).toContain(facts.level)
    for (let i = 0; i < 20; i++) {
      using engine = Engine.create({ nThreads: 1 + (i % 3) })
      expect(engine.info()).toEqual({ ...facts, level: engine.info().level, nThreads: 1 + (i % 3) })
    }
  })

  test("refuse impossible settings with the numbers", () => {
    expectNative(
      () => Engine.create({ nThreads: 100_000 }),
      Status.E_ARGUMENT,
      "100000 threads, 0 (as many as cores) to 256",
    )
    expect(thrown(() => Engine.create({ level: FOREIGN_LEVEL }))).toBeInstanceOf(UnsupportedError)
  })

  // On a CPU that has the instruction the engine runs, on one that has not it is the child that dies of it.
  test.skipIf(HIDDEN === undefined)("a level that CPUID hides is tried in a child process", () => {
    const level = HIDDEN!
    const create = () => Engine.create({ level, nThreads: 2 })
    if (executes(levelNumber(level))) {
      using engine = create()
      expect(engine.info().level).toBe(level)
      expect(engine.info().levels).toContain(level)
      expect(engine.probe("int8")).toBeGreaterThan(1e6)
    } else {
      const error = thrown(create)
      expect(error).toBeInstanceOf(UnsupportedError)
      expect((error as UnsupportedError).message).toMatch(new RegExp(`^level ${level}: .*CPUID.*child process.*SIGILL`))
    }
    expect(cpuInfo().levels).not.toContain(level)
  })

  test("a released engine is an error, and its programs go on", () => {
    using buffer = Buffer.create(8 * ROWS * COLS)
    const engine = Engine.create({ nThreads: 2 })
    using program = copyProgram(engine, buffer, 1)
    engine[Symbol.dispose]()
    expect(() => engine.info()).toThrow("disposed")
    program.run(undefined, 0, 1)
  })

  test("probes are positive and believable", () => {
    using engine = Engine.create()
    expect(engine.probe("bandwidth")).toBeWithin(1e8, 1e13)
    expect(engine.probe("int8")).toBeWithin(1e6, 1e15)
  }, 30_000)
})

describe("buffers", () => {
  test("refuse what cannot be", () => {
    expectNative(() => Buffer.create(2 ** 52), Status.E_MEMORY, "4503599627370496 bytes")
  })

  test("map files and nothing else", () => {
    const file = join(folder, "file")
    writeFileSync(file, "sixteen bytes ok")
    using buffer = Buffer.map(file)
    expect([buffer.bytes, new TextDecoder().decode(buffer.view(0, 16))]).toEqual([16, "sixteen bytes ok"])
    mkdirSync(join(folder, "inner"))
    writeFileSync(join(folder, "empty"), "")
    expectNative(() => Buffer.map(join(folder, "inner")), Status.E_IO, "is a folder")
    expectNative(() => Buffer.map(join(folder, "empty")), Status.E_IO, "is empty")
    expectNative(() => Buffer.map(join(folder, "missing")), Status.E_IO, "No such file")
  })

  test("a file is no place for results", () => {
    const file = join(folder, "zeros")
    writeFileSync(file, new Uint8Array(8 * ROWS * COLS))
    using engine = Engine.create({ nThreads: 1 })
    using buffer = Buffer.map(file)
    expectNative(() => copyProgram(engine, buffer, 1), Status.E_ARGUMENT, "op 0 gather_outputs: operand 0 (out)")
  })
})

describe("programs", () => {
  test("records that do not fit their buffer are named", () => {
    using engine = Engine.create({ nThreads: 1 })
    using buffer = Buffer.create(8 * ROWS * COLS - 4)
    const text = `op 0 gather_outputs: operand 0 (out): needs ${4 * ROWS * COLS} bytes at offset ${4 * ROWS * COLS}`
    expectNative(() => copyProgram(engine, buffer, 3), Status.E_ARGUMENT, text)
  })

  test("run what they say and count their time", () => {
    using engine = Engine.create({ nThreads: 2 })
    using buffer = Buffer.create(8 * ROWS * COLS)
    using program = copyProgram(engine, buffer, 2)
    const floats = new Float32Array(buffer.view(0, buffer.bytes))
    for (let i = 0; i < ROWS * COLS; i++) floats[i] = i
    program.outputs.set([7], 0)
    program.head[1] = 1
    program.run(undefined, 0, 2)
    expect(floats.subarray(ROWS * COLS, ROWS * COLS + COLS)).toEqual(floats.subarray(7 * COLS, 8 * COLS))
    expect(program.slot(0)).toContain("gather_outputs")
    expect(program.nanoseconds(0)).toBeGreaterThan(0)
    expectNative(() => program.run(undefined, 1, 2), Status.E_ARGUMENT, "2 ops from op 1, the program has 2")
  })

  test("parameters are checked at every run", () => {
    using engine = Engine.create({ nThreads: 1 })
    using buffer = Buffer.create(8 * ROWS * COLS)
    using program = copyProgram(engine, buffer, 1)
    program.tokens[3] = 10
    expectNative(() => program.run(undefined, 0, 1), Status.E_ARGUMENT, "token 3 is 10, 0 to 9")
    program.tokens[3] = 0
    program.outputs[4] = 3
    expectNative(() => program.run(undefined, 0, 1), Status.E_ARGUMENT, "output 4 is row 3")
  })

  test("handles of other kinds and closed ones", () => {
    using engine = Engine.create({ nThreads: 1 })
    expectNative(() => cancelProgram(engine.id), Status.E_HANDLE, "is an engine, a program is needed")
    expectNative(() => cancelProgram(0xdeadbeef), Status.E_HANDLE, "0xdeadbeef")
    expectNative(() => tensorBytes(Type.Q4_K, Layout.INTERLEAVED, 16, 100), Status.E_ARGUMENT, "16 x 100")
  })
})

describe("cancelling", () => {
  test("before a run, once", () => {
    using engine = Engine.create({ nThreads: 2 })
    using buffer = Buffer.create(8 * ROWS * COLS)
    using program = copyProgram(engine, buffer, 4)
    program.cancel()
    expect(() => program.run(undefined, 0, 4)).toThrow(CancelledError)
    program.run(undefined, 0, 4)
  })

  test("from a Worker, while the main thread is inside", async () => {
    using engine = Engine.create({ nThreads: 2 })
    using buffer = Buffer.create(8 * ROWS * COLS)
    using program = copyProgram(engine, buffer, 60_000) // at 128 KB a copy, far longer than the Worker waits
    const worker = new Worker(new URL("./engine-canceller.ts", import.meta.url).href)
    await new Promise((resolve) => worker.addEventListener("message", resolve, { once: true }))
    worker.postMessage(program.id)
    let runs = 0
    const error = thrown(() => {
      for (; runs < 100; runs++) program.run(undefined, 0, 60_000)
    })
    expect(error).toBeInstanceOf(CancelledError)
    expect(runs).toBeLessThan(100)
    worker.terminate()
  }, 60_000)
})

describe("KV caches", () => {
  test("refuse what cannot be and keep their length", () => {
    using kv = KvCache.create({ nLayers: 2, nKvHeads: 2, headDim: 32, capacity: 100, typeK: Type.F16, typeV: Type.F32 })
    expect(kv.length).toBe(0)
    kv.truncate(0)
    expectNative(() => kv.truncate(1), Status.E_ARGUMENT, "1")
    using copy = kv.fork()
    expect(copy.length).toBe(0)
  })
})
