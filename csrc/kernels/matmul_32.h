/* matmul_32.h: what the kernels of weights in blocks of 32 share: their activations and the walk over a row group.
 *
 * A kernel writes NAME_block(sums, scales, lines, act, stride, n): one block, LANES rows, n columns. BODY and
 * TILE_OF_BODY make NAME_tile of it (matmul.h). Knows records by the number of their lines; what the lines hold is the
 * kernel's.
 */
#ifndef ASDSL_MATMUL_32_H
#define ASDSL_MATMUL_32_H
#include "matmul.h"

enum { BLOCK = 32, ACT = sizeof(struct act_q8_32), AT_D = 32, AT_S = 36, AT_MINUS8 = 40, AT_MINUS128 = 44 };

SIMD_INLINE fv set1_at(const uint8_t *p) {
    float x;
    memcpy(&x, p, 4);
    return fv_set1(x);
}

SIMD_INLINE const int32_t *i32_at(const uint8_t *p) { return (const int32_t *)(const void *)p; }

/* The walk over a row group: `halves` vectors of LANES rows from half h on. STEP: block i of a record, whose scales
 * come first (32 bytes to a block of a pair), then its lines; with the last block the next record's scales are fetched
 * too. */
#define STEP(NAME, i, LINES, LAST)                                                                                     \
    do {                                                                                                               \
        const uint8_t *scales = record + 32 * (i) + 2 * LANES * h, *lines = record + LINE + LINES * LINE * (i);        \
        if (prefetch) prefetch_lines(lines + PREFETCH_AHEAD, LINES * LINE + (LAST) * LINE);                            \
        if ((i) == 0) touch_line(record);                                                                              \
        UNROLL                                                                                                         \
        for (int s = 0; s < halves; s++) {                                                                             \
            NAME##_block(sums[s], scales + 2 * LANES * s, lines + 4 * LANES * (h + s), act, stride, n);                \
            FORGET_BETWEEN_HALVES;                                                                                     \
        }                                                                                                              \
        act += ACT;                                                                                                    \
    } while (0)
#define BODY(NAME, WALK)                                                                                               \
    SIMD_INLINE void NAME##_body(const struct tile *t, int h, const int n, const int halves, const int prefetch) {     \
        fv sums[2][TILE_COLS];                                                                                         \
        const uint8_t *record = t->group, *act = t->act;                                                               \
        const size_t stride = t->act_stride;                                                                           \
        const int32_t n_blocks = t->cols / BLOCK;                                                                      \
        UNROLL                                                                                                         \
        for (int i = 0; i < n; i++) sums[0][i] = sums[1][i] = fv_zero();                                               \
        WALK UNROLL for (int s = 0; s < halves; s++) UNROLL for (int c = 0; c < n; c++)                                \
            fv_store(t->sums + c * KERNEL_ROWS + (h + s) * LANES, sums[s][c]);                                         \
    }
#define SINGLES(NAME, RECORD_BYTES, LINES)                                                                             \
    ROLLED                                                                                                             \
    for (int32_t b = 0; b < n_blocks; b++, record += RECORD_BYTES) STEP(NAME, 0, LINES, 1);
#define PAIRS(NAME, RECORD_BYTES, LINES)                                                                               \
    ROLLED                                                                                                             \
    for (int32_t b = 0; b < n_blocks / 2; b++, record += RECORD_BYTES) {                                               \
        STEP(NAME, 0, LINES, 0);                                                                                       \
        STEP(NAME, 1, LINES, 1);                                                                                       \
    }                                                                                                                  \
    if (n_blocks % 2) STEP(NAME, 0, LINES, 1);

/* With 8 lanes a wide tile walks its records once for each half: its sums and dots fill the registers. */
#define TILE_OF_BODY(NAME)                                                                                             \
    SIMD_INLINE void NAME##_tile(const struct tile *t, const int n, const int prefetch) {                              \
        const int at_once = n <= TILE_HALVES_TO ? HALVES : 1;                                                          \
        NAME##_body(t, 0, n, at_once, prefetch);                                                                       \
        if (at_once < HALVES) NAME##_body(t, 1, n, at_once, 0);                                                        \
    }

#endif
