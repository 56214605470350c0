/* encode_k_linear.c: floats -> blocks of 256 weights in sub-blocks of 16 with a whole scale each and no minima: q3_k
 * and q6_k (layouts: ggml-common.h of ggml; src/gguf/dequantize.ts). y = d scale q, d a half float for the whole block.
 *
 * As in encode_k.c: the best real scale of each sub-block, then whole scales and d in turns. A negative scale turns the
 * range of q around, so that the largest weight of either sign can have the integer that is largest in magnitude.
 */
#include "encode.h"

enum { BLOCK = 256, SUB = 16, ROUNDS = 4, LLOYD = 2 };

/* Writes a block. q[i][l]: weight i of sub-block l, less the least that it can be; scale: as the type stores it. */
typedef void pack_fn(uint8_t *out, int8_t q[SUB][SUBS], const int8_t *scale, const uint16_t *d);

/* Of a type: what q and scales may be, from the integer of largest magnitude up. */
struct range {
    float low, high, low_scale, high_scale;
};

static float sum_of(f32x16 a) {
    _Alignas(64) float v[SUBS];
    float sum = 0;
    f32x16_store(v, a);
    for (int32_t i = 0; i < SUBS; i++) sum += v[i];
    return sum;
}

/* d so that the largest scale becomes low_scale, which is a power of two. */
static float first_d(const struct range *range, f32x16 scales) {
    _Alignas(64) float v[SUBS];
    float largest = 0;
    f32x16_store(v, scales);
    for (int32_t i = 0; i < SUBS; i++) largest = fabsf(v[i]) > fabsf(largest) ? v[i] : largest;
    return largest / range->low_scale;
}

struct coded {
    float d, error;
    f32x16 scale;
};

static void choose_whole(const struct range *range, const struct group *g, f32x16 ideal, struct coded *c) {
    f32x16 d = f32x16_set1(c->d), least = f32x16_set1(INFINITY);
    f32x16 near = f32x16_from_i32(nearest(f32x16_mul(ideal, inverse_of(d)), range->low_scale, range->high_scale));
    c->scale = near;
    for (int32_t k = -1; k <= 1; k++) {
        f32x16 scale = clamp(f32x16_add(near, f32x16_set1((float)k)), range->low_scale, range->high_scale);
        struct linear_sums a = linear_sums(g, f32x16_mul(d, scale), range->low, range->high);
        mask16 better = f32x16_lt(a.error, least);
        least = f32x16_select(better, a.error, least);
        c->scale = f32x16_select(better, scale, c->scale);
    }
    c->error = sum_of(least);
}

static void refit_block(const struct range *range, const struct group *g, struct coded *c) {
    struct linear_sums a = linear_sums(g, f32x16_mul(f32x16_set1(c->d), c->scale), range->low, range->high);
    float numerator = sum_of(f32x16_mul(c->scale, a.rq)),
          denominator = sum_of(f32x16_mul(f32x16_mul(c->scale, c->scale), a.qq));
    if (denominator > 0) c->d = f16_of(c->d + numerator / denominator);
}

static struct coded code_block(const struct range *range, const struct group *g) {
    f32x16 ideal = linear_search(g, range->low, range->high, LINEAR_STARTS, LLOYD, false).s;
    struct coded c = {.d = f16_of(first_d(range, ideal))}, best = c;
    best.error = INFINITY;
    for (int32_t round = 0; round < ROUNDS; round++) {
        if (round > 0) refit_block(range, g, &c);
        choose_whole(range, g, ideal, &c);
        if (c.error < best.error) best = c;
    }
    return best;
}

static void pack_q3_k(uint8_t *out, int8_t q[SUB][SUBS], const int8_t *scale, const uint16_t *d) {
    uint8_t *thirds = out, *pairs = out + 32, *scales = out + 96;
    memset(out, 0, 110);
    for (int32_t i = 0; i < BLOCK; i++) {
        int32_t v = q[i % SUB][i / SUB], of_32 = i / 32;
        thirds[i % 32] |= (uint8_t)(v >> 2 << of_32);
        pairs[i / 128 * 32 + i % 32] |= (uint8_t)((v & 3) << of_32 % 4 * 2);
    }
    for (int32_t l = 0; l < SUBS; l++) {
        scales[l % 8] |= (uint8_t)((scale[l] & 15) << l / 8 * 4);
        scales[8 + l % 4] |= (uint8_t)(scale[l] >> 4 << l / 4 * 2);
    }
    memcpy(out + 108, d, 2);
}

static void pack_q6_k(uint8_t *out, int8_t q[SUB][SUBS], const int8_t *scale, const uint16_t *d) {
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
    memcpy(out + 192, scale, SUBS);
    memcpy(out + 208, d, 2);
}

/* Scales are stored `added` above themselves. */
static void encode(const float *x, const float *importance, int32_t n, int32_t cols, uint8_t *out, int32_t bytes,
                   const struct range *range, int32_t added, pack_fn *pack) {
    for (int32_t at = 0; at < n; at += BLOCK, out += bytes) {
        struct group g;
        int8_t q[SUB][SUBS], scale[SUBS];
        uint16_t d[16];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX * range->low_scale * range->low);
        struct coded c = code_block(range, &g);
        f32x16 inverse = inverse_of(f32x16_mul(f32x16_set1(c.d), c.scale));
        for (int32_t i = 0; i < SUB; i++) {
            i32x16 v = nearest(f32x16_mul(f32x16_load(g.x[i]), inverse), range->low, range->high);
            i32x16_store_i8(q[i], i32x16_add(v, i32x16_set1(-(int32_t)range->low)));
        }
        i32x16_store_i8(scale, i32x16_add(f32x16_to_i32(c.scale), i32x16_set1(added)));
        f32x16_store_f16(d, f32x16_set1(c.d));
        pack(out, q, scale, d);
    }
}

encode_fn KERNEL(q3_k_encode), KERNEL(q6_k_encode);

void KERNEL(q3_k_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    static const struct range range = {-4.0f, 3.0f, -32.0f, 31.0f};
    encode(x, importance, n, cols, out, 110, &range, 32, pack_q3_k);
}

void KERNEL(q6_k_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    static const struct range range = {-32.0f, 31.0f, -128.0f, 127.0f};
    encode(x, importance, n, cols, out, 210, &range, 0, pack_q6_k);
}
