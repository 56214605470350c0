// The decoder that most open models are: norms before attention and feed-forward, rotary positions, grouped queries, gated
// feed-forward. An architecture's own file says in what it differs.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { Activation, GraphBuilder } from "../graph.ts"
import type { Tensor } from "../tensors.ts"
import type { RowRange } from "../weights.ts"
import { MAX_DIM, MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, type Metadata, type ModelConfig } from "./config.ts"
import { addExperts } from "./experts.ts"
import { ropeConfig, ropeTables } from "./rope.ts"

/** Reads the metadata that all of them have; an architecture with experts reads theirs itself. */
export function decoderConfig(m: Metadata, hasExperts = false): ModelConfig {
  const nLayers = m.integer("block_count", 1, MAX_LAYERS)
  const dim = m.integer("embedding_length", 1, MAX_DIM)
  const nHeads = m.integer("attention.head_count", 1, MAX_HEADS)
  const nKvHeads = m.integer("attention.head_count_kv", 1, MAX_HEADS, nHeads)
  if (nHeads % nKvHeads !== 0) {
    throw new FormatError(`${m.arch}: ${nHeads} query heads cannot share ${nKvHeads} key heads evenly`)
  }
  if (m.get("attention.key_length") === undefined && dim % nHeads !== 0) {
    throw new FormatError(`${m.arch}: embedding_length ${dim} is not a multiple of its ${nHeads} heads`)
  }
  const headDim = m.integer("attention.key_length", 2, MAX_HEAD_DIM, dim / nHeads)
  const valueDim = m.integer("attention.value_length", 1, MAX_HEAD_DIM, headDim)
  if (valueDim !== headDim) {
    throw new UnsupportedError(
      `${m.arch}: keys of ${headDim} and values of ${valueDim} per head; equal ones are supported`,
    )
  }
  const nRot = m.integer("rope.dimension_count", 2, headDim, headDim)
  if (headDim % 2 !== 0 || nRot % 2 !== 0) {
    throw new FormatError(`${m.arch}: heads of ${headDim} with ${nRot} rotated; both have to be even`)
  }
  const nExperts = m.integer("expert_count", 0, MAX_EXPERTS, 0)
  if (nExperts > 0 && !hasExperts) {
    throw new UnsupportedError(`${m.arch}: mixtures of experts (${nExperts}) are not supported`)
  }
  return {
    arch: m.arch,
    nLayers,
    dim,
    nHeads,
    nKvHeads,
    headDim,
    nRot,
    nFfn: m.integer("feed_forward_length", 1, MAX_DIM),
    nVocab: vocabularySize(m, dim),
    nCtxTrain: m.integer("context_length", 1, 2 ** 30),
    normEps: m.number("attention.layer_norm_rms_epsilon", 0, 1),
    ...ropeConfig(m),
    windows: new Array<number>(nLayers).fill(0),
    embeddingScale: 1,
    attentionScale: 1 / Math.sqrt(headDim),
    attentionSoftcap: 0,
    logitSoftcap: 0,
    isTied: !m.header.tensors.has("output.weight"),
  }
}

/** Rows of the embedding table: vocabularies are often padded, so metadata may name fewer tokens, never more. */
function vocabularySize(m: Metadata, dim: number): number {
  const table = m.header.tensors.get("token_embd.weight")
  if (table === undefined) {
    throw new FormatError(`${m.header.path}: tensor token_embd.weight is missing (a vocabulary-only file?)`)
  }
  const [cols, nVocab] = table.shape
  if (table.shape.length !== 2 || cols !== dim || nVocab === undefined || nVocab < 1 || nVocab > MAX_DIM) {
    throw new FormatError(
      `token_embd.weight has shape [${table.shape.join(", ")}], the configuration needs [${dim}, 1 to ${MAX_DIM}]`,
    )
  }
  const tokens = m.header.metadata.get("tokenizer.ggml.tokens")
  if (typeof tokens === "object" && "length" in tokens && tokens.length > nVocab) {
    throw new FormatError(`the vocabulary has ${tokens.length} tokens, token_embd.weight ${nVocab} rows`)
  }
  return nVocab
}

/** In what architectures differ. */
export interface DecoderVariant {
  /** Which values of a head turn together. 0: neighbours (2j, 2j + 1); 1: the halves (j, j + nRot / 2). */
  readonly ropeMode: 0 | 1
  /** Each head of queries and keys is normed before it turns. */
  readonly hasQkNorms?: boolean
  /** Queries, keys and values are rows of one tensor, and so are gate and up. */
  readonly isFused?: boolean
  /** What attention and feed-forward give is normed before it is added. */
  readonly hasPostNorms?: boolean
  /** Of the gate. Default silu. */
  readonly activation?: Activation
}

/** Matrices that are rows of one tensor, one after the other. */
function rowsOf(name: string, rows: readonly number[]): RowRange[] {
  const fileRows = rows.reduce((sum, n) => sum + n, 0)
  return rows.map((_, i) => ({ name, firstRow: rows.slice(0, i).reduce((sum, n) => sum + n, 0), fileRows }))
}

export function buildDecoder(g: GraphBuilder, c: ModelConfig, variant: DecoderVariant): void {
  const { ropeMode, hasQkNorms = false, isFused = false, hasPostNorms = false, activation } = variant
  const [qRows, kvRows] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim]
  const bias = (name: string) => (g.weights.has(name) ? name : undefined)
  const matrices = (blk: string, fused: string, names: readonly string[], rows: readonly number[]) => {
    return isFused ? rowsOf(`${blk}${fused}.weight`, rows) : names.map((name) => `${blk}${name}.weight`)
  }
  /** x += W y, or the norm of W y. */
  const add = (y: Tensor, matrix: string, norm: string) => {
    if (!hasPostNorms) return g.matmulAdd(x, y, `${matrix}.weight`, bias(`${matrix}.bias`))
    const [z] = g.matmul(matrix, y, [{ name: `${matrix}.weight`, rows: c.dim }])
    g.rmsNormAdd(x, z!, `${norm}.weight`, c.normEps)
  }
  let x = g.embed("token_embd.weight", c.nVocab, c.dim, c.embeddingScale) // (tokens, dim)
  const table = ropeTables(g, c)
  for (let l = 0; l < c.nLayers; l++) {
    g.layer = l
    const blk = `blk.${l}.`
    const h = g.rmsNorm(x, `${blk}attn_norm.weight`, c.normEps)
    const names = ["attn_q", "attn_k", "attn_v"]
    const [wq, wk, wv] = matrices(blk, "attn_qkv", names, [qRows, kvRows, kvRows])
    const [q, k, v] = g.matmul("qkv", h, [
      { name: wq!, rows: qRows, bias: bias(`${blk}attn_q.bias`) },
      { name: wk!, rows: kvRows, bias: bias(`${blk}attn_k.bias`) },
      { name: wv!, rows: kvRows, bias: bias(`${blk}attn_v.bias`) },
    ])
    if (hasQkNorms) {
      g.normHeads(q!, `${blk}attn_q_norm.weight`, c.normEps, c.nHeads)
      g.normHeads(k!, `${blk}attn_k_norm.weight`, c.normEps, c.nKvHeads)
    }
    g.rope([q!, k!], table(l), c.headDim, ropeMode)
    g.kvAppend(k!, v!, c)
    let a = g.attention(q!, c, c.attentionScale, c.windows[l], c.attentionSoftcap) // (tokens, nHeads * headDim)
    if (l === c.nLayers - 1) {
      // Keys and values of all tokens are in the cache: what follows matters only for rows that need logits.
      x = g.gatherOutputs(x)
      a = g.gatherOutputs(a)
    }
    add(a, `${blk}attn_output`, `${blk}post_attention_norm`)
    const f = g.rmsNorm(x, `${blk}ffn_norm.weight`, c.normEps)
    if (c.experts !== undefined) addExperts(g, c.experts, blk, x, f)
    else {
      const [gate, up] = matrices(blk, "ffn_up", ["ffn_gate", "ffn_up"], [c.nFfn, c.nFfn])
      const u = g.gateUp(f, gate!, up!, c.nFfn, activation)
      add(u, `${blk}ffn_down`, `${blk}post_ffw_norm`)
    }
  }
  const y = g.rmsNorm(x, "output_norm.weight", c.normEps)
  const output = c.isTied ? "token_embd.weight" : "output.weight"
  g.logits(y, output, c.nVocab, c.logitSoftcap)
}
