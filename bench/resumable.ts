// Flags of measurements that take longer than a run may: what one run has no time for, the next one goes on with.

import { tmpdir } from "node:os"
import { join } from "node:path"
import { integer, text } from "../src/cli/arguments.ts"

/** Exit code of a run whose time was up. */
export const UNFINISHED = 3

/** `name`: of the measurement, for its folder. */
export function resumableFlags(name: string) {
  return {
    seconds: integer("--seconds", {
      min: 0,
      initial: 0,
      help: "leave so long after loading, for another run to go on; 0: never",
    }),
    work: text("--work", {
      value: "FOLDER",
      initial: join(tmpdir(), `asdsl-${name}`),
      help: "where runs leave what they have",
    }),
    save: text("--save", { value: "NAME", help: "add the model to bench/results/NAME.json and .md once all is done" }),
  }
}
