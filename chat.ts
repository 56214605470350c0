#!/usr/bin/env bun
// Talk to a model: bun run chat.ts. The same as `asdsl chat`.
import { withPackages } from "./src/setup/packages.ts"

process.exitCode = await withPackages(async () => (await import("./src/cli/chat.ts")).main(process.argv.slice(2)))
