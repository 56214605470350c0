/* simd_avx2.h: the vocabulary of simd.h in AVX2 + FMA + F16C, and with AVX-VNNI where the compiler has it.
 *
 * Owns the 16-lane types as pairs of ymm registers: lo holds lanes 0-7, hi lanes 8-15. Included by simd.h alone.
 * ASDSL_EVEX_AS_AVXVNNI compiles the AVX-VNNI code with the EVEX encoding of the same instruction, so that tests can
 * run it on a CPU that has AVX-512 VNNI but hides AVX-VNNI.
 */
/* clang-format off: one line to a function reads as a table */
#include <immintrin.h>

typedef struct {
    __m256 lo, hi;
} f32x16;
typedef struct {
    __m256i lo, hi;
} i32x16;
typedef struct {
    __m256 lo, hi;
} mask16; /* all ones or all zeros per lane */

#define SIMD_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* into L2 */
#define SIMD_BOTH_F32(f, a) ((f32x16){f((a).lo), f((a).hi)})
#define SIMD_BOTH_F32_2(f, a, b) ((f32x16){f((a).lo, (b).lo), f((a).hi, (b).hi)})
#define SIMD_BOTH_I32_2(f, a, b) ((i32x16){f((a).lo, (b).lo), f((a).hi, (b).hi)})

/* Masks of the first n lanes of eight. */
SIMD_INLINE __m256i simd_first8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* The compiler forgets what it knows of x. */
#define SIMD_OPAQUE(x) __asm__ volatile("" : "+x"(x))

/* With 16 registers: keeps the compiler from holding loaded values for a later use, which ends in spills. */
#define SIMD_FORGET __asm__ volatile("" ::: "memory")
/* ---- floats ---- */
SIMD_INLINE f32x16 f32x16_zero(void) { return (f32x16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
SIMD_INLINE f32x16 f32x16_set1(float x) { return (f32x16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
SIMD_INLINE f32x16 f32x16_load(const float *p) { return (f32x16){_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
SIMD_INLINE f32x16 f32x16_loadu(const float *p) { return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SIMD_INLINE void f32x16_store(float *p, f32x16 a) {
    _mm256_store_ps(p, a.lo);
    _mm256_store_ps(p + 8, a.hi);
}
SIMD_INLINE void f32x16_storeu(float *p, f32x16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
/* First n lanes (0 .. 16), the others zero; memory beyond them is not touched. */
SIMD_INLINE f32x16 f32x16_load_n(const float *p, int n) {
    return (f32x16){_mm256_maskload_ps(p, simd_first8(n)), _mm256_maskload_ps(p + 8, simd_first8(n - 8))};
}
SIMD_INLINE void f32x16_store_n(float *p, f32x16 a, int n) {
    /* On AMD's AVX2 cores a masked store costs as much as 18 plain ones: rms_norm of 2,048 1.54 us, like this 0.49 (Zen
     * 3, seen once). */
    if (n >= 16) {
        f32x16_storeu(p, a);
        return;
    }
    _mm256_maskstore_ps(p, simd_first8(n), a.lo);
    _mm256_maskstore_ps(p + 8, simd_first8(n - 8), a.hi);
}
SIMD_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_add_ps, a, b); }
SIMD_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_sub_ps, a, b); }
SIMD_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_mul_ps, a, b); }
SIMD_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_div_ps, a, b); }
SIMD_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) { /* a * b + c */
    return (f32x16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SIMD_INLINE f32x16 f32x16_min(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_min_ps, a, b); } /* b when NaN */
SIMD_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) { return SIMD_BOTH_F32_2(_mm256_max_ps, a, b); } /* b when NaN */
SIMD_INLINE f32x16 f32x16_sqrt(f32x16 a) { return SIMD_BOTH_F32(_mm256_sqrt_ps, a); }
SIMD_INLINE f32x16 f32x16_neg(f32x16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (f32x16){_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
SIMD_INLINE f32x16 f32x16_abs(f32x16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (f32x16){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

/* ---- comparisons (false when a side is NaN) and selection ---- */
SIMD_INLINE mask16 f32x16_lt(f32x16 a, f32x16 b) {
    return (mask16){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
SIMD_INLINE mask16 f32x16_le(f32x16 a, f32x16 b) {
    return (mask16){_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
SIMD_INLINE mask16 f32x16_eq(f32x16 a, f32x16 b) {
    return (mask16){_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
SIMD_INLINE f32x16 f32x16_select(mask16 m, f32x16 yes, f32x16 no) {
    return (f32x16){_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
SIMD_INLINE mask16 mask16_first(int n) { /* lanes below n, n in 0 .. 16 */
    return (mask16){_mm256_castsi256_ps(simd_first8(n)), _mm256_castsi256_ps(simd_first8(n - 8))};
}
SIMD_INLINE mask16 mask16_and(mask16 a, mask16 b) {
    return (mask16){_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}
SIMD_INLINE uint32_t mask16_bits(mask16 m) { /* bit i: lane i */
    return (uint32_t)_mm256_movemask_ps(m.lo) | (uint32_t)_mm256_movemask_ps(m.hi) << 8;
}

/* ---- int32 lanes ---- */
SIMD_INLINE i32x16 i32x16_zero(void) { return (i32x16){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
SIMD_INLINE i32x16 i32x16_set1(int32_t x) { return (i32x16){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
SIMD_INLINE i32x16 i32x16_loadu(const int32_t *p) {
    return (i32x16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
SIMD_INLINE void i32x16_storeu(int32_t *p, i32x16 a) {
    _mm256_storeu_si256((__m256i *)p, a.lo);
    _mm256_storeu_si256((__m256i *)(p + 8), a.hi);
}
SIMD_INLINE i32x16 i32x16_add(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_add_epi32, a, b); }
SIMD_INLINE i32x16 i32x16_sub(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_sub_epi32, a, b); }
SIMD_INLINE i32x16 i32x16_mul(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_mullo_epi32, a, b); }
SIMD_INLINE i32x16 i32x16_and(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_and_si256, a, b); }
SIMD_INLINE i32x16 i32x16_xor(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_xor_si256, a, b); }
SIMD_INLINE i32x16 i32x16_min_u8(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_min_epu8, a, b); } /* each byte */
SIMD_INLINE i32x16 i32x16_max_u8(i32x16 a, i32x16 b) { return SIMD_BOTH_I32_2(_mm256_max_epu8, a, b); }
/* Each byte, 0 .. 15, as an index into 16 bytes. */
SIMD_INLINE i32x16 i32x16_lookup(const int8_t *table, i32x16 bytes) {
    __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (i32x16){_mm256_shuffle_epi8(values, bytes.lo), _mm256_shuffle_epi8(values, bytes.hi)};
}
#define i32x16_shl(a, bits) ((i32x16){_mm256_slli_epi32((a).lo, bits), _mm256_slli_epi32((a).hi, bits)})
/* Arithmetic: copies of the sign come in. */
#define i32x16_shr(a, bits) ((i32x16){_mm256_srai_epi32((a).lo, bits), _mm256_srai_epi32((a).hi, bits)})
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return SIMD_BOTH_F32(_mm256_cvtepi32_ps, a); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) { return (i32x16){_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
SIMD_INLINE f32x16 f32x16_from_bits(i32x16 a) { return SIMD_BOTH_F32(_mm256_castsi256_ps, a); }
SIMD_INLINE i32x16 f32x16_bits(f32x16 a) { return (i32x16){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) {
    __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, /* lane half 0 */
                                    0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i lo = _mm256_shuffle_epi8(a.lo, pick), hi = _mm256_shuffle_epi8(a.hi, pick);
    __m128i lo8 = _mm_unpacklo_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
    __m128i hi8 = _mm_unpacklo_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    _mm_storeu_si128((__m128i *)p, _mm_unpacklo_epi64(lo8, hi8));
}
/* Each lane, which must fit, as one of 16 int16. */
SIMD_INLINE void i32x16_store_i16(int16_t *p, i32x16 a) {
    _mm256_storeu_si256((void *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8));
}
/* Sum of all lanes. */
SIMD_INLINE int32_t i32x16_sum(i32x16 a) {
    __m256i b = _mm256_add_epi32(a.lo, a.hi);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

/* ---- half floats ---- */
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
SIMD_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) { /* nearest even */
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SIMD_INLINE f32x16 f32x16_load_bf16(const uint16_t *p) {
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return (f32x16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

/* ---- horizontal: the canonical fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half ---- */
SIMD_INLINE float f32x16_sum(f32x16 a) {
    __m256 b = _mm256_add_ps(a.lo, a.hi);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SIMD_INLINE float f32x16_hmax(f32x16 a) {
    __m256 b = _mm256_max_ps(a.lo, a.hi);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* Lane i with lane i ^ 1, 2, 4, 8. */
SIMD_INLINE f32x16 f32x16_swap1(f32x16 a) {
    return (f32x16){_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)};
}
SIMD_INLINE f32x16 f32x16_swap2(f32x16 a) {
    return (f32x16){_mm256_permute_ps(a.lo, 0x4e), _mm256_permute_ps(a.hi, 0x4e)};
}
SIMD_INLINE f32x16 f32x16_swap4(f32x16 a) {
    return (f32x16){_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
}
SIMD_INLINE f32x16 f32x16_swap8(f32x16 a) { return (f32x16){a.hi, a.lo}; }

/* ---- lanes of the matmul tiles: LANES rows at a time ----
 *   fv floats   iv int32   bv 4 bytes a row (weights)   av 4 activation bytes, the same for every row
 */
enum { LANES = 8 };
typedef __m256 fv;
typedef __m256i iv;
typedef __m256i bv;
typedef __m256i av;

SIMD_INLINE fv fv_zero(void) { return _mm256_setzero_ps(); }
SIMD_INLINE fv fv_set1(float x) { return _mm256_set1_ps(x); }
SIMD_INLINE fv fv_load(const void *p) { return _mm256_loadu_ps(p); }
SIMD_INLINE fv fv_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
SIMD_INLINE fv fv_load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
SIMD_INLINE void fv_store(float *p, fv a) { _mm256_storeu_ps(p, a); }
SIMD_INLINE fv fv_mul(fv a, fv b) { return _mm256_mul_ps(a, b); }
SIMD_INLINE fv fv_fma(fv a, fv b, fv c) { return _mm256_fmadd_ps(a, b, c); }
SIMD_INLINE fv fv_from_i32(iv a) { return _mm256_cvtepi32_ps(a); }
SIMD_INLINE iv iv_add(iv a, iv b) { return _mm256_add_epi32(a, b); }
SIMD_INLINE iv iv_zero(void) { return _mm256_setzero_si256(); }
SIMD_INLINE bv bv_load(const void *p) { return _mm256_loadu_si256(p); }
SIMD_INLINE bv bv_set1(uint8_t x) { return _mm256_set1_epi8((char)x); }
SIMD_INLINE bv bv_and(bv a, bv b) { return _mm256_and_si256(a, b); }
SIMD_INLINE bv bv_or(bv a, bv b) { return _mm256_or_si256(a, b); }
#define bv_shl(a, bits) _mm256_slli_epi16(a, bits) /* bits cross into the neighbouring byte: mask after */
#define bv_shr(a, bits) _mm256_srli_epi16(a, bits)
SIMD_INLINE iv simd_set1_at(const void *p) { /* 4 bytes to all lanes: one vpbroadcastd from memory */
    int32_t x;
    memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}
SIMD_INLINE av av_load(const void *p) { return simd_set1_at(p); }
enum { SIMD_NO_BYTE = 32 }; /* to iv_pick_pairs: zero */
/* Bytes of q4_k's scale lines (layout.h) as int16: byte `from` of each row's four low in the lane, `then` high. */
SIMD_INLINE iv iv_pick_pairs(bv bytes, int from, int then) {
    int f = (int)(0x80008000u | (uint32_t)(4 * from) | (uint32_t)(4 * then) << 16); /* 0x80: a zero byte */
    __m128i rows = _mm_setr_epi32(f, f + 0x10001, f + 0x20002, f + 0x30003);
    return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(rows));
}
SIMD_INLINE iv iv_sub_pairs(iv pairs, int x) { return _mm256_sub_epi16(pairs, _mm256_set1_epi16((short)x)); }
/* Byte j of each row's four, signed, as dot8_scaled wants it. */
SIMD_INLINE iv dot8_scale(bv line, int j) { return _mm256_srai_epi32(_mm256_slli_epi32(line, 24 - 8 * j), 24); }

#define HAS_K_PANELS 1 /* matmul_k_panel.h */
#define iv_shr_pairs(pairs, bits) _mm256_srai_epi16(pairs, bits)

#if defined(__AVXVNNI__) || defined(ASDSL_EVEX_AS_AVXVNNI)

#if defined(ASDSL_EVEX_AS_AVXVNNI)
#define SIMD_DPBUSD _mm256_dpbusd_epi32
#define SIMD_VEX "%{evex%} "
#else
#define SIMD_DPBUSD _mm256_dpbusd_avx_epi32
#define SIMD_VEX "%{vex%} "
#endif
/* simd_avx512.h */
SIMD_INLINE iv simd_dot_pairs(iv total, iv a, iv b) {
    __asm__(SIMD_VEX "vpdpwssd %2, %1, %0" : "+x"(total) : "x"(a), "x"(b));
    return total;
}

/* The same primitives as simd_avx512.h, derived there. */
typedef iv dot4;
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return offset ? simd_set1_at(offset) : iv_zero(); }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return SIMD_DPBUSD(acc, w, a); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) { return (void)offset, acc; }

typedef iv dot5;
SIMD_INLINE dot5 dot5_start(const int32_t *minus8) {
    if (!minus8) return iv_zero();
    iv start = simd_set1_at(minus8);
    SIMD_OPAQUE(start);
    return _mm256_add_epi32(start, start);
}
SIMD_INLINE dot5 dot5_add(dot5 acc, bv w, av a) { return SIMD_DPBUSD(acc, w, a); }
SIMD_INLINE dot5 dot5_widen(dot5 acc) { return acc; }
SIMD_INLINE iv dot5_sum(dot5 acc, const int32_t *minus8) { return (void)minus8, acc; }

typedef iv dot8;
typedef bv w8;
SIMD_INLINE w8 w8_load(const void *p) { return _mm256_xor_si256(bv_load(p), bv_set1(0x80)); }
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return simd_set1_at(minus128); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) { return SIMD_DPBUSD(acc, w, a); }
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }
/* Weights of 4-bit indices into a table. */
SIMD_INLINE w8 w8_lookup(const int8_t *table, bv indices) {
    __m128i unsigned_table = _mm_xor_si128(_mm_loadu_si128((const void *)table), _mm_set1_epi8((char)0x80));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(unsigned_table), indices);
}
SIMD_INLINE iv dot8_scaled(iv total, dot8 acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_mullo_epi32(acc, scale));
}

typedef struct {
    iv low, high;
} dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return (dot4k){iv_zero(), iv_zero()}; }
SIMD_INLINE bv dot4k_low(bv x) { return _mm256_and_si256(x, bv_set1(0x0f)); }
SIMD_INLINE bv dot4k_high(bv x) { return _mm256_and_si256(x, bv_set1(0xf0)); }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return (dot4k){SIMD_DPBUSD(acc.low, w, a), acc.high}; }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) { return (dot4k){acc.low, SIMD_DPBUSD(acc.high, w, a)}; }
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) {
    return simd_dot_pairs(total, _mm256_blend_epi16(acc.low, _mm256_slli_epi32(acc.high, 12), 0xaa), scale);
}
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) { return simd_dot_pairs(acc, a, simd_set1_at(b)); }

typedef uint8_t weight8u;
typedef bv b8u;
SIMD_INLINE void i32x16_store_u8(weight8u *p, i32x16 a) {
    __m256i pick = _mm256_setr_epi8(0, 8, 4, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, /* lane half 0 */
                                    0, 8, 4, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i lo = _mm256_shuffle_epi8(a.lo, pick), hi = _mm256_shuffle_epi8(a.hi, pick);
    __m128i lo8 = _mm_unpacklo_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1));
    __m128i hi8 = _mm_unpacklo_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1));
    _mm_storeu_si128((void *)p, _mm_unpacklo_epi64(lo8, hi8));
}
#define SIMD_PACKS_FOUR
SIMD_INLINE void i32x16_store4_u8(weight8u *p, const i32x16 *a) {
    __m128i swap = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int i = 0; i < 4; i += 2) {
        __m256i first = _mm256_packus_epi32(a[i].lo, a[i].hi), second = _mm256_packus_epi32(a[i + 1].lo, a[i + 1].hi);
        __m256i x = _mm256_shuffle_epi8(_mm256_packus_epi16(first, second), _mm256_broadcastsi128_si256(swap));
        x = _mm256_permutevar8x32_epi32(x,
                                        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* halves hold every other four */
        _mm256_storeu_si256((void *)(p + 16 * i), x);
    }
}
SIMD_INLINE b8u b8u_load(const void *p) { return bv_load(p); }
SIMD_INLINE iv dot8u_add(iv acc, b8u bytes, const weight8u *w) { return SIMD_DPBUSD(acc, simd_set1_at(w), bytes); }

enum { DOT5K_STEPS = 8 };
typedef iv dot5k;
SIMD_INLINE dot5k dot5k_zero(void) { return iv_zero(); }
SIMD_INLINE dot5k dot5k_add(dot5k acc, bv w, av a) { return SIMD_DPBUSD(acc, w, a); }
SIMD_INLINE iv dot5k_scale(bv bytes, int j) { return iv_pick_pairs(bytes, j, SIMD_NO_BYTE); }
SIMD_INLINE iv dot5k_scaled(iv total, dot5k acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_mullo_epi32(acc, scale));
}

SIMD_INLINE iv dot4_scale(bv bytes, int j, int minus) {
    return _mm256_sub_epi16(iv_pick_pairs(bytes, j, SIMD_NO_BYTE), _mm256_set1_epi32(minus));
}
SIMD_INLINE iv dot4_scaled(iv total, dot4 acc, iv scale) { return simd_dot_pairs(total, acc, scale); }

enum { DOT6_STEPS = 2 };
typedef iv dot6;
SIMD_INLINE dot6 dot6_start(const int16_t *minus32, const int16_t *pairs) { return (void)pairs, simd_set1_at(minus32); }
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return SIMD_DPBUSD(acc, w, a); }
SIMD_INLINE iv dot6_scale(bv line, int j) {
    int f = (int)(0x80800080u | (uint32_t)j << 8); /* 0x80: a zero byte */
    __m128i rows = _mm_setr_epi32(f, f + 0x0400, f + 0x0800, f + 0x0c00);
    return _mm256_srai_epi16(_mm256_shuffle_epi8(line, _mm256_broadcastsi128_si256(rows)), 8);
}
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) { return simd_dot_pairs(total, acc, scale); }

/* Panels of matmul_fast.h: as at level avx512, with half the rows to a register. */
enum { PANEL_MAX = 127, PANEL_OFFSET = 128 };
SIMD_INLINE iv panel_start(const int32_t *minus128) { return simd_set1_at(minus128); }
SIMD_INLINE iv panel_dot(iv acc, bv w, av a) { return SIMD_DPBUSD(acc, w, a); }

#else

#define HAS_PANELS 1 /* matmul_panel.h */

/* dot4: weights 0 .. 15, up to 8 steps of 4 inputs. offset: int32 that the sum starts from, or NULL. A 16-bit lane gets
 * 2 products a step, |2 * 15 * 127| = 3810, after 8 steps 30480 < 32767: nothing saturates, widening waits. */
typedef __m256i dot4; /* 16 int16: two to a row */
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return (void)offset, _mm256_setzero_si256(); }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, a)); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) {
    iv sum = _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
    return offset ? _mm256_add_epi32(sum, simd_set1_at(offset)) : sum;
}

/* dot5: weights 0 .. 31, dot5_widen after every 4 steps of 4 inputs: a 16-bit lane gets |2 * 31 * 127| = 7874 a step,
 * after 4 steps 31496 < 32767; a fifth would not fit. minus8: int32 of which the sum takes the double, or NULL. */
typedef struct {
    __m256i pairs, sum; /* 16 int16, 8 int32 */
} dot5;
SIMD_INLINE dot5 dot5_start(const int32_t *minus8) {
    return (void)minus8, (dot5){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
SIMD_INLINE dot5 dot5_add(dot5 acc, bv w, av a) {
    return (dot5){_mm256_add_epi16(acc.pairs, _mm256_maddubs_epi16(w, a)), acc.sum};
}
SIMD_INLINE dot5 dot5_widen(dot5 acc) {
    __m256i sum = _mm256_madd_epi16(acc.pairs, _mm256_set1_epi16(1));
    return (dot5){_mm256_setzero_si256(), _mm256_add_epi32(acc.sum, sum)};
}
SIMD_INLINE iv dot5_sum(dot5 acc, const int32_t *minus8) {
    if (!minus8) return acc.sum;
    iv offset = simd_set1_at(minus8);
    return _mm256_add_epi32(acc.sum, _mm256_add_epi32(offset, offset));
}

/* dot8: signed weights, -128 too: |w| is at most 128 as an unsigned byte and takes its sign to the activation, which is
 * never -128. A pair of products is at most 2 * 128 * 127 = 32512 < 32767, so one step fits, two would not. */
typedef __m256i dot8;
typedef struct {
    __m256i w, magnitude;
} w8;
SIMD_INLINE w8 w8_load(const void *p) {
    __m256i w = bv_load(p);
    return (w8){w, _mm256_abs_epi8(w)};
}
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return (void)minus128, _mm256_setzero_si256(); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) {
    __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(a, w.w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }
/* Weights of 4-bit indices into a table. */
SIMD_INLINE w8 w8_lookup(const int8_t *table, bv indices) {
    __m256i w = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), indices);
    return (w8){w, _mm256_abs_epi8(w)};
}
SIMD_INLINE iv dot8_scaled(iv total, dot8 acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_mullo_epi32(acc, scale));
}

/* dot4k: dot4's bound; the widening multiplication applies the 6-bit scale, which stands in both halves of a lane. */
typedef __m256i dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return _mm256_setzero_si256(); }
SIMD_INLINE bv dot4k_low(bv x) { return _mm256_and_si256(x, bv_set1(0x0f)); }
SIMD_INLINE bv dot4k_high(bv x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), bv_set1(0x0f)); }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return dot4_add(acc, w, a); }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) { return dot4_add(acc, w, a); }
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(acc, scale));
}
/* acc + a[0] * b[0] + a[1] * b[1] of int16 pairs; b from memory, the same for every row. */
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, simd_set1_at(b)));
}

/* dot8u: two products of 255 do not fit 16 bits: weights and bytes are widened, bytes 0 and 2 beside 1 and 3. */
typedef int16_t weight8u;
typedef struct {
    __m256i even, odd;
} b8u;
SIMD_INLINE void i32x16_store_u8(weight8u *p, i32x16 a) { i32x16_store_i16(p, a); }
SIMD_INLINE b8u b8u_load(const void *p) {
    __m256i a = bv_load(p);
    return (b8u){_mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8), _mm256_srai_epi16(a, 8)};
}
SIMD_INLINE iv dot8u_add(iv acc, b8u bytes, const weight8u *w) {
    return iv_dot_pairs(iv_dot_pairs(acc, bytes.even, w), bytes.odd, w + 2);
}

/* dot5k: weights 0 .. 31, DOT5K_STEPS steps of 4 inputs, then times byte j of q4_k's scale lines. A step adds at most
 * 2 * 31 * 127 = 7874 to a 16-bit lane: four fit (31496 < 32767), five do not. */
enum { DOT5K_STEPS = 4 };
typedef __m256i dot5k;
SIMD_INLINE dot5k dot5k_zero(void) { return _mm256_setzero_si256(); }
SIMD_INLINE dot5k dot5k_add(dot5k acc, bv w, av a) { return dot4_add(acc, w, a); }
SIMD_INLINE iv dot5k_scale(bv bytes, int j) { return iv_pick_pairs(bytes, j, j); }
SIMD_INLINE iv dot5k_scaled(iv total, dot5k acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(acc, scale));
}

/* Byte j of each row's four in scale lines, less `minus`, for the dot4 of a sub-block of 16. */
SIMD_INLINE iv dot4_scale(bv bytes, int j, int minus) { return iv_sub_pairs(iv_pick_pairs(bytes, j, j), minus); }
SIMD_INLINE iv dot4_scaled(iv total, dot4 acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(acc, scale));
}

/* dot6: weights 0 .. 63, 4 steps of 4 inputs, then times a signed 8-bit scale. A step is at most 2 * 63 * 127 = 16002
 * and does not saturate; the sum of four may wrap, but with the offset of -32 for each input (`pairs`, where the sum
 * starts) the true value is at most 2 * 4 * 32 * 127 = 32512, so what modular addition leaves is exact. */
enum { DOT6_STEPS = 4 };
typedef __m256i dot6;
SIMD_INLINE dot6 dot6_start(const int16_t *minus32, const int16_t *pairs) { return (void)minus32, simd_set1_at(pairs); }
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, a)); }
/* Byte j of each row's four, as int16 in both halves of its lane. */
SIMD_INLINE iv dot6_scale(bv line, int j) {
    int f = (int)(0x00800080u | (uint32_t)j << 8 | (uint32_t)j << 24); /* 0x80: a zero byte below the scale */
    __m128i rows = _mm_setr_epi32(f, f + 0x04000400, f + 0x08000800, f + 0x0c000c00);
    return _mm256_srai_epi16(_mm256_shuffle_epi8(line, _mm256_broadcastsi128_si256(rows)), 8);
}
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(acc, scale));
}

/* Panels of matmul_fast.h. Weights of 7 bits and their offset make 1 .. 127: a pair of products is at most 2 * 127 *
 * 127 = 32258 and does not saturate; 8 bits would. */
enum { PANEL_MAX = 63, PANEL_OFFSET = 64 };
SIMD_INLINE iv panel_start(const int32_t *minus128) { return _mm256_srai_epi32(simd_set1_at(minus128), 1); }
SIMD_INLINE iv panel_dot(iv acc, bv w, av a) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}

#endif
SIMD_INLINE bv panel_load(const void *p) { return bv_load(p); }
#define PANEL_TILES(X) X(1) X(2) X(3) /* strips of a tile */
