/* matmul_k.h: what the kernels of weights in blocks of 256 share: activations, float sums, 6-bit scales, tiles.
 *
 * A kernel sums a block in exact integers (its file derives the bound) and adds the total, times the scales of weights
 * and activations, to a row's float sum in block order. The float sums of a tile rest in memory: they are touched once
 * in 256 inputs, and the registers belong to the integers.
 */
#ifndef ASDSL_MATMUL_K_H
#define ASDSL_MATMUL_K_H
#include "matmul.h"

enum { BLOCK = 256, ACT = sizeof(struct act_q8_256) };

SIMD_INLINE const struct act_q8_256 *act_at(const uint8_t *act, size_t stride, int c) {
    return (const struct act_q8_256 *)(const void *)(act + (size_t)c * stride);
}

SIMD_INLINE void zero_totals(iv *totals, int n) {
    UNROLL
    for (int c = 0; c < n; c++) totals[c] = iv_zero();
}

/* sums += float(totals) * (d * d_a) for n columns of LANES rows. */
SIMD_INLINE void add_scaled(float *sums, const iv *totals, fv d, const uint8_t *act, size_t stride, int n) {
    UNROLL
    for (int c = 0; c < n; c++) {
        float *sum = sums + c * KERNEL_ROWS;
        fv scale = fv_mul(d, fv_set1(act_at(act, stride, c)->d));
        fv_store(sum, fv_fma(fv_from_i32(totals[c]), scale, fv_load(sum)));
    }
}

/* Scales and minima of sub-blocks 0-3 and 4-7, from the three lines of q4_k and q5_k (layout.h). */
struct scales_6bit {
    bv scale[2], minimum[2];
};
SIMD_INLINE struct scales_6bit scales_6bit_load(const uint8_t *lines) {
    const bv low = bv_set1(15), high = bv_set1(0x30);
    const bv s = bv_load(lines), m = bv_load(lines + LINE), tops = bv_load(lines + 2 * LINE);
    return (struct scales_6bit){
        .scale = {bv_or(bv_and(s, low), bv_and(bv_shl(tops, 4), high)),
                  bv_or(bv_and(bv_shr(s, 4), low), bv_and(bv_shl(tops, 2), high))},
        .minimum = {bv_or(bv_and(m, low), bv_and(tops, high)),
                    bv_or(bv_and(bv_shr(m, 4), low), bv_and(bv_shr(tops, 2), high))},
    };
}

/* sums += float(sum of minimum * -sum(q) over sub-blocks of 32) * (dmin * d_a). */
SIMD_INLINE void add_minima(float *sums, fv dmin, const bv *minimum, const uint8_t *act, size_t stride, int n) {
    iv totals[TILE_COLS];
    zero_totals(totals, n);
    UNROLL
    for (int p = 0; p < 4; p++) { /* sub-blocks 2p and 2p + 1 */
        iv minima = iv_pick_pairs(minimum[p / 2], p % 2 * 2, p % 2 * 2 + 1);
        UNROLL
        for (int c = 0; c < n; c++) {
            totals[c] = iv_dot_pairs(totals[c], minima, act_at(act, stride, c)->minus_sums + 2 * p);
        }
    }
    add_scaled(sums, totals, dmin, act, stride, n);
}

SIMD_INLINE void zero_sums(const struct tile *t, int n) {
    UNROLL
    for (int c = 0; c < n; c++) f32x16_store(t->sums + c * KERNEL_ROWS, f32x16_zero());
}

/* NAME_tile of NAME_record(sums, record, h, act, stride, n, prefetch): LANES rows from half h on. */
#define K_TILE(NAME, RECORD)                                                                                           \
    SIMD_INLINE void NAME##_tile(const struct tile *t, const int n, const int prefetch) {                              \
        const uint8_t *record = t->group, *act = t->act;                                                               \
        zero_sums(t, n);                                                                                               \
        ROLLED                                                                                                         \
        for (int32_t b = t->cols / BLOCK; b > 0; b--, record += RECORD, act += ACT) {                                  \
            touch_line(record);                                                                                        \
            NAME##_record(t->sums, record, 0, act, t->act_stride, n, prefetch);                                        \
            if (HALVES > 1) NAME##_record(t->sums + LANES, record, 1, act, t->act_stride, n, 0);                       \
        }                                                                                                              \
    }
/* The same for types whose scales d are a stream before the records: NAME_record(sums, record, d, h, ...). */
#define K_TILE_WITH_HEADER(NAME, RECORD)                                                                               \
    SIMD_INLINE void NAME##_tile(const struct tile *t, const int n, const int prefetch) {                              \
        const uint8_t *d = t->group, *record = d + header_bytes(t->cols), *act = t->act;                               \
        zero_sums(t, n);                                                                                               \
        ROLLED                                                                                                         \
        for (int32_t b = t->cols / BLOCK; b > 0; b--, record += RECORD, act += ACT, d += 32) {                         \
            NAME##_record(t->sums, record, d, 0, act, t->act_stride, n, prefetch);                                     \
            if (HALVES > 1) NAME##_record(t->sums + LANES, record, d, 1, act, t->act_stride, n, 0);                    \
        }                                                                                                              \
    }

#endif
