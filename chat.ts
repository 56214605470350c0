#!/usr/bin/env bun
// Talk to a model: bun run chat.ts. The same as `asdsl chat`.
import { main } from "./src/cli/chat.ts"

process.exitCode = await main(process.argv.slice(2))
