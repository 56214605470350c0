/* table.c: the slots of each level gathered into one table. What a CPU may run is cpu.c's to say.
 *
 * A slot `x` of level L is the function x_L (KERNEL(x) in its source, or x_reference); its type says its signature.
 */
#include "kernels.h"

/* X(asdsl_type, name). Types that level avx2 multiplies in panels (matmul_panel.h) with one multiplication for
 * 32 weights and a few more, where 8 bits take two; those that it does when it rounds them; and the others. */
#define PANEL_TYPES(X, L)                                                                                              \
    X(ASDSL_Q4_0, q4_0, L)                                                                                             \
    X(ASDSL_Q4_1, q4_1, L)                                                                                             \
    X(ASDSL_Q5_0, q5_0, L)                                                                                             \
    X(ASDSL_Q5_1, q5_1, L)                                                                                             \
    X(ASDSL_Q3_K, q3_k, L)                                                                                             \
    X(ASDSL_Q4_K, q4_k, L)                                                                                             \
    X(ASDSL_Q5_K, q5_k, L)                                                                                             \
    X(ASDSL_Q6_K, q6_k, L)
#define OTHER_TYPES(X, L)                                                                                              \
    X(ASDSL_F32, f32, L)                                                                                               \
    X(ASDSL_F16, f16, L)                                                                                               \
    X(ASDSL_BF16, bf16, L)                                                                                             \
    X(ASDSL_Q8_0, q8_0, L)                                                                                             \
    X(ASDSL_Q2_K, q2_k, L)                                                                                             \
    X(ASDSL_IQ4_XS, iq4_xs, L)
#define ROUNDED_TYPES(X, L) X(ASDSL_IQ4_NL, iq4_nl, L)
#define NO_TYPES(X, L)
#define WEIGHT_TYPES(X, L)                                                                                             \
    PANEL_TYPES(X, L)                                                                                                  \
    ROUNDED_TYPES(X, L)                                                                                                \
    OTHER_TYPES(X, L)

/* Types with a gemm_fast. At level avx2 the exact products of PANEL_TYPES are faster than it. Prompts of 512 tokens, 2
 * threads of Zen 3, tokens/s of fast and exact by turns, medians of 3: q4_0 831 1107, q5_0 768 1000, q5_1 883 961, q8_0
 * 778 667 (SmolLM2 135M); of 2: q4_1 746 958, q5_k 100 117 (Qwen2.5 1.5B); q3_k, GMAC/s of its products, 200 tokens,
 * medians of 3: 115 130. Seen once. */
#define FAST_TYPES_reference WEIGHT_TYPES
#define FAST_TYPES_portable WEIGHT_TYPES
#define FAST_TYPES_avx2 OTHER_TYPES
#define FAST_TYPES_avxvnni WEIGHT_TYPES
#define FAST_TYPES_avx512 WEIGHT_TYPES
#define FAST_TYPES_neon WEIGHT_TYPES

/* Types with a gemm_rounded: where an instruction takes 8 bits and a sign at once there is nothing to win. iq4_nl,
 * prompts of 52 and 512 tokens, 2 threads of Zen 3, tokens/s of exact and rounded by turns, medians of 3: 246 297, 269
 * 350 (a draft model of Qwen2.5 0.5B, seen once); strips (gemm_fast) had 316 of 512. */
#define ROUNDED_TYPES_reference ROUNDED_TYPES
#define ROUNDED_TYPES_portable NO_TYPES
#define ROUNDED_TYPES_avx2 ROUNDED_TYPES
#define ROUNDED_TYPES_avxvnni NO_TYPES
#define ROUNDED_TYPES_avx512 NO_TYPES
#define ROUNDED_TYPES_neon NO_TYPES

/* What quantising makes. X(asdsl_type, name) */
#define ENCODED_TYPES(X, L)                                                                                            \
    X(ASDSL_F32, f32, L)                                                                                               \
    X(ASDSL_F16, f16, L)                                                                                               \
    X(ASDSL_BF16, bf16, L)                                                                                             \
    X(ASDSL_Q4_0, q4_0, L)                                                                                             \
    X(ASDSL_Q4_1, q4_1, L)                                                                                             \
    X(ASDSL_Q5_0, q5_0, L)                                                                                             \
    X(ASDSL_Q5_1, q5_1, L)                                                                                             \
    X(ASDSL_Q8_0, q8_0, L)                                                                                             \
    X(ASDSL_IQ4_NL, iq4_nl, L)                                                                                         \
    X(ASDSL_Q4_K, q4_k, L)                                                                                             \
    X(ASDSL_Q5_K, q5_k, L)                                                                                             \
    X(ASDSL_Q3_K, q3_k, L)                                                                                             \
    X(ASDSL_Q6_K, q6_k, L)

/* X(function type, slot) */
#define ROW_SLOTS(X, L)                                                                                                \
    X(quantize_row_fn, quantize_q8_32, L)                                                                              \
    X(quantize_row_fn, quantize_q8_256, L)                                                                             \
    X(strips_fn, strips_f32, L)                                                                                        \
    X(strips_fn, strips_q8_32, L)                                                                                      \
    X(strips_fn, strips_q8_256, L)                                                                                     \
    X(rms_norm_fn, rms_norm, L)                                                                                        \
    X(rms_norm_fn, rms_norm_add, L)                                                                                    \
    X(rope_head_fn, rope_head, L)                                                                                      \
    X(attention_fn, attention_chunks, L)                                                                               \
    X(attention_fn, attention_merge, L)                                                                                \
    X(kv_append_fn, kv_append, L)                                                                                      \
    X(top_k_fn, top_k, L)                                                                                              \
    X(moe_route_fn, moe_route, L)                                                                                      \
    X(moe_combine_fn, moe_combine, L)                                                                                  \
    X(int8_peak_fn, int8_peak, L)

#define DECLARE_TYPE(TYPE, name, L)                                                                                    \
    matmul_fn name##_gemv_##L, name##_gemm_##L, name##_gemm_fast_##L, name##_gemm_rounded_##L;                         \
    gather_row_fn name##_gather_row_##L;
#define DECLARE_ENCODER(TYPE, name, L) encode_fn name##_encode_##L;
#define DECLARE_ROW(fn, slot, L) fn slot##_##L;
#define FILL_TYPE(TYPE, name, L)                                                                                       \
    [TYPE].gemv = name##_gemv_##L, [TYPE].gemv_name = #name ".gemv." #L, [TYPE].gemm = name##_gemm_##L,                \
    [TYPE].gemm_name = #name ".gemm." #L, [TYPE].gather_row = name##_gather_row_##L,                                   \
    [TYPE].gather_row_name = #name ".gather_row." #L,
#define FILL_FAST(TYPE, name, L)                                                                                       \
    [TYPE].gemm_fast = name##_gemm_fast_##L, [TYPE].gemm_fast_name = #name ".gemm_fast." #L,
#define FILL_ROUNDED(TYPE, name, L)                                                                                    \
    [TYPE].gemm_rounded = name##_gemm_rounded_##L, [TYPE].gemm_rounded_name = #name ".gemm_rounded." #L,
#define FILL_ENCODER(TYPE, name, L) [TYPE] = name##_encode_##L,
#define FILL_ROW(fn, slot, L) .slot = slot##_##L, .slot##_name = #slot "." #L,

#define ENCODERS(L)                                                                                                    \
    ENCODED_TYPES(DECLARE_ENCODER, L)                                                                                  \
    expand_fn expand_f16_##L;
/* E: the level whose encoders it has. */
#define LEVEL(L, E)                                                                                                    \
    WEIGHT_TYPES(DECLARE_TYPE, L)                                                                                      \
    ROW_SLOTS(DECLARE_ROW, L)                                                                                          \
    static const struct kernels table_##L = {                                                                          \
        .level = #L,                                                                                                   \
        .type = {WEIGHT_TYPES(FILL_TYPE, L) FAST_TYPES_##L(FILL_FAST, L) ROUNDED_TYPES_##L(FILL_ROUNDED, L)},          \
        .encode = {ENCODED_TYPES(FILL_ENCODER, E)},                                                                    \
        .expand_f16 = expand_f16_##E,                                                                                  \
        ROW_SLOTS(FILL_ROW, L)};

#define ENCODING_LEVEL(CODE, L)                                                                                        \
    ENCODERS(L)                                                                                                        \
    LEVEL(L, L)
#define CASE(CODE, L)                                                                                                  \
    case ASDSL_LEVEL_##CODE: return &table_##L;

/* ASDSL_LEVELS: the other levels of this build, from build.zig. X(asdsl_level, name) */
ENCODING_LEVEL(PORTABLE, portable)
LEVEL(reference, portable) /* what judges encoders is decoding, and it needs no table */
ASDSL_LEVELS(ENCODING_LEVEL)

const struct kernels *kernels_for(int32_t level) {
    switch (level) {
        CASE(PORTABLE, portable)
        CASE(REFERENCE, reference)
        ASDSL_LEVELS(CASE)
    default: return NULL;
    }
}
