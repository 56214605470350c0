// Where a conversation's turns come from: a person at a terminal, with commands, or the lines of a pipe.

import { createInterface } from "node:readline"
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
export async function* terminalTurns(clear: () => Promise<void>): AsyncGenerator<string> {
  const history: string[] = []
  for (;;) {
    const message = await readMessage(history)
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
async function readMessage(history: string[]): Promise<string | undefined> {
  let message = ""
  for (let prompt = "> "; ; prompt = "  ") {
    const line = await readLine(prompt, history)
    if (line === undefined) return undefined
    if (!line.endsWith("\\")) return message + line
    message += `${line.slice(0, -1)}\n`
  }
}

/** Lines that follow each other faster than this were pasted and are one message. */
const PASTE_MS = 10

/** What is typed up to Enter; undefined at Ctrl-D and Ctrl-C. The terminal is in raw mode while this waits and not while a
 * reply runs: there Ctrl-C is a signal. */
function readLine(prompt: string, history: string[]): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>()
  const lines: string[] = []
  let timer: Timer | undefined
  const editor = createInterface({
    ...{ input: process.stdin, output: process.stderr, terminal: true, history: [...history], prompt },
  })
  const finish = () => {
    if (editor.line !== "") return // the end of what was pasted lacks its Enter
    resolve(lines.join("\n"))
    editor.close()
  }
  editor.on("line", (line) => {
    if (line.trim() !== "" && history[0] !== line) history.unshift(line)
    lines.push(line)
    clearTimeout(timer)
    timer = setTimeout(finish, PASTE_MS)
  })
  editor.on("close", () => {
    if (lines.length === 0) process.stderr.write("\n")
    resolve(undefined)
  })
  editor.on("SIGINT", () => editor.close())
  editor.prompt()
  return promise
}

/** The lines of stdin that are not blank. */
export async function* pipedTurns(): AsyncGenerator<string> {
  for await (const line of console) if (line.trim() !== "") yield line.replace(/\r$/, "")
}
