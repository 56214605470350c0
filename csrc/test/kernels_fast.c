/* kernels_fast.c: the kernels of `--prefill fast`: strips of every activation type, gemm_fast of every weight type
 * and level that has one.
 *
 * Oracles: for strips the reference's, to the bit; for gemm_fast the reference with the weights as they are, within the
 * bound that `worst_error` derives from the second rounding, and on random weights within its variance; for other
 * numbers of columns and other ranges of row groups the same kernel's results, to the bit. Buffers, scratch among them,
 * end (odd runs: begin) at a page that may not be touched.
 */
#include "../asdsl.h"
#include "../kernels/matmul_fast.h"
#include "check.h"
#include "guarded.h"
#include "levels.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { COLUMNS = 64, BOUND_COLUMNS = 5 }; /* the reference is slow */
#define SOFTCAP 3.0f

static uint64_t state = 88172645463325252u;
static uint32_t next_u32(void) { return random_u32(&state); }
static float uniform(void) { return (float)(int32_t)next_u32() * 0x1p-31f; }

/* The largest weight of a panel: 7 bits where the instruction would saturate with 8. */
static double panel_max(int32_t level) { return level == ASDSL_LEVEL_AVX2 ? 63 : 127; }

/* ---- weights ---- */
static void put_f16(uint8_t *p) { /* +-2^-4 .. 2 */
    uint32_t h = next_u32();
    h = (h & 0x8000) | ((h >> 16 & 3) + 11) << 10 | (h & 0x3ff);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* Offsets of f16 scales in a block of GGUF, -1: none. */
static void scale_offsets(int32_t type, int32_t *first, int32_t *second) {
    *first = type == ASDSL_Q2_K ? 80 : type == ASDSL_Q3_K ? 108 : type == ASDSL_Q6_K ? 208 : 0;
    bool two =
        type == ASDSL_Q4_1 || type == ASDSL_Q5_1 || type == ASDSL_Q2_K || type == ASDSL_Q4_K || type == ASDSL_Q5_K;
    *second = two ? *first + 2 : -1;
}

/* Any bytes as quants; scales of one magnitude. */
static void fill_rows(uint8_t *rows, const struct type_facts *t, size_t n_blocks) {
    int32_t first, second;
    scale_offsets(t->type, &first, &second);
    for (size_t i = 0; i < n_blocks * (size_t)t->block_bytes; i++) rows[i] = (uint8_t)next_u32();
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = rows + b * (size_t)t->block_bytes;
        float x = uniform();
        if (t->type == ASDSL_F32)
            memcpy(block, &x, 4);
        else if (t->type == ASDSL_BF16)
            memcpy(block, (const uint8_t *)&x + 2, 2);
        else
            put_f16(block + first);
        if (second >= 0) put_f16(block + second);
    }
}

static struct guarded make_weights(const struct type_facts *t, int32_t rows, int32_t cols, int32_t run) {
    size_t blocks = (size_t)rows * (size_t)cols / (size_t)t->block;
    uint8_t *plain = malloc(blocks * (size_t)t->block_bytes);
    fill_rows(plain, t, blocks);
    struct guarded w = guarded_alloc((size_t)interleaved_bytes(t, rows, cols), run % 2);
    repack_for(t->type, 1)(plain, w.data, rows, cols, 0, (rows + 15) / 16);
    free(plain);
    return w;
}

/* ---- activations ---- */
static strips_fn *strips_of(const struct kernels *k, int32_t act_type) {
    return act_type == ASDSL_ACT_Q8_256  ? k->strips_q8_256
           : act_type == ASDSL_ACT_Q8_32 ? k->strips_q8_32
                                         : k->strips_f32;
}

static size_t strips_bytes(int32_t cols, int32_t n) {
    return (size_t)((n + STRIP_COLS - 1) / STRIP_COLS) * strip_bytes(cols);
}

static struct guarded make_rows(int32_t act_type, int32_t cols, int32_t run) {
    size_t stride = activation_row_bytes(act_type, cols);
    struct guarded rows = guarded_alloc(stride * COLUMNS, run % 2);
    const struct kernels *k = kernels_for(ASDSL_LEVEL_REFERENCE);
    float *x = malloc(sizeof *x * (size_t)cols);
    for (int32_t t = 0; t < COLUMNS; t++) {
        for (int32_t i = 0; i < cols; i++)
            x[i] = t % 9 == 5 && i / 32 % 3 == 1 ? 0 : uniform() * (next_u32() % 50 ? 1 : 20);
        if (act_type == ASDSL_ACT_F32)
            memcpy(rows.data + (size_t)t * stride, x, sizeof *x * (size_t)cols);
        else
            (act_type == ASDSL_ACT_Q8_32 ? k->quantize_q8_32 : k->quantize_q8_256)(x, cols,
                                                                                   rows.data + (size_t)t * stride);
    }
    free(x);
    return rows;
}

/* Strips of n columns, as one range or as two. */
static struct guarded make_strips(const struct kernels *k, const struct guarded *rows, int32_t act_type, int32_t cols,
                                  int32_t n, int32_t run) {
    struct guarded strips = guarded_alloc(strips_bytes(cols, n), run % 2);
    int32_t n_strips = (n + STRIP_COLS - 1) / STRIP_COLS, split = run % (n_strips + 1);
    size_t stride = activation_row_bytes(act_type, cols);
    memset(strips.data, 0xa5, strips.bytes);
    strips_of(k, act_type)(rows->data, stride, cols, n, split, n_strips, strips.data);
    strips_of(k, act_type)(rows->data, stride, cols, n, 0, split, strips.data);
    return strips;
}

static void check_strips(int32_t act_type, int32_t cols, int32_t run, uint32_t usable) {
    static const int32_t counts[] = {1, 4, 17, COLUMNS};
    struct guarded rows = make_rows(act_type, cols, run);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct guarded want = make_strips(kernels_for(ASDSL_LEVEL_REFERENCE), &rows, act_type, cols, counts[i], run);
        for (int32_t l = 0; l < N_LEVELS; l++) {
            if (!(usable >> levels[l] & 1)) continue;
            struct guarded got = make_strips(kernels_for(levels[l]), &rows, act_type, cols, counts[i], run + l);
            CHECK(memcmp(want.data, got.data, want.bytes) == 0,
                  "strips of type %d, %s, %d inputs, %d columns: other bytes than the reference's", act_type,
                  kernels_for(levels[l])->level, cols, counts[i]);
            guarded_free(&got);
        }
        guarded_free(&want);
    }
    guarded_free(&rows);
}

/* ---- products ---- */
/* What a sum may be off by: for rounding floats, and for weights that move by half a step if a step is the largest. */
struct error {
    double magnitude; /* sum of |w| |x| */
    double rounding, half_steps, variance;
};

struct test_case {
    const struct type_facts *t;
    int32_t rows, cols, run;
    struct guarded w, w2, strips;
    float *bias; /* (rows) or NULL */
    /* (BOUND_COLUMNS, rows), the same for every level: of sums over w and w2, and the reference's results. */
    struct error *error[2];
    float *want[EPILOGUE_SOFTCAP + 1];
};

static bool has_two(enum matmul_epilogue epilogue) {
    return epilogue == EPILOGUE_SILU_MUL || epilogue == EPILOGUE_GELU_MUL;
}

/* out: (n, rows), what it held before is 1. */
static void run_slot(const struct test_case *c, const struct kernels *k, enum matmul_epilogue epilogue, int32_t n,
                     int32_t split, float *out) {
    size_t stride = (size_t)c->rows + 3, floats = (size_t)(n - 1) * stride + (size_t)c->rows;
    int32_t weights = has_two(epilogue) ? 2 : 1, groups = (c->rows + 15) / 16;
    size_t panels = panel_bytes(c->cols) * (size_t)(weights * panels_at_once(c->cols, weights));
    struct guarded g = guarded_alloc(floats * 4, c->run % 2), scratch = guarded_alloc(panels, c->run % 2);
    float *at = (float *)(void *)g.data;
    for (size_t i = 0; i < floats; i++) at[i] = i % stride < (size_t)c->rows ? 1 : -7;
    struct matmul_job job = {.w = c->w.data,
                             .w2 = weights == 2 ? c->w2.data : NULL,
                             .rows = c->rows,
                             .cols = c->cols,
                             .act = c->strips.data,
                             .act_stride = strip_bytes(c->cols),
                             .n = n,
                             .out = at,
                             .out_stride = stride,
                             .bias = weights == 2 ? NULL : c->bias,
                             .epilogue = epilogue,
                             .softcap = epilogue == EPILOGUE_SOFTCAP ? SOFTCAP : 0};
    k->type[c->t->type].gemm_fast(&job, split, groups, scratch.data);
    k->type[c->t->type].gemm_fast(&job, 0, split, scratch.data);
    for (int32_t t = 0; t < n; t++) {
        memcpy(out + (size_t)t * (size_t)c->rows, at + (size_t)t * stride, (size_t)c->rows * 4);
        for (size_t i = (size_t)t * stride + (size_t)c->rows; i < (size_t)(t + 1) * stride && i < floats; i++) {
            CHECK(at[i] == -7, "%s.%s wrote past its rows", c->t->name, k->level);
        }
    }
    guarded_free(&g);
    guarded_free(&scratch);
}

/* A weight moves by half a step at most, and by what the float arithmetic of scale * byte + offset rounds; a step is
 * the largest magnitude of the row's block / PANEL_MAX. Errors of half a step at most, independent and uniform, have
 * the variance step^2 / 12. */
static struct error error_of(const struct test_case *c, const void *w, int32_t row, int32_t t) {
    const uint8_t *group = (const uint8_t *)w + (size_t)(row / 16) * group_bytes(c->t->type, c->cols);
    const uint8_t *strip = c->strips.data + (size_t)(t / STRIP_COLS) * strip_bytes(c->cols);
    struct error e = {0};
    for (int32_t k0 = 0; k0 < c->cols; k0 += FAST_BLOCK) {
        int32_t n = c->cols - k0 < FAST_BLOCK ? c->cols - k0 : FAST_BLOCK, steps = fast_cols(n) / 4;
        double largest = 0, sum = 0, squares = 0, d = tail_of(strip, steps)->d[t % STRIP_COLS];
        for (int32_t i = 0; i < n; i++) {
            struct element w_i = layout_element(c->t->type, group, c->cols, row % 16, k0 + i);
            int8_t q = (int8_t)strip[STRIP_LINE * (i / 4) + 4 * (t % STRIP_COLS) + i % 4];
            double value = (double)w_i.scale * w_i.q + w_i.offset, parts = 512 * fabs(w_i.scale) + fabs(w_i.offset);
            if (fabs(value) > largest) largest = fabs(value);
            sum += abs(q);
            squares += q * q;
            e.magnitude += fabs(value) * abs(q) * fabs(d);
            e.rounding += 0x1p-22 * parts * abs(q) * fabs(d);
        }
        e.half_steps += largest * 0.5 * sum * d;
        e.variance += largest * largest / 12 * squares * d * d;
        strip += STRIP_LINE * steps + sizeof(struct strip_tail);
    }
    /* One fused step a block and the scales' product round as well. */
    e.rounding += (c->cols / FAST_BLOCK + 4) * 0x1p-23 * e.magnitude;
    return e;
}

/* How far result i may be from the reference's, at a level whose largest weight of a panel is `most`. */
static double bound_of(const struct test_case *c, enum matmul_epilogue epilogue, size_t i, double most) {
    struct error gate = c->error[0][i];
    double worst = gate.rounding + gate.half_steps / most, bound = worst;
    if (has_two(epilogue)) { /* slopes below 1.13; |silu(x)| and |gelu(x)| <= |x| */
        struct error up = c->error[1][i];
        double up_worst = up.rounding + up.half_steps / most;
        bound =
            1.13 * worst * (up.magnitude + up_worst) + up_worst * gate.magnitude + 1e-6 * gate.magnitude * up.magnitude;
    }
    if (epilogue == EPILOGUE_SOFTCAP) bound += 1e-6 * SOFTCAP;
    return bound + 3 * 0x1p-24 * (fabs((double)c->want[epilogue][i]) + 8) + 1e-37;
}

static void check_products(const struct test_case *c, int32_t level) {
    const struct kernels *k = kernels_for(level);
    static const int32_t counts[] = {17, 20, 31, 33, 48, COLUMNS};
    size_t floats = (size_t)COLUMNS * (size_t)c->rows, compared = (size_t)BOUND_COLUMNS * (size_t)c->rows;
    float *golden = malloc(4 * floats), *out = malloc(4 * floats);
    int32_t groups = (c->rows + 15) / 16;
    double most = panel_max(level);
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++) {
        enum matmul_epilogue epilogue = (enum matmul_epilogue)e;
        double squares = 0;
        run_slot(c, k, epilogue, COLUMNS, 0, golden);
        for (size_t i = 0; i < compared; i++) {
            double want = c->want[e][i], off = fabs((double)golden[i] - want), bound = bound_of(c, epilogue, i, most);
            CHECK(off <= bound, "%s.gemm_fast.%s rows %d cols %d epilogue %d row %d column %d: %.9g, not %.9g +- %g",
                  c->t->name, k->level, c->rows, c->cols, e, (int)i % c->rows, (int)i / c->rows, (double)golden[i],
                  want, bound);
            squares += off * off / (c->error[0][i].variance / (most * most) + 1e-30);
        }
        /* Of 80 or more, correlated within a row at most; blocks with few inputs hit the largest weight, which has no
         * error. */
        CHECK(epilogue != EPILOGUE_STORE || compared < 80 || squares / (double)compared < 1.6,
              "%s.gemm_fast.%s rows %d cols %d: errors of %.2f times the variance of rounding", c->t->name, k->level,
              c->rows, c->cols, squares / (double)compared);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            int32_t split = (int32_t)(i + (size_t)e) % (groups + 1);
            run_slot(c, k, epilogue, counts[i], split, out);
            CHECK(memcmp(out, golden, 4 * (size_t)counts[i] * (size_t)c->rows) == 0,
                  "%s.gemm_fast.%s rows %d cols %d epilogue %d: %d columns, split %d give other bits than %d columns",
                  c->t->name, k->level, c->rows, c->cols, e, counts[i], split, COLUMNS);
        }
    }
    free(golden);
    free(out);
}

static void check_case(const struct type_facts *t, int32_t rows, int32_t cols, int32_t run, uint32_t usable) {
    struct test_case c = {.t = t, .rows = rows, .cols = cols, .run = run};
    struct guarded x = make_rows(t->activation, cols, run);
    c.w = make_weights(t, rows, cols, run);
    c.w2 = make_weights(t, rows, cols, run);
    c.strips = make_strips(kernels_for(ASDSL_LEVEL_REFERENCE), &x, t->activation, cols, COLUMNS, run);
    if (run % 3 == 0) {
        c.bias = malloc((size_t)rows * 4);
        for (int32_t i = 0; i < rows; i++) c.bias[i] = uniform() * 8;
    }
    size_t compared = (size_t)BOUND_COLUMNS * (size_t)rows;
    for (int i = 0; i < 2; i++) {
        c.error[i] = malloc(sizeof *c.error[i] * compared);
        for (int32_t j = 0; j < (int32_t)compared; j++)
            c.error[i][j] = error_of(&c, (i ? c.w2 : c.w).data, j % rows, j / rows);
    }
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++) {
        c.want[e] = malloc(4 * compared);
        run_slot(&c, kernels_for(ASDSL_LEVEL_REFERENCE), (enum matmul_epilogue)e, BOUND_COLUMNS, 0, c.want[e]);
    }
    for (int32_t l = 0; l < N_LEVELS; l++)
        if (usable >> levels[l] & 1 && kernels_for(levels[l])->type[t->type].gemm_fast) check_products(&c, levels[l]);
    free(c.bias);
    free(c.error[0]);
    free(c.error[1]);
    for (int32_t e = EPILOGUE_STORE; e <= EPILOGUE_SOFTCAP; e++) free(c.want[e]);
    guarded_free(&x);
    guarded_free(&c.w);
    guarded_free(&c.w2);
    guarded_free(&c.strips);
}

/* A weight that is not finite shows in every product of its row, a block of zeros is zero, and an activation's fault
 * shows in its column. */
static void check_not_finite(uint32_t usable) {
    enum { ROWS = 16, COLS = 512 };
    const struct type_facts *t = type_facts(ASDSL_F32);
    struct test_case c = {.t = t, .rows = ROWS, .cols = COLS};
    c.w = guarded_alloc((size_t)interleaved_bytes(t, ROWS, COLS), 0);
    struct guarded x = guarded_alloc(activation_row_bytes(ASDSL_ACT_F32, COLS) * COLUMNS, 0);
    float *w = (float *)(void *)c.w.data, *act = (float *)(void *)x.data, out[COLUMNS * ROWS];
    for (int32_t i = 0; i < ROWS * COLS; i++) w[i] = i % ROWS == 3 ? 0.0f : i % ROWS == 4 ? 0x1p-120f : 1.0f;
    for (int32_t i = 0; i < COLUMNS * COLS; i++) act[i] = 1.0f;
    w[ROWS * 300 + 5] = NAN, w[ROWS * 10 + 6] = INFINITY, act[COLS * 7 + 400] = -INFINITY;
    for (int32_t l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        const struct kernels *k = kernels_for(levels[l]);
        c.strips = make_strips(k, &x, ASDSL_ACT_F32, COLS, COLUMNS, 0);
        run_slot(&c, k, EPILOGUE_STORE, COLUMNS, 0, out);
        for (int32_t i = 0; i < COLUMNS * ROWS; i++) {
            int32_t row = i % ROWS;
            bool faulty = row == 5 || row == 6 || i / ROWS == 7;
            double want = row == 3 || row == 4 ? 0 : COLS;
            CHECK(faulty ? !isfinite(out[i]) : fabs(out[i] - want) < 1e-3, "%s: row %d, column %d: %g", k->level, row,
                  i / ROWS, out[i]);
        }
        guarded_free(&c.strips);
    }
    guarded_free(&x);
    guarded_free(&c.w);
}

int main(void) {
    static const int32_t types[] = {ASDSL_F32,  ASDSL_F16,  ASDSL_BF16,   ASDSL_Q4_0, ASDSL_Q4_1,
                                    ASDSL_Q5_0, ASDSL_Q5_1, ASDSL_IQ4_NL, ASDSL_Q8_0, ASDSL_Q2_K,
                                    ASDSL_Q3_K, ASDSL_Q4_K, ASDSL_Q5_K,   ASDSL_Q6_K, ASDSL_IQ4_XS};
    static const int32_t act_types[] = {ASDSL_ACT_F32, ASDSL_ACT_Q8_32, ASDSL_ACT_Q8_256};
    static const int32_t widths_1[] = {3, 300}, widths_32[] = {96, 576, 1024}, widths_256[] = {256, 1280};
    uint32_t usable = usable_levels();
    for (int32_t i = 0; i < 3; i++) {
        check_strips(act_types[i], 256, i, usable);
        check_strips(act_types[i], 768, i + 1, usable);
        if (act_types[i] != ASDSL_ACT_Q8_256) check_strips(act_types[i], 288, i + 2, usable);
        if (act_types[i] == ASDSL_ACT_F32) check_strips(act_types[i], 261, i + 3, usable);
    }
    int32_t run = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct type_facts *t = type_facts(types[i]);
        const int32_t *widths = t->block == 1 ? widths_1 : t->block == 32 ? widths_32 : widths_256;
        for (int32_t j = 0; j < (t->block == 32 ? 3 : 2); j++, run++) {
            check_case(t, 1 + 15 * (run % 2), widths[j], run, usable);
            check_case(t, 37, widths[j], run + 1, usable);
        }
    }
    check_case(type_facts(ASDSL_Q8_0), 160, 320, 3, usable); /* more panels than are made at once */
    check_not_finite(usable);
    return check_report("kernels_fast");
}
