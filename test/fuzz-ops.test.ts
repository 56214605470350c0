// Random op records: a typed error or a run, never a crash. The child process is what would crash.

import { expect, test } from "bun:test"
import { join } from "node:path"

const ROUNDS = 4000

for (const seed of [1, 2, 3]) {
  test(`mutated programs, seed ${seed}`, () => {
    const child = Bun.spawnSync(
      [process.execPath, join(import.meta.dir, "fuzz-ops-child.ts"), `${seed}`, `${ROUNDS}`],
      {
        stderr: "pipe",
        timeout: 60_000,
      },
    )
    const trouble = child.stderr.toString().slice(-2000)
    expect({ exit: child.exitCode, signal: child.signalCode, trouble }).toEqual({
      exit: 0,
      signal: undefined,
      trouble: "",
    })
    const { accepted, refused, ran, failed } = JSON.parse(child.stdout.toString()) as Record<string, number>
    expect(accepted! + refused!).toBe(ROUNDS)
    // Both sides of the validator and of the runs were reached, or this test shows nothing.
    expect(Math.min(accepted!, refused!, ran!, failed!)).toBeGreaterThan(ROUNDS / 20)
  }, 90_000)
}
