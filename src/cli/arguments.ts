// A table-driven parser for the flags that users of llama.cpp know: one dash and several letters (-ctk, -tb), long twins,
// --flag=value, lists. A command is a table of flags; values, help and errors derive from it. Knows no command, prints
// nothing, reads no environment. POSIX parsers read -ctk as -c -t -k, so none of them serves.

import { AsdslError } from "../errors.ts"

/** The command line is wrong; the message is one sentence for its author. Programs exit with 2. */
export class UsageError extends AsdslError {
  constructor(message: string) {
    super("usage", message)
  }
}

export interface Flag<T> {
  /** As typed, dashes included: short ones first. */
  readonly names: readonly string[]
  /** Names that turn a switch off. */
  readonly offNames?: readonly string[]
  /** What help calls the value. Absent: a switch. */
  readonly value?: string
  readonly help: string
  /** Without the flag. */
  readonly initial: T
  /** Heading in help; set by group(). */
  readonly group?: string
  /** The value after one more occurrence; `earlier` is what the occurrences before it gave. */
  read(text: string, name: string, earlier: T | undefined): T
}

export type FlagTable = Readonly<Record<string, Flag<unknown>>>
export type Values<F extends FlagTable> = { [K in keyof F]: F[K] extends Flag<infer T> ? T : never }

export interface Command<F extends FlagTable = FlagTable> {
  /** As typed: "asdsl bench". */
  readonly name: string
  /** One line. */
  readonly summary: string
  /** What follows the name in the usage line. */
  readonly usage: string
  readonly flags: F
  /** Words that are no flags are its operands; absent: refused. */
  readonly takesOperands?: boolean
}

export interface Parsed<F extends FlagTable> {
  readonly values: Values<F>
  readonly operands: readonly string[]
  /** Keys of the flags that were typed. */
  readonly given: ReadonlySet<keyof F>
  /** For stderr: at most one, about flags that are accepted and have no effect. */
  readonly warnings: readonly string[]
  /** -h or --version was met: nothing else of the result counts. */
  readonly asks: "help" | "version" | undefined
}

// ---- Flags ----

interface Described {
  help: string
  /** What help calls the value. */
  value?: string
}

interface Range {
  min?: number
  max?: number
}

/** "-m, --model" as a list of names. */
function namesOf(names: string): string[] {
  return names.split(",").map((name) => name.trim())
}

/** Tags every flag of a table with the heading under which help lists it. */
export function group<F extends FlagTable>(title: string, flags: F): F {
  return Object.fromEntries(Object.entries(flags).map(([key, flag]) => [key, { ...flag, group: title }])) as F
}

type TextOptions = Described & { choices?: readonly string[] }

/** A string, or one of `choices`. */
export function text(names: string, options: TextOptions & { initial: string }): Flag<string>
export function text(names: string, options: TextOptions): Flag<string | undefined>
export function text(names: string, options: TextOptions & { initial?: string }): Flag<string | undefined> {
  const { choices, help, initial } = options
  return {
    names: namesOf(names),
    value: options.value ?? (choices === undefined ? "TEXT" : choices.join("|")),
    help,
    initial,
    read(given, name) {
      if (choices !== undefined && !choices.includes(given)) {
        throw new UsageError(`${name} is ${quote(given)}, allowed: ${choices.join(", ")}`)
      }
      return given
    },
  }
}

/** Strings, one per occurrence. */
export function texts(names: string, options: Described): Flag<readonly string[]> {
  return {
    names: namesOf(names),
    value: options.value ?? "TEXT",
    help: `${options.help}; may be repeated`,
    initial: [],
    read: (given, _name, earlier) => [...(earlier ?? []), given],
  }
}

type NumberOptions = Described & Range

/** A whole number in a range. */
export function integer(names: string, options: NumberOptions & { initial: number }): Flag<number>
export function integer(names: string, options: NumberOptions): Flag<number | undefined>
export function integer(names: string, options: NumberOptions & { initial?: number }): Flag<number | undefined> {
  return {
    names: namesOf(names),
    value: options.value ?? "N",
    help: options.help,
    initial: options.initial,
    read: (given, name) => readInteger(given, name, options),
  }
}

/** A decimal number in a range. */
export function number(names: string, options: NumberOptions & { initial: number }): Flag<number>
export function number(names: string, options: NumberOptions): Flag<number | undefined>
export function number(names: string, options: NumberOptions & { initial?: number }): Flag<number | undefined> {
  return {
    names: namesOf(names),
    value: options.value ?? "X",
    help: options.help,
    initial: options.initial,
    read(given, name) {
      const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(given) ? Number(given) : Number.NaN
      return inRange(value, given, name, "a number", options)
    },
  }
}

/** Whole numbers: "1,2", a repeated flag, and llama-bench's ranges "1-8", "1-8+2", "1-8*2". */
export function integers(
  names: string,
  options: NumberOptions & { initial: readonly number[] },
): Flag<readonly number[]> {
  return {
    names: namesOf(names),
    value: options.value ?? "N,...",
    help: options.help,
    initial: options.initial,
    read: (given, name, earlier) => [
      ...(earlier ?? []),
      ...given.split(",").flatMap((part) => readSpan(part, name, options)),
    ],
  }
}

/** On or off; `offNames` are names that turn it off, --flag=off does as well. */
export function toggle(names: string, options: Described & { offNames?: string; initial: boolean }): Flag<boolean>
export function toggle(names: string, options: Described & { offNames?: string }): Flag<boolean | undefined>
export function toggle(
  names: string,
  options: Described & { offNames?: string; initial?: boolean },
): Flag<boolean | undefined> {
  return {
    names: namesOf(names),
    offNames: options.offNames === undefined ? [] : namesOf(options.offNames),
    help: options.help,
    initial: options.initial,
    read(given, name) {
      if (["on", "true", "1", "yes"].includes(given)) return true
      if (["off", "false", "0", "no"].includes(given)) return false
      throw new UsageError(`${name} is ${quote(given)}, allowed: on, off`)
    },
  }
}

// ---- Values ----

function readInteger(given: string, name: string, range: Range): number {
  const value = /^[+-]?\d+$/.test(given) ? Number(given) : Number.NaN
  return inRange(Number.isSafeInteger(value) ? value : Number.NaN, given, name, "a whole number", range)
}

function inRange(value: number, given: string, name: string, kind: string, { min, max }: Range): number {
  if (value >= (min ?? -Infinity) && value <= (max ?? Infinity)) return value
  const bounds =
    min !== undefined && max !== undefined
      ? ` from ${min} to ${max}`
      : min !== undefined
        ? ` of ${min} or more`
        : max !== undefined
          ? ` of ${max} or less`
          : ""
  throw new UsageError(`${name} is ${quote(given)}, ${kind}${bounds} is needed`)
}

const MAX_SPAN = 1000

/** One number, or first-last, first-last+step, first-last*factor. */
function readSpan(given: string, name: string, range: Range): number[] {
  const parts = /^(\d+)-(\d+)(?:([+*])(\d+))?$/.exec(given)
  if (parts === null) return [readInteger(given, name, range)]
  const [first, last] = [parts[1]!, parts[2]!].map((part) => readInteger(part, name, range)) as [number, number]
  const step = Number(parts[4] ?? 1)
  const multiplies = parts[3] === "*"
  if (last < first || step < (multiplies ? 2 : 1) || (multiplies && first === 0)) {
    throw new UsageError(`${name} is ${quote(given)}, which is not a rising range (first-last, +step or *factor)`)
  }
  const values = []
  for (let value = first; value <= last; value = multiplies ? value * step : value + step) {
    if (values.push(value) > MAX_SPAN) throw new UsageError(`${name} is ${quote(given)}, more than ${MAX_SPAN} values`)
  }
  return values
}

function quote(given: string): string {
  return given.length > 60 ? `"${given.slice(0, 60)}..."` : `"${given}"`
}

// ---- Flags of other programs that change nothing here ----

const OPTIONAL = /^(on|off|auto|0|1|true|false|enabled|disabled|\d+(,\d+)*)$/

/** Flags of llama.cpp's programs about graphics cards and the like, so that a pasted command line works. With a value: 1,
 * without: 0, with one only where it looks like one: "?". */
const IGNORED = new Map<string, 0 | 1 | "?">()
for (const [names, takes] of [
  ["-ngl --gpu-layers --n-gpu-layers -ngld --gpu-layers-draft --n-gpu-layers-draft", 1],
  ["-mg --main-gpu -sm --split-mode -ts --tensor-split -dev --device -devd --device-draft", 1],
  ["-ot --override-tensor -ncmoe --n-cpu-moe -fit --fit --rpc", 1],
  ["-fa --flash-attn -nkvo -nopo", "?"],
  ["--no-kv-offload --kv-offload --no-op-offload -cmoe --cpu-moe", 0],
  ["--mlock --no-mmap --mmap --no-warmup --jinja --color -co", 0],
] as const) {
  for (const name of names.split(" ")) IGNORED.set(name, takes)
}

// ---- Parsing ----

class Parser<F extends FlagTable> {
  readonly #command: Command<F>
  readonly #args: readonly string[]
  readonly #keys = new Map<string, keyof F & string>()
  readonly #off = new Set<string>()
  readonly #given = new Map<keyof F, unknown>()
  readonly #ignored = new Set<string>()
  readonly #operands: string[] = []
  #at = 0

  constructor(command: Command<F>, args: readonly string[]) {
    this.#command = command
    this.#args = args
    for (const [key, { names, offNames = [] }] of Object.entries(command.flags)) {
      for (const name of [...names, ...offNames]) this.#keys.set(name, key)
      for (const name of offNames) this.#off.add(name)
    }
  }

  run(): Parsed<F> {
    let asks: Parsed<F>["asks"]
    while (this.#at < this.#args.length && asks === undefined) asks = this.#next()
    const values = Object.fromEntries(
      Object.entries(this.#command.flags).map(([key, flag]) => [
        key,
        this.#given.has(key) ? this.#given.get(key) : flag.initial,
      ]),
    )
    const warnings =
      this.#ignored.size === 0
        ? []
        : [`ignored, there is nothing for them to do here: ${[...this.#ignored].join(", ")}`]
    const given = new Set(this.#given.keys())
    return { values: values as Values<F>, operands: this.#operands, given, warnings, asks }
  }

  #next(): Parsed<F>["asks"] {
    const argument = this.#args[this.#at++]!
    if (!argument.startsWith("-") || argument === "-") {
      if (this.#command.takesOperands) {
        this.#operands.push(argument)
        return
      }
      throw new UsageError(`unexpected argument ${quote(argument)}, ${this.#command.name} takes flags only`)
    }
    const equals = argument.startsWith("--") ? argument.indexOf("=") : -1
    const typed = equals < 0 ? argument : argument.slice(0, equals)
    const inline = equals < 0 ? undefined : argument.slice(equals + 1)
    const name = typed.startsWith("--") ? typed.replaceAll("_", "-") : typed // llama.cpp takes --ctx_size as well
    const key = this.#keys.get(name)
    if (key !== undefined) {
      this.#take(key, name, inline)
      return
    }
    if (name === "-h" || name === "--help" || name === "--usage") return "help"
    if (name === "--version") return "version"
    this.#ignore(name, inline)
  }

  #take(key: keyof F & string, name: string, inline: string | undefined): void {
    const flag = this.#command.flags[key]!
    const isOff = this.#off.has(name)
    if (isOff && inline !== undefined) throw new UsageError(`${name} takes no value, it has ${quote(inline)}`)
    const given = flag.value === undefined ? (inline ?? (isOff ? "off" : "on")) : (inline ?? this.#value(name, flag))
    this.#given.set(key, flag.read(given, name, this.#given.get(key)))
  }

  #value(name: string, flag: Flag<unknown>): string {
    const next = this.#args[this.#at]
    if (next === undefined) throw new UsageError(`${name} needs a value: ${name} ${flag.value}`)
    if (this.#keys.has(next)) {
      throw new UsageError(`${name} needs a value, ${name} ${flag.value}, and is followed by the flag ${next}`)
    }
    this.#at++
    return next
  }

  #ignore(name: string, inline: string | undefined): void {
    const takes = IGNORED.get(name)
    if (takes === undefined) throw new UsageError(`unknown flag ${quote(name)}${this.#nearest(name)}`)
    this.#ignored.add(name)
    const next = this.#args[this.#at]
    if (inline !== undefined || next === undefined) return
    if (takes === 1 || (takes === "?" && OPTIONAL.test(next))) this.#at++
  }

  #nearest(name: string): string {
    const best = nearest(name, this.#keys.keys())
    return best === undefined ? `; ${this.#command.name} --help lists all` : `, did you mean ${best}?`
  }
}

/** Reads a command line. Throws UsageError. */
export function parseArguments<F extends FlagTable>(command: Command<F>, args: readonly string[]): Parsed<F> {
  return new Parser(command, args).run()
}

/** The known name that was most likely meant, if any is near enough: at most a third of the letters differ. */
export function nearest(name: string, known: Iterable<string>): string | undefined {
  const letters = name.replace(/^-+/, "")
  let best: string | undefined
  let least = Math.floor(letters.length / 3) + 1
  for (const candidate of known) {
    const distance = editDistance(letters, candidate.replace(/^-+/, ""))
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best
}

/** Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment). */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i, ...new Array<number>(b.length).fill(0)])
  for (let j = 0; j <= b.length; j++) rows[0]![j] = j
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let cost = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, rows[i - 1]![j - 1]! + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, rows[i - 2]![j - 2]! + 1)
      rows[i]![j] = cost
    }
  }
  return rows[a.length]![b.length]!
}

// ---- Help ----

const INDENT = 34
const WIDTH = 110

/** The help of a command, from its table. */
export function helpText(command: Command): string {
  const lines = [`${command.name}: ${command.summary}`, "", `usage: ${command.name} ${command.usage}`]
  const groups = Map.groupBy(Object.values(command.flags), (flag) => flag.group ?? "Options")
  for (const [title, flags] of groups) lines.push("", title, ...flags.flatMap(describeFlag))
  lines.push("", "-h, --help prints this, --version the version.")
  return `${lines.join("\n")}\n`
}

function describeFlag(flag: Flag<unknown>): string[] {
  const names = [...flag.names, ...(flag.offNames ?? [])].join(", ")
  const left = `  ${names}${flag.value === undefined ? "" : ` ${flag.value}`}`
  const help = wrap(`${flag.help}${defaultOf(flag)}`, WIDTH - INDENT)
  const isWide = left.length > INDENT - 2
  const first = isWide ? [left] : [left.padEnd(INDENT) + help[0]]
  return [...first, ...help.slice(isWide ? 0 : 1).map((line) => " ".repeat(INDENT) + line)]
}

function defaultOf({ initial, value }: Flag<unknown>): string {
  if (value === undefined || initial === undefined || initial === "") return ""
  if (Array.isArray(initial)) return initial.length === 0 ? "" : ` (default ${initial.join(",")})`
  return ` (default ${initial})`
}

function wrap(sentence: string, width: number): string[] {
  const lines = [""]
  for (const word of sentence.split(" ")) {
    const line = lines.at(-1)!
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`
  }
  return lines
}
