// Checkpoint 2, decode: what its kernels promise. Every GEMV slot (1 to 16 columns: a token, or a draft to verify), weight
// type, level of this CPU, epilogue and number of threads, through the engine's own door. Oracles: matmul-slots.ts. Pages
// around weights, activations and outputs that may not be touched: csrc/test/kernels_matmul.c.

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

const GEMV: SlotFamily = { kernel: "gemv", columns: Array.from({ length: 16 }, (_, i) => i + 1) }

describe("GEMV: within the bound of the reference", () => testAgainstReference(GEMV))
describe("GEMV: whole numbers are exact", () => testExactIntegers(GEMV))
describe("GEMV: a column has the same bits in any company", () => testSameBits(GEMV))
describe("GEMV: weights in one op give what each gives alone", () => testFusedWeights(GEMV))
describe("GEMV: a fault shows in its row or column alone", () => testFaults(GEMV))
