/* matmul_k_panel.h: panels of weights in blocks of 256 (matmul_panel.h) and their tiles.
 *
 * A type gives NAME_unpack(record, d, h, panel), LANES rows from half h on, and what is constant of it: inputs to a
 * scale, what stands for a weight of zero and whether sub-blocks have minima. Knows nothing of regions.
 */
#ifndef ASDSL_MATMUL_K_PANEL_H
#define ASDSL_MATMUL_K_PANEL_H
#include "matmul_k.h"
#include "matmul_panel.h"

/* 256 inputs of 16 rows. Scales are as dot6_scaled of this level wants them, minima as iv_dot_pairs. */
struct k_panel {
    float d[KERNEL_ROWS], dmin[KERNEL_ROWS];
    uint8_t weights[64][LINE]; /* (4 inputs, row, input of the four) */
    uint8_t scales[16][LINE];  /* (16 inputs, row) */
    uint8_t minima[4][LINE];   /* (64 inputs, row, sub-block of 32) */
};

#if HAS_K_PANELS
_Static_assert(sizeof(struct k_panel) * (PANEL_INPUTS / BLOCK) <= PANEL_BYTES, "layout.h leaves room");

/* dots = products of both halves, `steps` of 4 inputs from the `first` of sub-block j on; an activation is broadcast
 * once for them. */
SIMD_INLINE void k_panel_dots(dot6 (*dots)[TILE_COLS], const struct k_panel *p, int j, int first, const uint8_t *act,
                              size_t stride, int n, int steps, int zero) {
    UNROLL
    for (int c = 0; c < n; c++) {
        const struct act_q8_256 *a = act_at(act, stride, c);
        dot6 start = zero ? dot6_start(a->minus32 + 2 * j + first / 2, a->minus32_pairs[j]) : iv_zero();
        if (zero == 4) start = iv_shr_pairs(start, 3); /* exact: they are multiples of 32 */
        UNROLL
        for (int h = 0; h < HALVES; h++) dots[h][c] = start;
    }
    UNROLL
    for (int l = first; l < first + steps; l++) {
        bv w[HALVES];
        UNROLL
        for (int h = 0; h < HALVES; h++) w[h] = bv_load(p->weights[4 * j + l] + 4 * LANES * h);
        UNROLL
        for (int c = 0; c < n; c++) {
            av a = av_load(act_at(act, stride, c)->q + 16 * j + 4 * l);
            UNROLL
            for (int h = 0; h < HALVES; h++) dots[h][c] = dot6_add(dots[h][c], w[h], a);
        }
        /* Else clang adds two steps first, which takes registers that the totals have. */
        UNROLL
        for (int c = 0; c < n; c++) UNROLL for (int h = 0; h < HALVES; h++) SIMD_OPAQUE(dots[h][c]);
    }
}

/* sums += float(totals) * (d * d_a) for n columns of both halves. */
SIMD_INLINE void k_panel_add(float *sums, iv (*totals)[TILE_COLS], const float *d, const uint8_t *act, size_t stride,
                             int n) {
    UNROLL
    for (int h = 0; h < HALVES; h++) add_scaled(sums + LANES * h, totals[h], fv_load(d + LANES * h), act, stride, n);
}

enum { K_PANEL_FETCHES = 16 }; /* of a tile, for each block: one for each four steps */

/* sums += the block's products for n columns. steps: of 4 inputs whose sum 16 bits hold: DOT6_STEPS, for weights below 16
 * twice as many (dot4's bound in simd_avx2.h; with integer dots 16 * 15 * 127 = 30480). zero: what the panel has for a
 * weight of 0: 0, 4 or 32. */
SIMD_INLINE void k_panel_block(float *sums, const struct k_panel *p, const uint8_t *act, size_t stride, int n,
                               int steps, int zero, bool minima, const uint8_t *next, size_t next_step,
                               int prefetch) {
    const int subs = steps > 4 ? steps / 4 : 1; /* that a scale is for */
    iv totals[HALVES][TILE_COLS];
    UNROLL
    for (int h = 0; h < HALVES; h++) zero_totals(totals[h], n);
    ROLLED
    for (int j = 0; j < 16; j += subs) {
        UNROLL
        for (int i = 0; prefetch && i < subs; i++, next += next_step) SIMD_PREFETCH(next);
        UNROLL
        for (int first = 0; first < 4 * subs; first += steps) {
            dot6 dots[HALVES][TILE_COLS];
            k_panel_dots(dots, p, j, first, act, stride, n, steps, zero);
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                iv scale = bv_load(p->scales[j] + 4 * LANES * h);
                UNROLL
                for (int c = 0; c < n; c++) totals[h][c] = dot6_scaled(totals[h][c], dots[h][c], scale);
            }
        }
    }
    k_panel_add(sums, totals, p->d, act, stride, n);
    if (!minima) return;
    UNROLL
    for (int h = 0; h < HALVES; h++) zero_totals(totals[h], n);
    UNROLL
    for (int i = 0; i < 4; i++) {
        UNROLL
        for (int c = 0; c < n; c++) {
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                iv m = bv_load(p->minima[i] + 4 * LANES * h);
                totals[h][c] = iv_dot_pairs(totals[h][c], m, act_at(act, stride, c)->minus_sums + 2 * i);
            }
        }
    }
    k_panel_add(sums, totals, p->dmin, act, stride, n);
}

/* t->group are panels; to t->sums is added. */
SIMD_INLINE void k_panel_tile(const struct tile *t, int n, int steps, int zero, bool minima, int prefetch) {
    const struct k_panel *p = (const struct k_panel *)(const void *)t->group;
    const uint8_t *act = t->act, *next = t->next;
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, p++, act += ACT, next += K_PANEL_FETCHES * t->next_step) {
        k_panel_block(t->sums, p, act, t->act_stride, n, steps, zero, minima, next, t->next_step, prefetch);
    }
}

/* d and the 6-bit scales and minima of q4_k and q5_k, LANES rows from half h on. */
SIMD_INLINE void k_panel_6bit(struct k_panel *panel, const uint8_t *record, const uint8_t *d, int h) {
    const struct scales_6bit s = scales_6bit_load(record + LINE + 4 * LANES * h);
    fv_store(panel->d + LANES * h, fv_load_f16(d + 2 * LANES * h));
    fv_store(panel->dmin + LANES * h, fv_load_f16(d + 32 + 2 * LANES * h));
    UNROLL
    for (int j = 0; j < 8; j++) {
        iv scale = dot5k_scale(s.scale[j / 4], j % 4);
        *panel_line(panel->scales[2 * j], h) = scale;
        *panel_line(panel->scales[2 * j + 1], h) = scale;
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        *panel_line(panel->minima[i], h) = iv_pick_pairs(s.minimum[i / 2], i % 2 * 2, i % 2 * 2 + 1);
    }
}

/* Both slots of a type: panels for LEAST columns and more. */
#define K_PANELS(NAME, TYPE, RECORD, HAS_HEADER, LEAST, STEPS, ZERO, MINIMA)                                           \
    static void NAME##_panels(const uint8_t *records, const uint8_t *d, int32_t cols, void *panel) {                   \
        struct k_panel *panels = panel;                                                                                \
        ROLLED                                                                                                         \
        for (int32_t b = cols / BLOCK; b > 0; b--, records += RECORD, d += HAS_HEADER ? 32 : RECORD, panels++)         \
            for (int h = 0; h < HALVES; h++) NAME##_unpack(records, d, h, panels);                                     \
    }                                                                                                                  \
    SIMD_INLINE void NAME##_panel_tile(const struct tile *t, const int n, const int prefetch) {                        \
        k_panel_tile(t, n, STEPS, ZERO, MINIMA, prefetch);                                                             \
    }                                                                                                                  \
    PANEL_PRODUCT(NAME, TYPE, TILES_PANEL_K, RECORD, BLOCK, ACT, HAS_HEADER, K_PANEL_FETCHES)                          \
    PANEL_SLOTS(NAME, TYPE, LEAST)
#endif

#endif
