/* kernels_encode.c: floats to blocks and back, at every level.
 *
 * Oracles: the portable level to the bit for every other level and for rows that are encoded together or alone;
 * decoding by layout.h, whose error must not be above that of rounding to nearest with the scale that just reaches the
 * largest weight (types with a scale of their own for each block, whose search begins there). Buffers end at a guard
 * page.
 */
#include "../asdsl.h"
#include "../kernels/layout.h"
#include "check.h"
#include "guarded.h"
#include "levels.h"
#include <math.h>
#include <stdbool.h>

static uint32_t usable;
static uint64_t state = 0x1234567;

static float uniform(void) { return (float)(int32_t)random_u32(&state) * 0x1p-31f; }

enum kind { PLAIN, CONSTANT, TINY, HUGE_ONES, OUTLIERS, POSITIVE, ZERO, N_KINDS };

static float value(enum kind kind, int32_t i) {
    float u = uniform(), v = u * u * u;
    switch (kind) {
    case CONSTANT: return i < 300 ? -0.375f : 0.2f;
    case TINY: return v * 1e-7f;
    case HUGE_ONES: return v * 1e30f;
    case OUTLIERS: return random_u32(&state) % 50 ? v : v * 1000.0f;
    case POSITIVE: return 1.0f + fabsf(v);
    case ZERO: return 0.0f;
    default: return v;
    }
}

/* Weights of a sub-block. */
static int32_t width_of(int32_t type) {
    if (type_facts(type)->block == 1) return 1;
    return type == ASDSL_Q3_K || type == ASDSL_Q6_K ? 16 : 32;
}

/* What the encoders make small: encode.h. importance may be NULL. */
static double weight_of(const float *x, const float *importance, int32_t k, int32_t width) {
    double squares = 0;
    for (int32_t i = k / width * width; i < (k / width + 1) * width; i++) squares += (double)x[i] * (double)x[i];
    return (importance ? (double)importance[k] : 1.0) * (sqrt(squares / width) + fabs((double)x[k]));
}

static double error_of(int32_t type, const float *x, const float *importance, int32_t cols, const void *row) {
    const struct type_facts *t = type_facts(type);
    void *records = calloc(1, (size_t)interleaved_bytes(t, 1, cols));
    double sum = 0;
    repack_for(type, 1)(row, records, 1, cols, 0, 1);
    for (int32_t k = 0; k < cols; k++) {
        struct element e = layout_element(type, records, cols, 0, k);
        double r = (double)x[k] - ((double)e.scale * e.q + (double)e.offset);
        sum += weight_of(x, importance, k, width_of(type)) * r * r;
    }
    free(records);
    return sum;
}

/* The same of y = d q, q in -levels .. levels, d a half float. */
static double naive_error(const float *x, const float *importance, int32_t cols, float levels_of) {
    double sum = 0;
    for (int32_t b = 0; b < cols; b += 32) {
        float largest = 0;
        for (int32_t i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[b + i]));
        double d = (double)(_Float16)(largest / levels_of);
        for (int32_t i = 0; i < 32; i++) {
            double q = d > 0 ? nearbyint((double)x[b + i] / d) : 0;
            q = q > levels_of ? levels_of : q < -levels_of ? -levels_of : q;
            double r = (double)x[b + i] - d * q;
            sum += weight_of(x, importance, b + i, 32) * r * r;
        }
    }
    return sum;
}

static void test_type(int32_t type, enum kind kind, int32_t rows, int32_t cols, bool weighted) {
    const struct type_facts *t = type_facts(type);
    size_t n = (size_t)rows * (size_t)cols, row_bytes = (size_t)(cols / t->block) * (size_t)t->block_bytes;
    struct guarded x = guarded_alloc(4 * n, 0), w = guarded_alloc(4 * (size_t)cols, 0);
    struct guarded out = guarded_alloc(row_bytes * (size_t)rows, 0), golden = guarded_alloc(out.bytes, 0);
    float *in = (float *)(void *)x.data, *weights = (float *)(void *)w.data;
    for (size_t i = 0; i < n; i++) in[i] = value(kind, (int32_t)i);
    for (int32_t i = 0; i < cols; i++) weights[i] = i % 7 == 0 ? 0.0f : expf(4 * uniform());
    const float *importance = weighted ? weights : NULL;
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        const struct kernels *k = kernels_for(levels[l]);
        k->encode[type](in, importance, (int32_t)n, cols, out.data);
        if (l == 0) memcpy(golden.data, out.data, out.bytes);
        CHECK(memcmp(golden.data, out.data, out.bytes) == 0, "%s, kind %d, %d x %d at level %d: other bytes", t->name,
              kind, rows, cols, levels[l]);
        k->encode[type](in + n - (size_t)cols, importance, cols, cols, out.data);
        CHECK(memcmp(golden.data + row_bytes * (size_t)(rows - 1), out.data, row_bytes) == 0,
              "%s, kind %d: the last row alone has other bytes at level %d", t->name, kind, levels[l]);
    }
    float naive = type == ASDSL_Q4_0 ? 7 : type == ASDSL_Q5_0 ? 15 : type == ASDSL_Q8_0 ? 127 : 0;
    double error = error_of(type, in, importance, cols, golden.data), size = 0;
    for (int32_t i = 0; i < cols; i++) {
        size += weight_of(in, importance, i, width_of(type)) * (double)in[i] * (double)in[i];
    }
    CHECK(error <= size * (1 + 1e-9) + 1e-300, "%s, kind %d: error %g of %g", t->name, kind, error, size);
    if (naive > 0 && kind != HUGE_ONES) {
        double most = naive_error(in, importance, cols, naive);
        CHECK(error <= most * 1.000001 + 1e-300, "%s, kind %d: error %g, rounding to nearest has %g", t->name, kind,
              error, most);
    }
    guarded_free(&x), guarded_free(&w), guarded_free(&out), guarded_free(&golden);
}

/* Half floats of every kind, and how many of the last vector are left. */
static void test_expand(void) {
    for (int32_t n = 1; n < 40; n++) {
        struct guarded h = guarded_alloc(2 * (size_t)n, 0), y = guarded_alloc(4 * (size_t)n, 0);
        for (int32_t i = 0; i < 2 * n; i++) h.data[i] = (uint8_t)random_u32(&state);
        for (int l = 0; l < N_LEVELS; l++) {
            if (!(usable >> levels[l] & 1)) continue;
            kernels_for(levels[l])->expand_f16(h.data, n, (float *)(void *)y.data);
            for (int32_t i = 0; i < n; i++) {
                float got, want = f16_at(h.data + 2 * i);
                memcpy(&got, y.data + 4 * i, 4);
                CHECK(memcmp(&got, &want, 4) == 0 || (isnan(got) && isnan(want)),
                      "half %d of %d at level %d: %g, not %g", i, n, levels[l], (double)got, (double)want);
            }
        }
        guarded_free(&h), guarded_free(&y);
    }
}

int main(void) {
    static const int32_t types[] = {ASDSL_F32,  ASDSL_F16,  ASDSL_BF16, ASDSL_Q4_0,   ASDSL_Q4_1,
                                    ASDSL_Q5_0, ASDSL_Q5_1, ASDSL_Q8_0, ASDSL_IQ4_NL, ASDSL_Q3_K,
                                    ASDSL_Q4_K, ASDSL_Q5_K, ASDSL_Q6_K};
    usable = usable_levels();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct type_facts *t = type_facts(types[i]);
        for (enum kind kind = 0; kind < N_KINDS; kind++) {
            test_type(types[i], kind, 3, t->block == 1 ? 37 : 3 * t->block, false);
            test_type(types[i], kind, 1, t->block == 1 ? 16 : t->block, true);
        }
    }
    test_expand();
    return check_report("kernels_encode");
}
