// Means with their uncertainty, covariance and percentiles, as llama-perplexity defines them, so that numbers compare.

/** Sums of one quantity over positions. */
export class Sums {
  count = 0
  sum = 0
  sumOfSquares = 0

  add(value: number): void {
    this.count++
    this.sum += value
    this.sumOfSquares += value * value
  }

  get mean(): number {
    return this.count === 0 ? 0 : this.sum / this.count
  }

  /** Standard error of the mean; 0 for ten values or fewer. */
  get error(): number {
    const variance = this.sumOfSquares / this.count - this.mean ** 2
    return variance > 0 && this.count > 10 ? Math.sqrt(variance / (this.count - 1)) : 0
  }
}

/** Covariance of the means of two quantities, from their sums and the sum of their products; 0 for less than ten. */
export function covarianceOfMeans(a: Sums, b: Sums, sumOfProducts: number): number {
  if (a.count < 10) return 0
  return (sumOfProducts / a.count - a.mean * b.mean) / (a.count - 1)
}

/** Value at a fraction of the way through ascending values, between two of them by proportion. */
export function percentile(ascending: ArrayLike<number>, fraction: number): number {
  const place = Math.min(Math.max(fraction, 0), 1) * (ascending.length - 1)
  const below = Math.floor(place)
  const above = Math.min(below + 1, ascending.length - 1)
  return (1 - (place - below)) * ascending[below]! + (place - below) * ascending[above]!
}

/** Mean and sample standard deviation. */
export function meanAndDeviation(values: readonly number[]): { mean: number; deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  if (values.length < 2) return { mean, deviation: 0 }
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) }
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  return percentile(Float64Array.from(values).sort(), 0.5)
}
