/* matmul_q5.c: products of 5-bit weights in blocks of 32 (q5_0, q5_1) with ACT_Q8_32 activations.
 *
 * Inside a block the dot is an exact integer; between blocks a row's sum is
 *   q5_0   sum = fma(dot, d_w * d_a, sum)
 *   q5_1   sum = fma(m_w, s_a, fma(dot, d_w * d_a, sum))
 * in block order. Compiled once per level.
 */
#include "matmul_32_panel.h"

/* Line l's fifth bits of low and of high nibbles at bit 4, where they belong; what else is in the byte goes later. */
SIMD_INLINE bv tops_of_low(bv tops, int l) {
    if (l == 0) return bv_shl(tops, 4);
    if (l == 1) return bv_shl(tops, 3);
    return l == 2 ? bv_shl(tops, 2) : bv_shl(tops, 1);
}
SIMD_INLINE bv tops_of_high(bv tops, int l) {
    if (l == 0) return tops;
    if (l == 1) return bv_shr(tops, 1);
    return l == 2 ? bv_shr(tops, 2) : bv_shr(tops, 3);
}

/* Inputs 4l .. 4l + 3 and 16 + 4l .. 16 + 4l + 3 out of a line of fifth bits and four of nibbles. */
struct fives {
    bv low, high;
};
SIMD_INLINE struct fives fives_load(const uint8_t *lines, int l) {
    const bv nibble = bv_set1(15), fifth = bv_set1(16), x = bv_load(lines + LINE + LINE * l), tops = bv_load(lines);
    return (struct fives){bv_or(bv_and(x, nibble), bv_and(tops_of_low(tops, l), fifth)),
                          bv_or(bv_and(bv_shr(x, 4), nibble), bv_and(tops_of_high(tops, l), fifth))};
}

/* A line of fifth bits and four of nibbles against n columns. The fifth bits are loaded anew for each line of nibbles:
 * dearer in loads, but they need no register while the columns go by. */
SIMD_INLINE void dot_fives(dot5 *dots, const uint8_t *lines, const uint8_t *act, size_t stride, int n) {
    UNROLL
    for (int l = 0; l < 4; l++) {
        const struct fives x = fives_load(lines, l);
        UNROLL
        for (int c = 0; c < n; c++) dots[c] = dot5_add(dots[c], x.low, av_load(act + (size_t)c * stride + 4 * l));
        UNROLL
        for (int c = 0; c < n; c++) {
            dots[c] = dot5_add(dots[c], x.high, av_load(act + (size_t)c * stride + 16 + 4 * l));
        }
        UNROLL
        for (int c = 0; c < n && l % 2; c++) dots[c] = dot5_widen(dots[c]);
    }
}

/* One block, LANES rows, n columns. scales: f16 of the rows; lines: their fifth bits and nibbles. */
SIMD_INLINE void q5_0_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                            int n) {
    dot5 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot5_start(i32_at(act + (size_t)c * stride + AT_MINUS8));
    dot_fives(dots, lines, act, stride, n);
    fv d = fv_load_f16(scales);
    UNROLL
    for (int c = 0; c < n; c++) {
        const uint8_t *a = act + (size_t)c * stride;
        iv dot = dot5_sum(dots[c], i32_at(a + AT_MINUS8));
        sums[c] = fv_fma(fv_from_i32(dot), fv_mul(d, set1_at(a + AT_D)), sums[c]);
    }
}

SIMD_INLINE void q5_1_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                            int n) {
    dot5 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot5_start(NULL);
    dot_fives(dots, lines, act, stride, n);
    fv d = fv_load_f16(scales), m = fv_load_f16(scales + 32);
    UNROLL
    for (int c = 0; c < n; c++) {
        const uint8_t *a = act + (size_t)c * stride;
        sums[c] = fv_fma(fv_from_i32(dot5_sum(dots[c], NULL)), fv_mul(d, set1_at(a + AT_D)), sums[c]);
        sums[c] = fv_fma(m, set1_at(a + AT_S), sums[c]);
    }
}

BODY(q5_0, PAIRS(q5_0, Q5_0_PAIR, 5))
BODY(q5_1, SINGLES(q5_1, Q5_1_RECORD, 5))

TILE_OF_BODY(q5_0)
TILE_OF_BODY(q5_1)

#if HAS_PANELS
SIMD_INLINE void fives_unpack(const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    UNROLL
    for (int l = 0; l < 4; l++) {
        const struct fives x = fives_load(lines, l);
        *panel_line(weights[l], h) = x.low;
        *panel_line(weights[4 + l], h) = x.high;
    }
}
MATMUL_TILES(q5_0, TILES_NIBBLES)
MATMUL_TILES(q5_1, TILES_NIBBLES)
PANELS_32(q5_0, ASDSL_Q5_0, Q5_0_PAIR, 2, 5, fives_unpack, 5, 16, 1.0f, false)
PANEL_SLOTS(q5_0, ASDSL_Q5_0, PANELS_FROM)
PANELS_32(q5_1, ASDSL_Q5_1, Q5_1_RECORD, 1, 5, fives_unpack, 5, 0, 1.0f, true)
PANEL_SLOTS(q5_1, ASDSL_Q5_1, PANELS_FROM)
#else
MATMUL_SLOTS(q5_0, ASDSL_Q5_0, TILES_NIBBLES)
MATMUL_SLOTS(q5_1, ASDSL_Q5_1, TILES_NIBBLES)
#endif
