/* simd_avx512.h: the vocabulary of simd.h in AVX-512 F BW DQ VL VNNI. Included by simd.h alone.
 *
 * Owns the 16-lane types and what the matmul kernels need of bytes and nibbles (end of the file). Knows no layout.
 */
/* clang-format off: one line to a function reads as a table */
#include <immintrin.h>

typedef __m512 f32x16;
typedef __m512i i32x16;
typedef __mmask16 mask16;

#define SIMD_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T1) /* into L2 */
/* The compiler forgets what it knows of x. */
#define SIMD_OPAQUE(x) __asm__ volatile("" : "+v"(x))
/* Keeps a pointer in a register: clang adds the stride up anew before each load of a column, and what is indexed is two
 * instructions to the processor. */
#define SIMD_HOLD(pointer) __asm__ volatile("" : "+r"(pointer))
#define SIMD_FORGET __asm__ volatile("" ::: "memory") /* simd_avx2.h */

/* ---- floats ---- */
SIMD_INLINE f32x16 f32x16_zero(void) { return _mm512_setzero_ps(); }
SIMD_INLINE f32x16 f32x16_set1(float x) { return _mm512_set1_ps(x); }
SIMD_INLINE f32x16 f32x16_load(const float *p) { return _mm512_load_ps(p); } /* 64-byte aligned */
SIMD_INLINE f32x16 f32x16_loadu(const float *p) { return _mm512_loadu_ps(p); }
SIMD_INLINE void f32x16_store(float *p, f32x16 a) { _mm512_store_ps(p, a); } /* 64-byte aligned */
SIMD_INLINE void f32x16_storeu(float *p, f32x16 a) { _mm512_storeu_ps(p, a); }
/* First n lanes (0 .. 16), the others zero; memory beyond them is not touched. */
SIMD_INLINE f32x16 f32x16_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
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
SIMD_INLINE i32x16 i32x16_xor(i32x16 a, i32x16 b) { return _mm512_xor_si512(a, b); }
SIMD_INLINE i32x16 i32x16_min_u8(i32x16 a, i32x16 b) { return _mm512_min_epu8(a, b); } /* of each byte */
SIMD_INLINE i32x16 i32x16_max_u8(i32x16 a, i32x16 b) { return _mm512_max_epu8(a, b); }
/* Each byte, 0 .. 15, as an index into 16 bytes. */
SIMD_INLINE i32x16 i32x16_lookup(const int8_t *table, i32x16 bytes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), bytes);
}
#define i32x16_shl(a, bits) _mm512_slli_epi32(a, bits)
#define i32x16_shr(a, bits) _mm512_srai_epi32(a, bits) /* arithmetic */
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return _mm512_cvtepi32_ps(a); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) { return _mm512_cvtps_epi32(a); }
SIMD_INLINE f32x16 f32x16_from_bits(i32x16 a) { return _mm512_castsi512_ps(a); }
SIMD_INLINE i32x16 f32x16_bits(f32x16 a) { return _mm512_castps_si512(a); }
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
/* Each lane, which must fit, as one of 16 int16. */
SIMD_INLINE void i32x16_store_i16(int16_t *p, i32x16 a) { _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(a)); }
/* Sum of all lanes. */
SIMD_INLINE int32_t i32x16_sum(i32x16 a) { return _mm512_reduce_add_epi32(a); }

/* ---- half floats ---- */
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
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

/* Four of them at once, by the same fold: a b c d side by side in quarters of one register. */
#define SIMD_FOLDS_FOUR
#define SIMD_FOLD4(op, a, out)                                                                                         \
    do {                                                                                                               \
        __m512 ab = op(_mm512_shuffle_f32x4((a)[0], (a)[1], 0x44), _mm512_shuffle_f32x4((a)[0], (a)[1], 0xee));        \
        __m512 cd = op(_mm512_shuffle_f32x4((a)[2], (a)[3], 0x44), _mm512_shuffle_f32x4((a)[2], (a)[3], 0xee));        \
        __m512 x = op(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));                         \
        x = op(x, _mm512_permute_ps(x, 0x4e));                                                                         \
        x = op(x, _mm512_permute_ps(x, 0xb1));                                                                         \
        __m512i first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));                                           \
        _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, x)));                                   \
    } while (0)
SIMD_INLINE void f32x16_sum4(const f32x16 *a, float *out) { SIMD_FOLD4(_mm512_add_ps, a, out); }
SIMD_INLINE void f32x16_hmax4(const f32x16 *a, float *out) { SIMD_FOLD4(_mm512_max_ps, a, out); }

/* Of f32x16_exp2: x = n + r with n the nearest integer, ties to even; p * 2^n, 0 where x is below -126. */
#define SIMD_SPLITS_EXPONENT
SIMD_INLINE f32x16 simd_split(f32x16 x, f32x16 *n) {
    f32x16 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *n = _mm512_sub_ps(x, r);
    return r;
}
SIMD_INLINE f32x16 simd_join(f32x16 x, f32x16 p, f32x16 n) {
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), p, n);
}

/* Lane i with lane i ^ 1, 2, 4, 8. */
SIMD_INLINE f32x16 f32x16_swap1(f32x16 a) { return _mm512_permute_ps(a, 0xb1); }
SIMD_INLINE f32x16 f32x16_swap2(f32x16 a) { return _mm512_permute_ps(a, 0x4e); }
SIMD_INLINE f32x16 f32x16_swap4(f32x16 a) { return _mm512_shuffle_f32x4(a, a, 0xb1); }
SIMD_INLINE f32x16 f32x16_swap8(f32x16 a) { return _mm512_shuffle_f32x4(a, a, 0x4e); }

/* ---- lanes of the matmul tiles: LANES rows at a time ----
 *   fv floats   iv int32   bv 4 bytes a row (weights)   av 4 activation bytes, the same for every row
 */
enum { LANES = 16 };
typedef __m512 fv;
typedef __m512i iv;
typedef __m512i bv;
typedef __m512i av;

SIMD_INLINE fv fv_zero(void) { return _mm512_setzero_ps(); }
SIMD_INLINE fv fv_set1(float x) { return _mm512_set1_ps(x); }
SIMD_INLINE fv fv_load(const void *p) { return _mm512_loadu_ps(p); }
SIMD_INLINE fv fv_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
SIMD_INLINE fv fv_load_bf16(const void *p) { return f32x16_load_bf16(p); }
SIMD_INLINE void fv_store(float *p, fv a) { _mm512_storeu_ps(p, a); }
SIMD_INLINE fv fv_mul(fv a, fv b) { return _mm512_mul_ps(a, b); }
SIMD_INLINE fv fv_fma(fv a, fv b, fv c) { return _mm512_fmadd_ps(a, b, c); }
SIMD_INLINE fv fv_from_i32(iv a) { return _mm512_cvtepi32_ps(a); }
SIMD_INLINE iv iv_zero(void) { return _mm512_setzero_si512(); }
SIMD_INLINE bv bv_load(const void *p) { return _mm512_loadu_si512(p); }
/* Made where it is written, before and after its like: see load_lines. */
SIMD_INLINE bv bv_load_in_order(const void *p) {
    bv x;
    __asm__ volatile("vmovdqu64 %1, %0" : "=v"(x) : "m"(*(const __m512i_u *)p));
    return x;
}
#define HAS_LOADS_IN_ORDER 1
SIMD_INLINE bv bv_set1(uint8_t x) { return _mm512_set1_epi8((char)x); }
SIMD_INLINE bv bv_and(bv a, bv b) { return _mm512_and_si512(a, b); }
SIMD_INLINE bv bv_or(bv a, bv b) { return _mm512_or_si512(a, b); }
#define bv_shl(a, bits) _mm512_slli_epi16(a, bits) /* bits cross into the neighbouring byte: mask after */
#define bv_shr(a, bits) _mm512_srli_epi16(a, bits)
SIMD_INLINE iv simd_set1_at(const void *p) { /* 4 bytes to all lanes: an embedded broadcast where it is used */
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
SIMD_INLINE av av_load(const void *p) { return simd_set1_at(p); }

/* dot4: weights 0 .. 15, up to 8 steps of 4 inputs. offset: int32 that the sum starts from, or NULL. */
typedef iv dot4;
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return offset ? simd_set1_at(offset) : iv_zero(); }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) { return (void)offset, acc; }

/* dot5: weights 0 .. 31, dot5_widen after every 4 steps of 4 inputs. minus8: int32 of which the sum takes the double
 * (an offset of -16 for each input), or NULL. */
typedef iv dot5;
SIMD_INLINE dot5 dot5_start(const int32_t *minus8) {
    if (!minus8) return iv_zero();
    iv start = simd_set1_at(minus8);
    SIMD_OPAQUE(start); /* doubled here: the compiler would double the scalar and move it over */
    return _mm512_add_epi32(start, start);
}
SIMD_INLINE dot5 dot5_add(dot5 acc, bv w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
SIMD_INLINE dot5 dot5_widen(dot5 acc) { return acc; }
SIMD_INLINE iv dot5_sum(dot5 acc, const int32_t *minus8) { return (void)minus8, acc; }

/* dot8: signed weights. The instruction takes them as unsigned w + 128; minus128 = -128 * sum(a) puts it right. */
typedef iv dot8;
typedef bv w8;
SIMD_INLINE w8 w8_load(const void *p) { return _mm512_xor_si512(bv_load(p), bv_set1(0x80)); }
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return simd_set1_at(minus128); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }
/* Weights of 4-bit indices into a table. */
SIMD_INLINE w8 w8_lookup(const int8_t *table, bv indices) {
    __m128i unsigned_table = _mm_xor_si128(_mm_loadu_si128((const void *)table), _mm_set1_epi8((char)0x80));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(unsigned_table), indices);
}
/* Byte j of each row's four, signed, as dot8_scaled wants it. */
SIMD_INLINE iv dot8_scale(bv line, int j) {
    return _mm512_srai_epi32(_mm512_slli_epi32(line, 24 - 8 * (unsigned)j), 24);
}
SIMD_INLINE iv dot8_scaled(iv total, dot8 acc, iv scale) {
    return _mm512_add_epi32(total, _mm512_mullo_epi32(acc, scale));
}

/* total + a[0] * b[0] + a[1] * b[1] of int16 pairs. clang 22 makes a product and an addition of the intrinsic, for a
 * shorter chain; what counts here is instructions. */
SIMD_INLINE iv simd_dot_pairs(iv total, iv a, iv b) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(a), "v"(b));
    return total;
}

/* dot4k: a line of nibbles against inputs of the low and of the high nibbles, then times a 6-bit scale. The high
 * nibbles stay where they are (16 w); both sums fit 16 bits (16 * 15 * 127 = 30480), so one shift by 12 puts the
 * second into the upper half of the lanes and one 16-bit dot applies the scale, which stands in both halves. */
typedef struct {
    iv low, high;
} dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return (dot4k){iv_zero(), iv_zero()}; }
SIMD_INLINE bv dot4k_low(bv x) { return _mm512_and_si512(x, bv_set1(0x0f)); }
SIMD_INLINE bv dot4k_high(bv x) { return _mm512_and_si512(x, bv_set1(0xf0)); }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return (dot4k){_mm512_dpbusd_epi32(acc.low, w, a), acc.high}; }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) {
    return (dot4k){acc.low, _mm512_dpbusd_epi32(acc.high, w, a)};
}
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) {
    iv both = _mm512_mask_blend_epi16(0xaaaaaaaau, acc.low, _mm512_slli_epi32(acc.high, 12));
    return simd_dot_pairs(total, both, scale);
}
/* acc + a[0] * b[0] + a[1] * b[1] of int16 pairs; b from memory, the same for every row. */
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) { return simd_dot_pairs(acc, a, simd_set1_at(b)); }
/* dot8u: signed bytes against weights 0 .. 255, the same for every row, that i32x16_store_u8 wrote; of each four bytes
 * the second and third are swapped. */
typedef uint8_t weight8u;
typedef bv b8u;
SIMD_INLINE void i32x16_store_u8(weight8u *p, i32x16 a) {
    __m128i swap = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    _mm_storeu_si128((void *)p, _mm_shuffle_epi8(_mm512_cvtepi32_epi8(a), swap));
}
/* Four of them, whose lanes are 0 .. 255: of four bytes to a lane, 12 instructions become 5. */
#define SIMD_PACKS_FOUR
SIMD_INLINE void i32x16_store4_u8(weight8u *p, const i32x16 *a) {
    __m512i x = _mm512_packus_epi16(_mm512_packus_epi32(a[0], a[1]), _mm512_packus_epi32(a[2], a[3]));
    /* Now quarter q has four lanes of each: 4q .. 4q + 3. */
    x = _mm512_shuffle_epi8(
        x, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)));
    __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, x));
}
SIMD_INLINE b8u b8u_load(const void *p) { return bv_load(p); }
SIMD_INLINE iv dot8u_add(iv acc, b8u bytes, const weight8u *w) {
    return _mm512_dpbusd_epi32(acc, simd_set1_at(w), bytes);
}
enum { SIMD_NO_BYTE = 32 }; /* to iv_pick_pairs: zero */
/* Bytes of q4_k's scale lines (layout.h) as int16: byte `from` of each row's four low in the lane, `then` high. */
SIMD_INLINE iv iv_pick_pairs(bv bytes, int from, int then) {
    int f = (int)(0x80008000u | (uint32_t)(4 * from) | (uint32_t)(4 * then) << 16); /* 0x80: a zero byte */
    return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi32(f, f + 0x10001, f + 0x20002, f + 0x30003)));
}

SIMD_INLINE iv iv_sub_pairs(iv pairs, int x) { return _mm512_sub_epi16(pairs, _mm512_set1_epi16((short)x)); }

/* dot5k: weights 0 .. 31, DOT5K_STEPS steps of 4 inputs, then times byte j of q4_k's scale lines. */
enum { DOT5K_STEPS = 8 };
typedef iv dot5k;
SIMD_INLINE dot5k dot5k_zero(void) { return iv_zero(); }
SIMD_INLINE dot5k dot5k_add(dot5k acc, bv w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
SIMD_INLINE iv dot5k_scale(bv bytes, int j) { return iv_pick_pairs(bytes, j, SIMD_NO_BYTE); }
SIMD_INLINE iv dot5k_scaled(iv total, dot5k acc, iv scale) {
    return _mm512_add_epi32(total, _mm512_mullo_epi32(acc, scale));
}

/* Byte j of each row's four in scale lines, less `minus`, for the dot4 of a sub-block of 16 with weights 0 .. 7: that
 * is at most 16 * 7 * 127 = 14224, so a 16-bit dot of its low half is the product; the scale's high half is 0. */
SIMD_INLINE iv dot4_scale(bv bytes, int j, int minus) {
    return _mm512_sub_epi16(iv_pick_pairs(bytes, j, SIMD_NO_BYTE), _mm512_set1_epi32(minus));
}
SIMD_INLINE iv dot4_scaled(iv total, dot4 acc, iv scale) { return simd_dot_pairs(total, acc, scale); }

/* dot6: weights 0 .. 63, DOT6_STEPS steps of 4 inputs, then times a signed 8-bit scale. minus32: of those inputs, where
 * the sum starts. Of 8 inputs it is at most 8 * 32 * 127 = 32512 then: the low half of a lane has all of it, and a
 * 16-bit dot with a scale whose high half is 0 is the product, one instruction where a 32-bit product and an addition
 * are three. What lies behind minus32 comes into the high half and is of no account. */
enum { DOT6_STEPS = 2 };
typedef iv dot6;
SIMD_INLINE dot6 dot6_start(const int16_t *minus32, const int16_t *pairs) { return (void)pairs, simd_set1_at(minus32); }
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
SIMD_INLINE iv dot6_scale(bv line, int j) {
    int f = (int)(0x80800080u | (uint32_t)j << 8); /* 0x80: a zero byte */
    __m128i rows = _mm_setr_epi32(f, f + 0x0400, f + 0x0800, f + 0x0c00);
    return _mm512_srai_epi16(_mm512_shuffle_epi8(line, _mm512_broadcast_i32x4(rows)), 8);
}
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) { return simd_dot_pairs(total, acc, scale); }

/* Panels of matmul_fast.h: unsigned weights, so a sum starts with what takes their offset off. */
enum { PANEL_MAX = 127, PANEL_OFFSET = 128 };
#define PANEL_TILES(X) X(1) X(2) X(3) X(4) /* strips of a tile */
SIMD_INLINE bv panel_load(const void *p) { return bv_load(p); }
SIMD_INLINE iv panel_start(const int32_t *minus128) { return simd_set1_at(minus128); }
SIMD_INLINE iv panel_dot(iv acc, bv w, av a) { return _mm512_dpbusd_epi32(acc, w, a); }
