// A line on the terminal that says how far a long job is; nothing in a pipe. Knows nothing of the job.

const BAR_CELLS = 24
const MIN_MS_BETWEEN_DRAWS = 100

/** Draws on stderr while it lives; disposing ends the line. */
export class ProgressBar implements Disposable {
  private drawnAt = Number.NEGATIVE_INFINITY
  private readonly startedAt = performance.now()
  private readonly isTerminal: boolean
  private hasLine = false

  constructor(
    private readonly label: string,
    private readonly stream: { isTTY?: boolean; write(text: string): unknown } = process.stderr,
  ) {
    this.isTerminal = stream.isTTY === true
  }

  /** `done` of `total` bytes. */
  update(done: number, total: number): void {
    const now = performance.now()
    const isLast = done >= total
    if (!this.isTerminal || (!isLast && now - this.drawnAt < MIN_MS_BETWEEN_DRAWS)) return
    this.drawnAt = now
    this.hasLine = true
    this.stream.write(`\r\x1b[K${this.label} ${progressText(done, total, (now - this.startedAt) / 1000)}`)
  }

  [Symbol.dispose](): void {
    if (this.hasLine) this.stream.write("\n")
    this.hasLine = false
  }
}

/** "[######------] 23.4 / 98.4 MB, 11.2 MB/s": bytes in decimal megabytes. */
export function progressText(done: number, total: number, seconds: number): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1)
  const speed = seconds > 0 ? `, ${megabytes(done / seconds)} MB/s` : ""
  const share = total > 0 ? Math.min(1, done / total) : 1
  const filled = Math.floor(share * BAR_CELLS)
  const bar = "#".repeat(filled) + "-".repeat(BAR_CELLS - filled)
  return `[${bar}] ${megabytes(Math.min(done, total))} / ${megabytes(total)} MB${speed}`
}
