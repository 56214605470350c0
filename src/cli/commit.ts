// The commit that this program was started from, for reports: a number without one cannot be repeated.

import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
let known: string | undefined

/** "8db6066", "8db6066-dirty" where files differ from it, "unknown" outside a repository or without git. */
export function buildCommit(): string {
  known ??= readCommit()
  return known
}

function readCommit(): string {
  if (!existsSync(`${root}.git`)) return "unknown"
  try {
    const git = Bun.spawnSync(["git", "describe", "--always", "--dirty", "--exclude=*"], {
      cwd: root,
      stderr: "ignore",
    })
    return git.success ? git.stdout.toString().trim() : "unknown"
  } catch {
    return "unknown" // no git here
  }
}
