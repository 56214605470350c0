// Requests to the Hugging Face hub: redirects followed by hand so that the token never leaves the hub's own origin, a
// stalled server given up, refusals turned into sentences that say what to do. Writes no file.

import packageJson from "../../../package.json" with { type: "json" }
import { CancelledError, DownloadError } from "../../errors.ts"
import type { HubSettings } from "./settings.ts"

/** A file as the hub's listing has it. */
export interface HubFile {
  /** In the repository, with slashes. */
  readonly path: string
  readonly bytes: number
  /** The name of its blob: sha256 of a large file, git's sha1 of a small one, in hexadecimal. */
  readonly etag: string
}

export interface RepoState {
  /** 40 hexadecimal digits. */
  readonly commit: string
  readonly files: readonly HubFile[]
}

/** What may go well the next time. Ends as its `error` where it never does. */
export class TransientError extends Error {
  /** @param waitMs the server asks to wait so long. */
  constructor(
    readonly error: DownloadError,
    readonly waitMs: number | undefined = undefined,
  ) {
    super(error.message)
  }
}

/** A response under way; the body has to be read or cancelled. */
export interface Answer {
  readonly response: Response
  /** Host that sent it. */
  readonly host: string
  /** Blob's etag as the hub itself gave it, redirected or not. */
  readonly etag: string | undefined
  /** Aborted with a TransientError when nothing came for too long, and by the user's signal. */
  readonly signal: AbortSignal
  /** Has to be called whenever something came. */
  alive(): void
  /** Ends the watch over the connection; cancels what is left of the body. */
  close(): Promise<void>
}

const MAX_REDIRECTS = 10
const MAX_WAIT_MS = 60_000
const LIST_TRIES = 3
const MAX_LIST_BYTES = 64 << 20
const HASH = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/
const USER_AGENT = `asdsl/${packageJson.version}; bun/${Bun.version}`

export class HubClient {
  readonly settings: HubSettings
  readonly #origin: string

  constructor(settings: HubSettings) {
    this.settings = settings
    this.#origin = new URL(settings.endpoint).origin
  }

  /** The state of a repository's main branch. Throws DownloadError, CancelledError. */
  async repoState(repo: string, signal: AbortSignal | undefined): Promise<RepoState> {
    const url = `${this.settings.endpoint}/api/models/${repo}/revision/main?blobs=true`
    const retries = new Retries(this.settings, LIST_TRIES)
    for (;;) {
      try {
        return readState(repo, await this.#json(url, repo, signal))
      } catch (error) {
        await retries.pause(error, signal)
      }
    }
  }

  async #json(url: string, what: string, signal: AbortSignal | undefined): Promise<unknown> {
    const answer = await this.open(url, what, {}, signal)
    const chunks: Uint8Array[] = []
    try {
      if (answer.response.status !== 200) throw await this.refusal(answer, what)
      let bytes = 0
      for await (const chunk of bodyOf(answer)) {
        bytes += chunk.length
        if (bytes > MAX_LIST_BYTES)
          throw new DownloadError(`${answer.host} sends more than a list of files for ${what}`)
        chunks.push(chunk)
      }
    } finally {
      await answer.close()
    }
    try {
      return JSON.parse(Buffer.concat(chunks).toString())
    } catch (cause) {
      const advice = "is HF_ENDPOINT the address of a hub, and is there no sign-in page in between?"
      throw new DownloadError(`${answer.host} answers for ${what} with something that is no list of files: ${advice}`, {
        cause,
      })
    }
  }

  /** Bytes of a file from `offset` on. The answer may be anything but a redirect. Throws TransientError without one. */
  openFile(repo: string, commit: string, file: HubFile, offset: number, signal?: AbortSignal): Promise<Answer> {
    const path = file.path.split("/").map(encodeURIComponent).join("/")
    const headers: Record<string, string> = { "Accept-Encoding": "identity" } // a compressed answer has no ranges
    if (offset > 0) headers.Range = `bytes=${offset}-`
    return this.open(`${this.settings.endpoint}/${repo}/resolve/${commit}/${path}`, file.path, headers, signal)
  }

  async open(
    from: string,
    what: string,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Answer> {
    const watch = new Watch(this.settings.timeoutMs, new URL(from).host)
    const either = signal === undefined ? watch.signal : AbortSignal.any([watch.signal, signal])
    let [url, etag] = [new URL(from), undefined as string | undefined]
    try {
      for (let hops = 0; ; hops++) {
        watch.alive(url.host)
        const response = await this.#fetch(url, headers, either)
        if (url.origin === this.#origin) etag ??= etagOf(response.headers)
        const location = response.headers.get("location")
        if (response.status < 300 || response.status > 399 || location === null) {
          const close = async () => {
            watch.end()
            await response.body?.cancel().catch(() => {})
          }
          return { response, host: url.host, etag, signal: either, alive: () => watch.alive(url.host), close }
        }
        await response.body?.cancel().catch(() => {})
        if (hops === MAX_REDIRECTS)
          throw new DownloadError(`${what}: ${url.host} redirects in a circle (${hops} times)`)
        url = nextUrl(location, url, what)
      }
    } catch (error) {
      watch.end()
      throw either.aborted ? either.reason : error instanceof DownloadError ? error : unreachable(error, url.host)
    }
  }

  #fetch(url: URL, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { token } = this.settings
    const sent = new Headers({ "User-Agent": USER_AGENT, ...headers })
    if (token !== undefined && url.origin === this.#origin) sent.set("Authorization", `Bearer ${token}`)
    return fetch(url, { redirect: "manual", headers: sent, signal })
  }

  /** The error for a status that is not what was wanted: a TransientError where another try may help. */
  async refusal({ response, host }: Answer, what: string): Promise<TransientError | DownloadError> {
    const { status, headers } = response
    const error = new DownloadError(this.#sentence(status, headers, host, what), {}, status)
    if (status === 429 || status === 408 || status >= 500) return new TransientError(error, waitOf(headers))
    return error
  }

  #sentence(status: number, headers: Headers, host: string, what: string): string {
    const { token, endpoint } = this.settings
    const code = headers.get("x-error-code") ?? ""
    const says = `${host} says ${status}`
    const page = `${endpoint}/settings/tokens`
    if (status === 403 && code !== "GatedRepo")
      return `${what}: access is refused, ${says}: is the token (HF_TOKEN) for it?`
    if (code === "GatedRepo" || (status === 401 && token !== undefined)) {
      const open = `open the repository's page at ${endpoint} and accept its terms`
      const set = `then set HF_TOKEN to a token from ${page} that may read it`
      return `${what}: access is restricted, ${says}: ${open}, ${set}${token === undefined ? "" : " (the one in use may not)"}`
    }
    if (status === 401) {
      return `${what}: there is no such thing in public, ${says}: is the name right? If it is private, set HF_TOKEN (${page})`
    }
    if (status === 404) return `${what} is not there, ${says}: is the name right?`
    if (status === 429) {
      const wait = waitOf(headers)
      const later = wait === undefined ? "later" : `in ${Math.ceil(wait / 1000)} s`
      return `${what}: too many requests, ${says}: try again ${later}; a token in HF_TOKEN may do more of them`
    }
    if (status >= 500) return `${what}: the server has failed, ${says}: try again later`
    return `${what}: refused, ${says}`
  }
}

/** Ends connections on which nothing comes. */
class Watch {
  readonly #controller = new AbortController()
  readonly #ms: number
  readonly #timer: Timer
  #host: string
  #since = performance.now()

  constructor(ms: number, host: string) {
    this.#ms = ms
    this.#host = host
    this.#timer = setInterval(() => this.#look(), Math.min(1000, ms / 4))
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  alive(host: string): void {
    this.#host = host
    this.#since = performance.now()
  }

  end(): void {
    clearInterval(this.#timer)
  }

  #look(): void {
    if (performance.now() - this.#since < this.#ms) return
    this.end()
    const seconds = Math.round(this.#ms / 100) / 10
    const advice = "try again later; HF_HUB_DOWNLOAD_TIMEOUT=SECONDS gives it more time"
    this.#controller.abort(
      new TransientError(new DownloadError(`${this.#host} has sent nothing for ${seconds} s: ${advice}`)),
    )
  }
}

/**
 * The body's chunks. Throws the signal's reason when it is aborted, a TransientError when the connection breaks. (Racing
 * each read against one promise for the signal would keep every chunk alive as long as that promise.)
 */
export async function* bodyOf({ response, signal, host, alive }: Answer): AsyncGenerator<Uint8Array> {
  if (response.body === null) return
  const reader = response.body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      alive()
      yield value
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : unreachable(error, host)
  } finally {
    reader.releaseLock()
  }
}

/** Tries that are left, and the pauses between them. */
export class Retries {
  readonly #settings: HubSettings
  readonly #max: number
  #failed = 0

  constructor(settings: HubSettings, tries: number) {
    this.#settings = settings
    this.#max = tries
  }

  /** Something was achieved: all tries are there again. */
  reset(): void {
    this.#failed = 0
  }

  /** Waits before the next try; throws what `error` stands for where none is left or none helps. */
  async pause(error: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) throw new CancelledError("the download was stopped")
    if (!(error instanceof TransientError)) throw error
    const waitMs = error.waitMs ?? this.#settings.retryMs * 2 ** this.#failed
    this.#failed++
    if (this.#failed >= this.#max || waitMs > MAX_WAIT_MS) throw error.error
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, waitMs)
    signal?.addEventListener("abort", () => resolve(), { once: true })
    await promise
    clearTimeout(timer)
    if (signal?.aborted) throw new CancelledError("the download was stopped")
  }
}

function nextUrl(location: string, url: URL, what: string): URL {
  const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined
  const isFine = next?.protocol === "https:" || (next?.protocol === "http:" && url.protocol === "http:")
  if (isFine) return next!
  throw new DownloadError(
    `${what}: ${url.host} redirects to "${encodeURI(location.slice(0, 80))}", which is not followed`,
  )
}

/** Codes of Bun's fetch (those of node and of libuv), for people. */
const REASONS: Record<string, string> = {
  ECONNREFUSED: "the connection was refused",
  ECONNRESET: "the connection broke off",
  ENOTFOUND: "its name is not known",
  EAI_AGAIN: "its name is not known",
  ETIMEDOUT: "it does not answer",
  ENETUNREACH: "there is no way to it",
}

function unreachable(cause: unknown, host: string): TransientError | DownloadError {
  const { code, message } =
    cause instanceof Error ? (cause as NodeJS.ErrnoException) : { code: "", message: String(cause) }
  const reason = REASONS[code ?? ""] ?? message
  const advice = "is there a network? --offline uses what was fetched before"
  const error = new DownloadError(`${host} cannot be reached, ${reason}: ${advice}`, { cause })
  return /CERT|SSL|TLS|SELF_SIGNED/i.test(`${code}`) ? error : new TransientError(error)
}

/** What the hub says of the blob: in a header of its own where it redirects, else in the usual one. */
function etagOf(headers: Headers): string | undefined {
  const text = headers.get("x-linked-etag") ?? headers.get("etag")
  const etag = text?.replace(/^W\//, "").replaceAll('"', "").toLowerCase()
  return etag !== undefined && HASH.test(etag) ? etag : undefined
}

/** Retry-After in seconds or as a date, else the hub's own RateLimit: "api";r=0;t=55. */
function waitOf(headers: Headers): number | undefined {
  const after = headers.get("retry-after")
  const seconds = after === null ? /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1] : after
  if (seconds === undefined) return undefined
  const ms = /^\d+$/.test(seconds) ? 1000 * Number(seconds) : Date.parse(seconds) - Date.now()
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined
}

function readState(repo: string, json: unknown): RepoState {
  const { sha, siblings } = (json ?? {}) as { sha?: unknown; siblings?: unknown }
  if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha) || !Array.isArray(siblings)) {
    throw new DownloadError(`the hub's answer for ${repo} has no commit and no list of files: is HF_ENDPOINT a hub?`)
  }
  const files = siblings.flatMap(readFile)
  if (files.length > 0 || siblings.length === 0) return { commit: sha, files }
  throw new DownloadError(`the hub lists the files of ${repo} without sizes and hashes: is HF_ENDPOINT a hub of today?`)
}

/** Nothing for a file of which the hub does not tell size and hash. */
function readFile(sibling: unknown): HubFile[] {
  const { rfilename, size, blobId, lfs } = (sibling ?? {}) as Record<string, unknown>
  const large = (lfs ?? {}) as Record<string, unknown>
  const [etag, bytes] = [`${large.sha256 ?? blobId}`.toLowerCase(), large.size ?? size]
  const isKnown = typeof rfilename === "string" && HASH.test(etag)
  return isKnown && Number.isSafeInteger(bytes) && Number(bytes) >= 0
    ? [{ path: rfilename, bytes: Number(bytes), etag }]
    : []
}
