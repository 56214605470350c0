/* encode_k.c: floats -> blocks of 256 weights with 6-bit scales and minima: q4_k and q5_k (layouts: ggml-common.h of
 * ggml; src/gguf/dequantize.ts). y = d scale q - dmin minimum for each sub-block of 32, all of the right-hand side
 * whole numbers but d and dmin, which are half floats shared by eight sub-blocks.
 *
 * First every sub-block gets the best real scale and minimum of its own. Then, in turns: the whole numbers nearest to
 * those and their neighbours are tried, and d and dmin are fitted to all 256 weights as they are coded now. What had
 * the least error is written.
 */
#include "encode.h"

enum { BLOCK = 256, SUB = 32, PER_BLOCK = BLOCK / SUB, BLOCKS = SUBS / PER_BLOCK, ROUNDS = 4 };

/* Two blocks, coded: values of a block stand in all of its lanes. */
struct coded {
    f32x16 d, dmin, scale, minimum; /* the latter two 0 .. 63 */
    f32x16 error;                   /* of the block */
};

/* Of a block's lanes: the sum, or the largest, in each of them. */
static f32x16 block_sums(f32x16 a) {
    _Alignas(64) float v[SUBS];
    f32x16_store(v, a);
    for (int32_t b = 0; b < BLOCKS; b++) {
        float *of = v + b * PER_BLOCK, sum = 0;
        for (int32_t i = 0; i < PER_BLOCK; i++) sum += of[i];
        for (int32_t i = 0; i < PER_BLOCK; i++) of[i] = sum;
    }
    return f32x16_load(v);
}

static f32x16 block_largest(f32x16 a) {
    _Alignas(64) float v[SUBS];
    f32x16_store(v, a);
    for (int32_t b = 0; b < BLOCKS; b++) {
        float *of = v + b * PER_BLOCK, largest = 0;
        for (int32_t i = 0; i < PER_BLOCK; i++) largest = of[i] > largest ? of[i] : largest;
        for (int32_t i = 0; i < PER_BLOCK; i++) of[i] = largest;
    }
    return f32x16_load(v);
}

static f32x16 whole(f32x16 x) { return f32x16_from_i32(nearest(x, 0.0f, 63.0f)); }

/* Whole scales and minima for d and dmin, near (s, m) of each sub-block. */
static void choose_whole(const struct group *g, float high, const struct affine *ideal, struct coded *c) {
    f32x16 inverse_d = inverse_of(c->d), inverse_dmin = inverse_of(c->dmin);
    f32x16 near = whole(f32x16_mul(ideal->s, inverse_d)), inverse_weight = inverse_of(g->weight);
    f32x16 least = f32x16_set1(INFINITY);
    c->scale = c->minimum = f32x16_zero();
    for (int32_t k = -1; k <= 1; k++) {
        f32x16 scale = clamp(f32x16_add(near, f32x16_set1((float)k)), 0.0f, 63.0f), s = f32x16_mul(c->d, scale);
        struct affine_sums a = affine_sums(g, s, ideal->m, high);
        f32x16 m = f32x16_fma(f32x16_neg(a.r), inverse_weight, ideal->m); /* the best for these q */
        f32x16 minimum = whole(f32x16_mul(m, inverse_dmin));
        a = affine_sums(g, s, f32x16_mul(c->dmin, minimum), high);
        mask16 better = f32x16_lt(a.error, least);
        least = f32x16_select(better, a.error, least);
        c->scale = f32x16_select(better, scale, c->scale);
        c->minimum = f32x16_select(better, minimum, c->minimum);
    }
    f32x16 center = c->minimum;
    for (int32_t k = -1; k <= 1; k += 2) {
        f32x16 minimum = clamp(f32x16_add(center, f32x16_set1((float)k)), 0.0f, 63.0f);
        struct affine_sums a = affine_sums(g, f32x16_mul(c->d, c->scale), f32x16_mul(c->dmin, minimum), high);
        mask16 better = f32x16_lt(a.error, least);
        least = f32x16_select(better, a.error, least);
        c->minimum = f32x16_select(better, minimum, c->minimum);
    }
    c->error = block_sums(least);
}

/* The best d and dmin for the weights as `c` codes them. */
static void refit_block(const struct group *g, float high, struct coded *c) {
    struct affine_sums a = affine_sums(g, f32x16_mul(c->d, c->scale), f32x16_mul(c->dmin, c->minimum), high);
    f32x16 ss = block_sums(f32x16_mul(f32x16_mul(c->scale, c->scale), a.qq));
    f32x16 sm = block_sums(f32x16_mul(f32x16_mul(c->scale, c->minimum), a.q));
    f32x16 mm = block_sums(f32x16_mul(f32x16_mul(c->minimum, c->minimum), g->weight));
    f32x16 s = block_sums(f32x16_mul(c->scale, a.rq)), m = block_sums(f32x16_mul(c->minimum, a.r));
    f32x16 determinant = f32x16_sub(f32x16_mul(ss, mm), f32x16_mul(sm, sm));
    mask16 sound = f32x16_lt(f32x16_mul(f32x16_set1(1e-5f), f32x16_mul(ss, mm)), determinant);
    f32x16 dd = f32x16_div(f32x16_sub(f32x16_mul(mm, s), f32x16_mul(sm, m)), determinant);
    f32x16 ddmin = f32x16_div(f32x16_sub(f32x16_mul(sm, s), f32x16_mul(ss, m)), determinant);
    dd = f32x16_select(sound, dd, ratio(s, ss)); /* without minima d alone is left */
    ddmin = f32x16_select(sound, ddmin, f32x16_zero());
    c->d = round_f16(f32x16_max(f32x16_add(c->d, dd), f32x16_zero()));
    c->dmin = round_f16(f32x16_max(f32x16_add(c->dmin, ddmin), f32x16_zero()));
}

static struct coded code_blocks(const struct group *g, float high) {
    struct affine ideal = affine_search(g, high, true);
    struct coded c = {.d = round_f16(f32x16_div(block_largest(ideal.s), f32x16_set1(63.0f))),
                      .dmin = round_f16(f32x16_div(block_largest(ideal.m), f32x16_set1(63.0f)))};
    struct coded best = c;
    best.error = f32x16_set1(INFINITY);
    best.scale = best.minimum = f32x16_zero();
    for (int32_t round = 0; round < ROUNDS; round++) {
        if (round > 0) refit_block(g, high, &c);
        choose_whole(g, high, &ideal, &c);
        mask16 better = f32x16_lt(c.error, best.error);
        best.d = f32x16_select(better, c.d, best.d);
        best.dmin = f32x16_select(better, c.dmin, best.dmin);
        best.scale = f32x16_select(better, c.scale, best.scale);
        best.minimum = f32x16_select(better, c.minimum, best.minimum);
        best.error = f32x16_select(better, c.error, best.error);
    }
    return best;
}

/* The integers of a group as coded: q[i][l]. */
static void quantize_group(const struct group *g, const struct coded *c, float high, int8_t q[SUB][SUBS]) {
    f32x16 inverse = inverse_of(f32x16_mul(c->d, c->scale)), m = f32x16_mul(c->dmin, c->minimum);
    for (int32_t i = 0; i < SUB; i++) {
        f32x16 x = f32x16_add(f32x16_load(g->x[i]), m);
        i32x16_store_i8(q[i], nearest(f32x16_mul(x, inverse), 0.0f, high));
    }
}

/* 16 bytes: d, dmin, eight 6-bit scales and minima. */
static void pack_scales(uint8_t *out, float d, float dmin, const int8_t *scale, const int8_t *minimum) {
    f32x16 both = f32x16_select(mask16_first(1), f32x16_set1(d), f32x16_set1(dmin));
    uint16_t half[16];
    f32x16_store_f16(half, both);
    memcpy(out, half, 4);
    for (int32_t j = 0; j < 4; j++) {
        out[4 + j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        out[8 + j] = (uint8_t)(minimum[j] | (minimum[j + 4] >> 4) << 6);
        out[12 + j] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

static void pack_q4_k(uint8_t *out, int8_t q[SUB][SUBS], int32_t first) {
    for (int32_t pair = 0; pair < 4; pair++)
        for (int32_t j = 0; j < SUB; j++) {
            const int8_t *of = q[j] + first + 2 * pair;
            out[16 + 32 * pair + j] = (uint8_t)(of[0] | of[1] << 4);
        }
}

static void pack_q5_k(uint8_t *out, int8_t q[SUB][SUBS], int32_t first) {
    for (int32_t j = 0; j < SUB; j++) {
        const int8_t *of = q[j] + first;
        uint8_t fifth = 0;
        for (int32_t sub = 0; sub < PER_BLOCK; sub++) fifth = (uint8_t)(fifth | (of[sub] >> 4) << sub);
        out[16 + j] = fifth;
        for (int32_t pair = 0; pair < 4; pair++) {
            out[48 + 32 * pair + j] = (uint8_t)((of[2 * pair] & 15) | (of[2 * pair + 1] & 15) << 4);
        }
    }
}

typedef void pack_fn(uint8_t *out, int8_t q[SUB][SUBS], int32_t first);

static void encode(const float *x, const float *importance, int32_t n, int32_t cols, uint8_t *out, int32_t bytes,
                   float high, pack_fn *pack) {
    for (int32_t at = 0; at < n; at += SUBS * SUB) {
        struct group g;
        _Alignas(64) float d[SUBS], dmin[SUBS];
        int8_t q[SUB][SUBS], scale[SUBS], minimum[SUBS];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX * 63.0f * high);
        struct coded c = code_blocks(&g, high);
        quantize_group(&g, &c, high, q);
        f32x16_store(d, c.d);
        f32x16_store(dmin, c.dmin);
        i32x16_store_i8(scale, f32x16_to_i32(c.scale));
        i32x16_store_i8(minimum, f32x16_to_i32(c.minimum));
        for (int32_t b = 0; b < BLOCKS && at + b * BLOCK < n; b++, out += bytes) {
            int32_t first = b * PER_BLOCK;
            pack_scales(out, d[first], dmin[first], scale + first, minimum + first);
            pack(out, q, first);
        }
    }
}

encode_fn KERNEL(q4_k_encode), KERNEL(q5_k_encode);

void KERNEL(q4_k_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    encode(x, importance, n, cols, out, 144, 15.0f, pack_q4_k);
}

void KERNEL(q5_k_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    encode(x, importance, n, cols, out, 176, 31.0f, pack_q5_k);
}
