/* norm.c: root-mean-square norms of float rows. The sum of squares is one chain of 16 lanes, folded at the end. */
#include "kernels.h"
#include "simd.h"

rms_norm_fn KERNEL(rms_norm), KERNEL(rms_norm_add);

/* 1 / rms(x) */
SIMD_INLINE f32x16 scale_of(const float *x, int32_t cols, float eps) {
    f32x16 sum = f32x16_zero();
    for (int32_t i = 0; i < cols; i += 16) {
        f32x16 a = cols - i >= 16 ? f32x16_loadu(x + i) : f32x16_load_n(x + i, cols - i);
        sum = f32x16_fma(a, a, sum);
    }
    return f32x16_set1(1.0f / sqrtf(f32x16_sum(sum) / (float)cols + eps));
}

void KERNEL(rms_norm)(const float *x, const float *weight, int32_t cols, float eps, float *out) {
    f32x16 scale = scale_of(x, cols, eps);
    for (int32_t i = 0; i < cols; i += 16) {
        int32_t n = cols - i < 16 ? cols - i : 16;
        f32x16 a = f32x16_mul(f32x16_load_n(x + i, n), scale);
        f32x16_store_n(out + i, f32x16_mul(a, f32x16_load_n(weight + i, n)), n);
    }
}

void KERNEL(rms_norm_add)(const float *x, const float *weight, int32_t cols, float eps, float *out) {
    f32x16 scale = scale_of(x, cols, eps);
    for (int32_t i = 0; i < cols; i += 16) {
        int32_t n = cols - i < 16 ? cols - i : 16;
        f32x16 a = f32x16_mul(f32x16_load_n(x + i, n), scale);
        a = f32x16_mul(a, f32x16_load_n(weight + i, n));
        f32x16_store_n(out + i, f32x16_add(f32x16_load_n(out + i, n), a), n);
    }
}
