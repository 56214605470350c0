/* matmul_iq4.c: products of weights that a table has for their nibbles (iq4_nl) with ACT_Q8_32 activations.
 *
 * Inside a block of 32 the dot is an exact integer; between blocks a row's sum is
 *   iq4_nl   sum = fma(dot, d_w * d_a, sum)
 * in block order. The table's values take 8 bits and a sign: past the lookup this is q8_0. Where that takes two
 * multiplications, gemm_rounded makes do with one and a half, of the table rounded to 6 bits. Compiled once per level.
 */
#include "matmul_32_panel.h"

/* One block, LANES rows, n columns. scales: f16 of the rows; lines: their indices into iq4_nl_values. */
SIMD_INLINE void iq4_nl_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                              int n) {
    const bv nibble = bv_set1(15);
    dot8 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot8_start(i32_at(act + (size_t)c * stride + AT_MINUS128));
    UNROLL
    for (int i = 0; i < 8; i++) { /* inputs 4l .. 4l + 3 of the low nibbles, then of the high ones */
        const int l = i / 2, high = i % 2;
        bv x = bv_load(lines + LINE * l);
        w8 w = w8_lookup(iq4_nl_values, bv_and(high ? bv_shr(x, 4) : x, nibble));
        UNROLL
        for (int c = 0; c < n; c++) {
            dots[c] = dot8_add(dots[c], w, av_load(act + (size_t)c * stride + 16 * high + 4 * l));
        }
    }
    fv d = fv_load_f16(scales);
    UNROLL
    for (int c = 0; c < n; c++) {
        fv scale = fv_mul(d, set1_at(act + (size_t)c * stride + AT_D));
        sums[c] = fv_fma(fv_from_i32(dot8_sum(dots[c])), scale, sums[c]);
    }
}

BODY(iq4_nl, PAIRS(iq4_nl, IQ4_NL_PAIR, 4))

TILE_OF_BODY(iq4_nl)

#if HAS_PANELS
SIMD_INLINE void iq4_unpack(const int8_t *table, const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + LINE * l), low = bv_set1(15);
        *panel_line(weights[l], h) = w8_lookup(table, bv_and(x, low)).w;
        *panel_line(weights[4 + l], h) = w8_lookup(table, bv_and(bv_shr(x, 4), low)).w;
    }
}
SIMD_INLINE void iq4_nl_unpack(const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    iq4_unpack(iq4_nl_values, lines, h, weights);
}
SIMD_INLINE void iq4_nl_rounded_unpack(const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    iq4_unpack(iq4_nl_rounded, lines, h, weights);
}

MATMUL_TILES(iq4_nl, TILES_BYTES)
PANELS_32(iq4_nl, ASDSL_IQ4_NL, IQ4_NL_PAIR, 2, 4, iq4_nl_unpack, 8, 0, 1.0f, false)
PANEL_SLOTS(iq4_nl, ASDSL_IQ4_NL, PANELS_FROM)

PANELS_32(iq4_nl_rounded, ASDSL_IQ4_NL, IQ4_NL_PAIR, 2, 4, iq4_nl_rounded_unpack, 6, IQ4_NL_ZERO, IQ4_NL_STEP, false)
matmul_fn KERNEL(iq4_nl_gemm_rounded);
void KERNEL(iq4_nl_gemm_rounded)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {
    iq4_nl_rounded_panel_job(job, begin, end, scratch);
}
#else
MATMUL_SLOTS(iq4_nl, ASDSL_IQ4_NL, TILES_BYTES)
#endif
