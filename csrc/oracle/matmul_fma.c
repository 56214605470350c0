/* matmul_fma.c: see matmul_fma.h. Compiled once, for level avx2.
 *
 * A line (kernels/layout.h) holds four inputs of each of 16 rows, a byte each: half a line is a YMM register of 8 rows.
 * A mask leaves one input's weights where they are, 2^(8i) times too large, vcvtdq2ps makes them floats, and one FMA
 * adds weight times input to the sum of place i; four sums a half, brought to one scale at the end of a block. Offsets
 * (what the unsigned codes are too large by, and minima) are multiplied by the sum of the block's inputs.
 */
#include "matmul_fma.h"
#include "../kernels/layout.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
/* A function to a type: constants of all of them together would fill the registers. */
#define NOINLINE static __attribute__((noinline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL
#endif
/* Loads stay where they are: hoisted ones would push sums out of the 16 registers (kernels/simd_avx2.h). */
#define FORGET __asm__ volatile("" ::: "memory")

enum { HALF = 32, PREFETCH_AHEAD = 1024 };

/* Sums of 16 rows by place i of an input among its four; of place i the 2^(8i)-fold where the code was masked there. */
struct sums {
    __m256 at[2][4];
};

INLINE struct sums zero(void) {
    struct sums s;
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 4; i++) s.at[h][i] = _mm256_setzero_ps();
    return s;
}

INLINE __m256i load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* Codes of up to 7 bits in four bytes, at bits 8i: x[i] times each. */
INLINE void add_codes(struct sums *s, __m256i low, __m256i high, int32_t mask, const float *x) {
    for (int i = 0; i < 4; i++) {
        __m256i place = _mm256_set1_epi32((int32_t)((uint32_t)mask << 8 * i));
        __m256 input = _mm256_broadcast_ss(x + i);
        s->at[0][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_and_si256(low, place)), input, s->at[0][i]);
        s->at[1][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_and_si256(high, place)), input, s->at[1][i]);
    }
    FORGET;
}

/* Four lines of nibbles, 32 inputs. */
INLINE void add_nibbles(struct sums *s, const uint8_t *lines, const float *x) {
    for (int l = 0; l < 4; l++, lines += LINE) {
        __m256i low = load(lines), high = load(lines + HALF);
        _mm_prefetch((const char *)lines + PREFETCH_AHEAD, _MM_HINT_T1);
        add_codes(s, low, high, 15, x + 4 * l);
        add_codes(s, _mm256_srli_epi32(low, 4), _mm256_srli_epi32(high, 4), 15, x + 16 + 4 * l);
    }
}

/* The four places of a half as one sum. */
INLINE __m256 folded(const __m256 at[4]) {
    __m256 sum = _mm256_fmadd_ps(at[3], _mm256_set1_ps(0x1p-8f), at[2]);
    sum = _mm256_fmadd_ps(sum, _mm256_set1_ps(0x1p-8f), at[1]);
    return _mm256_fmadd_ps(sum, _mm256_set1_ps(0x1p-8f), at[0]);
}

INLINE __m256 f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }

/* out += d * (sum of codes * x - offset * sum of x) */
INLINE void add_block(__m256 out[2], const struct sums *s, const uint8_t *d, float offset, float x) {
    for (int h = 0; h < 2; h++) {
        __m256 sum = _mm256_fnmadd_ps(_mm256_set1_ps(offset), _mm256_set1_ps(x), folded(s->at[h]));
        out[h] = _mm256_fmadd_ps(sum, f16(d + 16 * h), out[h]);
    }
}

NOINLINE void q4_1_rows(__m256 out[2], const uint8_t *group, int32_t cols, const float *x, const float *x16) {
    for (int32_t b = 0; b < cols / 32; b++, group += Q4_1_RECORD) {
        struct sums s = zero();
        add_nibbles(&s, group + LINE, x + 32 * b);
        add_block(out, &s, group, 0, 0);
        __m256 total = _mm256_set1_ps(x16[2 * b] + x16[2 * b + 1]);
        for (int h = 0; h < 2; h++) out[h] = _mm256_fmadd_ps(f16(group + 32 + 16 * h), total, out[h]);
    }
}

/* A fifth bit: of the low nibbles of line l bit l of its byte, of the high ones bit 4 + l. */
INLINE __m256i fives(__m256i nibbles, __m256i tops, int bit) {
    __m256i fifth = bit < 4 ? _mm256_slli_epi32(tops, 4 - bit) : _mm256_srli_epi32(tops, bit - 4);
    return _mm256_or_si256(_mm256_and_si256(nibbles, _mm256_set1_epi8(15)),
                           _mm256_and_si256(fifth, _mm256_set1_epi8(16)));
}

INLINE void q5_0_block(__m256 out[2], const uint8_t *d, const uint8_t *tops, const float *x, const float *x16) {
    struct sums s = zero();
    for (int l = 0; l < 4; l++) {
        const uint8_t *line = tops + LINE + LINE * l;
        __m256i w[2] = {load(line), load(line + HALF)}, t[2] = {load(tops), load(tops + HALF)};
        _mm_prefetch((const char *)line + PREFETCH_AHEAD, _MM_HINT_T1);
        add_codes(&s, fives(w[0], t[0], l), fives(w[1], t[1], l), 31, x + 4 * l);
        add_codes(&s, fives(_mm256_srli_epi32(w[0], 4), t[0], 4 + l), fives(_mm256_srli_epi32(w[1], 4), t[1], 4 + l),
                  31, x + 16 + 4 * l);
    }
    add_block(out, &s, d, 16, x16[0] + x16[1]);
}

NOINLINE void q5_0_rows(__m256 out[2], const uint8_t *group, int32_t cols, const float *x, const float *x16) {
    for (int32_t b = 0; b < cols / 32; b++) {
        const uint8_t *record = group + (size_t)(b / 2) * Q5_0_PAIR;
        q5_0_block(out, record + 32 * (b % 2), record + LINE + 5 * LINE * (b % 2), x + 32 * b, x16 + 2 * b);
    }
}

/* Codes of 8 bits: w + 128. The top one comes down: as an int32 it would be negative. */
INLINE void q8_0_block(__m256 out[2], const uint8_t *d, const uint8_t *lines, const float *x, const float *x16) {
    struct sums s = zero();
    for (int l = 0; l < 8; l++, lines += LINE, x += 4) {
        _mm_prefetch((const char *)lines + PREFETCH_AHEAD, _MM_HINT_T1);
        for (int h = 0; h < 2; h++) {
            __m256i w = _mm256_xor_si256(load(lines + HALF * h), _mm256_set1_epi8((char)0x80));
            for (int i = 0; i < 4; i++) {
                __m256i code =
                    i == 3 ? _mm256_srli_epi32(w, 24) : _mm256_and_si256(w, _mm256_set1_epi32(0xff << 8 * i));
                s.at[h][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), _mm256_broadcast_ss(x + i), s.at[h][i]);
            }
        }
    }
    for (int h = 0; h < 2; h++) s.at[h][3] = _mm256_mul_ps(s.at[h][3], _mm256_set1_ps(0x1p24f));
    add_block(out, &s, d, 128, x16[0] + x16[1]);
}

NOINLINE void q8_0_rows(__m256 out[2], const uint8_t *group, int32_t cols, const float *x, const float *x16) {
    for (int32_t b = 0; b < cols / 32; b++) {
        const uint8_t *record = group + (size_t)(b / 2) * Q8_0_PAIR;
        q8_0_block(out, record + 32 * (b % 2), record + LINE + 8 * LINE * (b % 2), x + 32 * b, x16 + 2 * b);
    }
}

/* Byte j of each row's four in half h of a line of 6-bit scales or minima, as floats: 4 rows of each 16-byte quarter.
 */
INLINE __m256 six_bits(const uint8_t *line, const uint8_t *tops, int h, int j, int top_shift) {
    int f = (int)(0x80808000u | 4 * (uint32_t)(j % 4)); /* 0x80: a zero byte */
    __m256i rows = _mm256_broadcastsi128_si256(_mm_setr_epi32(f, f + 1, f + 2, f + 3));
    __m256i low = _mm256_shuffle_epi8(load(line + HALF * h), rows),
            top = _mm256_shuffle_epi8(load(tops + HALF * h), rows);
    low = _mm256_and_si256(j < 4 ? low : _mm256_srli_epi32(low, 4), _mm256_set1_epi32(15));
    top = _mm256_and_si256(_mm256_srli_epi32(top, top_shift + (j < 4 ? 0 : 2)), _mm256_set1_epi32(3));
    return _mm256_cvtepi32_ps(_mm256_or_si256(low, _mm256_slli_epi32(top, 4)));
}

NOINLINE void q4_k_rows(__m256 out[2], const uint8_t *record, int32_t cols, const float *x, const float *x16) {
    for (int32_t b = 0; b < cols / 256; b++, record += Q4_K_RECORD) {
        const uint8_t *scales = record + LINE, *minima = scales + LINE, *tops = minima + LINE;
    UNROLL
        for (int j = 0; j < 8; j++, x += 32, x16 += 2) {
            struct sums s = zero();
            add_nibbles(&s, record + 4 * LINE + 4 * LINE * j, x);
            __m256 total = _mm256_set1_ps(x16[0] + x16[1]);
            for (int h = 0; h < 2; h++) {
                __m256 scale = _mm256_mul_ps(f16(record + 16 * h), six_bits(scales, tops, h, j, 0));
                __m256 minimum = _mm256_mul_ps(f16(record + 32 + 16 * h), six_bits(minima, tops, h, j, 4));
                out[h] = _mm256_fmadd_ps(folded(s.at[h]), scale, out[h]);
                out[h] = _mm256_fnmadd_ps(minimum, total, out[h]);
            }
        }
    }
}

/* Sub-block of 16 inputs: 4 lines of ql and 4 of qh (layout.h; matmul_k.c has the order of their bits). */
INLINE void q6_k_sub_block(__m256 out[2], const uint8_t *record, const uint8_t *d, int sub, const float *x, float x16) {
    const int half = sub / 8, quarter = sub / 2 % 4, odd = sub % 2;
    const uint8_t *ql = record + LINE * q6_k_line(4 * half + 2 * (quarter % 2) + odd);
    const uint8_t *qh = record + LINE * q6_k_line(8 + 2 * half + odd), *scales = record + LINE * (sub / 4);
    struct sums s = zero();
    for (int l = 0; l < 4; l++) {
        __m256i w[2];
        for (int h = 0; h < 2; h++) {
            __m256i low = load(ql + LINE * l + HALF * h), top = load(qh + LINE * l + HALF * h);
            low = quarter < 2 ? low : _mm256_srli_epi32(low, 4);
            top = quarter < 2 ? _mm256_slli_epi32(top, 4 - 2 * quarter) : _mm256_srli_epi32(top, 2 * quarter - 4);
            w[h] = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)),
                                   _mm256_and_si256(top, _mm256_set1_epi8(0x30)));
        }
        add_codes(&s, w[0], w[1], 63, x + 4 * l);
    }
    for (int h = 0; h < 2; h++) {
        __m256i scale = _mm256_srai_epi32(_mm256_slli_epi32(load(scales + HALF * h), 24 - 8 * (sub % 4)), 24);
        __m256 sum = _mm256_fnmadd_ps(_mm256_set1_ps(32), _mm256_set1_ps(x16), folded(s.at[h]));
        out[h] = _mm256_fmadd_ps(sum, _mm256_mul_ps(f16(d + 16 * h), _mm256_cvtepi32_ps(scale)), out[h]);
    }
}

NOINLINE void q6_k_rows(__m256 out[2], const uint8_t *group, int32_t cols, const float *x, const float *x16) {
    const uint8_t *record = group + header_bytes(cols);
    for (int32_t b = 0; b < cols / 256; b++, record += Q6_K_RECORD, group += 32) {
        UNROLL
        for (int sub = 0; sub < 16; sub++, x += 16, x16++) {
            for (int l = 0; l < 4; l++) _mm_prefetch((const char *)record + 8192 + LINE * (3 * sub + l), _MM_HINT_T1);
            q6_k_sub_block(out, record, group, sub, x, *x16);
        }
    }
}

void fma_sums(const float *x, int32_t cols, float *x16) {
    for (int32_t k = 0; k < cols; k += 16) {
        float sum = 0;
        for (int32_t i = 0; i < 16; i++) sum += x[k + i];
        x16[k / 16] = sum;
    }
}

void matmul_fma(const struct fma_job *job, int32_t begin, int32_t end) {
    const size_t stride = (size_t)group_bytes(job->type, job->cols);
    for (int32_t g = begin; g < end; g++) {
        const uint8_t *group = (const uint8_t *)job->w + (size_t)g * stride;
        __m256 out[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        switch (job->type) {
        case ASDSL_Q4_1: q4_1_rows(out, group, job->cols, job->x, job->x16); break;
        case ASDSL_Q5_0: q5_0_rows(out, group, job->cols, job->x, job->x16); break;
        case ASDSL_Q8_0: q8_0_rows(out, group, job->cols, job->x, job->x16); break;
        case ASDSL_Q4_K: q4_k_rows(out, group, job->cols, job->x, job->x16); break;
        case ASDSL_Q6_K: q6_k_rows(out, group, job->cols, job->x, job->x16); break;
        default: break;
        }
        _mm256_storeu_ps(job->out + 16 * (size_t)g, out[0]);
        _mm256_storeu_ps(job->out + 16 * (size_t)g + 8, out[1]);
    }
}
