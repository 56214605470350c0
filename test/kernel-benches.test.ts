// The kernel benches run and compare what they say they compare: bench/gemm.ts on two libraries (here the same one twice).
// Oracle: the slots' names, and equal bits of equal libraries. Speeds are not judged.

import { expect, test } from "bun:test"
import { join } from "node:path"
import { ensureLibrary } from "../src/native/build.ts"
import { projectFolder } from "../src/setup/project.ts"

interface GemmReport {
  readonly results: readonly {
    readonly columns: number
    readonly nMatrices: number
    readonly limits: { readonly readBytesPerSecond: number; readonly int8MacsPerSecond: number }
    readonly libraries: readonly {
      readonly slot: string
      readonly nanoseconds: readonly number[]
      readonly macsPerSecond: number
      readonly share: number
      readonly hasSameBits: boolean
    }[]
  }[]
}

async function gemm(...args: string[]) {
  const program = join(projectFolder, "bench/gemm.ts")
  const child = Bun.spawn([process.execPath, program, ...args], { stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { exitCode: await child.exited, stdout, stderr }
}

test("bench/gemm.ts measures the slots of two libraries in turns and compares their bits", async () => {
  const library = ensureLibrary()
  const { exitCode, stdout, stderr } = await gemm(
    ...["--type", "q4_k", "--level", "portable", "--shape", "40x256", "--columns", "1,17", "-t", "1"],
    ...["--weights", "1", "-r", "2", "--ms", "1", "--library", library, "--library", library, "-o", "json"],
  )
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" })
  const { results } = JSON.parse(stdout) as GemmReport
  expect(results.map(({ columns, libraries }) => `${columns} ${libraries[0]?.slot}`)).toEqual([
    "1 q4_k.gemv.portable",
    "17 q4_k.gemm.portable",
  ])
  for (const { columns, nMatrices, limits, libraries } of results) {
    expect(nMatrices).toBeGreaterThan(10)
    expect(libraries).toHaveLength(2)
    for (const { nanoseconds, macsPerSecond, share, hasSameBits } of libraries) {
      expect(nanoseconds).toHaveLength(2)
      const time = (nanoseconds[0]! + nanoseconds[1]!) / 2
      expect(macsPerSecond * time).toBeCloseTo(40 * 256 * columns * 1e9, -3)
      expect(share).toBeGreaterThanOrEqual((macsPerSecond / limits.int8MacsPerSecond) * 0.999)
      expect(hasSameBits).toBe(true)
    }
  }
}, 30_000)

test("bench/gemm.ts refuses what is no type, shape or file", async () => {
  for (const [args, message] of [
    [["--type", "q9"], "--type q9 is none of"],
    [["--shape", "2048"], '--shape is "2048"'],
    [["--library", "/nowhere.so"], "--library /nowhere.so: no such file"],
  ] as const) {
    const { exitCode, stderr } = await gemm(...args)
    expect(exitCode).toBe(2)
    expect(stderr).toContain(message)
  }
})
