// Oracle: a fresh evaluation of the same tokens, compared by the bits of its logits.

import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  ArgumentError,
  AsdslError,
  CancelledError,
  ContextOverflowError,
  load,
  type Model,
  type Session,
  UnsupportedError,
} from "../src/index.ts"
import { bits, FOREIGN_LEVEL, tinyTokens, writeTinyModel } from "./tiny-model.ts"

const N_CTX = 64
const folder = mkdtempSync(join(tmpdir(), "asdsl-session-"))
const path = writeTinyModel({ path: join(folder, "tiny.gguf"), type: "Q4_1" })
let model: Model

beforeAll(async () => {
  model = await load(path, { nThreads: 2, nUbatch: 16, nCtx: N_CTX, maxOutputs: 4 })
})
afterAll(() => {
  model[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

function fresh(tokens: ArrayLike<number>): string {
  using session = model.createSession()
  session.sync(tokens)
  return bits(session.row().logits)
}

function thrown(body: () => unknown): AsdslError {
  try {
    body()
  } catch (error) {
    if (error instanceof AsdslError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

/** What a session holds and computes next: unchanged by whatever is refused. */
function state(session: Session): unknown {
  using copy = session.fork()
  copy.extend([1])
  return [[...session.tokens], bits(copy.row().logits)]
}

describe("sync", () => {
  test("equals a fresh evaluation, whatever was there before", () => {
    using session = model.createSession()
    let held: number[] = []
    for (let round = 0; round < 30; round++) {
      const keep = (round * 11) % (held.length + 1)
      const wanted = [...held.slice(0, keep), ...tinyTokens(1 + ((round * 5) % 23), round)].slice(0, N_CTX)
      let common = 0
      while (common < Math.min(held.length, wanted.length - 1) && held[common] === wanted[common]) common++
      expect(session.sync(wanted)).toEqual({ reused: common, evaluated: wanted.length - common })
      expect(bits(session.row().logits)).toBe(fresh(wanted))
      session.sync(wanted)
      expect(session.tokens).toEqual(wanted)
      held = wanted
    }
  })

  test("to what is there already evaluates the last token again", () => {
    using session = model.createSession()
    const tokens = tinyTokens(20)
    session.sync(tokens)
    const before = bits(session.row().logits)
    expect(session.sync(session.tokens)).toEqual({ reused: 19, evaluated: 1 })
    expect([session.tokens.length, bits(session.row().logits)]).toEqual([20, before])
  })

  test("reports its progress by micro-batches", () => {
    using session = model.createSession()
    const seen: number[][] = []
    session.sync(tinyTokens(40), { onProgress: (...done) => seen.push(done) })
    expect(seen).toEqual([
      [16, 40],
      [32, 40],
      [40, 40],
    ])
  })
})

describe("extend", () => {
  test("one by one equals all at once", () => {
    using session = model.createSession()
    const tokens = tinyTokens(37)
    for (const token of tokens) session.extend([token])
    expect(bits(session.row().logits)).toBe(fresh(tokens))
  })

  test("all outputs: each row once, in order, equal to that of a single token", () => {
    const tokens = tinyTokens(41)
    using single = model.createSession()
    const expected = tokens.map((token) => {
      single.extend([token])
      return bits(single.row().logits)
    })
    using session = model.createSession()
    const rows: string[] = []
    session.extend(tokens, {
      outputs: "all",
      onRows(first, n) {
        expect(first).toBe(rows.length)
        expect(n).toBeLessThanOrEqual(model.maxOutputs)
        for (let j = 0; j < n; j++) rows.push(bits(session.row(j).logits))
      },
    })
    expect(rows).toEqual(expected)
    expect(session.tokens).toEqual(tokens)
    expect(bits(session.row().logits)).toBe(expected.at(-1)!)
  })

  test("no outputs: no rows, the same state", () => {
    using session = model.createSession()
    session.extend(tinyTokens(20), { outputs: "none" })
    expect(() => session.row()).toThrow(new ArgumentError("the last pass had no output rows"))
    session.extend([5])
    expect(bits(session.row().logits)).toBe(fresh([...tinyTokens(20), 5]))
  })
})

describe("truncate and fork", () => {
  test("truncate goes back in time", () => {
    using session = model.createSession()
    session.sync(tinyTokens(30))
    for (const length of [30, 17, 1]) {
      session.truncate(length)
      expect(session.tokens.length).toBe(length)
      session.extend([9])
      expect(bits(session.row().logits)).toBe(fresh([...tinyTokens(30).slice(0, length), 9]))
      session.truncate(length)
    }
    session.truncate(0)
    session.extend([3])
    expect(bits(session.row().logits)).toBe(fresh([3]))
    for (const length of [-1, 2, 0.5, Number.NaN]) expect(() => session.truncate(length)).toThrow(ArgumentError)
  })

  test("a fork lives on its own", () => {
    using session = model.createSession()
    session.sync(tinyTokens(20))
    using fork = session.fork()
    fork.extend([1, 2, 3])
    session.extend([4])
    expect(bits(session.row().logits)).toBe(fresh([...tinyTokens(20), 4]))
    fork.extend([5])
    expect(bits(fork.row().logits)).toBe(fresh([...tinyTokens(20), 1, 2, 3, 5]))
    session[Symbol.dispose]()
    fork.extend([6])
    expect(bits(fork.row().logits)).toBe(fresh([...tinyTokens(20), 1, 2, 3, 5, 6]))
  })
})

describe("what does not fit leaves the session as it was", () => {
  test("context overflow, with both numbers", () => {
    using session = model.createSession()
    session.sync(tinyTokens(10))
    const before = state(session)
    for (const body of [() => session.sync(tinyTokens(N_CTX + 1, 1)), () => session.extend(tinyTokens(N_CTX - 9))]) {
      const error = thrown(body)
      expect(error).toBeInstanceOf(ContextOverflowError)
      expect(error.message).toBe(`the prompt has ${N_CTX + 1} tokens, the context holds ${N_CTX}`)
    }
    expect(state(session)).toEqual(before)
    session.sync(tinyTokens(N_CTX))
    expect(thrown(() => session.extend([1])).code).toBe("context_overflow")
  })

  test("tokens that do not exist", () => {
    using session = model.createSession()
    session.sync(tinyTokens(10))
    const before = state(session)
    for (const bad of [-1, 200, 1.5, Number.NaN, undefined as unknown as number]) {
      expect(() => session.sync([1, bad, 2])).toThrow(
        new ArgumentError(`token 1 is ${bad}, the vocabulary has 0 to 199`),
      )
      expect(() => session.extend([bad])).toThrow(ArgumentError)
    }
    expect(() => session.sync([])).toThrow(ArgumentError)
    expect(() => session.extend([])).toThrow(ArgumentError)
    expect(state(session)).toEqual(before)
  })
})

describe("cancelling", () => {
  test("before a pass: nothing has happened, and the next pass runs", () => {
    using session = model.createSession()
    session.sync(tinyTokens(5))
    session.cancel()
    expect(() => session.extend([7])).toThrow(CancelledError)
    expect(session.tokens).toEqual(tinyTokens(5))
    session.extend([7])
    expect(bits(session.row().logits)).toBe(fresh([...tinyTokens(5), 7]))
  })

  test("between micro-batches: what was evaluated stays, and is reused", () => {
    const stops = [
      (session: Session) => session.cancel(),
      (_: Session, controller: AbortController) => controller.abort(),
    ]
    for (const stop of stops) {
      using session = model.createSession()
      const controller = new AbortController()
      const cancelled = () =>
        session.sync(tinyTokens(50), { onProgress: () => stop(session, controller), signal: controller.signal })
      expect(cancelled).toThrow(CancelledError)
      expect(session.tokens).toEqual(tinyTokens(16))
      expect(session.sync(tinyTokens(50))).toEqual({ reused: 16, evaluated: 34 })
      expect(bits(session.row().logits)).toBe(fresh(tinyTokens(50)))
    }
  })

  test("one that came too late can be taken back", () => {
    using session = model.createSession()
    session.sync([1, 2])
    session.cancel()
    expect([session.takeCancel(), session.takeCancel()]).toEqual([true, false])
    session.extend([3])
    expect(bits(session.row().logits)).toBe(fresh([1, 2, 3]))
  })

  test("with threads of their own for batches: the same logits, and prompts are cancelled too", async () => {
    using other = await load(path, { nThreads: 2, nThreadsBatch: 1, nUbatch: 16, nCtx: N_CTX })
    using session = other.createSession()
    session.sync(tinyTokens(40))
    expect(bits(session.row().logits)).toBe(fresh(tinyTokens(40)))
    session.extend([8])
    expect(bits(session.row().logits)).toBe(fresh([...tinyTokens(40), 8]))
    session.truncate(0)
    session.cancel()
    expect(() => session.sync(tinyTokens(40))).toThrow(CancelledError)
    session.sync(tinyTokens(40))
    expect(bits(session.row().logits)).toBe(fresh(tinyTokens(40)))
  })
})

describe("rows", () => {
  test("candidates and statistics are those of the logits", () => {
    using session = model.createSession()
    for (const k of [0, 1, 7, 200]) {
      session.topK = k
      session.sync(tinyTokens(6 + k))
      const row = session.row()
      const order = [...row.logits.keys()].sort((a, b) => row.logits[b]! - row.logits[a]! || a - b)
      expect([...row.tokens]).toEqual(order.slice(0, k))
      expect([...row.candidateLogits]).toEqual(order.slice(0, k).map((token) => row.logits[token]!))
      expect([row.nCandidates, row.argmax, row.max, row.nNotFinite]).toEqual([k, order[0]!, row.logits[order[0]!]!, 0])
      const sum = row.logits.reduce((total, logit) => total + Math.exp(logit - row.max), 0)
      expect(row.logsumexp).toBeCloseTo(row.max + Math.log(sum), 5)
      if (k === 7) break
    }
    for (const k of [-1, 201, 1.5]) expect(() => (session.topK = k)).toThrow(ArgumentError)
  })

  test("belong to one pass of the model", () => {
    using a = model.createSession()
    using b = model.createSession()
    a.sync([1])
    a.row()
    b.sync([2])
    expect(thrown(() => a.row()).code).toBe("stale")
    expect(() => b.row(1)).toThrow(ArgumentError)
    expect(() => b.row(-1)).toThrow(ArgumentError)
    expect(bits(b.row(0).logits)).toBe(fresh([2]))
  })
})

describe("lifetimes", () => {
  test("a disposed model leaves errors and empty views behind, no crash", async () => {
    const other = await load(path, { nThreads: 1, nCtx: N_CTX })
    const session = other.createSession()
    session.sync([1, 2, 3])
    const row = session.row()
    const { logits } = row
    expect(logits.length).toBe(200)
    other[Symbol.dispose]()
    other[Symbol.dispose]()
    expect([logits.length, logits[0]]).toEqual([0, undefined])
    for (const body of [
      () => session.extend([1]),
      () => other.createSession(),
      () => other.engineInfo(),
      () => other.ops(),
    ]) {
      expect(thrown(body).code).toBe("disposed")
    }
    session[Symbol.dispose]()
    expect(thrown(() => session.sync([1])).code).toBe("disposed")
  })

  test("logits keep their memory when everything else is garbage", async () => {
    const make = async () => {
      const other = await load(path, { nThreads: 1, nCtx: N_CTX })
      const session = other.createSession()
      session.sync([1, 2, 3])
      return session.row().logits
    }
    const kept = await Promise.all(Array.from({ length: 4 }, make))
    for (let i = 0; i < 5; i++) {
      Bun.gc(true)
      await Bun.sleep(1)
    }
    const expected = fresh([1, 2, 3])
    for (const logits of kept) expect(bits(logits)).toBe(expected)
  })
})

describe("load", () => {
  test("reports bytes up to the total", async () => {
    const seen: number[][] = []
    using other = await load(path, { nThreads: 1, onProgress: (...done) => seen.push(done) })
    expect(seen[0]).toEqual([0, other.weightBytes])
    expect(seen.at(-1)).toEqual([other.weightBytes, other.weightBytes])
  })

  test("facts of the model", () => {
    const [dim, nFfn, kv, nVocab, nLayers] = [96, 192, 32, 200, 2]
    const perLayer = dim * (dim + 2 * kv) + dim * dim + 3 * dim * nFfn
    expect(model.macsPerToken).toBe(nLayers * perLayer)
    expect(model.macsPerOutput).toBe(dim * nVocab)
    expect(model.nParams).toBe(nLayers * (perLayer + 2 * dim) + dim + dim * nVocab)
    // Q4_1 is 5 bits a weight; 200 rows are padded to 13 groups of 16; norms and 16 frequencies are F32. The embedding is tied.
    const matrices = (5 / 8) * (nLayers * perLayer + dim * 208)
    expect(model.streamedBytes).toBe(matrices + 4 * (dim * (2 * nLayers + 1) + 16))
    expect([model.nCtx, model.nUbatch, model.config.nCtxTrain]).toEqual([N_CTX, 16, 128])
  })

  test("refuses what it cannot do", async () => {
    const refuse = async (options: Parameters<typeof load>[1], kind: new (...args: never[]) => Error) => {
      expect(load(path, options)).rejects.toThrow(kind as never)
    }
    await refuse({ level: "sse2" }, ArgumentError)
    await refuse({ level: FOREIGN_LEVEL }, UnsupportedError)
    await refuse({ nThreads: -1 }, ArgumentError)
    await refuse({ nThreads: 1e9 }, AsdslError)
    await refuse({ nCtx: -1 }, ArgumentError)
    await refuse({ nUbatch: 0 }, ArgumentError)
    await refuse({ typeK: "q4_0" as "f16" }, UnsupportedError)
    await refuse({ prefill: "quick" as "fast" }, UnsupportedError)
    await refuse({ signal: AbortSignal.abort() }, CancelledError)
  })
})
