/* quantize.h: the rule by which floats become int8 with one scale, in the vocabulary of simd.h.
 *
 * d = largest |x| / 127, q = x * (127 / largest |x|) to nearest, ties to even. A block whose largest |x| is below
 * 2^-100 (its scale would be subnormal or zero) counts as zero: d = 0, q = 0. A block with NaN or infinity has d = NaN,
 * so that the fault shows in the output; q is then arbitrary but the same at every level.
 */
#ifndef ASDSL_QUANTIZE_H
#define ASDSL_QUANTIZE_H
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

#endif
