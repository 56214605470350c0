/* rows_matmul.c: GEMV of rows.h's layouts in the product's vocabulary (csrc/kernels/simd.h): the same dots, scales and
 * FMA chains as its 16-row kernels, so that the layout is all that differs. Float sums are of a part's blocks, so a
 * row's bits are not the product's.
 *
 * Compiled for each level with ROWS 4 and 8.
 */
#include "rows.h"
#include "../../csrc/kernels/simd.h"
#include <stdbool.h>

#if defined(__AVX512VNNI__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
#define IS_ZMM 1
#else
#define IS_ZMM 0
#endif
#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#define HAS_VNNI 1 /* dots are int32: they start from the offset */
#else
#define HAS_VNNI 0
#endif

enum {
    PARTS = LANES / ROWS,
    BYTES = 4 * LANES, /* a line */
    SPREAD = PARTS == 1 ? 1 : LANES,
    /* Spread over the sets of a record. In its burst of 13 lines 1 KB ahead q6_k lost half (avx512, 1 thread); spread,
     * 1 KB is better than 2, 4 and 8 with 1 thread, and the layouts' lines are read in order, as the product's are not.
     */
    AHEAD = 1024,
};

SIMD_INLINE void prefetch(const uint8_t *at, int bytes) {
    for (int i = 0; i < bytes; i += 64) SIMD_PREFETCH(at + AHEAD + i);
}

/* ---- from r rows to all lanes ---- */
#if IS_ZMM
#define SHUFFLE_WORDS(x, j) _mm512_shuffle_epi32(x, (_MM_PERM_ENUM)(0x55 * (j)))
#if ROWS == 4
SIMD_INLINE fv f16_of_rows(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_broadcastq_epi64(_mm_loadl_epi64((const void *)p)));
}
SIMD_INLINE bv bytes_of_rows(const uint8_t *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p)); }
#else
SIMD_INLINE fv f16_of_rows(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p)));
}
SIMD_INLINE bv bytes_of_rows(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p)); }
#endif
SIMD_INLINE iv iv_add(iv a, iv b) { return _mm512_add_epi32(a, b); }
SIMD_INLINE iv dot_pairs(iv acc, iv a, iv b) { return _mm512_dpwssd_epi32(acc, a, b); }
#else
#define SHUFFLE_WORDS(x, j) _mm256_shuffle_epi32(x, 0x55 * (j))
#if ROWS == 4
SIMD_INLINE fv f16_of_rows(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_broadcastq_epi64(_mm_loadl_epi64((const void *)p)));
}
SIMD_INLINE bv bytes_of_rows(const uint8_t *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p)); }
#else
SIMD_INLINE fv f16_of_rows(const uint8_t *p) { return fv_load_f16(p); }
SIMD_INLINE bv bytes_of_rows(const uint8_t *p) { return bv_load(p); }
#endif
SIMD_INLINE iv iv_add(iv a, iv b) { return _mm256_add_epi32(a, b); }
SIMD_INLINE iv dot_pairs(iv acc, iv a, iv b) {
#if HAS_VNNI
    return SIMD_DPWSSD(acc, a, b);
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}
#endif

/* Word j of each part's, in all of the part's lanes. */
SIMD_INLINE av spread(bv words, int j) {
#if ROWS == 4
    switch (j) {
    case 0: return SHUFFLE_WORDS(words, 0);
    case 1: return SHUFFLE_WORDS(words, 1);
    case 2: return SHUFFLE_WORDS(words, 2);
    default: return SHUFFLE_WORDS(words, 3);
    }
#elif IS_ZMM
    __m512i from = _mm512_setr_epi32(j, j, j, j, j, j, j, j, 8 + j, 8 + j, 8 + j, 8 + j, 8 + j, 8 + j, 8 + j, 8 + j);
    return _mm512_permutexvar_epi32(from, words);
#else
    return (void)j, words; /* one part: at_step broadcasts */
#endif
}

/* Activations of step t (4 inputs of each part) behind q. */
SIMD_INLINE av at_step(const uint8_t *q, int t) {
    return PARTS == 1 ? av_load(q + 4 * t) : spread(bv_load(q + t / ROWS * BYTES), t % ROWS);
}

/* Value i of the lanes behind p. */
SIMD_INLINE fv floats_at(const uint8_t *p, int i) {
    float x;
    if (PARTS > 1) return fv_load(p + 4 * SPREAD * i);
    memcpy(&x, p + 4 * i, 4);
    return fv_set1(x);
}
SIMD_INLINE iv words_at(const uint8_t *p, int i) {
    return PARTS == 1 ? simd_set1_at(p + 4 * i) : bv_load(p + 4 * SPREAD * i);
}

/* The parts of a row added, ROWS floats. */
SIMD_INLINE void store_rows(float *out, fv sums) {
#if IS_ZMM
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
#else
    __m256 half = sums;
#endif
    if (ROWS == 8) {
        _mm256_storeu_ps(out, half);
    } else {
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    }
}

/* ---- blocks of 32 ---- */
enum { QUANTS = 32 * PARTS, ACT32 = QUANTS + 4 * 4 * SPREAD };
enum { VALUE_D, VALUE_S, VALUE_MINUS16, VALUE_MINUS128 };

SIMD_INLINE fv q4_1_set(fv sum, const uint8_t *set, const uint8_t *act) {
    const uint8_t *lines = set + 4 * LANES, *values = act + QUANTS;
    prefetch(set, 5 * BYTES);
    dot4 dot = dot4_start(NULL);
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + BYTES * l), low = bv_and(x, bv_set1(15)), high = bv_and(bv_shr(x, 4), bv_set1(15));
        dot = dot4_add(dot, low, at_step(act, l));
        dot = dot4_add(dot, high, at_step(act, 4 + l));
    }
    sum = fv_fma(fv_from_i32(dot4_sum(dot, NULL)), fv_mul(fv_load_f16(set), floats_at(values, VALUE_D)), sum);
    return fv_fma(fv_load_f16(set + 2 * LANES), floats_at(values, VALUE_S), sum);
}

SIMD_INLINE bv fifth_bits(bv nibbles, const uint8_t *tops, int bit) {
    bv x = bv_load(tops);
    switch (bit) {
    case 0: x = bv_shl(x, 4); break;
    case 1: x = bv_shl(x, 3); break;
    case 2: x = bv_shl(x, 2); break;
    case 3: x = bv_shl(x, 1); break;
    case 5: x = bv_shr(x, 1); break;
    case 6: x = bv_shr(x, 2); break;
    case 7: x = bv_shr(x, 3); break;
    default: break;
    }
    return bv_or(bv_and(nibbles, bv_set1(15)), bv_and(x, bv_set1(16)));
}

SIMD_INLINE fv q5_0_set(fv sum, const uint8_t *d, const uint8_t *tops, const uint8_t *act) {
    const uint8_t *values = act + QUANTS;
    prefetch(tops, 5 * BYTES);
    dot5 dot = dot5_start(NULL);
    if (HAS_VNNI) memcpy(&dot, &(iv){words_at(values, VALUE_MINUS16)}, sizeof(iv));
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(tops + BYTES + BYTES * l);
        dot = dot5_add(dot, fifth_bits(x, tops, l), at_step(act, l));
        dot = dot5_add(dot, fifth_bits(bv_shr(x, 4), tops, 4 + l), at_step(act, 4 + l));
        if (l % 2) dot = dot5_widen(dot);
    }
    iv total = dot5_sum(dot, NULL);
    if (!HAS_VNNI) total = iv_add(total, words_at(values, VALUE_MINUS16));
    return fv_fma(fv_from_i32(total), fv_mul(fv_load_f16(d), floats_at(values, VALUE_D)), sum);
}

SIMD_INLINE fv q8_0_set(fv sum, const uint8_t *d, const uint8_t *lines, const uint8_t *act) {
    const uint8_t *values = act + QUANTS;
    prefetch(lines, 8 * BYTES);
    dot8 dot = HAS_VNNI ? words_at(values, VALUE_MINUS128) : iv_zero();
    UNROLL
    for (int l = 0; l < 8; l++) dot = dot8_add(dot, w8_load(lines + BYTES * l), at_step(act, l));
    return fv_fma(fv_from_i32(dot8_sum(dot)), fv_mul(fv_load_f16(d), floats_at(values, VALUE_D)), sum);
}

SIMD_INLINE fv q4_1_row_group(const uint8_t *group, const uint8_t *act, int32_t cols) {
    fv sum = fv_zero();
    ROLLED
    for (int32_t k = 0; k < cols; k += QUANTS, group += 5 * BYTES, act += ACT32) sum = q4_1_set(sum, group, act);
    return sum;
}

/* Two sets a turn, LINES lines each behind a line of the scales of both. */
#define PAIRS_OF_SETS(NAME, LINES)                                                                                     \
    SIMD_INLINE fv NAME##_row_group(const uint8_t *group, const uint8_t *act, int32_t cols) {                          \
        fv sum = fv_zero();                                                                                            \
        ROLLED                                                                                                         \
        for (int32_t k = 0; k < cols; k += 2 * QUANTS, group += (1 + 2 * LINES) * BYTES, act += 2 * ACT32) {           \
            sum = NAME##_set(sum, group, group + BYTES, act);                                                          \
            sum = NAME##_set(sum, group + BYTES / 2, group + (1 + LINES) * BYTES, act + ACT32);                        \
        }                                                                                                              \
        return sum;                                                                                                    \
    }
PAIRS_OF_SETS(q5_0, 5)
PAIRS_OF_SETS(q8_0, 8)

/* ---- blocks of 256 ---- */
enum {
    SETS = 8 / PARTS, /* of sub-blocks of 32 */
    AT_PAIRS = 256,
    AT_MINUS32 = AT_PAIRS + 4 * SPREAD * (SETS / 2),
    AT_MINUS32_PAIRS = AT_MINUS32 + 4 * SPREAD * 2 * SETS,
    AT_D = AT_MINUS32_PAIRS + 4 * SPREAD * 2 * SETS,
    ACT256 = AT_D + 64,
    Q4_K_HEAD = 16 * ROWS,
    Q4_K_BYTES = 144 * ROWS,
    Q6_K_BYTES = 208 * ROWS,
};

SIMD_INLINE fv scale_at(fv d, const uint8_t *act) {
    float x;
    memcpy(&x, act + AT_D, 4);
    return fv_mul(d, fv_set1(x));
}

/* The byte of sub-block set * PARTS + (lane's part), row (lane's) in both halves of the lane; `low` and `high` false:
 * zero there. bytes: those of sub-blocks 0-3 or 4-7, as bytes_of_rows loads a line. */
SIMD_INLINE iv pick(bv bytes, int set, bool low, bool high) {
#define PICK_BYTE(l) (uint32_t)(4 * ((set * PARTS + (l) / ROWS) % 4) + (l) % ROWS % 4)
#define PICK_LANE(l) (int)(0x80008000u | (low ? PICK_BYTE(l) : 0x80) | (high ? PICK_BYTE(l) : 0x80) << 16)
#define PICK_LANES(l) PICK_LANE(l), PICK_LANE((l) + 1), PICK_LANE((l) + 2), PICK_LANE((l) + 3)
#if IS_ZMM
    return _mm512_shuffle_epi8(bytes, _mm512_setr_epi32(PICK_LANES(0), PICK_LANES(4), PICK_LANES(8), PICK_LANES(12)));
#else
    return _mm256_shuffle_epi8(bytes, _mm256_setr_epi32(PICK_LANES(0), PICK_LANES(4)));
#endif
}

SIMD_INLINE iv q4_k_sub_blocks(iv total, iv scale, const uint8_t *lines, const uint8_t *act) {
    dot4k dot = dot4k_zero();
    prefetch(lines, 4 * BYTES);
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(lines + BYTES * l);
        dot = dot4k_add_low(dot, dot4k_low(x), at_step(act, l));
        dot = dot4k_add_high(dot, dot4k_high(x), at_step(act, 4 + l));
    }
    return dot4k_scaled(total, dot, scale);
}

SIMD_INLINE fv q4_k_record(fv sum, const uint8_t *record, const uint8_t *act) {
    const bv low = bv_set1(15), high = bv_set1(0x30);
    prefetch(record, Q4_K_HEAD);
    const bv s = bytes_of_rows(record + 4 * ROWS), m = bytes_of_rows(record + 8 * ROWS);
    const bv tops = bytes_of_rows(record + 12 * ROWS);
    const bv scale[2] = {bv_or(bv_and(s, low), bv_and(bv_shl(tops, 4), high)),
                         bv_or(bv_and(bv_shr(s, 4), low), bv_and(bv_shl(tops, 2), high))};
    const bv minimum[2] = {bv_or(bv_and(m, low), bv_and(tops, high)),
                           bv_or(bv_and(bv_shr(m, 4), low), bv_and(bv_shr(tops, 2), high))};
    iv total = iv_zero(), minima = iv_zero();
    UNROLL
    for (int set = 0; set < SETS; set++) {
        iv both = pick(scale[set * PARTS / 4], set, true, true);
        total = q4_k_sub_blocks(total, both, record + Q4_K_HEAD + 4 * BYTES * set, act + QUANTS * set);
    }
    UNROLL
    for (int set = 0; set < SETS; set += 2) {
        iv first = pick(minimum[set * PARTS / 4], set, true, false);
        iv second = pick(minimum[(set + 1) * PARTS / 4], set + 1, false, true);
        minima = dot_pairs(minima, bv_or(first, second), words_at(act + AT_PAIRS, set / 2));
    }
    sum = fv_fma(fv_from_i32(total), scale_at(f16_of_rows(record), act), sum);
    return fv_fma(fv_from_i32(minima), scale_at(f16_of_rows(record + 2 * ROWS), act), sum);
}

SIMD_INLINE fv q4_k_row_group(const uint8_t *group, const uint8_t *act, int32_t cols) {
    fv sum = fv_zero();
    ROLLED
    for (int32_t k = 0; k < cols; k += 256, group += Q4_K_BYTES, act += ACT256) sum = q4_k_record(sum, group, act);
    return sum;
}

/* Set i of four. */
SIMD_INLINE iv q6_k_sub_blocks(iv total, const uint8_t *lines, int i, const uint8_t *act, int set) {
    const uint8_t *ql = lines + BYTES * 4 * (i % 2), *qh = lines + BYTES * 8;
    dot6 dot;
    iv start = words_at(act + (HAS_VNNI ? AT_MINUS32 : AT_MINUS32_PAIRS), set);
    memcpy(&dot, &start, sizeof dot);
    UNROLL
    for (int l = 0; l < 4; l++) {
        bv x = bv_load(ql + BYTES * l), top = bv_load(qh + BYTES * l);
        x = bv_and(i < 2 ? x : bv_shr(x, 4), bv_set1(15));
        if (i < 2) top = i == 0 ? bv_shl(top, 4) : bv_shl(top, 2);
        if (i == 3) top = bv_shr(top, 2);
        dot = dot6_add(dot, bv_or(x, bv_and(top, bv_set1(0x30))), at_step(act, 4 * set + l));
    }
    return dot6_scaled(total, dot, dot6_scale(bv_load(lines + BYTES * 12), i));
}

SIMD_INLINE fv q6_k_row_group(const uint8_t *group, const uint8_t *act, int32_t cols) {
    const uint8_t *record = group + (cols / 256 * 2 * ROWS + 63) / 64 * 64;
    fv sum = fv_zero();
    ROLLED
    for (int32_t k = 0; k < cols; k += 256, act += ACT256, group += 2 * ROWS) {
        iv total = iv_zero();
        UNROLL
        for (int set = 0; set < 2 * SETS; set++) {
            const int lines = set % 4 == 0 ? 4 : 3; /* of 13 for four sets */
            prefetch(record + (set % 4 == 0 ? 0 : 3 * (set % 4) + 1) * BYTES, lines * BYTES);
            total = q6_k_sub_blocks(total, record, set % 4, act, set);
            if (set % 4 == 3) record += 13 * BYTES;
        }
        sum = fv_fma(fv_from_i32(total), scale_at(f16_of_rows(group), act), sum);
    }
    return sum;
}

#define GEMV(NAME, TYPE)                                                                                               \
    static void NAME##_gemv(const struct rows_job *job, int32_t begin, int32_t end) {                                  \
        const size_t stride = rows_group_bytes(TYPE, (struct shape){ROWS, LANES}, job->cols);                          \
        for (int32_t g = begin; g < end; g++) {                                                                        \
            store_rows(job->out + (size_t)g * ROWS, NAME##_row_group(job->w + (size_t)g * stride, job->act, job->cols)); \
        }                                                                                                              \
    }
GEMV(q4_1, ASDSL_Q4_1)
GEMV(q5_0, ASDSL_Q5_0)
GEMV(q8_0, ASDSL_Q8_0)
GEMV(q4_k, ASDSL_Q4_K)
GEMV(q6_k, ASDSL_Q6_K)

#define NAME_OF(rows, level) KERNEL_PASTE(KERNEL_PASTE(rows, ROWS), level)
const struct rows_kernels NAME_OF(rows, ASDSL_LEVEL_NAME) = {
    .shape = {ROWS, LANES}, .q4_1 = q4_1_gemv, .q5_0 = q5_0_gemv, .q8_0 = q8_0_gemv, .q4_k = q4_k_gemv, .q6_k = q6_k_gemv,
};
