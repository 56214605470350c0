/* simd_portable.h: the vocabulary of simd.h in plain C with the vector extension of gcc and clang, no intrinsics.
 *
 * The compiler lowers the 64-byte vectors to whatever the target's baseline has (SSE2, NEON, scalars). Every function
 * gives the bits that the x86 levels give, which is why fused multiply-add and half floats are spelled out.
 * Included by simd.h alone.
 */
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef i32x16 mask16; /* all ones or all zeros per lane */

#define SIMD_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#define SIMD_EACH for (int i = 0; i < 16; i++)

/* ---- scalars that the vectors are made of ---- */
/* a * b + c with one rounding. Where the target has no such instruction: the product is exact in double; the sum is
 * rounded to odd there (error by 2Sum), after which rounding to float is exact (Boldo and Melquiond 2008). */
SIMD_INLINE float simd_fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, q = c, s = p + q;
    double back = s - p, error = (p - (s - back)) + (q - back);
    uint64_t bits, error_bits;
    memcpy(&bits, &s, 8);
    memcpy(&error_bits, &error, 8);
    /* Only a finite, even sum with a remainder moves; NaN errors (from infinities) do not. */
    uint64_t inexact = (uint64_t)(error < 0.0) | (uint64_t)(error > 0.0);
    uint64_t towards_zero = (bits ^ error_bits) >> 63;
    bits += (inexact & ~bits & 1) * (1 - 2 * towards_zero);
    memcpy(&s, &bits, 8);
    return (float)s;
#endif
}
SIMD_INLINE float simd_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff, bits;
    float f;
    if (exponent == 31) {
        bits = 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0); /* NaN comes out quiet */
    } else if (exponent) {
        bits = (exponent + 112) << 23 | mantissa << 13;
    } else {
        f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, 4);
    }
    bits |= sign;
    memcpy(&f, &bits, 4);
    return f;
}
SIMD_INLINE uint16_t simd_f32_to_f16(float f) { /* nearest even */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and more round to infinity */
    if (magnitude < 0x38800000u) { /* below 2^-14: a multiple of 2^-24; adding 0.5 lets the FPU round */
        float m, half = 0.5f;
        memcpy(&m, &magnitude, 4);
        m += half;
        memcpy(&bits, &m, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
SIMD_INLINE int32_t simd_round_i32(float x) {
    if (!(x >= -2147483648.0f && x < 2147483648.0f)) return INT32_MIN;
    return (int32_t)lrintf(x);
}

/* ---- floats ---- */
SIMD_INLINE f32x16 f32x16_set1(float x) { return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
SIMD_INLINE f32x16 f32x16_zero(void) { return f32x16_set1(0.0f); }
SIMD_INLINE f32x16 f32x16_loadu(const float *p) {
    f32x16 a;
    memcpy(&a, p, 64);
    return a;
}
SIMD_INLINE f32x16 f32x16_load(const float *p) { return f32x16_loadu(p); } /* 64-byte aligned */
SIMD_INLINE void f32x16_storeu(float *p, f32x16 a) { memcpy(p, &a, 64); }
SIMD_INLINE void f32x16_store(float *p, f32x16 a) { memcpy(p, &a, 64); } /* 64-byte aligned */
/* First n lanes (0 .. 16), the others zero; memory beyond them is not touched. */
SIMD_INLINE f32x16 f32x16_load_n(const float *p, int n) {
    f32x16 a = f32x16_zero();
    if (n > 0) memcpy(&a, p, 4 * (size_t)n);
    return a;
}
SIMD_INLINE void f32x16_store_n(float *p, f32x16 a, int n) {
    if (n > 0) memcpy(p, &a, 4 * (size_t)n);
}
SIMD_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) { return a + b; }
SIMD_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) { return a - b; }
SIMD_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) { return a * b; }
SIMD_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) { return a / b; }
SIMD_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) { /* a * b + c */
    SIMD_EACH c[i] = simd_fma(a[i], b[i], c[i]);
    return c;
}
SIMD_INLINE f32x16 f32x16_sqrt(f32x16 a) {
    SIMD_EACH a[i] = __builtin_sqrtf(a[i]);
    return a;
}
SIMD_INLINE i32x16 i32x16_set1(int32_t x) { return (i32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
SIMD_INLINE f32x16 f32x16_from_bits(i32x16 a) { return (f32x16)a; }
SIMD_INLINE i32x16 f32x16_bits(f32x16 a) { return (i32x16)a; }
SIMD_INLINE f32x16 f32x16_neg(f32x16 a) { return (f32x16)((i32x16)a ^ i32x16_set1(INT32_MIN)); }
SIMD_INLINE f32x16 f32x16_abs(f32x16 a) { return (f32x16)((i32x16)a & i32x16_set1(INT32_MAX)); }

/* ---- comparisons (false when a side is NaN) and selection ---- */
SIMD_INLINE mask16 f32x16_lt(f32x16 a, f32x16 b) { return (mask16)(a < b); }
SIMD_INLINE mask16 f32x16_le(f32x16 a, f32x16 b) { return (mask16)(a <= b); }
SIMD_INLINE mask16 f32x16_eq(f32x16 a, f32x16 b) { return (mask16)(a == b); }
SIMD_INLINE f32x16 f32x16_select(mask16 m, f32x16 yes, f32x16 no) {
    return (f32x16)((m & (i32x16)yes) | (~m & (i32x16)no));
}
SIMD_INLINE f32x16 f32x16_min(f32x16 a, f32x16 b) { return f32x16_select(f32x16_lt(a, b), a, b); } /* b when NaN */
SIMD_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) { return f32x16_select(f32x16_lt(b, a), a, b); } /* b when NaN */
SIMD_INLINE mask16 mask16_first(int n) { /* lanes below n, n in 0 .. 16 */
    return (mask16)((i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} < i32x16_set1(n));
}
SIMD_INLINE mask16 mask16_and(mask16 a, mask16 b) { return a & b; }
SIMD_INLINE uint32_t mask16_bits(mask16 m) { /* bit i: lane i */
    uint32_t bits = 0;
    SIMD_EACH bits |= (uint32_t)(m[i] & 1) << i;
    return bits;
}

/* ---- int32 lanes ---- */
SIMD_INLINE i32x16 i32x16_zero(void) { return i32x16_set1(0); }
SIMD_INLINE i32x16 i32x16_loadu(const int32_t *p) {
    i32x16 a;
    memcpy(&a, p, 64);
    return a;
}
SIMD_INLINE void i32x16_storeu(int32_t *p, i32x16 a) { memcpy(p, &a, 64); }
SIMD_INLINE i32x16 i32x16_add(i32x16 a, i32x16 b) { return (i32x16)((u32x16)a + (u32x16)b); }
SIMD_INLINE i32x16 i32x16_sub(i32x16 a, i32x16 b) { return (i32x16)((u32x16)a - (u32x16)b); }
SIMD_INLINE i32x16 i32x16_mul(i32x16 a, i32x16 b) { return (i32x16)((u32x16)a * (u32x16)b); }
SIMD_INLINE i32x16 i32x16_and(i32x16 a, i32x16 b) { return a & b; }
#define i32x16_shl(a, bits) ((i32x16)((u32x16)(a) << (uint32_t)(bits)))
#define i32x16_shr(a, bits) ((i32x16)(a) >> (int32_t)(bits)) /* arithmetic */
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return __builtin_convertvector(a, f32x16); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) {
    i32x16 r;
    SIMD_EACH r[i] = simd_round_i32(a[i]);
    return r;
}
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) { SIMD_EACH p[i] = (int8_t)a[i]; }

/* ---- half floats ---- */
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    f32x16 a;
    SIMD_EACH a[i] = simd_f16_to_f32(p[i]);
    return a;
}
SIMD_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) { SIMD_EACH p[i] = simd_f32_to_f16(a[i]); } /* nearest even */
SIMD_INLINE f32x16 f32x16_load_bf16(const uint16_t *p) {
    i32x16 a;
    SIMD_EACH a[i] = (int32_t)((uint32_t)p[i] << 16);
    return (f32x16)a;
}

/* ---- horizontal: the canonical fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half ---- */
SIMD_INLINE float f32x16_sum(f32x16 a) {
    float s[16];
    memcpy(s, &a, 64);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}
SIMD_INLINE float f32x16_hmax(f32x16 a) {
    float s[16];
    memcpy(s, &a, 64);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] = s[i] > s[i + half] ? s[i] : s[i + half];
    return s[0];
}
