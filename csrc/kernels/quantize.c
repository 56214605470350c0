/* quantize.c: float rows -> quantised activation rows (layout.h), the same bits at every level.
 *
 * d = largest |x| / 127, q = x * (127 / largest |x|) to nearest, ties to even. A block whose largest |x| is below
 * 2^-100 (its scale would be subnormal or zero) counts as zero: d = 0, q = 0. A block with NaN or infinity has d = NaN,
 * so that the fault shows in the output; q is then arbitrary but the same at every level. Inputs past the row count as
 * 0.
 */
#include "layout.h"
#include "simd.h"

#define ZERO_BELOW 0x1p-100f

/* Scale and inverse of a block from its largest magnitude and its poison (0, or NaN when an input was not finite). */
SIMD_INLINE float scales_of(float largest, float poison, float *inverse) {
    *inverse = largest >= ZERO_BELOW ? 127.0f / largest : 0.0f;
    if (poison != 0.0f) return NAN;
    return largest >= ZERO_BELOW ? largest / 127.0f : 0.0f;
}

/* 16 inputs as int32 in -127 .. 127. min and max give the constant for NaN, so the conversion is defined. */
SIMD_INLINE i32x16 to_int8(f32x16 x, f32x16 inverse) {
    f32x16 y = f32x16_min(f32x16_mul(x, inverse), f32x16_set1(127.0f));
    return f32x16_to_i32(f32x16_max(y, f32x16_set1(-127.0f)));
}

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
        for (int32_t i = 0; i < 16; i++) {
            int8_t *q = block->q + 16 * i;
            i32x16_store_i8(q, to_int8(v[i], f32x16_set1(inverse)));
            int32_t first = 0, last = 0;
            for (int32_t j = 0; j < 16; j += 4) {
                first += q[j] + q[j + 1];
                last += q[j + 2] + q[j + 3];
            }
            block->minus32[i] = -32 * (first + last);
            block->minus32_pairs[i][0] = (int16_t)(-32 * first);
            block->minus32_pairs[i][1] = (int16_t)(-32 * last);
            block->minus_sums[i / 2] = (int16_t)(block->minus_sums[i / 2] - first - last);
        }
    }
}
