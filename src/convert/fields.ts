// A JSON object whose fields are asked for by name and kind, with file and key in every complaint. null is absent.

import { FormatError } from "../errors.ts"
import { parseJson, readText } from "./files.ts"

export class Fields {
  /** Names the object in complaints: "config.json" or "config.json: rope_scaling". */
  readonly place: string
  readonly #values: ReadonlyMap<string, unknown>

  constructor(place: string, value: unknown) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new FormatError(`${place} is not a JSON object`)
    }
    this.place = place
    this.#values = new Map(Object.entries(value))
  }

  /** The object that a file is, at most `maxBytes` of text. */
  static read(path: string, maxBytes: number): Fields {
    return new Fields(path, parseJson(path, readText(path, maxBytes)))
  }

  /** Other fields in the place of an object that may be missing. */
  fresh(key: string, values: object = {}): Fields {
    return new Fields(`${this.place}: ${key}`, values)
  }

  get(key: string): unknown {
    return this.#values.get(key) ?? undefined
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  entries(): IterableIterator<[string, unknown]> {
    return this.#values.entries()
  }

  /** These fields, and those of `other` where they are absent. */
  or(other: Fields): Fields {
    const given = [...this.#values].filter(([, value]) => value !== null)
    return new Fields(this.place, Object.fromEntries([...other.#values, ...given]))
  }

  fail(key: string, what: string): never {
    const value = this.get(key)
    if (value === undefined) throw new FormatError(`${this.place}: ${key} is missing, ${what} is needed`)
    const text = JSON.stringify(value)
    const shown = text.length > 60 ? `${text.slice(0, 60)}...` : text
    throw new FormatError(`${this.place}: ${key} is ${shown}, ${what} is needed`)
  }

  /** A whole number in [min, max]. */
  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.get(key) ?? fallback
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value
    return this.fail(key, `a whole number from ${min} to ${max}`)
  }

  /** A finite number in [min, max]. */
  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.get(key) ?? fallback
    if (typeof value === "number" && value >= min && value <= max) return value
    return this.fail(key, `a number from ${min} to ${max}`)
  }

  boolean(key: string): boolean | undefined {
    const value = this.get(key)
    if (value === undefined || typeof value === "boolean") return value
    return this.fail(key, "true or false")
  }

  string(key: string): string | undefined {
    const value = this.get(key)
    if (value === undefined || typeof value === "string") return value
    return this.fail(key, "a string")
  }

  object(key: string): Fields | undefined {
    const value = this.get(key)
    return value === undefined ? undefined : new Fields(`${this.place}: ${key}`, value)
  }

  array(key: string): readonly unknown[] | undefined {
    const value = this.get(key)
    if (value === undefined || Array.isArray(value)) return value
    return this.fail(key, "an array")
  }

  /** An array of objects. */
  objects(key: string): Fields[] {
    return (this.array(key) ?? []).map((value, i) => new Fields(`${this.place}: ${key}[${i}]`, value))
  }
}
