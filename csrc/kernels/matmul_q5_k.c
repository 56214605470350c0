/* matmul_q5_k.c: products of q5_k with ACT_Q8_256 activations.
 *
 * q4_k's arithmetic (matmul_k.c) with weights 0 .. 31: the exact integer of a block is below 8 * 63 * 32 * 31 * 127 =
 * 63.5 M, and between blocks a row's sum is
 *   sum = fma(minima, dmin_w * d_a, fma(total, d_w * d_a, sum))      minima = sum of minimum * -sum(q)
 * Compiled once per level.
 */
#include "matmul_k_panel.h"

/* Inputs 4f .. 4f + 3 of a sub-block out of its five lines (layout.h). */
SIMD_INLINE bv q5_k_inputs(const uint8_t *x, int f) {
    const bv low = bv_set1(7), middle = bv_set1(0x18);
    switch (f) {
    case 2:
    case 5:
        x += LINE * (f - 2 - f / 5);
        return bv_or(bv_and(bv_shr(bv_load(x), 5), low), bv_and(bv_shr(bv_load(x + LINE), 2), middle));
    case 7: {
        bv bit3 = bv_and(bv_shr(bv_load(x + LINE), 4), bv_set1(8)), bit4 = bv_shr(bv_load(x + 3 * LINE), 3);
        bv top = bv_or(bit3, bv_and(bit4, bv_set1(16)));
        return bv_or(bv_and(bv_shr(bv_load(x + 4 * LINE), 5), low), top);
    }
    default: return bv_and(bv_load(x + LINE * (f - f / 3)), bv_set1(31));
    }
}

/* One sub-block of 32 inputs, 5 lines. */
SIMD_INLINE void q5_k_sub_block(iv *totals, iv scale, const uint8_t *lines, const uint8_t *act, size_t stride, int n) {
    dot5k dots[TILE_COLS];
    UNROLL
    for (int f = 0; f < 8; f++) {
        if (LANES == 8) SIMD_FORGET;
        bv w = q5_k_inputs(lines, f);
        UNROLL
        for (int c = 0; c < n; c++) {
            if (f % DOT5K_STEPS == 0) dots[c] = dot5k_zero();
            dots[c] = dot5k_add(dots[c], w, av_load(act + (size_t)c * stride + 4 * f));
            if ((f + 1) % DOT5K_STEPS == 0) totals[c] = dot5k_scaled(totals[c], dots[c], scale);
        }
    }
}

/* One record, LANES rows from half h on. */
SIMD_INLINE void q5_k_record(float *sums, const uint8_t *record, int h, const uint8_t *act, size_t stride, int n,
                             int prefetch) {
    const uint8_t *lines = record + 4 * LINE + 4 * LANES * h, *a = act;
    if (prefetch) prefetch_lines(record + PREFETCH_AHEAD, 4 * LINE);
    const struct scales_6bit s = scales_6bit_load(record + LINE + 4 * LANES * h);
    iv totals[TILE_COLS];
    zero_totals(totals, n);
    UNROLL
    for (int half = 0; half < 2; half++) {
        ROLLED
        for (int j = 0; j < 4; j++, lines += 5 * LINE, a += 32) {
            if (prefetch) prefetch_lines(lines + PREFETCH_AHEAD, 5 * LINE);
            q5_k_sub_block(totals, dot5k_scale(s.scale[half], j), lines, a, stride, n);
        }
    }
    add_scaled(sums, totals, fv_load_f16(record + 2 * LANES * h), act, stride, n);
    add_minima(sums, fv_load_f16(record + 32 + 2 * LANES * h), s.minimum, act, stride, n);
}

K_TILE(q5_k, Q5_K_RECORD)

MATMUL_TILES(q5_k, TILES_NIBBLES)

#if HAS_K_PANELS
SIMD_INLINE void q5_k_unpack(const uint8_t *record, const uint8_t *d, int h, struct k_panel *panel) {
    const uint8_t *lines = record + 4 * LINE + 4 * LANES * h;
    k_panel_6bit(panel, record, d, h);
    ROLLED
    for (int j = 0; j < 8; j++, lines += 5 * LINE) {
        UNROLL
        for (int f = 0; f < 8; f++) *panel_line(panel->weights[8 * j + f], h) = q5_k_inputs(lines, f);
    }
}
K_PANELS(q5_k, ASDSL_Q5_K, Q5_K_RECORD, false, PANELS_FROM, DOT6_STEPS, 0, true)
#else
MATMUL_GEMV(q5_k, ASDSL_Q5_K)
MATMUL_GEMM(q5_k, ASDSL_Q5_K)
#endif
