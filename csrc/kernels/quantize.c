/* quantize.c: float rows -> quantised activation rows (layout.h), by the rule of quantize.h: the same bits at every
 * level.
 *
 * Inputs past the row count as 0.
 */
#include "layout.h"
#include "quantize.h"

quantize_row_fn KERNEL(quantize_q8_32), KERNEL(quantize_q8_256);

void KERNEL(quantize_q8_32)(const float *x, int32_t cols, void *row) {
    struct act_q8_32 *block = row;
    for (int32_t k = 0; k < cols; k += 32, block++) {
        int32_t left = cols - k;
        f32x16 a = left >= 16 ? f32x16_loadu(x + k) : f32x16_load_n(x + k, left);
        f32x16 b = left >= 32 ? f32x16_loadu(x + k + 16) : f32x16_load_n(x + k + 16, left > 16 ? left - 16 : 0);
        float largest = f32x16_hmax(f32x16_max(f32x16_abs(a), f32x16_abs(b)));
        float poison = f32x16_sum(f32x16_add(f32x16_sub(a, a), f32x16_sub(b, b))), inverse;
        block->d = scales_of(largest, poison, &inverse);
        i32x16 qa = to_int8(a, f32x16_set1(inverse)), qb = to_int8(b, f32x16_set1(inverse));
        i32x16_store_i8(block->q, qa);
        i32x16_store_i8(block->q + 16, qb);
        int32_t sum = i32x16_sum(i32x16_add(qa, qb));
        block->s = block->d * (float)sum;
        block->minus8 = -8 * sum;
        block->minus128 = -128 * sum;
    }
}

void KERNEL(quantize_q8_256)(const float *x, int32_t cols, void *row) {
    struct act_q8_256 *block = row;
    for (int32_t k = 0; k < cols; k += 256, block++) {
        f32x16 v[16], largest = f32x16_zero(), poison = f32x16_zero();
        for (int32_t i = 0; i < 16; i++) {
            int32_t left = cols - k - 16 * i;
            v[i] = left >= 16 ? f32x16_loadu(x + k + 16 * i) : f32x16_load_n(x + k + 16 * i, left > 0 ? left : 0);
            largest = f32x16_max(f32x16_abs(v[i]), largest);
            poison = f32x16_add(poison, f32x16_sub(v[i], v[i]));
        }
        float inverse, d = scales_of(f32x16_hmax(largest), f32x16_sum(poison), &inverse);
        memset(block, 0, sizeof *block);
        block->d = d;
        int16_t pairs[128]; /* sums of two */
        for (int32_t i = 0; i < 16; i++) i32x16_store_i8(block->q + 16 * i, to_int8(v[i], f32x16_set1(inverse)));
        for (int32_t i = 0; i < 128; i++) pairs[i] = (int16_t)(block->q[2 * i] + block->q[2 * i + 1]);
        for (int32_t i = 0; i < 16; i++) {
            const int16_t *of = pairs + 8 * i;
            int16_t first = (int16_t)(of[0] + of[2] + of[4] + of[6]), last = (int16_t)(of[1] + of[3] + of[5] + of[7]);
            for (int32_t j = 0; j < 2; j++) {
                const int16_t *four = of + 4 * j;
                block->minus32[2 * i + j] = (int16_t)(-32 * (four[0] + four[1] + four[2] + four[3]));
            }
            block->minus32_pairs[i][0] = (int16_t)(-32 * first);
            block->minus32_pairs[i][1] = (int16_t)(-32 * last);
            block->minus_sums[i / 2] = (int16_t)(block->minus_sums[i / 2] - first - last);
        }
    }
}
