// What the environment says about the Hugging Face hub: variables as Python's huggingface_hub reads them
// (huggingface_hub/constants.py), so that both share one cache. Knows nothing of files and requests.

import { readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { DownloadError } from "../../errors.ts"

export interface HubSettings {
  /** "https://huggingface.co", without a slash at the end. */
  readonly endpoint: string
  /** Sent to the endpoint's origin and nowhere else. */
  readonly token: string | undefined
  /** Of models--user--repo folders. */
  readonly folder: string
  /** No request is made. */
  readonly offline: boolean
  /** A server that sends nothing for so long has stalled. */
  readonly timeoutMs: number
  /** Pause before the first retry; it doubles with each. */
  readonly retryMs: number
}

const DEFAULT_TIMEOUT_S = 30

/** Throws DownloadError for an HF_ENDPOINT that is no address and a token that no header can carry. */
export function hubSettings(options: { offline?: boolean; token?: string } = {}): HubSettings {
  const { env } = process
  const seconds = Number(env.HF_HUB_DOWNLOAD_TIMEOUT)
  return {
    endpoint: endpointOf(env.HF_ENDPOINT || "https://huggingface.co"),
    token: checkedToken(options.token ?? savedToken()),
    folder: hubFolder(),
    offline: options.offline ?? isOn(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    timeoutMs: 1000 * (seconds > 0 ? seconds : DEFAULT_TIMEOUT_S),
    retryMs: 1000,
  }
}

/** $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. */
export function hubFolder(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = process.env
  const named = HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE
  return named ? fromHome(named) : join(hubHome(), "hub")
}

function hubHome(): string {
  const { HF_HOME, XDG_CACHE_HOME } = process.env
  return fromHome(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface"))
}

function fromHome(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path
}

/** Of a variable that is a switch. */
export function isOn(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? "")
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && /^https?:$/.test(url.protocol)) return text.replace(/\/+$/, "")
  throw new DownloadError(`HF_ENDPOINT is "${text.slice(0, 80)}", an address as https://huggingface.co is needed`)
}

/** $HF_TOKEN, else what `hf auth login` has saved. */
function savedToken(): string | undefined {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH } = process.env
  const set = HF_TOKEN || HUGGING_FACE_HUB_TOKEN
  if (set) return set
  try {
    return readFileSync(fromHome(HF_TOKEN_PATH || join(hubHome(), "token")), "utf8")
  } catch {
    return undefined
  }
}

function checkedToken(token: string | undefined): string | undefined {
  const word = token?.trim()
  if (!word) return undefined
  if (/^[\x21-\x7e]+$/.test(word)) return word
  throw new DownloadError("the token for the hub (HF_TOKEN) has characters that no token has: copy it again")
}
