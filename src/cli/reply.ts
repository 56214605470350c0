// The engine's thread at work for a command: loading, a reply on its way to the user. Text goes to stdout as it comes and
// nothing else does; how far loading or a long prompt is, what the model thinks before it replies (on a terminal), and the
// line below the reply go to stderr.

import { EngineClient, type Listener } from "../chat/client.ts"
import type { PlainChatOptions, PlainLoadOptions, PlainPromptCache } from "../chat/protocol.ts"
import type { GenerationResult } from "../generate.ts"
import { progressText } from "../setup/progress.ts"
import { footer } from "./footer.ts"
import type { Interrupts } from "./interrupt.ts"
import { warn, writeOut } from "./program.ts"
import { StatusLine } from "./status.ts"

/** Starts the engine's thread and loads a file, with a bar on a terminal while it lasts. */
export async function openClient(
  path: string,
  load: PlainLoadOptions,
  chat: PlainChatOptions | undefined = undefined,
  promptCache: PlainPromptCache | undefined = undefined,
): Promise<EngineClient> {
  using status = new StatusLine()
  const startedAt = performance.now()
  const listener: Listener = {
    onProgress(done, total) {
      status.show(`loading ${progressText(done, total, (performance.now() - startedAt) / 1000)}`)
    },
    onNotice: noticeBehind(status),
  }
  const reading = import("../interleaved/read-early.ts").then(({ readEarly }) => readEarly(path, load))
  try {
    return await EngineClient.open(path, load, chat, listener, promptCache)
  } finally {
    ;(await reading)?.[Symbol.dispose]()
  }
}

function noticeBehind(status: StatusLine): (text: string) => void {
  return (text) => {
    status.clear()
    warn(text)
  }
}

/** Before a command leaves: the copy that the next start maps. A Ctrl-C leaves without it. */
export async function finish(client: EngineClient, interrupts: Interrupts): Promise<void> {
  using status = new StatusLine()
  const shown = setTimeout(() => status.show("writing the model's repacked copy for the next start"), 200)
  const stop = Promise.withResolvers<void>()
  try {
    await interrupts.during(stop.resolve, () => Promise.race([client.finish(), stop.promise]))
  } finally {
    clearTimeout(shown)
  }
}

/** Streams one reply and ends it with a line break. */
export async function showReply(
  start: (listener: Listener) => Promise<GenerationResult>,
  before = "",
): Promise<GenerationResult> {
  using status = new StatusLine()
  let last = before
  using thoughts = new Thoughts()
  const show = (text: string) => {
    status.clear()
    thoughts.end()
    last = text
    void writeOut(text)
  }
  if (before !== "") show(before)
  try {
    const result = await start({
      onText: show,
      onReasoning(text) {
        status.clear()
        thoughts.show(text)
      },
      onProgress(done, total) {
        if (done < total) status.show(`reading the prompt: ${done} of ${total} tokens`)
      },
      onNotice: noticeBehind(status),
    })
    if (last === "") show("\n") // an empty reply is one too
    return result
  } finally {
    status.clear()
    await writeOut(last === "" || last.endsWith("\n") ? "" : "\n")
  }
}

/** Writes a whole reply as one line of JSON: a result without its tokens. */
export async function writeReply(start: (listener: Listener) => Promise<GenerationResult>): Promise<GenerationResult> {
  using status = new StatusLine()
  const result = await start({
    onProgress: (done, total) => status.show(`reading the prompt: ${done} of ${total} tokens`),
    onNotice: noticeBehind(status),
  })
  const { tokens: _, ...rest } = result
  await writeOut(`${JSON.stringify(rest)}\n`)
  return result
}

/** What a model thinks: dim on a terminal, nowhere else. */
class Thoughts implements Disposable {
  #isOpen = false

  show(text: string): void {
    if (process.stderr.isTTY !== true) return
    this.#isOpen = true
    process.stderr.write(dimmed(text))
  }

  /** The reply follows, below an empty line. */
  end(): void {
    if (this.#isOpen) process.stderr.write("\n\n")
    this.#isOpen = false
  }

  [Symbol.dispose](): void {
    this.end()
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
    // Who stopped a reply wants to go on and not to wait for a measurement.
    const isRate = result.nGenerated > 1 && result.finishReason !== "cancelled"
    if (isRate) this.#bytesPerSecond ??= await this.#client.probeBandwidth()
    warn(dimmed(footer(result, { streamedBytes, bytesPerSecond: this.#bytesPerSecond })))
  }
}

/** Dim on a terminal that knows colours. */
export function dimmed(text: string): string {
  const isPlain = process.stderr.isTTY !== true || process.env.NO_COLOR || process.env.TERM === "dumb"
  return isPlain ? text : `\x1b[2m${text}\x1b[22m`
}
