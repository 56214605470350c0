// A line on the terminal that says how far a long job is; nothing in a pipe. Knows nothing of the job.

const BAR_CELLS = 24
const MIN_MS_BETWEEN_DRAWS = 100

/** Draws on stderr while it lives; disposing ends the line. */
export class ProgressBar implements Disposable {
  private drawnAt = Number.NEGATIVE_INFINITY
  private readonly startedAt = performance.now()
  private readonly isTerminal: boolean
  private hasLine = false
  /** `done` of the first update: what was there before has no speed. */
  private first: number | undefined

  constructor(
    private readonly label: string,
    private readonly stream: { isTTY?: boolean; write(text: string): unknown } = process.stderr,
  ) {
    this.isTerminal = stream.isTTY === true
  }

  /** `done` of `total` bytes. */
  update(done: number, total: number): void {
    this.first ??= done
    const now = performance.now()
    const isLast = done >= total
    if (!this.isTerminal || (!isLast && now - this.drawnAt < MIN_MS_BETWEEN_DRAWS)) return
    this.drawnAt = now
    this.hasLine = true
    const text = progressText(done, total, (now - this.startedAt) / 1000, Math.min(this.first, done))
    this.stream.write(`\r\x1b[K${this.label} ${text}`)
  }

  /** A sentence instead of the bar until the next update. */
  say(text: string): void {
    if (!this.isTerminal) return
    this.hasLine = true
    this.stream.write(`\r\x1b[K${text}`)
  }

  [Symbol.dispose](): void {
    if (this.hasLine) this.stream.write("\n")
    this.hasLine = false
  }
}

/**
 * "[######------] 23.4 / 98.4 MB, 11.2 MB/s, 0:07 left": bytes in decimal megabytes. `before` of the bytes were there when
 * the time began.
 */
export function progressText(done: number, total: number, seconds: number, before = 0): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1)
  const rate = seconds > 0 ? (done - before) / seconds : 0
  const speed = seconds > 0 ? `, ${megabytes(rate)} MB/s` : ""
  const left = rate > 0 && done < total ? `, ${clockText((total - done) / rate)} left` : ""
  const share = total > 0 ? Math.min(1, done / total) : 1
  const filled = Math.floor(share * BAR_CELLS)
  const bar = "#".repeat(filled) + "-".repeat(BAR_CELLS - filled)
  return `[${bar}] ${megabytes(Math.min(done, total))} / ${megabytes(total)} MB${speed}${left}`
}

/** "0:07", "12:34", "3:25:45". */
function clockText(seconds: number): string {
  const whole = Math.ceil(seconds)
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  const two = (value: number) => String(value).padStart(2, "0")
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}
