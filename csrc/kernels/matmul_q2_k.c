/* matmul_q2_k.c: products of q2_k and q3_k (blocks of 256, sub-blocks of 16) with ACT_Q8_256 activations.
 *
 * Inside a block everything is an exact integer. q3_k's weights are w - 4, w in 0 .. 7: sum of scale * dot of w, plus
 * sum of scale * -4 * sum(q). The integers are below 2^31 by far: 16 * 15 * 16 * 3 * 127 = 1.5 M for q2_k,
 * 16 * 32 * 16 * (7 + 4) * 127 = 11.4 M for q3_k; -4 * sum(q) of 16 inputs fits int16 (8128). Between blocks a row's
 * sum is
 *   q2_k   sum = fma(minima, dmin_w * d_a, fma(total, d_w * d_a, sum))      minima = sum of minimum * -sum(q)
 *   q3_k   sum = fma(total, d_w * d_a, sum)
 * in block order. Compiled once per level.
 */
#include "matmul_k_panel.h"

/* Inputs 4f .. 4f + 3 of 32 out of q2_k's two lines (layout.h). */
SIMD_INLINE bv q2_k_inputs(const uint8_t *x, int f) {
    const bv low = bv_set1(3), line = bv_load(x + LINE * (f / 4));
    switch (f % 4) {
    case 0: return bv_and(line, low);
    case 1: return bv_and(bv_shr(line, 2), low);
    case 2: return bv_and(bv_shr(line, 4), low);
    default: return bv_and(bv_shr(line, 6), low);
    }
}

/* Inputs 4f .. 4f + 3 of 32 out of q3_k's three lines, each 4 more than the weight. */
SIMD_INLINE bv q3_k_inputs(const uint8_t *x, int f) {
    const bv low = bv_set1(7);
    if (f < 6) {
        bv line = bv_load(x + LINE * (f / 2));
        return f % 2 == 0 ? bv_and(line, low) : bv_and(bv_shr(line, 3), low);
    }
    bv top = bv_load(x + 2 * LINE);
    top = bv_and(f == 6 ? bv_shr(top, 4) : bv_shr(top, 5), bv_set1(4));
    return bv_or(bv_and(bv_shr(bv_load(x + LINE * (f - 6)), 6), bv_set1(3)), top);
}

/* A sub-block of 16 inputs: fields `first` to first + 3 of q2_k's or q3_k's lines for 32 inputs. */
SIMD_INLINE void sub_block(iv *totals, int bits, int first, iv scale, const uint8_t *lines, const uint8_t *act,
                           size_t stride, int n) {
    dot4 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot4_start(NULL);
    UNROLL
    for (int f = first; f < first + 4; f++) {
        if (LANES == 8) SIMD_FORGET;
        bv w = bits == 2 ? q2_k_inputs(lines, f) : q3_k_inputs(lines, f);
        UNROLL
        for (int c = 0; c < n; c++) dots[c] = dot4_add(dots[c], w, av_load(act + (size_t)c * stride + 4 * f));
    }
    UNROLL
    for (int c = 0; c < n; c++) totals[c] = dot4_scaled(totals[c], dots[c], scale);
}

/* Four sub-blocks, whose scales are the bytes of `scales` less `minus`. */
SIMD_INLINE void sub_blocks(iv *totals, int bits, bv scales, int minus, const uint8_t *lines, const uint8_t *act,
                            size_t stride, int n) {
    UNROLL
    for (int j = 0; j < 4; j++) {
        sub_block(totals, bits, j % 2 * 4, dot4_scale(scales, j, minus), lines + LINE * bits * (j / 2), act + 32 * (j / 2),
                  stride, n);
    }
}

/* totals += sum of coefficient * offset over sub-blocks of 16. The coefficients of sub-blocks 4t .. 4t + 3 are the bytes
 * of coefficients[t] less `minus`; offset: -sum(q) with two bits, -4 * sum(q) with three. */
SIMD_INLINE void add_offsets(iv *totals, int bits, const bv *coefficients, int minus, const uint8_t *act, size_t stride,
                             int n) {
    int16_t sums[TILE_COLS][16];
    UNROLL
    for (int c = 0; c < n; c++) {
        /* Two of 8 inputs make one of 16. */
        i32x16 eights = i32x16_loadu((const int32_t *)(const void *)act_at(act, stride, c)->minus32);
        i32x16 minus32 = i32x16_add(i32x16_shr(i32x16_shl(eights, 16), 16), i32x16_shr(eights, 16));
        i32x16_store_i16(sums[c], i32x16_shr(minus32, bits == 2 ? 5 : 3));
    }
    UNROLL
    for (int p = 0; p < 8; p++) { /* sub-blocks 2p and 2p + 1 */
        iv pairs = iv_sub_pairs(iv_pick_pairs(coefficients[p / 2], p % 2 * 2, p % 2 * 2 + 1), minus);
        UNROLL
        for (int c = 0; c < n; c++) totals[c] = iv_dot_pairs(totals[c], pairs, sums[c] + 2 * p);
    }
}

/* One record, LANES rows from half h on. */
SIMD_INLINE void q2_k_record(float *sums, const uint8_t *record, int h, const uint8_t *act, size_t stride, int n,
                             int prefetch) {
    const bv low = bv_set1(15);
    const uint8_t *scales = record + LINE + 4 * LANES * h, *lines = scales + 4 * LINE, *a = act;
    iv totals[TILE_COLS];
    zero_totals(totals, n);
    if (prefetch) prefetch_lines(record + PREFETCH_AHEAD, 5 * LINE);
    ROLLED
    for (int t = 0; t < 4; t++, lines += 4 * LINE, a += 64) {
        bv scale = bv_and(bv_load(scales + LINE * t), low);
        if (prefetch) prefetch_lines(lines + PREFETCH_AHEAD, 4 * LINE);
        sub_blocks(totals, 2, scale, 0, lines, a, stride, n);
    }
    add_scaled(sums, totals, fv_load_f16(record + 2 * LANES * h), act, stride, n);
    zero_totals(totals, n);
    bv minima[4];
    UNROLL
    for (int t = 0; t < 4; t++) minima[t] = bv_and(bv_shr(bv_load(scales + LINE * t), 4), low);
    add_offsets(totals, 2, minima, 0, act, stride, n);
    add_scaled(sums, totals, fv_load_f16(record + 32 + 2 * LANES * h), act, stride, n);
}

/* The scales of sub-blocks 4t .. 4t + 3 of q3_k, each 32 more than it is, from three lines (layout.h). */
SIMD_INLINE void q3_k_scales(bv *scales, const uint8_t *lines) {
    const bv low = bv_set1(15), high = bv_set1(0x30);
    const bv x = bv_load(lines), y = bv_load(lines + LINE), tops = bv_load(lines + 2 * LINE);
    scales[0] = bv_or(bv_and(x, low), bv_and(bv_shl(tops, 4), high));
    scales[1] = bv_or(bv_and(y, low), bv_and(bv_shl(tops, 2), high));
    scales[2] = bv_or(bv_and(bv_shr(x, 4), low), bv_and(tops, high));
    scales[3] = bv_or(bv_and(bv_shr(y, 4), low), bv_and(bv_shr(tops, 2), high));
}

/* One record, LANES rows from half h on; d: their scales. */
SIMD_INLINE void q3_k_record(float *sums, const uint8_t *record, const uint8_t *d, int h, const uint8_t *act,
                             size_t stride, int n, int prefetch) {
    const uint8_t *lines = record + 4 * LANES * h, *a = act;
    bv scales[4];
    iv totals[TILE_COLS];
    if (prefetch) prefetch_lines(record + PREFETCH_AHEAD, 3 * LINE);
    q3_k_scales(scales, lines);
    zero_totals(totals, n);
    add_offsets(totals, 3, scales, 32, act, stride, n);
    lines += 3 * LINE;
    ROLLED
    for (int t = 0; t < 4; t++, lines += 6 * LINE, a += 64) {
        if (prefetch) prefetch_lines(lines + PREFETCH_AHEAD, 6 * LINE);
        sub_blocks(totals, 3, scales[t], 32, lines, a, stride, n);
    }
    add_scaled(sums, totals, fv_load_f16(d + 2 * LANES * h), act, stride, n);
}

K_TILE(q2_k, Q2_K_RECORD)
K_TILE_WITH_HEADER(q3_k, Q3_K_RECORD)

MATMUL_SLOTS(q2_k, ASDSL_Q2_K, TILES_BITS)

MATMUL_TILES(q3_k, TILES_BITS)

#if HAS_K_PANELS
/* With integer dots panels of 8 and 12 columns were slower, those of 14 and more 2 to 16 % faster (level avxvnni,
 * 2048x2048 and 1536x8960, 2 threads of Emerald Rapids, seen once). */
enum { Q3_K_PANELS_FROM = DOT6_STEPS == 2 ? 13 : PANELS_FROM };
SIMD_INLINE void q3_k_unpack(const uint8_t *record, const uint8_t *d, int h, struct k_panel *panel) {
    const uint8_t *lines = record + 4 * LANES * h;
    bv scales[4];
    fv_store(panel->d + LANES * h, fv_load_f16(d + 2 * LANES * h));
    q3_k_scales(scales, lines);
    lines += 3 * LINE;
    ROLLED
    for (int t = 0; t < 4; t++) {
        UNROLL
        for (int j = 0; j < 4; j++) *panel_line(panel->scales[4 * t + j], h) = dot4_scale(scales[t], j, 32);
        for (int i = 0; i < 2; i++, lines += 3 * LINE) {
            UNROLL
            for (int f = 0; f < 8; f++) *panel_line(panel->weights[16 * t + 8 * i + f], h) = q3_k_inputs(lines, f);
        }
    }
}
K_PANELS(q3_k, ASDSL_Q3_K, Q3_K_RECORD, true, Q3_K_PANELS_FROM, DOT6_STEPS, 4, false)
#else
MATMUL_GEMV(q3_k, ASDSL_Q3_K)
MATMUL_GEMM(q3_k, ASDSL_Q3_K)
#endif
