// What every command does around its work: parsing, help and version on stdout, warnings and errors on stderr, and the
// exit code: 0 done, 1 failed, 2 the command line is wrong, 130 interrupted.

import packageJson from "../../package.json" with { type: "json" }
import { AsdslError, CancelledError } from "../errors.ts"
import { type Command, type FlagTable, helpText, parseArguments, UsageError, type Values } from "./arguments.ts"

export type CommandBody<F extends FlagTable> = (
  values: Values<F>,
  given: ReadonlySet<keyof F>,
  operands: readonly string[],
) => Promise<number | undefined> | Promise<void>

/** What a module of src/cli offers to main.ts. */
export interface CommandModule {
  readonly command: Command
  /** Runs the command; resolves to the exit code and never throws. */
  main(args: readonly string[]): Promise<number>
}

/** Parses `args` for a command and runs its body. Resolves to the exit code; errors end on stderr. */
export async function runCommand<F extends FlagTable>(
  command: Command<F>,
  args: readonly string[],
  body: CommandBody<F>,
): Promise<number> {
  try {
    const { values, operands, given, warnings, asks } = parseArguments(command, args)
    if (asks === "help") return writeOut(helpText(command))
    if (asks === "version") return writeOut(versionText())
    for (const warning of warnings) warn(`${command.name}: ${warning}`)
    return (await body(values, given, operands)) ?? 0
  } catch (error) {
    return report(command.name, error)
  }
}

export function versionText(): string {
  return `asdsl ${packageJson.version}\n`
}

/** Says on stderr what went wrong and returns the exit code for it. */
export function report(name: string, error: unknown): number {
  if (error instanceof UsageError) {
    warn(`${name}: ${error.message}`)
    return 2
  }
  if (error instanceof CancelledError) {
    warn(`${name}: ${error.message}`)
    return 130
  }
  if (error instanceof AsdslError || isSystemError(error)) warn(`${name}: ${error.message}`)
  else warn(`${name}: ${error instanceof Error ? error.stack : String(error)}`) // a fault of ours: its place helps
  return 1
}

/** "no such file" and the like: the message is enough. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).errno === "number"
}

/** Writes to stdout and waits until it is out. */
export async function writeOut(text: string): Promise<number> {
  leaveWithReader()
  await new Promise<void>((resolve) => {
    process.stdout.write(text, () => resolve())
  })
  return 0
}

let isWatching = false

/** A reader that has seen enough (`| head`) ends the program quietly, as it ends others. */
function leaveWithReader(): void {
  if (isWatching) return
  isWatching = true
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0)
    throw error
  })
}

export function warn(line: string): void {
  process.stderr.write(`${line}\n`)
}
