/* simd_portable.h: the vocabulary of simd.h in plain C with the vector extension of gcc and clang, no intrinsics.
 *
 * The compiler lowers the 64-byte vectors to whatever the target's baseline has (SSE2, NEON, scalars). Every function
 * gives the bits that the x86 levels give, which is why fused multiply-add and half floats are spelled out.
 * Included by simd.h alone.
 */
/* clang-format off: one line to a function reads as a table */
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef i32x16 mask16; /* all ones or all zeros per lane */

#define SIMD_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#define SIMD_EACH for (int i = 0; i < 16; i++)

typedef double simd_f64x16 __attribute__((vector_size(128)));
typedef int64_t simd_i64x16 __attribute__((vector_size(128)));
typedef uint64_t simd_u64x16 __attribute__((vector_size(128)));
typedef uint16_t simd_u16x16 __attribute__((vector_size(32)));

/* ---- scalars that the vectors are made of ---- */
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
/* The compiler forgets what it knows of x. */
#define SIMD_OPAQUE(x) __asm__ volatile("" : "+m"(x))
#define SIMD_FORGET ((void)0) /* simd_avx2.h */

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
/* a * b + c with one rounding. Where the target has no such instruction: the product is exact in double; the sum is
 * rounded to odd there (error by 2Sum), after which rounding to float is exact (Boldo and Melquiond 2008). */
SIMD_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__aarch64__)
    SIMD_EACH c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    simd_f64x16 p = __builtin_convertvector(a, simd_f64x16) * __builtin_convertvector(b, simd_f64x16);
    simd_f64x16 q = __builtin_convertvector(c, simd_f64x16), s = p + q, back = s - p;
    simd_f64x16 error = (p - (s - back)) + (q - back);
    simd_u64x16 bits = (simd_u64x16)s;
    /* Only an even sum with a remainder moves, by one unit, towards the remainder; NaN (from infinities) is none. */
    simd_u64x16 inexact = (simd_u64x16)((error < 0.0) | (error > 0.0)), unit = inexact & ~bits & 1;
    simd_u64x16 towards_zero = 0 - ((bits ^ (simd_u64x16)error) >> 63);
    return __builtin_convertvector((simd_f64x16)(bits + ((unit ^ towards_zero) - towards_zero)), f32x16);
#endif
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
SIMD_INLINE i32x16 i32x16_xor(i32x16 a, i32x16 b) { return a ^ b; }
typedef uint8_t simd_u8x64 __attribute__((vector_size(64)));
SIMD_INLINE i32x16 i32x16_min_u8(i32x16 a, i32x16 b) { /* of each byte */
    i32x16 less = (i32x16)((simd_u8x64)a < (simd_u8x64)b);
    return (a & less) | (b & ~less);
}
SIMD_INLINE i32x16 i32x16_max_u8(i32x16 a, i32x16 b) {
    i32x16 less = (i32x16)((simd_u8x64)a < (simd_u8x64)b);
    return (b & less) | (a & ~less);
}
/* Each byte, 0 .. 15, as an index into 16 bytes. */
SIMD_INLINE i32x16 i32x16_lookup(const int8_t *table, i32x16 bytes) {
    simd_u8x64 at = (simd_u8x64)bytes, values;
    for (int i = 0; i < 64; i++) values[i] = (uint8_t)table[at[i]];
    return (i32x16)values;
}
#define i32x16_shl(a, bits) ((i32x16)((u32x16)(a) << (uint32_t)(bits)))
#define i32x16_shr(a, bits) ((i32x16)(a) >> (int32_t)(bits)) /* arithmetic */
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return __builtin_convertvector(a, f32x16); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) {
    i32x16 r = {0};
    SIMD_EACH r[i] = simd_round_i32(a[i]);
    return r;
}
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) { SIMD_EACH p[i] = (int8_t)a[i]; }
/* Each lane, which must fit, as one of 16 int16. */
SIMD_INLINE void i32x16_store_i16(int16_t *p, i32x16 a) { SIMD_EACH p[i] = (int16_t)a[i]; }
/* Sum of all lanes. */
SIMD_INLINE int32_t i32x16_sum(i32x16 a) {
    uint32_t sum = 0;
    SIMD_EACH sum += (uint32_t)a[i];
    return (int32_t)sum;
}

/* ---- half floats ---- */
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    simd_u16x16 half;
    memcpy(&half, p, 32);
    u32x16 h = __builtin_convertvector(half, u32x16), exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    u32x16 normal = (exponent + 112) << 23 | mantissa << 13, quiet = (u32x16)(mantissa != 0) & 0x400000;
    u32x16 tiny = (u32x16)(__builtin_convertvector((i32x16)mantissa, f32x16) * 0x1p-24f);
    u32x16 special = 0x7f800000 | mantissa << 13 | quiet; /* NaN comes out quiet */
    u32x16 is_tiny = (u32x16)(exponent == 0), is_special = (u32x16)(exponent == 31);
    normal = (is_tiny & tiny) | (~is_tiny & normal);
    return (f32x16)((is_special & special) | (~is_special & normal) | (h & 0x8000) << 16);
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

/* Lane i with lane i ^ 1, 2, 4, 8. */
SIMD_INLINE f32x16 f32x16_swap1(f32x16 a) {
    return __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
SIMD_INLINE f32x16 f32x16_swap2(f32x16 a) {
    return __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
}
SIMD_INLINE f32x16 f32x16_swap4(f32x16 a) {
    return __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
}
SIMD_INLINE f32x16 f32x16_swap8(f32x16 a) {
    return __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

/* ---- lanes of the matmul tiles: LANES rows at a time ----
 *   fv floats   iv int32   bv 4 bytes a row (weights)   av 4 activation bytes, the same for every row, as int16 twice
 */
enum { LANES = 16 };
typedef int16_t simd_i16x8 __attribute__((vector_size(16)));
typedef int32_t simd_i32x4 __attribute__((vector_size(16)));
typedef int8_t simd_i8x8 __attribute__((vector_size(8)));
typedef uint8_t simd_u8x8 __attribute__((vector_size(8)));
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
    simd_i8x8 a;
    memcpy(&a, p, 4);
    memcpy((char *)&a + 4, p, 4);
    return __builtin_convertvector(a, simd_i16x8);
}

/* Products in int16, two rows (8 weights) to a part. The bounds are those of simd_avx2.h, halved: a lane holds one
 * product a step, 15 * 127 or 31 * 127 (8 steps: 31496), 63 * 127 (4 steps: 32004 < 32767), 128 * 127 (two steps). */
typedef struct {
    simd_i16x8 part[8];
} dot4;
SIMD_INLINE dot4 simd_madd(dot4 acc, bv w, av a) {
    SIMD_PARTS {
        simd_u8x8 part;
        memcpy(&part, (const char *)&w + 8 * i, 8);
        acc.part[i] += __builtin_convertvector(part, simd_i16x8) * a;
    }
    return acc;
}
/* The four lanes of each row, as int32. */
SIMD_INLINE iv simd_fold(dot4 acc) {
    iv sum;
    for (int i = 0; i < 4; i++) { /* four rows */
        simd_i32x4 a = (simd_i32x4)acc.part[2 * i], b = (simd_i32x4)acc.part[2 * i + 1];
        a = (a << 16 >> 16) + (a >> 16);
        b = (b << 16 >> 16) + (b >> 16);
        a = __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
        memcpy((char *)&sum + 16 * i, &a, 16);
    }
    return sum;
}
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return (void)offset, (dot4){{{0}}}; }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) {
    iv sum = simd_fold(acc);
    return offset ? sum + i32x16_set1(*offset) : sum;
}

typedef dot4 dot5;
SIMD_INLINE dot5 dot5_start(const int32_t *minus8) { return dot4_start(minus8); }
SIMD_INLINE dot5 dot5_add(dot5 acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE dot5 dot5_widen(dot5 acc) { return acc; }
SIMD_INLINE iv dot5_sum(dot5 acc, const int32_t *minus8) {
    iv sum = simd_fold(acc);
    return minus8 ? sum + i32x16_set1(2 * *minus8) : sum;
}

typedef iv dot8;
typedef bv w8;
SIMD_INLINE w8 w8_load(const void *p) { return bv_load(p); }
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return (void)minus128, iv_zero(); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) {
    dot4 products;
    SIMD_PARTS {
        simd_i8x8 part;
        memcpy(&part, (const char *)&w + 8 * i, 8);
        products.part[i] = __builtin_convertvector(part, simd_i16x8) * a;
    }
    return acc + simd_fold(products);
}
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }
/* Weights of 4-bit indices into a table. */
SIMD_INLINE w8 w8_lookup(const int8_t *table, bv indices) {
    w8 w;
    for (int i = 0; i < 64; i++) w[i] = (uint8_t)table[indices[i]];
    return w;
}
/* Byte j of each row's four, signed, as dot8_scaled wants it. */
SIMD_INLINE iv dot8_scale(bv line, int j) { return (iv)((u32x16)line << (uint32_t)(24 - 8 * j)) >> 24; }
SIMD_INLINE iv dot8_scaled(iv total, dot8 acc, iv scale) { return total + acc * scale; }

typedef dot4 dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return dot4_start(NULL); }
SIMD_INLINE bv dot4k_low(bv x) { return x & 15; }
SIMD_INLINE bv dot4k_high(bv x) { return x >> 4; }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) { return simd_madd(acc, w, a); }
/* Scales are int16 pairs in a lane; dot4k's are alike, the low one will do. */
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) { return total + simd_fold(acc) * (scale & 0xffff); }
/* acc + a[0] * b[0] + a[1] * b[1] of int16 pairs; b from memory, the same for every row. */
SIMD_INLINE iv simd_first(iv pairs) { return (iv)((u32x16)pairs << 16) >> 16; }
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) { return acc + simd_first(a) * b[0] + (a >> 16) * b[1]; }
/* dot8u: weights in the order of keys, bytes of which the second and third are swapped. */
typedef int16_t weight8u;
typedef bv b8u;
SIMD_INLINE void i32x16_store_u8(weight8u *p, i32x16 a) { i32x16_store_i16(p, a); }
SIMD_INLINE b8u b8u_load(const void *p) { return bv_load(p); }
SIMD_INLINE iv dot8u_add(iv acc, b8u bytes, const weight8u *w) {
    u32x16 a = (u32x16)bytes;
    acc += ((iv)(a << 24) >> 24) * w[0] + ((iv)(a << 8) >> 24) * w[1];
    return acc + ((iv)(a << 16) >> 24) * w[2] + ((iv)a >> 24) * w[3];
}
/* Bytes of q4_k's scale lines (layout.h) as int16: byte `from` of each row's four low in the lane, `then` high. */
SIMD_INLINE iv iv_pick_pairs(bv bytes, int from, int then) {
    iv pairs;
    SIMD_EACH {
        int at = i / 4 * 16 + i % 4;
        pairs[i] = bytes[at + 4 * from] | (int32_t)bytes[at + 4 * then] << 16;
    }
    return pairs;
}

SIMD_INLINE iv iv_sub_pairs(iv pairs, int x) {
    return (iv)(((u32x16)pairs - (uint32_t)x) & 0xffff) | (iv)((u32x16)((pairs >> 16) - x) << 16);
}

/* Byte j of each row's four in scale lines, less `minus`, for the dot4 of a sub-block of 16. */
SIMD_INLINE iv dot4_scale(bv bytes, int j, int minus) { return (iv_pick_pairs(bytes, j, j) & 0xffff) - minus; }
SIMD_INLINE iv dot4_scaled(iv total, dot4 acc, iv scale) { return total + simd_fold(acc) * scale; }

enum { DOT5K_STEPS = 8 };
typedef dot4 dot5k;
SIMD_INLINE dot5k dot5k_zero(void) { return dot4_start(NULL); }
SIMD_INLINE dot5k dot5k_add(dot5k acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE iv dot5k_scale(bv bytes, int j) { return iv_pick_pairs(bytes, j, j) & 0xffff; }
SIMD_INLINE iv dot5k_scaled(iv total, dot5k acc, iv scale) { return total + simd_fold(acc) * scale; }

enum { DOT6_STEPS = 4 };
typedef dot4 dot6;
SIMD_INLINE dot6 dot6_start(const int16_t *minus32, const int16_t *pairs) {
    dot6 acc;
    simd_i16x8 start = {pairs[0], 0, pairs[1], 0, pairs[0], 0, pairs[1], 0};
    (void)minus32;
    SIMD_PARTS acc.part[i] = start;
    return acc;
}
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return simd_madd(acc, w, a); }
SIMD_INLINE iv dot6_scale(bv line, int j) { return dot8_scale(line, j); }
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) { return total + simd_fold(acc) * scale; }

/* Panels of matmul_fast.h: signed weights. */
enum { PANEL_MAX = 127, PANEL_OFFSET = 128 };
#define PANEL_TILES(X) X(1) /* strips of a tile */
SIMD_INLINE bv panel_load(const void *p) { return bv_load(p) ^ 0x80; }
SIMD_INLINE iv panel_start(const int32_t *minus128) { return (void)minus128, iv_zero(); }
SIMD_INLINE iv panel_dot(iv acc, bv w, av a) { return dot8_add(acc, w, a); }
