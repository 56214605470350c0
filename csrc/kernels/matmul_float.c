/* matmul_float.c: products of float weights (f32, f16, bf16) with float activations.
 *
 * A row's sum is one chain, sum = fma(w[k], x[k], sum) in the order of k. To hide its latency several chains run side
 * by side: columns, and with few of them row groups. Compiled once per level.
 */
#include "matmul.h"

/* strips: vectors of LANES rows, HALVES to a group, groups `stride` bytes apart. sums: (strip, column) */
#define FLOAT_STRIPS(NAME, TYPE, LOAD, BYTES)                                                                          \
    SIMD_INLINE void NAME##_strips(const struct tile *t, size_t stride, const int strips, const int n, fv *sums) {     \
        for (int i = 0; i < strips * n; i++) sums[i] = fv_zero();                                                      \
        for (size_t k = 0; k < (size_t)t->cols; k++) {                                                                 \
            fv x[TILE_COLS];                                                                                           \
            for (int c = 0; c < n; c++) {                                                                              \
                float value;                                                                                           \
                memcpy(&value, t->act + (size_t)c * t->act_stride + 4 * k, 4);                                         \
                x[c] = fv_set1(value);                                                                                 \
            }                                                                                                          \
            for (int s = 0; s < strips; s++) {                                                                         \
                const uint8_t *w =                                                                                     \
                    t->group + s / HALVES * stride + KERNEL_ROWS * BYTES * k + s % HALVES * LANES * BYTES;             \
                fv weights = LOAD(w);                                                                                  \
                for (int c = 0; c < n; c++) sums[s * n + c] = fv_fma(weights, x[c], sums[s * n + c]);                  \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    SIMD_INLINE void NAME##_tile(const struct tile *t, const int n, const int prefetch) {                              \
        fv sums[HALVES * TILE_COLS];                                                                                   \
        (void)prefetch; /* 64 bytes a step: the hardware keeps up */                                                   \
        NAME##_strips(t, 0, HALVES, n, sums);                                                                          \
        for (int c = 0; c < n; c++)                                                                                    \
            for (int s = 0; s < HALVES; s++) fv_store(t->sums + c * KERNEL_ROWS + s * LANES, sums[s * n + c]);         \
    }                                                                                                                  \
    /* GROUPS row groups against one column. */                                                                        \
    static void NAME##_groups(const struct tile *t, size_t stride) {                                                   \
        fv sums[GROUPS * HALVES];                                                                                      \
        NAME##_strips(t, stride, GROUPS * HALVES, 1, sums);                                                            \
        for (int s = 0; s < GROUPS * HALVES; s++) fv_store(t->sums + s * LANES, sums[s]);                              \
    }                                                                                                                  \
    TILES_FLOATS(MATMUL_TILE, NAME, 0)                                                                                 \
    static tile_fn *const NAME##_tiles_0[] = {NULL, TILES_FLOATS(MATMUL_TILE_NAME, NAME, 0)};                          \
    static const struct tile_set NAME##_tiles = {NAME##_tiles_0, NAME##_tiles_0, NULL, TILES_IN(NAME##_tiles_0)};      \
    matmul_fn KERNEL(NAME##_gemv), KERNEL(NAME##_gemm);                                                                \
    void KERNEL(NAME##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        (void)scratch;                                                                                                 \
        matmul_run(job, begin, end, TYPE, &NAME##_tiles, matmul_block(job, TYPE));                                     \
    }                                                                                                                  \
    void KERNEL(NAME##_gemv)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {                \
        (void)scratch;                                                                                                 \
        if (job->n == 1) begin = few_columns(job, begin, end, TYPE, NAME##_groups);                                    \
        matmul_run(job, begin, end, TYPE, &NAME##_tiles, 1);                                                           \
    }

enum { GROUPS = 4 };
typedef void groups_fn(const struct tile *t, size_t stride);

/* One column: GROUPS row groups at a time as long as there are so many; returns the first group that is left. */
static int32_t few_columns(const struct matmul_job *job, int32_t begin, int32_t end, int32_t type, groups_fn *groups) {
    _Alignas(64) float sums[GROUPS * KERNEL_ROWS], sums2[GROUPS * KERNEL_ROWS];
    size_t stride = (size_t)group_bytes(type, job->cols);
    struct tile t = {.act = job->act, .act_stride = job->act_stride, .cols = job->cols};
    for (; end - begin >= GROUPS; begin += GROUPS) {
        t.group = (const uint8_t *)job->w + (size_t)begin * stride;
        t.sums = sums;
        groups(&t, stride);
        if (job->w2) {
            t.group = (const uint8_t *)job->w2 + (size_t)begin * stride;
            t.sums = sums2;
            groups(&t, stride);
        }
        for (int32_t i = 0; i < GROUPS; i++) {
            matmul_finish(job, begin + i, 0, 1, sums + i * KERNEL_ROWS, sums2 + i * KERNEL_ROWS);
        }
    }
    return begin;
}

FLOAT_STRIPS(f32, ASDSL_F32, fv_load, 4)
FLOAT_STRIPS(f16, ASDSL_F16, fv_load_f16, 2)
FLOAT_STRIPS(bf16, ASDSL_BF16, fv_load_bf16, 2)
