// `npm run zig -- build test`: the zig that builds asdsl, found or installed, with whatever follows.

import { AsdslError } from "../src/errors.ts"
import { projectFolder } from "../src/setup/project.ts"
import { findZig, zigBuild, zigEnvironment } from "../src/setup/zig.ts"

try {
  const [first, ...others] = process.argv.slice(2)
  const command = first === "build" ? zigBuild(findZig(), ...others) : [findZig(), ...process.argv.slice(2)]
  const { exitCode } = Bun.spawnSync(command, {
    cwd: projectFolder,
    env: zigEnvironment(),
    stdio: ["inherit", "inherit", "inherit"],
  })
  process.exitCode = exitCode
} catch (error) {
  if (!(error instanceof AsdslError)) throw error
  console.error(error.message)
  process.exitCode = 1
}
