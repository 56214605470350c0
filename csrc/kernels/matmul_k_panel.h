/* matmul_k_panel.h: products of many columns with weights in blocks of 256, unpacked once for all of the columns.
 *
 * A worker unpacks the records of a few row groups into its scratch, a byte a weight: panels, which stay in its second
 * cache while every column passes by. Their tiles have nothing to unpack and leave the registers to the sums.
 * Arithmetic and order are those of the tiles that unpack (matmul_k.c), and so are the bits.
 *
 * A type gives NAME_unpack(record, d, h, block), LANES rows from half h on, and what is constant of it: inputs to a
 * scale, whether weights have an offset of -32 and whether sub-blocks have minima.
 */
#ifndef ASDSL_MATMUL_K_PANEL_H
#define ASDSL_MATMUL_K_PANEL_H
#include "matmul_k.h"

/* 256 inputs of 16 rows. Scales are as dot6_scaled of this level wants them, minima as iv_dot_pairs. */
struct k_panel {
    float d[KERNEL_ROWS], dmin[KERNEL_ROWS];
    uint8_t weights[64][LINE]; /* (4 inputs, row, input of the four) */
    uint8_t scales[16][LINE];  /* (16 inputs, row) */
    uint8_t minima[4][LINE];   /* (64 inputs, row, sub-block of 32) */
};

#if defined(TILES_PANEL_16) /* matmul.h: at levels where panels pay */
_Static_assert(sizeof(struct k_panel) == K_PANEL, "layout.h has its size");
enum { K_PANEL_COLUMNS = 48 }; /* from which they pay; fewer leave the unpacking to few tiles */

/* Writes panels of cols / 256 records. */
typedef void k_unpack_fn(const uint8_t *group, int32_t cols, struct k_panel *panels);

SIMD_INLINE bv *k_panel_line(uint8_t line[LINE], int h) { return (bv *)(void *)(line + 4 * LANES * h); }

/* sums += the block's products for n columns of LANES rows. steps: of 4 inputs to a scale; eight at level avx2 only for
 * weights below 16 (dot4's bound in simd_avx2.h). */
SIMD_INLINE void k_panel_block(float *sums, const struct k_panel *p, int h, const uint8_t *act, size_t stride, int n,
                               int steps, bool offset, bool minima) {
    iv totals[TILE_COLS];
    zero_totals(totals, n);
    ROLLED
    for (int j = 0; j < 16; j += steps / 4) {
        dot6 dots[TILE_COLS];
    UNROLL
        for (int c = 0; c < n; c++) {
            const struct act_q8_256 *a = act_at(act, stride, c);
            dots[c] = offset ? dot6_start(a->minus32 + j, a->minus32_pairs[j]) : iv_zero();
        }
        UNROLL
        for (int l = 0; l < steps; l++) {
            bv w = bv_load(p->weights[4 * j + l] + 4 * LANES * h);
            UNROLL
            for (int c = 0; c < n; c++) {
                dots[c] = dot6_add(dots[c], w, av_load(act_at(act, stride, c)->q + 16 * j + 4 * l));
            }
        }
        iv scale = bv_load(p->scales[j] + 4 * LANES * h);
        UNROLL
        for (int c = 0; c < n; c++) totals[c] = dot6_scaled(totals[c], dots[c], scale);
    }
    add_scaled(sums, totals, fv_load(p->d + LANES * h), act, stride, n);
    if (!minima) return;
    zero_totals(totals, n);
    UNROLL
    for (int i = 0; i < 4; i++) {
        iv m = bv_load(p->minima[i] + 4 * LANES * h);
        UNROLL
        for (int c = 0; c < n; c++) {
            totals[c] = iv_dot_pairs(totals[c], m, act_at(act, stride, c)->minus_sums + 2 * i);
        }
    }
    add_scaled(sums, totals, fv_load(p->dmin + LANES * h), act, stride, n);
}

/* t->group are panels. */
SIMD_INLINE void k_panel_tile(const struct tile *t, int n, int steps, bool offset, bool minima) {
    const struct k_panel *p = (const struct k_panel *)(const void *)t->group;
    const uint8_t *act = t->act;
    zero_sums(t, n);
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, p++, act += ACT) {
        for (int h = 0; h < HALVES; h++) {
            k_panel_block(t->sums + LANES * h, p, h, act, t->act_stride, n, steps, offset, minima);
        }
    }
}

/* As matmul_run, with panels in the place of records. */
static inline void k_panel_run(const struct matmul_job *job, int32_t begin, int32_t end, int32_t type,
                               k_unpack_fn *unpack, tile_fn *const *tiles, int32_t widest, struct k_panel *panels) {
    size_t stride = (size_t)group_bytes(type, job->cols), bytes = k_panels_bytes(job->cols);
    int32_t n_weights = job->w2 ? 2 : 1, at_once = (int32_t)(K_PANELS_BYTES / ((size_t)n_weights * bytes));
    if (at_once < 1) at_once = 1;
    for (int32_t first = begin; first < end; first += at_once) {
        int32_t last = end - first < at_once ? end : first + at_once;
        struct k_panel *panel = panels;
        for (int32_t i = 0; i < n_weights; i++)
            for (int32_t g = first; g < last; g++, panel += job->cols / BLOCK) {
                unpack((const uint8_t *)(i ? job->w2 : job->w) + (size_t)g * stride, job->cols, panel);
            }
        const uint8_t *w = (const uint8_t *)panels, *w2 = job->w2 ? w + (size_t)(last - first) * bytes : NULL;
        matmul_columns(job, first, last, w, w2, bytes, tiles, tiles, widest);
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
        *k_panel_line(panel->scales[2 * j], h) = scale;
        *k_panel_line(panel->scales[2 * j + 1], h) = scale;
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        *k_panel_line(panel->minima[i], h) = iv_pick_pairs(s.minimum[i / 2], i % 2 * 2, i % 2 * 2 + 1);
    }
}

/* The gemm slot of a type. HEADER: bytes before its records; scales d begin with the group, D_STEP bytes a block. */
#define K_PANELS(NAME, TYPE, RECORD, HEADER, D_STEP, TILES, STEPS, OFFSET, MINIMA)                                     \
    static void NAME##_panels(const uint8_t *group, int32_t cols, struct k_panel *panels) {                            \
        const uint8_t *record = group + (HEADER), *d = group;                                                          \
        ROLLED                                                                                                         \
        for (int32_t b = cols / BLOCK; b > 0; b--, record += RECORD, d += D_STEP, panels++) {                          \
            for (int h = 0; h < HALVES; h++) NAME##_unpack(record, d, h, panels);                                      \
        }                                                                                                              \
    }                                                                                                                  \
    SIMD_INLINE void NAME##_panel_tile(const struct tile *t, const int n, const int prefetch) {                        \
        (void)prefetch;                                                                                                \
        k_panel_tile(t, n, STEPS, OFFSET, MINIMA);                                                                     \
    }                                                                                                                  \
    TILES(MATMUL_TILE, NAME##_panel, 0)                                                                                \
    static tile_fn *const NAME##_panel_tiles[] = {NULL, TILES(MATMUL_TILE_NAME, NAME##_panel, 0)};                     \
    matmul_fn KERNEL(NAME##_gemm);                                                                                     \
    void KERNEL(NAME##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        if (job->n >= K_PANEL_COLUMNS) {                                                                               \
            k_panel_run(job, begin, end, TYPE, NAME##_panels, NAME##_panel_tiles, TILES_IN(NAME##_panel_tiles),        \
                        scratch);                                                                                      \
        } else {                                                                                                       \
            matmul_run(job, begin, end, TYPE, NAME##_first_tiles, NAME##_next_tiles, TILES_IN(NAME##_next_tiles),      \
                       matmul_block(job, TYPE));                                                                       \
        }                                                                                                              \
    }
#endif

#endif
