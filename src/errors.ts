// Every error that asdsl throws on purpose. A message carries the numbers; a class says whose mistake it was.

/** Base of all errors thrown by asdsl. `code` is stable and meant for programs; `message` for people. */
export class AsdslError extends Error {
  readonly code: string
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** The file is not sound GGUF, or part of no sound checkpoint (truncated, damaged, lying about sizes). */
export class FormatError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("format", message, options)
  }
}

/** The file is sound but needs something this version does not know: the message lists what is known. */
export class UnsupportedError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("unsupported", message, options)
  }
}

/** A caller's argument is out of range or of the wrong shape. */
export class ArgumentError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("argument", message, options)
  }
}

/** The prompt does not fit the context. */
export class ContextOverflowError extends AsdslError {
  constructor(
    readonly nPromptTokens: number,
    readonly nCtx: number,
  ) {
    super("context_overflow", `the prompt has ${nPromptTokens} tokens, the context holds ${nCtx}`)
  }
}

/** A chat template is broken, or refuses the messages. */
export class TemplateError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("template", message, options)
  }
}

/** The C engine refused a call; `status` is its asdsl_status. */
export class NativeError extends AsdslError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super("native", message)
  }
}

/** Generation was stopped by an AbortSignal or asdsl_cancel. */
export class CancelledError extends AsdslError {
  constructor(message = "cancelled") {
    super("cancelled", message)
  }
}

/** A model could not be found or fetched. */
export class ModelUnavailableError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("model_unavailable", message, options)
  }
}

/** A download failed: no network, a server that refuses or breaks off, wrong bytes, no room. */
export class DownloadError extends ModelUnavailableError {
  constructor(
    message: string,
    options?: ErrorOptions,
    /** The server's HTTP status, where that is what went wrong. */
    readonly status: number | undefined = undefined,
  ) {
    super(message, options)
  }
}

/** Why a saved session cannot be used, or written. */
export type SavedSessionProblem =
  /** There is no such file, or it is empty. */
  | "missing"
  /** It is something else, perhaps somebody's. */
  | "unknown"
  /** Truncated, or its checksums say so. */
  | "damaged"
  /** Written by another version of asdsl. */
  | "version"
  /** Of another model, or of one loaded with options that make its cache another. */
  | "model"
  /** The operating system refused to read or to write. */
  | "system"

/** A file does not hold a session that this model can go on with; `problem` says why. */
export class SavedSessionError extends AsdslError {
  constructor(
    readonly problem: SavedSessionProblem,
    message: string,
    options?: ErrorOptions,
  ) {
    super("saved_session", message, options)
  }
}

/** The engine's library could not be built: no compiler of the right version, or the build failed. */
export class BuildError extends AsdslError {
  constructor(message: string, options?: ErrorOptions) {
    super("build", message, options)
  }
}
