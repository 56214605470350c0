/* kernels_matmul.c: every weight type, level, column count and tail of the matmul family.
 *
 * Oracles: reference_matmul.c (double sums, published formulas) within the bound that `check_bound` derives; the
 * portable level to the bit for every other level, for every number of columns and for split ranges; the original bytes
 * for repacking there and back. gemm_rounded likewise, with the first level that has one in portable's place. Buffers
 * end or, in every other call, begin at a page that may not be touched.
 */
#include "../asdsl.h"
#include "../kernels/layout.h"
#include "check.h"
#include "guarded.h"
#include "levels.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* MORE_COLUMNS, MORE_ROWS, MORE_INPUTS: more than one region of matmul_panel.h has, and panels at once, with a last
 * block of 32 alone. */
enum {
    FEW_COLUMNS = 64,
    MORE_COLUMNS = REGION_COLUMNS + 4,
    MORE_ROWS = 16 * REGION_GROUPS + 21,
    MORE_INPUTS = PANEL_INPUTS + 96,
    MANY_COLUMNS = 512
};

static uint64_t state = 88172645463325252u;

static uint32_t next_u32(void) { return random_u32(&state); }

static float uniform(void) { return (float)(int32_t)next_u32() * 0x1p-31f; }

/* ---- weights ---- */
enum fill { RANDOM, EXTREME, OUTLIER, ZERO, FILLS };

static void put_f16(uint8_t *p, enum fill fill) {
    uint32_t h = next_u32();
    h = fill == EXTREME ? 0x3c00 : (h & 0x8000) | ((h >> 16 & 7) + 8) << 10 | (h & 0x3ff); /* 1, or +-2^-7 .. 2 */
    if (fill == RANDOM && next_u32() % 16 == 0) h &= 0x83ff;                               /* subnormal */
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void put_float(uint8_t *p, int32_t type, enum fill fill) {
    float x = fill == EXTREME ? 1.0f : uniform() * (fill == OUTLIER && next_u32() % 64 == 0 ? 1000.0f : 1.0f);
    if (type == ASDSL_F16) {
        put_f16(p, fill);
    } else {
        uint8_t bytes[4];
        memcpy(bytes, &x, 4);
        memcpy(p, type == ASDSL_F32 ? bytes : bytes + 2, type == ASDSL_F32 ? 4 : 2);
    }
}

/* Types with a second scale, of minima, after d. */
static bool has_minima(int32_t type) {
    return type == ASDSL_Q4_1 || type == ASDSL_Q5_1 || type == ASDSL_Q2_K || type == ASDSL_Q4_K || type == ASDSL_Q5_K;
}

/* Where a block's d is. */
static int scale_offset(int32_t type) {
    return type == ASDSL_Q2_K ? 80 : type == ASDSL_Q3_K ? 108 : type == ASDSL_Q6_K ? 208 : 0;
}

/* A matrix in the ROWS layout. Quants and scale bytes are any bytes at all. */
static void fill_rows(uint8_t *rows, const struct type_facts *t, size_t n_blocks, enum fill fill) {
    size_t bytes = n_blocks * (size_t)t->block_bytes;
    for (size_t i = 0; i < bytes; i++) rows[i] = fill == EXTREME ? 0xff : (uint8_t)next_u32();
    if (fill == EXTREME && t->type == ASDSL_Q8_0) memset(rows, 0x80, bytes); /* -128 */
    if (fill == EXTREME && t->type == ASDSL_IQ4_NL) memset(rows, 0, bytes);  /* -127 */
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = rows + b * (size_t)t->block_bytes;
        if (t->block == 1) {
            put_float(block, t->type, fill);
        } else {
            bool is_zero_extreme = t->type == ASDSL_Q3_K || t->type == ASDSL_IQ4_XS; /* the least scale and weight */
            if (fill == EXTREME && is_zero_extreme && b % 2 == 0) memset(block, 0, (size_t)t->block_bytes);
            put_f16(block + scale_offset(t->type), fill);
            if (has_minima(t->type)) put_f16(block + scale_offset(t->type) + 2, fill);
            if (fill == EXTREME && t->type == ASDSL_Q6_K) memset(block + 192, 0x80, 16);
        }
    }
    if (fill == ZERO) memset(rows, 0, bytes);
}

static void fill_activations(float *x, int32_t n, int32_t cols, enum fill fill) {
    for (int32_t i = 0; i < n * cols; i++) {
        x[i] = uniform();
        if (fill == EXTREME) x[i] = i / cols % 3 == 0 ? 127.0f : i / cols % 3 == 1 ? -127.0f : i % 2 ? 127.0f : -127.0f;
        if (fill == OUTLIER && next_u32() % 100 == 0) x[i] *= 1000.0f;
        if (fill == ZERO && i / cols % 2 == 0) x[i] = 0.0f;
    }
}

/* ---- one case ---- */
struct test_case {
    const struct type_facts *t;
    int32_t rows, cols, columns, run;
    enum fill fill;
    bool rounded; /* gemm_rounded is what is checked */
    struct guarded w[2], w2[2], act[2]; /* one that ends at a forbidden page, one that begins there */
    double *magnitude[2];                       /* of sums over w and w2, (bound_columns, rows) */
    float *bias, *golden[EPILOGUE_SOFTCAP + 1]; /* (columns, rows) of each epilogue, of the level that judges */
};

static const char *const fill_names[] = {"random", "extreme", "outlier", "zero"};
static const int32_t column_counts[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10,           11,          12,
                                        13, 14, 15, 16, 17, 31, 32, 33, 64, MORE_COLUMNS, MANY_COLUMNS};

#define SOFTCAP 3.0f

static bool has_two(enum matmul_epilogue epilogue) {
    return epilogue == EPILOGUE_SILU_MUL || epilogue == EPILOGUE_GELU_MUL;
}

static struct matmul_job job_of(const struct test_case *c, int side, enum matmul_epilogue epilogue, int32_t n,
                                float *out) {
    return (struct matmul_job){.w = c->w[side].data,
                               .w2 = has_two(epilogue) ? c->w2[side].data : NULL,
                               .rows = c->rows,
                               .cols = c->cols,
                               .act = c->act[side].data,
                               .act_stride = activation_row_bytes(c->t->activation, c->cols),
                               .n = n,
                               .out = out,
                               .out_stride = (size_t)c->rows + 3,
                               .bias = epilogue == EPILOGUE_STORE || epilogue == EPILOGUE_SOFTCAP ? c->bias : NULL,
                               .epilogue = epilogue,
                               .softcap = epilogue == EPILOGUE_SOFTCAP ? SOFTCAP : 0,
                               .fetch_ahead = epilogue == EPILOGUE_STORE};
}

static float start_value(size_t i) { return (float)(i % 17) - 8.0f; }

/* Runs the slot that run_matmul.c would take, as one range or as two, with all buffers at one side of their pages; out
 * comes back compact, (n, rows). */
static void run_slot(const struct test_case *c, int side, const struct kernels *k, enum matmul_epilogue epilogue,
                     int32_t n, int32_t split, float *out) {
    size_t stride = (size_t)c->rows + 3, floats = (size_t)(n - 1) * stride + (size_t)c->rows;
    struct guarded g = guarded_alloc(floats * 4, side);
    float *at = (float *)(void *)g.data;
    for (size_t i = 0; i < floats; i++) at[i] = start_value(i % stride);
    struct matmul_job job = job_of(c, side, epilogue, n, at);
    const struct type_kernels *of = &k->type[c->t->type];
    matmul_fn *slot = c->rounded ? of->gemm_rounded : n <= KERNEL_GEMV_MAX ? of->gemv : of->gemm;
    int32_t groups = (c->rows + 15) / 16;
    struct guarded scratch = guarded_alloc(matmul_scratch_bytes(), side);
    slot(&job, 0, split, scratch.data);
    slot(&job, split, groups, scratch.data);
    guarded_free(&scratch);
    for (int32_t t = 0; t < n; t++) {
        memcpy(out + (size_t)t * (size_t)c->rows, at + (size_t)t * stride, (size_t)c->rows * 4);
        for (size_t i = (size_t)c->rows; i < stride && (size_t)t * stride + i < floats; i++) {
            CHECK(at[(size_t)t * stride + i] == start_value(i), "%s.%s wrote past its rows", c->t->name, k->level);
        }
    }
    guarded_free(&g);
}

/* Sum over inputs of |w| |x|, the offset of a weight counted by itself (its product is added by itself). */
static double magnitude(const struct test_case *c, const void *w, int32_t row, int32_t t) {
    const uint8_t *group = (const uint8_t *)w + (size_t)(row / 16) * group_bytes(c->t->type, c->cols);
    const uint8_t *act = c->act[0].data + (size_t)t * activation_row_bytes(c->t->activation, c->cols);
    double sum = 0;
    for (int32_t k = 0; k < c->cols; k++) {
        struct element e = layout_element(c->t->type, group, c->cols, row % 16, k);
        double x = c->t->activation == ASDSL_ACT_F32 ? ((const float *)(const void *)act)[k]
                   : c->t->activation == ASDSL_ACT_Q8_32
                       ? (double)((const struct act_q8_32 *)(const void *)act)[k / 32].d *
                             ((const struct act_q8_32 *)(const void *)act)[k / 32].q[k % 32]
                       : (double)((const struct act_q8_256 *)(const void *)act)[k / 256].d *
                             ((const struct act_q8_256 *)(const void *)act)[k / 256].q[k % 256];
        sum += (fabs((double)e.scale * e.q) + fabs((double)e.offset)) * fabs(x);
    }
    return sum;
}

static int32_t bound_columns(const struct test_case *c) { return c->rows > 64 ? 2 : 4; } /* the reference is slow */

/* Once a case: again for every epilogue takes a fifth of the program's time. */
static double *magnitudes(const struct test_case *c, const void *w) {
    int32_t n = bound_columns(c);
    double *all = malloc(sizeof *all * (size_t)n * (size_t)c->rows), *next = all;
    for (int32_t t = 0; t < n; t++)
        for (int32_t r = 0; r < c->rows; r++) *next++ = magnitude(c, w, r, t);
    return all;
}

/* A chain of `steps` fused steps on terms whose magnitudes sum to S errs by at most steps * 2^-24 * S; a term itself is
 * rounded at most three times (the product of scales, the conversion of an integer above 2^24, the activation's sum).
 */
static double chain_bound(const struct test_case *c, double magnitude) {
    int32_t blocks = c->cols / c->t->block, steps = has_minima(c->t->type) ? 2 : 1;
    return (blocks * steps + 4) * 0x1p-24 * magnitude;
}

static void check_bound(const struct test_case *c, enum matmul_epilogue epilogue) {
    const struct kernels *reference = kernels_for(ASDSL_LEVEL_REFERENCE);
    int32_t n = bound_columns(c);
    float *want = calloc((size_t)n * (size_t)c->rows, 4);
    run_slot(c, c->run % 2, reference, epilogue, n, 1, want);
    for (int32_t t = 0; t < n; t++)
        for (int32_t r = 0; r < c->rows; r++) {
            size_t i = (size_t)t * (size_t)c->rows + (size_t)r;
            double got = c->golden[epilogue][i], expected = want[i];
            double gate = c->magnitude[0][i], up = c->magnitude[1][i], bound = chain_bound(c, gate);
            bool exact = c->fill == EXTREME && c->cols == c->t->block && c->t->block > 1 &&
                         epilogue == EPILOGUE_STORE && c->bias == NULL && gate < 0x1p24 && !c->rounded;
            if (has_two(epilogue)) /* slopes below 1.13; silu and gelu to 1e-6; sums of both weights err */
                bound = 1.13 * bound * up + chain_bound(c, up) * gate + 1e-6 * gate * up;
            if (epilogue == EPILOGUE_SOFTCAP) bound += 1e-6 * SOFTCAP; /* slope 1 at most; tanh itself */
            bound += 3 * 0x1p-24 * (fabs(expected) + 8) + 1e-37;
            if (exact) bound = 0;
            CHECK(fabs(got - expected) <= bound,
                  "%s%s rows %d cols %d fill %s epilogue %d row %d column %d: %.9g, not %.9g +- %g", c->t->name,
                  c->rounded ? " rounded" : "", c->rows, c->cols, fill_names[c->fill], epilogue, r, t, got, expected,
                  bound);
        }
    free(want);
}

static void check_level(const struct test_case *c, const struct kernels *k) {
    float *out = malloc((size_t)c->columns * (size_t)c->rows * 4);
    int32_t groups = (c->rows + 15) / 16, next = 0;
    for (size_t i = 0; i < sizeof column_counts / sizeof *column_counts; i++) {
        int32_t n = column_counts[i];
        for (int32_t epilogue = EPILOGUE_STORE; epilogue <= EPILOGUE_SOFTCAP; epilogue++) {
            bool all = n == 1 || n == 3 || n == 33 || n == FEW_COLUMNS || n == MORE_COLUMNS;
            if (n > c->columns || (epilogue != EPILOGUE_STORE && !all)) continue;
            int32_t split = next++ % (groups + 1);
            int side = ((int)i + c->run + epilogue) % 2;
            run_slot(c, side, k, (enum matmul_epilogue)epilogue, n, split, out);
            CHECK(memcmp(out, c->golden[epilogue], (size_t)n * (size_t)c->rows * 4) == 0,
                  "%s%s.%s rows %d cols %d columns %d fill %s epilogue %d split %d: other bits than the judge's",
                  c->t->name, c->rounded ? " rounded" : "", k->level, c->rows, c->cols, n, fill_names[c->fill],
                  epilogue, split);
        }
    }
    free(out);
}

/* A buffer's content at both sides of its pages. */
static void fill_both(struct guarded both[2], const uint8_t *data, size_t bytes) {
    for (int side = 0; side < 2; side++) {
        both[side] = guarded_alloc(bytes, side);
        memcpy(both[side].data, data, bytes);
    }
}

static void make_weights(struct test_case *c, struct guarded both[2]) {
    size_t blocks = (size_t)c->rows * (size_t)c->cols / (size_t)c->t->block, bytes = blocks * (size_t)c->t->block_bytes;
    struct guarded rows = guarded_alloc(bytes, c->run % 2), back = guarded_alloc(bytes, c->run % 2);
    int32_t groups = (c->rows + 15) / 16;
    fill_rows(rows.data, c->t, blocks, c->fill);
    struct guarded w = guarded_alloc((size_t)interleaved_bytes(c->t, c->rows, c->cols), c->run % 2);
    memset(w.data, 0xa5, w.bytes);
    repack_for(c->t->type, 1)(rows.data, w.data, c->rows, c->cols, 0, groups / 2);
    repack_for(c->t->type, 1)(rows.data, w.data, c->rows, c->cols, groups / 2, groups);
    repack_for(c->t->type, 0)(w.data, back.data, c->rows, c->cols, 0, groups);
    CHECK(memcmp(rows.data, back.data, bytes) == 0, "%s rows %d cols %d: repacking lost bytes", c->t->name, c->rows,
          c->cols);
    fill_both(both, w.data, w.bytes);
    guarded_free(&rows);
    guarded_free(&back);
    guarded_free(&w);
}

static void make_activations(struct test_case *c, uint32_t usable) {
    size_t stride = activation_row_bytes(c->t->activation, c->cols);
    float *x = malloc((size_t)c->columns * (size_t)c->cols * 4);
    uint8_t *act = malloc(stride * (size_t)c->columns);
    fill_activations(x, c->columns, c->cols, c->fill);
    if (c->t->activation == ASDSL_ACT_F32) {
        for (int32_t t = 0; t < c->columns; t++)
            memcpy(act + (size_t)t * stride, x + (size_t)t * (size_t)c->cols, (size_t)c->cols * 4);
    } else {
        struct guarded in = guarded_alloc((size_t)c->cols * 4, c->run % 2), other = guarded_alloc(stride, c->run % 2);
        for (int32_t t = 0; t < c->columns; t++) {
            memcpy(in.data, x + (size_t)t * (size_t)c->cols, in.bytes);
            for (int32_t l = -1; l < N_LEVELS; l++) { /* -1: the oracle */
                if (l >= 0 && !(usable >> levels[l] & 1)) continue;
                const struct kernels *k = kernels_for(l < 0 ? ASDSL_LEVEL_REFERENCE : levels[l]);
                quantize_row_fn *f = c->t->activation == ASDSL_ACT_Q8_32 ? k->quantize_q8_32 : k->quantize_q8_256;
                memset(other.data, 0, stride);
                f((const float *)(const void *)in.data, c->cols, other.data);
                if (l < 0) {
                    memcpy(act + (size_t)t * stride, other.data, stride);
                } else {
                    CHECK(memcmp(act + (size_t)t * stride, other.data, stride) == 0,
                          "quantize %s cols %d: other bits than the reference", k->level, c->cols);
                }
            }
        }
        guarded_free(&in);
        guarded_free(&other);
    }
    fill_both(c->act, act, stride * (size_t)c->columns);
    free(act);
    free(x);
}

/* What level `judge` makes, against the reference: it judges the others. */
static void make_golden(struct test_case *c, int32_t judge) {
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++) {
        run_slot(c, c->run % 2, kernels_for(judge), (enum matmul_epilogue)e, c->columns, 0, c->golden[e]);
        check_bound(c, (enum matmul_epilogue)e);
    }
}

static void check_rounded(struct test_case *c, uint32_t usable) {
    for (size_t l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1) || !kernels_for(levels[l])->type[c->t->type].gemm_rounded) continue;
        if (!c->rounded) {
            c->rounded = true;
            make_golden(c, levels[l]);
        }
        check_level(c, kernels_for(levels[l]));
    }
}

static void check_case(const struct type_facts *t, int32_t rows, int32_t cols, int32_t columns, enum fill fill,
                       int32_t run, uint32_t usable) {
    struct test_case c = {.t = t, .rows = rows, .cols = cols, .columns = columns, .fill = fill, .run = run};
    make_weights(&c, c.w);
    make_weights(&c, c.w2);
    make_activations(&c, usable);
    for (int i = 0; i < 2; i++) c.magnitude[i] = magnitudes(&c, (i ? c.w2 : c.w)[0].data);
    if (run % 3 == 0) {
        c.bias = malloc((size_t)rows * 4);
        for (int32_t i = 0; i < rows; i++) c.bias[i] = uniform() * 8;
    }
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++)
        c.golden[e] = malloc((size_t)columns * (size_t)rows * 4);
    make_golden(&c, ASDSL_LEVEL_PORTABLE);
    for (size_t l = 0; l < N_LEVELS; l++)
        if (usable >> levels[l] & 1) check_level(&c, kernels_for(levels[l]));
    check_rounded(&c, usable);
    float *row = malloc((size_t)cols * 4), *want = malloc((size_t)cols * 4);
    for (int32_t r = 0; r < rows; r += 7)
        for (size_t l = 0; l < N_LEVELS; l++) {
            if (!(usable >> levels[l] & 1)) continue;
            kernels_for(ASDSL_LEVEL_REFERENCE)->type[t->type].gather_row(c.w[run % 2].data, rows, cols, r, want);
            kernels_for(levels[l])->type[t->type].gather_row(c.w[run % 2].data, rows, cols, r, row);
            CHECK(memcmp(row, want, (size_t)cols * 4) == 0, "%s gather_row %d of %d", t->name, r, rows);
        }
    free(row);
    free(want);
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++) free(c.golden[e]);
    free(c.bias);
    free(c.magnitude[0]);
    free(c.magnitude[1]);
    for (int side = 0; side < 2; side++)
        guarded_free(&c.w[side]), guarded_free(&c.w2[side]), guarded_free(&c.act[side]);
}

/* Half of the time goes to large matrices. AddressSanitizer's build has them at one width: more of them are more
 * numbers, for the build without it to compare, and no other lines, levels, tails or fills of the kernels. */
#if defined(__SANITIZE_ADDRESS__)
enum { FULL = 0 };
#else
enum { FULL = 1 };
#endif

/* NaN and infinity: no crash, the same bits at every level, and a scale that shows the fault. */
static void check_not_finite(uint32_t usable) {
    float x[512];
    static _Alignas(64) uint8_t first[2048], other[2048];
    for (int kind = 0; kind < 4; kind++)
        for (int at = 0; at < 512; at += 37) {
            for (int i = 0; i < 512; i++) x[i] = uniform();
            x[at] = kind == 0 ? NAN : kind == 1 ? INFINITY : kind == 2 ? -INFINITY : 0x1p-130f;
            if (kind == 3)
                for (int i = 0; i < 512; i++) x[i] = i == at ? 0x1p-130f : 0.0f;
            for (size_t l = 0; l < N_LEVELS; l++) {
                if (!(usable >> levels[l] & 1)) continue;
                const struct kernels *k = kernels_for(levels[l]);
                memset(other, 0, sizeof other);
                k->quantize_q8_32(x, 512, other);
                struct act_q8_32 *a = (struct act_q8_32 *)(void *)other;
                CHECK(kind == 3 ? a[at / 32].d == 0 : isnan(a[at / 32].d), "q8_32 %s: a fault at %d is hidden",
                      k->level, at);
                if (levels[l] == ASDSL_LEVEL_PORTABLE) memcpy(first, other, sizeof first);
                CHECK(memcmp(first, other, sizeof first) == 0, "q8_32 %s: faults give other bits", k->level);
            }
            for (size_t l = 0; l < N_LEVELS; l++) {
                if (!(usable >> levels[l] & 1)) continue;
                const struct kernels *k = kernels_for(levels[l]);
                memset(other, 0, sizeof other);
                k->quantize_q8_256(x, 512, other);
                struct act_q8_256 *a = (struct act_q8_256 *)(void *)other;
                CHECK(kind == 3 ? a[at / 256].d == 0 : isnan(a[at / 256].d), "q8_256 %s: a fault at %d is hidden",
                      k->level, at);
                if (levels[l] == ASDSL_LEVEL_PORTABLE) memcpy(first, other, sizeof first);
                CHECK(memcmp(first, other, sizeof first) == 0, "q8_256 %s: faults give other bits", k->level);
            }
        }
}

int main(void) {
    static const int32_t types[] = {ASDSL_F32,  ASDSL_F16,  ASDSL_BF16,   ASDSL_Q4_0, ASDSL_Q4_1,
                                    ASDSL_Q5_0, ASDSL_Q5_1, ASDSL_IQ4_NL, ASDSL_Q8_0, ASDSL_Q2_K,
                                    ASDSL_Q3_K, ASDSL_Q4_K, ASDSL_Q5_K,   ASDSL_Q6_K, ASDSL_IQ4_XS};
    static const int32_t row_counts[] = {1, 15, 16, 17, 33, 172, 192};
    uint32_t usable = usable_levels();
    int32_t run = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct type_facts *t = type_facts(types[i]);
        int32_t widths[4] = {t->block, 3 * t->block, t->block == 1 ? 192 : t->block * 2,
                             t->block == 32 ? 576 : 5 * t->block};
        for (int32_t w = 0; w < 4; w++)
            for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++, run++) {
                if (row_counts[r] > 64 && w != 1 && !(FULL && w == 3)) continue;
                check_case(t, row_counts[r], widths[w], FEW_COLUMNS, (enum fill)(run % FILLS), run, usable);
            }
        check_case(t, 16, t->block, FEW_COLUMNS, EXTREME, 1, usable); /* no bias, one block: exact */
        check_case(t, 33, widths[1], MANY_COLUMNS, RANDOM, run, usable);
        if (FULL && t->block > 1) {
            check_case(t, MORE_ROWS, t->block == 32 ? MORE_INPUTS : widths[3], MORE_COLUMNS, RANDOM, run, usable);
        }
        if (FULL) check_case(t, 576, widths[t->block == 256 ? 0 : 1], FEW_COLUMNS, OUTLIER, run + 1, usable);
    }
    for (int32_t i = 0; i < 16; i++) {
        double off = iq4_nl_values[i] - (double)IQ4_NL_STEP * (iq4_nl_rounded[i] - IQ4_NL_ZERO);
        CHECK(fabs(off) <= 1.69, "iq4_nl_rounded %d is off by %g", i, off);
    }
    check_not_finite(usable);
    return check_report("kernels_matmul");
}
