/* matmul_32_panel.h: panels of weights in blocks of 32 (matmul_panel.h) and their tiles.
 *
 * A type gives UNPACK(lines, h, weights), LANES rows of a block's lines to half h, and what is constant of it: bits of
 * a weight, what stands for zero, what a unit of it is worth in scales, whether blocks have minima. Float sums rest in
 * memory although each block touches them: the registers then hold the dots of five columns. Knows nothing of regions.
 */
#ifndef ASDSL_MATMUL_32_PANEL_H
#define ASDSL_MATMUL_32_PANEL_H
#include "matmul_32.h"
#include "matmul_panel.h"

#if HAS_PANELS

/* 32 inputs of 16 rows. */
struct panel_32 {
    float d[KERNEL_ROWS], m[KERNEL_ROWS];
    uint8_t weights[8][LINE]; /* (4 inputs, row, input of the four) */
};
_Static_assert(sizeof(struct panel_32) * (PANEL_INPUTS / BLOCK) <= PANEL_BYTES, "layout.h leaves room");

/* totals = a block's products of n columns of both halves, of weights as the panel has them: unsigned of 4 to 6 bits,
 * signed of 8. A step of 6 bits adds at most 2 * 63 * 127 = 16002 to 16 bits; of 4 and 5: dot4, dot5 of simd_avx2.h. */
SIMD_INLINE void panel_32_dots(iv (*totals)[TILE_COLS], const struct panel_32 *p, const uint8_t *act, size_t stride,
                               int n, int bits) {
    const int steps = bits == 8 ? 1 : bits == 6 ? 2 : bits == 5 ? 4 : 8; /* that 16 bits hold */
    dot4 dots[HALVES][TILE_COLS];
    UNROLL
    for (int l = 0; l < 8; l++) {
        w8 w[HALVES];
        UNROLL
        for (int h = 0; h < HALVES; h++) w[h] = w8_load(p->weights[l] + 4 * LANES * h);
        UNROLL
        for (int c = 0; c < n; c++) {
            av a = av_load(act + (size_t)c * stride + 4 * l);
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                if (l == 0) totals[h][c] = iv_zero();
                if (l % steps == 0) dots[h][c] = dot4_start(NULL);
                if (bits == 8) {
                    totals[h][c] = dot8_add(totals[h][c], w[h], a);
                } else {
                    dots[h][c] = dot4_add(dots[h][c], w[h].w, a);
                }
            }
        }
        /* Else clang adds two steps first, which takes registers: 68 GMAC/s instead of 89 with 3 columns. */
        UNROLL
        for (int c = 0; c < n; c++) {
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                if (bits == 8) {
                    SIMD_OPAQUE(totals[h][c]);
                } else {
                    SIMD_OPAQUE(dots[h][c]);
                }
            }
        }
        UNROLL
        for (int c = 0; c < n && bits < 8 && (l + 1) % steps == 0; c++) {
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                totals[h][c] = iv_add(totals[h][c], dot4_sum(dots[h][c], NULL));
                if (l < 7) SIMD_OPAQUE(totals[h][c]);
            }
        }
    }
}

/* sums += a block's products. zero: what the panel has for a weight of 0. */
SIMD_INLINE void panel_32_block(float *sums, const struct panel_32 *p, const uint8_t *act, size_t stride, int n,
                                int bits, int zero, bool minima) {
    iv totals[HALVES][TILE_COLS];
    panel_32_dots(totals, p, act, stride, n, bits);
    UNROLL
    for (int c = 0; c < n; c++, sums += KERNEL_ROWS) {
        const uint8_t *a = act + (size_t)c * stride;
        fv d = set1_at(a + AT_D), s = set1_at(a + AT_S);
        iv offset = simd_set1_at(a + AT_MINUS8);
        UNROLL
        for (int z = 8; z < zero; z *= 2) offset = iv_add(offset, offset);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            iv total = zero ? iv_add(totals[h][c], offset) : totals[h][c];
            fv scale = fv_mul(fv_load(p->d + LANES * h), d), sum = fv_load(sums + LANES * h);
            sum = fv_fma(fv_from_i32(total), scale, sum);
            if (minima) sum = fv_fma(fv_load(p->m + LANES * h), s, sum);
            fv_store(sums + LANES * h, sum);
        }
    }
}

enum { PANEL_32_FETCHES = 3 }; /* of a tile, for each block: of its 5 or 9 lines two or three tiles fetch a part each */

/* t->group are panels; to t->sums is added. GMAC/s of tiles alone, one thread of Zen 3, sums in memory with 3, 4, 5 and
 * 6 columns and in registers with 3, 4 and 5 (medians of 11, seen once; bench/gemm.ts compares builds with
 * -Dtile-columns):
 *     q4_0  91 100 107  97    88 96 96
 *     q4_1  94 100 103 103    96 95 95
 *     q5_0  92  96  98  84    81 86 85
 *     q8_0  58  58  59  57    56 59 59
 * Tiles of one half, 6 columns: 90, 95, 81, 57. 8-bit weights as two nibbles, which need no sign: 44 where these had
 * 48. */
SIMD_INLINE void panel_32_tile(const struct tile *t, int n, int bits, int zero, bool minima, int prefetch) {
    const struct panel_32 *p = (const struct panel_32 *)(const void *)t->group;
    const uint8_t *act = t->act, *next = t->next;
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, p++, act += ACT) {
        UNROLL
        for (int i = 0; prefetch && i < PANEL_32_FETCHES; i++, next += t->next_step) SIMD_PREFETCH(next);
        panel_32_block(t->sums, p, act, t->act_stride, n, bits, zero, minima);
    }
}

/* NAME's panels and tiles, PER_RECORD blocks of LINES lines in a record. */
#define PANELS_32(NAME, TYPE, RECORD, PER_RECORD, LINES, UNPACK, BITS, ZERO, UNIT, MINIMA)                             \
    static void NAME##_panels(const uint8_t *record, const uint8_t *d, int32_t cols, void *panel) {                    \
        struct panel_32 *p = panel;                                                                                    \
        (void)d;                                                                                                       \
        ROLLED                                                                                                         \
        for (int32_t b = 0; b < cols / BLOCK; b++, p++) {                                                              \
            const uint8_t *scales = record + 32 * (b % PER_RECORD);                                                    \
            const uint8_t *lines = record + LINE + LINES * LINE * (b % PER_RECORD);                                    \
            for (int h = 0; h < HALVES; h++) {                                                                         \
                fv_store(p->d + LANES * h, fv_mul(fv_load_f16(scales + 2 * LANES * h), fv_set1(UNIT)));                \
                if (MINIMA) fv_store(p->m + LANES * h, fv_load_f16(scales + 32 + 2 * LANES * h));                      \
                UNPACK(lines + 4 * LANES * h, h, p->weights);                                                          \
            }                                                                                                          \
            if (b % PER_RECORD == PER_RECORD - 1) record += RECORD;                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    SIMD_INLINE void NAME##_panel_tile(const struct tile *t, const int n, const int prefetch) {                        \
        panel_32_tile(t, n, BITS, ZERO, MINIMA, prefetch);                                                             \
    }                                                                                                                  \
    PANEL_PRODUCT(NAME, TYPE, TILES_PANEL_32, RECORD, BLOCK * PER_RECORD, ACT * PER_RECORD, false,                     \
                  PANEL_32_FETCHES * PER_RECORD)
#endif

#endif
