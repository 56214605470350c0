// Choosing the next token from a row of logits, as llama.cpp does by default: logit bias, penalties, top-k, top-p, min-p,
// temperature, one draw. Works on the candidates that C has reduced a row to and is exact: where they do not suffice (a
// penalty or bias moved too many, top-k is off) it reads the whole row. Logits stay float32, probabilities are float64.

import { ArgumentError, AsdslError } from "./errors.ts"
import type { OutputRow } from "./executor.ts"
import { checkInteger } from "./native/handles.ts"
import { MAX_SEED, Random } from "./random.ts"

/** Names and defaults are llama.cpp's. */
export interface SamplerOptions {
  /** Divides the logits before the draw; 0 or less: always the likeliest token. Default 0.8. */
  temperature?: number
  /** Only the k likeliest tokens; 0 or less: all. Default 40. */
  topK?: number
  /** Only the likeliest tokens that together reach this probability (of those that top-k left); 1: all. Default 0.95. */
  topP?: number
  /** Only tokens at least this likely relative to the likeliest; 0: all. Default 0.05. */
  minP?: number
  /** Divides positive and multiplies negative logits of repeated tokens; 1: nothing. Default 1. */
  repeatPenalty?: number
  /** Tokens, prompt included, that the penalties look back at; 0: none, -1: all. Default 64. */
  repeatLastN?: number
  /** Taken from the logit of a token that occurred. Default 0. */
  presencePenalty?: number
  /** Taken from the logit of a token for each time it occurred. Default 0. */
  frequencyPenalty?: number
  /** Added to logits, by token; -Infinity bans one. */
  logitBias?: ReadonlyMap<number, number> | Readonly<Record<number, number>>
  /** 0 to 2^32 - 1; -1 or absent: a random one, see Sampler.seed. */
  seed?: number
}

export type SamplerSettings = Required<Omit<SamplerOptions, "logitBias">>

/** What the sampler needs of an OutputRow. */
export type LogitRow = Pick<
  OutputRow,
  "logits" | "logsumexp" | "argmax" | "nCandidates" | "tokens" | "candidateLogits" | "nNotFinite"
>

/** What a generation needs of a sampler: Sampler, or one of your own. */
export interface TokenSampler {
  readonly seed: number
  /** Candidates per row that sample() likes to find: OutputRow.tokens. */
  candidatesWanted(maxTopK: number): number
  /** The next token. `history` is what came before, prompt included. */
  sample(row: LogitRow, history: ArrayLike<number>): number
}

/** What a token is drawn from: the tokens that were kept, likeliest first, ties by token. */
export interface Distribution {
  readonly tokens: Int32Array
  /** Sum to 1. */
  readonly probabilities: Float64Array
}

/** Candidates asked for where top-k is off: cuts by probability hardly ever keep more, and the whole row is there. */
const OPEN_CANDIDATES = 256

/** Sort keys hold a token in this many values, and above it a float32: 53 bits. */
const TOKENS = 2 ** 21

/** llama.cpp's default chain. */
export class Sampler implements TokenSampler {
  /** In use: where none was given, the random one, with which the same draws can be had again. */
  readonly seed: number
  readonly settings: SamplerSettings
  readonly #nVocab: number
  readonly #random: Random
  readonly #changed: ChangedTokens
  /** How many tokens top-k leaves. */
  readonly #k: number
  #n = 0
  #tokens = new Int32Array(0) // (n) kept ones, likeliest first
  #logits = new Float32Array(0) // (n)
  #weights = new Float64Array(0) // (n) probabilities before division by their sum
  #keys = new Float64Array(0) // scratch of #sort

  /** @param nVocab logits of a row; Model.config.nVocab. Throws ArgumentError on an option out of its range. */
  constructor(nVocab: number, options: SamplerOptions = {}) {
    this.#nVocab = checkInteger("nVocab", nVocab, 1, TOKENS)
    const settings = settingsOf(options)
    this.settings = settings
    this.seed = settings.seed
    this.#random = new Random(settings.seed)
    this.#changed = new ChangedTokens(nVocab, settings, options.logitBias)
    const k = settings.temperature <= 0 ? 1 : settings.topK
    this.#k = k <= 0 ? nVocab : Math.min(k, nVocab)
  }

  /** Candidates per row with which the whole row is hardly ever looked at: for Session.topK. */
  candidatesWanted(maxTopK: number): number {
    const most = this.#changed.most
    if (this.settings.temperature <= 0 && most === 0) return 0 // argmax is there without any
    const k = this.#k === this.#nVocab ? Math.min(OPEN_CANDIDATES, this.#nVocab) : this.#k
    return Math.min(k + most, this.#nVocab, maxTopK)
  }

  /** Nothing is drawn: the likeliest token is the next one. */
  get isGreedy(): boolean {
    return this.#k === 1
  }

  /** The next of its random numbers, in [0, 1): for who draws by what distribution() says. */
  random(): number {
    return this.#random.double()
  }

  /** The next token. `history` is what came before, prompt included: penalties look at its end. */
  sample(row: LogitRow, history: ArrayLike<number>): number {
    this.#reduce(row, history)
    if (this.#n === 1) return this.#tokens[0]!
    let total = 0
    for (let i = 0; i < this.#n; i++) total += this.#weights[i]!
    let left = this.random() * total
    for (let i = 0; i < this.#n - 1; i++) {
      left -= this.#weights[i]!
      if (left < 0) return this.#tokens[i]!
    }
    return this.#tokens[this.#n - 1]!
  }

  /** What sample() would draw from; draws nothing. */
  distribution(row: LogitRow, history: ArrayLike<number>): Distribution {
    this.#reduce(row, history)
    const probabilities = this.#weights.slice(0, this.#n)
    const total = probabilities.reduce((sum, weight) => sum + weight, 0)
    return { tokens: this.#tokens.slice(0, this.#n), probabilities: probabilities.map((weight) => weight / total) }
  }

  /** Leaves the kept tokens and their weights. */
  #reduce(row: LogitRow, history: ArrayLike<number>): void {
    if (row.logits.length !== this.#nVocab) {
      throw new ArgumentError(`the row has ${row.logits.length} logits, the sampler was made for ${this.#nVocab}`)
    }
    if (row.nNotFinite > 0) {
      throw new AsdslError("not_finite", `${row.nNotFinite} of ${this.#nVocab} logits are not finite numbers`)
    }
    const nChanged = this.#changed.collect(history)
    if (nChanged === 0 && this.#k === 1) this.#keepOnly(row.argmax)
    else if (nChanged === 0) this.#fromCandidates(row)
    else this.#fromChanged(row)
  }

  #keepOnly(token: number): void {
    this.#reserve(1)
    this.#tokens[0] = token
    this.#weights[0] = 1
    this.#n = 1
  }

  /** No token was changed: C's candidates are the likeliest tokens already. */
  #fromCandidates(row: LogitRow): void {
    const n = Math.min(row.nCandidates, this.#k)
    this.#reserve(n)
    for (let i = 0; i < n; i++) {
      this.#tokens[i] = row.tokens[i]!
      this.#logits[i] = row.candidateLogits[i]!
    }
    this.#n = n
    if (n === this.#k) this.#cut(sumOfExponentials(this.#logits, n, this.#logits[0]!))
    // Of all tokens the sum is known, and the cuts may end before the candidates do.
    else if (n > 0 && this.#k === this.#nVocab) this.#cut(Math.exp(row.logsumexp - this.#logits[0]!))
    if (n < this.#k && this.#n === n) this.#fromRow(row)
  }

  /** Changed tokens join the candidates. Those that are neither lie behind every candidate, so the likeliest k are among
   * them as soon as k of the candidates have not been changed. */
  #fromChanged(row: LogitRow): void {
    const changed = this.#changed
    this.#reserve(row.nCandidates + changed.n)
    let n = 0
    for (let i = 0; i < row.nCandidates; i++) {
      const token = row.tokens[i]!
      if (changed.has(token)) continue
      this.#tokens[n] = token
      this.#logits[n++] = row.candidateLogits[i]!
    }
    if (n < this.#k && row.nCandidates < this.#nVocab) {
      this.#fromRow(row)
      return
    }
    for (let i = 0; i < changed.n; i++) {
      const token = changed.tokens[i]!
      const logit = changed.logit(token, row.logits[token]!)
      if (logit === -Infinity) continue
      this.#tokens[n] = token
      this.#logits[n++] = logit
    }
    this.#n = n
    this.#sort()
    this.#n = Math.min(n, this.#k)
    this.#cut(sumOfExponentials(this.#logits, this.#n, this.#logits[0]!))
  }

  /** Every token of the row. */
  #fromRow(row: LogitRow): void {
    const changed = this.#changed
    this.#reserve(this.#nVocab)
    this.#logits.set(row.logits)
    for (let i = 0; i < changed.n; i++) {
      const token = changed.tokens[i]!
      this.#logits[token] = changed.logit(token, row.logits[token]!)
    }
    let max = -Infinity
    for (let token = 0; token < this.#nVocab; token++) max = Math.max(max, this.#logits[token]!)
    // What min-p cuts off need not be sorted; its share of the sum counts all the same.
    const isOpen = this.#k === this.#nVocab
    const total = isOpen ? sumOfExponentials(this.#logits, this.#nVocab, max) : 0
    const least = max + Math.log(this.settings.minP)
    let n = 0
    for (let token = 0; token < this.#nVocab; token++) {
      const logit = this.#logits[token]!
      if (logit === -Infinity || (isOpen && logit < least)) continue
      this.#tokens[n] = token
      this.#logits[n++] = logit
    }
    this.#n = n
    this.#sort()
    this.#n = Math.min(n, this.#k)
    this.#cut(isOpen ? total : sumOfExponentials(this.#logits, this.#n, max))
  }

  /** Keeps what top-p and min-p leave of the sorted tokens, both counted from the likeliest, and weighs it.
   * @param total sum of exp(logit - largest logit) over the tokens that top-k leaves. */
  #cut(total: number): void {
    const { temperature, topP, minP } = this.settings
    if (this.#n === 0) throw new ArgumentError(`the logit bias bans all ${this.#nVocab} tokens`)
    const max = this.#logits[0]!
    const least = max + Math.log(minP)
    let n = 1
    let sum = 1
    while (n < this.#n && this.#logits[n]! >= least && (topP >= 1 || sum < topP * total)) {
      sum += Math.exp(this.#logits[n]! - max)
      n++
    }
    this.#n = n
    for (let i = 0; i < n; i++) this.#weights[i] = n === 1 ? 1 : Math.exp((this.#logits[i]! - max) / temperature)
  }

  /** Likeliest first, ties by token: one float64 key holds both, and those sort without a comparison function. */
  #sort(): void {
    const n = this.#n
    for (let i = 0; i < n; i++) this.#keys[i] = keyOf(this.#logits[i]!, this.#tokens[i]!)
    this.#keys.subarray(0, n).sort()
    for (let i = 0; i < n; i++) {
      const key = this.#keys[i]!
      this.#tokens[i] = key % TOKENS
      this.#logits[i] = logitOf(key)
    }
  }

  #reserve(n: number): void {
    if (n <= this.#tokens.length) return
    const size = Math.min(2 * n, Math.max(n, this.#nVocab))
    this.#tokens = new Int32Array(size)
    this.#logits = new Float32Array(size)
    this.#weights = new Float64Array(size)
    this.#keys = new Float64Array(size)
  }
}

/** The tokens whose logits a bias or a penalty changes, of one row at a time. */
class ChangedTokens {
  n = 0
  tokens = new Int32Array(64)
  /** Tokens that can be changed in one row, at most. */
  readonly most: number
  readonly #settings: SamplerSettings
  readonly #nBiases: number
  readonly #lookBack: number
  readonly #bias: Float64Array // (nVocab) or nothing
  readonly #counts: Int32Array // (nVocab) or nothing; occurrences in the part of the history that counts

  constructor(nVocab: number, settings: SamplerSettings, logitBias: SamplerOptions["logitBias"]) {
    const { repeatPenalty, repeatLastN, presencePenalty, frequencyPenalty } = settings
    this.#settings = settings
    const biases = biasesOf(nVocab, logitBias)
    this.#bias = new Float64Array(biases.length > 0 ? nVocab : 0)
    for (const [token, bias] of biases) {
      this.#bias[token] = bias
      this.#push(token)
    }
    this.#nBiases = this.n
    const hasPenalties = repeatPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0
    this.#lookBack = !hasPenalties ? 0 : repeatLastN < 0 ? 2 ** 31 : repeatLastN
    this.#counts = new Int32Array(this.#lookBack > 0 ? nVocab : 0)
    this.most = Math.min(nVocab, this.#nBiases + this.#lookBack)
  }

  /** Looks at a history; returns n. */
  collect(history: ArrayLike<number>): number {
    if (this.#lookBack > 0) {
      for (let i = 0; i < this.n; i++) this.#counts[this.tokens[i]!] = 0
      this.n = this.#nBiases
      for (let i = Math.max(0, history.length - this.#lookBack); i < history.length; i++) {
        const token = history[i]!
        if (this.#counts[token]! === 0 && !this.#isBiased(token)) this.#push(token)
        this.#counts[token]!++
      }
    }
    return this.n
  }

  has(token: number): boolean {
    return this.#isBiased(token) || (this.#lookBack > 0 && this.#counts[token]! > 0)
  }

  /** A logit as changed. The formulas are llama.cpp's. */
  logit(token: number, logit: number): number {
    const { repeatPenalty, presencePenalty, frequencyPenalty } = this.#settings
    let value = this.#nBiases > 0 ? logit + this.#bias[token]! : logit
    const count = this.#lookBack > 0 ? this.#counts[token]! : 0
    if (count > 0) {
      value = value <= 0 ? value * repeatPenalty : value / repeatPenalty
      value -= count * frequencyPenalty + presencePenalty
    }
    return Math.fround(value)
  }

  #isBiased(token: number): boolean {
    return this.#nBiases > 0 && this.#bias[token]! !== 0
  }

  #push(token: number): void {
    if (this.n === this.tokens.length) {
      const grown = new Int32Array(2 * this.n)
      grown.set(this.tokens)
      this.tokens = grown
    }
    this.tokens[this.n++] = token
  }
}

function settingsOf(options: SamplerOptions): SamplerSettings {
  const seed = checkInteger("seed", options.seed ?? -1, -1, MAX_SEED)
  return {
    temperature: checkNumber("temperature", options.temperature ?? 0.8),
    topK: checkInteger("topK", options.topK ?? 40, -(2 ** 31), 2 ** 31 - 1),
    topP: checkNumber("topP", options.topP ?? 0.95, 0, 1),
    minP: checkNumber("minP", options.minP ?? 0.05, 0, 1),
    repeatPenalty: checkNumber("repeatPenalty", options.repeatPenalty ?? 1, Number.MIN_VALUE),
    repeatLastN: checkInteger("repeatLastN", options.repeatLastN ?? 64, -1, 2 ** 31 - 1),
    presencePenalty: checkNumber("presencePenalty", options.presencePenalty ?? 0),
    frequencyPenalty: checkNumber("frequencyPenalty", options.frequencyPenalty ?? 0),
    seed: seed < 0 ? Random.seed() : seed,
  }
}

function checkNumber(what: string, value: number, min = -Number.MAX_VALUE, max = Number.MAX_VALUE): number {
  if (typeof value === "number" && value >= min && value <= max) return value
  const range = max < Number.MAX_VALUE ? ` from ${min} to ${max}` : min === Number.MIN_VALUE ? " above 0" : ", finite,"
  throw new ArgumentError(`${what} is ${value}, a number${range} is needed`)
}

/** A new map of the biases, whatever form they were given in. */
export function biasMap(logitBias: SamplerOptions["logitBias"] = {}): Map<number, number> {
  if (logitBias instanceof Map) return new Map(logitBias)
  return new Map(Object.entries(logitBias).map(([token, bias]) => [Number(token), bias]))
}

function biasesOf(nVocab: number, logitBias: SamplerOptions["logitBias"]): [number, number][] {
  return [...biasMap(logitBias)].filter(([token, bias]) => {
    checkInteger("token of a logit bias", token, 0, nVocab - 1)
    if (typeof bias !== "number" || Number.isNaN(bias) || bias === Infinity) {
      throw new ArgumentError(`the logit bias of token ${token} is ${bias}, a number or -Infinity is needed`)
    }
    return bias !== 0
  })
}

function sumOfExponentials(logits: Float32Array, n: number, max: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += Math.exp(logits[i]! - max)
  return sum
}

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** Ascends where the logit descends, and with the token where logits are equal. */
function keyOf(logit: number, token: number): number {
  float[0] = logit + 0 // -0 equals 0
  const word = bits[0]!
  return (word >= 2 ** 31 ? word : 2 ** 31 - 1 - word) * TOKENS + token
}

function logitOf(key: number): number {
  const rank = Math.floor(key / TOKENS)
  bits[0] = rank >= 2 ** 31 ? rank : 2 ** 31 - 1 - rank
  return float[0]!
}
