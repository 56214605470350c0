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
 *   q8_0       records of 16 x 64, 1088 bytes: d_a, d_b, 8 lines of a, 8 lines of b; odd last block 576 bytes
 *   q4_k       records of 16 x 256, 2304 bytes: f16 d[16], f16 dmin[16]; a line of scale nibbles, a line of minimum
 *              nibbles, a line of 2-bit tops; then 4 lines for each sub-block of 32 inputs, as q4_1's.
 *              16-byte quarter L of the three lines serves rows 4L .. 4L+3, byte 4j + r' that of row 4L + r': low nibble
 *              sub-block j (0-3), high nibble j + 4; tops: bits 0-1 scale j, 2-3 scale j+4, 4-5 minimum j, 6-7 j+4
 *   q6_k       header: f16 d[16] for each block of 256, padded to whole lines; then records of 3328 bytes:
 *              32 lines ql, 16 lines qh (the bytes of a GGUF block, in order), 4 lines of int8 scales (4 of each row)
 */
#ifndef ASDSL_LAYOUT_H
#define ASDSL_LAYOUT_H
#include "kernels.h"
#include <string.h>

enum {
    LINE = 64,
    Q4_1_RECORD = 320,
    Q4_0_PAIR = 576,
    Q8_0_PAIR = 1088,
    Q4_K_RECORD = 2304,
    Q6_K_RECORD = 3328,
};

/* ACT_Q8_32: one per 32 inputs. x is about d * q; q in -127 .. 127. Integer sums are of q. */
struct act_q8_32 {
    int8_t q[32];
    float d;          /* largest |x| / 127; 0: all of q is 0; NaN: an input was NaN or infinite */
    float s;          /* d * sum(q), for minima */
    int32_t minus8;   /* -8 * sum(q): what Q4_0's offset of 8 takes off */
    int32_t minus128; /* -128 * sum(q): for signed weights that an instruction takes as unsigned */
};

/* ACT_Q8_256: one per 256 inputs. */
struct act_q8_256 {
    int8_t q[256];
    int32_t minus32[16];          /* -32 * sum of 16 inputs: Q6_K's offset */
    int16_t minus32_pairs[16][2]; /* the same split: inputs 0, 1 of every four; inputs 2, 3. At most 32 * 8 * 127 */
    int16_t minus_sums[8];        /* -sum of 32 inputs, for minima */
    float d;
    uint8_t pad[12];
};
_Static_assert(sizeof(struct act_q8_32) == 48 && sizeof(struct act_q8_256) == 416, "activation blocks");

/* Bytes of one row group. cols: a multiple of the type's block. */
static inline uint64_t group_bytes(int32_t type, int32_t cols) {
    uint64_t n = (uint64_t)(uint32_t)cols;
    switch (type) {
    case ASDSL_F32: return 64 * n;
    case ASDSL_F16:
    case ASDSL_BF16: return (32 * n + 63) / 64 * 64;
    case ASDSL_Q4_1: return n / 32 * Q4_1_RECORD;
    case ASDSL_Q4_0: return n / 64 * Q4_0_PAIR + (n / 32 & 1) * (LINE + 4 * LINE);
    case ASDSL_Q8_0: return n / 64 * Q8_0_PAIR + (n / 32 & 1) * (LINE + 8 * LINE);
    case ASDSL_Q4_K: return n / 256 * Q4_K_RECORD;
    case ASDSL_Q6_K: return (n / 256 * 32 + 63) / 64 * 64 + n / 256 * Q6_K_RECORD;
    default: return 0;
    }
}

/* Offset of q6_k's first record in its group. */
static inline size_t q6_k_header_bytes(int32_t cols) { return ((size_t)cols / 256 * 32 + 63) / 64 * 64; }

/* One weight as its published formula sees it: scale * q + offset, every part exact in float. */
struct element {
    float scale, offset;
    int32_t q;
};
struct element layout_element(int32_t type, const void *group, int32_t cols, int32_t row_in_group, int32_t k);

#endif
