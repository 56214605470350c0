/* encode_float.c: f16 -> floats, and floats -> f32, f16, bf16, to nearest, ties to even. What is beyond f16 becomes its
 * largest number. */
#include "encode.h"

expand_fn KERNEL(expand_f16);

void KERNEL(expand_f16)(const void *half, int32_t n, float *out) {
    for (int32_t i = 0; i < n; i += 16) {
        int32_t left = n - i < 16 ? n - i : 16;
        uint16_t part[16] = {0};
        memcpy(part, (const uint8_t *)half + 2 * (size_t)i, 2 * (size_t)left);
        f32x16_store_n(out + i, f32x16_load_f16(part), left);
    }
}

encode_fn KERNEL(f32_encode), KERNEL(f16_encode), KERNEL(bf16_encode);

void KERNEL(f32_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    (void)importance, (void)cols;
    memcpy(out, x, (size_t)n * 4);
}

void KERNEL(f16_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    uint16_t half[16];
    (void)importance, (void)cols;
    for (int32_t i = 0; i < n; i += 16) {
        int32_t left = n - i < 16 ? n - i : 16;
        f32x16_store_f16(half, clamp(f32x16_load_n(x + i, left), -F16_MAX, F16_MAX));
        memcpy((uint8_t *)out + 2 * (size_t)i, half, 2 * (size_t)left);
    }
}

void KERNEL(bf16_encode)(const float *x, const float *importance, int32_t n, int32_t cols, void *out) {
    (void)importance, (void)cols;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits += 0x7fff + (bits >> 16 & 1);
        if ((bits & 0x7f800000) == 0x7f800000) bits -= 0x10000; /* the largest number, not infinity */
        uint16_t top = (uint16_t)(bits >> 16);
        memcpy((uint8_t *)out + 2 * (size_t)i, &top, 2);
    }
}
