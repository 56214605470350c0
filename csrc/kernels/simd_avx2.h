/* simd_avx2.h: the vocabulary of simd.h in AVX2 + FMA + F16C, and with AVX-VNNI where the compiler has it.
 *
 * Owns the 16-lane types as pairs of ymm registers: lo holds lanes 0-7, hi lanes 8-15. Included by simd.h alone.
 * ASDSL_EVEX_AS_AVXVNNI compiles the AVX-VNNI code with the EVEX encoding of the same instruction, so that tests can
 * run it on a CPU that has AVX-512 VNNI but hides AVX-VNNI.
 */
#include <immintrin.h>

typedef struct { __m256 lo, hi; } f32x16;
typedef struct { __m256i lo, hi; } i32x16;
typedef struct { __m256 lo, hi; } mask16; /* all ones or all zeros per lane */

#define SIMD_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* into L2 */
#define SIMD_BOTH_F32(f, a) ((f32x16){f((a).lo), f((a).hi)})
#define SIMD_BOTH_F32_2(f, a, b) ((f32x16){f((a).lo, (b).lo), f((a).hi, (b).hi)})
#define SIMD_BOTH_I32_2(f, a, b) ((i32x16){f((a).lo, (b).lo), f((a).hi, (b).hi)})

/* Masks of the first n lanes of eight. */
SIMD_INLINE __m256i simd_first8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

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
#define i32x16_shl(a, bits) ((i32x16){_mm256_slli_epi32((a).lo, bits), _mm256_slli_epi32((a).hi, bits)})
#define i32x16_shr(a, bits) ((i32x16){_mm256_srai_epi32((a).lo, bits), _mm256_srai_epi32((a).hi, bits)}) /* arithmetic */
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
