/* simd_avx512.h: the vocabulary of simd.h in AVX-512 F BW DQ VL VNNI. Included by simd.h alone.
 *
 * Owns the 16-lane types and what the matmul kernels need of bytes and nibbles (end of the file). Knows no layout.
 */
#include <immintrin.h>

typedef __m512 f32x16;
typedef __m512i i32x16;
typedef __mmask16 mask16;

#define SIMD_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* into L2 */

/* ---- floats ---- */
SIMD_INLINE f32x16 f32x16_zero(void) { return _mm512_setzero_ps(); }
SIMD_INLINE f32x16 f32x16_set1(float x) { return _mm512_set1_ps(x); }
SIMD_INLINE f32x16 f32x16_load(const float *p) { return _mm512_load_ps(p); } /* 64-byte aligned */
SIMD_INLINE f32x16 f32x16_loadu(const float *p) { return _mm512_loadu_ps(p); }
SIMD_INLINE void f32x16_store(float *p, f32x16 a) { _mm512_store_ps(p, a); } /* 64-byte aligned */
SIMD_INLINE void f32x16_storeu(float *p, f32x16 a) { _mm512_storeu_ps(p, a); }
/* First n lanes (0 .. 16), the others zero; memory beyond them is not touched. */
SIMD_INLINE f32x16 f32x16_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
SIMD_INLINE void f32x16_store_n(float *p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a); }
SIMD_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
SIMD_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
SIMD_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
SIMD_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
SIMD_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); } /* a * b + c */
SIMD_INLINE f32x16 f32x16_min(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); } /* a < b ? a : b (b when NaN) */
SIMD_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); } /* a > b ? a : b (b when NaN) */
SIMD_INLINE f32x16 f32x16_sqrt(f32x16 a) { return _mm512_sqrt_ps(a); }
SIMD_INLINE f32x16 f32x16_neg(f32x16 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
SIMD_INLINE f32x16 f32x16_abs(f32x16 a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }

/* ---- comparisons (false when a side is NaN) and selection ---- */
SIMD_INLINE mask16 f32x16_lt(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SIMD_INLINE mask16 f32x16_le(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
SIMD_INLINE mask16 f32x16_eq(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SIMD_INLINE f32x16 f32x16_select(mask16 m, f32x16 yes, f32x16 no) { return _mm512_mask_blend_ps(m, no, yes); }
SIMD_INLINE mask16 mask16_first(int n) { return (__mmask16)((1u << n) - 1); } /* lanes below n, n in 0 .. 16 */
SIMD_INLINE mask16 mask16_and(mask16 a, mask16 b) { return (__mmask16)(a & b); }
SIMD_INLINE uint32_t mask16_bits(mask16 m) { return m; } /* bit i: lane i */

/* ---- int32 lanes ---- */
SIMD_INLINE i32x16 i32x16_zero(void) { return _mm512_setzero_si512(); }
SIMD_INLINE i32x16 i32x16_set1(int32_t x) { return _mm512_set1_epi32(x); }
SIMD_INLINE i32x16 i32x16_loadu(const int32_t *p) { return _mm512_loadu_si512(p); }
SIMD_INLINE void i32x16_storeu(int32_t *p, i32x16 a) { _mm512_storeu_si512(p, a); }
SIMD_INLINE i32x16 i32x16_add(i32x16 a, i32x16 b) { return _mm512_add_epi32(a, b); }
SIMD_INLINE i32x16 i32x16_sub(i32x16 a, i32x16 b) { return _mm512_sub_epi32(a, b); }
SIMD_INLINE i32x16 i32x16_mul(i32x16 a, i32x16 b) { return _mm512_mullo_epi32(a, b); }
SIMD_INLINE i32x16 i32x16_and(i32x16 a, i32x16 b) { return _mm512_and_si512(a, b); }
#define i32x16_shl(a, bits) _mm512_slli_epi32(a, bits)
#define i32x16_shr(a, bits) _mm512_srai_epi32(a, bits) /* arithmetic */
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return _mm512_cvtepi32_ps(a); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) { return _mm512_cvtps_epi32(a); }
SIMD_INLINE f32x16 f32x16_from_bits(i32x16 a) { return _mm512_castsi512_ps(a); }
SIMD_INLINE i32x16 f32x16_bits(f32x16 a) { return _mm512_castps_si512(a); }
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }

/* ---- half floats ---- */
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
SIMD_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) { /* nearest even */
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SIMD_INLINE f32x16 f32x16_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* ---- horizontal: the canonical fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half ---- */
SIMD_INLINE float f32x16_sum(f32x16 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
SIMD_INLINE float f32x16_hmax(f32x16 a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
