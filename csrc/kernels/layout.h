/* layout.h: where every byte of interleaved weights and of quantised activations lies. Pure C, no instruction set.
 *
 * A matrix is a sequence of row groups of KERNEL_ROWS = 16 rows; a group is the whole width of its rows, one stream.
 * The last group of a matrix whose rows 16 does not divide is padded with rows of zero bytes. Groups are multiples of
 * 64 bytes. "line" below: 64 bytes, 4 bytes (or one element) of each of the 16 rows, row r at 4r (or at its element).
 *
 *   f32        cols lines: w[k] of 16 rows
 *   f16, bf16  cols half lines: w[k] of 16 rows; the group padded to whole lines when cols is odd
 *   q4_1       records of 16 x 32, 320 bytes: f16 d[16], f16 m[16], 4 lines; byte 4r + i of line l has input 4l + i of
 *              row r in its low and input 16 + 4l + i in its high nibble (the bytes of a GGUF block, in order)
 *   q4_0       records of 16 x 64 (two blocks a, b), 576 bytes: f16 d_a[16], f16 d_b[16], 4 lines of a, 4 lines of b.
 *              An odd last block is a record of 320 bytes: d_a, 32 zero bytes, 4 lines: the same formula finds it
 *   q5_0       records of 16 x 64, 704 bytes: d_a, d_b, a line of a's fifth bits, 4 lines of a, likewise of b; odd last
 *              block 384 bytes. Nibbles as q4_0's. Of the fifth bits, bit l of byte 4r + i is that of input 4l + i,
 *              bit 4 + l that of input 16 + 4l + i: two shifts bring them to where line l wants them
 *   q5_1       records of 16 x 32, 384 bytes: f16 d[16], f16 m[16], a line of fifth bits, 4 lines, as q5_0's
 *   iq4_nl     as q4_0; a nibble is an index into iq4_nl_values
 *   q8_0       records of 16 x 64, 1088 bytes: d_a, d_b, 8 lines of a, 8 lines of b; odd last block 576 bytes
 *   q4_k       records of 16 x 256, 2304 bytes: f16 d[16], f16 dmin[16]; a line of scale nibbles, a line of minimum
 *              nibbles, a line of 2-bit tops; then 4 lines for each sub-block of 32 inputs, as q4_1's.
 *              16-byte quarter L of the three lines serves rows 4L .. 4L+3, byte 4j + r' row 4L + r': low nibble
 *              sub-block j (0-3), high nibble j + 4; tops: bits 0-1 scale j, 2-3 scale j + 4, 4-5 minimum j, 6-7 j + 4
 *   q5_k       records of 16 x 256, 2816 bytes: q4_k's first four lines; then 5 lines for each sub-block of 32 inputs.
 *              Byte 4r + i of the five has inputs 4f + i of row r, f = 0 .. 7: the low 5 bits of the lines are those
 *              of f = 0, 1, 3, 4, 6; the top three, t0 .. t4, make the others: f = 2 is t0 | (t1 & 3) << 3,
 *              5 is t2 | (t3 & 3) << 3, 7 is t4 | (t1 >> 2) << 3 | (t3 >> 2) << 4
 *   q2_k       records of 16 x 256, 1344 bytes: f16 d[16], f16 dmin[16]; 4 lines of a scale (low nibble) and a minimum
 *              each: of line t, byte 4j + r' of quarter L (as q4_k's) is that of sub-block 4t + j of 16 inputs; then a
 *              line for each sub-block: byte 4r + i has inputs 4f + i in bits 2f, f = 0 .. 3
 *   q3_k       header: f16 d[16] for each block of 256, padded to whole lines; then records of 1728 bytes: 3 lines of
 *              6-bit scales, quarters as q4_k's: low nibble sub-block j or 4 + j of 16, high nibble 8 + j or 12 + j;
 *              bits 2t of the third line the tops of sub-blocks 4t + j; then 3 lines for each 32 inputs. Byte 4r + i of
 *              the three has inputs 4f + i: f = 0, 2, 4 in bits 0-2, f = 1, 3, 5 in bits 3-5 of each line, f = 6 in
 *              bits 6-7 of the first and bit 6 of the third, f = 7 in bits 6-7 of the second and bit 7 of the third
 *   iq4_xs     records of 16 x 256, 2176 bytes: f16 d[16], u16 scales_h[16]; a line of scales_l (both the bits of a
 *              GGUF block, as they are); then 4 lines for each sub-block of 32 inputs, as q4_1's
 *   q6_k       header: f16 d[16] for each block of 256, padded to whole lines; then records of 3328 bytes: 4 lines of
 *              int8 scales (4 of each row), then the bytes of a GGUF block in the order in which sub-blocks need them:
 *              for each half of 128 inputs and each of even and odd sub-blocks of 16, 4 lines of qh, which serve all
 *              four, and twice 4 lines of ql, which serve two (q6_k_line)
 */
#ifndef ASDSL_LAYOUT_H
#define ASDSL_LAYOUT_H
#include "kernels.h"
#include <string.h>

enum {
    LINE = 64,
    Q4_1_RECORD = 320,
    Q4_0_PAIR = 576,
    Q5_0_PAIR = 704,
    Q5_1_RECORD = 384,
    IQ4_NL_PAIR = Q4_0_PAIR,
    Q8_0_PAIR = 1088,
    Q4_K_RECORD = 2304,
    Q5_K_RECORD = 2816,
    Q6_K_RECORD = 3328,
    Q2_K_RECORD = 1344,
    Q3_K_RECORD = 1728,
    IQ4_XS_RECORD = 2176,
    /* matmul_panel.h: panels at once, of so many inputs, 22 of the 32 KB of any first cache (4 of struct k_panel, 86
     * lines each), the rest is for activations; columns of a region, whose inputs in turn (160 KB) and sums (98 KB a
     * weight) are half of a second cache of 512 KB; and its row groups, for which they are read from the third once. */
    PANEL_INPUTS = 1024,
    PANEL_BYTES = 4 * 86 * LINE,
    REGION_COLUMNS = 96,
    REGION_GROUPS = 16,
    PANELS_BYTES = PANEL_BYTES + 2 * REGION_GROUPS * REGION_COLUMNS * KERNEL_ROWS * 4,
};

/* ACT_Q8_32: one per 32 inputs. x is about d * q; q in -127 .. 127. Integer sums are of q. */
struct act_q8_32 {
    int8_t q[32];
    float d;          /* largest |x| / 127; 0: all of q is 0; NaN: an input was NaN or infinite */
    float s;          /* d * sum(q), for minima */
    int32_t minus8;   /* -8 * sum(q): what Q4_0's offset of 8 takes off, and half of what Q5_0's 16 does */
    int32_t minus128; /* -128 * sum(q): for signed weights that an instruction takes as unsigned */
};

/* ACT_Q8_256: one per 256 inputs. */
struct act_q8_256 {
    int8_t q[256];
    int16_t minus32[32];          /* -32 * sum of 8 inputs: Q6_K's offset. At most 32 * 8 * 127 */
    int16_t minus32_pairs[16][2]; /* of 16 inputs: those that are 0 or 1 of every four; 2 or 3 */
    int16_t minus_sums[8];        /* -sum of 32 inputs, for minima */
    float d;
    uint8_t pad[12];
};
_Static_assert(sizeof(struct act_q8_32) == 48 && sizeof(struct act_q8_256) == 416, "activation blocks");

/* Types whose scales d stand before the records: bytes of those, 32 for each block of 256, padded to whole lines. */
static inline uint64_t header_bytes(int32_t cols) { return ((uint64_t)(uint32_t)cols / 256 * 32 + 63) / 64 * 64; }

/* Bytes of one row group. cols: a multiple of the type's block. */
static inline uint64_t group_bytes(int32_t type, int32_t cols) {
    uint64_t n = (uint64_t)(uint32_t)cols;
    switch (type) {
    case ASDSL_F32: return 64 * n;
    case ASDSL_F16:
    case ASDSL_BF16: return (32 * n + 63) / 64 * 64;
    case ASDSL_Q4_1: return n / 32 * Q4_1_RECORD;
    case ASDSL_Q5_1: return n / 32 * Q5_1_RECORD;
    case ASDSL_IQ4_NL:
    case ASDSL_Q4_0: return n / 64 * Q4_0_PAIR + (n / 32 & 1) * (LINE + 4 * LINE);
    case ASDSL_Q5_0: return n / 64 * Q5_0_PAIR + (n / 32 & 1) * (LINE + 5 * LINE);
    case ASDSL_Q8_0: return n / 64 * Q8_0_PAIR + (n / 32 & 1) * (LINE + 8 * LINE);
    case ASDSL_Q4_K: return n / 256 * Q4_K_RECORD;
    case ASDSL_Q5_K: return n / 256 * Q5_K_RECORD;
    case ASDSL_Q2_K: return n / 256 * Q2_K_RECORD;
    case ASDSL_Q3_K: return header_bytes(cols) + n / 256 * Q3_K_RECORD;
    case ASDSL_IQ4_XS: return n / 256 * IQ4_XS_RECORD;
    case ASDSL_Q6_K: return header_bytes(cols) + n / 256 * Q6_K_RECORD;
    default: return 0;
    }
}

/* The weights of iq4_nl and iq4_xs by nibble, before their scale (kvalues_iq4nl of ggml). Static, so that kernels have
 * it as a constant. */
static const int8_t iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* The same with 6 bits and no sign, for gemm_rounded (kernels.h): value = IQ4_NL_STEP * (this - IQ4_NL_ZERO), off by
 * 1.69 at most. Of all such tables it has the least mean square error where weights are normal and the largest of 32
 * is 127. */
static const int8_t iq4_nl_rounded[16] = {3, 8, 13, 17, 21, 24, 27, 30, 32, 35, 38, 41, 44, 48, 52, 58};
#define IQ4_NL_STEP 4.3656f
enum { IQ4_NL_ZERO = 32 };

/* One weight as its published formula sees it: scale * q + offset, every part exact in float (f16 times 6 or 8 bits).
 * Types without an offset have -0.0f there: adding it changes nothing, not even the sign of a zero. */
struct element {
    float scale, offset;
    int32_t q;
};

/* ---- one weight out of a group ---- */
static inline uint32_t u16_at(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static inline float f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline float f16_at(const uint8_t *p) {
    uint32_t h = u16_at(p), sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Input i (0-31) of row r out of 4 lines of nibbles. */
static inline int32_t nibble_at(const uint8_t *lines, int32_t r, int32_t i) {
    uint8_t byte = lines[i % 16 / 4 * LINE + 4 * r + i % 4];
    return i < 16 ? byte & 15 : byte >> 4;
}

/* The same with a fifth bit: a line of fifth bits, then 4 of nibbles. */
static inline int32_t five_bits_at(const uint8_t *lines, int32_t r, int32_t i) {
    return nibble_at(lines + LINE, r, i) | (lines[4 * r + i % 4] >> i / 4 & 1) << 4;
}

/* Scale and offset of sub-block j out of the first four lines of q4_k and q5_k. */
static inline struct element scales_6bit_at(const uint8_t *record, int32_t r, int32_t j) {
    int32_t at = r / 4 * 16 + j % 4 * 4 + r % 4, shift = j < 4 ? 0 : 4;
    int32_t tops = record[192 + at] >> shift / 2, scale = record[64 + at] >> shift & 15;
    int32_t minimum = record[128 + at] >> shift & 15;
    scale |= (tops & 3) << 4;
    minimum |= (tops >> 4 & 3) << 4;
    return (struct element){.scale = f16_at(record + 2 * r) * (float)scale,
                            .offset = -(f16_at(record + 32 + 2 * r) * (float)minimum)};
}

static inline struct element q4_k_element(const uint8_t *record, int32_t r, int32_t i) {
    struct element e = scales_6bit_at(record, r, i / 32);
    e.q = nibble_at(record + 4 * LINE + 4 * LINE * (i / 32), r, i % 32);
    return e;
}

static inline struct element q5_k_element(const uint8_t *record, int32_t r, int32_t i) {
    static const int8_t whole[8] = {0, 1, -1, 2, 3, -1, 4, -1}; /* the line whose low 5 bits they are */
    struct element e = scales_6bit_at(record, r, i / 32);
    const uint8_t *x = record + 4 * LINE + 5 * LINE * (i / 32) + 4 * r + i % 4;
    int32_t f = i % 32 / 4, top[5];
    for (int32_t l = 0; l < 5; l++) top[l] = x[LINE * l] >> 5;
    e.q = f == 2   ? top[0] | (top[1] & 3) << 3
          : f == 5 ? top[2] | (top[3] & 3) << 3
          : f == 7 ? top[4] | (top[1] >> 2) << 3 | (top[3] >> 2) << 4
                   : x[LINE * whole[f]] & 31;
    return e;
}

static inline struct element q2_k_element(const uint8_t *record, int32_t r, int32_t i) {
    int32_t sub = i / 16, both = record[LINE + sub / 4 * LINE + r / 4 * 16 + sub % 4 * 4 + r % 4];
    int32_t q = record[5 * LINE + sub * LINE + 4 * r + i % 4] >> i % 16 / 4 * 2 & 3;
    return (struct element){f16_at(record + 2 * r) * (float)(both & 15),
                            -(f16_at(record + 32 + 2 * r) * (float)(both >> 4)), q};
}

static inline struct element q3_k_element(const uint8_t *group, int32_t cols, int32_t r, int32_t k) {
    const uint8_t *record = group + header_bytes(cols) + (size_t)k / 256 * Q3_K_RECORD;
    int32_t i = k % 256, sub = i / 16, at = r / 4 * 16 + sub % 4 * 4 + r % 4, f = i % 32 / 4;
    int32_t scale = record[sub / 4 % 2 * LINE + at] >> sub / 8 * 4 & 15;
    scale |= (record[2 * LINE + at] >> sub / 4 * 2 & 3) << 4;
    const uint8_t *x = record + 3 * LINE + i / 32 * 3 * LINE + 4 * r + i % 4;
    int32_t q = f < 6 ? x[f / 2 * LINE] >> f % 2 * 3 & 7 : x[(f - 6) * LINE] >> 6 | (x[2 * LINE] >> f & 1) << 2;
    return (struct element){f16_at(group + (size_t)k / 256 * 32 + 2 * r) * (float)(scale - 32), -0.0f, q - 4};
}

static inline struct element iq4_xs_element(const uint8_t *record, int32_t r, int32_t i) {
    int32_t j = i / 32, scale = record[LINE + 4 * r + j / 2] >> j % 2 * 4 & 15;
    scale |= (int32_t)(u16_at(record + 32 + 2 * r) >> 2 * j & 3) << 4;
    return (struct element){f16_at(record + 2 * r) * (float)(scale - 32), -0.0f,
                            iq4_nl_values[nibble_at(record + 2 * LINE + 4 * LINE * j, r, i % 32)]};
}

/* Where 4 lines of a q6_k record begin: lines 4i .. 4i + 3 of a GGUF block's 4-byte words (0-7 ql, 8-11 qh, 12 scales).
 */
static inline int32_t q6_k_line(int32_t i) {
    if (i == 12) return 0;
    return i < 8 ? 4 + 12 * (i / 4 * 2 + i % 2) + 4 + 4 * (i % 4 / 2) : 4 + 12 * (i - 8);
}

static inline struct element q6_k_element(const uint8_t *group, int32_t cols, int32_t r, int32_t k) {
    const uint8_t *d = group + (size_t)k / 256 * 32 + 2 * r;
    const uint8_t *record = group + header_bytes(cols) + (size_t)k / 256 * Q6_K_RECORD;
    int32_t i = k % 256, half = i / 128, quarter = i % 128 / 32, l = i % 32;
    int32_t low = half * 64 + quarter % 2 * 32 + l, high = half * 32 + l, sub = i / 16; /* bytes of the GGUF block */
    uint8_t ql = record[(q6_k_line(low / 16) + low % 16 / 4) * LINE + 4 * r + low % 4];
    uint8_t qh = record[(q6_k_line(8 + high / 16) + high % 16 / 4) * LINE + 4 * r + high % 4];
    int8_t scale = (int8_t)record[sub / 4 * LINE + 4 * r + sub % 4];
    int32_t q = (quarter < 2 ? ql & 15 : ql >> 4) | (qh >> 2 * quarter & 3) << 4;
    return (struct element){f16_at(d) * (float)scale, -0.0f, q - 32};
}

/* Input k of row r (0-15) of a group: slow and plain, for gathering rows and for the oracle. */
static inline struct element layout_element(int32_t type, const void *group, int32_t cols, int32_t r, int32_t k) {
    const uint8_t *at = group;
    size_t block = (size_t)k / 32, pair = block / 2, odd = block % 2;
    int32_t i = k % 32;
    switch (type) {
    case ASDSL_F32:
        at += 64 * (size_t)k + 4 * (size_t)r;
        return (struct element){f32_from_bits(u16_at(at) | u16_at(at + 2) << 16), -0.0f, 1};
    case ASDSL_F16: return (struct element){f16_at(at + 32 * (size_t)k + 2 * r), -0.0f, 1};
    case ASDSL_BF16: return (struct element){f32_from_bits(u16_at(at + 32 * (size_t)k + 2 * r) << 16), -0.0f, 1};
    case ASDSL_Q4_1:
        at += block * Q4_1_RECORD;
        return (struct element){f16_at(at + 2 * r), f16_at(at + 32 + 2 * r), nibble_at(at + LINE, r, i)};
    case ASDSL_Q4_0:
        at += pair * Q4_0_PAIR;
        return (struct element){f16_at(at + 32 * odd + 2 * r), -0.0f, nibble_at(at + LINE + 4 * LINE * odd, r, i) - 8};
    case ASDSL_Q5_0:
        at += pair * Q5_0_PAIR;
        return (struct element){f16_at(at + 32 * odd + 2 * r), -0.0f,
                                five_bits_at(at + LINE + 5 * LINE * odd, r, i) - 16};
    case ASDSL_Q5_1:
        at += block * Q5_1_RECORD;
        return (struct element){f16_at(at + 2 * r), f16_at(at + 32 + 2 * r), five_bits_at(at + LINE, r, i)};
    case ASDSL_IQ4_NL:
        at += pair * IQ4_NL_PAIR;
        return (struct element){f16_at(at + 32 * odd + 2 * r), -0.0f,
                                iq4_nl_values[nibble_at(at + LINE + 4 * LINE * odd, r, i)]};
    case ASDSL_Q8_0:
        at += pair * Q8_0_PAIR;
        return (struct element){f16_at(at + 32 * odd + 2 * r), -0.0f,
                                (int8_t)at[LINE + 8 * LINE * odd + (size_t)i / 4 * LINE + 4 * r + i % 4]};
    case ASDSL_Q4_K: return q4_k_element(at + (size_t)k / 256 * Q4_K_RECORD, r, k % 256);
    case ASDSL_Q5_K: return q5_k_element(at + (size_t)k / 256 * Q5_K_RECORD, r, k % 256);
    case ASDSL_Q2_K: return q2_k_element(at + (size_t)k / 256 * Q2_K_RECORD, r, k % 256);
    case ASDSL_Q3_K: return q3_k_element(at, cols, r, k);
    case ASDSL_IQ4_XS: return iq4_xs_element(at + (size_t)k / 256 * IQ4_XS_RECORD, r, k % 256);
    case ASDSL_Q6_K: return q6_k_element(at, cols, r, k);
    default: return (struct element){0};
    }
}

#endif
