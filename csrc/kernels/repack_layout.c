/* repack_layout.c: rows as GGUF stores them <-> interleaved records (layout.h), both ways, lossless.
 *
 * Bytes move, and bits of K-quants and the fifth bits of q5_0 and q5_1 change places; nothing is rounded. Plain C: the
 * work is copies of 4 bytes, which compilers do well enough (well above the speed that a disk delivers). Padding rows
 * are zero bytes.
 */
#include "layout.h"

enum { ROWS_TO_RECORDS = 1, RECORDS_TO_ROWS = 0 };
#define REPACK_INLINE static inline __attribute__((always_inline))

/* One item of `bytes` bytes between its place in a row and its place in a record. */
REPACK_INLINE void move(uint8_t *row, uint8_t *record, size_t bytes, int to_records) {
    if (to_records) {
        memcpy(record, row, bytes);
    } else {
        memcpy(row, record, bytes);
    }
}

/* `n` times 4 successive bytes of row r <-> its place in n lines. */
REPACK_INLINE void move_lines(uint8_t *row, uint8_t *lines, int32_t r, int32_t n, int to_records) {
    for (int32_t l = 0; l < n; l++) move(row + 4 * l, lines + LINE * l + 4 * r, 4, to_records);
}

REPACK_INLINE void block_f32(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    move(row, group + (size_t)b * 64 + 4 * r, 4, to);
}
REPACK_INLINE void block_16bit(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    move(row, group + (size_t)b * 32 + 2 * r, 2, to);
}
REPACK_INLINE void block_q4_0(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b / 2 * Q4_0_PAIR;
    move(row, record + b % 2 * 32 + 2 * r, 2, to);
    move_lines(row + 2, record + LINE + b % 2 * 4 * LINE, r, 4, to);
}
REPACK_INLINE void block_q4_1(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * Q4_1_RECORD;
    move(row, record + 2 * r, 2, to);
    move(row + 2, record + 32 + 2 * r, 2, to);
    move_lines(row + 4, record + LINE, r, 4, to);
}
/* x with the bits of `mask` and those `shift` above them exchanged. */
REPACK_INLINE uint32_t exchange(uint32_t x, uint32_t mask, int shift) {
    uint32_t t = (x ^ x >> shift) & mask;
    return x ^ t ^ t << shift;
}
/* The 32 fifth bits of a row's block: bit 4l + i <-> bit 8i + l (l below 8). The five bits of a bit's number turn by
 * two places, a cycle of four exchanges with its lowest. */
REPACK_INLINE void move_fifth_bits(uint8_t *row, uint8_t *line, int32_t r, int to_records) {
    uint32_t x;
    memcpy(&x, to_records ? row : line + 4 * r, 4);
    if (to_records) {
        x = exchange(exchange(x, 0x00aa00aau, 7), 0x22222222u, 1);
        x = exchange(exchange(x, 0x0000aaaau, 15), 0x0a0a0a0au, 3);
    } else {
        x = exchange(exchange(x, 0x0a0a0a0au, 3), 0x0000aaaau, 15);
        x = exchange(exchange(x, 0x22222222u, 1), 0x00aa00aau, 7);
    }
    memcpy(to_records ? line + 4 * r : row, &x, 4);
}
REPACK_INLINE void block_q5_0(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b / 2 * Q5_0_PAIR, *lines = record + LINE + b % 2 * 5 * LINE;
    move(row, record + b % 2 * 32 + 2 * r, 2, to);
    move_fifth_bits(row + 2, lines, r, to);
    move_lines(row + 6, lines + LINE, r, 4, to);
}
REPACK_INLINE void block_q5_1(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * Q5_1_RECORD;
    move(row, record + 2 * r, 2, to);
    move(row + 2, record + 32 + 2 * r, 2, to);
    move_fifth_bits(row + 4, record + LINE, r, to);
    move_lines(row + 8, record + 2 * LINE, r, 4, to);
}
REPACK_INLINE void block_q8_0(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b / 2 * Q8_0_PAIR;
    move(row, record + b % 2 * 32 + 2 * r, 2, to);
    move_lines(row + 2, record + LINE + b % 2 * 8 * LINE, r, 8, to);
}
/* x in each of 4 bytes. */
#define BYTES(x) (0x01010101u * (x))

REPACK_INLINE uint32_t word_at(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}
REPACK_INLINE void set_word(uint8_t *p, uint32_t word) { memcpy(p, &word, 4); }

/* d, dmin and the 12 bytes of 6-bit scales that q4_k and q5_k begin with. Bytes q: q[j] and q[4+j] hold 6 bits of scale
 * j and minimum j and the 2-bit tops of scale and minimum j + 4; q[8+j] the low nibbles of those two. */
REPACK_INLINE void move_scales_6bit(uint8_t *row, uint8_t *record, int32_t r, int to) {
    uint8_t *q = row + 4, *scales = record + LINE + r / 4 * 16 + r % 4, *minima = scales + LINE, *tops = minima + LINE;
    move(row, record + 2 * r, 2, to);
    move(row + 2, record + 32 + 2 * r, 2, to);
    for (int32_t j = 0; j < 4; j++) {
        uint8_t *s = scales + 4 * j, *m = minima + 4 * j, *t = tops + 4 * j;
        if (to) {
            *s = (uint8_t)((q[j] & 15) | (q[8 + j] & 15) << 4);
            *m = (uint8_t)((q[4 + j] & 15) | (q[8 + j] & 0xf0));
            *t = (uint8_t)(q[j] >> 4 | (q[4 + j] & 0xf0));
        } else {
            q[j] = (uint8_t)((*s & 15) | *t << 4);
            q[4 + j] = (uint8_t)((*m & 15) | (*t & 0xf0));
            q[8 + j] = (uint8_t)(*s >> 4 | (*m & 0xf0));
        }
    }
}
/* A GGUF block: d, dmin, scales, 4 x 32 bytes whose low nibbles are one sub-block and whose high nibbles the next. */
REPACK_INLINE void block_q4_k(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * Q4_K_RECORD, *lines = record + 4 * LINE;
    move_scales_6bit(row, record, r, to);
    for (int32_t c = 0; c < 4; c++) { /* 64 inputs: sub-blocks 2c and 2c + 1 */
        for (int32_t l = 0; l < 4; l++) {
            uint8_t *low = row + 16 + 32 * c + 4 * l, *high = low + 16;
            uint8_t *even = lines + (8 * c + l) * LINE + 4 * r, *odd = even + 4 * LINE;
            uint32_t a = word_at(to ? low : even), d = word_at(to ? high : odd), mask = BYTES(0x0f);
            /* a transposition of nibbles: its own inverse */
            set_word(to ? even : low, (a & mask) | (d & mask) << 4);
            set_word(to ? odd : high, (a >> 4 & mask) | (d & ~mask));
        }
    }
}
/* Five lines of q5_k (layout.h) of row r <-> words of inputs 4f .. 4f + 3, f = 0 .. 7, a byte each. */
REPACK_INLINE void q5_k_to_lines(const uint32_t *w, uint8_t *x) {
    uint32_t t1 = (w[2] >> 3 & BYTES(3)) | (w[7] >> 3 & BYTES(1)) << 2;
    uint32_t t3 = (w[5] >> 3 & BYTES(3)) | (w[7] >> 4 & BYTES(1)) << 2;
    set_word(x, w[0] | (w[2] & BYTES(7)) << 5);
    set_word(x + LINE, w[1] | t1 << 5);
    set_word(x + 2 * LINE, w[3] | (w[5] & BYTES(7)) << 5);
    set_word(x + 3 * LINE, w[4] | t3 << 5);
    set_word(x + 4 * LINE, w[6] | (w[7] & BYTES(7)) << 5);
}
REPACK_INLINE void q5_k_from_lines(const uint8_t *x, uint32_t *w) {
    static const uint8_t whole[5] = {0, 1, 3, 4, 6};
    uint32_t top[5];
    for (int32_t l = 0; l < 5; l++) {
        w[whole[l]] = word_at(x + LINE * l) & BYTES(31);
        top[l] = word_at(x + LINE * l) >> 5 & BYTES(7);
    }
    w[2] = top[0] | (top[1] & BYTES(3)) << 3;
    w[5] = top[2] | (top[3] & BYTES(3)) << 3;
    w[7] = top[4] | (top[1] >> 2 & BYTES(1)) << 3 | (top[3] >> 2 & BYTES(1)) << 4;
}
/* A GGUF block: d, dmin, scales, 32 bytes whose bit j is the highest of sub-block j, then nibbles as in q4_k. */
REPACK_INLINE void block_q5_k(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * Q5_K_RECORD, *lines = record + 4 * LINE + 4 * r, *qh = row + 16,
            *ql = row + 48;
    uint32_t w[8];
    move_scales_6bit(row, record, r, to);
    if (!to) memset(qh, 0, 32 + 128);
    for (int32_t j = 0; j < 8; j++) {
        uint8_t *low = ql + j / 2 * 32, *x = lines + 5 * LINE * j;
        int32_t shift = j % 2 * 4;
        if (!to) q5_k_from_lines(x, w);
        for (int32_t f = 0; f < 8; f++) {
            if (to) {
                w[f] = (word_at(low + 4 * f) >> shift & BYTES(15)) | (word_at(qh + 4 * f) >> j & BYTES(1)) << 4;
            } else {
                set_word(low + 4 * f, word_at(low + 4 * f) | (w[f] & BYTES(15)) << shift);
                set_word(qh + 4 * f, word_at(qh + 4 * f) | (w[f] >> 4 & BYTES(1)) << j);
            }
        }
        if (to) q5_k_to_lines(w, x);
    }
}
/* Scale bytes of row r <-> bytes 4j + r % 4 of its quarter in n lines. */
REPACK_INLINE void move_scale_bytes(uint8_t *row, uint8_t *lines, int32_t r, int32_t n, int to) {
    for (int32_t i = 0; i < 4 * n; i++) move(row + i, lines + i / 4 * LINE + r / 4 * 16 + i % 4 * 4 + r % 4, 1, to);
}
/* A GGUF block: 16 scale bytes, 64 bytes of quants, d, dmin. Of each 128 inputs, 32 bytes hold inputs i, i + 32, i + 64
 * and i + 96 in their bits 0, 2, 4 and 6: a line gathers what four words have in one place. */
REPACK_INLINE void block_q2_k(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * Q2_K_RECORD, *lines = record + 5 * LINE + 4 * r;
    move(row + 80, record + 2 * r, 2, to);
    move(row + 82, record + 32 + 2 * r, 2, to);
    move_scale_bytes(row, record + LINE, r, 4, to);
    for (int32_t i = 0; i < 4; i++) { /* 64 inputs: sub-blocks of 16 of one parity in a half */
        uint8_t *words = row + 16 + i / 2 * 32 + i % 2 * 16, *line = lines + (i / 2 * 8 + i % 2) * LINE;
        uint32_t from[4];
        for (int32_t f = 0; f < 4; f++) from[f] = word_at(to ? words + 4 * f : line + 2 * LINE * f);
        for (int32_t f = 0; f < 4; f++) { /* a transposition of pairs of bits: its own inverse */
            uint32_t word = 0;
            for (int32_t g = 0; g < 4; g++) word |= (from[g] >> 2 * f & BYTES(3)) << 2 * g;
            set_word(to ? line + 2 * LINE * f : words + 4 * f, word);
        }
    }
}
/* Three lines of q3_k (layout.h) of row r <-> words of inputs 4f .. 4f + 3, f = 0 .. 7, a byte each. */
REPACK_INLINE void q3_k_to_lines(const uint32_t *w, uint8_t *x) {
    uint32_t tops = (w[6] >> 2 & BYTES(1)) | (w[7] >> 2 & BYTES(1)) << 1;
    set_word(x, w[0] | w[1] << 3 | (w[6] & BYTES(3)) << 6);
    set_word(x + LINE, w[2] | w[3] << 3 | (w[7] & BYTES(3)) << 6);
    set_word(x + 2 * LINE, w[4] | w[5] << 3 | tops << 6);
}
REPACK_INLINE void q3_k_from_lines(const uint8_t *x, uint32_t *w) {
    uint32_t tops = word_at(x + 2 * LINE) >> 6;
    for (int32_t f = 0; f < 6; f++) w[f] = word_at(x + f / 2 * LINE) >> f % 2 * 3 & BYTES(7);
    w[6] = (word_at(x) >> 6 & BYTES(3)) | (tops & BYTES(1)) << 2;
    w[7] = (word_at(x + LINE) >> 6 & BYTES(3)) | (tops >> 1 & BYTES(1)) << 2;
}
/* A GGUF block: 32 bytes whose bit m is the third of 32 inputs, 64 bytes of two bits as in q2_k, 12 scale bytes, d. */
REPACK_INLINE void block_q3_k(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    uint8_t *record = group + header_bytes(cols) + (size_t)b * Q3_K_RECORD, *lines = record + 3 * LINE + 4 * r;
    uint32_t w[8];
    move(row + 108, group + (size_t)b * 32 + 2 * r, 2, to);
    move_scale_bytes(row + 96, record, r, 3, to);
    if (!to) memset(row, 0, 32 + 64);
    for (int32_t m = 0; m < 8; m++) {
        uint8_t *low = row + 32 + m / 4 * 32, *x = lines + 3 * LINE * m;
        int32_t shift = m % 4 * 2;
        if (!to) q3_k_from_lines(x, w);
        for (int32_t f = 0; f < 8; f++) {
            if (to) {
                w[f] = (word_at(low + 4 * f) >> shift & BYTES(3)) | (word_at(row + 4 * f) >> m & BYTES(1)) << 2;
            } else {
                set_word(low + 4 * f, word_at(low + 4 * f) | (w[f] & BYTES(3)) << shift);
                set_word(row + 4 * f, word_at(row + 4 * f) | (w[f] >> 2 & BYTES(1)) << m);
            }
        }
        if (to) q3_k_to_lines(w, x);
    }
}
/* A GGUF block: d, scales_h[2], scales_l[4], 16 bytes for each sub-block. */
REPACK_INLINE void block_iq4_xs(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    (void)cols;
    uint8_t *record = group + (size_t)b * IQ4_XS_RECORD;
    move(row, record + 2 * r, 2, to);
    move(row + 2, record + 32 + 2 * r, 2, to);
    move_lines(row + 4, record + LINE, r, 33, to);
}
/* A GGUF block: ql[128], qh[64], int8 scales[16], d. */
REPACK_INLINE void block_q6_k(uint8_t *row, uint8_t *group, int32_t cols, int32_t r, int32_t b, int to) {
    uint8_t *record = group + header_bytes(cols) + (size_t)b * Q6_K_RECORD;
    for (int32_t i = 0; i < 13; i++) move_lines(row + 16 * i, record + q6_k_line(i) * LINE, r, 4, to);
    move(row + 208, group + (size_t)b * 32 + 2 * r, 2, to);
}

/* Row by row inside a piece of PIECE blocks, so that the lines written stay in the first cache. */
#define REPACK(name, type, block_fn, WIDTH, BYTES, PIECE)                                                              \
    REPACK_INLINE void groups_##name(uint8_t *rows, uint8_t *records, int32_t n_rows, int32_t cols, int32_t begin,     \
                                     int32_t end, int to) {                                                            \
        int32_t n_blocks = cols / WIDTH;                                                                               \
        size_t row_bytes = (size_t)n_blocks * BYTES, stride = (size_t)group_bytes(type, cols);                         \
        for (int32_t g = begin; g < end; g++) {                                                                        \
            uint8_t *group = records + (size_t)g * stride, *first = rows + (size_t)g * KERNEL_ROWS * row_bytes;        \
            int32_t live = n_rows - g * KERNEL_ROWS < KERNEL_ROWS ? n_rows - g * KERNEL_ROWS : KERNEL_ROWS;            \
            if (to && (live < KERNEL_ROWS || stride != KERNEL_ROWS * row_bytes)) memset(group, 0, stride);             \
            for (int32_t piece = 0; piece < n_blocks; piece += PIECE) {                                                \
                int32_t stop = n_blocks - piece < PIECE ? n_blocks : piece + PIECE;                                    \
                for (int32_t r = 0; r < live; r++)                                                                     \
                    for (int32_t b = piece; b < stop; b++)                                                             \
                        block_fn(first + (size_t)r * row_bytes + (size_t)b * BYTES, group, cols, r, b, to);            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void interleave_##name(const void *rows, void *records, int32_t n_rows, int32_t cols, int32_t begin,        \
                                  int32_t end) {                                                                       \
        groups_##name((uint8_t *)(uintptr_t)rows, records, n_rows, cols, begin, end, ROWS_TO_RECORDS);                 \
    }                                                                                                                  \
    static void restore_##name(const void *records, void *rows, int32_t n_rows, int32_t cols, int32_t begin,           \
                               int32_t end) {                                                                          \
        groups_##name(rows, (uint8_t *)(uintptr_t)records, n_rows, cols, begin, end, RECORDS_TO_ROWS);                 \
    }

REPACK(f32, ASDSL_F32, block_f32, 1, 4, 64)
REPACK(f16, ASDSL_F16, block_16bit, 1, 2, 128)
REPACK(bf16, ASDSL_BF16, block_16bit, 1, 2, 128)
REPACK(q4_0, ASDSL_Q4_0, block_q4_0, 32, 18, 16)
REPACK(q4_1, ASDSL_Q4_1, block_q4_1, 32, 20, 16)
REPACK(q5_0, ASDSL_Q5_0, block_q5_0, 32, 22, 16)
REPACK(q5_1, ASDSL_Q5_1, block_q5_1, 32, 24, 16)
REPACK(iq4_nl, ASDSL_IQ4_NL, block_q4_0, 32, 18, 16)
REPACK(q8_0, ASDSL_Q8_0, block_q8_0, 32, 34, 8)
REPACK(q4_k, ASDSL_Q4_K, block_q4_k, 256, 144, 2)
REPACK(q5_k, ASDSL_Q5_K, block_q5_k, 256, 176, 2)
REPACK(q2_k, ASDSL_Q2_K, block_q2_k, 256, 84, 2)
REPACK(q3_k, ASDSL_Q3_K, block_q3_k, 256, 110, 2)
REPACK(iq4_xs, ASDSL_IQ4_XS, block_iq4_xs, 256, 136, 2)
REPACK(q6_k, ASDSL_Q6_K, block_q6_k, 256, 210, 2)

repack_fn *repack_for(int32_t type, int interleave) {
#define CASE(TYPE, name)                                                                                               \
    case TYPE: return interleave ? interleave_##name : restore_##name
    switch (type) {
        CASE(ASDSL_F32, f32);
        CASE(ASDSL_F16, f16);
        CASE(ASDSL_BF16, bf16);
        CASE(ASDSL_Q4_0, q4_0);
        CASE(ASDSL_Q4_1, q4_1);
        CASE(ASDSL_Q5_0, q5_0);
        CASE(ASDSL_Q5_1, q5_1);
        CASE(ASDSL_IQ4_NL, iq4_nl);
        CASE(ASDSL_Q8_0, q8_0);
        CASE(ASDSL_Q4_K, q4_k);
        CASE(ASDSL_Q5_K, q5_k);
        CASE(ASDSL_Q2_K, q2_k);
        CASE(ASDSL_Q3_K, q3_k);
        CASE(ASDSL_IQ4_XS, iq4_xs);
        CASE(ASDSL_Q6_K, q6_k);
    default: return NULL;
    }
#undef CASE
}
