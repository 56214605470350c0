// A reply on its way to the user: text to stdout as it comes, how far a long prompt is and the line below the reply to
// stderr. Replies go to stdout and nothing else does.

import type { EngineClient, Listener } from "../chat/client.ts"
import type { GenerationResult } from "../generate.ts"
import { footer } from "./footer.ts"
import { warn, writeOut } from "./program.ts"
import { StatusLine } from "./status.ts"

/** Streams one reply and ends it with a line break. */
export async function showReply(
  start: (listener: Listener) => Promise<GenerationResult>,
  before = "",
): Promise<GenerationResult> {
  using status = new StatusLine()
  let last = before
  const show = (text: string) => {
    status.clear()
    last = text
    void writeOut(text)
  }
  if (before !== "") show(before)
  try {
    return await start({
      onText: show,
      onProgress(done, total) {
        if (done < total) status.show(`reading the prompt: ${done} of ${total} tokens`)
      },
    })
  } finally {
    status.clear()
    if (last !== "" && !last.endsWith("\n")) await writeOut("\n")
  }
}

/** Writes footers; the machine is measured once, when the first reply is out. */
export class Footers {
  readonly #client: EngineClient
  #bytesPerSecond: number | undefined

  constructor(client: EngineClient) {
    this.#client = client
  }

  async show(result: GenerationResult): Promise<void> {
    const { streamedBytes } = this.#client.facts
    if (result.nGenerated > 1) this.#bytesPerSecond ??= await this.#client.probeBandwidth()
    warn(dimmed(footer(result, { streamedBytes, bytesPerSecond: this.#bytesPerSecond })))
  }
}

/** Dim on a terminal that knows colours. */
export function dimmed(text: string): string {
  const isPlain = process.stderr.isTTY !== true || process.env.NO_COLOR || process.env.TERM === "dumb"
  return isPlain ? text : `\x1b[2m${text}\x1b[22m`
}
