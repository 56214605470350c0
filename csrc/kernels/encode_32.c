/* encode_32.c: floats -> blocks of 32 weights with half floats of their own: q4_0, q5_0, q8_0 (y = d q) and q4_1, q5_1
 * (y = d q + m). Layouts: ggml-common.h of ggml; src/gguf/dequantize.ts.
 */
#include "encode.h"

enum { SUB = 32 };

/* One block: weight i is q[i][l], not negative but for q8_0. */
typedef void pack_fn(uint8_t *out, int8_t q[SUB][SUBS], int32_t l);

/* A type without offsets: bytes of a block, its integers, what is added to them where they are stored, how its scales
 * are searched. */
struct linear_type {
    int32_t bytes;
    float low, high;
    int32_t added, n_starts, n_refits;
    pack_fn *pack;
};

static void pack_nibbles(uint8_t *out, int8_t q[SUB][SUBS], int32_t l) {
    for (int32_t j = 0; j < 16; j++) out[j] = (uint8_t)((q[j][l] & 15) | (q[j + 16][l] & 15) << 4);
}

static void pack_five_bits(uint8_t *out, int8_t q[SUB][SUBS], int32_t l) {
    for (int32_t byte = 0; byte < 4; byte++) {
        uint8_t fifth = 0;
        for (int32_t j = 0; j < 8; j++) fifth = (uint8_t)(fifth | (q[8 * byte + j][l] >> 4) << j);
        out[byte] = fifth;
    }
    pack_nibbles(out + 4, q, l);
}

static void pack_bytes(uint8_t *out, int8_t q[SUB][SUBS], int32_t l) {
    for (int32_t j = 0; j < SUB; j++) out[j] = (uint8_t)q[j][l];
}

/* The best half float near the best scale: that, its neighbours, and what the q of the first would have. */
static f32x16 linear_code(const struct group *g, const struct linear_type *t) {
    f32x16 found = linear_search(g, t->low, t->high, t->n_starts, t->n_refits, true).s;
    struct linear best = {found, f32x16_set1(INFINITY)};
    f32x16 near = round_f16(best.s), d = near;
    f32x16 ulp = f32x16_max(f32x16_mul(f32x16_abs(near), f32x16_set1(0x1p-10f)), f32x16_set1(0x1p-24f));
    for (int32_t k = 0; k < 4; k++) {
        struct linear_sums a = linear_sums(g, d, t->low, t->high);
        linear_keep(&best, d, a.error);
        d = k == 0 ? f32x16_add(near, ratio(a.rq, a.qq)) : k == 1 ? f32x16_add(near, ulp) : f32x16_sub(near, ulp);
        d = round_f16(d);
    }
    return best.s;
}

static void encode_linear(const float *x, const float *importance, int32_t n, int32_t cols, uint8_t *out,
                          const struct linear_type *t) {
    for (int32_t at = 0; at < n; at += SUBS * SUB) {
        struct group g;
        int8_t q[SUB][SUBS];
        uint16_t half[SUBS];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX * -t->low);
        f32x16 d = linear_code(&g, t), inverse = inverse_of(d);
        for (int32_t i = 0; i < SUB; i++) {
            i32x16 v = nearest(f32x16_mul(f32x16_load(g.x[i]), inverse), t->low, t->high);
            i32x16_store_i8(q[i], i32x16_add(v, i32x16_set1(t->added)));
        }
        f32x16_store_f16(half, d);
        for (int32_t l = 0; l < SUBS && at + l * SUB < n; l++, out += t->bytes) {
            memcpy(out, half + l, 2);
            t->pack(out + 2, q, l);
        }
    }
}

static struct affine affine_code(const struct group *g, float high) {
    struct affine best = affine_search(g, high, false);
    f32x16 s = round_f16(best.s), m = round_f16(best.m);
    best.error = f32x16_set1(INFINITY);
    for (int32_t k = 0; k < 2; k++) {
        struct affine_sums a = affine_sums(g, s, m, high);
        affine_keep(&best, s, m, a.error);
        affine_refit(&a, g->weight, false, &s, &m);
        s = round_f16(s);
        m = round_f16(m);
    }
    /* Among subnormal half floats nothing may be the nearest. */
    f32x16 zero = f32x16_zero();
    struct affine_sums a = affine_sums(g, zero, zero, high);
    affine_keep(&best, zero, zero, a.error);
    return best;
}

static void encode_affine(const float *x, const float *importance, int32_t n, int32_t cols, uint8_t *out, int32_t bytes,
                          float high, pack_fn *pack) {
    for (int32_t at = 0; at < n; at += SUBS * SUB) {
        struct group g;
        int8_t q[SUB][SUBS];
        uint16_t d[SUBS], m[SUBS];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX);
        struct affine c = affine_code(&g, high);
        f32x16 inverse = inverse_of(c.s);
        for (int32_t i = 0; i < SUB; i++) {
            f32x16 v = f32x16_mul(f32x16_add(f32x16_load(g.x[i]), c.m), inverse);
            i32x16_store_i8(q[i], nearest(v, 0.0f, high));
        }
        f32x16_store_f16(d, c.s);
        f32x16_store_f16(m, f32x16_sub(f32x16_zero(), c.m));
        for (int32_t l = 0; l < SUBS && at + l * SUB < n; l++, out += bytes) {
            memcpy(out, d + l, 2);
            memcpy(out + 2, m + l, 2);
            pack(out + 4, q, l);
        }
    }
}

#define ENCODE(name, CALL)                                                                                             \
    encode_fn KERNEL(name##_encode);                                                                                   \
    void KERNEL(name##_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) { CALL; }

enum { REFITS = 3 };
static const struct linear_type q4_0 = {18, -8.0f, 7.0f, 8, LINEAR_STARTS, REFITS, pack_nibbles};
static const struct linear_type q5_0 = {22, -16.0f, 15.0f, 16, LINEAR_STARTS, REFITS, pack_five_bits};
/* -128 is nobody's. The search of the others would lower the error by 0.12 % (SmolLM2-135M, seen once;
 * bench/quantize.ts compares two files) and take twice as long. */
static const struct linear_type q8_0 = {34, -127.0f, 127.0f, 0, 2, 1, pack_bytes};

ENCODE(q4_0, encode_linear(x, importance, n, cols, out, &q4_0))
ENCODE(q5_0, encode_linear(x, importance, n, cols, out, &q5_0))
ENCODE(q8_0, encode_linear(x, importance, n, cols, out, &q8_0))
ENCODE(q4_1, encode_affine(x, importance, n, cols, out, 20, 15.0f, pack_nibbles))
ENCODE(q5_1, encode_affine(x, importance, n, cols, out, 24, 31.0f, pack_five_bits))
