// What the system says of files, as errors that name them. Knows no format.

import { AsdslError, ModelUnavailableError } from "./errors.ts"

/** "ENOSPC", of an error of the system or one below that was made of it; undefined: it is another error. */
export function systemCode(error: unknown): string | undefined {
  if (error instanceof AsdslError) return error.code === "io" ? systemCode(error.cause) : undefined
  return error instanceof Error && "code" in error ? String(error.code) : undefined
}

function reasonOf(cause: unknown): string {
  return systemCode(cause) ?? String(cause)
}

/** What reads a model's file: what the system refuses is a ModelUnavailableError. */
export function reading<T>(path: string, body: () => T): T {
  try {
    return body()
  } catch (cause) {
    const reason = reasonOf(cause)
    const text = reason === "ENOENT" ? "there is no such file" : `the file cannot be read (${reason})`
    throw new ModelUnavailableError(`${path}: ${text}`, { cause })
  }
}

/** What writes a file: what the system refuses is an AsdslError of code "io". */
export function writing<T>(path: string, body: () => T): T {
  try {
    return body()
  } catch (cause) {
    throw new AsdslError("io", `${path} cannot be written (${reasonOf(cause)})`, { cause })
  }
}
