/* attention.c: scores, softmax and weighted values of query rows over the chunks of a cache, and appending to it.
 *
 * A tile is a few query rows that share every load of keys or values. Each sum is one FMA chain, over head_dim for a
 * score and over keys in their order for a value: results do not depend on the tile. attention.h has the layout, the
 * cut into items and why any batching gives the same bits.
 */
#include "attention.h"
#include "simd.h"

/* Sums of a tile that registers hold, by number of rows: blocks of 16 keys, and vectors of 16 values. All divide 16. */
#if defined(__AVX512F__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
enum { WIDE_1 = 8, WIDE_2 = 4, WIDE_3 = 4, WIDE_4 = 4 }; /* of 32 registers */
#else
enum { WIDE_1 = 4, WIDE_2 = 2, WIDE_3 = 1, WIDE_4 = 1 }; /* of 16 half as wide, or 32 a quarter as wide */
#endif
enum { TILE_ROWS = ATTENTION_TILE_ROWS, MAX_WIDE = 8 };

SIMD_INLINE f32x16 kv_load(int32_t type, const uint8_t *at) {
    return type == ASDSL_F32 ? f32x16_loadu((const float *)(const void *)at)
                             : f32x16_load_f16((const uint16_t *)(const void *)at);
}

/* ---- scores: rows x 16-key blocks ---- */
/* q[rows][head_dim] times `wide` blocks of keys -> scores[rows][ATTENTION_CHUNK]. */
SIMD_INLINE void score_blocks(const float *const *q, const uint8_t *k, int32_t type, int32_t head_dim, int rows,
                              int wide, float *scores) {
    f32x16 sum[TILE_ROWS][MAX_WIDE];
    size_t line = ATTENTION_LANES * kv_element_bytes(type), block = (size_t)head_dim * line;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int b = 0; b < wide; b++) sum[r][b] = f32x16_zero();
    for (int32_t d = 0; d < head_dim; d++) {
        f32x16 keys[MAX_WIDE];
        UNROLL for (int b = 0; b < wide; b++) keys[b] = kv_load(type, k + (size_t)b * block + (size_t)d * line);
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = f32x16_set1(q[r][d]);
            UNROLL for (int b = 0; b < wide; b++) sum[r][b] = f32x16_fma(x, keys[b], sum[r][b]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int b = 0; b < wide; b++)
        f32x16_storeu(scores + r * ATTENTION_CHUNK + b * ATTENTION_LANES, sum[r][b]);
}

SIMD_INLINE void score_tile(const float *const *q, const uint8_t *k, int32_t type, int32_t head_dim, int rows, int wide,
                            struct key_span blocks, float *scores) {
    size_t block = (size_t)head_dim * ATTENTION_LANES * kv_element_bytes(type);
    int32_t b = blocks.first;
    for (; b + wide <= blocks.end; b += wide) {
        score_blocks(q, k + (size_t)b * block, type, head_dim, rows, wide, scores + b * ATTENTION_LANES);
    }
    for (; b < blocks.end; b++) {
        score_blocks(q, k + (size_t)b * block, type, head_dim, rows, 1, scores + b * ATTENTION_LANES);
    }
}

/* ---- values: rows x 16-value vectors ---- */
/* sums[r][16 * wide] += p[r][key] * v[key], keys in order. v: the first of the keys, at this tile's first value. */
SIMD_INLINE void value_vectors(const float *const *p, const uint8_t *v, int32_t type, size_t token_bytes, int rows,
                               int wide, struct key_span keys, float *const *sums) {
    f32x16 sum[TILE_ROWS][MAX_WIDE];
    size_t line = ATTENTION_LANES * kv_element_bytes(type);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++)
        sum[r][j] = f32x16_loadu(sums[r] + j * ATTENTION_LANES);
    for (int32_t key = keys.first; key < keys.end; key++) {
        f32x16 values[MAX_WIDE];
        UNROLL for (int j = 0; j < wide; j++)
            values[j] = kv_load(type, v + (size_t)key * token_bytes + (size_t)j * line);
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = f32x16_set1(p[r][key]);
            UNROLL for (int j = 0; j < wide; j++) sum[r][j] = f32x16_fma(x, values[j], sum[r][j]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < wide; j++)
        f32x16_storeu(sums[r] + j * ATTENTION_LANES, sum[r][j]);
}

SIMD_INLINE void value_tile(const float *const *p, const uint8_t *v, int32_t type, int32_t value_dim, int rows, int wide,
                            struct key_span keys, float *const *sums) {
    size_t token_bytes = (size_t)value_dim * kv_element_bytes(type);
    for (int32_t d = 0, n; d < value_dim; d += n) {
        float *at[TILE_ROWS];
        UNROLL for (int r = 0; r < rows; r++) at[r] = sums[r] + d;
        const uint8_t *values = v + (size_t)d * kv_element_bytes(type);
        n = value_dim - d >= wide * ATTENTION_LANES ? wide * ATTENTION_LANES : ATTENTION_LANES;
        if (n == ATTENTION_LANES) {
            value_vectors(p, values, type, token_bytes, rows, 1, keys, at);
        } else {
            value_vectors(p, values, type, token_bytes, rows, wide, keys, at);
        }
    }
}

/* Tiles for each number of rows and each type: constants become registers. */
typedef void score_fn(const float *const *q, const uint8_t *k, int32_t head_dim, struct key_span blocks, float *scores);
typedef void value_fn(const float *const *p, const uint8_t *v, int32_t value_dim, struct key_span keys,
                      float *const *sums);
#define TILE(ROWS, TYPE)                                                                                               \
    static void score_##ROWS##_##TYPE(const float *const *q, const uint8_t *k, int32_t head_dim,                       \
                                      struct key_span blocks, float *scores) {                                         \
        score_tile(q, k, ASDSL_##TYPE, head_dim, ROWS, WIDE_##ROWS, blocks, scores);                                   \
    }                                                                                                                  \
    static void value_##ROWS##_##TYPE(const float *const *p, const uint8_t *v, int32_t value_dim,                      \
                                      struct key_span keys, float *const *sums) {                                      \
        value_tile(p, v, ASDSL_##TYPE, value_dim, ROWS, WIDE_##ROWS, keys, sums);                                      \
    }
TILE(1, F16)
TILE(2, F16)
TILE(3, F16)
TILE(4, F16)
TILE(1, F32)
TILE(2, F32)
TILE(3, F32)
TILE(4, F32)
#define TILES(kind)                                                                                                    \
    {                                                                                                                  \
        {NULL, kind##_1_F16, kind##_2_F16, kind##_3_F16, kind##_4_F16},                                                \
        {NULL, kind##_1_F32, kind##_2_F32, kind##_3_F32, kind##_4_F32},                                                \
    }
static score_fn *const score_tiles[2][TILE_ROWS + 1] = TILES(score);
static value_fn *const value_tiles[2][TILE_ROWS + 1] = TILES(value);

/* ---- one chunk ---- */
/* The rows of a tile: queries, what they see of the present chunk, where their partial goes. */
struct rows {
    int32_t n;
    const float *q[TILE_ROWS];
    struct key_span keys[TILE_ROWS];
    float *partial[TILE_ROWS];
};

/* Scaled, capped and masked scores -> weights exp(score - max) in place. m and l of the partial. */
static void softmax_row(const struct attention_job *job, struct key_span keys, float *scores, float *partial) {
    f32x16 scale = f32x16_set1(job->scale), cap = f32x16_set1(job->softcap), hidden = f32x16_set1(-INFINITY);
    f32x16 largest = hidden, sum = f32x16_zero();
    int32_t from = keys.first / ATTENTION_LANES * ATTENTION_LANES;
    for (int32_t i = from; i < keys.end; i += ATTENTION_LANES) {
        f32x16 s = f32x16_mul(f32x16_loadu(scores + i), scale);
        if (job->softcap > 0) s = f32x16_mul(cap, f32x16_tanh(f32x16_div(s, cap)));
        if (keys.first > i) s = f32x16_select(mask16_first(keys.first - i), hidden, s);
        if (keys.end - i < ATTENTION_LANES) s = f32x16_select(mask16_first(keys.end - i), s, hidden);
        f32x16_storeu(scores + i, s);
        largest = f32x16_max(largest, s);
    }
    float m = f32x16_hmax(largest);
    for (int32_t i = from; i < keys.end; i += ATTENTION_LANES) {
        f32x16 p = f32x16_exp(f32x16_sub(f32x16_loadu(scores + i), f32x16_set1(m)));
        f32x16_storeu(scores + i, p);
        sum = f32x16_add(sum, p);
    }
    partial[0] = m;
    partial[1] = f32x16_sum(sum);
}

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

/* Keys that all rows see go through one tile; what some see before and after, row by row: each sums in key order. */
static void weigh_values(const struct attention_job *job, const struct rows *rows, const uint8_t *v, float *weights) {
    value_fn *const *tiles = value_tiles[job->layout->v_type == ASDSL_F32];
    int32_t value_dim = job->layout->value_dim;
    const float *p[TILE_ROWS];
    float *sums[TILE_ROWS];
    struct key_span shared = rows->keys[0];
    for (int32_t r = 0; r < rows->n; r++) {
        p[r] = weights + r * ATTENTION_CHUNK;
        sums[r] = rows->partial[r] + ATTENTION_LANES;
        memset(sums[r], 0, sizeof(float) * (size_t)value_dim);
        shared.first = larger(shared.first, rows->keys[r].first);
        shared.end = smaller(shared.end, rows->keys[r].end);
    }
    shared.end = larger(shared.first, shared.end);
    for (int32_t r = 0; r < rows->n; r++) {
        struct key_span before = {rows->keys[r].first, smaller(rows->keys[r].end, shared.first)};
        if (before.first < before.end) tiles[1](p + r, v, value_dim, before, sums + r);
    }
    if (shared.first < shared.end) tiles[rows->n](p, v, value_dim, shared, sums);
    for (int32_t r = 0; r < rows->n; r++) {
        struct key_span after = {larger(rows->keys[r].first, shared.end), rows->keys[r].end};
        if (after.first < after.end) tiles[1](p + r, v, value_dim, after, sums + r);
    }
}

/* The partials of a tile over one chunk. Every row sees some of it. */
static void attend_tile(const struct attention_job *job, const struct rows *rows, const uint8_t *head, float *scores) {
    const struct kv_layout *layout = job->layout;
    struct key_span blocks = {INT32_MAX, 0};
    for (int32_t r = 0; r < rows->n; r++) {
        blocks.first = smaller(blocks.first, rows->keys[r].first / ATTENTION_LANES);
        blocks.end = larger(blocks.end, (rows->keys[r].end + ATTENTION_LANES - 1) / ATTENTION_LANES);
    }
    score_tiles[layout->k_type == ASDSL_F32][rows->n](rows->q, head, layout->head_dim, blocks, scores);
    for (int32_t r = 0; r < rows->n; r++) {
        softmax_row(job, rows->keys[r], scores + r * ATTENTION_CHUNK, rows->partial[r]);
    }
    weigh_values(job, rows, head + layout->k_bytes, scores);
}

/* Where the partial of a row of an item goes, rows counted through its tokens' heads. */
typedef float *partial_of(const struct attention_job *job, int32_t token, int32_t head, int32_t row, int32_t chunk,
                          float *scratch);

static void attend_chunk(const struct attention_job *job, const struct attention_item *item, int32_t chunk,
                         float *scores, partial_of *partial, float *scratch) {
    const uint8_t *head = kv_head(job, chunk, item->kv_head);
    struct rows rows = {0};
    int32_t n_rows = item->n_tokens * item->n_heads;
    for (int32_t row = 0; row < n_rows; row++) {
        int32_t t = item->token + row / item->n_heads, h = item->head + row % item->n_heads;
        struct key_span keys = attention_span(job, t, chunk);
        if (keys.first < keys.end) {
            rows.q[rows.n] = job->q + (size_t)t * job->q_stride + (size_t)h * (size_t)job->layout->head_dim;
            rows.keys[rows.n] = keys;
            rows.partial[rows.n++] = partial(job, t, h, row, chunk, scratch);
        }
        if (rows.n == TILE_ROWS || (row == n_rows - 1 && rows.n > 0)) {
            attend_tile(job, &rows, head, scores);
            rows.n = 0;
        }
    }
}

/* ---- partials into results ---- */
static float exp_of(float x) {
    float lanes[ATTENTION_LANES];
    f32x16_storeu(lanes, f32x16_exp(f32x16_set1(x)));
    return lanes[0];
}

/* state = state and partial, as if both had been one stretch of keys. */
static void merge_partial(const struct attention_job *job, float *state, const float *partial) {
    float m = partial[0] > state[0] ? partial[0] : state[0];
    float ours = exp_of(state[0] - m), theirs = exp_of(partial[0] - m);
    f32x16 a = f32x16_set1(ours), b = f32x16_set1(theirs);
    state[0] = m;
    state[1] = state[1] * ours + partial[1] * theirs;
    for (int32_t d = ATTENTION_LANES; d < ATTENTION_LANES + job->layout->value_dim; d += ATTENTION_LANES) {
        f32x16 x = f32x16_mul(f32x16_loadu(partial + d), b);
        f32x16_storeu(state + d, f32x16_fma(f32x16_loadu(state + d), a, x));
    }
}

/* The next chunk of a row in order; the first that it sees becomes its state. */
static void fold_partial(const struct attention_job *job, float *state, const float *partial, bool *begun) {
    if (*begun) {
        merge_partial(job, state, partial);
    } else {
        memcpy(state, partial, sizeof *state * attention_partial_floats(job->layout->head_dim));
    }
    *begun = true;
}

static void finish_row(const struct attention_job *job, const float *state, int32_t t, int32_t h) {
    float *out = job->out + (size_t)t * job->out_stride + (size_t)h * (size_t)job->layout->head_dim;
    f32x16 l = f32x16_set1(state[1]);
    for (int32_t d = 0; d < job->layout->head_dim; d += ATTENTION_LANES) {
        int32_t left = job->layout->head_dim - d;
        f32x16 y = f32x16_div(f32x16_loadu(state + ATTENTION_LANES + d), l);
        f32x16_store_n(out + d, y, left < ATTENTION_LANES ? left : ATTENTION_LANES);
    }
}

static float *shared_partial(const struct attention_job *job, int32_t token, int32_t head, int32_t row, int32_t chunk,
                             float *scratch) {
    size_t index = ((size_t)token * (size_t)job->n_heads + (size_t)head) * (size_t)attention_n_chunks(job);
    (void)row, (void)scratch;
    return job->partials + (index + (size_t)chunk) * attention_partial_floats(job->layout->head_dim);
}

static float *scratch_partial(const struct attention_job *job, int32_t token, int32_t head, int32_t row, int32_t chunk,
                              float *scratch) {
    (void)token, (void)head, (void)chunk;
    return scratch + (size_t)row * attention_partial_floats(job->layout->head_dim);
}

/* All chunks of an item one after the other. */
static void attend_item(const struct attention_job *job, const struct attention_item *item, float *scores) {
    size_t floats = attention_partial_floats(job->layout->head_dim);
    float *partials = scores + TILE_ROWS * ATTENTION_CHUNK, *states = partials + ATTENTION_ROWS * floats;
    bool begun[ATTENTION_ROWS] = {false};
    int32_t n_chunks = (job->position + item->token + item->n_tokens - 1) / ATTENTION_CHUNK + 1;
    int32_t n_rows = item->n_tokens * item->n_heads;
    for (int32_t chunk = 0; chunk < n_chunks; chunk++) {
        attend_chunk(job, item, chunk, scores, scratch_partial, partials);
        for (int32_t row = 0; row < n_rows; row++) {
            struct key_span keys = attention_span(job, item->token + row / item->n_heads, chunk);
            if (keys.first == keys.end) continue;
            fold_partial(job, states + (size_t)row * floats, partials + (size_t)row * floats, &begun[row]);
        }
    }
    for (int32_t row = 0; row < n_rows; row++) {
        finish_row(job, states + (size_t)row * floats, item->token + row / item->n_heads,
                   item->head + row % item->n_heads);
    }
}

/* ---- slots ---- */
attention_fn KERNEL(attention_chunks), KERNEL(attention_merge);
kv_append_fn KERNEL(kv_append);

void KERNEL(attention_chunks)(const struct attention_job *job, int32_t begin, int32_t end, void *scratch) {
    int32_t n_chunks = attention_n_chunks(job);
    for (int32_t i = begin; i < end; i++) {
        if (job->partials) {
            struct attention_item item = attention_item(job, i / n_chunks);
            attend_chunk(job, &item, i % n_chunks, scratch, shared_partial, NULL);
        } else {
            struct attention_item item = attention_item(job, i);
            attend_item(job, &item, scratch);
        }
    }
}

/* Rows [begin, end) of all tokens' heads. */
void KERNEL(attention_merge)(const struct attention_job *job, int32_t begin, int32_t end, void *scratch) {
    for (int32_t row = begin; row < end; row++) {
        int32_t t = row / job->n_heads, h = row % job->n_heads, n_chunks = attention_n_chunks(job);
        float *state = scratch;
        bool begun = false;
        for (int32_t chunk = 0; chunk < n_chunks; chunk++) {
            struct key_span keys = attention_span(job, t, chunk);
            if (keys.first == keys.end) continue;
            fold_partial(job, state, shared_partial(job, t, h, 0, chunk, NULL), &begun);
        }
        finish_row(job, state, t, h);
    }
}

static void append_key(const struct kv_layout *layout, const float *k, int32_t lane, uint8_t *block) {
    for (int32_t d = 0; d < layout->head_dim; d += ATTENTION_LANES) {
        int32_t n = layout->head_dim - d < ATTENTION_LANES ? layout->head_dim - d : ATTENTION_LANES;
        f32x16 x = f32x16_load_n(k + d, n);
        if (layout->k_type == ASDSL_F32) {
            float *to = (float *)(void *)block + (size_t)d * ATTENTION_LANES + lane;
            for (int32_t i = 0; i < n; i++) to[i * ATTENTION_LANES] = k[d + i];
        } else {
            uint16_t half[ATTENTION_LANES], *to = (uint16_t *)(void *)block + (size_t)d * ATTENTION_LANES + lane;
            f32x16_store_f16(half, x);
            for (int32_t i = 0; i < n; i++) to[i * ATTENTION_LANES] = half[i];
        }
    }
}

static void append_value(const struct kv_layout *layout, const float *v, uint8_t *to) {
    for (int32_t d = 0; d < layout->value_dim; d += ATTENTION_LANES) {
        int32_t left = layout->head_dim - d;
        f32x16 x = f32x16_load_n(v + d, left < ATTENTION_LANES ? left : ATTENTION_LANES);
        if (layout->v_type == ASDSL_F32) {
            f32x16_storeu((float *)(void *)to + d, x);
        } else {
            f32x16_store_f16((uint16_t *)(void *)to + d, x);
        }
    }
}

/* Tokens [begin, end) of the pass. */
void KERNEL(kv_append)(const struct attention_job *job, int32_t begin, int32_t end) {
    const struct kv_layout *layout = job->layout;
    size_t block_bytes = (size_t)layout->head_dim * ATTENTION_LANES * kv_element_bytes(layout->k_type);
    size_t token_bytes = (size_t)layout->value_dim * kv_element_bytes(layout->v_type);
    for (int32_t t = begin; t < end; t++) {
        int32_t position = job->position + t, i = position % ATTENTION_CHUNK;
        for (int32_t h = 0; h < job->n_kv_heads; h++) {
            uint8_t *head = kv_head(job, position / ATTENTION_CHUNK, h);
            size_t column = (size_t)h * (size_t)layout->head_dim;
            append_key(layout, job->k + (size_t)t * job->k_stride + column, i % ATTENTION_LANES,
                       head + (size_t)(i / ATTENTION_LANES) * block_bytes);
            append_value(layout, job->v + (size_t)t * job->v_stride + column,
                         head + layout->k_bytes + (size_t)i * token_bytes);
        }
    }
}
