/* matmul_k_panel.h: products of many columns with weights in blocks of 256, unpacked once for all of the columns.
 *
 * A worker unpacks a few records of one row group into its scratch, a byte a weight: panels, which stay in its first
 * cache while columns pass by. Their tiles have nothing to unpack: both halves of a row group fit the registers, and an
 * activation is broadcast once for both. A region of row groups and columns keeps its float sums in the scratch while
 * it goes through the blocks, so that of activations too only the blocks in turn have to stay in the second cache.
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

#if defined(TILES_PANEL) /* matmul.h: at levels where panels pay */
_Static_assert(sizeof(struct k_panel) == K_PANEL, "layout.h has its size");

/* So many columns are one pass over the records, in the order of memory: one record at a time. Of more, K_PANEL_BLOCKS
 * for each of K_PANEL_GROUPS in turn. */
enum { K_PANEL_FEW = 64 };

/* What a worker's scratch holds. */
struct k_panels {
    struct k_panel panel[K_PANEL_BLOCKS];
    float sums[2][K_PANEL_GROUPS][K_PANEL_COLUMNS][KERNEL_ROWS]; /* of each weight */
};
_Static_assert(sizeof(struct k_panels) == K_PANELS_BYTES, "layout.h has its size");

/* Writes the panels of n records; d: their scales, in them or before them. */
typedef void k_unpack_fn(const uint8_t *records, const uint8_t *d, int32_t n, struct k_panel *panels);

SIMD_INLINE bv *k_panel_line(uint8_t line[LINE], int h) { return (bv *)(void *)(line + 4 * LANES * h); }

/* dots = products of sub-block j of both halves; an activation is broadcast once for them. */
SIMD_INLINE void k_panel_dots(dot6 (*dots)[TILE_COLS], const struct k_panel *p, int j, const uint8_t *act,
                              size_t stride, int n, int steps, bool offset) {
    UNROLL
    for (int c = 0; c < n; c++) {
        const struct act_q8_256 *a = act_at(act, stride, c);
        dot6 start = offset ? dot6_start(a->minus32 + j, a->minus32_pairs[j]) : iv_zero();
        UNROLL
        for (int h = 0; h < HALVES; h++) dots[h][c] = start;
    }
    UNROLL
    for (int l = 0; l < steps; l++) {
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

/* sums += the block's products for n columns. steps: of 4 inputs to a scale; eight at level avx2 only for weights below
 * 16 (dot4's bound in simd_avx2.h). */
SIMD_INLINE void k_panel_block(float *sums, const struct k_panel *p, const uint8_t *act, size_t stride, int n,
                               int steps, bool offset, bool minima) {
    iv totals[HALVES][TILE_COLS];
    UNROLL
    for (int h = 0; h < HALVES; h++) zero_totals(totals[h], n);
    ROLLED
    for (int j = 0; j < 16; j += steps / 4) {
        dot6 dots[HALVES][TILE_COLS];
        k_panel_dots(dots, p, j, act, stride, n, steps, offset);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            iv scale = bv_load(p->scales[j] + 4 * LANES * h);
            UNROLL
            for (int c = 0; c < n; c++) totals[h][c] = dot6_scaled(totals[h][c], dots[h][c], scale);
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
SIMD_INLINE void k_panel_tile(const struct tile *t, int n, int steps, bool offset, bool minima) {
    const struct k_panel *p = (const struct k_panel *)(const void *)t->group;
    const uint8_t *act = t->act;
    ROLLED
    for (int32_t b = t->cols / BLOCK; b > 0; b--, p++, act += ACT) {
        k_panel_block(t->sums, p, act, t->act_stride, n, steps, offset, minima);
    }
}

/* A type's constants. */
struct k_type {
    int32_t type, record, widest;
    bool has_header; /* of scales d, before a group's records */
    k_unpack_fn *unpack;
    tile_fn *const *tiles;
};

/* A region: row groups [g0, g1), up to K_PANEL_GROUPS, times columns [c0, c0 + n), up to K_PANEL_COLUMNS. */
struct k_region {
    int32_t g0, g1, c0, n;
};

/* Record b of group g. */
static inline const uint8_t *k_record(const struct k_type *type, int32_t cols, const uint8_t *w, int32_t g, int32_t b) {
    size_t header = type->has_header ? (size_t)header_bytes(cols) : 0;
    return w + (size_t)g * (size_t)group_bytes(type->type, cols) + header + (size_t)b * (size_t)type->record;
}
static inline const uint8_t *k_scales(const struct k_type *type, int32_t cols, const uint8_t *w, int32_t g, int32_t b) {
    if (!type->has_header) return k_record(type, cols, w, g, b);
    return w + (size_t)g * (size_t)group_bytes(type->type, cols) + 32 * (size_t)b;
}

/* What is fetched while blocks [b, b + n_blocks) of group g are multiplied: the records that are unpacked next, or,
 * where one group's are read through, those PREFETCH_AHEAD behind. */
static inline const uint8_t *k_next(const struct matmul_job *job, const struct k_type *type, const struct k_region *r,
                                    const uint8_t *w, int32_t g, int32_t b, int32_t n_blocks) {
    if (r->g1 - r->g0 == 1) return k_record(type, job->cols, w, g, b) + PREFETCH_AHEAD;
    if (g + 1 < r->g1) return k_record(type, job->cols, w, g + 1, b);
    return k_record(type, job->cols, w, r->g0, b + n_blocks);
}

/* Blocks [b, b + n_blocks) of a region: sums (groups, K_PANEL_COLUMNS, KERNEL_ROWS) += w's products. Each tile asks for
 * its part of the records that come next: all at once, or by the first tile alone, they came too late (q4_k, 16
 * columns, 75 MB of weights, one thread of Zen 3: 64 GMAC/s instead of 86, seen once). */
static inline void k_region_blocks(const struct matmul_job *job, const struct k_type *type, const struct k_region *r,
                                   const uint8_t *w, int32_t b, int32_t n_blocks, struct k_panel *panel,
                                   float (*sums)[K_PANEL_COLUMNS][KERNEL_ROWS]) {
    int32_t n_tiles = (r->n + type->widest - 1) / type->widest, fetched = n_blocks * type->record / n_tiles;
    struct tile t = {.group = (const uint8_t *)panel, .act_stride = job->act_stride, .cols = n_blocks * BLOCK};
    for (int32_t g = r->g0; g < r->g1; g++, sums++) {
        const uint8_t *records = k_record(type, job->cols, w, g, b), *ahead = k_next(job, type, r, w, g, b, n_blocks);
        type->unpack(records, k_scales(type, job->cols, w, g, b), n_blocks, panel);
        for (int32_t i = 0, c = 0, n; i < n_tiles; i++, c += n, ahead += fetched) {
            n = (r->n - c + (n_tiles - i) - 1) / (n_tiles - i);
            t.act = (const uint8_t *)job->act + (size_t)(r->c0 + c) * job->act_stride + (size_t)b * ACT;
            t.sums = (*sums)[c];
            prefetch_lines(ahead, fetched);
            type->tiles[n](&t);
        }
    }
}

static inline void k_region_run(const struct matmul_job *job, const struct k_type *type, const struct k_region *r,
                                int32_t most_blocks, struct k_panels *s) {
    int32_t n_blocks = job->cols / BLOCK, n_weights = job->w2 ? 2 : 1, at_once;
    for (int32_t i = 0; i < n_weights; i++)
        for (int32_t g = 0; g < r->g1 - r->g0; g++) memset(s->sums[i][g], 0, (size_t)r->n * sizeof *s->sums[i][g]);
    for (int32_t b = 0; b < n_blocks; b += at_once) {
        at_once = n_blocks - b < most_blocks ? n_blocks - b : most_blocks;
        k_region_blocks(job, type, r, job->w, b, at_once, s->panel, s->sums[0]);
        if (job->w2) k_region_blocks(job, type, r, job->w2, b, at_once, s->panel, s->sums[1]);
    }
    for (int32_t g = r->g0; g < r->g1; g++) {
        matmul_finish(job, g, r->c0, r->n, *s->sums[0][g - r->g0], *s->sums[1][g - r->g0]);
    }
}

/* As matmul_run. */
static inline void k_panel_run(const struct matmul_job *job, const struct k_type *type, int32_t begin, int32_t end,
                               struct k_panels *s) {
    int32_t n_parts = (job->n + K_PANEL_COLUMNS - 1) / K_PANEL_COLUMNS;
    bool few = job->n <= K_PANEL_FEW;
    int32_t most_groups = few ? 1 : K_PANEL_GROUPS, most_blocks = few ? 1 : K_PANEL_BLOCKS;
    for (struct k_region r = {.g0 = begin}; r.g0 < end; r.g0 = r.g1) {
        r.g1 = end - r.g0 < most_groups ? end : r.g0 + most_groups;
        r.c0 = 0;
        for (int32_t left = n_parts; left > 0; left--, r.c0 += r.n) {
            r.n = (job->n - r.c0 + left - 1) / left;
            k_region_run(job, type, &r, most_blocks, s);
        }
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

/* Both slots of a type: panels for LEAST columns and more. */
#define K_PANELS(NAME, TYPE, RECORD, HAS_HEADER, LEAST, STEPS, OFFSET, MINIMA)                                         \
    static void NAME##_panels(const uint8_t *records, const uint8_t *d, int32_t n, struct k_panel *panels) {           \
        ROLLED                                                                                                         \
        for (int32_t b = 0; b < n; b++, records += RECORD, d += HAS_HEADER ? 32 : RECORD, panels++)                    \
            for (int h = 0; h < HALVES; h++) NAME##_unpack(records, d, h, panels);                                     \
    }                                                                                                                  \
    SIMD_INLINE void NAME##_panel_tile(const struct tile *t, const int n, const int prefetch) {                        \
        (void)prefetch;                                                                                                \
        k_panel_tile(t, n, STEPS, OFFSET, MINIMA);                                                                     \
    }                                                                                                                  \
    TILES_PANEL(MATMUL_TILE, NAME##_panel, 0)                                                                          \
    static tile_fn *const NAME##_panel_tiles[] = {NULL, TILES_PANEL(MATMUL_TILE_NAME, NAME##_panel, 0)};               \
    static void NAME##_job(const struct matmul_job *job, int32_t begin, int32_t end, int32_t block, void *scratch) {   \
        static const struct k_type type = {                                                                            \
            TYPE, RECORD, TILES_IN(NAME##_panel_tiles), HAS_HEADER, NAME##_panels, NAME##_panel_tiles,                 \
        };                                                                                                             \
        if (job->n >= (LEAST)) {                                                                                       \
            k_panel_run(job, &type, begin, end, scratch);                                                              \
        } else {                                                                                                       \
            matmul_run(job, begin, end, TYPE, NAME##_first_tiles, NAME##_next_tiles, TILES_IN(NAME##_next_tiles),      \
                       block);                                                                                         \
        }                                                                                                              \
    }                                                                                                                  \
    matmul_fn KERNEL(NAME##_gemv), KERNEL(NAME##_gemm);                                                                \
    void KERNEL(NAME##_gemv)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        NAME##_job(job, begin, end, matmul_few(job, TILES_IN(NAME##_next_tiles)), scratch);                            \
    }                                                                                                                  \
    void KERNEL(NAME##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        NAME##_job(job, begin, end, matmul_block(job, TYPE), scratch);                                                 \
    }
#endif

#endif
