// Mixtures of experts: their metadata, and the feed-forward that they are in place of. A router gives each token a logit
// for every expert; the token goes through those with the largest and their results are added by weight.

import { FormatError, UnsupportedError } from "../errors.ts"
import type { GraphBuilder } from "../graph.ts"
import type { Tensor } from "../tensors.ts"
import { type Experts, MAX_DIM, MAX_EXPERTS, type Metadata } from "./config.ts"

/** GGUF's number of the gating function softmax over all experts: enum llama_expert_gating_func_type. */
const SOFTMAX = 1

/** Reads the metadata of the experts. nFfn: of the whole, of which an expert has its part where the file does not say. */
export function expertsConfig(m: Metadata, nFfn: number, isNormalised: boolean): Experts {
  const nExperts = m.integer("expert_count", 1, MAX_EXPERTS)
  const nUsed = m.integer("expert_used_count", 1, MAX_EXPERTS)
  if (nUsed > nExperts) {
    throw new FormatError(`${m.arch}: expert_used_count is ${nUsed}, expert_count only ${nExperts}`)
  }
  const gating = m.integer("expert_gating_func", 0, 255, SOFTMAX)
  if (gating !== SOFTMAX) {
    throw new UnsupportedError(`${m.arch}.expert_gating_func ${gating} is not supported; known: ${SOFTMAX} (softmax)`)
  }
  for (const key of ["expert_shared_count", "leading_dense_block_count", "expert_group_count"]) {
    const n = m.integer(key, 0, MAX_DIM, 0)
    if (n > 0) throw new UnsupportedError(`${m.arch}.${key} is ${n}; only models without are supported`)
  }
  const scale = m.number("expert_weights_scale", 0, 1e6, 1)
  return {
    nExperts,
    nUsed,
    nFfn: m.integer("expert_feed_forward_length", 1, MAX_DIM, Math.floor(nFfn / nUsed)),
    isNormalised: m.boolean("expert_weights_norm", isNormalised),
    scale: scale === 0 ? 1 : scale, // 0 stands for "none" in files
  }
}

/** x += what the experts of each row make of it; `f` is x as the router and the experts see it. */
export function addExperts(g: GraphBuilder, e: Experts, blk: string, x: Tensor, f: Tensor): void {
  const [logits] = g.matmul("router", f, [{ name: `${blk}ffn_gate_inp.weight`, rows: e.nExperts }])
  const route = g.moeRoute(logits!, e)
  const u = g.moeGateUp(f, route, `${blk}ffn_gate_exps.weight`, `${blk}ffn_up_exps.weight`, e.nFfn)
  const y = g.moeDown(u, route, `${blk}ffn_down_exps.weight`, x.cols)
  g.moeCombine(x, y, route)
}
