// Where a conversation's turns come from: a person at a terminal, with commands, or the lines of a pipe.

import { createInterface } from "node:readline"
import type { Interrupts } from "./interrupt.ts"
import { warn } from "./program.ts"
import { dimmed } from "./reply.ts"

const COMMANDS = [
  ["/help", "this list"],
  ["/clear", "a new conversation"],
  ["/exit", "leaves, as Ctrl-D does"],
] as const

const HELP = `${COMMANDS.map(([name, what]) => `${name.padEnd(8)}${what}`).join("\n")}
\\ at the end of a line: the message goes on in the next line
Ctrl-C  stops a reply; at the prompt, or once more, it leaves`

/** What a person types. Ends at Ctrl-D, Ctrl-C and /exit. */
export async function* terminalTurns(clear: () => Promise<void>, interrupts: Interrupts): AsyncGenerator<string> {
  const history: string[] = []
  for (;;) {
    const message = await readMessage(history, interrupts)
    if (message === undefined) return
    const typed = message.trim()
    if (typed === "") continue
    if (typed === "/exit" || typed === "/quit" || typed === "/bye") return
    if (typed === "/help" || typed === "/?") warn(HELP)
    else if (typed === "/clear") {
      await clear()
      warn(dimmed("a new conversation"))
    } else if (/^\/[a-z]+$/.test(typed)) warn(`unknown command ${typed}, /help lists them`)
    else yield message
  }
}

/** One message, which may have several lines; undefined at the end. */
async function readMessage(history: string[], interrupts: Interrupts): Promise<string | undefined> {
  let message = ""
  for (let prompt = "> "; ; prompt = "  ") {
    const line = await readLine(prompt, history, interrupts)
    if (line === undefined) return undefined
    if (!line.endsWith("\\")) return message + line
    message += `${line.slice(0, -1)}\n`
  }
}

/** The terminal is in raw mode while this waits and not while a reply runs: there Ctrl-C is a signal. */
function readLine(prompt: string, history: string[], interrupts: Interrupts): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>()
  const editor = createInterface({
    ...{ input: process.stdin, output: process.stderr, terminal: true, history: [...history], prompt },
  })
  editor.on("line", (line) => {
    if (line.trim() !== "" && history[0] !== line) history.unshift(line)
    resolve(line)
    editor.close()
  })
  editor.on("close", () => resolve(undefined)) // Ctrl-D; nothing after a line
  editor.on("SIGINT", () => {
    editor.close()
    interrupts.interrupt()
  })
  editor.prompt()
  return promise
}

/** The lines of stdin that are not blank. */
export async function* pipedTurns(): AsyncGenerator<string> {
  for await (const line of console) if (line.trim() !== "") yield line
}
