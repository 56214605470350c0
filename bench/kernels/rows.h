/* rows.h: the record layouts of issue 4 with 4 and 8 interleaved rows, as bench/layout.ts measures them beside the
 * product's 16. Prototypes: one column, widths in multiples of 256, no tails; not part of the library.
 *
 * A register has `lanes` lanes of 4 bytes: 16 (zmm) or 8 (ymm). The 16-row layout fills it with the rows; r rows fill
 * lanes / r parts of it (half or quarter registers), and the parts are neighbouring blocks of the same rows: lane g * r
 * + row has block g of a set of lanes / r blocks. So scales and float sums are as many per weight as with 16 rows, and
 * the prices of fewer rows are: activations have to be spread over the parts (a shuffle for each dot, where 16 rows
 * take a broadcast that is part of the load), what is done once per row group is shared by fewer rows, and the parts'
 * sums are added across lanes at the end of a group. With r = lanes = 8 it is the 16-row layout in its half.
 *
 * "line": a register's bytes, 4 * lanes. With parts = lanes / r:
 *   q4_1   a set of parts blocks: f16 d, f16 m of each lane, 4 lines (nibbles as kernels/layout.h's q4_1)
 *   q5_0   two sets: f16 d_a, d_b of each lane; a line of fifth bits and 4 lines of a, likewise of b
 *   q8_0   two sets: d_a, d_b, 8 lines of a, 8 of b
 *   q4_k   r rows x 256: f16 d[r], dmin[r]; 4r bytes each of scale nibbles, minimum nibbles, 2-bit tops (quarters of 16
 *          bytes as kernels/layout.h's); 4 lines for each of the 8 / parts sets of sub-blocks
 *   q6_k   header: f16 d[r] for each 256, padded to 64 bytes; r rows x 256: for each 4 sets of sub-blocks of 16: 8
 * lines ql, 4 lines qh, a line of int8 scales (byte i of a lane: set i). Set i has nibbles of lines 4 (i % 2) .. of
 *          half i / 2 and bits 2i of qh
 */
#ifndef ASDSL_BENCH_ROWS_H
#define ASDSL_BENCH_ROWS_H
#include "../../csrc/kernels/kernels.h"

/* Rows of a group and lanes of a register. */
struct shape {
    int32_t rows, lanes;
};

static inline int32_t parts_of(struct shape s) { return s.lanes / s.rows; }

/* Bytes of a row group. cols: a multiple of 256. */
static inline size_t rows_group_bytes(int32_t type, struct shape s, int32_t cols) {
    size_t weights = (size_t)s.rows * (size_t)cols, blocks = (size_t)cols / 256;
    switch (type) {
    case ASDSL_Q4_1: return weights / 32 * 20;
    case ASDSL_Q5_0: return weights / 32 * 22;
    case ASDSL_Q8_0: return weights / 32 * 34;
    case ASDSL_Q4_K: return weights / 256 * 144;
    case ASDSL_Q6_K: return (blocks * 2 * (size_t)s.rows + 63) / 64 * 64 + weights / 256 * 208;
    default: return 0;
    }
}

/* Values of activations' lanes: one where a register has one part (it is broadcast), else one for each lane. */
static inline int32_t spread_of(struct shape s) { return s.rows == s.lanes ? 1 : s.lanes; }

/* Activations of a set of blocks of 32: int8 q[32 * parts]; then, each `spread` times 4 bytes: float d, float s,
 * int32 -16 * sum, int32 -128 * sum. */
static inline size_t act32_bytes(struct shape s) { return 32 * (size_t)parts_of(s) + 4 * 4 * (size_t)spread_of(s); }

/* Activations of a block of 256: int8 q[256]; then, each `spread` times 4 bytes: for each two sets of sub-blocks of 32
 * the pair of -sums (int16); for each set of sub-blocks of 16 -32 * sum (int32), and then the same as a pair (int16) of
 * inputs 0, 1 and of inputs 2, 3 of every four; then float d. */
static inline size_t act256_bytes(struct shape s) {
    size_t parts = (size_t)parts_of(s), one = 4 * (size_t)spread_of(s);
    return 256 + one * (4 / parts + 2 * (16 / parts)) + 64;
}

/* The byte of input k (a multiple of 4) among the activations' q: steps of 4 inputs, `rows` of them to a register and
 * part, so that a register is loaded once for `rows` dots. block: 32, or 16 (q6_k). */
static inline size_t step_offset(struct shape s, int32_t block, int32_t k) {
    int32_t parts = parts_of(s), b = k / block, step = b / parts * (block / 4) + k % block / 4;
    return 4 *
           (((size_t)(step / s.rows) * (size_t)parts + (size_t)(b % parts)) * (size_t)s.rows + (size_t)(step % s.rows));
}

/* ---- rows_pack.c ---- */
/* Row groups of r rows out of rows as in a GGUF file. */
void rows_pack(int32_t type, struct shape s, const uint8_t *from, int32_t n_rows, int32_t cols, uint8_t *to);
/* One column out of quantised activations (kernels/layout.h). `to`: rows_act_bytes. */
void rows_activations(int32_t type, struct shape s, const void *act, int32_t cols, uint8_t *to);
size_t rows_act_bytes(int32_t type, struct shape s, int32_t cols);

/* ---- rows_matmul.c, once for each level and number of rows ---- */
struct rows_job {
    const uint8_t *w, *act;
    int32_t cols;
    float *out; /* (rows of the groups) */
};
/* Groups [begin, end). */
typedef void rows_fn(const struct rows_job *job, int32_t begin, int32_t end);

struct rows_kernels {
    struct shape shape;
    rows_fn *q4_1, *q5_0, *q8_0, *q4_k, *q6_k;
};
extern const struct rows_kernels rows_4_avx2, rows_8_avx2, rows_4_avxvnni, rows_8_avxvnni, rows_4_avx512, rows_8_avx512;

#endif
