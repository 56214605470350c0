/* encode_q6_k.c: floats -> blocks of 256 weights, sub-blocks of 16 with an int8 scale each (layout: ggml-common.h of
 * ggml; src/gguf/dequantize.ts). y = d scale q, q in -32 .. 31, d a half float for the whole block.
 *
 * As in encode_k.c: the best real scale of each sub-block, then whole scales and d in turns. A negative scale turns the
 * range of q around, so that the largest weight of either sign can have the 32.
 */
#include "encode.h"

enum { BLOCK = 256, SUB = 16, BYTES = 210, ROUNDS = 4, LLOYD = 2 };
static const float LOW = -32.0f, HIGH = 31.0f;

static float sum_of(f32x16 a) {
    _Alignas(64) float v[SUBS];
    float sum = 0;
    f32x16_store(v, a);
    for (int32_t i = 0; i < SUBS; i++) sum += v[i];
    return sum;
}

/* d so that the largest scale is -128: the one end of int8 that is a power of two. */
static float first_d(f32x16 scales) {
    _Alignas(64) float v[SUBS];
    float largest = 0;
    f32x16_store(v, scales);
    for (int32_t i = 0; i < SUBS; i++) largest = fabsf(v[i]) > fabsf(largest) ? v[i] : largest;
    return largest / -128.0f;
}

struct coded {
    float d, error;
    f32x16 scale; /* -128 .. 127 */
};

static void choose_whole(const struct group *g, f32x16 ideal, struct coded *c) {
    f32x16 d = f32x16_set1(c->d), near = f32x16_from_i32(nearest(f32x16_mul(ideal, inverse_of(d)), -128.0f, 127.0f));
    f32x16 least = f32x16_set1(INFINITY);
    c->scale = near;
    for (int32_t k = -1; k <= 1; k++) {
        f32x16 scale = clamp(f32x16_add(near, f32x16_set1((float)k)), -128.0f, 127.0f);
        struct linear_sums a = linear_sums(g, f32x16_mul(d, scale), LOW, HIGH);
        mask16 better = f32x16_lt(a.error, least);
        least = f32x16_select(better, a.error, least);
        c->scale = f32x16_select(better, scale, c->scale);
    }
    c->error = sum_of(least);
}

static void refit_block(const struct group *g, struct coded *c) {
    struct linear_sums a = linear_sums(g, f32x16_mul(f32x16_set1(c->d), c->scale), LOW, HIGH);
    float numerator = sum_of(f32x16_mul(c->scale, a.rq)),
          denominator = sum_of(f32x16_mul(f32x16_mul(c->scale, c->scale), a.qq));
    if (denominator > 0) c->d = f16_of(c->d + numerator / denominator);
}

static struct coded code_block(const struct group *g) {
    f32x16 ideal = linear_search(g, LOW, HIGH, LINEAR_STARTS, LLOYD, false).s;
    struct coded c = {.d = f16_of(first_d(ideal))}, best = c;
    best.error = INFINITY;
    for (int32_t round = 0; round < ROUNDS; round++) {
        if (round > 0) refit_block(g, &c);
        choose_whole(g, ideal, &c);
        if (c.error < best.error) best = c;
    }
    return best;
}

/* q[i][l] is weight i of sub-block l, 32 added. */
static void pack(uint8_t *out, int8_t q[SUB][SUBS]) {
    for (int32_t half = 0; half < 2; half++)
        for (int32_t j = 0; j < 32; j++) {
            uint8_t v[4];
            for (int32_t quarter = 0; quarter < 4; quarter++) {
                v[quarter] = (uint8_t)q[j % 16][half * 8 + quarter * 2 + j / 16];
            }
            out[half * 64 + j] = (uint8_t)((v[0] & 15) | (v[2] & 15) << 4);
            out[half * 64 + 32 + j] = (uint8_t)((v[1] & 15) | (v[3] & 15) << 4);
            out[128 + half * 32 + j] = (uint8_t)(v[0] >> 4 | v[1] >> 4 << 2 | v[2] >> 4 << 4 | v[3] >> 4 << 6);
        }
}

encode_fn KERNEL(q6_k_encode);

void KERNEL(q6_k_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *to) {
    uint8_t *out = to;
    for (int32_t at = 0; at < n; at += BLOCK, out += BYTES) {
        struct group g;
        int8_t q[SUB][SUBS];
        uint16_t half[16];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX * 128.0f * 32.0f);
        struct coded c = code_block(&g);
        f32x16 inverse = inverse_of(f32x16_mul(f32x16_set1(c.d), c.scale));
        for (int32_t i = 0; i < SUB; i++) {
            i32x16 v = nearest(f32x16_mul(f32x16_load(g.x[i]), inverse), LOW, HIGH);
            i32x16_store_i8(q[i], i32x16_add(v, i32x16_set1(32)));
        }
        pack(out, q);
        i32x16_store_i8((int8_t *)out + 192, f32x16_to_i32(c.scale));
        f32x16_store_f16(half, f32x16_set1(c.d));
        memcpy(out + 208, half, 2);
    }
}
