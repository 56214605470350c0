/* matmul_panel.h: products of many columns: weights unpacked once for all of them, and the walk over regions.
 *
 * A worker unpacks a few records of one row group into its scratch, a byte a weight: panels, which stay in its first
 * cache while columns pass by. Their tiles have nothing to unpack: both halves of a row group fit the registers, and an
 * activation is broadcast once for both. A region of row groups and columns keeps its float sums in the scratch while
 * it goes through the inputs, so that of activations too only those in turn have to stay in the second cache.
 * Arithmetic and order are those of the tiles that unpack, and so are the bits.
 *
 * What a panel holds, how records become one and what tiles do with it is the family's: matmul_k_panel.h,
 * matmul_32_panel.h.
 */
#ifndef ASDSL_MATMUL_PANEL_H
#define ASDSL_MATMUL_PANEL_H
#include "matmul.h"

#if HAS_K_PANELS

/* Columns from which panels pay: how much faster they are than tiles that unpack, 4096x1536, 2 threads of Zen 3
 * (medians of 9, seen once; bench/gemm.ts --library A --library B compares two builds).
 *
 *     columns    5    6    7    8   10   12   16
 *     q4_0    0.78 0.99 1.12 1.12 1.12 1.14 1.13
 *     q4_1    0.92 0.96 1.10 1.19 1.16 1.10 1.12
 *     q5_0    1.06 1.04 1.23 1.26 1.21 1.19 1.27
 *     q5_1    0.61 1.08 1.30 1.29 1.25 1.21 1.25
 *     q8_0    0.65 0.97 1.12 1.11 1.10 1.07 1.06
 *     iq4_nl  1.02 1.02 1.09 1.10 1.07 1.12 1.15
 *     q3_k    1.03 1.08 1.06 1.03 1.12 1.17 1.16
 *     q4_k    0.82 0.91 0.96 0.99 0.99 1.13 1.12
 *     q5_k    0.92 1.00 1.16 1.16 1.15 1.13 1.16
 *     q6_k    0.87 0.97 1.26 1.24 1.26 1.30 1.33
 *
 * Level avxvnni, blocks of 256 alone (matmul_k_panel.h), 2048x2048, 2 threads of Emerald Rapids, as above:
 *
 *     columns    7    8   12   16   32  512
 *     q3_k    0.99 0.90 0.95 1.00 1.07 1.01
 *     q5_k    1.13 1.15 1.07 1.08 1.03 1.08
 *     q6_k    1.20 1.29 1.27 1.24 1.13 1.37
 *
 * q4_k of 14, 16, 24, 64 and 512 columns: 1.10 1.04 1.12 1.18 1.20. */
enum { PANELS_FROM = 7 };

/* So many columns are one pass over the records, in the order of memory, PANEL_INPUTS_FEW at a time. Of more,
 * PANEL_INPUTS for each of REGION_GROUPS in turn. */
enum { PANEL_FEW = 64, PANEL_INPUTS_FEW = 256 };

/* What a worker's scratch holds. */
struct panels {
    uint8_t panel[PANEL_BYTES];
    float sums[2][REGION_GROUPS][REGION_COLUMNS][KERNEL_ROWS]; /* of each weight */
};
_Static_assert(sizeof(struct panels) == PANELS_BYTES, "layout.h has its size");

/* Writes the panels of `cols` inputs, records from `records` on; d: their scales, in them or before them. */
typedef void unpack_fn(const uint8_t *records, const uint8_t *d, int32_t cols, void *panel);

/* A type's constants. */
struct panel_type {
    int32_t type, record, inputs, act; /* bytes of a record, its inputs, bytes of their activations */
    bool has_header;                   /* of scales d, before a group's records */
    unpack_fn *unpack;
    int32_t widest;
    tile_fn *const *tiles[2]; /* their groups are panels; to their sums is added. The second fetch what comes next */
    int32_t fetches;          /* of those, for each record */
};

/* A region: row groups [g0, g1), up to REGION_GROUPS, times columns [c0, c0 + n), up to REGION_COLUMNS. */
struct region {
    int32_t g0, g1, c0, n;
};

/* A run of records, the same of each group: n from `first` on, `cols` inputs (the last may have less than a whole one).
 */
struct run {
    int32_t first, n, cols;
};

/* Record i of group g. */
static inline const uint8_t *panel_record(const struct panel_type *type, int32_t cols, const uint8_t *w, int32_t g,
                                          int32_t i) {
    size_t header = type->has_header ? (size_t)header_bytes(cols) : 0;
    return w + (size_t)g * (size_t)group_bytes(type->type, cols) + header + (size_t)i * (size_t)type->record;
}
static inline const uint8_t *panel_scales(const struct panel_type *type, int32_t cols, const uint8_t *w, int32_t g,
                                          int32_t i) {
    if (!type->has_header) return panel_record(type, cols, w, g, i);
    return w + (size_t)g * (size_t)group_bytes(type->type, cols) + 32 * (size_t)i;
}

/* What is fetched while a run of group g is multiplied: the records that are unpacked next, or, where one group's are
 * read through, those PREFETCH_AHEAD behind. */
static inline const uint8_t *panel_next(const struct matmul_job *job, const struct panel_type *type,
                                        const struct region *r, const uint8_t *w, int32_t g, struct run run) {
    if (r->g1 - r->g0 == 1) return panel_record(type, job->cols, w, g, run.first) + PREFETCH_AHEAD;
    if (g + 1 < r->g1) return panel_record(type, job->cols, w, g + 1, run.first);
    return panel_record(type, job->cols, w, r->g0, run.first + run.n);
}

/* So many lines a tile asks for in one go; of more, its loop asks for one now and then: asked for at once they filled
 * the queue to memory, and the tile waited. GMAC/s of 65536x1536, 2 threads of Zen 3, q6_k, 7, 8, 12 and 16 columns:
 * 106 105 127 136 at once, 118 117 128 140 now and then; of 512 columns, a line or two for each tile, 175 and 173 (by
 * turns, seen once). */
enum { PANEL_AT_ONCE = 6 * LINE };

/* A run of a region: sums (groups, REGION_COLUMNS, KERNEL_ROWS) += w's products. Each tile asks for its part of the
 * records that come next: by the first tile alone they came too late (q4_k, 16 columns, 75 MB of weights, one thread of
 * Zen 3: 64 GMAC/s instead of 86, seen once). */
static inline void panel_run(const struct matmul_job *job, const struct panel_type *type, const struct region *r,
                             const uint8_t *w, struct run run, uint8_t *panel,
                             float (*sums)[REGION_COLUMNS][KERNEL_ROWS]) {
    int32_t n_tiles = (r->n + type->widest - 1) / type->widest, fetched = run.n * type->record / n_tiles;
    bool at_once = fetched <= PANEL_AT_ONCE;
    struct tile t = {.group = panel, .act_stride = job->act_stride, .cols = run.cols};
    t.next_step = ((size_t)fetched + (size_t)(run.n * type->fetches) - 1) / (size_t)(run.n * type->fetches);
    const uint8_t *act = (const uint8_t *)job->act + (size_t)run.first * (size_t)type->act;
    for (int32_t g = r->g0; g < r->g1; g++, sums++) {
        const uint8_t *records = panel_record(type, job->cols, w, g, run.first);
        const uint8_t *ahead = panel_next(job, type, r, w, g, run);
        type->unpack(records, panel_scales(type, job->cols, w, g, run.first), run.cols, panel);
        for (int32_t i = 0, c = 0, n; i < n_tiles; i++, c += n, ahead += fetched) {
            n = (r->n - c + (n_tiles - i) - 1) / (n_tiles - i);
            t.act = act + (size_t)(r->c0 + c) * job->act_stride;
            t.sums = (*sums)[c];
            t.next = ahead;
            if (at_once) prefetch_lines(ahead, fetched);
            type->tiles[!at_once][n](&t);
        }
    }
}

static inline void panel_region(const struct matmul_job *job, const struct panel_type *type, const struct region *r,
                                int32_t most_records, struct panels *s) {
    int32_t n_records = (job->cols + type->inputs - 1) / type->inputs, n_weights = job->w2 ? 2 : 1;
    for (int32_t i = 0; i < n_weights; i++)
        for (int32_t g = 0; g < r->g1 - r->g0; g++) memset(s->sums[i][g], 0, (size_t)r->n * sizeof *s->sums[i][g]);
    for (struct run run = {0}; run.first < n_records; run.first += run.n) {
        int32_t left = job->cols - run.first * type->inputs;
        run.n = n_records - run.first < most_records ? n_records - run.first : most_records;
        run.cols = left < run.n * type->inputs ? left : run.n * type->inputs;
        panel_run(job, type, r, job->w, run, s->panel, s->sums[0]);
        if (job->w2) panel_run(job, type, r, job->w2, run, s->panel, s->sums[1]);
    }
    for (int32_t g = r->g0; g < r->g1; g++) {
        matmul_finish(job, g, r->c0, r->n, *s->sums[0][g - r->g0], *s->sums[1][g - r->g0]);
    }
}

/* As matmul_run. */
static inline void panel_product(const struct matmul_job *job, const struct panel_type *type, int32_t begin,
                                 int32_t end, struct panels *s) {
    int32_t n_parts = (job->n + REGION_COLUMNS - 1) / REGION_COLUMNS;
    bool few = job->n <= PANEL_FEW;
    int32_t most_groups = few ? 1 : REGION_GROUPS,
            most_records = (few ? PANEL_INPUTS_FEW : PANEL_INPUTS) / type->inputs;
    for (struct region r = {.g0 = begin}; r.g0 < end; r.g0 = r.g1) {
        r.g1 = end - r.g0 < most_groups ? end : r.g0 + most_groups;
        r.c0 = 0;
        for (int32_t left = n_parts; left > 0; left--, r.c0 += r.n) {
            r.n = (job->n - r.c0 + left - 1) / left;
            panel_region(job, type, &r, most_records, s);
        }
    }
}

SIMD_INLINE bv *panel_line(uint8_t line[LINE], int h) { return (bv *)(void *)(line + 4 * LANES * h); }

/* NAME_panel_job, of its NAME_panels (unpack_fn) and NAME_panel_tile. */
#define PANEL_PRODUCT(NAME, TYPE, TILES, RECORD, INPUTS, ACT_BYTES, HAS_HEADER, FETCHES)                               \
    TILES(MATMUL_TILE, NAME##_panel, 0)                                                                                \
    TILES(MATMUL_TILE, NAME##_panel, 1)                                                                                \
    static tile_fn *const NAME##_panel_tiles[] = {NULL, TILES(MATMUL_TILE_NAME, NAME##_panel, 0)};                     \
    static tile_fn *const NAME##_panel_fetching[] = {NULL, TILES(MATMUL_TILE_NAME, NAME##_panel, 1)};                  \
    static void NAME##_panel_job(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {            \
        static const struct panel_type type = {                                                                        \
            TYPE,                                                                                                      \
            RECORD,                                                                                                    \
            INPUTS,                                                                                                    \
            ACT_BYTES,                                                                                                 \
            HAS_HEADER,                                                                                                \
            NAME##_panels,                                                                                             \
            TILES_IN(NAME##_panel_tiles),                                                                              \
            {NAME##_panel_tiles, NAME##_panel_fetching},                                                               \
            FETCHES,                                                                                                   \
        };                                                                                                             \
        panel_product(job, &type, begin, end, scratch);                                                                \
    }

/* Both slots of a type: panels for LEAST columns and more. */
#define PANEL_SLOTS(NAME, TYPE, LEAST)                                                                                 \
    static void NAME##_job(const struct matmul_job *job, int32_t begin, int32_t end, int32_t block, void *scratch) {   \
        if (job->n >= (LEAST)) {                                                                                       \
            NAME##_panel_job(job, begin, end, scratch);                                                                \
        } else {                                                                                                       \
            matmul_run(job, begin, end, TYPE, &NAME##_tiles, block);                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    matmul_fn KERNEL(NAME##_gemv), KERNEL(NAME##_gemm);                                                                \
    void KERNEL(NAME##_gemv)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        NAME##_job(job, begin, end, matmul_few(job, &NAME##_tiles), scratch);                                          \
    }                                                                                                                  \
    void KERNEL(NAME##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        NAME##_job(job, begin, end, matmul_block(job, TYPE), scratch);                                                 \
    }
#endif

#endif
