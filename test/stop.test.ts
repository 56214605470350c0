// Oracle: a naive search, letter by letter, in the whole text.

import { describe, expect, test } from "bun:test"
import { ArgumentError } from "../src/errors.ts"
import { Random } from "../src/random.ts"
import { StopMatcher } from "../src/stop.ts"

/** The text before the stop string that is complete first, the longest of those; undefined where none is. */
function naiveStop(text: string, stops: readonly string[]): string | undefined {
  for (let end = 1; end <= text.length; end++) {
    const seen = text.slice(0, end)
    const longest = stops.filter((stop) => seen.endsWith(stop)).sort((a, b) => b.length - a.length)[0]
    if (longest !== undefined) return seen.slice(0, end - longest.length)
  }
}

const random = new Random(7)
const below = (n: number) => Math.floor(random.double() * n)
const letters = (n: number) => Array.from({ length: n }, () => "abc"[below(3)]).join("")

test("equals the naive search for random texts, stop strings and splits", () => {
  for (let round = 0; round < 5000; round++) {
    const text = letters(below(30))
    const stops = Array.from({ length: below(4) }, () => letters(1 + below(5)))
    const matcher = new StopMatcher(stops)
    const expected = naiveStop(text, stops)
    let shown = ""
    for (let at = 0; at < text.length && !matcher.isStopped; ) {
      const size = 1 + below(6)
      shown += matcher.push(text.slice(at, at + size))
      at += size
      // Never more than the text before the stop string, however it goes on.
      expect((expected ?? text).startsWith(shown)).toBe(true)
      // Never less than what no stop string can reach.
      const seen = text.slice(0, at)
      const open = stops.flatMap((stop) => Array.from(stop, (_, i) => stop.slice(0, i)))
      const held = Math.max(0, ...open.filter((prefix) => seen.endsWith(prefix)).map((prefix) => prefix.length))
      if (!matcher.isStopped) expect(shown.length).toBe(seen.length - held)
    }
    if (!matcher.isStopped) shown += matcher.end()
    expect({ text, stops, shown, isStopped: matcher.isStopped }).toEqual({
      ...{ text, stops, shown: expected ?? text },
      isStopped: expected !== undefined,
    })
  }
})

describe("by example", () => {
  test("text after the stop string is dropped, also what comes later", () => {
    const matcher = new StopMatcher(["\n\n"])
    expect(["one", "\n", "\ntwo", "three"].map((text) => matcher.push(text))).toEqual(["one", "", "", ""])
    expect([matcher.isStopped, matcher.end()]).toEqual([true, ""])
  })

  test("no stop strings: nothing is held back", () => {
    const matcher = new StopMatcher([])
    expect([matcher.push("abc"), matcher.end(), matcher.isStopped]).toEqual(["abc", "", false])
  })

  test("an empty stop string is refused", () => {
    expect(() => new StopMatcher(["a", ""])).toThrow(ArgumentError)
  })
})
