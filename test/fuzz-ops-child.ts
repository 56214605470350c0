// Child process of fuzz-ops.test.ts: mutates the records of a sound program and runs what the validator lets through.
// Usage: bun test/fuzz-ops-child.ts SEED ROUNDS; prints counts as JSON. Weights are zero bytes: sound in every type.

import { AsdslError } from "../src/errors.ts"
import { TENSOR_TYPES } from "../src/gguf/types.ts"
import { GraphBuilder } from "../src/graph.ts"
import { OPERATIONS, Op, Operand, Params, Type } from "../src/native/abi.ts"
import { Buffer, Engine, KvCache, Program } from "../src/native/handles.ts"
import { WeightPlan } from "../src/weights.ts"

const [seed = 1, rounds = 100] = process.argv.slice(2).map(Number)

// xorshift32: reproducible from the seed in a failure's message.
let state = seed * 2654435761 || 1
function random(n: number): number {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) % n
}
function pick<T>(values: readonly T[]): T {
  return values[random(values.length)]!
}

const [DIM, FFN, VOCAB, TOKENS, OUTPUTS, TOP_K, CAPACITY] = [256, 512, 96, 24, 5, 7, 64]
const [EXPERTS, USED] = [5, 2]
const HEADS = { nHeads: 4, nKvHeads: 2, headDim: 64 }

/** A pass of one layer whose matrices are of one type, with biases and, after its feed-forward, a mixture of experts. */
function soundGraph(type: number): { records: Uint8Array; weightBytes: number; arenaBytes: number } {
  const shapes: Record<string, number[]> = {
    table: [DIM, VOCAB],
    norm: [DIM],
    q: [DIM, 256],
    k: [DIM, 128],
    v: [DIM, 128],
    o: [DIM, DIM],
    gate: [DIM, FFN],
    up: [DIM, FFN],
    down: [FFN, DIM],
    router: [DIM, EXPERTS],
    gate_exps: [DIM, 256, EXPERTS],
    up_exps: [DIM, 256, EXPERTS],
    down_exps: [256, DIM, EXPERTS],
    q_bias: [256],
    o_bias: [DIM],
  }
  const infos = Object.entries(shapes).map(([name, shape]) => {
    return [name, { name, type: shape.length === 1 ? Type.F32 : type, shape, file: 0, offset: 0, bytes: 0 }] as const
  })
  const header = {
    path: "",
    files: [],
    version: 3,
    alignment: 32,
    fileBytes: 0,
    metadata: new Map(),
    tensors: new Map(infos),
  }
  const weights = new WeightPlan(header, () => new Float32Array(0))
  const g = new GraphBuilder(weights, { nCtx: 128, maxTokens: TOKENS, maxOutputs: OUTPUTS })
  const x = g.embed("table", VOCAB, DIM)
  const angles = g.ropeTable("angles", new Float32Array(32).fill(0.1))
  const [q, k, v] = g.matmul("qkv", g.rmsNorm(x, "norm", 1e-5), [
    { name: "q", rows: 256, bias: "q_bias" },
    { name: "k", rows: 128 },
    { name: "v", rows: 128 },
  ])
  g.rope([q!, k!], angles, 64, 0)
  g.kvAppend(k!, v!, HEADS)
  const a = g.gatherOutputs(g.attention(q!, HEADS, 0.125))
  const y = g.gatherOutputs(x)
  g.matmulAdd(y, a, "o", "o_bias")
  g.matmulAdd(y, g.gateUp(g.rmsNorm(y, "norm", 1e-5), "gate", "up", FFN), "down")
  const f = g.rmsNorm(y, "norm", 1e-5)
  const [logitsOfExperts] = g.matmul("router", f, [{ name: "router", rows: EXPERTS }])
  const route = g.moeRoute(logitsOfExperts!, { nUsed: USED, isNormalised: true, scale: 1 })
  const slots = g.moeGateUp(f, route, "gate_exps", "up_exps", 256)
  g.moeCombine(y, g.moeDown(slots, route, "down_exps", DIM), route)
  g.topK(g.matmul("logits", y, [{ name: "table", rows: VOCAB }])[0]!)
  const { records, arenaBytes } = g.build()
  return { records, weightBytes: weights.bytes, arenaBytes }
}

const counts = { refused: 0, accepted: 0, ran: 0, failed: 0 }

/** Errors on purpose are fine; anything else ends the process. */
function attempt(body: () => void, ok: "accepted" | "ran", bad: "refused" | "failed"): void {
  try {
    body()
    counts[ok]++
  } catch (error) {
    if (!(error instanceof AsdslError)) throw error
    counts[bad]++
  }
}

const WORDS = [0, 1, 2, 3, 15, 16, 31, 32, 63, 64, 65, 96, 100, 101, 102, 255, 256, 257, 512, 1024, 4096, 65535, 65536]
const WILD = [0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, 0x7f800000, 0x7fc00000, 0xff800000, 0x3f800000]

function mutate(records: Uint8Array): void {
  const words = new Uint32Array(records.buffer)
  const perOp = Op.bytes / 4
  const perOperand = Operand.bytes / 4
  const nOps = words.length / perOp
  for (let n = 1 + random(3); n > 0; n--) {
    const op = random(nOps) * perOp
    const operand = op + 4 + random(8) * perOperand
    const at = pick([op + random(4), operand + random(perOperand), operand + random(perOperand), op + random(perOp)])
    switch (random(8)) {
      case 0:
        words[at] = pick(WILD)
        break
      case 1:
        words[at] = random(2 ** 32)
        break
      case 2:
        words[at] = words[at]! + pick([1, -1, 16, -16, 64, -64])
        break
      case 3: // another op's operand
        words.set(words.slice(operand, operand + perOperand), random(nOps) * perOp + 4 + random(8) * perOperand)
        break
      case 4: // another op in this place
        words.set(words.slice(op, op + perOp), random(nOps) * perOp)
        break
      case 5:
        words[op] = random(OPERATIONS.length + 2)
        break
      default:
        words[at] = pick(WORDS)
    }
  }
}

function randomPass(program: Program, position: number): void {
  program.head[0] = random(8) === 0 ? pick([0, -1, TOKENS + 1, 0x7fffffff]) : 1 + random(TOKENS)
  program.head[1] = random(8) === 0 ? pick([-1, OUTPUTS + 1, -0x80000000]) : random(OUTPUTS + 1)
  program.head[2] = random(8) === 0 ? pick([-1, 1, CAPACITY, 0x7fffffff]) : position
  program.head[3] = random(8) === 0 ? pick([-1, TOP_K + 1]) : random(TOP_K + 1)
  for (let i = 0; i < TOKENS; i++) program.tokens[i] = random(200) === 0 ? pick([-1, VOCAB, 0x7fffffff]) : random(VOCAB)
  for (let j = 0; j < OUTPUTS; j++) program.outputs[j] = random(30) === 0 ? pick([-1, 0, TOKENS, 0x7fffffff]) : j
  if (random(4) !== 0) return
  // The whole block is memory that anybody may write to: its sizes and offsets too, which are C's to believe or not.
  const words = new Uint32Array(program.params)
  for (let n = 1 + random(6); n > 0; n--) {
    const at = random(4) === 0 ? random(words.length) : random(Params.bytes / 4)
    words[at] = pick([pick(WILD), pick(WORDS), random(2 ** 32)])
  }
}

/** The same word in a random part of the arena, as ids for example. */
function scribble([, arena]: readonly Buffer[]): void {
  if (arena === undefined) return
  const view = arena.view(0, arena.bytes)
  const words = new Uint32Array(view)
  const begin = random(words.length)
  words.fill(pick([pick(WILD), pick(WORDS), random(2 ** 32)]), begin, begin + 1024 * (1 + random(8)))
  arena.forget(view)
}

/** Mostly a cache that fits the graph. */
function randomCache(): KvCache {
  const fits = random(8) !== 0
  return KvCache.create({
    nLayers: 1 + random(2),
    nKvHeads: fits ? HEADS.nKvHeads : 1 + random(8),
    headDim: fits ? HEADS.headDim : 1 + random(130),
    capacity: random(8) === 0 ? 1 + random(300) : CAPACITY,
    typeK: pick([Type.F16, Type.F32, Type.Q8_0]),
    typeV: pick([Type.F16, Type.F32, Type.Q8_0]),
  })
}

const limits = { nCtx: 128, maxTokens: TOKENS, maxOutputs: OUTPUTS, maxTopK: TOP_K, nVocab: VOCAB }
const engines = [Engine.create({ nThreads: 1 }), Engine.create({ nThreads: 2 })]
const graphs = Object.values(TENSOR_TYPES).map(({ id }) => soundGraph(id))
const buffers = graphs.map(({ weightBytes, arenaBytes }) => [Buffer.create(weightBytes), Buffer.create(arenaBytes)])

for (let round = 0; round < rounds; round++) {
  const which = random(graphs.length)
  const records = graphs[which]!.records.slice()
  if (round % 16 !== 0) mutate(records) // one in sixteen stays sound: then runs must succeed as well
  const table = random(40) === 0 ? buffers[which]!.slice(0, 1) : buffers[which]!
  attempt(
    () => {
      using program = Program.create(pick(engines), records, table, limits)
      using kv = randomCache()
      for (let pass = 0; pass < 4; pass++) {
        randomPass(program, kv.length)
        // Which experts rows go to lies in the arena, where anybody may write: ranges of ops may find anything there.
        if (random(8) === 0) scribble(table)
        const first = random(4) === 0 ? random(program.nOps) : 0
        const count = random(4) === 0 ? random(program.nOps + 2) : program.nOps - first
        attempt(() => program.run(random(20) === 0 ? undefined : kv, first, count), "ran", "failed")
        if (random(6) === 0) attempt(() => kv.truncate(random(kv.length + 2)), "ran", "failed")
      }
    },
    "accepted",
    "refused",
  )
}
console.log(JSON.stringify(counts))
