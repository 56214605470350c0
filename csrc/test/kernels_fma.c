/* kernels_fma.c: the float variant of the matmul (csrc/oracle/matmul_fma.c) between the two that it stands between.
 *
 * Oracles. The reference kernel (double sums, published formulas), given the same activations: the variant is within
 * the bound of a float chain. The variant, given float activations: every integer slot of every level is within what
 * quantising them can do, sum of |w| d / 2, besides both chains. Neither knows how the other unpacks a weight.
 */
#include "check.h"
#if !defined(__x86_64__)
int main(void) { return check_report("kernels_fma: skipped, the variant is AVX2's"); }
#else
#include "../asdsl.h"
#include "../kernels/layout.h"
#include "../oracle/matmul_fma.h"
#include "guarded.h"
#include "levels.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static uint64_t state = 88172645463325252u;

static float uniform(void) { return (float)(int32_t)random_u32(&state) * 0x1p-31f; }

/* +-2^-7 .. 2 */
static void put_scale(uint8_t *p) {
    uint32_t h = random_u32(&state);
    h = (h & 0x8000) | ((h >> 16 & 7) + 8) << 10 | (h & 0x3ff);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Interleaved weights of any codes and scale bytes, between pages that may not be touched. */
static struct guarded make_weights(const struct type_facts *t, int32_t rows, int32_t cols) {
    size_t blocks = (size_t)rows * (size_t)(cols / t->block), size = (size_t)t->block_bytes;
    uint8_t *from = malloc(blocks * size);
    for (size_t i = 0; i < blocks * size; i++) from[i] = (uint8_t)random_u32(&state);
    for (size_t b = 0; b < blocks; b++) {
        put_scale(from + b * size + (t->type == ASDSL_Q6_K ? 208 : 0));
        if (t->type == ASDSL_Q4_1 || t->type == ASDSL_Q4_K) put_scale(from + b * size + 2);
    }
    struct guarded w = guarded_alloc((size_t)interleaved_bytes(t, rows, cols), rows % 2);
    repack_for(t->type, 1)(from, w.data, rows, cols, 0, (rows + KERNEL_ROWS - 1) / KERNEL_ROWS);
    free(from);
    return w;
}

/* Activations of one column: as given, quantised, and what the quantised ones stand for. */
struct column {
    float *x, *stands_for, *unit; /* (cols); unit: the quantised block's d */
    struct guarded act;
};

static struct column make_column(const struct type_facts *t, int32_t cols, bool has_outliers) {
    const struct kernels *k = kernels_for(ASDSL_LEVEL_REFERENCE);
    size_t bytes = (size_t)cols * sizeof(float);
    struct column c = {.x = malloc(bytes), .stands_for = malloc(bytes), .unit = malloc(bytes)};
    for (int32_t i = 0; i < cols; i++) c.x[i] = uniform() * (has_outliers && random_u32(&state) % 100 == 0 ? 1000 : 1);
    c.act = guarded_alloc(activation_row_bytes(t->activation, cols), cols % 2);
    (t->activation == ASDSL_ACT_Q8_32 ? k->quantize_q8_32 : k->quantize_q8_256)(c.x, cols, c.act.data);
    for (int32_t i = 0; i < cols; i++) {
        const struct act_q8_32 *narrow = (const struct act_q8_32 *)(const void *)c.act.data + i / 32;
        const struct act_q8_256 *wide = (const struct act_q8_256 *)(const void *)c.act.data + i / 256;
        bool is_narrow = t->activation == ASDSL_ACT_Q8_32;
        c.unit[i] = is_narrow ? narrow->d : wide->d;
        c.stands_for[i] = c.unit[i] * (float)(is_narrow ? narrow->q[i % 32] : wide->q[i % 256]);
    }
    return c;
}

static void free_column(struct column *c) {
    free(c->x);
    free(c->stands_for);
    free(c->unit);
    guarded_free(&c->act);
}

/* What the unsigned code of a weight is larger than the weight's q by. */
static double code_offset(int32_t type) {
    return type == ASDSL_Q5_0 ? 16 : type == ASDSL_Q6_K ? 32 : type == ASDSL_Q8_0 ? 128 : 0;
}

/* Sums over a row: of |w| d / 2, of the absolute terms that the variant adds up, and of those that a slot does. */
struct magnitudes {
    double quantisation, variant, slot;
};

static struct magnitudes magnitudes_of(const struct type_facts *t, const struct guarded *w, int32_t cols, int32_t row,
                                       const struct column *c) {
    const uint8_t *group = w->data + (size_t)(row / KERNEL_ROWS) * group_bytes(t->type, cols);
    struct magnitudes m = {0};
    for (int32_t k = 0; k < cols; k++) {
        struct element e = layout_element(t->type, group, cols, row % KERNEL_ROWS, k);
        double scale = fabs((double)e.scale), offset = fabs((double)e.offset), code = code_offset(t->type);
        double x = fmax(fabs((double)c->x[k]), fabs((double)c->stands_for[k]));
        m.quantisation += fabs((double)e.scale * e.q + e.offset) * (double)c->unit[k] / 2;
        m.variant += (scale * (fabs((double)e.q) + 2 * code) + offset) * x;
        m.slot += (scale * fabs((double)e.q) + offset) * x;
    }
    return m;
}

/* A chain of n steps on terms whose magnitudes sum to S errs by at most n 2^-24 S. Inside a block a place's sum has 8
 * steps, folding and the offset 4, the sum of 32 inputs 31, a product of scales, the input (stands_for is rounded)
 * and the output one each: 48 cover them. Between blocks there are two for each, a K-quant's sub-block counting as one.
 */
static double variant_bound(int32_t cols, const struct magnitudes *m) {
    return (48 + 2 * cols / 16) * 0x1p-24 * m->variant;
}

static void run_fma(const struct type_facts *t, const struct guarded *w, int32_t rows, int32_t cols, const float *x,
                    float *out) {
    int32_t groups = (rows + KERNEL_ROWS - 1) / KERNEL_ROWS;
    float *x16 = malloc((size_t)cols / 16 * sizeof(float));
    fma_sums(x, cols, x16);
    struct fma_job job = {.type = t->type, .w = w->data, .cols = cols, .x = x, .x16 = x16, .out = out};
    matmul_fma(&job, 0, groups / 2);
    matmul_fma(&job, groups / 2, groups);
    free(x16);
}

static void run_slot(const struct type_facts *t, const struct kernels *k, const struct guarded *w, int32_t rows,
                     int32_t cols, const struct column *c, float *out) {
    struct matmul_job job = {.w = w->data,
                             .rows = rows,
                             .cols = cols,
                             .act = c->act.data,
                             .act_stride = activation_row_bytes(t->activation, cols),
                             .n = 1,
                             .out = out,
                             .out_stride = (size_t)rows,
                             .epilogue = EPILOGUE_STORE};
    k->type[t->type].gemv(&job, 0, (rows + KERNEL_ROWS - 1) / KERNEL_ROWS, NULL);
}

static void check_case(const struct type_facts *t, int32_t rows, int32_t cols, bool has_outliers, uint32_t usable) {
    struct guarded w = make_weights(t, rows, cols);
    struct column c = make_column(t, cols, has_outliers);
    size_t bytes = ((size_t)rows + KERNEL_ROWS) * sizeof(float);
    float *same = malloc(bytes), *given = malloc(bytes), *want = malloc(bytes), *got = malloc(bytes);
    run_fma(t, &w, rows, cols, c.stands_for, same);
    run_fma(t, &w, rows, cols, c.x, given);
    run_slot(t, kernels_for(ASDSL_LEVEL_REFERENCE), &w, rows, cols, &c, want);
    struct magnitudes *m = malloc((size_t)rows * sizeof *m);
    for (int32_t r = 0; r < rows; r++) {
        m[r] = magnitudes_of(t, &w, cols, r, &c);
        double bound = variant_bound(cols, &m[r]);
        CHECK(fabs((double)same[r] - (double)want[r]) <= bound, "%s cols %d row %d: %.9g, not %.9g +- %g", t->name,
              cols, r, (double)same[r], (double)want[r], bound);
    }
    for (int32_t l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        const struct kernels *k = kernels_for(levels[l]);
        run_slot(t, k, &w, rows, cols, &c, got);
        for (int32_t r = 0; r < rows; r++) {
            double slot = (2 * cols / t->block + 4) * 0x1p-24 * m[r].slot; /* kernels_matmul.c, chain_bound */
            double bound = m[r].quantisation * (1 + 0x1p-20) + slot + variant_bound(cols, &m[r]);
            CHECK(fabs((double)got[r] - (double)given[r]) <= bound, "%s.%s cols %d row %d: %.9g, floats %.9g +- %g",
                  t->name, k->level, cols, r, (double)got[r], (double)given[r], bound);
        }
    }
    free(same);
    free(given);
    free(want);
    free(got);
    free(m);
    free_column(&c);
    guarded_free(&w);
}

int main(void) {
    static const int32_t types[] = {ASDSL_Q4_1, ASDSL_Q5_0, ASDSL_Q8_0, ASDSL_Q4_K, ASDSL_Q6_K};
    uint32_t usable = usable_levels();
    if (!(usable >> ASDSL_LEVEL_AVX2 & 1)) return check_report("kernels_fma: skipped, the variant needs AVX2");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct type_facts *t = type_facts(types[i]);
        for (int32_t n = 1; n <= 9; n += 2) { /* odd numbers of blocks: the last of a pair's types stands alone */
            check_case(t, 16 * n + n, n * t->block, false, usable);
            check_case(t, 40, (n + 1) * t->block, true, usable);
        }
    }
    return check_report("kernels_fma");
}
#endif
