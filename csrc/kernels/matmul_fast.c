/* matmul_fast.c: products of panels and strips (matmul_fast.h): the gemm of `--prefill fast`, one for all types.
 *
 * A worker makes the panels of a few row groups, which stay in its second cache, and goes over all columns with them: a
 * tile of columns comes from memory once for each such block. Inside 256 inputs the dot is an exact integer, at most
 * 256 * 255 * 127 = 8.3 M; between blocks a row's sum is
 *   sum = fma(dot, d_w * d_a, sum)
 * in block order, whatever tile it falls in. Results of different levels differ: their panels do. Compiled once per
 * level.
 */
#include "matmul_fast.h"
#include "matmul.h"

enum { TILE_MOST_COLS = 4 * STRIP_COLS };

struct fast_tile {
    const uint8_t *panel, *strips; /* of the row group; of the first column */
    size_t strip_bytes;
    int32_t steps; /* of 4 inputs, over the whole width */
    float *sums;   /* (columns, KERNEL_ROWS), result */
};
typedef void fast_tile_fn(const struct fast_tile *t);

/* One block of `steps` steps, LANES rows from half h on. */
SIMD_INLINE void fast_block(float *sums, const uint8_t *panel, const uint8_t *strips, size_t stride, int32_t steps,
                            int h, const int n_strips) {
    iv dots[TILE_MOST_COLS];
    const uint8_t *w = panel + LINE + 4 * LANES * h, *a = strips;
    UNROLL
    for (int c = 0; c < STRIP_COLS * n_strips; c++) {
        const struct strip_tail *tail = tail_of(strips + (size_t)(c / STRIP_COLS) * stride, steps);
        dots[c] = panel_start(tail->minus128 + c % STRIP_COLS);
    }
    ROLLED
    for (int32_t l = 0; l < steps; l += 4, w += 4 * LINE, a += 4 * STRIP_LINE) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            bv x = panel_load(w + LINE * i);
            UNROLL
            for (int c = 0; c < STRIP_COLS * n_strips; c++) {
                const uint8_t *at = a + (size_t)(c / STRIP_COLS) * stride + STRIP_LINE * i + 4 * (c % STRIP_COLS);
                dots[c] = panel_dot(dots[c], x, av_load(at));
            }
        }
    }
    fv d = fv_load(panel + 4 * LANES * h);
    UNROLL
    for (int c = 0; c < STRIP_COLS * n_strips; c++) {
        float *sum = sums + c * KERNEL_ROWS + LANES * h;
        fv scale = fv_mul(d, fv_set1(tail_of(a + (size_t)(c / STRIP_COLS) * stride, 0)->d[c % STRIP_COLS]));
        fv_store(sum, fv_fma(fv_from_i32(dots[c]), scale, fv_load(sum)));
    }
}

SIMD_INLINE void fast_tile(const struct fast_tile *t, const int n_strips) {
    const uint8_t *panel = t->panel, *strips = t->strips;
    UNROLL
    for (int c = 0; c < STRIP_COLS * n_strips; c++) f32x16_store(t->sums + c * KERNEL_ROWS, f32x16_zero());
    ROLLED
    for (int32_t left = t->steps; left > 0; left -= FAST_BLOCK / 4) {
        int32_t steps = left < FAST_BLOCK / 4 ? left : FAST_BLOCK / 4;
        for (int h = 0; h < HALVES; h++) fast_block(t->sums, panel, strips, t->strip_bytes, steps, h, n_strips);
        panel += LINE + LINE * steps;
        strips += STRIP_LINE * steps + sizeof(struct strip_tail);
    }
}

#define TILE(N)                                                                                                        \
    static void fast_tile_##N(const struct fast_tile *t) { fast_tile(t, N); }
#define TILE_NAME(N) fast_tile_##N,
PANEL_TILES(TILE)
static fast_tile_fn *const fast_tiles[] = {NULL, PANEL_TILES(TILE_NAME)};

/* Columns of strips [s0, s0 + n_strips) against the panels of groups [first, last): w's, then w2's. */
static void fast_columns(const struct matmul_job *job, const uint8_t *panels, int32_t first, int32_t last, int32_t s0,
                         int32_t n_strips) {
    _Alignas(64) float sums[TILE_MOST_COLS * KERNEL_ROWS], sums2[TILE_MOST_COLS * KERNEL_ROWS];
    size_t bytes = panel_bytes(job->cols);
    int32_t t0 = STRIP_COLS * s0, n = STRIP_COLS * n_strips;
    struct fast_tile t = {.strips = (const uint8_t *)job->act + (size_t)s0 * job->act_stride,
                          .strip_bytes = job->act_stride,
                          .steps = fast_cols(job->cols) / 4};
    if (n > job->n - t0) n = job->n - t0;
    for (int32_t g = first; g < last; g++) {
        t.panel = panels + (size_t)(g - first) * bytes;
        t.sums = sums;
        fast_tiles[n_strips](&t);
        if (job->w2) {
            t.panel += (size_t)(last - first) * bytes;
            t.sums = sums2;
            fast_tiles[n_strips](&t);
        }
        matmul_finish(job, g, t0, n, sums, sums2);
    }
}

static void fast_run(const struct matmul_job *job, int32_t begin, int32_t end, size_t stride, panel_fn *make,
                     uint8_t *panels) {
    int32_t n_strips = (job->n + STRIP_COLS - 1) / STRIP_COLS, widest = TILES_IN(fast_tiles);
    int32_t n_tiles = (n_strips + widest - 1) / widest, at_once = panels_at_once(job->cols, job->w2 ? 2 : 1);
    for (int32_t first = begin; first < end; first += at_once) {
        int32_t last = end - first < at_once ? end : first + at_once;
        uint8_t *panel = panels;
        for (int32_t i = 0; i < (job->w2 ? 2 : 1); i++)
            for (int32_t g = first; g < last; g++, panel += panel_bytes(job->cols)) {
                make((const uint8_t *)(i ? job->w2 : job->w) + (size_t)g * stride, job->cols, panel);
            }
        for (int32_t i = 0, s0 = 0, n; i < n_tiles; i++, s0 += n) {
            n = (n_strips - s0 + (n_tiles - i) - 1) / (n_tiles - i);
            fast_columns(job, panels, first, last, s0, n);
        }
    }
}

#define FAST_SLOT(NAME, TYPE)                                                                                          \
    panel_fn KERNEL(NAME##_panel);                                                                                     \
    matmul_fn KERNEL(NAME##_gemm_fast);                                                                                \
    void KERNEL(NAME##_gemm_fast)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {           \
        fast_run(job, begin, end, (size_t)group_bytes(TYPE, job->cols), KERNEL(NAME##_panel), scratch);                \
    }
FAST_SLOT(f32, ASDSL_F32)
FAST_SLOT(f16, ASDSL_F16)
FAST_SLOT(bf16, ASDSL_BF16)
FAST_SLOT(q8_0, ASDSL_Q8_0)
FAST_SLOT(q2_k, ASDSL_Q2_K)
FAST_SLOT(iq4_xs, ASDSL_IQ4_XS)
#if !HAS_PANELS /* table.c: PANEL_TYPES, ROUNDED_TYPES */
FAST_SLOT(iq4_nl, ASDSL_IQ4_NL)
FAST_SLOT(q4_0, ASDSL_Q4_0)
FAST_SLOT(q4_1, ASDSL_Q4_1)
FAST_SLOT(q5_0, ASDSL_Q5_0)
FAST_SLOT(q5_1, ASDSL_Q5_1)
FAST_SLOT(q3_k, ASDSL_Q3_K)
FAST_SLOT(q4_k, ASDSL_Q4_K)
FAST_SLOT(q5_k, ASDSL_Q5_K)
FAST_SLOT(q6_k, ASDSL_Q6_K)
#endif
