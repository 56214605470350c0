// Stop strings in a stream of text. Text is held back only as long as it may still be the beginning of a stop string.

import { ArgumentError } from "./errors.ts"

export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ""
  #isStopped = false

  /** Throws ArgumentError on an empty stop string: it would stop everything. */
  constructor(stops: readonly string[]) {
    stops.forEach((stop, i) => {
      if (typeof stop !== "string" || stop === "") throw new ArgumentError(`stop string ${i} is empty`)
    })
    this.#stops = stops
  }

  /** A stop string has come: the text ends before it. */
  get isStopped(): boolean {
    return this.#isStopped
  }

  /** Takes more text and returns what certainly comes before any stop string. The one that is complete first counts; of
   * several that are complete at once, the longest. */
  push(text: string): string {
    if (this.#isStopped) return ""
    if (this.#stops.length === 0) return text
    const all = this.#held + text
    const begin = this.#find(all)
    this.#isStopped = begin >= 0
    const end = begin >= 0 ? begin : openFrom(all, this.#stops)
    this.#held = begin >= 0 ? "" : all.slice(end)
    return all.slice(0, end)
  }

  /** The text is over: what was held back is no stop string. */
  end(): string {
    const rest = this.#held
    this.#held = ""
    return rest
  }

  #find(text: string): number {
    let begin = -1
    let end = Infinity
    for (const stop of this.#stops) {
      const at = text.indexOf(stop)
      if (at < 0 || at + stop.length > end || (at + stop.length === end && at > begin)) continue
      begin = at
      end = at + stop.length
    }
    return begin
  }
}

/** Where the longest end of the text begins that one of the marks may begin with; the text's length without one. */
export function openFrom(text: string, marks: readonly string[]): number {
  let from = text.length
  for (const mark of marks) {
    for (let at = Math.max(0, text.length - mark.length + 1); at < from; at++) {
      if (mark.startsWith(text.slice(at))) from = at
    }
  }
  return from
}
