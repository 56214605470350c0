// A line on stderr that says what a long job is doing; nothing where stderr is no terminal.

/** Overwrites itself; disposing clears the line. */
export class StatusLine implements Disposable {
  readonly #stream: { isTTY?: boolean; write(text: string): unknown }
  #isShown = false

  constructor(stream: { isTTY?: boolean; write(text: string): unknown } = process.stderr) {
    this.#stream = stream
  }

  show(text: string): void {
    if (this.#stream.isTTY !== true) return
    this.#isShown = true
    this.#stream.write(`\r\x1b[K${text}`)
  }

  clear(): void {
    if (this.#isShown) this.#stream.write("\r\x1b[K")
    this.#isShown = false
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}
