// What every matmul slot promises, as tests that checkpoints 2 and 3 declare for their slots and columns. All of it goes
// through the engine's own door: a program of one op, run by asdsl_run at each level and with 1 and 2 threads.
//
// Oracles: level `reference` (formula order, double sums) within the bound that errorBounds derives; integer arithmetic;
// one column by itself, on one thread, at the portable level.

import { expect, test } from "bun:test"
import { TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { Engine } from "../src/native/handles.ts"
import { MatmulProgram, type MatmulSpec, type Matrix, outputsOf } from "./matmul-program.ts"
import {
  type Fill,
  hasMinima,
  isQuantised,
  makeActivations,
  makeMatrix,
  poison,
  sizesOf,
  weightsOf,
} from "./matrices.ts"
import { LEVELS, TYPES } from "./tiny-model.ts"
import { random } from "./tokenizer-fixtures.ts"

/** A family of slots and the numbers of columns that it is tested with, ascending. */
export interface SlotFamily {
  readonly kernel: "gemv" | "gemm"
  readonly columns: readonly number[]
}

interface NamedEngine {
  readonly name: string
  readonly level: string
  readonly engine: Engine
}

const ENGINES: readonly NamedEngine[] = LEVELS.flatMap((level) =>
  [1, 2].map((nThreads) => {
    return { name: `${level}, ${nThreads} threads`, level, engine: Engine.create({ level, nThreads }) }
  }),
)
const FIRST = ENGINES[0]! // portable, one thread
const REFERENCE = Engine.create({ level: "reference", nThreads: 2 })

/** Less, exactly and more than a group of 16 rows, and a matrix as SmolLM2 has them. */
const ROWS = [1, 15, 16, 17, 33, 576]
const LARGE = 576
/** By the block of a type: one, three or five of them, and 576 inputs (9 pairs of blocks of 32) or three blocks of 256. */
const WIDTHS: Readonly<Record<number, readonly number[]>> = {
  1: [1, 35, 192],
  32: [32, 96, 576],
  256: [256, 1280, 768],
}
const FILLS: readonly Fill[] = ["random", "highest", "lowest", "largest", "zero", "random"]

interface Shape {
  readonly rows: number
  readonly cols: number
  readonly fill: Fill
}

/** Every number of rows and every fill; the widths in turn. */
function shapesOf(type: TensorTypeName): Shape[] {
  const widths = WIDTHS[TENSOR_TYPES[type].block]!
  return ROWS.map((rows, i) => ({ rows, cols: widths[i % widths.length]!, fill: FILLS[i]! }))
}

function activationsFor({ cols, fill }: Shape, n: number, next: () => number): Float32Array {
  return makeActivations(
    n,
    cols,
    fill === "highest" || fill === "lowest" ? "extreme" : fill === "zero" ? "zero" : "random",
    next,
  )
}

// ---- epilogues ----

type MakeSpec = (type: TensorTypeName, shape: Shape, next: () => number) => MatmulSpec

const SOFTCAP = 3
const vector = (n: number, next: () => number) => Float32Array.from({ length: n }, () => 8 * (2 * next() - 1))
const weight = (type: TensorTypeName, { rows, cols, fill }: Shape, next: () => number) =>
  makeMatrix(type, rows, cols, fill, next)

const EPILOGUES: Readonly<Record<string, MakeSpec>> = {
  "W x": (type, shape, next) => ({ operation: "matmul", weights: [weight(type, shape, next)] }),
  "W x + bias": (type, shape, next) => {
    return { operation: "matmul", weights: [weight(type, shape, next)], biases: [vector(shape.rows, next)] }
  },
  "softcap(W x + bias)": (type, shape, next) => {
    const biases = [vector(shape.rows, next)]
    return { operation: "matmul", weights: [weight(type, shape, next)], biases, softcap: SOFTCAP }
  },
  "out + W x": (type, shape, next) => ({ operation: "matmul_add", weights: [weight(type, shape, next)] }),
  "out + W x + bias": (type, shape, next) => {
    return { operation: "matmul_add", weights: [weight(type, shape, next)], biases: [vector(shape.rows, next)] }
  },
  "silu(W x) * (V x)": (type, shape, next) => {
    return { operation: "gate_up", weights: [weight(type, shape, next), weight(type, shape, next)], activation: "silu" }
  },
  "gelu(W x) * (V x)": (type, shape, next) => {
    return { operation: "gate_up", weights: [weight(type, shape, next), weight(type, shape, next)], activation: "gelu" }
  },
  "three weights side by side": (type, shape, next) => {
    const others = [17, 1].map((rows) => weight(type, { ...shape, rows }, next))
    return { operation: "matmul", weights: [weight(type, shape, next), ...others] }
  },
}

/** What the output holds before an op that adds to it: (n, rows). */
function beforeOf(spec: MatmulSpec, n: number, next: () => number): Float32Array | undefined {
  return spec.operation === "matmul_add" ? vector(n * outputsOf(spec), next) : undefined
}

// ---- bounds ----

const EPS = 2 ** -24 // half an ulp of a float, relative

/** Of each activation as the kernel sees it: quantisation adds half a step of its block at most. */
function activationSizes(type: TensorTypeName, x: Float32Array): Float64Array {
  const { block } = TENSOR_TYPES[type]
  const sizes = Float64Array.from(x, Math.abs)
  if (block === 1) return sizes
  for (let begin = 0; begin < x.length; begin += block) {
    const part = sizes.subarray(begin, begin + block)
    const halfStep = part.reduce((max, size) => Math.max(max, size), 0) / 253
    for (let i = 0; i < block; i++) part[i] = part[i]! + halfStep
  }
  return sizes
}

/** Sum over the inputs of |w| |x|: (n, rows). */
function magnitudes(matrix: Matrix, x: Float32Array, n: number): Float64Array {
  const { rows, cols, type } = matrix
  const [sizes, activations] = [sizesOf(matrix), activationSizes(type, x.subarray(0, n * cols))]
  const sums = new Float64Array(n * rows)
  for (let t = 0; t < n; t++) {
    for (let row = 0; row < rows; row++) {
      let sum = 0
      for (let i = 0; i < cols; i++) sum += sizes[row * cols + i]! * activations[t * cols + i]!
      sums[t * rows + row] = sum
    }
  }
  return sums
}

/** A row is one chain of fused steps over its blocks (two where a block has minima): each rounds its sum, which is never
 * above the sum S of all magnitudes, so the chain errs by at most steps * EPS * S. A term itself is rounded up to three
 * times: the product of scales, an integer beyond 2^24, the activation's sum. */
function chainBounds({ type, cols }: Matrix, sums: Float64Array): Float64Array {
  const steps = (cols / TENSOR_TYPES[type].block) * (hasMinima(type) ? 2 : 1)
  return sums.map((sum) => (steps + 4) * EPS * sum)
}

/** How far rounding may lead each result astray: (n, outputs). */
function errorBounds(spec: MatmulSpec, x: Float32Array, n: number, want: Float32Array): Float64Array {
  const { operation, weights } = spec
  const sums = weights.map((matrix) => magnitudes(matrix, x, n))
  const chains = weights.map((matrix, i) => chainBounds(matrix, sums[i]!))
  // A last sum of bias and what was there (below 8 and 8), rounded on both sides; the smallest floats are 2^-149 apart.
  const last = (y: number) => 3 * EPS * (Math.abs(y) + 16) + 1e-37
  if (operation === "gate_up") {
    // f has slopes below 1.13 and is good to 1e-6; both factors err.
    const [gate, up] = [sums[0]!, sums[1]!]
    return chains[0]!.map((bound, i) => {
      return 1.13 * bound * up[i]! + chains[1]![i]! * gate[i]! + 1e-6 * gate[i]! * up[i]! + last(want[i]!)
    })
  }
  const outputs = outputsOf(spec)
  const bounds = new Float64Array(n * outputs)
  for (let t = 0; t < n; t++) {
    let column = 0
    for (const [i, { rows }] of weights.entries()) {
      bounds.set(chains[i]!.subarray(t * rows, (t + 1) * rows), t * outputs + column)
      column += rows
    }
  }
  const softcap = (spec.softcap ?? 0) * 1e-6 // of slope 1 at most; tanh itself
  return bounds.map((bound, i) => bound + softcap + last(want[i]!))
}

/** The result furthest beyond its bound, for a message; undefined where all are within. */
function beyond(got: Float32Array, want: Float32Array, bounds: Float64Array): string | undefined {
  let worst = 1
  let message: string | undefined
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i]! - want[i]!)
    if (error <= worst * bounds[i]!) continue
    message = `result ${i} is ${got[i]}, not ${want[i]} +- ${bounds[i]}`
    if (Number.isNaN(error)) return message
    worst = error / bounds[i]!
  }
  return message
}

// ---- bits ----

const rowOf = (values: Float32Array, t: number, width: number) => values.subarray(t * width, (t + 1) * width)

/** A message where the bits of two arrays differ. */
function otherBits(got: Float32Array, want: Float32Array): string | undefined {
  if (got.length !== want.length) return `${got.length} results, not ${want.length}`
  const [a, b] = [got, want].map((floats) => new Uint32Array(floats.buffer, floats.byteOffset, floats.length)) as [
    Uint32Array,
    Uint32Array,
  ]
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return `result ${i} is ${got[i]}, not ${want[i]}`
  return undefined
}

/** Each of those columns by itself, on one thread, at the portable level: (columns.length, outputs). */
function columnByColumn(
  spec: MatmulSpec,
  x: Float32Array,
  columns: readonly number[],
  before?: Float32Array,
): Float32Array {
  const [{ cols }] = spec.weights as [Matrix, ...Matrix[]]
  const rows = outputsOf(spec)
  using program = new MatmulProgram(FIRST.engine, spec, 1)
  const out = new Float32Array(columns.length * rows)
  for (const [i, t] of columns.entries()) {
    out.set(program.run(rowOf(x, t, cols), 1, before && rowOf(before, t, rows)), i * rows)
  }
  return out
}

const upTo = (n: number) => Array.from({ length: n }, (_, t) => t)

/** All columns of a few; of many those of the first two tiles, some in between and the last. */
function someOf(n: number): number[] {
  return upTo(n).filter((t) => n <= 64 || t < 33 || t % 41 === 0 || t === n - 1)
}

function expectSlot(
  program: MatmulProgram,
  type: TensorTypeName,
  { kernel }: SlotFamily,
  { level }: NamedEngine,
): void {
  expect(program.slot).toBe(`${type.toLowerCase()}.${kernel}.${level}`)
}

// ---- the promises ----

const seedOf = (type: TensorTypeName, salt: number) => TENSOR_TYPES[type].id * 1000 + salt

/** Every shape, fill and epilogue, at every level, against the reference. */
export function testAgainstReference(family: SlotFamily): void {
  test.each([...TYPES])("%s", (type) => {
    const next = random(seedOf(type, 1))
    const complaints: string[] = []
    for (const shape of shapesOf(type)) {
      const isLarge = shape.rows === LARGE // the reference is slow
      const n = isLarge ? family.columns[0]! : family.columns[Math.min(1, family.columns.length - 1)]!
      const x = activationsFor(shape, n, next)
      for (const [epilogue, make] of Object.entries(EPILOGUES)) {
        if (isLarge && epilogue !== "W x") continue
        const spec = make(type, shape, next)
        const before = beforeOf(spec, n, next)
        using reference = new MatmulProgram(REFERENCE, spec, n)
        const want = reference.run(x, n, before)
        const bounds = errorBounds(spec, x, n, want)
        for (const engine of ENGINES) {
          using program = new MatmulProgram(engine.engine, spec, n)
          const complaint = beyond(program.run(x, n, before), want, bounds)
          expectSlot(program, type, family, engine)
          if (complaint === undefined) continue
          complaints.push(`${epilogue}, ${shape.rows} x ${shape.cols} ${shape.fill}, ${engine.name}: ${complaint}`)
        }
      }
    }
    expect(complaints).toEqual([])
  })
}

/** Whole weights under whole scales and whole activations: every sum is below 2^24, so floats must hold it exactly. */
export function testExactIntegers({ columns }: SlotFamily): void {
  test.each([...TYPES])("%s", (type) => {
    const next = random(seedOf(type, 2))
    const n = columns.at(-1)!
    const complaints: string[] = []
    const block = isQuantised(type) ? TENSOR_TYPES[type].block : 35
    for (const [rows, cols] of [
      [17, block],
      [16, 3 * block],
    ] as const) {
      const matrix = makeMatrix(type, rows, cols, "whole", next)
      const x = makeActivations(n, cols, "whole", next, block === 256 ? 8 : 128)
      const [w, sums] = [weightsOf(matrix), magnitudes(matrix, x, n)]
      expect(Math.max(...sums)).toBeLessThan(2 ** 24)
      const want = Float32Array.from({ length: n * rows }, (_, at) => {
        const [t, row] = [Math.floor(at / rows), at % rows]
        let sum = 0
        for (let i = 0; i < cols; i++) sum += w[row * cols + i]! * x[t * cols + i]!
        return sum
      })
      expect(want.every(Number.isInteger)).toBe(true)
      for (const { name, engine } of ENGINES) {
        using program = new MatmulProgram(engine, { operation: "matmul", weights: [matrix] }, n)
        const got = program.run(x, n)
        const wrong = got.findIndex((value, i) => value !== want[i])
        if (wrong >= 0)
          complaints.push(`${rows} x ${cols}, ${name}: result ${wrong} is ${got[wrong]}, not ${want[wrong]}`)
      }
    }
    expect(complaints).toEqual([])
  })
}

/** A column has the same bits alone and among others, on one thread and on two, and at every level. */
export function testSameBits(family: SlotFamily): void {
  test.each([...TYPES])("%s", (type) => {
    const next = random(seedOf(type, 3))
    const complaints: string[] = []
    for (const shape of shapesOf(type)) {
      const ends = [family.columns[0]!, family.columns.at(-1)!]
      const columns = shape.rows === LARGE ? ends : family.columns
      const n = columns.at(-1)!
      const x = activationsFor(shape, n, next)
      for (const [epilogue, make] of Object.entries(EPILOGUES)) {
        if (epilogue !== "W x" && shape.rows !== 33) continue
        const spec = make(type, shape, next)
        const [rows, before] = [outputsOf(spec), beforeOf(spec, n, next)]
        const some = someOf(n)
        const alone = columnByColumn(spec, x, some, before)
        const first = new Map<number, Float32Array>() // by number of columns
        for (const engine of ENGINES) {
          using program = new MatmulProgram(engine.engine, spec, n)
          for (const count of epilogue === "W x" ? columns : ends) {
            const got = program.run(x, count, before)
            expectSlot(program, type, family, engine)
            const complaint = first.has(count)
              ? otherBits(got, first.get(count)!)
              : some.map((t, i) => t < count && otherBits(rowOf(got, t, rows), rowOf(alone, i, rows))).find(Boolean)
            if (!first.has(count)) first.set(count, got)
            if (!complaint) continue
            const what = `${epilogue}, ${shape.rows} x ${shape.cols} ${shape.fill}, ${count} columns`
            complaints.push(`${what}, ${engine.name}: ${complaint}`)
          }
        }
      }
    }
    expect(complaints).toEqual([])
  })
}

/** Weights in one op, as q, k and v, give what each gives by itself. */
export function testFusedWeights({ columns }: SlotFamily): void {
  test.each([
    ["Q4_1", "Q8_0", "Q4_0"],
    ["Q5_0", "IQ4_NL", "Q5_1"],
    ["Q4_K", "Q4_K", "Q6_K"],
    ["Q3_K", "IQ4_XS", "Q2_K"],
    ["F16", "F32", "BF16"],
  ] as const)("%s, %s and %s", (q, k, v) => {
    const types = [q, k, v]
    const next = random(seedOf(q, 4))
    const n = columns[0]!
    const cols = 3 * (isQuantised(q) ? TENSOR_TYPES[q].block : 64)
    const weights = types.map((type, i) => makeMatrix(type, [33, 16, 5][i]!, cols, "random", next))
    const biases = weights.map(({ rows }) => vector(rows, next))
    const x = makeActivations(n, cols, "random", next)
    const total = weights.reduce((sum, { rows }) => sum + rows, 0)
    for (const { name, engine } of ENGINES) {
      using together = new MatmulProgram(engine, { operation: "matmul", weights, biases }, n)
      const got = together.run(x, n)
      let column = 0
      for (const [i, matrix] of weights.entries()) {
        using alone = new MatmulProgram(engine, { operation: "matmul", weights: [matrix], biases: [biases[i]!] }, n)
        const want = alone.run(x, n)
        for (let t = 0; t < n; t++) {
          const part = rowOf(got, t, total).subarray(column, column + matrix.rows)
          expect(otherBits(part, rowOf(want, t, matrix.rows)), name).toBe(undefined)
        }
        column += matrix.rows
      }
    }
  })
}

/** A fault shows where it is and nowhere else: a column with NaN or infinity, a row with a NaN scale. */
export function testFaults({ columns }: SlotFamily): void {
  test.each([...TYPES])("%s", (type) => {
    const next = random(seedOf(type, 5))
    const [n, rows] = [columns[Math.min(2, columns.length - 1)]!, 19]
    const cols = WIDTHS[TENSOR_TYPES[type].block]![1]!
    const matrix = makeMatrix(type, rows, cols, "random", next)
    const [badRow, badColumn] = [Math.floor(next() * rows), Math.floor(next() * n)]
    const x = makeActivations(n, cols, "random", next)
    const want = columnByColumn({ operation: "matmul", weights: [matrix] }, x, upTo(n))
    const check = (got: Float32Array, isBad: (t: number, row: number) => boolean, what: string) => {
      for (let i = 0; i < got.length; i++) {
        const bad = isBad(Math.floor(i / rows), i % rows)
        if (bad ? !Number.isFinite(got[i]) : Object.is(got[i], want[i])) continue
        throw new Error(`${what}: result ${i} is ${got[i]}, ${bad ? "no sign of the fault" : `not ${want[i]}`}`)
      }
    }
    const poisoned = { operation: "matmul", weights: [poison(matrix, badRow, Math.floor(next() * cols))] } as const
    for (const { name, engine } of ENGINES) {
      using program = new MatmulProgram(engine, { operation: "matmul", weights: [matrix] }, n)
      for (const fault of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const faulty = x.slice()
        faulty[badColumn * cols + Math.floor(next() * cols)] = fault
        check(program.run(faulty, n), (t) => t === badColumn, `${fault} in column ${badColumn}, ${name}`)
      }
      using other = new MatmulProgram(engine, poisoned, n)
      check(other.run(x, n), (_, row) => row === badRow, `NaN in row ${badRow}, ${name}`)
    }
  })
}
