// Before any test file of `bun test`: everything that tests stand on is there, however they were started. Where it cannot
// be had, the tests that need it will fail, and the others run.

import { readFileSync } from "node:fs"
import { installPackages, packagesAreHere } from "../src/setup/packages.ts"
import { prepare } from "./setup.ts"

process.env.ASDSL_CACHE = "off" // tests that want repacked copies have a folder of their own for them

if (packagesAreHere()) await prepare()
else installAndStartAgain()

function installAndStartAgain(): never {
  if (!installPackages()) process.exit(1)
  const again = testArguments()
  if (again === undefined) {
    console.error("the packages are installed now: run the tests again")
    process.exit(1)
  }
  const { exitCode } = Bun.spawnSync([process.execPath, "test", ...again], { stdio: ["ignore", "inherit", "inherit"] })
  process.exit(exitCode)
}

/** What came after `bun test`, which Bun itself does not tell. */
function testArguments(): string[] | undefined {
  try {
    const words = readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(1, -1)
    return words[0] === "test" && !words.includes("--test-worker") ? words.slice(1) : undefined
  } catch {
    return undefined // no /proc
  }
}
