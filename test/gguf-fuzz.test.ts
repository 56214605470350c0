// Damaged GGUF files: a typed error or a sound reading, and through load() a typed error or a run. Never a crash, a hang,
// an untyped exception or a huge allocation. The child process is what would crash.

import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const FILES = 3600
const LOADS = 800
const folder = mkdtempSync(join(tmpdir(), "asdsl-gguf-fuzz-"))
const SEEDS = [1, 2, 3]
let nPassed = 0
afterAll(() => {
  if (nPassed === SEEDS.length) rmSync(folder, { recursive: true })
})

for (const seed of SEEDS) {
  test(`mutated files, seed ${seed}`, () => {
    const child = Bun.spawnSync(
      [process.execPath, join(import.meta.dir, "gguf-fuzz-child.ts"), `${seed}`, `${FILES}`, `${LOADS}`, folder],
      { stderr: "pipe", timeout: 100_000 },
    )
    const trouble = child.stderr.toString().slice(-2000)
    expect({ exit: child.exitCode, signal: child.signalCode, trouble, folder }).toEqual({
      exit: 0,
      signal: undefined,
      trouble: "",
      folder,
    })
    const counts = JSON.parse(child.stdout.toString()) as Record<string, number>
    const { read, refused, ran, failed, slowestMs, grownMb } = counts
    expect([read! + refused!, ran! + failed!]).toEqual([FILES, LOADS])
    // Both outcomes were reached, or this test shows nothing.
    expect(Math.min(read!, refused!)).toBeGreaterThan(FILES / 10)
    expect(Math.min(ran!, failed!)).toBeGreaterThan(LOADS / 10)
    expect(slowestMs!).toBeLessThan(5000) // a second process may hold the machine meanwhile
    expect(grownMb!).toBeLessThan(400) // garbage of thousands of models, collected at leisure; one huge array is more
    nPassed++
  }, 120_000)
}
