// What can be asked of every program, under llama-bench's names where it has some: pp512, tg128. Knows no program.

export type TestKind =
  /** A prompt in one pass (of at most 512 tokens), with the last token's logits: pp512. */
  | "prompt"
  /** Tokens one by one: tg128. */
  | "generation"
  /** A pass with logits for each of its tokens, as a draft is verified: verify8. */
  | "verify"
  /** From tokens to the first drawn token, by a loaded model: first512. */
  | "first"
  /** Likewise from the start of the process, loading included: start512. */
  | "start"

export interface Test {
  readonly kind: TestKind
  /** Tokens. */
  readonly n: number
}

const PREFIXES = { prompt: "pp", generation: "tg", verify: "verify", first: "first", start: "start" } as const

export function nameOf({ kind, n }: Test): string {
  return `${PREFIXES[kind]}${n}`
}

/** The test of a name; undefined where it is none. */
export function testOf(name: string): Test | undefined {
  const [, prefix, n] = /^([a-z]+)(\d+)$/.exec(name) ?? []
  const kind = (Object.keys(PREFIXES) as TestKind[]).find((key) => PREFIXES[key] === prefix)
  return kind === undefined || n === undefined ? undefined : { kind, n: Number(n) }
}

/** A test whose result is a time; of the others it is tokens a second. */
export function isTime({ kind, n }: Test): boolean {
  return kind === "first" || kind === "start" || kind === "verify" || (kind === "prompt" && n <= 16)
}
