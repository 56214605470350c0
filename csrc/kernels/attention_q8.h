/* attention_q8.h: scores and weighted values over keys and values in q8_0. Included by attention.c alone.
 *
 * Keys and queries are rotated after their positions are in them: each block of attention_rotation dimensions is
 * multiplied by the same Hadamard matrix, which leaves scores as they are (but for the block's length as a factor) and
 * spreads a channel that stands out over all. What is stored of a key is its difference from an anchor, the key of a
 * nearby token (attention_anchor): what keys have in common, as biases, and softmax does not see, takes no part in the
 * rounding. A score is an exact integer dot product times the scales, and the float score of the anchor, once for 64
 * keys. Weights of values take the values' scales and become 0 .. 255 with one factor for a query row and 64 keys;
 * their sums are exact integers too, so levels need not agree on an order, and one FMA chain over the blocks of 64.
 *
 * Mean KL divergence of rounding keys alone, 1,024 tokens of tinyshakespeare in contexts of 512: Qwen2.5-Coder-0.5B,
 * whose keys have large biases, 0.0138 with a scale for 32 dimensions, 0.0084 rotated, 0.0025 with anchors; 1.5B 0.0060
 * rotated, 0.0040 with anchors, 0.0041 with means of the 64 keys before (for which blocks would wait for each other).
 */
#ifndef ASDSL_ATTENTION_Q8_H
#define ASDSL_ATTENTION_Q8_H
#include "attention.h"
#include "attention_float.h"
#include "quantize.h"

enum {
    Q8_HALVES = ATTENTION_LANES / LANES,
    N_BLOCKS = ATTENTION_CHUNK / ATTENTION_ANCHORED, /* of 64 keys: they share an anchor and the factor of weights */
    BLOCK_LANES = ATTENTION_ANCHORED / ATTENTION_LANES,
    WEIGHT_MAX = 255,
    /* A fetch_next for so many loads, a line or half of one: with one for each of AVX2's two, attention of a token took
     * 4 to 5 % longer (heads of 64 in groups of 8, of 128 in groups of 6, 1,024 to 16,384 keys, Zen 3, seen once). */
    FETCH_LOADS = Q8_HALVES < 2 ? Q8_HALVES : 2,
    WEIGHING_FETCHES = 2 / FETCH_LOADS, /* with 16 weights: they take as long as two loads of a tile */
};
SIMD_INLINE bool ends_fetch(int load, int loads) { return (load + 1) % FETCH_LOADS == 0 || load + 1 == loads; }

/* Sums of a tile that registers hold: vectors of LANES keys or dimensions, by number of rows. */
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
enum { Q8_WIDE = 4 };
#define Q8_WIDE_OF(rows) ((rows) <= 4 ? 4 : 2)
#else
enum { Q8_WIDE = 2 };
#define Q8_WIDE_OF(rows) 2
#endif

/* ---- rows to int8 ---- */
/* Signs of the lanes whose index has bit 0, 1, 2, 3. */
#define S INT32_MIN
static const int32_t upper_lanes[4][ATTENTION_LANES] = {
    {0, S, 0, S, 0, S, 0, S, 0, S, 0, S, 0, S, 0, S},
    {0, 0, S, S, 0, 0, S, S, 0, 0, S, S, 0, 0, S, S},
    {0, 0, 0, 0, S, S, S, S, 0, 0, 0, 0, S, S, S, S},
    {0, 0, 0, 0, 0, 0, 0, 0, S, S, S, S, S, S, S, S},
};
#undef S

/* a + b in the lower lane of a pair, a - b in the upper. */
SIMD_INLINE f32x16 add_swapped(f32x16 x, f32x16 swapped, const int32_t *upper) {
    return f32x16_add(swapped, f32x16_from_bits(i32x16_xor(f32x16_bits(x), i32x16_loadu(upper))));
}

/* x[head_dim], zero up to value_dim: times the Hadamard matrix, not normalised. */
static void rotate(float *x, int32_t head_dim) {
    int32_t n = attention_rotation(head_dim), cols = attention_value_dim(head_dim);
    for (int32_t d = 0; d < cols; d += ATTENTION_LANES) {
        f32x16 a = f32x16_loadu(x + d);
        if (n > 1) a = add_swapped(a, f32x16_swap1(a), upper_lanes[0]);
        if (n > 2) a = add_swapped(a, f32x16_swap2(a), upper_lanes[1]);
        if (n > 4) a = add_swapped(a, f32x16_swap4(a), upper_lanes[2]);
        if (n > 8) a = add_swapped(a, f32x16_swap8(a), upper_lanes[3]);
        f32x16_storeu(x + d, a);
    }
    for (int32_t stride = ATTENTION_LANES; stride < n; stride *= 2)
        for (int32_t first = 0; first < cols; first += 2 * stride)
            for (int32_t d = first; d < first + stride; d += ATTENTION_LANES) {
                f32x16 a = f32x16_loadu(x + d), b = f32x16_loadu(x + d + stride);
                f32x16_storeu(x + d, f32x16_add(a, b));
                f32x16_storeu(x + d + stride, f32x16_sub(a, b));
            }
}

/* x[cols] -> q[cols] and its scale; cols a multiple of 16. */
static float round_row(const float *x, int32_t cols, int8_t *q, int32_t *sum) {
    f32x16 largest = f32x16_zero(), poison = f32x16_zero();
    i32x16 total = i32x16_zero();
    for (int32_t d = 0; d < cols; d += ATTENTION_LANES) {
        f32x16 a = f32x16_loadu(x + d);
        largest = f32x16_max(f32x16_abs(a), largest);
        poison = f32x16_add(poison, f32x16_sub(a, a));
    }
    float inverse, scale = scales_of(f32x16_hmax(largest), f32x16_sum(poison), &inverse);
    for (int32_t d = 0; d < cols; d += ATTENTION_LANES) {
        i32x16 a = to_int8(f32x16_loadu(x + d), f32x16_set1(inverse));
        i32x16_store_i8(q + d, a);
        total = i32x16_add(total, a);
    }
    *sum = i32x16_sum(total);
    return scale;
}

/* A head's row of x, as far as value_dim. */
static void load_head(const float *x, int32_t head_dim, float *to) {
    for (int32_t d = 0; d < head_dim; d += ATTENTION_LANES) {
        int32_t left = head_dim - d;
        f32x16_storeu(to + d, f32x16_load_n(x + d, left < ATTENTION_LANES ? left : ATTENTION_LANES));
    }
}

static float *query_floats(const struct attention_query *query, int32_t head_dim) {
    return (float *)(void *)((uint8_t *)(uintptr_t)query + attention_query_floats_at(head_dim));
}

static void prepare_query(const float *x, int32_t head_dim, float scale, struct attention_query *query) {
    float *head = query_floats(query, head_dim);
    int32_t sum;
    load_head(x, head_dim, head);
    rotate(head, head_dim);
    query->scale = scale / (float)attention_rotation(head_dim);
    query->factor = round_row(head, attention_value_dim(head_dim), query->q, &sum) * query->scale;
    query->minus128 = -128 * sum;
}

/* ---- anchors ---- */
/* The upper halves of floats. */
static void store_anchor(const float *head, int32_t value_dim, uint16_t *anchor) {
    for (int32_t d = 0; d < value_dim; d += ATTENTION_LANES) {
        i32x16 bits = f32x16_bits(f32x16_loadu(head + d));
        i32x16_store_i16((int16_t *)(void *)(anchor + d), i32x16_shr(bits, 16));
    }
}

static uint16_t *anchor_of(const struct kv_layout *layout, const uint8_t *keys, int32_t block) {
    return (uint16_t *)(void *)((uint8_t *)(uintptr_t)keys + layout->k_anchors) +
           (size_t)block * (size_t)layout->value_dim;
}

/* Scores of the anchors of keys that a row sees. */
SIMD_INLINE void score_blocks_of_anchors(const struct kv_layout *layout, const uint8_t *keys, int first, int end,
                                         struct attention_query *query) {
    const float *q = query_floats(query, layout->head_dim);
    const uint16_t *anchors = anchor_of(layout, keys, 0);
    f32x16 sum[N_BLOCKS];
    for (int b = 0; b < N_BLOCKS; b++) sum[b] = f32x16_zero();
    for (int32_t d = 0; d < layout->value_dim; d += ATTENTION_LANES) {
        f32x16 x = f32x16_loadu(q + d);
        for (int b = first; b < end; b++) {
            sum[b] = f32x16_fma(x, f32x16_load_bf16(anchors + (size_t)b * (size_t)layout->value_dim + d), sum[b]);
        }
    }
    f32x16_sum4(sum, query->bases);
    for (int b = 0; b < N_BLOCKS; b++) query->bases[b] *= query->scale;
}

static void score_anchors(const struct kv_layout *layout, const uint8_t *keys, int32_t chunk, struct key_span span,
                          struct attention_query *query) {
    int first = span.first / ATTENTION_ANCHORED, end = (span.end + ATTENTION_ANCHORED - 1) / ATTENTION_ANCHORED;
    if (first == 0 && end == N_BLOCKS) {
        score_blocks_of_anchors(layout, keys, 0, N_BLOCKS, query);
    } else {
        score_blocks_of_anchors(layout, keys, first, end, query);
    }
    if (span.first >= ATTENTION_LANES) return;
    f32x16_storeu(query->first, f32x16_set1(query->bases[0]));
    if (chunk == 0) query->first[0] = 0;
}

/* keys: of the head in position's chunk. The token of an anchor comes first of all that refer to it. */
static void append_key_q8(const struct kv_layout *layout, const float *k, int32_t position, uint8_t *keys) {
    float head[ATTENTION_MAX_DIM];
    int8_t q[ATTENTION_MAX_DIM];
    int32_t i = position % ATTENTION_CHUNK, quads = attention_quads(layout->head_dim), unused;
    uint8_t *to = keys + ((size_t)(i / ATTENTION_LANES * quads) * ATTENTION_LANES + (size_t)(i % ATTENTION_LANES)) * 4;
    uint16_t *anchor = anchor_of(layout, keys, i / ATTENTION_ANCHORED);
    load_head(k, layout->head_dim, head);
    rotate(head, layout->head_dim);
    if (attention_anchor(position) == position) store_anchor(head, layout->value_dim, anchor);
    for (int32_t d = 0; position > 0 && d < layout->value_dim; d += ATTENTION_LANES) {
        f32x16_storeu(head + d, f32x16_sub(f32x16_loadu(head + d), f32x16_load_bf16(anchor + d)));
    }
    ((float *)(void *)(keys + layout->k_scales))[i] = round_row(head, layout->value_dim, q, &unused);
    for (int32_t w = 0; w < quads; w++) memcpy(to + (size_t)w * ATTENTION_LANES * 4, q + 4 * w, 4);
}

/* Token i of a chunk; values: of the head in the chunk. */
static void append_value_q8(const struct kv_layout *layout, const float *v, int32_t i, uint8_t *values) {
    float head[ATTENTION_MAX_DIM];
    int8_t q[ATTENTION_MAX_DIM];
    int32_t unused, order = (i & 1) << 1 | (i & 2) >> 1;
    uint8_t *to = values + (size_t)(i / 4) * (size_t)layout->value_dim * 4 + order;
    load_head(v, layout->head_dim, head);
    ((float *)(void *)(values + layout->v_scales))[i] = round_row(head, layout->value_dim, q, &unused);
    for (int32_t d = 0; d < layout->value_dim; d++) to[4 * d] = (uint8_t)q[d];
}

/* ---- scores: rows x vectors of LANES keys ---- */
/* k: the part of the vector of key `first`; vectors of the same half lie a block apart. scores, k_scales: of a chunk.
 */
SIMD_INLINE void score_vectors_q8(const struct attention_query *const *query, const uint8_t *k, const float *k_scales,
                                  int32_t quads, int rows, int wide, int32_t first, struct fetch *fetch,
                                  float *scores) {
    dot8 sum[ATTENTION_TILE_ROWS][Q8_WIDE];
    struct fetch f = *fetch;
    size_t block = (size_t)quads * ATTENTION_LANES * 4;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int b = 0; b < wide; b++)
        sum[r][b] = dot8_start(&query[r]->minus128);
    for (int32_t w = 0; w < quads; w++) {
        w8 keys[Q8_WIDE];
        UNROLL for (int b = 0; b < wide; b++) {
            keys[b] = w8_load(k + (size_t)b * block + (size_t)w * ATTENTION_LANES * 4);
            if (ends_fetch(b, wide)) fetch_next(&f);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            av x = av_load(query[r]->q + 4 * w);
            UNROLL for (int b = 0; b < wide; b++) sum[r][b] = dot8_add(sum[r][b], keys[b], x);
        }
    }
    *fetch = f;
    UNROLL for (int b = 0; b < wide; b++) {
        int32_t at = first + b * ATTENTION_LANES;
        fv scale = fv_load(k_scales + at);
        UNROLL for (int r = 0; r < rows; r++) {
            fv factor = fv_mul(scale, fv_set1(query[r]->factor));
            fv base = b == 0 && at == 0 ? fv_load(query[r]->first) : fv_set1(query[r]->bases[at / ATTENTION_ANCHORED]);
            fv_store(scores + r * ATTENTION_CHUNK + at, fv_fma(fv_from_i32(dot8_sum(sum[r][b])), factor, base));
        }
    }
}

SIMD_INLINE void score_tile_q8(const struct attention_query *const *query, const uint8_t *k, const float *k_scales,
                               int32_t head_dim, int rows, struct key_span blocks, struct fetch *fetch, float *scores) {
    int32_t quads = attention_quads(head_dim);
    size_t block = (size_t)quads * ATTENTION_LANES * 4;
    for (int32_t b = blocks.first, n; b < blocks.end; b += n) {
        n = blocks.end - b >= Q8_WIDE_OF(rows) ? Q8_WIDE_OF(rows) : 1;
        for (int half = 0; half < Q8_HALVES; half++) {
            const uint8_t *keys = k + (size_t)b * block + (size_t)half * LANES * 4;
            int32_t at = b * ATTENTION_LANES + half * LANES;
            if (n == 1) {
                score_vectors_q8(query, keys, k_scales, quads, rows, 1, at, fetch, scores);
            } else {
                score_vectors_q8(query, keys, k_scales, quads, rows, Q8_WIDE_OF(rows), at, fetch, scores);
            }
        }
    }
}

/* ---- weights ---- */
/* Scales of the values that a row sees, 0 for the others; poison: 0, or NaN where one of the values was not finite. */
struct value_scales {
    struct key_span keys;
    float *masked; /* (ATTENTION_CHUNK) */
    float poison;
};

static void see_scales(struct value_scales *v, const float *v_scales, struct key_span keys) {
    f32x16 poison = f32x16_zero();
    int32_t from = keys.first / ATTENTION_LANES * ATTENTION_LANES;
    for (int32_t i = from; i < keys.end; i += ATTENTION_LANES) {
        f32x16 s = f32x16_loadu(v_scales + i);
        if (keys.first > i) s = f32x16_select(mask16_first(keys.first - i), f32x16_zero(), s);
        if (keys.end - i < ATTENTION_LANES) s = f32x16_select(mask16_first(keys.end - i), s, f32x16_zero());
        f32x16_storeu(v->masked + i, s);
        poison = f32x16_add(poison, f32x16_sub(s, s));
    }
    v->keys = keys;
    v->poison = f32x16_sum(poison);
}

static bool is_whole(struct key_span keys) { return keys.first == 0 && keys.end == ATTENTION_CHUNK; }

/* Scores -> 2^(score - m) times the values' scales, in place. top[N_BLOCKS]: the largest of each 64 keys. Returns the sum
 * of 2^(score - m). [from, end): whole vectors of a chunk. */
SIMD_INLINE float weigh_keys(int32_t from, int32_t end, const float *v_scales, float m, struct fetch *fetch,
                             float *scores, float *top) {
    struct fetch f = *fetch;
    f32x16 sum = f32x16_zero(), max = f32x16_set1(m), largest[N_BLOCKS];
    UNROLL for (int b = 0; b < N_BLOCKS; b++) {
        largest[b] = f32x16_zero();
        UNROLL for (int j = 0; j < BLOCK_LANES; j++) {
            int32_t i = b * ATTENTION_ANCHORED + j * ATTENTION_LANES;
            if (i < from || i >= end) continue;
            UNROLL for (int l = 0; l < WEIGHING_FETCHES; l++) fetch_next(&f);
            f32x16 p = f32x16_exp2(f32x16_sub(f32x16_loadu(scores + i), max));
            f32x16 w = f32x16_mul(p, f32x16_loadu(v_scales + i));
            sum = f32x16_add(sum, p);
            largest[b] = f32x16_max(w, largest[b]);
            f32x16_storeu(scores + i, w);
        }
    }
    *fetch = f;
    f32x16_hmax4(largest, top);
    return f32x16_sum(sum);
}

static float weigh_row(struct key_span keys, const float *v_scales, float m, struct fetch *fetch, float *scores,
                       float *top) {
    if (is_whole(keys)) return weigh_keys(0, ATTENTION_CHUNK, v_scales, m, fetch, scores, top);
    return weigh_keys(keys.first / ATTENTION_LANES * ATTENTION_LANES, keys.end, v_scales, m, fetch, scores, top);
}

/* Of n rows: back[n][N_BLOCKS], the largest weights, become what sums of integers are multiplied by; inverse[] what
 * weights are multiplied by, 0 where it would overflow. Both have room for whole vectors. */
static void factors_of_weights(int32_t n, float *back, float *inverse) {
    for (int32_t i = 0; i < n * N_BLOCKS; i += ATTENTION_LANES) {
        f32x16 top = f32x16_loadu(back + i), max = f32x16_set1(WEIGHT_MAX);
        mask16 vanishes = f32x16_lt(top, f32x16_set1(0x1p-118f));
        f32x16_storeu(inverse + i, f32x16_select(vanishes, f32x16_zero(), f32x16_div(max, top)));
        f32x16_storeu(back + i, f32x16_div(top, max));
    }
}

/* Weights of a row to integers, the largest of 64 keys being WEIGHT_MAX. */
static void round_row_of_weights(struct key_span keys, const float *weights, const float *inverse, weight8u *to) {
    if (is_whole(keys)) {
        for (int32_t i = 0; i < ATTENTION_CHUNK; i += ATTENTION_ANCHORED) {
            i32x16 rounded[BLOCK_LANES];
            f32x16 scale = f32x16_set1(inverse[i / ATTENTION_ANCHORED]);
            UNROLL for (int j = 0; j < BLOCK_LANES; j++)
                rounded[j] = f32x16_to_i32(f32x16_mul(f32x16_loadu(weights + i + j * ATTENTION_LANES), scale));
            i32x16_store4_u8(to + i, rounded);
        }
        return;
    }
    for (int32_t i = keys.first / ATTENTION_LANES * ATTENTION_LANES; i < keys.end; i += ATTENTION_LANES) {
        f32x16 scale = f32x16_set1(inverse[i / ATTENTION_ANCHORED]);
        i32x16_store_u8(to + i, f32x16_to_i32(f32x16_mul(f32x16_loadu(weights + i), scale)));
    }
}

/* ---- values: rows x vectors of LANES dimensions ---- */
/* sums[r][wide vectors] += the block's keys, quads of them counted from the chunk's first. */
SIMD_INLINE void value_block_q8(const weight8u *weights, const uint8_t *v, size_t quad_bytes, int rows, int wide,
                                int32_t first, int32_t end, const float *back, struct fetch *fetch,
                                float *const *sums) {
    iv sum[ATTENTION_TILE_ROWS][Q8_WIDE];
    struct fetch f = *fetch;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++) sum[r][j] = iv_zero();
    for (int32_t i = first; i < end; i++) {
        b8u values[Q8_WIDE];
        UNROLL for (int j = 0; j < wide; j++) {
            values[j] = b8u_load(v + (size_t)i * quad_bytes + (size_t)(j * LANES * 4));
            if (ends_fetch(j, wide)) fetch_next(&f);
        }
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++)
            sum[r][j] = dot8u_add(sum[r][j], values[j], weights + r * ATTENTION_CHUNK + 4 * i);
    }
    *fetch = f;
    int32_t block = 4 * first / ATTENTION_ANCHORED;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++) {
        float *to = sums[r] + j * LANES;
        fv_store(to, fv_fma(fv_from_i32(sum[r][j]), fv_set1(back[r * N_BLOCKS + block]), fv_load(to)));
    }
}

SIMD_INLINE void value_vectors_q8(const weight8u *weights, const uint8_t *v, size_t quad_bytes, int rows, int wide,
                                  struct key_span quads, const float *back, struct fetch *fetch,
                                  float *const *sums) {
    const int32_t in_block = ATTENTION_ANCHORED / 4;
    for (int32_t i = quads.first, next; i < quads.end; i = next) {
        next = (i / in_block + 1) * in_block;
        if (next > quads.end) next = quads.end;
        value_block_q8(weights, v, quad_bytes, rows, wide, i, next, back, fetch, sums);
    }
}

SIMD_INLINE void value_tile_q8(const weight8u *weights, const uint8_t *v, int32_t value_dim, int rows,
                               struct key_span quads, const float *back, struct fetch *fetch, float *const *sums) {
    size_t quad_bytes = (size_t)value_dim * 4;
    for (int32_t d = 0, n; d < value_dim; d += n * LANES) {
        float *at[ATTENTION_TILE_ROWS];
        UNROLL for (int r = 0; r < rows; r++) at[r] = sums[r] + d;
        n = value_dim - d >= Q8_WIDE_OF(rows) * LANES ? Q8_WIDE_OF(rows) : 1;
        if (n == 1) {
            value_vectors_q8(weights, v + 4 * (size_t)d, quad_bytes, rows, 1, quads, back, fetch, at);
        } else {
            value_vectors_q8(weights, v + 4 * (size_t)d, quad_bytes, rows, Q8_WIDE_OF(rows), quads, back, fetch, at);
        }
    }
}

/* Tiles for each number of rows: constants become registers. */
typedef void score_q8_fn(const struct attention_query *const *query, const uint8_t *k, const float *k_scales,
                         int32_t head_dim, struct key_span blocks, struct fetch *fetch, float *scores);
typedef void value_q8_fn(const weight8u *weights, const uint8_t *v, int32_t value_dim, struct key_span quads,
                         const float *back, struct fetch *fetch, float *const *sums);
#define TILE_Q8(ROWS)                                                                                                  \
    static void score_##ROWS##_Q8(const struct attention_query *const *query, const uint8_t *k, const float *k_scales, \
                                  int32_t head_dim, struct key_span blocks, struct fetch *fetch, float *scores) {      \
        score_tile_q8(query, k, k_scales, head_dim, ROWS, blocks, fetch, scores);                                      \
    }                                                                                                                  \
    static void value_##ROWS##_Q8(const weight8u *weights, const uint8_t *v, int32_t value_dim, struct key_span quads, \
                                  const float *back, struct fetch *fetch, float *const *sums) {                        \
        value_tile_q8(weights, v, value_dim, ROWS, quads, back, fetch, sums);                                          \
    }
TILE_Q8(1)
TILE_Q8(2)
TILE_Q8(3)
TILE_Q8(4)
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
TILE_Q8(5)
TILE_Q8(6)
TILE_Q8(7)
TILE_Q8(8)
#endif
static score_q8_fn *const score_tiles_q8[TILE_ROWS + 1] = {EACH_ROWS(score, Q8)};
static value_q8_fn *const value_tiles_q8[TILE_ROWS + 1] = {EACH_ROWS(value, Q8)};

#endif
