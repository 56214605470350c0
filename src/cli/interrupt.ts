// Ctrl-C: the first stops what runs, the second, or one when nothing runs, leaves the program.

/** Exit code of a program that SIGINT ended. */
export const INTERRUPTED = 130

export class Interrupts implements Disposable {
  #stop: (() => void) | undefined
  readonly #leave: () => void
  readonly #listener = () => this.interrupt()

  /** @param leave ends the program. */
  constructor(leave: () => void = () => process.exit(INTERRUPTED)) {
    this.#leave = leave
    process.on("SIGINT", this.#listener)
  }

  /** What a SIGINT does; also for a Ctrl-C that a terminal in raw mode delivers as a key. */
  interrupt(): void {
    const stop = this.#stop
    this.#stop = undefined
    if (stop === undefined) this.#leave()
    else stop()
  }

  /** Runs `body`; the first interrupt meanwhile calls `stop`. */
  async during<T>(stop: () => void, body: () => Promise<T>): Promise<T> {
    this.#stop = stop
    try {
      return await body()
    } finally {
      this.#stop = undefined
    }
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#listener)
  }
}
