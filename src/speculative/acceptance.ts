// How often drafted tokens turn out right, by their place in the draft and by how sure the drafter was. Numbers in, numbers
// out; knows no costs.

/** Memory of verdicts, in verdicts on drafts of the kind; and, where none is made any more, in passes. */
const VERDICT_MEMORY = 32
const REST_MEMORY = 256
/** What a verdict still counts when another reply begins, of which it says less. Over the traces of
 * test/speculative-traces.test.ts, 0.3 to 0.7 are 1 % faster than 1 (seen once). */
const CARRIED = 0.5
/** Verdicts that a first guess counts as. */
const TRUST = 2

/** Kinds of drafted tokens: by place in the draft, and by confidence. */
const PLACES = [1, 3, 7] as const
const CONFIDENCES = [0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95] as const
const N_LEVELS = CONFIDENCES.length + 1

/** Verdicts by kind: how many, and how many of them good. */
export interface VerdictState {
  readonly tried: readonly number[]
  readonly accepted: readonly number[]
}

export interface AcceptanceState {
  readonly byKind: VerdictState
  readonly byPlace: VerdictState
}

export class Acceptance {
  readonly #byKind = new Verdicts((PLACES.length + 1) * N_LEVELS)
  readonly #byPlace = new Verdicts(PLACES.length + 1)
  readonly #first: number

  /** @param first what is expected of a draft's first token before anything is known. */
  constructor(first: number) {
    this.#first = first
  }

  /** That a drafted token is accepted where those before it are. Until more is known, each place is taken to be as the one
   * before it, the first as the drafter says. */
  likelihood(index: number, confidence: number): number {
    const [place, level] = [stepOf(PLACES, index), stepOf(CONFIDENCES, confidence)]
    let likelihood = confidence
    for (let i = 0; i <= place; i++) likelihood = this.#byKind.estimate(i * N_LEVELS + level, likelihood)
    return likelihood
  }

  /** That one which has not been drafted yet is kept and accepted. */
  expected(index: number): number {
    let likelihood = this.#first
    for (let i = 0; i <= stepOf(PLACES, index); i++) likelihood = this.#byPlace.estimate(i, likelihood)
    return likelihood
  }

  judge(index: number, confidence: number, isAccepted: boolean): void {
    const place = stepOf(PLACES, index)
    this.#byKind.judge(place * N_LEVELS + stepOf(CONFIDENCES, confidence), isAccepted)
    this.#byPlace.judge(place, isAccepted)
  }

  /** A token was drafted and not kept: its step brought nothing, and says so of its place. */
  leaveOut(index: number): void {
    this.#byPlace.judge(stepOf(PLACES, index), false)
  }

  /** For restore(). */
  get state(): AcceptanceState {
    return { byKind: this.#byKind.state, byPlace: this.#byPlace.state }
  }

  /** Goes on from a state; one of another shape is not taken. */
  restore({ byKind, byPlace }: AcceptanceState): void {
    this.#byKind.restore(byKind)
    this.#byPlace.restore(byPlace)
  }

  /** A pass was made without a draft: what was seen counts a little less. */
  rest(): void {
    this.#fade(1 - 1 / REST_MEMORY)
  }

  /** Another reply begins. */
  nextReply(): void {
    this.#fade(CARRIED)
  }

  #fade(share: number): void {
    this.#byKind.fade(share)
    this.#byPlace.fade(share)
  }
}

/** Verdicts by kind, the older the less. */
class Verdicts {
  readonly #tried: Float64Array
  readonly #accepted: Float64Array

  constructor(nKinds: number) {
    this.#tried = new Float64Array(nKinds)
    this.#accepted = new Float64Array(nKinds)
  }

  get state(): VerdictState {
    return { tried: [...this.#tried], accepted: [...this.#accepted] }
  }

  restore({ tried, accepted }: VerdictState): void {
    if (tried.length !== this.#tried.length || accepted.length !== tried.length) return
    this.#tried.set(tried)
    this.#accepted.set(accepted)
  }

  estimate(kind: number, guess: number): number {
    return (this.#accepted[kind]! + TRUST * guess) / (this.#tried[kind]! + TRUST)
  }

  judge(kind: number, isAccepted: boolean): void {
    this.#tried[kind]! += 1 - this.#tried[kind]! / VERDICT_MEMORY
    this.#accepted[kind]! += (isAccepted ? 1 : 0) - this.#accepted[kind]! / VERDICT_MEMORY
  }

  /** All count for a share of what they did. */
  fade(share: number): void {
    for (let kind = 0; kind < this.#tried.length; kind++) {
      this.#tried[kind]! *= share
      this.#accepted[kind]! *= share
    }
  }
}

/** How many of rising bounds a value has reached. */
function stepOf(bounds: readonly number[], value: number): number {
  let step = 0
  while (step < bounds.length && value >= bounds[step]!) step++
  return step
}
