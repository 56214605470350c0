/* encode_iq4.c: floats -> iq4_nl, blocks of 32 weights: y = d v, d a half float, v one of the 16 values of a table that
 * lie closer together near 0, where most weights are (layout: ggml-common.h of ggml; src/gguf/dequantize.ts).
 *
 * As encode.h's search of y = s q, with the table in the place of whole numbers. A negative d turns the table around.
 */
#include "encode.h"

enum { SUB = 32, BYTES = 18, STARTS = 10, LLOYD = 3 };
/* The largest weight gets the end of the table at first, or what is so much further: a quarter of the distance there.
 */
static const float STEP = 6.0f;

/* Between neighbours of the table: a weight above it goes to the upper one. */
SIMD_INLINE float boundary(int32_t i) { return 0.5f * (float)(iq4_nl_values[i] + iq4_nl_values[i + 1]); }

SIMD_INLINE f32x16 nearest_value(f32x16 x) {
    f32x16 value = f32x16_set1(iq4_nl_values[0]);
    UNROLL
    for (int32_t i = 0; i < 15; i++) {
        mask16 above = f32x16_lt(f32x16_set1(boundary(i)), x);
        value = f32x16_select(above, f32x16_set1(iq4_nl_values[i + 1]), value);
    }
    return value;
}

SIMD_INLINE i32x16 nearest_index(f32x16 x) {
    f32x16 index = f32x16_zero();
    for (int32_t i = 0; i < 15; i++) {
        mask16 above = f32x16_lt(f32x16_set1(boundary(i)), x);
        index = f32x16_select(above, f32x16_set1((float)(i + 1)), index);
    }
    return f32x16_to_i32(index);
}

/* linear_sums of encode.h. */
struct value_sums {
    f32x16 error, rv, vv;
};

SEARCH struct value_sums value_sums(const struct group *g, f32x16 s) {
    struct value_sums a = {f32x16_zero(), f32x16_zero(), f32x16_zero()};
    f32x16 inverse = inverse_of(s);
    ROLLED
    for (int32_t i = 0; i < SUB; i++) {
        f32x16 w = f32x16_load(g->w[i]), x = f32x16_load(g->x[i]), v = nearest_value(f32x16_mul(x, inverse));
        f32x16 r = f32x16_fma(f32x16_neg(s), v, x), wr = f32x16_mul(w, r);
        a.error = f32x16_fma(wr, r, a.error);
        a.rv = f32x16_fma(wr, v, a.rv);
        a.vv = f32x16_fma(f32x16_mul(w, v), v, a.vv);
    }
    return a;
}

/* The half float d of each block. */
static f32x16 choose_d(const struct group *g) {
    f32x16 largest = f32x16_load(g->x[0]);
    for (int32_t i = 1; i < SUB; i++) {
        f32x16 x = f32x16_load(g->x[i]);
        largest = f32x16_select(f32x16_lt(f32x16_abs(largest), f32x16_abs(x)), x, largest);
    }
    struct linear best = {f32x16_zero(), f32x16_set1(INFINITY)};
    for (int32_t k = 0; k < STARTS; k++) {
        float beyond = STEP * (float)(k / 2 - 1), end = k % 2 ? 113.0f + beyond : -127.0f - beyond;
        f32x16 s = round_f16(f32x16_div(largest, f32x16_set1(end)));
        struct value_sums a = value_sums(g, s);
        linear_keep(&best, s, a.error);
        s = round_f16(f32x16_add(s, ratio(a.rv, a.vv)));
        linear_keep(&best, s, value_sums(g, s).error);
    }
    f32x16 s = best.s;
    for (int32_t k = 0; k < LLOYD; k++) {
        struct value_sums a = value_sums(g, s);
        linear_keep(&best, s, a.error);
        s = round_f16(f32x16_add(s, ratio(a.rv, a.vv)));
    }
    return best.s;
}

encode_fn KERNEL(iq4_nl_encode);

void KERNEL(iq4_nl_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *to) {
    uint8_t *out = to;
    for (int32_t at = 0; at < n; at += SUBS * SUB) {
        struct group g;
        int8_t q[SUB][SUBS];
        uint16_t half[SUBS];
        group_load(&g, x, importance, at, n, cols, SUB, F16_MAX * 113.0f);
        f32x16 d = choose_d(&g), inverse = inverse_of(d);
        for (int32_t i = 0; i < SUB; i++) {
            i32x16_store_i8(q[i], nearest_index(f32x16_mul(f32x16_load(g.x[i]), inverse)));
        }
        f32x16_store_f16(half, d);
        for (int32_t l = 0; l < SUBS && at + l * SUB < n; l++, out += BYTES) {
            memcpy(out, half + l, 2);
            for (int32_t j = 0; j < 16; j++) out[2 + j] = (uint8_t)(q[j][l] | q[j + 16][l] << 4);
        }
    }
}
