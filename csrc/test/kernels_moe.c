/* kernels_moe.c: routing to experts and the sum of their results, at every level.
 *
 * Oracles: reference_rows.c, ids exactly and floats within bounds of first-order rounding analysis; the portable level
 * to the bit for every other level. Buffers end at a guard page.
 */
#include "../asdsl.h"
#include "../kernels/kernels.h"
#include "check.h"
#include "guarded.h"
#include "levels.h"
#include <math.h>
#include <string.h>

static const double EPS = 0x1p-24; /* half an ulp, relative */
static const double EXP = 2e-7;    /* relative error of exp: simd_math.h */
static uint32_t usable;
static uint64_t state = 0x9e3779b97f4a7c15u;

static float uniform(void) { return (float)(int32_t)random_u32(&state) * 0x1p-31f; }

/* ---- routing ---- */
enum logits { SPREAD, TIES, EQUAL, FAR_APART, WITH_NAN, ALL_NAN, WITH_INFINITY, KINDS };

static void fill(float *logits, int32_t n, enum logits kind) {
    for (int32_t i = 0; i < n; i++) {
        float x = 4 * uniform();
        logits[i] = kind == TIES ? (float)(int32_t)x : kind == EQUAL ? 1.5f : kind == FAR_APART ? 60 * x : x;
        if (kind == ALL_NAN || (kind == WITH_NAN && random_u32(&state) % 3 == 0)) logits[i] = NAN;
    }
    if (kind == WITH_NAN) logits[random_u32(&state) % (uint32_t)n] = NAN;
    if (kind == WITH_INFINITY) logits[random_u32(&state) % (uint32_t)n] = n % 2 ? INFINITY : -INFINITY;
}

/* What one row of weights has to be: within rounding, or NaN where a logit was not finite. */
static void check_weights(const float *got, const float *expected, int32_t n_experts, int32_t n_used,
                          enum logits kind) {
    double bound = 3 * EXP + (n_experts / 16 + n_used + 12) * EPS;
    for (int32_t i = 0; i < n_used; i++) {
        double want = expected[i];
        if (kind >= WITH_NAN) {
            CHECK(isnan(got[i]) && isnan(want), "kind %d: weight %g", kind, (double)got[i]);
            continue;
        }
        /* Exponents up to 480 apart: the rounded difference is off by 240 ulp of 1; tiny results vanish. */
        double far = kind == FAR_APART ? 480 * EPS : 8 * EPS;
        CHECK(fabs(got[i] - want) <= (bound + far) * want + 0x1p-120, "kind %d, %d of %d: weight %g, not %g", kind, i,
              n_used, (double)got[i], want);
    }
}

static void test_route(int32_t n_experts, int32_t n_used, int32_t normalise, enum logits kind) {
    size_t bytes = sizeof(float) * (size_t)n_experts, used = sizeof(float) * (size_t)n_used;
    struct guarded in = guarded_alloc(bytes, kind % 2), ids = guarded_alloc(used, 0), weights = guarded_alloc(used, 0);
    struct guarded want_ids = guarded_alloc(used, 0), want = guarded_alloc(used, 0), golden = guarded_alloc(used, 0);
    float *logits = (float *)(void *)in.data, *out = (float *)(void *)weights.data, scale = kind == TIES ? 2.5f : 1;
    fill(logits, n_experts, kind);
    kernels_for(ASDSL_LEVEL_REFERENCE)
        ->moe_route(logits, n_experts, n_used, normalise, scale, (int32_t *)(void *)want_ids.data,
                    (float *)(void *)want.data);
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        memset(ids.data, 255, used);
        kernels_for(levels[l])->moe_route(logits, n_experts, n_used, normalise, scale, (int32_t *)(void *)ids.data,
                                          out);
        CHECK(memcmp(ids.data, want_ids.data, used) == 0, "kind %d, %d of %d at level %d: other experts", kind, n_used,
              n_experts, levels[l]);
        if (l == 0) memcpy(golden.data, out, used);
        CHECK(memcmp(golden.data, out, used) == 0, "kind %d, %d of %d at level %d: other bits", kind, n_used, n_experts,
              levels[l]);
    }
    check_weights(out, (float *)(void *)want.data, n_experts, n_used, kind);
    guarded_free(&in), guarded_free(&ids), guarded_free(&weights);
    guarded_free(&want_ids), guarded_free(&want), guarded_free(&golden);
}

/* ---- the sum back to rows ---- */
static void test_combine(int32_t n, int32_t cols) {
    enum { STRIDE_MORE = 3, N_ROWS = 9 };
    size_t stride = (size_t)cols + STRIDE_MORE, bytes = sizeof(float) * (size_t)cols;
    struct guarded rows = guarded_alloc(sizeof(float) * ((N_ROWS - 1) * stride + (size_t)cols), 0);
    struct guarded x = guarded_alloc(bytes, 0), golden = guarded_alloc(bytes, 0), want = guarded_alloc(bytes, 0);
    float *in = (float *)(void *)rows.data, *out = (float *)(void *)x.data, *expected = (float *)(void *)want.data;
    float weights[N_ROWS], start[700];
    int32_t at[N_ROWS];
    for (size_t i = 0; i < rows.bytes / sizeof(float); i++) in[i] = uniform();
    for (int32_t i = 0; i < n; i++) weights[i] = uniform(), at[i] = (int32_t)(random_u32(&state) % N_ROWS);
    for (int32_t i = 0; i < cols; i++) expected[i] = start[i] = uniform();
    kernels_for(ASDSL_LEVEL_REFERENCE)->moe_combine(in, stride, at, weights, n, cols, expected);
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        memcpy(out, start, bytes);
        kernels_for(levels[l])->moe_combine(in, stride, at, weights, n, cols, out);
        if (l == 0) memcpy(golden.data, out, bytes);
        CHECK(memcmp(golden.data, out, bytes) == 0, "sum of %d x %d at level %d: other bits", n, cols, levels[l]);
    }
    for (int32_t i = 0; i < cols; i++) {
        CHECK(fabs((double)out[i] - (double)expected[i]) <= (n + 2) * EPS * (n + 1), "sum of %d x %d: %g, not %g", n,
              cols, (double)out[i], (double)expected[i]);
    }
    guarded_free(&rows), guarded_free(&x), guarded_free(&golden), guarded_free(&want);
}

int main(void) {
    static const int32_t n_used[] = {1, 2, 4, 8, 17};
    usable = usable_levels();
    for (int32_t n = 1; n <= 200; n += n < 36 ? 1 : 41)
        for (size_t u = 0; u < sizeof n_used / sizeof *n_used; u++)
            for (int kind = 0; kind < KINDS; kind++)
                for (int32_t normalise = 0; normalise < 2; normalise++) {
                    test_route(n, n_used[u] < n ? n_used[u] : n, normalise, (enum logits)kind);
                }
    for (int32_t cols = 1; cols <= 600; cols += cols < 40 ? 1 : 71)
        for (int32_t n = 1; n <= 9; n++) test_combine(n, cols);
    return check_report("kernels_moe");
}
