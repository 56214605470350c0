// Oracles: the definitions, computed one token at a time through the session in double precision; the file format, byte
// by byte; statistics of numbers whose results are known.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { klDivergence } from "../src/eval/kl-divergence.ts"
import { LogitsReader, LogitsWriter } from "../src/eval/logits-file.ts"
import { chunksOf, evaluationTokens, perplexity, scoredRows } from "../src/eval/perplexity.ts"
import { covarianceOfMeans, meanAndDeviation, median, percentile, Sums } from "../src/eval/statistics.ts"
import { ArgumentError, FormatError, load, type Model } from "../src/index.ts"
import { tinyTokens, writeTinyModel } from "./tiny-model.ts"

const N_CTX = 18
const N_CHUNKS = 5
const { count } = scoredRows(N_CTX)
const tokens = Int32Array.from(tinyTokens(N_CTX * N_CHUNKS + 7))

let folder: string
let base: Model // the same random weights in two types
let model: Model

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "asdsl-perplexity-"))
  const write = (type: "F32" | "Q4_0") => writeTinyModel({ path: join(folder, `${type}.gguf`), type, seed: 3 })
  base = await load(write("F32"), { nThreads: 1 })
  model = await load(write("Q4_0"), { nThreads: 1, maxOutputs: 3 }) // rows arrive in several parts
})

afterAll(() => {
  base[Symbol.dispose]()
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

/** Log-probabilities of the token after `prefix`, in double precision. */
function logProbabilities(of: Model, prefix: Int32Array): Float64Array {
  using session = of.createSession()
  session.sync(prefix)
  const logits = Float64Array.from(session.row().logits)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0)
  return logits.map((logit) => logit - Math.log(sum))
}

/** Every scored position by the definition: chunk by chunk, BOS first, the second half scored. */
function* scored(of: Model): Generator<{ distribution: Float64Array; next: number }> {
  for (let chunk = 0; chunk < N_CHUNKS; chunk++) {
    const part = tokens.slice(chunk * N_CTX, (chunk + 1) * N_CTX)
    const next = part.slice(1)
    part[0] = of.tokenizer.bos!
    for (let i = N_CTX / 2; i <= N_CTX - 2; i++) {
      yield { distribution: logProbabilities(of, part.slice(0, i + 1)), next: next[i]! }
    }
  }
}

describe("perplexity", () => {
  test("is exp of the mean loss of the scored positions, its error that of the mean", async () => {
    const losses = Array.from(scored(model), ({ distribution, next }) => -distribution[next]!)
    const indices: number[] = []
    const partial: number[] = []
    const result = await perplexity(model, tokens, {
      nCtx: N_CTX,
      onRow: (row, index, next) => {
        indices.push(index)
        expect(row.logsumexp - row.logits[next]!).toBeCloseTo(losses[index]!, 5)
      },
      onChunk: (nDone, nChunks, sofar) => {
        expect([sofar.nChunks, nChunks, sofar.nScored]).toEqual([nDone, N_CHUNKS, nDone * count])
        partial.push(sofar.perplexity)
      },
    })
    const mean = losses.reduce((a, b) => a + b) / losses.length
    const variance = losses.reduce((sum, loss) => sum + loss ** 2, 0) / losses.length - mean ** 2
    const first = losses.slice(0, count)
    expect(indices).toEqual(losses.map((_, i) => i))
    expect(result.nll).toBeCloseTo(mean, 5)
    expect(result.perplexity).toBeCloseTo(Math.exp(mean), 3)
    expect(result.error).toBeCloseTo(Math.exp(mean) * Math.sqrt(variance / (losses.length - 1)), 3)
    expect([result.nChunks, result.nScored]).toEqual([N_CHUNKS, N_CHUNKS * count])
    expect(partial.length).toBe(N_CHUNKS)
    expect(partial[0]).toBeCloseTo(Math.exp(first.reduce((a, b) => a + b) / count), 3)
    expect(partial.at(-1)).toBe(result.perplexity)
  })

  test("fewer chunks are the beginning of more", async () => {
    const partial: number[] = []
    await perplexity(model, tokens, {
      nCtx: N_CTX,
      onChunk: (_n, _all, { perplexity }) => void partial.push(perplexity),
    })
    expect((await perplexity(model, tokens, { nCtx: N_CTX, nChunks: 2 })).perplexity).toBe(partial[1]!)
  })

  test("a text of less than two chunks is refused with both numbers, as llama-perplexity does", () => {
    expect(() => chunksOf(35, 18)).toThrow("the text has 35 tokens, a context of 18 needs at least 36")
    expect([chunksOf(36, 18), chunksOf(97, 18), chunksOf(97, 18, 3), chunksOf(97, 18, 99)]).toEqual([2, 5, 3, 5])
    expect(() => chunksOf(100, 3)).toThrow(ArgumentError)
    expect(() => chunksOf(100, 4, 0)).toThrow(ArgumentError)
  })

  test("BOS stands before the text where the model adds one, EOS never behind it", () => {
    const { tokenizer } = model
    const own = tokenizer.encode("a text")
    expect([...evaluationTokens(tokenizer, "a text")]).toEqual([tokenizer.bos!, ...own])
    const without = Object.assign(Object.create(tokenizer), { encode: () => own })
    Object.defineProperty(without, "addBos", { value: false })
    Object.defineProperty(without, "addEos", { value: true })
    expect(evaluationTokens(without, "a text")).toEqual(own)
  })

  test("the scored half of even and odd contexts", () => {
    expect([scoredRows(512), scoredRows(5), scoredRows(4)]).toEqual([
      { first: 256, count: 255 },
      { first: 2, count: 2 },
      { first: 2, count: 1 },
    ])
  })
})

/** Writes the base's distributions as `asdsl perplexity --save-all-logits` does. */
async function writeBase(path: string): Promise<void> {
  const header = { nCtx: N_CTX, nVocab: base.config.nVocab, nChunks: N_CHUNKS }
  using writer = new LogitsWriter(path, header, tokens.slice(0, N_CTX * N_CHUNKS))
  await perplexity(base, tokens, {
    nCtx: N_CTX,
    onRow: (row, index) => writer.chunk.set(index % count, row),
    onChunk: () => writer.writeChunk(),
  })
  expect(existsSync(path)).toBe(false)
  writer.finish()
}

describe("file of log-probabilities", () => {
  test("has llama-perplexity's bytes, and a row is within half a step of the model's", async () => {
    const path = join(folder, "bytes.kld")
    await writeBase(path)
    const bytes = readFileSync(path)
    const nVocab = base.config.nVocab
    const rowBytes = 8 + 2 * nVocab
    expect(bytes.subarray(0, 8).toString("latin1")).toBe("_logits_")
    expect([8, 12, 16].map((at) => bytes.readInt32LE(at))).toEqual([N_CTX, nVocab, N_CHUNKS])
    expect(Array.from(tokens.slice(0, N_CTX * N_CHUNKS))).toEqual(
      Array.from({ length: N_CTX * N_CHUNKS }, (_, i) => bytes.readInt32LE(20 + 4 * i)),
    )
    const start = 20 + 4 * N_CTX * N_CHUNKS
    expect(bytes.length).toBe(start + N_CHUNKS * count * rowBytes)
    let index = 0
    for (const { distribution } of scored(base)) {
      const at = start + index++ * rowBytes
      const [scale, minimum] = [bytes.readFloatLE(at), bytes.readFloatLE(at + 4)]
      const codes = Array.from(distribution, (_, token) => bytes.readUInt16LE(at + 8 + 2 * token))
      expect(Math.max(...codes)).toBe(65535)
      expect(Math.min(...codes)).toBe(0)
      for (const [token, p] of distribution.entries()) {
        expect(Math.abs(minimum + scale * codes[token]! - p)).toBeLessThan(0.5 * scale + 1e-5)
      }
    }
    expect(index).toBe(N_CHUNKS * count)
  })

  test("keeps 24 nats below the likeliest token, and rows without any difference", () => {
    const header = { nCtx: 4, nVocab: 3, nChunks: 1 }
    const row = (logits: number[]) => {
      const max = Math.max(...logits)
      const logsumexp = max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0))
      const unused = { argmax: 0, nCandidates: 0, tokens: new Int32Array(0), candidateLogits: new Float32Array(0) }
      return { ...unused, logits: Float32Array.from(logits), logsumexp, max, nNotFinite: 0 }
    }
    using writer = new LogitsWriter(join(folder, "range.kld"), header, new Int32Array(4))
    writer.chunk.set(0, row([30, 18, -100]))
    const wide = writer.chunk.row(0)
    expect(Array.from(wide.codes)).toEqual([65535, 32768, 0])
    expect(wide.minimum).toBeCloseTo(-24, 4)
    writer.chunk.set(0, row([2, 2, 2]))
    const flat = writer.chunk.row(0)
    expect([flat.scale, ...flat.codes]).toEqual([0, 0, 0, 0])
    expect(flat.minimum).toBeCloseTo(-Math.log(3), 6)
  })

  test("is read back as written; what is not whole leaves nothing behind", async () => {
    const path = join(folder, "back.kld")
    await writeBase(path)
    using reader = new LogitsReader(path)
    expect(reader.header).toEqual({ nCtx: N_CTX, nVocab: base.config.nVocab, nChunks: N_CHUNKS })
    expect(reader.tokens).toEqual(tokens.slice(0, N_CTX * N_CHUNKS))
    const all = Buffer.concat(Array.from({ length: N_CHUNKS }, () => Buffer.from(reader.next().bytes)))
    expect(all).toEqual(readFileSync(path).subarray(20 + 4 * N_CTX * N_CHUNKS))
    const header = { nCtx: 4, nVocab: 3, nChunks: 2 }
    {
      using writer = new LogitsWriter(join(folder, "half.kld"), header, new Int32Array(8))
      writer.writeChunk()
      expect(() => writer.finish()).toThrow("1 of 2 chunks")
    }
    expect(readdirSync(folder).filter((name) => name.startsWith("half"))).toEqual([])
  })

  test("anything else is a FormatError that says what is wrong", async () => {
    const path = join(folder, "sound.kld")
    await writeBase(path)
    const sound = readFileSync(path)
    const damaged = join(folder, "damaged.kld")
    const open = (bytes: Uint8Array) => {
      writeFileSync(damaged, bytes)
      return () => new LogitsReader(damaged)[Symbol.dispose]()
    }
    open(sound)()
    for (const length of [0, 7, 19, 20, 400, sound.length - 1])
      expect(open(sound.subarray(0, length))).toThrow(FormatError)
    expect(open(Buffer.concat([sound, Buffer.alloc(1)]))).toThrow(/asks for \d+/)
    for (const [at, value] of [
      [0, 0],
      [8, 3],
      [8, -1],
      [12, 0],
      [12, 2 ** 31 - 1],
      [16, 0],
      [16, 2 ** 31 - 1],
    ] as const) {
      const bytes = Buffer.from(sound)
      bytes.writeInt32LE(value, at)
      expect(open(bytes)).toThrow(FormatError)
    }
  })
})

describe("KL divergence", () => {
  test("follows the definition over what the file holds", async () => {
    const path = join(folder, "kl.kld")
    await writeBase(path)
    using reader = new LogitsReader(path)
    const sums = await klDivergence(model, reader)
    const result = sums.result(N_CHUNKS)
    const pairs = Array.from(scored(base))
    const ours = Array.from(scored(model))
    let bound = 0
    const divergences = pairs.map(({ distribution: p }, i) => {
      const q = ours[i]!.distribution
      const range = Math.min(Math.max(...p) - Math.min(...p), 24)
      // A step of the file moves p (ln p - ln q) by at most half of it times p (|ln p - ln q| + 1).
      bound += (0.5 * range * p.reduce((s, x, t) => s + Math.exp(x) * (Math.abs(x - q[t]!) + 1), 0)) / 65535
      return p.reduce((sum, x, token) => sum + Math.exp(x) * (x - q[token]!), 0)
    })
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length
    expect(mean(divergences)).toBeGreaterThan(1e-4) // or the comparison says nothing
    expect(Math.abs(result.divergence.value - mean(divergences))).toBeLessThan(bound / pairs.length + 1e-6)
    const argmax = (values: Float64Array) => values.indexOf(Math.max(...values))
    const same = pairs.filter(({ distribution }, i) => argmax(distribution) === argmax(ours[i]!.distribution)).length
    expect(result.sameTop.value).toBeCloseTo(same / pairs.length, 10)
    const loss = (rows: typeof pairs) => mean(rows.map(({ distribution, next }) => -distribution[next]!))
    expect(Math.log(result.perplexity.value)).toBeCloseTo(loss(ours), 5)
    expect(Math.log(result.basePerplexity.value)).toBeCloseTo(loss(pairs), 4)
    expect(result.logRatio.value).toBeCloseTo(loss(ours) - loss(pairs), 4)
    const changes = pairs.map(
      ({ distribution, next }, i) => Math.exp(ours[i]!.distribution[next]!) - Math.exp(distribution[next]!),
    )
    expect(result.probabilityDifference.value).toBeCloseTo(mean(changes), 6)
    expect(result.probabilityDifferenceRms.value).toBeCloseTo(Math.sqrt(mean(changes.map((x) => x * x))), 6)
    expect(sums.divergencePercentiles([0, 1])[1]).toBeCloseTo(Math.max(...divergences), 3)
    expect([result.nChunks, result.nScored]).toEqual([N_CHUNKS, N_CHUNKS * count])
  })

  test("of the base from itself is nothing but the file's rounding", async () => {
    const path = join(folder, "self.kld")
    await writeBase(path)
    using reader = new LogitsReader(path)
    const result = (await klDivergence(base, reader, { nChunks: 2 })).result(2)
    expect(Math.abs(result.divergence.value)).toBeLessThan(1e-4)
    expect(Math.abs(result.ratio.value - 1)).toBeLessThan(1e-4)
    expect([result.sameTop.value, result.nScored]).toEqual([1, 2 * count])
  })

  test("another vocabulary is refused with both sizes", async () => {
    const path = join(folder, "other.kld")
    using writer = new LogitsWriter(path, { nCtx: 4, nVocab: 3, nChunks: 1 }, new Int32Array(4))
    writer.writeChunk()
    writer.finish()
    using reader = new LogitsReader(path)
    await expect(klDivergence(model, reader)).rejects.toThrow("the base has a vocabulary of 3, the model one of 200")
  })
})

test("statistics: known sums, errors, covariances and percentiles", () => {
  const values = [2, 4, 4, 4, 5, 5, 7, 9, 1, 1, 2, 4]
  const sums = new Sums()
  const doubled = new Sums()
  let products = 0
  for (const value of values) {
    sums.add(value)
    doubled.add(2 * value)
    products += value * 2 * value
  }
  const { mean, deviation } = meanAndDeviation(values)
  const n = values.length
  expect(sums.mean).toBeCloseTo(mean, 12)
  // llama-perplexity divides the population variance by n - 1, which is the sample variance by n.
  expect(sums.error).toBeCloseTo(deviation / Math.sqrt(n), 12)
  expect(covarianceOfMeans(sums, doubled, products)).toBeCloseTo(2 * sums.error ** 2, 12)
  expect(meanAndDeviation([3])).toEqual({ mean: 3, deviation: 0 })
  expect([percentile([1, 2, 3, 4], 0), percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 1)]).toEqual([1, 2.5, 4])
  expect([percentile([7], 0.3), median([5, 1, 3]), median([4, 1, 3, 2])]).toEqual([7, 3, 2.5])
})
