// The chat: flags, a model in the engine's thread, turns from the terminal or one a line from a pipe. Knows no tensors.

import { readFileSync } from "node:fs"
import { basename } from "node:path"
import type { EngineClient } from "../chat/client.ts"
import { AsdslError, ContextOverflowError } from "../errors.ts"
import { type Command, group, text, toggle, UsageError, type Values } from "./arguments.ts"
import {
  contextFlags,
  draftFlags,
  loadFlags,
  modelFlags,
  outputFlag,
  promptFlags,
  samplingFlags,
  threadFlags,
} from "./flags.ts"
import { INTERRUPTED, Interrupts } from "./interrupt.ts"
import { draftOptions, loadOptions, modelFile } from "./load.ts"
import { generateOptions, generationFlags, promptCacheFlags, promptCacheOf, promptText } from "./options.ts"
import { runCommand, warn } from "./program.ts"
import { dimmed, Footers, finish, openClient, showReply, writeReply } from "./reply.ts"
import { templateFlags, templateOptions } from "./template.ts"
import { pipedTurns, terminalTurns } from "./turns.ts"

/** What a template puts in by itself, or a plainer sentence, is often worse for a small model: asked in English for the
 * capitals of France, Italy and Spain, SmolLM2-135M, quantised, begins in each country's own language behind its template's
 * "named SmolLM, trained by Hugging Face" and behind llama.cpp's "You are a helpful assistant." (by 0.04 to 2 logits, where
 * rounding moves logits by 0.3), and in English behind this by 1.8 to 2.8; asked in French it answers in French (seen once). */
export const DEFAULT_SYSTEM = "You are a helpful AI assistant. The answer should be in the language of the question."

const flags = {
  ...modelFlags,
  ...loadFlags,
  ...draftFlags,
  ...promptFlags,
  ...group("Conversation", {
    system: text("-sys, --system-prompt", {
      help: `what the model is told before anything else; absent: "${DEFAULT_SYSTEM}", "": what its template says`,
    }),
    systemFile: text("-sysf, --system-prompt-file", { value: "FILE", help: "a file that holds the same" }),
    singleTurn: toggle("-st, --single-turn", { initial: false, help: "answer once and leave" }),
    conversation: toggle("-cnv, --conversation", {
      offNames: "-no-cnv, --no-conversation",
      initial: true,
      help: "as it always is here; asdsl run completes raw text",
    }),
    verbose: toggle("-v, --verbose", { initial: false, help: "say on stderr how things are, in a pipe too" }),
  }),
  ...templateFlags,
  ...outputFlag(["text", "json"]),
  ...generationFlags,
  ...promptCacheFlags("keep the whole conversation: the next chat with the file goes on with it"),
  ...contextFlags,
  ...threadFlags,
  ...samplingFlags,
}

export const command: Command<typeof flags> = {
  name: "asdsl chat",
  summary: "talks with a model",
  usage: "[-m MODEL] [-sys TEXT] [-p TEXT [-st]], turns come from the terminal or one a line from stdin",
  flags,
}

export async function main(args: readonly string[]): Promise<number> {
  return runCommand(command, args, run)
}

async function run(values: Values<typeof flags>): Promise<number> {
  if (!values.conversation) throw new UsageError("-no-cnv: use asdsl run, which completes raw text")
  const first = promptText(values)
  if (first?.trim() === "") throw new UsageError("the prompt is empty")
  const chat = { ...generateOptions(values), ...systemOf(values), ...templateOptions(values) }
  const promptCache = promptCacheOf(values)
  const path = await modelFile(values)
  const load = { ...loadOptions(values), ...(await draftOptions(values)) }
  using client = await openClient(path, load, chat, promptCache)
  using interrupts = new Interrupts()
  const dialogue = new Dialogue(client, interrupts, values)
  const isDialogue = dialogue.isTerminal && !values.singleTurn
  if (values.verbose || isDialogue) greet(path, client, values.verbose)
  if (isDialogue) warn(dimmed("/help lists commands, Ctrl-C stops a reply, Ctrl-D leaves"))
  const code = await converse(dialogue, first, values)
  await client.keep({ onNotice: warn })
  await finish(client, interrupts)
  return code
}

/** All turns. Returns the exit code. */
async function converse(dialogue: Dialogue, first: string | undefined, values: Values<typeof flags>): Promise<number> {
  if (first !== undefined) {
    const isDone = await dialogue.turn(first)
    if (values.singleTurn) return isDone ? 0 : INTERRUPTED
  }
  const turns = dialogue.isTerminal ? terminalTurns(() => dialogue.clear()) : pipedTurns()
  for await (const turn of turns) {
    const isDone = await dialogue.turn(turn)
    if (values.singleTurn) return isDone ? 0 : INTERRUPTED
  }
  return 0
}

/** Turns of one conversation: reply, footer, and what goes wrong without ending the program. */
class Dialogue {
  readonly #client: EngineClient
  readonly #interrupts: Interrupts
  readonly #footers: Footers
  readonly #isJson: boolean
  readonly #isSingle: boolean
  readonly #hasFooter: boolean

  constructor(client: EngineClient, interrupts: Interrupts, values: Values<typeof flags>) {
    this.#client = client
    this.#interrupts = interrupts
    this.#footers = new Footers(client)
    this.#isJson = values.output === "json"
    this.#isSingle = values.singleTurn
    this.#hasFooter = values.singleTurn || values.verbose || process.stderr.isTTY === true
  }

  /** A person types the turns. */
  get isTerminal(): boolean {
    return process.stdin.isTTY === true && process.stderr.isTTY === true
  }

  async clear(): Promise<void> {
    await this.#client.clear()
  }

  /** Whether the reply came to its own end. */
  async turn(said: string): Promise<boolean> {
    const client = this.#client
    const show = this.#isJson ? writeReply : showReply
    try {
      const result = await this.#interrupts.during(
        () => client.abort(),
        () => show((listener) => client.say(said, {}, listener)),
      )
      // A Ctrl-C that comes just too late for the reply is not meant for the program.
      if (this.#hasFooter) await this.#interrupts.during(nothing, () => this.#footers.show(result))
      return result.finishReason !== "cancelled"
    } catch (error) {
      if (this.#isSingle || !(error instanceof AsdslError)) throw error
      // A prompt that does not fit, messages that the template refuses: the chat goes on.
      const isFull = error instanceof ContextOverflowError && process.stderr.isTTY === true
      warn(error.message + (isFull ? "; /clear starts a new conversation" : ""))
      return false
    }
  }
}

function nothing(): void {}

function systemOf(values: Values<typeof flags>): { system?: string; defaultSystem?: string } {
  const { system, systemFile } = values
  if (system !== undefined && systemFile !== undefined) throw new UsageError("-sys and -sysf exclude each other")
  if (systemFile !== undefined) return { system: readFileSync(systemFile, "utf8") }
  if (system === undefined) return { defaultSystem: DEFAULT_SYSTEM }
  return system === "" ? {} : { system }
}

function greet(path: string, { facts }: EngineClient, isVerbose: boolean): void {
  const { nParams, nCtx, nThreads, level, fallbackTemplate, seed, nMessages } = facts
  const size = nParams >= 1e9 ? `${(nParams / 1e9).toFixed(1)} B` : `${Math.round(nParams / 1e6)} M`
  const parts = [
    `${basename(path, ".gguf")}: ${size} parameters`,
    `context ${nCtx}`,
    `${nThreads} ${nThreads === 1 ? "thread" : "threads"}`,
    level,
    ...(isVerbose ? [`seed ${seed}`] : []),
    ...(nMessages > 1 ? [`goes on with ${nMessages} messages`] : []),
    ...(fallbackTemplate === undefined ? [] : [`no chat template of its own: ${fallbackTemplate}`]),
  ]
  warn(dimmed(parts.join(", ")))
}
