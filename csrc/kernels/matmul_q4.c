/* matmul_q4.c: products of weights in blocks of 32 (q4_0, q4_1, q8_0) with ACT_Q8_32 activations.
 *
 * Inside a block the dot is an exact integer; between blocks a row's sum is
 *   q4_0, q8_0   sum = fma(dot, d_w * d_a, sum)
 *   q4_1         sum = fma(m_w, s_a, fma(dot, d_w * d_a, sum))
 * in block order. Compiled once per level. n columns; `halves` vectors of LANES rows at once, from half h on.
 */
#include "matmul.h"

enum { BLOCK = 32, ACT = sizeof(struct act_q8_32), AT_D = 32, AT_S = 36, AT_MINUS8 = 40, AT_MINUS128 = 44 };

SIMD_INLINE fv set1_at(const uint8_t *p) {
    float x;
    memcpy(&x, p, 4);
    return fv_set1(x);
}

/* Four lines of nibbles against n columns: dots[c * halves + s]. */
SIMD_INLINE void dot_nibbles(dot4 *dots, const uint8_t *lines, const uint8_t *act, size_t stride, int n, int halves) {
    for (int l = 0; l < 4; l++) {
        bv low[2], high[2];
        for (int s = 0; s < halves; s++) {
            bv x = bv_load(lines + LINE * l + 4 * LANES * s);
            low[s] = bv_and(x, bv_set1(15));
            high[s] = bv_and(bv_shr(x, 4), bv_set1(15));
        }
        for (int c = 0; c < n; c++) {
            av a = av_load(act + (size_t)c * stride + 4 * l);
            for (int s = 0; s < halves; s++) dots[c * halves + s] = dot4_add(dots[c * halves + s], low[s], a);
        }
        for (int c = 0; c < n; c++) {
            av a = av_load(act + (size_t)c * stride + 16 + 4 * l);
            for (int s = 0; s < halves; s++) dots[c * halves + s] = dot4_add(dots[c * halves + s], high[s], a);
        }
    }
}

SIMD_INLINE void store_sums(const struct tile *t, const fv *sums, int h, int n, int halves) {
    for (int c = 0; c < n; c++)
        for (int s = 0; s < halves; s++) fv_store(t->sums + c * KERNEL_ROWS + (h + s) * LANES, sums[c * halves + s]);
}

SIMD_INLINE void q4_1_body(const struct tile *t, int h, const int n, const int halves, const int prefetch) {
    fv sums[TILE_SUMS];
    const uint8_t *record = t->group, *act = t->act;
    const size_t stride = t->act_stride;
    for (int i = 0; i < n * halves; i++) sums[i] = fv_zero();
    for (int32_t b = t->cols / BLOCK; b > 0; b--, record += Q4_1_RECORD, act += ACT) {
        dot4 dots[TILE_SUMS];
        if (prefetch) prefetch_ahead(record, Q4_1_RECORD);
        for (int i = 0; i < n * halves; i++) dots[i] = dot4_start(NULL);
        dot_nibbles(dots, record + LINE + 4 * LANES * h, act, stride, n, halves);
        for (int s = 0; s < halves; s++) {
            fv d = fv_load_f16(record + 2 * LANES * (h + s)), m = fv_load_f16(record + 32 + 2 * LANES * (h + s));
            for (int c = 0; c < n; c++) {
                const uint8_t *a = act + (size_t)c * stride;
                fv *sum = &sums[c * halves + s];
                fv dot = fv_from_i32(dot4_sum(dots[c * halves + s], NULL));
                *sum = fv_fma(dot, fv_mul(d, set1_at(a + AT_D)), *sum);
                *sum = fv_fma(m, set1_at(a + AT_S), *sum);
            }
        }
    }
    store_sums(t, sums, h, n, halves);
}

/* One block of q4_0 or q8_0: scales at d, lines at q. */
SIMD_INLINE void scale_dots(fv *sums, const iv *dots, const uint8_t *d, const uint8_t *act, size_t stride, int n,
                            int halves) {
    for (int s = 0; s < halves; s++) {
        fv d_w = fv_load_f16(d + 2 * LANES * s);
        for (int c = 0; c < n; c++) {
            fv scale = fv_mul(d_w, set1_at(act + (size_t)c * stride + AT_D));
            sums[c * halves + s] = fv_fma(fv_from_i32(dots[c * halves + s]), scale, sums[c * halves + s]);
        }
    }
}

SIMD_INLINE void q4_0_block(fv *sums, const uint8_t *d, const uint8_t *lines, const uint8_t *act, size_t stride, int n,
                            int halves) {
    dot4 dots[TILE_SUMS];
    iv exact[TILE_SUMS];
    for (int i = 0; i < n * halves; i++) {
        dots[i] = dot4_start((const int32_t *)(const void *)(act + (size_t)(i / halves) * stride + AT_MINUS8));
    }
    dot_nibbles(dots, lines, act, stride, n, halves);
    for (int i = 0; i < n * halves; i++) {
        exact[i] = dot4_sum(dots[i], (const int32_t *)(const void *)(act + (size_t)(i / halves) * stride + AT_MINUS8));
    }
    scale_dots(sums, exact, d, act, stride, n, halves);
}

SIMD_INLINE void q8_0_block(fv *sums, const uint8_t *d, const uint8_t *lines, const uint8_t *act, size_t stride, int n,
                            int halves) {
    dot8 dots[TILE_SUMS];
    iv exact[TILE_SUMS];
    for (int i = 0; i < n * halves; i++) {
        dots[i] = dot8_start((const int32_t *)(const void *)(act + (size_t)(i / halves) * stride + AT_MINUS128));
    }
    for (int l = 0; l < 8; l++) {
        w8 w[2];
        for (int s = 0; s < halves; s++) w[s] = w8_load(lines + LINE * l + 4 * LANES * s);
        for (int c = 0; c < n; c++) {
            av a = av_load(act + (size_t)c * stride + 4 * l);
            for (int s = 0; s < halves; s++) dots[c * halves + s] = dot8_add(dots[c * halves + s], w[s], a);
        }
    }
    for (int i = 0; i < n * halves; i++) exact[i] = dot8_sum(dots[i]);
    scale_dots(sums, exact, d, act, stride, n, halves);
}

/* Records hold two blocks; an odd last one is found by the same formula (layout.h). */
#define PAIRED_BODY(NAME, PAIR_BYTES, BLOCK_LINES)                                                                     \
    SIMD_INLINE void NAME##_body(const struct tile *t, int h, const int n, const int halves, const int prefetch) {     \
        fv sums[TILE_SUMS];                                                                                            \
        const uint8_t *record = t->group, *act = t->act;                                                               \
        const size_t stride = t->act_stride;                                                                           \
        int32_t n_blocks = t->cols / BLOCK;                                                                            \
        for (int i = 0; i < n * halves; i++) sums[i] = fv_zero();                                                      \
        for (int32_t b = 0; b < n_blocks; b++, act += ACT) {                                                           \
            int32_t odd = b & 1;                                                                                       \
            if (prefetch) prefetch_ahead(record + odd * (PAIR_BYTES / 2), PAIR_BYTES / 2);                             \
            NAME##_block(sums, record + 32 * odd + 2 * LANES * h,                                                      \
                         record + LINE + BLOCK_LINES * LINE * odd + 4 * LANES * h, act, stride, n, halves);            \
            record += odd ? PAIR_BYTES : 0;                                                                            \
        }                                                                                                              \
        store_sums(t, sums, h, n, halves);                                                                             \
    }
PAIRED_BODY(q4_0, Q4_0_PAIR, 4)
PAIRED_BODY(q8_0, Q8_0_PAIR, 8)

/* With 8 lanes a wide tile walks its records once for each half: its sums and dots fill the registers. */
#define TILE_OF_BODY(NAME)                                                                                             \
    SIMD_INLINE void NAME##_tile(const struct tile *t, const int n, const int prefetch) {                              \
        const int at_once = n <= TILE_HALVES_TO ? HALVES : 1;                                                          \
        NAME##_body(t, 0, n, at_once, prefetch);                                                                       \
        if (at_once < HALVES) NAME##_body(t, 1, n, at_once, 0);                                                        \
    }
TILE_OF_BODY(q4_0)
TILE_OF_BODY(q4_1)
TILE_OF_BODY(q8_0)

MATMUL_SLOTS(q4_0, ASDSL_Q4_0)
MATMUL_SLOTS(q4_1, ASDSL_Q4_1)
MATMUL_SLOTS(q8_0, ASDSL_Q8_0)
