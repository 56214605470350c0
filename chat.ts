#!/usr/bin/env bun
// Talk to a model: bun run chat.ts. The same as `asdsl chat`.
import { main } from "./src/cli/chat.ts"
import { withPackages } from "./src/setup/packages.ts"

process.exitCode = await withPackages(() => main(process.argv.slice(2)))
