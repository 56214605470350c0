// Oracle: the rules themselves. Plans are walked op by op with a model of memory: whoever reads must find what was
// written for it, and nothing else may have been written there since.

import { describe, expect, test } from "bun:test"
import { architectureOf, buildGraph } from "../src/arch/index.ts"
import { ArgumentError, FormatError, UnsupportedError } from "../src/errors.ts"
import { type GgufHeader, type MetadataValue, TENSOR_TYPES, type TensorTypeName } from "../src/gguf/types.ts"
import { GraphBuilder, type Plan } from "../src/graph.ts"
import { Layout, OPERATIONS, Op, Operand, OpFlags, readField, Type, viewOf } from "../src/native/abi.ts"
import { tensorBytes } from "../src/native/handles.ts"
import { WeightPlan } from "../src/weights.ts"

type Tensors = Record<string, [TensorTypeName | number, ...number[]]>

function header(tensors: Tensors, metadata: Record<string, MetadataValue> = {}): GgufHeader {
  const infos = Object.entries(tensors).map(([name, [type, ...shape]]) => {
    const id = typeof type === "number" ? type : TENSOR_TYPES[type].id
    return [name, { name, type: id, shape, file: 0, offset: 0, bytes: 0 }] as const
  })
  return {
    path: "model.gguf",
    files: ["model.gguf"],
    version: 3,
    alignment: 32,
    fileBytes: 0,
    metadata: new Map(Object.entries(metadata)),
    tensors: new Map(infos),
  }
}

function graph(tensors: Tensors, limits = { nCtx: 128, maxTokens: 8, maxOutputs: 2 }): GraphBuilder {
  return new GraphBuilder(new WeightPlan(header(tensors), () => new Float32Array(0)), limits)
}

const HEADS = { nHeads: 4, nKvHeads: 2, headDim: 16 }

/** A llama of small sizes; `types` by the tensor's short name. */
function llama(nLayers: number, types: Record<string, TensorTypeName> = {}, extra: Tensors = {}): GgufHeader {
  const [dim, nFfn, kv, nVocab] = [512, 768, 256, 300]
  const type = (name: string) => types[name] ?? types.all ?? "Q4_1"
  const tensors: Tensors = {
    "token_embd.weight": [type("token_embd"), dim, nVocab],
    "output_norm.weight": ["F32", dim],
  }
  for (let l = 0; l < nLayers; l++) {
    tensors[`blk.${l}.attn_norm.weight`] = ["F32", dim]
    tensors[`blk.${l}.attn_q.weight`] = [type("attn_q"), dim, dim]
    tensors[`blk.${l}.attn_k.weight`] = [type("attn_k"), dim, kv]
    tensors[`blk.${l}.attn_v.weight`] = [type("attn_v"), dim, kv]
    tensors[`blk.${l}.attn_output.weight`] = [type("attn_output"), dim, dim]
    tensors[`blk.${l}.ffn_norm.weight`] = ["F32", dim]
    tensors[`blk.${l}.ffn_gate.weight`] = [type("ffn_gate"), dim, nFfn]
    tensors[`blk.${l}.ffn_up.weight`] = [type("ffn_up"), dim, nFfn]
    tensors[`blk.${l}.ffn_down.weight`] = [type("ffn_down"), nFfn, dim]
  }
  return header({ ...tensors, ...extra }, METADATA(nLayers))
}

const METADATA = (nLayers: number): Record<string, MetadataValue> => ({
  "general.architecture": "llama",
  "llama.block_count": nLayers,
  "llama.context_length": 128,
  "llama.embedding_length": 512,
  "llama.feed_forward_length": 768,
  "llama.attention.head_count": 8,
  "llama.attention.head_count_kv": 4,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
})

function planOf(file: GgufHeader, maxTokens = 16, maxOutputs = 4): { plan: Plan; weights: WeightPlan } {
  const weights = new WeightPlan(file, () => new Float32Array(32).fill(1))
  const g = new GraphBuilder(weights, { nCtx: 128, maxTokens, maxOutputs })
  const { architecture, config } = architectureOf(file)
  buildGraph(g, architecture, config)
  return { plan: g.build(), weights }
}

const WRITES = new Set(["out", "out_f32", "out_q8_32", "out_q8_256", "x"])

/** Walks ops [first, end) over memory in lines of 64 bytes: each line remembers whose it is. */
function walk(plan: Plan, owner: Map<number, string>, first: number): void {
  for (let i = first; i < plan.ops.length; i++) {
    const { operation, places } = plan.ops[i]!
    const lines = (role: string, visit: (line: number, who: string) => void) => {
      const { tensor, type, offset, rows, cols, stride } = places[role]!
      const bytes = type === Type.F32 ? 4 * ((rows - 1) * stride + cols) : tensorBytes(type, Layout.ROWS, rows, cols)
      expect(offset % 64).toBe(0)
      expect(offset + bytes).toBeLessThanOrEqual(plan.arenaBytes)
      const who = `${tensor} as ${type}`
      for (let line = offset / 64; line < (offset + bytes) / 64; line++) {
        // A view covers its columns of each row: lines of other columns belong to the same tensor.
        visit(line, who)
      }
    }
    const inPlace = /^(rope|matmul_add|rms_norm_add)$/.test(operation)
    for (const role of Object.keys(places)) {
      if (WRITES.has(role) && !inPlace) continue
      lines(role, (line, who) => {
        if (owner.get(line) !== who) throw new Error(`op ${i} ${operation}, ${role}: ${who} lost to ${owner.get(line)}`)
      })
    }
    for (const role of Object.keys(places)) if (WRITES.has(role)) lines(role, (line, who) => owner.set(line, who))
  }
}

describe("memory of a plan", () => {
  const mixtures: Record<string, TensorTypeName>[] = [
    {},
    { all: "F16" },
    { all: "Q4_K", attn_v: "Q6_K" },
    { attn_k: "Q4_K", ffn_down: "F32" },
  ]
  for (const types of mixtures) {
    test(`every tensor is there when it is read: ${JSON.stringify(types)}`, () => {
      const { plan } = planOf(llama(3, types))
      const owner = new Map<number, string>()
      walk(plan, owner, 0)
      walk(plan, owner, plan.firstOutputOp) // output ops may run again over other outputs of the same pass
    })
  }

  test("layers reuse the same memory", () => {
    expect(planOf(llama(8)).plan.arenaBytes).toBe(planOf(llama(2)).plan.arenaBytes)
  })

  test("records say what the plan says", () => {
    const { plan } = planOf(llama(2))
    const view = viewOf(plan.records)
    expect(plan.records.length).toBe(plan.ops.length * Op.bytes)
    for (const [i, { operation, places, weights }] of plan.ops.entries()) {
      const base = i * Op.bytes
      const { name, operands } = OPERATIONS[readField(view, base, Op, "code")]!
      expect(name).toBe(operation)
      const present = operands.map((role, j) => {
        const at = base + Op.fields.operand.offset + j * Operand.bytes
        const buffer = readField(view, at, Operand, "buffer")
        const place = places[role]
        if (place !== undefined) {
          expect([buffer, readField(view, at, Operand, "offset")]).toEqual([1, place.offset])
          expect(readField(view, at, Operand, "cols")).toBe(place.cols)
        }
        return buffer
      })
      expect(present.filter((buffer) => buffer === 0).length).toBe(weights.length)
      const perOutput = i > plan.firstOutputOp + 1 && operation !== "top_k"
      expect(readField(view, base, Op, "flags")).toBe(perOutput ? OpFlags.ROWS_OUTPUTS : 0)
    }
  })
})

describe("weights", () => {
  test("lie in the order in which a pass reads them, a tied embedding last", () => {
    const { plan, weights } = planOf(llama(3))
    let last = -1
    for (const { operation, weights: read } of plan.ops) {
      if (operation === "embed") continue
      for (const { offset } of read) {
        expect(offset).toBeGreaterThan(last)
        expect(offset % 64).toBe(0)
        last = offset
      }
    }
    expect(weights.weights().at(-1)!.name).toBe("token_embd.weight")
  })

  test("an untied embedding is gathered from and not streamed", () => {
    const { weights } = planOf(llama(1, {}, { "output.weight": ["Q6_K", 512, 300] }))
    const streamed = Object.fromEntries(weights.weights().map(({ name, nStreamed }) => [name, nStreamed]))
    expect([streamed["token_embd.weight"], streamed["output.weight"]]).toEqual([0, 1])
  })

  test("a tensor that the architecture does not have is named", () => {
    const file = llama(1, {}, { "blk.0.attn_q_norm.weight": ["F32", 64] })
    expect(() => planOf(file)).toThrow(
      new UnsupportedError("llama: tensors that this architecture does not have: blk.0.attn_q_norm.weight"),
    )
  })
})

describe("activation formats", () => {
  const operations = (plan: Plan) => plan.ops.map(({ operation }) => operation)

  test("a norm writes each format its readers need, once", () => {
    const { plan } = planOf(llama(1, { attn_v: "Q4_K", attn_k: "F16" }))
    const norm = plan.ops.find(({ operation }) => operation === "rms_norm")!
    expect(Object.keys(norm.places).sort()).toEqual(["in", "out_f32", "out_q8_256", "out_q8_32"])
    expect(operations(plan).filter((name) => name === "matmul").length).toBe(4) // q, k, v apart, and the logits
  })

  test("weights of different types that take the same format share an op", () => {
    const { plan } = planOf(llama(1, { all: "Q4_K", attn_v: "Q6_K" }))
    expect(operations(plan).filter((name) => name === "matmul").length).toBe(2)
    expect(plan.ops.find(({ operation }) => operation === "matmul")!.weights.map(({ type }) => type)).toEqual([
      12, 12, 14,
    ])
  })

  test("float weights need no quantisation", () => {
    expect(operations(planOf(llama(2, { all: "F16" })).plan)).not.toContain("quantize")
    expect(operations(planOf(llama(2)).plan).filter((name) => name === "quantize").length).toBe(4)
  })

  test("a tensor that changed is quantised again, one that did not is not", () => {
    const g = graph({ e: ["Q8_0", 32, 8], a: ["Q4_0", 32, 32], b: ["Q4_1", 32, 32] })
    const x = g.embed("e", 8, 32)
    g.matmul("first", x, [{ name: "a", rows: 32 }])
    g.matmul("second", x, [{ name: "b", rows: 32 }])
    const y = g.gatherOutputs(x)
    g.matmulAdd(y, y.root, "a")
    g.matmulAdd(y, y.root, "b")
    const [logits] = g.matmul("logits", y, [{ name: "e", rows: 8 }])
    g.topK(logits!)
    expect(operations(g.build()).filter((name) => name === "quantize").length).toBe(4)
  })

  test("rows that do not end on 64 bytes become ops of their own", () => {
    const g = graph({ e: ["F32", 8, 8], q: ["F32", 8, 24], k: ["F32", 8, 8], v: ["F32", 8, 8] })
    const x = g.embed("e", 8, 8)
    const [q, k, v] = g.matmul("qkv", x, [
      { name: "q", rows: 24 },
      { name: "k", rows: 8 },
      { name: "v", rows: 8 },
    ])
    expect([q!.column, k!.column, v!.column]).toEqual([0, 32, 48])
    g.rope([q!, k!], g.ropeTable("f", new Float32Array(4)), 8, 0)
    const y = g.gatherOutputs(x)
    g.topK(g.matmul("logits", y, [{ name: "e", rows: 8 }])[0]!)
    expect(operations(g.build()).filter((name) => name === "matmul" || name === "rope").length).toBe(6)
  })
})

describe("shapes that do not fit", () => {
  const refuse = (what: string, build: (g: GraphBuilder) => unknown, error: Error, tensors: Tensors = {}) => {
    test(what, () => {
      const g = graph({ e: ["Q8_0", 64, 100], n: ["F32", 64], w: ["Q4_0", 64, 96], ...tensors })
      expect(() => build(g)).toThrow(error)
      expect(() => build(g)).toThrow(error.constructor as typeof FormatError)
    })
  }
  const x = (g: GraphBuilder) => g.embed("e", 100, 64)

  refuse(
    "missing tensor",
    (g) => g.embed("f", 1, 1),
    new FormatError("model.gguf: tensor f is missing (the file has 3)"),
  )
  refuse(
    "matrix of another shape",
    (g) => g.matmul("m", x(g), [{ name: "w", rows: 128 }]),
    new FormatError("w has shape [64, 96], the configuration needs [64, 128] (inputs, outputs)"),
  )
  refuse(
    "vector of another length",
    (g) => g.normHeads(x(g), "n", 1e-5, 2),
    new FormatError("n has shape [64], the configuration needs [32]"),
  )
  refuse(
    "unknown tensor type",
    (g) => g.embed("t", 4, 32),
    new UnsupportedError(
      "t has tensor type 17, which is not supported; known: F32 (0), F16 (1), Q4_0 (2), Q4_1 (3), Q5_0 (6), Q5_1 (7), Q8_0 (8), Q2_K (10), Q3_K (11), Q4_K (12), Q5_K (13), Q6_K (14), IQ4_NL (20), IQ4_XS (23), BF16 (30)",
    ),
    { t: [17, 32, 4] },
  )
  refuse(
    "quantised vector",
    (g) => g.rmsNorm(x(g), "v", 1e-5),
    new UnsupportedError("v is a vector of type Q8_0; vectors are F32, F16 or BF16"),
    { v: ["Q8_0", 64] },
  )
  refuse(
    "gate and up of different types",
    (g) => g.gateUp(x(g), "w", "u", 96),
    new UnsupportedError("w is of type Q4_0, u of type Q8_0: they have to be of one type"),
    { u: ["Q8_0", 64, 96] },
  )
  refuse(
    "queries that are no whole heads",
    (g) => g.attention(x(g), { ...HEADS, nHeads: 5 }, 1),
    new ArgumentError("attention: q has 64 columns, 5 heads of 16 need 80"),
  )
  refuse(
    "keys that are no whole heads",
    (g) => g.kvAppend(x(g), x(g), HEADS),
    new ArgumentError("kv_append: k has 64 columns, v 64, 2 heads of 16 need 32"),
  )
  refuse(
    "rotation of part of a head",
    (g) => g.rope([x(g)], g.ropeTable("f", new Float32Array(4)), 48, 0),
    new ArgumentError("rope: 64 columns in heads of 48"),
  )
  refuse(
    "tokens after outputs",
    (g) => {
      const y = x(g)
      g.gatherOutputs(y)
      g.rmsNorm(y, "n", 1e-5)
    },
    new ArgumentError("rms_norm of n runs over tokens, after outputs were gathered"),
  )
  refuse(
    "tokens added to outputs",
    (g) => {
      const y = x(g)
      g.matmulAdd(g.gatherOutputs(y), y, "s")
    },
    new ArgumentError("matmul_add: outputs of embedding runs over outputs, embedding over tokens"),
    { s: ["Q4_0", 64, 64] },
  )
  refuse("no end", (g) => g.build(), new ArgumentError("a graph ends in topK"))
})

describe("configurations", () => {
  const refuse = (
    what: string,
    change: Record<string, MetadataValue | undefined>,
    message: string,
    kind: typeof FormatError,
  ) => {
    test(what, () => {
      const file = llama(1)
      const metadata = new Map(file.metadata)
      for (const [key, value] of Object.entries(change)) {
        if (value === undefined) metadata.delete(key)
        else metadata.set(key, value)
      }
      expect(() => planOf({ ...file, metadata })).toThrow(new kind(message))
      expect(() => planOf({ ...file, metadata })).toThrow(kind)
    })
  }
  refuse(
    "unknown architecture",
    { "general.architecture": "mamba" },
    "architecture mamba is not supported; known: gemma3, llama, phi3, qwen2, qwen3, qwen3moe",
    UnsupportedError,
  )
  refuse(
    "no architecture",
    { "general.architecture": undefined },
    "model.gguf: general.architecture is missing",
    FormatError,
  )
  refuse("missing key", { "llama.block_count": undefined }, "model.gguf: llama.block_count is missing", FormatError)
  refuse(
    "no layers",
    { "llama.block_count": 0 },
    "llama.block_count is 0, a whole number from 1 to 65536 is needed",
    FormatError,
  )
  refuse(
    "a fraction",
    { "llama.block_count": 1.5 },
    "llama.block_count is 1.5, a whole number from 1 to 65536 is needed",
    FormatError,
  )
  refuse(
    "more layers than tensors",
    { "llama.block_count": 2 },
    "model.gguf: tensor blk.1.attn_norm.weight is missing (the file has 11)",
    FormatError,
  )
  refuse(
    "a string for a number",
    { "llama.context_length": "long" },
    "llama.context_length is not a number",
    FormatError,
  )
  refuse(
    "heads that do not divide",
    { "llama.attention.head_count_kv": 3 },
    "llama: 8 query heads cannot share 3 key heads evenly",
    FormatError,
  )
  refuse(
    "width that heads do not divide",
    { "llama.attention.head_count": 12 },
    "llama: embedding_length 512 is not a multiple of its 12 heads",
    FormatError,
  )
  refuse(
    "odd rotation",
    { "llama.rope.dimension_count": 63 },
    "llama: heads of 64 with 63 rotated; both have to be even",
    FormatError,
  )
  refuse("experts", { "llama.expert_count": 8 }, "llama: mixtures of experts (8) are not supported", UnsupportedError)
  refuse(
    "an unknown scaling",
    { "llama.rope.scaling.type": "ntk" },
    "llama.rope.scaling.type ntk is not supported; known: none, linear, longrope, yarn",
    UnsupportedError,
  )
  refuse(
    "yarn without a factor",
    { "llama.rope.scaling.type": "yarn" },
    "model.gguf: llama.rope.scaling.factor is missing",
    FormatError,
  )
  refuse(
    "yarn of DeepSeek",
    { "llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_log_multiplier": 0.1 },
    "llama.rope.scaling.yarn_log_multiplier is not supported",
    UnsupportedError,
  )
  refuse(
    "layers of different widths",
    { "llama.feed_forward_length": new Int32Array([768, 512]) },
    "llama.feed_forward_length differs between layers (768, 512 ...)",
    UnsupportedError,
  )
  refuse(
    "width of another model",
    { "llama.embedding_length": 1024 },
    "token_embd.weight has shape [512, 300], the configuration needs [1024, 1 to 16777216]",
    FormatError,
  )

  test("layers that say the same one by one", () => {
    const file = llama(1)
    const metadata = new Map(file.metadata).set("llama.attention.head_count_kv", new Int32Array([4]))
    expect(architectureOf({ ...file, metadata }).config.nKvHeads).toBe(4)
  })

  test("rotation frequencies: base, linear scaling and Llama 3's divisors", () => {
    const rope = (metadata: Record<string, MetadataValue>, divisors?: Float32Array) => {
      const file = llama(1, {}, divisors ? { "rope_freqs.weight": ["F32", divisors.length] } : {})
      const weights = new WeightPlan(
        { ...file, metadata: new Map([...file.metadata, ...Object.entries(metadata)]) },
        () => divisors!,
      )
      const g = new GraphBuilder(weights, { nCtx: 128, maxTokens: 4, maxOutputs: 1 })
      const { architecture, config } = architectureOf(weights.header)
      buildGraph(g, architecture, config)
      return g.weights.weights().find(({ name }) => name === "rope_frequencies")!.source as Float32Array
    }
    const plain = rope({})
    expect(plain.length).toBe(32)
    for (const [j, f] of plain.entries()) expect(f).toBe(Math.fround(10000 ** ((-2 * j) / 64)))
    expect(rope({ "llama.rope.freq_base": 5e5 })[1]).toBe(Math.fround(5e5 ** (-2 / 64)))
    expect(rope({ "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4 })[0]).toBe(0.25)
    // YaRN, a factor of 4 on 64 tokens: pairs that turn 32 times (none) to once (32 pairs x log10000(64 / 2 pi) = 8.06, so up
    // to the 9th) go over from one frequency to the other.
    const yarn = { "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4, "llama.context_length": 64 }
    const slowed = rope(yarn)
    expect(slowed[0]).toBe(1)
    expect(slowed[31]).toBe(Math.fround(plain[31]! / 4))
    expect(slowed[9]).toBe(Math.fround(plain[9]! / 4))
    expect(slowed[3]).toBeCloseTo(plain[3]! * (1 - (3 / 9) * 0.75), 6)
    const divided = rope(
      {},
      Float32Array.from({ length: 32 }, (_, j) => j + 1),
    )
    expect(divided[7]).toBe(Math.fround(10000 ** (-14 / 64) / 8))
    expect(() => rope({}, new Float32Array(32))).toThrow(
      "rope_freqs.weight: factor 0 is 0, a positive number is needed",
    )
  })
})

describe("phi3's tensors and factors", () => {
  const [dim, nFfn] = [64, 96]
  const tensors: Tensors = {
    "token_embd.weight": ["F32", dim, 100],
    "output_norm.weight": ["F32", dim],
    "blk.0.attn_norm.weight": ["F32", dim],
    "blk.0.attn_qkv.weight": ["Q8_0", dim, 128],
    "blk.0.attn_output.weight": ["Q8_0", dim, dim],
    "blk.0.ffn_norm.weight": ["F32", dim],
    "blk.0.ffn_up.weight": ["Q8_0", dim, 2 * nFfn],
    "blk.0.ffn_down.weight": ["Q8_0", nFfn, dim],
  }
  const both: Tensors = { "rope_factors_short.weight": ["F32", 8], "rope_factors_long.weight": ["F32", 8] }
  const plan = (more: Tensors, metadata: Record<string, MetadataValue> = {}) => {
    const given = Object.entries(METADATA(1)).map(([key, value]) => [key.replace("llama", "phi3"), value] as const)
    const sizes = { "phi3.embedding_length": dim, "phi3.feed_forward_length": nFfn, "phi3.attention.head_count": 4 }
    const all = { ...Object.fromEntries(given), ...sizes, "phi3.attention.head_count_kv": 2, ...metadata }
    return planOf(header({ ...tensors, ...more }, { ...all, "general.architecture": "phi3" }))
  }
  const original = { "phi3.rope.scaling.original_context_length": 64 }

  test("parts of one tensor follow each other and are one op", () => {
    const { ops } = plan(both, original).plan
    expect(ops.find(({ operation }) => operation === "matmul")!.weights.map(({ name }) => name)).toEqual([
      "blk.0.attn_qkv.weight[0:64]",
      "blk.0.attn_qkv.weight[64:96]",
      "blk.0.attn_qkv.weight[96:128]",
    ])
    const { weights } = ops.find(({ operation }) => operation === "gate_up")!
    expect(weights.map(({ name }) => name)).toEqual(["blk.0.ffn_up.weight[0:96]", "blk.0.ffn_up.weight[96:192]"])
  })

  const refuse = (what: string, more: Tensors, metadata: Record<string, MetadataValue>, message: string) => {
    test(what, () => {
      expect(() => plan(more, metadata)).toThrow(message)
      expect(() => plan(more, metadata)).toThrow(FormatError)
    })
  }
  refuse(
    "parts that are not all of the tensor",
    { "blk.0.attn_qkv.weight": ["Q8_0", dim, 192] },
    {},
    "blk.0.attn_qkv.weight has shape [64, 192], the configuration needs [64, 128] (inputs, outputs)",
  )
  refuse(
    "factors for long contexts alone",
    { "rope_factors_long.weight": ["F32", 8] },
    original,
    "model.gguf: tensor rope_factors_short.weight is missing (the file has 9)",
  )
  refuse(
    "factors for other heads",
    { ...both, "rope_factors_long.weight": ["F32", 6] },
    original,
    "rope_factors_long.weight has shape [6], the configuration needs [8]",
  )
  refuse(
    "factors, and no length where they change",
    both,
    {},
    "model.gguf: phi3.rope.scaling.original_context_length is missing",
  )
  refuse(
    "a length where they change beyond the longest context",
    both,
    { "phi3.rope.scaling.original_context_length": 256 },
    "phi3.rope.scaling.original_context_length is 256, a whole number from 1 to 128 is needed",
  )
})
