/* matmul_k.c: products of K-quants (q4_k, q6_k; blocks of 256 with sub-blocks) with ACT_Q8_256 activations.
 *
 * Inside a block everything is an exact integer: sub-block dots times their 6- or 8-bit scales, summed (below 2^31:
 * 8 * 63 * 32 * 15 * 127 = 30.7 M for q4_k, 16 * 128 * 16 * 32 * 127 = 133 M for q6_k); between blocks a row's sum is
 *   q4_k   sum = fma(minima, dmin_w * d_a, fma(total, d_w * d_a, sum))      minima = sum of minimum * -sum(q)
 *   q6_k   sum = fma(total, d_w * d_a, sum)
 * in block order. Compiled once per level. The float sums of a tile rest in memory: they are touched once in 256 inputs,
 * and the registers belong to the integers.
 */
#include "matmul.h"

enum { BLOCK = 256, ACT = sizeof(struct act_q8_256) };

SIMD_INLINE const struct act_q8_256 *act_at(const uint8_t *act, size_t stride, int c) {
    return (const struct act_q8_256 *)(const void *)(act + (size_t)c * stride);
}

/* sums += float(totals) * (d * d_a) for n columns of LANES rows. */
SIMD_INLINE void add_scaled(float *sums, const iv *totals, fv d, const uint8_t *act, size_t stride, int n) {
    for (int c = 0; c < n; c++) {
        float *sum = sums + c * KERNEL_ROWS;
        fv scale = fv_mul(d, fv_set1(act_at(act, stride, c)->d));
        fv_store(sum, fv_fma(fv_from_i32(totals[c]), scale, fv_load(sum)));
    }
}

/* Sub-blocks whose scales are the bytes j of `scales`: one of 32 inputs, 4 lines. */
SIMD_INLINE void q4_k_sub_block(iv *totals, iv scale, const uint8_t *lines, const uint8_t *act, size_t stride, int n) {
    dot4k dots[TILE_SUMS];
    for (int c = 0; c < n; c++) dots[c] = dot4k_zero();
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + LINE * l), low = dot4k_low(x), high = dot4k_high(x);
        for (int c = 0; c < n; c++) dots[c] = dot4k_add_low(dots[c], low, av_load(act + (size_t)c * stride + 4 * l));
        for (int c = 0; c < n; c++) {
            dots[c] = dot4k_add_high(dots[c], high, av_load(act + (size_t)c * stride + 16 + 4 * l));
        }
    }
    for (int c = 0; c < n; c++) totals[c] = dot4k_scaled(totals[c], dots[c], scale);
}

/* One record, LANES rows from half h on. */
SIMD_INLINE void q4_k_record(float *sums, const uint8_t *record, int h, const uint8_t *act, size_t stride, int n) {
    const uint8_t *lines = record + 4 * LINE + 4 * LANES * h, *scales = record + LINE + 4 * LANES * h;
    bv low = bv_set1(15), high = bv_set1(0x30);
    bv s = bv_load(scales), m = bv_load(scales + LINE), tops = bv_load(scales + 2 * LINE);
    bv s_first = bv_or(bv_and(s, low), bv_and(bv_shl(tops, 4), high)); /* scales of sub-blocks 0-3 */
    bv s_last = bv_or(bv_and(bv_shr(s, 4), low), bv_and(bv_shl(tops, 2), high));
    bv m_first = bv_or(bv_and(m, low), bv_and(tops, high));
    bv m_last = bv_or(bv_and(bv_shr(m, 4), low), bv_and(bv_shr(tops, 2), high));
    iv totals[TILE_SUMS];
    for (int c = 0; c < n; c++) totals[c] = iv_zero();
    for (int j = 0; j < 4; j++) {
        q4_k_sub_block(totals, iv_pick_pairs(s_first, j, j), lines + 4 * LINE * j, act + 32 * j, stride, n);
    }
    for (int j = 0; j < 4; j++) {
        q4_k_sub_block(totals, iv_pick_pairs(s_last, j, j), lines + 4 * LINE * (4 + j), act + 128 + 32 * j, stride, n);
    }
    add_scaled(sums, totals, fv_load_f16(record + 2 * LANES * h), act, stride, n);
    for (int c = 0; c < n; c++) totals[c] = iv_zero();
    for (int p = 0; p < 4; p++) { /* sub-blocks 2p and 2p + 1 */
        iv minima = iv_pick_pairs(p < 2 ? m_first : m_last, p % 2 * 2, p % 2 * 2 + 1);
        for (int c = 0; c < n; c++) {
            totals[c] = iv_dot_pairs(totals[c], minima, act_at(act, stride, c)->minus_sums + 2 * p);
        }
    }
    add_scaled(sums, totals, fv_load_f16(record + 32 + 2 * LANES * h), act, stride, n);
}

/* 16 inputs of q6_k: 4 vectors of weights against inputs at act, scale of sub-block `sub`. */
SIMD_INLINE void q6_k_sub_block(iv *totals, const bv *w, iv scale, int sub, const uint8_t *act, size_t stride, int n) {
    dot6 dots[TILE_SUMS];
    for (int c = 0; c < n; c++) {
        dots[c] = dot6_start(act_at(act, stride, c)->minus32 + sub, act_at(act, stride, c)->minus32_pairs[sub]);
    }
    for (int l = 0; l < 4; l++)
        for (int c = 0; c < n; c++) {
            dots[c] = dot6_add(dots[c], w[l], av_load(act + (size_t)c * stride + 16 * sub + 4 * l));
        }
    for (int c = 0; c < n; c++) totals[c] = dot6_scaled(totals[c], dots[c], scale);
}

/* One record, LANES rows from half h on; d: their scales. Of each 128 inputs, byte i (0-31) of qh holds the two top bits
 * of inputs i, i + 32, i + 64 and i + 96, byte i of ql the low nibbles of i and i + 64, byte i + 32 those of the others. */
SIMD_INLINE void q6_k_record(float *sums, const uint8_t *record, const uint8_t *d, int h, const uint8_t *act,
                             size_t stride, int n) {
    bv low = bv_set1(15), high = bv_set1(0x30);
    const uint8_t *ql = record + 4 * LANES * h, *qh = ql + 32 * LINE, *scales = ql + 48 * LINE;
    iv totals[TILE_SUMS];
    for (int c = 0; c < n; c++) totals[c] = iv_zero();
    for (int part = 0; part < 4; part++) { /* 16 bytes of qh: 128 inputs are two parts */
        int half = part / 2, odd = part % 2;
        bv line = bv_load(scales + LINE * 2 * half), next = bv_load(scales + LINE * (2 * half + 1));
        bv w[4][4];
        for (int l = 0; l < 4; l++) {
            bv a = bv_load(ql + LINE * (16 * half + 4 * odd + l)), b = bv_load(ql + LINE * (16 * half + 8 + 4 * odd + l));
            bv top = bv_load(qh + LINE * (8 * half + 4 * odd + l));
            w[0][l] = bv_or(bv_and(a, low), bv_and(bv_shl(top, 4), high));
            w[1][l] = bv_or(bv_and(b, low), bv_and(bv_shl(top, 2), high));
            w[2][l] = bv_or(bv_and(bv_shr(a, 4), low), bv_and(top, high));
            w[3][l] = bv_or(bv_and(bv_shr(b, 4), low), bv_and(bv_shr(top, 2), high));
        }
        for (int quarter = 0; quarter < 4; quarter++) { /* inputs 128 half + 32 quarter + 16 odd .. + 15 */
            int sub = 8 * half + 2 * quarter + odd;
            iv scale = dot6_scale(sub / 4 % 2 ? next : line, sub % 4);
            q6_k_sub_block(totals, w[quarter], scale, sub, act, stride, n);
        }
    }
    add_scaled(sums, totals, fv_load_f16(d + 2 * LANES * h), act, stride, n);
}

SIMD_INLINE void zero_sums(const struct tile *t, int n) {
    for (int c = 0; c < n; c++) f32x16_store(t->sums + c * KERNEL_ROWS, f32x16_zero());
}

SIMD_INLINE void q4_k_tile(const struct tile *t, const int n, const int prefetch) {
    const uint8_t *record = t->group, *act = t->act;
    zero_sums(t, n);
    for (int32_t b = t->cols / BLOCK; b > 0; b--, record += Q4_K_RECORD, act += ACT) {
        if (prefetch) prefetch_ahead(record, Q4_K_RECORD);
        for (int h = 0; h < HALVES; h++) q4_k_record(t->sums + LANES * h, record, h, act, t->act_stride, n);
    }
}

SIMD_INLINE void q6_k_tile(const struct tile *t, const int n, const int prefetch) {
    const uint8_t *d = t->group, *record = d + q6_k_header_bytes(t->cols), *act = t->act;
    zero_sums(t, n);
    for (int32_t b = t->cols / BLOCK; b > 0; b--, record += Q6_K_RECORD, act += ACT, d += 32) {
        if (prefetch) prefetch_ahead(record, Q6_K_RECORD);
        for (int h = 0; h < HALVES; h++) q6_k_record(t->sums + LANES * h, record, d, h, act, t->act_stride, n);
    }
}

MATMUL_SLOTS(q4_k, ASDSL_Q4_K)
MATMUL_SLOTS(q6_k, ASDSL_Q6_K)
