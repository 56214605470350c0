/* matmul_q4.c: products of weights in blocks of 32 (q4_0, q4_1, q8_0) with ACT_Q8_32 activations.
 *
 * Inside a block the dot is an exact integer; between blocks a row's sum is
 *   q4_0, q8_0   sum = fma(dot, d_w * d_a, sum)
 *   q4_1         sum = fma(m_w, s_a, fma(dot, d_w * d_a, sum))
 * in block order. Compiled once per level.
 */
#include "matmul_32_panel.h"

/* Four lines of nibbles against n columns. */
SIMD_INLINE void dot_nibbles(dot4 *dots, const uint8_t *lines, const uint8_t *act, size_t stride, int n) {
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + LINE * l), low = bv_and(x, bv_set1(15)), high = bv_and(bv_shr(x, 4), bv_set1(15));
        UNROLL
        for (int c = 0; c < n; c++) dots[c] = dot4_add(dots[c], low, av_load(act + (size_t)c * stride + 4 * l));
        UNROLL
        for (int c = 0; c < n; c++) {
            dots[c] = dot4_add(dots[c], high, av_load(act + (size_t)c * stride + 16 + 4 * l));
        }
    }
}

/* One block, LANES rows, n columns. scales: f16 of the rows; lines: their quants. */
SIMD_INLINE void q4_1_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                            int n) {
    dot4 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot4_start(NULL);
    dot_nibbles(dots, lines, act, stride, n);
    fv d = fv_load_f16(scales), m = fv_load_f16(scales + 32);
    UNROLL
    for (int c = 0; c < n; c++) {
        const uint8_t *a = act + (size_t)c * stride;
        sums[c] = fv_fma(fv_from_i32(dot4_sum(dots[c], NULL)), fv_mul(d, set1_at(a + AT_D)), sums[c]);
        sums[c] = fv_fma(m, set1_at(a + AT_S), sums[c]);
    }
}

SIMD_INLINE void q4_0_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                            int n) {
    dot4 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot4_start(i32_at(act + (size_t)c * stride + AT_MINUS8));
    dot_nibbles(dots, lines, act, stride, n);
    fv d = fv_load_f16(scales);
    UNROLL
    for (int c = 0; c < n; c++) {
        const uint8_t *a = act + (size_t)c * stride;
        iv dot = dot4_sum(dots[c], i32_at(a + AT_MINUS8));
        sums[c] = fv_fma(fv_from_i32(dot), fv_mul(d, set1_at(a + AT_D)), sums[c]);
    }
}

SIMD_INLINE void q8_0_block(fv *sums, const uint8_t *scales, const uint8_t *lines, const uint8_t *act, size_t stride,
                            int n) {
    dot8 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot8_start(i32_at(act + (size_t)c * stride + AT_MINUS128));
    UNROLL
    for (int l = 0; l < 8; l++) {
        w8 w = w8_load(lines + LINE * l);
        if (n > 3) SIMD_FORGET;
        UNROLL
        for (int c = 0; c < n; c++) dots[c] = dot8_add(dots[c], w, av_load(act + (size_t)c * stride + 4 * l));
    }
    fv d = fv_load_f16(scales);
    UNROLL
    for (int c = 0; c < n; c++) {
        fv scale = fv_mul(d, set1_at(act + (size_t)c * stride + AT_D));
        sums[c] = fv_fma(fv_from_i32(dot8_sum(dots[c])), scale, sums[c]);
    }
}

BODY(q4_0, PAIRS(q4_0, Q4_0_PAIR, 4))
BODY(q4_1, SINGLES(q4_1, Q4_1_RECORD, 4))
BODY(q8_0, PAIRS(q8_0, Q8_0_PAIR, 8))

TILE_OF_BODY(q4_0)
TILE_OF_BODY(q4_1)
TILE_OF_BODY(q8_0)

#if HAS_PANELS
SIMD_INLINE void nibbles_unpack(const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + LINE * l), low = bv_set1(15);
        *panel_line(weights[l], h) = bv_and(x, low);
        *panel_line(weights[4 + l], h) = bv_and(bv_shr(x, 4), low);
    }
}
SIMD_INLINE void bytes_unpack(const uint8_t *lines, int h, uint8_t (*weights)[LINE]) {
    UNROLL
    for (int l = 0; l < 8; l++) *panel_line(weights[l], h) = bv_load(lines + LINE * l);
}
MATMUL_TILES(q4_0, TILES_NIBBLES)
MATMUL_TILES(q4_1, TILES_NIBBLES)
MATMUL_TILES(q8_0, TILES_BYTES)
PANELS_32(q4_0, ASDSL_Q4_0, Q4_0_PAIR, 2, 4, nibbles_unpack, 4, 8, 1.0f, false)
PANEL_SLOTS(q4_0, ASDSL_Q4_0, PANELS_FROM)
PANELS_32(q4_1, ASDSL_Q4_1, Q4_1_RECORD, 1, 4, nibbles_unpack, 4, 0, 1.0f, true)
PANEL_SLOTS(q4_1, ASDSL_Q4_1, PANELS_FROM)
PANELS_32(q8_0, ASDSL_Q8_0, Q8_0_PAIR, 2, 8, bytes_unpack, 8, 0, 1.0f, false)
PANEL_SLOTS(q8_0, ASDSL_Q8_0, PANELS_FROM)
#else
MATMUL_SLOTS(q4_0, ASDSL_Q4_0, TILES_NIBBLES)
MATMUL_SLOTS(q4_1, ASDSL_Q4_1, TILES_NIBBLES)
MATMUL_SLOTS(q8_0, ASDSL_Q8_0, TILES_BYTES)
#endif
