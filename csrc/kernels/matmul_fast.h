/* matmul_fast.h: the formats that the kernels of `--prefill fast` make for themselves: panels and strips.
 *
 * Not exact: weights are rounded once more, to int8 with one scale per row and 256 inputs, and so are activations of
 * weights whose own blocks are smaller. In return a block of 256 inputs is nothing but integer dots, whatever the type
 * was. A block is 256 inputs, the last one of a row what is left, rounded up to whole steps of 32 with zeros.
 *
 *   panel   one row group, in a worker's scratch: for each block f32 scale[16], then a line for every 4 inputs: byte
 *           4r + i is weight 4l + i of row r, plus PANEL_OFFSET. |weight| <= PANEL_MAX (the level's, simd_*.h)
 *   strip   STRIP_COLS columns of activations, shared by all workers: for each block 16 bytes for every 4 inputs, 4 of
 *           each column, then struct strip_tail. Columns past the last are zeros
 */
#ifndef ASDSL_MATMUL_FAST_H
#define ASDSL_MATMUL_FAST_H
#include "layout.h"

enum {
    FAST_BLOCK = 256,
    STRIP_COLS = 4,
    STRIP_LINE = 4 * STRIP_COLS, /* bytes: 4 inputs of each column */
};

struct strip_tail {
    float d[STRIP_COLS];          /* scales, as act_q8_256's */
    int32_t minus128[STRIP_COLS]; /* -128 * sum of the block: what the panel's offset of 128 adds; half for one of 64 */
    uint8_t pad[32];
};
_Static_assert(sizeof(struct strip_tail) == LINE, "blocks of strips are whole lines");

/* Of a block of `steps` times 4 inputs. */
static inline const struct strip_tail *tail_of(const uint8_t *block, int32_t steps) {
    return (const struct strip_tail *)(const void *)(block + (size_t)STRIP_LINE * (size_t)steps);
}

/* Inputs as panels and strips hold them. */
static inline int32_t fast_cols(int32_t cols) { return (cols + 31) / 32 * 32; }

/* Bytes of the columns' blocks in a panel (LINE a step of 4 inputs, LINE of scales a block) and in a strip. */
static inline size_t panel_bytes(int32_t cols) {
    return (size_t)LINE * (size_t)(fast_cols(cols) / 4 + (cols + FAST_BLOCK - 1) / FAST_BLOCK);
}
static inline size_t strip_bytes(int32_t cols) {
    size_t blocks = (size_t)(cols + FAST_BLOCK - 1) / FAST_BLOCK;
    return (size_t)STRIP_LINE * (size_t)(fast_cols(cols) / 4) + blocks * sizeof(struct strip_tail);
}

/* Row groups whose panels a worker makes at once, so that columns are read once for all of them: as many as leave room
 * in a second cache of half a megabyte. n_weights: 1, or 2 where a job has w2. */
static inline int32_t panels_at_once(int32_t cols, int32_t n_weights) {
    size_t n = (384 << 10) / (panel_bytes(cols) * (size_t)n_weights);
    return n < 1 ? 1 : n > 8 ? 8 : (int32_t)n;
}

/* A row group of any type -> its panel. */
typedef void panel_fn(const void *group, int32_t cols, void *panel);

#endif
