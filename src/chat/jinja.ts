// Jinja as Python's jinja2 runs it. @huggingface/jinja parses and interprets; where it differs from Python in a way that
// real templates show (str() of values, equality, strip with characters), the parsed program calls functions of this file
// instead. Knows nothing of messages.

import { Environment, Interpreter, Template } from "@huggingface/jinja"
import { TemplateError } from "../errors.ts"

/** A value of the interpreter: "StringValue", "NullValue" ... and what it holds. */
interface Value {
  readonly type: string
  readonly value: unknown
}

/** A node of the parsed program; which fields it has depends on its type. */
type Node = { type: string } & Record<string, unknown>

// Names that no template can write.
const STR = "#str"
const EQUALS = "#equals"
const CONCAT = "#concat"
const STRIP = { strip: "#strip", lstrip: "#lstrip", rstrip: "#rstrip" } as const

const FUNCTIONS: Readonly<Record<string, (values: Value[]) => unknown>> = {
  [STR]: ([value]) => str(value!),
  [EQUALS]: ([a, b]) => equals(a!, b!),
  [CONCAT]: (values) => values.map(str).join(""),
  [STRIP.strip]: ([text, set]) => strip(str(text!), set, true, true),
  [STRIP.lstrip]: ([text, set]) => strip(str(text!), set, true, false),
  [STRIP.rstrip]: ([text, set]) => strip(str(text!), set, false, true),
}

/** A template, read once. */
export class JinjaProgram {
  readonly #program: Template["parsed"]

  /** Throws where `source` is no Jinja. */
  constructor(source: string) {
    this.#program = new Template(source).parsed
    rewrite(this.#program)
  }

  /** The text for these variables. Throws what the template raises. */
  render(variables: Readonly<Record<string, unknown>>): string {
    const scope = new Environment()
    for (const [name, value] of Object.entries(FUNCTIONS)) scope.set(name, value)
    for (const [name, value] of Object.entries(variables)) scope.set(name, value)
    return String(new Interpreter(scope).run(this.#program).value)
  }
}

// ---- The program's text ----

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && typeof (value as Node).type === "string"
}

const EXPRESSIONS =
  /^(MemberExpression|CallExpression|Identifier|BinaryExpression|FilterExpression|UnaryExpression|Ternary|SelectExpression|TestExpression|IntegerLiteral|FloatLiteral|ArrayLiteral|TupleLiteral|ObjectLiteral)$/
const BLOCKS = ["body", "alternate", "defaultBlock"]

/** Changes a node and all below it in place. */
function rewrite(node: unknown): void {
  if (Array.isArray(node)) node.forEach(rewrite)
  else if (node instanceof Map) {
    for (const [key, value] of node) {
      rewrite(key)
      rewrite(value)
    }
  } else if (isNode(node)) {
    for (const child of Object.values(node)) rewrite(child)
    for (const name of BLOCKS) {
      const block = node[name]
      if (Array.isArray(block))
        node[name] = block.map((each) => (EXPRESSIONS.test(each.type) ? call(each, STR, [each]) : each))
    }
    rewriteFilter(node)
    rewriteMethod(node)
    rewriteOperator(node)
  }
}

/** value | string, value | trim, value | trim(characters) */
function rewriteFilter(node: Node): void {
  if (node.type !== "FilterExpression" || !isNode(node.filter)) return
  const { filter } = node
  const isCall = filter.type === "CallExpression"
  const name = isCall && isNode(filter.callee) ? filter.callee.value : filter.value
  const args = isCall ? (filter.args as Node[]) : []
  if (name === "string") become(node, call(node, STR, [node.operand as Node]))
  if (name === "trim") become(node, call(node, STRIP.strip, [node.operand as Node, ...args]))
}

/** text.strip(), text.lstrip(characters) ... */
function rewriteMethod(node: Node): void {
  if (node.type !== "CallExpression" || !isNode(node.callee) || node.callee.type !== "MemberExpression") return
  const { object, property, computed } = node.callee
  if (computed === true || !isNode(property)) return
  const name = STRIP[property.value as keyof typeof STRIP]
  if (name !== undefined) become(node, call(node, name, [object as Node, ...(node.args as Node[])]))
}

/** a == b, a != b, a ~ b */
function rewriteOperator(node: Node): void {
  if (node.type !== "BinaryExpression") return
  const operator = (node.operator as { value: string }).value
  const sides = [node.left as Node, node.right as Node]
  if (operator === "~") become(node, call(node, CONCAT, sides))
  else if (operator === "==") become(node, call(node, EQUALS, sides))
  else if (operator === "!=") {
    const argument = call(node, EQUALS, sides)
    become(node, like(node, { type: "UnaryExpression", operator: { value: "not", type: "UnaryOperator" }, argument }))
  }
}

/** name([...args]): in a list values keep their types on the way into a function. */
function call(model: Node, name: string, args: Node[]): Node {
  const callee = like(model, { type: "Identifier", value: name })
  return like(model, { type: "CallExpression", callee, args: [like(model, { type: "ArrayLiteral", value: args })] })
}

/** A node of the library's class. */
function like(model: Node, fields: Node): Node {
  return Object.assign(Object.create(Object.getPrototypeOf(model)), fields)
}

function become(node: Node, other: Node): void {
  for (const key of Object.keys(node)) delete node[key]
  Object.assign(node, other)
}

// ---- Values as Python has them ----

function str(value: Value): string {
  return value.type === "StringValue" ? String(value.value) : value.type === "UndefinedValue" ? "" : repr(value)
}

function repr({ type, value }: Value): string {
  switch (type) {
    case "NullValue":
      return "None"
    case "UndefinedValue":
      return "Undefined"
    case "BooleanValue":
      return value === true ? "True" : "False"
    case "FloatValue":
      return Number.isInteger(value) ? `${value}.0` : String(value)
    case "StringValue":
      return quoted(String(value))
    case "TupleValue":
      return `(${list(value)}${(value as Value[]).length === 1 ? "," : ""})`
    case "ArrayValue":
      return `[${list(value)}]`
    case "ObjectValue":
      return `{${Array.from(value as Map<string, Value>, ([key, each]) => `${quoted(key)}: ${repr(each)}`).join(", ")}}`
    default:
      return String(value)
  }
}

function list(value: unknown): string {
  return (value as Value[]).map(repr).join(", ")
}

const ESCAPES: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" }

/** repr() of a str: what is unprintable is escaped, but for the noncharacters with which template.ts marks texts. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const inside = Array.from(text, (character) => {
    if (character === quote) return `\\${quote}`
    const isPlain = character === " " || !/[\p{C}\p{Z}]/u.test(character) || /[\ufdd0-\ufdef]/.test(character)
    return ESCAPES[character] ?? (isPlain ? character : escaped(character.codePointAt(0)!))
  })
  return quote + inside.join("") + quote
}

function escaped(code: number): string {
  const [letter, n] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8]
  return `\\${letter}${code.toString(16).padStart(n as number, "0")}`
}

/** ==: of the same kind and value, numbers and booleans by their number, lists and mappings by what they hold. */
function equals(a: Value, b: Value): boolean {
  if (isNumber(a) && isNumber(b)) return Number(a.value) === Number(b.value)
  if (a.value instanceof Map && b.value instanceof Map) {
    if (a.value.size !== b.value.size) return false
    for (const [key, each] of a.value as Map<string, Value>) {
      const other = (b.value as Map<string, Value>).get(key)
      if (other === undefined || !equals(each, other)) return false
    }
    return true
  }
  if (Array.isArray(a.value) && Array.isArray(b.value)) {
    const others = b.value as Value[]
    return a.type === b.type && a.value.length === others.length && a.value.every((each, i) => equals(each, others[i]!))
  }
  return a.type === b.type && a.value === b.value
}

function isNumber({ type }: Value): boolean {
  return type === "IntegerValue" || type === "FloatValue" || type === "BooleanValue"
}

/** str.isspace() of Python; JavaScript's \s differs in U+FEFF, U+0085 and U+001C to U+001F. */
function isSpace(character: string): boolean {
  const code = character.charCodeAt(0)
  return code === 0x85 || (code >= 0x1c && code <= 0x1f) || (code !== 0xfeff && /^\s$/.test(character))
}

function strip(text: string, set: Value | undefined, left: boolean, right: boolean): string {
  const characters = Array.from(text)
  const chosen = set === undefined || set.type === "NullValue" ? undefined : new Set(str(set))
  const goes = (character: string) => (chosen === undefined ? isSpace(character) : chosen.has(character))
  let begin = 0
  let end = characters.length
  while (left && begin < end && goes(characters[begin]!)) begin++
  while (right && end > begin && goes(characters[end - 1]!)) end--
  return characters.slice(begin, end).join("")
}

// ---- What Hugging Face's templates expect to find ----

/** Longest list that range() makes: a template from a strange file must not fill the memory. */
const MAX_RANGE = 100_000

/** Constants and functions; a template that asks for the time is told `date`. */
export function templateGlobals(date: Date): Record<string, unknown> {
  return {
    ...{ true: true, false: false, none: null, True: true, False: false, None: null },
    range,
    raise_exception(message: string) {
      throw new TemplateError(message)
    },
    strftime_now: (format: string) => strftime(date, format),
  }
}

function range(start: number, stop?: number, step = 1): number[] {
  const [first, end] = stop === undefined ? [0, start] : [start, stop]
  const n = Math.max(0, Math.ceil((end - first) / step))
  if (!(n <= MAX_RANGE)) throw new TemplateError(`range() of ${n} numbers, at most ${MAX_RANGE} are made`)
  return Array.from({ length: n }, (_, i) => first + i * step)
}

/** Python's strftime in English, the directives that dates and times are written with. */
function strftime(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, "0")
  const name = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat("en-US", options).format(date)
  const directives: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    H: () => two(date.getHours()),
    I: () => two(date.getHours() % 12 || 12),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    "%": () => "%",
  }
  return format.replace(/%(.)/g, (directive, letter: string) => directives[letter]?.() ?? directive)
}

/** json.dumps(value, ensure_ascii=False): blanks behind commas and colons. */
export function pythonJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null"
  return `{${Object.entries(value)
    .map(([key, each]) => `${JSON.stringify(key)}: ${pythonJson(each)}`)
    .join(", ")}}`
}
