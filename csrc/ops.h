/* ops.h: the one list of operations. The enum, the names, asdsl_describe() and the table of validators and
 * runners (program.c) all derive from ASDSL_OPS; src/native/abi.ts mirrors it and a test compares the two.
 *
 * Rows: an operation runs over R rows, R = n_tokens, or n_outputs with the flag ASDSL_ROWS_OUTPUTS.
 * "act" is an activation operand in one of the ACT types; "f32" a row-major float matrix with a stride.
 *
 *   X(CODE, name, "operand roles in order", "integers", "floats")
 *
 * embed     out f32 (R, dim); table weights (vocab, dim) of any weight type, INTERLEAVED or ROWS. Gathers, dequantises
 *           and multiplies by scale.
 * rms_norm  in f32 (R, dim); weight F32 (1, dim); any of out f32, out ACT_Q8_32, out ACT_Q8_256 (absent: NO_BUFFER).
 *           y = x / sqrt(mean(x^2) + eps) * weight, the mean in the canonical 16-lane order. heads > 1: norms each of
 *           `heads` equal parts of a row by itself with a weight of dim / heads (q/k norms).
 * rms_norm_add  out f32 (R, dim) += x / sqrt(mean(x^2) + eps) * weight; in f32 (R, dim); weight F32 (1, dim).
 * quantize  in f32 (R, k); any of out ACT_Q8_32, out ACT_Q8_256. slots > 1: R * slots rows, see moe_gate_up.
 * matmul    out f32 (R, sum of rows); in act (R, k); w0 [w1 [w2]] INTERLEAVED (rows, k), outputs side by side in
 *           order; optional bias F32 (1, rows) each. All weights take the activation type of `in`.
 *           softcap > 0: out = softcap * tanh(y / softcap).
 * matmul_add  as matmul with one weight: out += W in (+ bias).
 * gate_up   out f32 (R, ffn); in act; gate, up INTERLEAVED (ffn, k): out = f(gate in) * (up in).
 *           activation 0: f = silu; 1: f = gelu in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
 * moe_route  in f32 (R, n_experts), logits of the router; experts I32 (R, n_used): the largest logits, descending,
 *           ties by lower id; weights f32 (R, n_used): scale * softmax, over all experts or (normalise 1) over those
 *           chosen.
 * moe_gate_up  out f32 (R * n_used, ffn); in act (R, k); experts I32 (R, n_used); gate, up: n_experts matrices
 *           INTERLEAVED (ffn, k) one after the other: silu(gate in) * (up in) of every row by each of its experts. A
 *           slot is a row at one of its experts; the R * n_used rows of `out` are slots in the order of (expert, row,
 *           place among the row's experts), so that what one expert works on lies together. An id that is none counts
 *           as 0.
 * moe_down  out f32 (R * n_used, dim); in act (R * n_used, ffn), slots; experts; down: n_experts matrices (dim, ffn).
 * moe_combine  x f32 (R, dim) += sum over the row's experts, as they stand in `experts`, of weight * slot; in f32
 *           (R * n_used, dim), slots; weights f32 (R, n_used).
 * rope_table  out f32 (R, n_rot): pairs (cos, sin) of (position + row) * inv_freq[j]; inv_freq F32 (1, n_rot / 2).
 *           magnitude multiplies both.
 * rope      in place on x f32 (R, cols), heads_offset in floats from the row's start, `heads` heads of head_dim,
 *           the first n_rot of each rotated; table from rope_table. mode 0: pairs (2j, 2j+1); 1: (j, j + n_rot/2).
 * kv_append k f32 (R, n_kv_heads * head_dim), v likewise: into layer `layer` at position + row.
 * attention q f32 (R, n_heads * head_dim); out f32 likewise. Causal over keys 0 .. position + row, softmax of
 *           scale * q.k; window > 0: only the last `window` keys; softcap > 0: scores = softcap * tanh(s / softcap).
 * gather_outputs  out f32 (n_outputs, dim) = rows outputs[] of in f32 (n_tokens, dim).
 * top_k     in f32 logits (n_outputs, n_vocab): fills stats and candidates of the parameter block.
 */
#ifndef ASDSL_OPS_H
#define ASDSL_OPS_H

#define ASDSL_OPS(X)                                                                                                   \
    X(EMBED, embed, "out table", "", "scale")                                                                          \
    X(RMS_NORM, rms_norm, "in weight out_f32 out_q8_32 out_q8_256", "heads", "eps")                                    \
    X(RMS_NORM_ADD, rms_norm_add, "out in weight", "", "eps")                                                          \
    X(QUANTIZE, quantize, "in out_q8_32 out_q8_256", "slots", "")                                                      \
    X(MATMUL, matmul, "out in w0 w1 w2 bias0 bias1 bias2", "", "softcap")                                              \
    X(MATMUL_ADD, matmul_add, "out in w0 - - bias0", "", "")                                                           \
    X(GATE_UP, gate_up, "out in gate up", "activation", "")                                                            \
    X(MOE_ROUTE, moe_route, "in experts weights", "normalise", "scale")                                                \
    X(MOE_GATE_UP, moe_gate_up, "out in experts gate up", "n_experts", "")                                             \
    X(MOE_DOWN, moe_down, "out in experts down", "n_experts", "")                                                      \
    X(MOE_COMBINE, moe_combine, "x in experts weights", "n_experts", "")                                               \
    X(ROPE_TABLE, rope_table, "out inv_freq", "", "magnitude")                                                         \
    X(ROPE, rope, "x table", "heads_offset heads head_dim n_rot mode", "")                                             \
    X(KV_APPEND, kv_append, "k v", "n_kv_heads head_dim", "")                                                          \
    X(ATTENTION, attention, "q out", "n_heads n_kv_heads head_dim window", "scale softcap")                            \
    X(GATHER_OUTPUTS, gather_outputs, "out in", "", "")                                                                \
    X(TOP_K, top_k, "in", "", "")

enum asdsl_op_code {
#define X(CODE, name, operands, ints, floats) ASDSL_OP_##CODE,
    ASDSL_OPS(X)
#undef X
        ASDSL_OP_COUNT
};

#endif
