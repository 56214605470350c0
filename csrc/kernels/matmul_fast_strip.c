/* matmul_fast_strip.c: activation rows -> strips of `--prefill fast` (matmul_fast.h), the same bits at every level.
 *
 * ACT_Q8_256 is copied as it is. ACT_Q8_32 is rounded once more: the scale of 256 inputs is the largest of their eight
 * (each of which has an input of +-127), q becomes round(q * (scale of 32 / scale of 256)). ACT_F32 takes the rule of
 * quantize_q8_256. Knows nothing of weights. Compiled once per level.
 */
#include "matmul_fast.h"
#include "simd.h"

quantize_row_fn KERNEL(quantize_q8_256);

/* One block of one column, what is missing of 256 zero. */
struct column {
    _Alignas(64) int8_t q[FAST_BLOCK];
    float d;
};

/* ---- a column's block at input k, n of 256 inputs ---- */
static inline void column_q8_256(struct column *to, const uint8_t *row, int32_t k, int32_t n) {
    const struct act_q8_256 *block = (const struct act_q8_256 *)(const void *)row + k / FAST_BLOCK;
    (void)n;
    memcpy(to->q, block->q, sizeof to->q);
    to->d = block->d;
}

static inline void column_q8_32(struct column *to, const uint8_t *row, int32_t k, int32_t n) {
    const struct act_q8_32 *block = (const struct act_q8_32 *)(const void *)row + k / 32;
    int32_t n_blocks = fast_cols(n) / 32;
    float largest = 0, poison = 0;
    for (int32_t b = 0; b < n_blocks; b++) {
        if (block[b].d > largest) largest = block[b].d;
        poison += block[b].d - block[b].d;
    }
    to->d = largest + poison;
    for (int32_t b = 0; b < n_blocks; b++) {
        f32x16 ratio = f32x16_set1(to->d > 0 ? block[b].d / to->d : 0.0f);
        for (int32_t i = 0; i < 32; i += 16) {
            int32_t q[16];
            for (int32_t j = 0; j < 16; j++) q[j] = block[b].q[i + j];
            f32x16 scaled = f32x16_mul(f32x16_from_i32(i32x16_loadu(q)), ratio);
            i32x16_store_i8(to->q + 32 * b + i, f32x16_to_i32(scaled));
        }
    }
}

static inline void column_f32(struct column *to, const uint8_t *row, int32_t k, int32_t n) {
    _Alignas(64) float x[FAST_BLOCK] = {0};
    struct act_q8_256 block;
    memcpy(x, row + sizeof(float) * (size_t)k, sizeof(float) * (size_t)n);
    KERNEL(quantize_q8_256)(x, FAST_BLOCK, &block);
    memcpy(to->q, block.q, sizeof to->q);
    to->d = block.d;
}

/* Strips [begin, end) of n columns. */
#define STRIPS(NAME)                                                                                                   \
    strips_fn KERNEL(strips_##NAME);                                                                                   \
    void KERNEL(strips_##NAME)(const void *act, size_t act_stride, int32_t cols, int32_t n, int32_t begin,             \
                               int32_t end, void *strips) {                                                            \
        struct column columns[STRIP_COLS];                                                                             \
        uint8_t *to = (uint8_t *)strips + (size_t)begin * strip_bytes(cols);                                           \
        for (int32_t s = begin; s < end; s++)                                                                          \
            for (int32_t k = 0; k < cols; k += FAST_BLOCK) {                                                           \
                int32_t inputs = cols - k < FAST_BLOCK ? cols - k : FAST_BLOCK;                                        \
                memset(columns, 0, sizeof columns);                                                                    \
                for (int32_t c = 0; c < STRIP_COLS && STRIP_COLS * s + c < n; c++) {                                   \
                    const uint8_t *row = (const uint8_t *)act + (size_t)(STRIP_COLS * s + c) * act_stride;             \
                    column_##NAME(&columns[c], row, k, inputs);                                                        \
                }                                                                                                      \
                to = put_block(to, columns, fast_cols(inputs) / 4);                                                    \
            }                                                                                                          \
    }

/* Returns where the next block begins. */
static inline uint8_t *put_block(uint8_t *to, const struct column *columns, int32_t steps) {
    struct strip_tail tail = {0};
    for (int32_t c = 0; c < STRIP_COLS; c++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < FAST_BLOCK; i++) sum += columns[c].q[i];
        tail.minus128[c] = -128 * sum;
        tail.d[c] = columns[c].d;
    }
    for (int32_t l = 0; l < steps; l++, to += STRIP_LINE)
        for (int32_t c = 0; c < STRIP_COLS; c++) memcpy(to + 4 * c, columns[c].q + 4 * l, 4);
    memcpy(to, &tail, sizeof tail);
    return to + sizeof tail;
}

STRIPS(q8_256)
STRIPS(q8_32)
STRIPS(f32)
