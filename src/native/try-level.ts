// The child process of hidden-level.ts: executes the instruction of a level, given by its number, and ends with exit code
// 0. Where the CPU does not have it the library ends this process with ExitCode.TRAPPED.

import { checked, native } from "./library.ts"

checked(native().asdsl_try_level(Number(process.argv[2])))
