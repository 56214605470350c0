// Checkpoint 3, prefill: what its kernels promise. Every GEMM slot (more than 16 columns), weight type, level of this CPU,
// epilogue and number of threads, through the engine's own door. Oracles: matmul-slots.ts, among them that a column has
// the bits that GEMV gives it alone. Pages that may not be touched: csrc/test/kernels_matmul.c.

import { describe, setDefaultTimeout } from "bun:test"
import {
  type SlotFamily,
  testAgainstReference,
  testExactIntegers,
  testFaults,
  testFusedWeights,
  testSameBits,
} from "./matmul-slots.ts"

setDefaultTimeout(60_000) // seconds each; two workers on busy cores wait for each other

/** Around the ends of tiles, and the largest pass there is by default. */
const GEMM: SlotFamily = { kernel: "gemm", columns: [17, 31, 32, 33, 64, 512] }

describe("GEMM: within the bound of the reference", () => testAgainstReference(GEMM))
describe("GEMM: whole numbers are exact", () => testExactIntegers(GEMM))
describe("GEMM: a column has the bits that GEMV gives it alone", () => testSameBits(GEMM))
describe("GEMM: weights in one op give what each gives alone", () => testFusedWeights(GEMM))
describe("GEMM: a fault shows in its row or column alone", () => testFaults(GEMM))
