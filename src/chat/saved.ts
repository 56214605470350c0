// A conversation as the note of a saved session: what was said, and which of the session's tokens stand for it. Believes
// nothing of a note but its syntax after a look: any program may have written it.

import { type Message, templateMessages } from "./messages.ts"

export interface SavedChat {
  readonly messages: readonly Message[]
  /** Of the conversation's beginning: templates may write it. */
  readonly date: Date
  /** What the session came to hold, as text and as tokens; "" and none where it is encoded again. */
  readonly text: string
  readonly tokens: readonly number[]
}

const KIND = "asdsl chat"

/** `held`: the tokens of the session; only what differs from them is written again. */
export function writeNote({ messages, date, text, tokens }: SavedChat, held: readonly number[]): string {
  let nHeld = 0
  while (nHeld < Math.min(tokens.length, held.length) && tokens[nHeld] === held[nHeld]) nHeld++
  return JSON.stringify({ kind: KIND, messages, date, text, nHeld, rest: tokens.slice(nHeld) })
}

/** undefined for a note that is none of a conversation. */
export function readNote(note: string, held: readonly number[]): SavedChat | undefined {
  const value = parsed(note)
  if (value?.kind !== KIND) return undefined
  const { messages, date, text, nHeld, rest } = value
  if (!isMessages(messages) || typeof date !== "string" || typeof text !== "string") return undefined
  if (!isCount(nHeld) || nHeld > held.length || !Array.isArray(rest) || !rest.every(isCount)) return undefined
  return { messages, date: new Date(date), text, tokens: [...held.slice(0, nHeld), ...rest] }
}

function parsed(note: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(note)
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

function isMessages(value: unknown): value is Message[] {
  if (!Array.isArray(value) || !value.every((each) => typeof each === "object" && each !== null)) return false
  try {
    templateMessages(value)
    return true
  } catch {
    return false
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
