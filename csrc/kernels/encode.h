/* encode.h: what the encoders share: 16 sub-blocks side by side, and the search for their scales.
 *
 * An encoder turns floats into the blocks of a type. Its error is the weighted sum of squares, sum of w (x - y)^2 over
 * weights x and what they decode to, y. w is the importance of the weight's column (or 1) times |x| plus the root mean
 * square of its sub-block: with the importance alone the plain error is 3 % lower and the model's is higher
 * (SmolLM2-135M, Q4_K_M, 8 x 512 tokens of WikiText, seen once: mean KL divergence 0.0688 instead of 0.0630;
 * bench/quantize.ts and asdsl perplexity print both). For given integers q the best scale (and minimum) solve a linear
 * least-squares problem, for a given scale the best q is the nearest: a search tries some scales and then alternates
 * the two, each step of which can only lower the error (Lloyd 1982, for a codebook that is an arithmetic progression).
 * Everything is lane-wise and explicit, so every level makes the same bytes.
 *
 * Weights that are not finite have been refused or replaced before they come here.
 */
#ifndef ASDSL_ENCODE_H
#define ASDSL_ENCODE_H
#include "layout.h"
#include "simd.h"

/* Of a few hundred instructions and called from several places: one copy a file. */
#define SEARCH static __attribute__((noinline, unused))

enum { SUBS = 16 /* sub-blocks of a group, one a lane */, MAX_WIDTH = 32 /* weights of a sub-block */ };

/* How far the searches go: steps beyond these lower the error by less than 0.3 % (a tensor of SmolLM2, no importance,
 * seen once). */
enum { CUTS = 5, AFFINE_REFITS = 3, LINEAR_STARTS = 8 };
static const float CUT_STEP = 0.4f, LINEAR_STEP = 0.6f; /* of the distance between neighbouring values */
static const float F16_MAX = 65504.0f;

/* Lane l has sub-block l; its weight i is x[i][l]. */
struct group {
    _Alignas(64) float x[MAX_WIDTH][SUBS], w[MAX_WIDTH][SUBS];
    int32_t width;
    f32x16 weight; /* sum of w */
};

/* Sub-blocks of `width` weights from x[at] on, of n weights in rows of `cols`; lanes past the end are zeros of weight
 * 0. limit: the largest magnitude that the type can hold, to which weights are cut. */
SIMD_INLINE void group_load(struct group *g, const float *x, const float *importance, int32_t at, int32_t n,
                            int32_t cols, int32_t width, float limit) {
    g->width = width;
    for (int32_t l = 0; l < SUBS; l++) {
        int32_t from = at + l * width;
        const float *w = importance ? importance + from % cols : NULL;
        for (int32_t i = 0; i < width; i++) {
            float v = from < n ? x[from + i] : 0.0f;
            g->x[i][l] = v > limit ? limit : v < -limit ? -limit : v;
            g->w[i][l] = from >= n ? 0.0f : w ? w[i] : 1.0f;
        }
    }
    f32x16 squares = f32x16_zero();
    for (int32_t i = 0; i < width; i++) squares = f32x16_fma(f32x16_load(g->x[i]), f32x16_load(g->x[i]), squares);
    f32x16 rms = f32x16_sqrt(f32x16_mul(squares, f32x16_set1(1.0f / (float)width)));
    g->weight = f32x16_zero();
    for (int32_t i = 0; i < width; i++) {
        f32x16 w = f32x16_mul(f32x16_load(g->w[i]), f32x16_add(rms, f32x16_abs(f32x16_load(g->x[i]))));
        f32x16_store(g->w[i], w);
        g->weight = f32x16_add(g->weight, w);
    }
}

SIMD_INLINE f32x16 inverse_of(f32x16 s) { /* 1 / s; 0 where s is 0 */
    mask16 is_zero = f32x16_eq(s, f32x16_zero());
    return f32x16_select(is_zero, f32x16_zero(), f32x16_div(f32x16_set1(1.0f), s));
}

/* a / b; 0 where b is not positive */
SIMD_INLINE f32x16 ratio(f32x16 a, f32x16 b) {
    return f32x16_select(f32x16_lt(f32x16_zero(), b), f32x16_div(a, b), f32x16_zero());
}

SIMD_INLINE f32x16 clamp(f32x16 x, float low, float high) {
    return f32x16_max(f32x16_min(x, f32x16_set1(high)), f32x16_set1(low));
}

SIMD_INLINE i32x16 nearest(f32x16 x, float low, float high) { return f32x16_to_i32(clamp(x, low, high)); }

/* As a half float has it. */
SIMD_INLINE f32x16 round_f16(f32x16 x) {
    uint16_t half[16];
    f32x16_store_f16(half, clamp(x, -F16_MAX, F16_MAX));
    return f32x16_load_f16(half);
}

SIMD_INLINE float f16_of(float x) {
    _Alignas(64) float lanes[16];
    f32x16_store(lanes, round_f16(f32x16_set1(x)));
    return lanes[0];
}

/* ---- y = s q - m, q in 0 .. high ---- */

/* At given s and m, with the nearest q and r = x - y: sums over a sub-block, weighted. */
struct affine_sums {
    f32x16 error /* r r */, rq, r, q, qq;
};

SEARCH struct affine_sums affine_sums(const struct group *g, f32x16 s, f32x16 m, float high) {
    struct affine_sums a = {f32x16_zero(), f32x16_zero(), f32x16_zero(), f32x16_zero(), f32x16_zero()};
    f32x16 inverse = inverse_of(s);
    ROLLED
    for (int32_t i = 0; i < g->width; i++) {
        f32x16 w = f32x16_load(g->w[i]), x = f32x16_add(f32x16_load(g->x[i]), m);
        f32x16 q = f32x16_from_i32(nearest(f32x16_mul(x, inverse), 0.0f, high));
        f32x16 r = f32x16_fma(f32x16_neg(s), q, x), wr = f32x16_mul(w, r), wq = f32x16_mul(w, q);
        a.error = f32x16_fma(wr, r, a.error);
        a.rq = f32x16_fma(wr, q, a.rq);
        a.r = f32x16_add(a.r, wr);
        a.q = f32x16_add(a.q, wq);
        a.qq = f32x16_fma(wq, q, a.qq);
    }
    return a;
}

struct affine {
    f32x16 s, m, error;
};

/* Where (s, m) is better than what is in `best`, it takes its place. */
SIMD_INLINE void affine_keep(struct affine *best, f32x16 s, f32x16 m, f32x16 error) {
    mask16 better = f32x16_lt(error, best->error);
    best->s = f32x16_select(better, s, best->s);
    best->m = f32x16_select(better, m, best->m);
    best->error = f32x16_select(better, error, best->error);
}

/* The best s and m for the q of `a`, which stem from (s, m); is_minimum: m must not be negative. */
SIMD_INLINE void affine_refit(const struct affine_sums *a, f32x16 weight, bool is_minimum, f32x16 *s, f32x16 *m) {
    f32x16 determinant = f32x16_sub(f32x16_mul(weight, a->qq), f32x16_mul(a->q, a->q));
    /* Equal q have a determinant of 0 and a rounding error, which must not become a divisor. */
    mask16 sound = f32x16_lt(f32x16_mul(f32x16_set1(1e-5f), f32x16_mul(weight, a->qq)), determinant);
    f32x16 ds = f32x16_div(f32x16_sub(f32x16_mul(weight, a->rq), f32x16_mul(a->q, a->r)), determinant);
    f32x16 dm = f32x16_div(f32x16_sub(f32x16_mul(a->q, a->rq), f32x16_mul(a->qq, a->r)), determinant);
    f32x16 new_s = f32x16_add(*s, ds), new_m = f32x16_add(*m, dm);
    if (is_minimum) {
        mask16 below = f32x16_lt(new_m, f32x16_zero());
        f32x16 alone = f32x16_add(*s, ratio(f32x16_sub(a->rq, f32x16_mul(*m, a->q)), a->qq));
        new_s = f32x16_select(below, alone, new_s);
        new_m = f32x16_select(below, f32x16_zero(), new_m);
    }
    sound = mask16_and(sound, f32x16_lt(f32x16_zero(), new_s));
    *s = f32x16_select(sound, new_s, *s);
    *m = f32x16_select(sound, new_m, *m);
}

/* Searches (s, m) of each sub-block from ranges that leave out up to 1.6 steps at either end. */
SEARCH struct affine affine_search(const struct group *g, float high, bool is_minimum) {
    f32x16 low_x = f32x16_load(g->x[0]), high_x = low_x;
    for (int32_t i = 1; i < g->width; i++) {
        low_x = f32x16_min(low_x, f32x16_load(g->x[i]));
        high_x = f32x16_max(high_x, f32x16_load(g->x[i]));
    }
    if (is_minimum) {
        low_x = f32x16_min(low_x, f32x16_zero());
        high_x = f32x16_max(high_x, f32x16_zero());
    }
    f32x16 range = f32x16_sub(high_x, low_x);
    struct affine best = {f32x16_zero(), f32x16_neg(low_x), f32x16_set1(INFINITY)};
    for (int32_t k = 0; k < CUTS * CUTS; k++) {
        float bottom = CUT_STEP * (float)(k / CUTS) / high, top = CUT_STEP * (float)(k % CUTS) / high;
        f32x16 s = f32x16_mul(range, f32x16_set1((1.0f - bottom - top) / high));
        f32x16 m = f32x16_neg(f32x16_fma(range, f32x16_set1(bottom), low_x));
        if (is_minimum) m = f32x16_max(m, f32x16_zero());
        struct affine_sums a = affine_sums(g, s, m, high);
        affine_keep(&best, s, m, a.error);
        affine_refit(&a, g->weight, is_minimum, &s, &m);
        a = affine_sums(g, s, m, high);
        affine_keep(&best, s, m, a.error);
    }
    f32x16 s = best.s, m = best.m;
    for (int32_t k = 0; k < AFFINE_REFITS; k++) {
        struct affine_sums a = affine_sums(g, s, m, high);
        affine_keep(&best, s, m, a.error);
        affine_refit(&a, g->weight, is_minimum, &s, &m);
    }
    return best;
}

/* ---- y = s q, q in low .. high ---- */

/* As affine_sums. */
struct linear_sums {
    f32x16 error /* r r */, rq, qq;
};

SEARCH struct linear_sums linear_sums(const struct group *g, f32x16 s, float low, float high) {
    struct linear_sums a = {f32x16_zero(), f32x16_zero(), f32x16_zero()};
    f32x16 inverse = inverse_of(s);
    ROLLED
    for (int32_t i = 0; i < g->width; i++) {
        f32x16 w = f32x16_load(g->w[i]), x = f32x16_load(g->x[i]);
        f32x16 q = f32x16_from_i32(nearest(f32x16_mul(x, inverse), low, high));
        f32x16 r = f32x16_fma(f32x16_neg(s), q, x), wr = f32x16_mul(w, r);
        a.error = f32x16_fma(wr, r, a.error);
        a.rq = f32x16_fma(wr, q, a.rq);
        a.qq = f32x16_fma(f32x16_mul(w, q), q, a.qq);
    }
    return a;
}

struct linear {
    f32x16 s, error;
};

/* Where s is better than what is in `best`, it takes its place. */
SIMD_INLINE void linear_keep(struct linear *best, f32x16 s, f32x16 error) {
    mask16 better = f32x16_lt(error, best->error);
    best->s = f32x16_select(better, s, best->s);
    best->error = f32x16_select(better, error, best->error);
}

/* Searches s of each sub-block: the weight of largest magnitude gets the integer of largest magnitude, or one up to
 * some steps beyond it. is_half: s is a half float. Where the integers reach as far down as up, a negative s codes
 * nothing that a positive one does not. */
SEARCH struct linear linear_search(const struct group *g, float low, float high, int32_t n_starts, int32_t n_refits,
                                   bool is_half) {
    const bool is_symmetric = low == -high;
    f32x16 largest = f32x16_load(g->x[0]);
    for (int32_t i = 1; i < g->width; i++) {
        f32x16 x = f32x16_load(g->x[i]);
        largest = f32x16_select(f32x16_lt(f32x16_abs(largest), f32x16_abs(x)), x, largest);
    }
    struct linear best = {f32x16_zero(), f32x16_set1(INFINITY)};
    for (int32_t k = 0; k < n_starts; k++) {
        float end = is_symmetric || k % 2 ? high : low, beyond = LINEAR_STEP * (float)(is_symmetric ? k : k / 2);
        f32x16 s = f32x16_div(largest, f32x16_set1(end + (end > 0 ? beyond : -beyond)));
        if (is_half) s = round_f16(s);
        struct linear_sums a = linear_sums(g, s, low, high);
        linear_keep(&best, s, a.error);
        s = f32x16_add(s, ratio(a.rq, a.qq));
        if (is_half) s = round_f16(s);
        a = linear_sums(g, s, low, high);
        linear_keep(&best, s, a.error);
    }
    f32x16 s = best.s;
    for (int32_t k = 0; k < n_refits; k++) {
        struct linear_sums a = linear_sums(g, s, low, high);
        linear_keep(&best, s, a.error);
        s = f32x16_add(s, ratio(a.rq, a.qq));
        if (is_half) s = round_f16(s);
    }
    return best;
}

#endif
