// Where asdsl's own files are. Knows no more than that.

import { fileURLToPath } from "node:url"

/** The folder that has package.json, build.zig and csrc/ in it. */
export const projectFolder = fileURLToPath(new URL("../..", import.meta.url))
