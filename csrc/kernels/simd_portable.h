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
/* The compiler forgets what it knows of x: for probes. */
#define SIMD_OPAQUE(x) __asm__ volatile("" : "+m"(x))

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
/* Sum of all lanes. */
SIMD_INLINE int32_t i32x16_sum(i32x16 a) {
    uint32_t sum = 0;
    SIMD_EACH sum += (uint32_t)a[i];
    return (int32_t)sum;
}

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

/* ---- lanes of the matmul tiles: LANES rows at a time ----
 *   fv floats   iv int32   bv 4 bytes a row (weights)   av 4 activation bytes, the same for every row, as int16 twice
 */
enum { LANES = 16 };
typedef int16_t simd_i16x8 __attribute__((vector_size(16)));
typedef uint8_t simd_u8x64 __attribute__((vector_size(64)));
typedef uint16_t simd_u16x32 __attribute__((vector_size(64)));
typedef f32x16 fv;
typedef i32x16 iv;
typedef simd_u8x64 bv;
typedef simd_i16x8 av;
#define SIMD_PARTS for (int i = 0; i < 8; i++) /* two rows each */

SIMD_INLINE fv fv_zero(void) { return f32x16_zero(); }
SIMD_INLINE fv fv_set1(float x) { return f32x16_set1(x); }
SIMD_INLINE fv fv_load(const void *p) { return f32x16_loadu(p); }
SIMD_INLINE fv fv_load_f16(const void *p) { return f32x16_load_f16(p); }
SIMD_INLINE fv fv_load_bf16(const void *p) { return f32x16_load_bf16(p); }
SIMD_INLINE void fv_store(float *p, fv a) { f32x16_storeu(p, a); }
SIMD_INLINE fv fv_mul(fv a, fv b) { return a * b; }
SIMD_INLINE fv fv_fma(fv a, fv b, fv c) { return f32x16_fma(a, b, c); }
SIMD_INLINE fv fv_from_i32(iv a) { return f32x16_from_i32(a); }
SIMD_INLINE iv iv_zero(void) { return i32x16_zero(); }
SIMD_INLINE bv bv_load(const void *p) {
    bv a;
    memcpy(&a, p, 64);
    return a;
}
SIMD_INLINE bv bv_set1(uint8_t x) { return (bv){0} + x; }
SIMD_INLINE bv bv_and(bv a, bv b) { return a & b; }
SIMD_INLINE bv bv_or(bv a, bv b) { return a | b; }
#define bv_shl(a, bits) ((bv)((simd_u16x32)(a) << bits)) /* bits cross into the neighbouring byte: mask after */
#define bv_shr(a, bits) ((bv)((simd_u16x32)(a) >> bits))
SIMD_INLINE av av_load(const void *p) {
    const int8_t *a = p;
    return (av){a[0], a[1], a[2], a[3], a[0], a[1], a[2], a[3]};
}

/* Products in int16, two rows (8 weights) to a part. The bounds are those of simd_avx2.h, halved: a lane holds one
 * product a step, 15 * 127 (8 steps), 63 * 127 (4 steps: 32004 < 32767), 128 * 127 (two steps). */
typedef struct { simd_i16x8 part[8]; } dot4;
SIMD_INLINE dot4 simd_madd(dot4 acc, bv w, av a) {
    SIMD_PARTS {
        simd_i16x8 w16;
        for (int k = 0; k < 8; k++) w16[k] = w[8 * i + k];
        acc.part[i] += w16 * a;
    }
    return acc;
}
SIMD_INLINE iv simd_fold(dot4 acc) { /* the four lanes of each row, as int32 */
    iv sum;
    SIMD_EACH {
        simd_i16x8 part = acc.part[i / 2];
        sum[i] = (part[i % 2 * 4] + part[i % 2 * 4 + 1]) + (part[i % 2 * 4 + 2] + part[i % 2 * 4 + 3]);
    }
    return sum;
}
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return (void)offset, (dot4){{{0}}}; }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) {
    iv sum = simd_fold(acc);
    return offset ? sum + i32x16_set1(*offset) : sum;
}

typedef iv dot8;
typedef bv w8;
SIMD_INLINE w8 w8_load(const void *p) { return bv_load(p); }
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return (void)minus128, iv_zero(); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) {
    dot4 products;
    SIMD_PARTS {
        simd_i16x8 w16;
        for (int k = 0; k < 8; k++) w16[k] = (int8_t)w[8 * i + k];
        products.part[i] = w16 * a;
    }
    return acc + simd_fold(products);
}
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }

typedef dot4 dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return dot4_start(NULL); }
SIMD_INLINE bv dot4k_low(bv x) { return x & 15; }
SIMD_INLINE bv dot4k_high(bv x) { return x >> 4; }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) { return simd_madd(acc, w, a); }
/* Scales are int16 pairs in a lane; dot4k's are alike, the low one will do. */
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) { return total + simd_fold(acc) * (scale & 0xffff); }
/* acc + a[0] * b[0] + a[1] * b[1] of int16 pairs (a not negative); b from memory, the same for every row. */
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) { return acc + (a & 0xffff) * b[0] + (a >> 16) * b[1]; }
/* Bytes of q4_k's scale lines (layout.h) as int16: byte `from` of each row's four in the low half, `then` in the high. */
SIMD_INLINE iv iv_pick_pairs(bv bytes, int from, int then) {
    iv pairs;
    SIMD_EACH {
        int at = i / 4 * 16 + i % 4;
        pairs[i] = bytes[at + 4 * from] | (int32_t)bytes[at + 4 * then] << 16;
    }
    return pairs;
}

typedef dot4 dot6;
SIMD_INLINE dot6 dot6_start(const int32_t *minus32, const int16_t *pairs) {
    dot6 acc;
    simd_i16x8 start = {pairs[0], 0, pairs[1], 0, pairs[0], 0, pairs[1], 0};
    (void)minus32;
    SIMD_PARTS acc.part[i] = start;
    return acc;
}
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE iv dot6_scale(bv line, int j) { return (iv)((u32x16)(simd_u8x64)line << (uint32_t)(24 - 8 * j)) >> 24; }
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) { return total + simd_fold(acc) * scale; }
