/* attention_float.h: scores and weighted values over keys and values in f16 or f32. Included by attention.c alone.
 *
 * A tile is a few query rows that share every load. Each sum is one FMA chain, over head_dim for a score and over keys
 * in their order for a value: results do not depend on the tile.
 */
#ifndef ASDSL_ATTENTION_FLOAT_H
#define ASDSL_ATTENTION_FLOAT_H
#include "attention.h"
#include "simd.h"

/* Rows of a tile, and sums that registers hold by number of rows: blocks of 16 keys, and vectors of 16 values. All
 * divide 16. */
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
enum { TILE_ROWS = 8, MAX_WIDE = 8 };
#define WIDE_OF(rows) ((rows) == 1 ? 8 : (rows) <= 4 ? 4 : 2) /* of 32 registers */
#else
enum { TILE_ROWS = 4, MAX_WIDE = 4 };
#define WIDE_OF(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1) /* of 16 half as wide, or 32 a quarter as wide */
#endif

/* What a worker needs next is fetched while it works on this: a little with each step of scores, of weights and of
 * values. Fetched with scores and values alone, half of the time memory was asked for more than it gives and half of it
 * for nothing: attention of a token at 4,096 took 8 % longer (1.1 B, 2 threads of a Zen 4 VM, seen once). */
struct fetch {
    const uint8_t *at;
    size_t step; /* bytes */
};

SIMD_INLINE void fetch_next(struct fetch *f) {
    SIMD_PREFETCH(f->at);
    f->at += f->step;
}

SIMD_INLINE f32x16 kv_load(int32_t type, const uint8_t *at) {
    return type == ASDSL_F32 ? f32x16_loadu((const float *)(const void *)at)
                             : f32x16_load_f16((const uint16_t *)(const void *)at);
}

/* ---- scores: rows x 16-key blocks ---- */
/* scale * q[rows][head_dim] times `wide` blocks of keys -> scores[rows][ATTENTION_CHUNK]. */
SIMD_INLINE void score_blocks(const float *const *q, const uint8_t *k, int32_t type, int32_t head_dim, int rows,
                              int wide, float scale, struct fetch *fetch, float *scores) {
    f32x16 sum[TILE_ROWS][MAX_WIDE];
    struct fetch f = *fetch; /* in registers */
    size_t line = ATTENTION_LANES * kv_element_bytes(type), block = (size_t)head_dim * line;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int b = 0; b < wide; b++) sum[r][b] = f32x16_zero();
    for (int32_t d = 0; d < head_dim; d++) {
        f32x16 keys[MAX_WIDE];
        UNROLL for (int b = 0; b < wide; b++) {
            keys[b] = kv_load(type, k + (size_t)b * block + (size_t)d * line);
            fetch_next(&f);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = f32x16_set1(q[r][d]);
            UNROLL for (int b = 0; b < wide; b++) sum[r][b] = f32x16_fma(x, keys[b], sum[r][b]);
        }
    }
    *fetch = f;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int b = 0; b < wide; b++)
        f32x16_storeu(scores + r * ATTENTION_CHUNK + b * ATTENTION_LANES,
                      f32x16_mul(sum[r][b], f32x16_set1(scale)));
}

/* Blocks [blocks.first, blocks.end) of the 16 of a chunk. */
SIMD_INLINE void score_tile(const float *const *q, const uint8_t *k, int32_t type, int32_t head_dim, int rows, int wide,
                            struct key_span blocks, float scale, struct fetch *fetch, float *scores) {
    size_t block = (size_t)head_dim * ATTENTION_LANES * kv_element_bytes(type);
    int32_t b = blocks.first;
    for (; b + wide <= blocks.end; b += wide) {
        score_blocks(q, k + (size_t)b * block, type, head_dim, rows, wide, scale, fetch,
                     scores + b * ATTENTION_LANES);
    }
    for (; b < blocks.end; b++) {
        score_blocks(q, k + (size_t)b * block, type, head_dim, rows, 1, scale, fetch,
                     scores + b * ATTENTION_LANES);
    }
}

/* ---- values: rows x 16-value vectors ---- */
/* sums[r][16 * wide] += p[r][key] * v[key], keys in order. v: the first of the keys, at this tile's first value. */
SIMD_INLINE void value_vectors(const float *const *p, const uint8_t *v, int32_t type, size_t token_bytes, int rows,
                               int wide, struct key_span keys, struct fetch *fetch, float *const *sums) {
    f32x16 sum[TILE_ROWS][MAX_WIDE];
    struct fetch f = *fetch; /* in registers */
    size_t line = ATTENTION_LANES * kv_element_bytes(type);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++)
        sum[r][j] = f32x16_loadu(sums[r] + j * ATTENTION_LANES);
    for (int32_t key = keys.first; key < keys.end; key++) {
        f32x16 values[MAX_WIDE];
        UNROLL for (int j = 0; j < wide; j++) {
            values[j] = kv_load(type, v + (size_t)key * token_bytes + (size_t)j * line);
            fetch_next(&f);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = f32x16_set1(p[r][key]);
            UNROLL for (int j = 0; j < wide; j++) sum[r][j] = f32x16_fma(x, values[j], sum[r][j]);
        }
    }
    *fetch = f;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++)
        f32x16_storeu(sums[r] + j * ATTENTION_LANES, sum[r][j]);
}

SIMD_INLINE void value_tile(const float *const *p, const uint8_t *v, int32_t type, int32_t value_dim, int rows,
                            int wide, struct key_span keys, struct fetch *fetch, float *const *sums) {
    size_t token_bytes = (size_t)value_dim * kv_element_bytes(type);
    for (int32_t d = 0, n; d < value_dim; d += n) {
        float *at[TILE_ROWS];
        UNROLL for (int r = 0; r < rows; r++) at[r] = sums[r] + d;
        const uint8_t *values = v + (size_t)d * kv_element_bytes(type);
        n = value_dim - d >= wide * ATTENTION_LANES ? wide * ATTENTION_LANES : ATTENTION_LANES;
        if (n == ATTENTION_LANES) {
            value_vectors(p, values, type, token_bytes, rows, 1, keys, fetch, at);
        } else {
            value_vectors(p, values, type, token_bytes, rows, wide, keys, fetch, at);
        }
    }
}

/* Tiles for each number of rows and each type: constants become registers. */
typedef void score_fn(const float *const *q, const uint8_t *k, int32_t head_dim, struct key_span blocks, float scale,
                      struct fetch *fetch, float *scores);
typedef void value_fn(const float *const *p, const uint8_t *v, int32_t value_dim, struct key_span keys,
                      struct fetch *fetch, float *const *sums);
#define TILE(ROWS, TYPE)                                                                                               \
    static void score_##ROWS##_##TYPE(const float *const *q, const uint8_t *k, int32_t head_dim,                       \
                                      struct key_span blocks, float scale, struct fetch *fetch, float *scores) {       \
        score_tile(q, k, ASDSL_##TYPE, head_dim, ROWS, WIDE_OF(ROWS), blocks, scale, fetch, scores);                   \
    }                                                                                                                  \
    static void value_##ROWS##_##TYPE(const float *const *p, const uint8_t *v, int32_t value_dim,                      \
                                      struct key_span keys, struct fetch *fetch, float *const *sums) {                 \
        value_tile(p, v, ASDSL_##TYPE, value_dim, ROWS, WIDE_OF(ROWS), keys, fetch, sums);                             \
    }
#define TILES(ROWS) TILE(ROWS, F16) TILE(ROWS, F32)
#define EACH_OF_4(KIND, TYPE) KIND##_1_##TYPE, KIND##_2_##TYPE, KIND##_3_##TYPE, KIND##_4_##TYPE
TILES(1)
TILES(2)
TILES(3)
TILES(4)
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
TILES(5)
TILES(6)
TILES(7)
TILES(8)
#define EACH_ROWS(KIND, TYPE)                                                                                          \
    NULL, EACH_OF_4(KIND, TYPE), KIND##_5_##TYPE, KIND##_6_##TYPE, KIND##_7_##TYPE, KIND##_8_##TYPE
#else
#define EACH_ROWS(KIND, TYPE) NULL, EACH_OF_4(KIND, TYPE)
#endif
static score_fn *const score_tiles[2][TILE_ROWS + 1] = {{EACH_ROWS(score, F16)}, {EACH_ROWS(score, F32)}};
static value_fn *const value_tiles[2][TILE_ROWS + 1] = {{EACH_ROWS(value, F16)}, {EACH_ROWS(value, F32)}};

#endif
