/* attention.c: scores, softmax and weighted values of query rows over the chunks of a cache, and appending to it.
 *
 * Owns the walk over items, chunks and tiles of rows, the softmax and the merging of partials. What a tile does with
 * keys and values of a type is attention_float.h's and attention_q8.h's; attention.h has the layout, the cut into items
 * and why any batching gives the same bits.
 */
#include "attention.h"
#include "attention_float.h"
#include "attention_q8.h"
#include "simd.h"

/* ---- one chunk ---- */
/* The rows of a tile: queries, what they see of the present chunk, where their partial goes. */
struct rows {
    int32_t n;
    const float *q[TILE_ROWS];
    struct attention_query *query[TILE_ROWS]; /* for q8_0 keys */
    struct key_span keys[TILE_ROWS];
    float *partial[TILE_ROWS];
    struct fetch *fetch; /* the part of the cache that is needed next */
};

#define LOG2E 1.44269504f

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t first_lane(struct key_span keys) { return keys.first / ATTENTION_LANES * ATTENTION_LANES; }

/* Scores capped and masked in place; returns the largest. */
static float mask_row(const struct attention_job *job, struct key_span keys, float *scores) {
    f32x16 cap = f32x16_set1(job->softcap * LOG2E), hidden = f32x16_set1(-INFINITY), largest = hidden;
    for (int32_t i = first_lane(keys); i < keys.end; i += ATTENTION_LANES) {
        f32x16 s = f32x16_loadu(scores + i);
        if (job->softcap > 0) s = f32x16_mul(cap, f32x16_tanh(f32x16_div(s, cap)));
        if (keys.first > i) s = f32x16_select(mask16_first(keys.first - i), hidden, s);
        if (keys.end - i < ATTENTION_LANES) s = f32x16_select(mask16_first(keys.end - i), s, hidden);
        f32x16_storeu(scores + i, s);
        largest = f32x16_max(s, largest);
    }
    return f32x16_hmax(largest);
}

/* m of a row's partial: the largest score to the nearest integer, so that partials are rescaled exactly. */
static float row_reference(const struct attention_job *job, struct key_span keys, float *scores) {
    if (!is_whole(keys) || job->softcap > 0) return rintf(mask_row(job, keys, scores));
    f32x16 largest[4];
    UNROLL for (int j = 0; j < 4; j++) largest[j] = f32x16_set1(-INFINITY);
    for (int32_t i = 0; i < ATTENTION_CHUNK; i += 4 * ATTENTION_LANES) UNROLL for (int j = 0; j < 4; j++)
        largest[j] = f32x16_max(f32x16_loadu(scores + i + j * ATTENTION_LANES), largest[j]);
    f32x16 a = f32x16_max(largest[0], largest[1]), b = f32x16_max(largest[2], largest[3]);
    return rintf(f32x16_hmax(f32x16_max(a, b)));
}

/* Scores -> weights 2^(score - m) in place; m and l of the partial. */
static void softmax_row(const struct attention_job *job, struct key_span keys, float *scores, float *partial) {
    float m = row_reference(job, keys, scores);
    f32x16 sum = f32x16_zero(), max = f32x16_set1(m);
    for (int32_t i = first_lane(keys); i < keys.end; i += ATTENTION_LANES) {
        f32x16 p = f32x16_exp2(f32x16_sub(f32x16_loadu(scores + i), max));
        sum = f32x16_add(sum, p);
        f32x16_storeu(scores + i, p);
    }
    partial[0] = m;
    partial[1] = f32x16_sum(sum);
}

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
        if (before.first < before.end) tiles[1](p + r, v, value_dim, before, rows->fetch, sums + r);
    }
    if (shared.first < shared.end) tiles[rows->n](p, v, value_dim, shared, rows->fetch, sums);
    for (int32_t r = 0; r < rows->n; r++) {
        struct key_span after = {larger(rows->keys[r].first, shared.end), rows->keys[r].end};
        if (after.first < after.end) tiles[1](p + r, v, value_dim, after, rows->fetch, sums + r);
    }
}

/* Blocks of 16 keys that any row of a tile sees something of. */
static struct key_span blocks_of(const struct rows *rows) {
    struct key_span blocks = {INT32_MAX, 0};
    for (int32_t r = 0; r < rows->n; r++) {
        blocks.first = smaller(blocks.first, rows->keys[r].first / ATTENTION_LANES);
        blocks.end = larger(blocks.end, (rows->keys[r].end + ATTENTION_LANES - 1) / ATTENTION_LANES);
    }
    return blocks;
}

/* Integer weights of a row are zero in blocks that another row of the tile sees alone. */
static void clear_weights(struct key_span blocks, struct key_span keys, weight8u *weights) {
    int32_t from = first_lane(keys), to = (keys.end + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES;
    for (int32_t i = blocks.first * ATTENTION_LANES; i < from; i++) weights[i] = 0;
    for (int32_t i = to; i < blocks.end * ATTENTION_LANES; i++) weights[i] = 0;
}

/* Weights of all rows and what their sums are multiplied by, m and l of their partials. Step by step for all rows, not
 * row by row: a step's last results come late, and other rows do not wait for them. */
static void weigh_rows_q8(const struct attention_job *job, const struct rows *rows, const float *v_scales,
                          const struct attention_scratch *s, float *back) {
    struct value_scales scales = {.masked = s->factors};
    float inverse[TILE_ROWS * N_BLOCKS], poison[TILE_ROWS];
    for (int32_t r = 0; r < rows->n; r++) {
        rows->partial[r][0] = row_reference(job, rows->keys[r], s->scores + r * ATTENTION_CHUNK);
    }
    for (int32_t r = 0; r < rows->n; r++) {
        struct key_span keys = rows->keys[r];
        if (keys.first != scales.keys.first || keys.end != scales.keys.end) see_scales(&scales, v_scales, keys);
        poison[r] = scales.poison;
        rows->partial[r][1] = weigh_row(keys, scales.masked, rows->partial[r][0], rows->fetch,
                                        s->scores + r * ATTENTION_CHUNK, back + r * N_BLOCKS);
    }
    factors_of_weights(rows->n, back, inverse);
    for (int32_t r = 0; r < rows->n; r++) {
        weight8u *weights = (weight8u *)(void *)s->weights + r * ATTENTION_CHUNK;
        round_row_of_weights(rows->keys[r], s->scores + r * ATTENTION_CHUNK, inverse + r * N_BLOCKS, weights);
        for (int b = 0; b < N_BLOCKS; b++) back[r * N_BLOCKS + b] += poison[r];
    }
}

static void attend_values_q8(const struct attention_job *job, const struct rows *rows, struct key_span blocks,
                             const uint8_t *values, const struct attention_scratch *s) {
    const struct kv_layout *layout = job->layout;
    weight8u *weights = (weight8u *)(void *)s->weights;
    float back[TILE_ROWS * N_BLOCKS] = {0}, *sums[TILE_ROWS];
    weigh_rows_q8(job, rows, (const float *)(const void *)(values + layout->v_scales), s, back);
    for (int32_t r = 0; r < rows->n; r++) {
        clear_weights(blocks, rows->keys[r], weights + r * ATTENTION_CHUNK);
        sums[r] = rows->partial[r] + ATTENTION_LANES;
        memset(sums[r], 0, sizeof(float) * (size_t)layout->value_dim);
    }
    struct key_span quads = {blocks.first * ATTENTION_LANES / 4, blocks.end * ATTENTION_LANES / 4};
    value_tiles_q8[rows->n](weights, values, layout->value_dim, quads, back, rows->fetch, sums);
}

static void attend_keys_q8(const struct rows *rows, int32_t chunk, const struct kv_layout *layout,
                           struct key_span blocks, const uint8_t *keys, float *scores) {
    const struct attention_query *query[TILE_ROWS];
    for (int32_t r = 0; r < rows->n; r++) {
        score_anchors(layout, keys, chunk, rows->keys[r], rows->query[r]);
        query[r] = rows->query[r];
    }
    score_tiles_q8[rows->n](query, keys, (const float *)(const void *)(keys + layout->k_scales), layout->head_dim,
                            blocks, rows->fetch, scores);
}

/* The partials of a tile over one chunk. Every row sees some of it. head: its keys, then its values. */
static void attend_tile(const struct attention_job *job, const struct rows *rows, int32_t chunk, const uint8_t *head,
                        const struct attention_scratch *s) {
    const struct kv_layout *layout = job->layout;
    struct key_span blocks = blocks_of(rows);
    if (layout->k_type == ASDSL_Q8_0) {
        attend_keys_q8(rows, chunk, layout, blocks, head, s->scores);
    } else {
        score_tiles[layout->k_type == ASDSL_F32][rows->n](rows->q, head, layout->head_dim, blocks, job->scale * LOG2E,
                                                          rows->fetch, s->scores);
    }
    if (layout->v_type == ASDSL_Q8_0) {
        attend_values_q8(job, rows, blocks, head + layout->k_bytes, s);
        return;
    }
    for (int32_t r = 0; r < rows->n; r++) {
        softmax_row(job, rows->keys[r], s->scores + r * ATTENTION_CHUNK, rows->partial[r]);
    }
    weigh_values(job, rows, head + layout->k_bytes, s->scores);
}

/* ---- the rows of an item ---- */
static const float *query_at(const struct attention_job *job, const struct attention_item *item, int32_t row) {
    int32_t t = item->token + row / item->n_heads, h = item->head + row % item->n_heads;
    return job->q + (size_t)t * job->q_stride + (size_t)h * (size_t)job->layout->head_dim;
}

static struct attention_query *query_of(const struct attention_job *job, const struct attention_scratch *s,
                                        int32_t row) {
    size_t bytes = attention_query_bytes(job->layout->head_dim);
    return (struct attention_query *)(void *)((uint8_t *)s->queries + (size_t)row * bytes);
}

/* Queries as q8_0 keys want them. */
static void prepare_item(const struct attention_job *job, const struct attention_item *item,
                         const struct attention_scratch *s) {
    if (job->layout->k_type != ASDSL_Q8_0) return;
    for (int32_t row = 0; row < item->n_tokens * item->n_heads; row++) {
        prepare_query(query_at(job, item, row), job->layout->head_dim, job->scale * LOG2E, query_of(job, s, row));
    }
}

/* Where the partial of a row of an item goes, rows counted through its tokens' heads. */
typedef float *partial_of(const struct attention_job *job, int32_t token, int32_t head, int32_t row, int32_t chunk,
                          float *partials);

/* Steps of fetch_next over a chunk of which all rows see all. */
static size_t fetch_steps(const struct kv_layout *l, int32_t n_rows) {
    size_t q8_loads = FETCH_LOADS * LANES * 4;
    size_t k_load = l->k_type == ASDSL_Q8_0 ? q8_loads : ATTENTION_LANES * kv_element_bytes(l->k_type);
    size_t v_load = l->v_type == ASDSL_Q8_0 ? q8_loads : ATTENTION_LANES * kv_element_bytes(l->v_type);
    size_t tiles = (size_t)((n_rows + TILE_ROWS - 1) / TILE_ROWS);
    size_t weights = (size_t)(n_rows * (ATTENTION_CHUNK / ATTENTION_LANES));
    return tiles * (l->k_scales / k_load + l->v_scales / v_load) +
           (l->v_type == ASDSL_Q8_0 ? weights * WEIGHING_FETCHES : 0);
}

/* next: the head that is needed after this one. */
static void attend_chunk(const struct attention_job *job, const struct attention_item *item, int32_t chunk,
                         const uint8_t *next, const struct attention_scratch *s, partial_of *partial) {
    const uint8_t *head = kv_head(job, chunk, item->kv_head);
    int32_t n_rows = item->n_tokens * item->n_heads;
    size_t steps = fetch_steps(job->layout, n_rows);
    struct fetch fetch = {.at = next, .step = (job->layout->head_bytes + steps - 1) / steps};
    struct rows rows = {.fetch = &fetch};
    for (int32_t row = 0; row < n_rows; row++) {
        int32_t t = item->token + row / item->n_heads, h = item->head + row % item->n_heads;
        struct key_span keys = attention_span(job, t, chunk);
        if (keys.first < keys.end) {
            rows.q[rows.n] = query_at(job, item, row);
            rows.query[rows.n] = query_of(job, s, row);
            rows.keys[rows.n] = keys;
            rows.partial[rows.n++] = partial(job, t, h, row, chunk, s->partials);
        }
        if (rows.n == TILE_ROWS || (row == n_rows - 1 && rows.n > 0)) {
            attend_tile(job, &rows, chunk, head, s);
            rows.n = 0;
        }
    }
}

/* ---- partials into results ---- */
/* 2^x of an integer x <= 0; 0 below -126, NaN stays. */
static float power_of_two(float x) {
    if (!(x >= -126.0f)) return x < -126.0f ? 0.0f : x;
    uint32_t bits = (uint32_t)((int32_t)x + 127) << 23;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* state = state and partial, as if both had been one stretch of keys. */
static void merge_partial(const struct attention_job *job, float *state, const float *partial) {
    float m = partial[0] > state[0] ? partial[0] : state[0];
    float ours = power_of_two(state[0] - m), theirs = power_of_two(partial[0] - m);
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
                             float *partials) {
    size_t rows = (size_t)job->n_tokens * (size_t)job->n_heads;
    size_t index = (size_t)chunk * rows + (size_t)token * (size_t)job->n_heads + (size_t)head;
    (void)row, (void)partials;
    return job->partials + index * attention_partial_floats(job->layout->head_dim);
}

static float *scratch_partial(const struct attention_job *job, int32_t token, int32_t head, int32_t row, int32_t chunk,
                              float *partials) {
    (void)token, (void)head, (void)chunk;
    return partials + (size_t)row * attention_partial_floats(job->layout->head_dim);
}

/* All chunks of an item one after the other. */
static void attend_item(const struct attention_job *job, const struct attention_item *item,
                        const struct attention_scratch *s) {
    size_t floats = attention_partial_floats(job->layout->head_dim);
    float *partials = s->partials, *states = s->states;
    bool begun[ATTENTION_ROWS] = {false};
    int32_t n_chunks = (job->position + item->token + item->n_tokens - 1) / ATTENTION_CHUNK + 1;
    int32_t n_rows = item->n_tokens * item->n_heads;
    for (int32_t chunk = 0; chunk < n_chunks; chunk++) {
        const uint8_t *next = kv_head(job, chunk + 1 < n_chunks ? chunk + 1 : 0, item->kv_head);
        attend_chunk(job, item, chunk, next, s, scratch_partial);
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

/* Fetches the queries of one item and the lines of another's results: rows of tokens lie far apart, and the processor
 * does not foresee them. */
static void fetch_rows(const struct attention_job *job, const struct attention_item *next,
                       const struct attention_item *item) {
    size_t head_bytes = sizeof(float) * (size_t)job->layout->head_dim;
    for (int32_t t = 0; t < next->n_tokens; t++) {
        const float *q = query_at(job, next, t * next->n_heads);
        for (size_t at = 0; at < head_bytes * (size_t)next->n_heads; at += 64) SIMD_PREFETCH((const uint8_t *)q + at);
    }
    for (int32_t t = 0; t < item->n_tokens; t++) {
        const float *out = job->out + (size_t)(item->token + t) * job->out_stride;
        out += (size_t)item->head * (size_t)job->layout->head_dim;
        for (size_t at = 0; at < head_bytes * (size_t)item->n_heads; at += 64) SIMD_PREFETCH((const uint8_t *)out + at);
    }
}

/* ---- slots ---- */
attention_fn KERNEL(attention_chunks), KERNEL(attention_merge);
kv_append_fn KERNEL(kv_append);

/* With partials: unit i's part of the cache. Beyond the units there is nothing to fetch but the last one again. */
static const uint8_t *head_of_unit(const struct attention_job *job, int32_t i) {
    int32_t n_chunks = attention_n_chunks(job), n = attention_cut(job).n_items * n_chunks;
    if (i >= n) i = n - 1;
    return kv_head(job, i % n_chunks, attention_item(job, i / n_chunks).kv_head);
}

void KERNEL(attention_chunks)(const struct attention_job *job, int32_t begin, int32_t end, void *scratch) {
    struct attention_scratch s;
    int32_t n_chunks = attention_n_chunks(job);
    attention_scratch_at(job->layout->head_dim, scratch, &s);
    for (int32_t i = begin; i < end; i++) {
        int32_t index = job->partials ? i / n_chunks : i;
        struct attention_item item = attention_item(job, index);
        if (index != *job->prepared) prepare_item(job, &item, &s);
        *job->prepared = index;
        if (job->partials) {
            const uint8_t *next = head_of_unit(job, i + 1 < end ? i + 1 : i + job->team);
            attend_chunk(job, &item, i % n_chunks, next, &s, shared_partial);
        } else {
            struct attention_item next = i + 1 < end ? attention_item(job, i + 1) : item;
            fetch_rows(job, &next, &item);
            attend_item(job, &item, &s);
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

/* Token i of a chunk; keys: of the head in the chunk. */
static void append_key(const struct kv_layout *layout, const float *k, int32_t i, uint8_t *keys) {
    size_t line = ATTENTION_LANES * kv_element_bytes(layout->k_type);
    uint8_t *block = keys + (size_t)(i / ATTENTION_LANES) * (size_t)layout->head_dim * line;
    for (int32_t d = 0; d < layout->head_dim; d += ATTENTION_LANES) {
        int32_t n = smaller(layout->head_dim - d, ATTENTION_LANES);
        f32x16 x = f32x16_load_n(k + d, n);
        size_t at = (size_t)d * ATTENTION_LANES + (size_t)(i % ATTENTION_LANES);
        if (layout->k_type == ASDSL_F32) {
            float *to = (float *)(void *)block + at;
            for (int32_t j = 0; j < n; j++) to[j * ATTENTION_LANES] = k[d + j];
        } else {
            uint16_t half[ATTENTION_LANES], *to = (uint16_t *)(void *)block + at;
            f32x16_store_f16(half, x);
            for (int32_t j = 0; j < n; j++) to[j * ATTENTION_LANES] = half[j];
        }
    }
}

static void append_value(const struct kv_layout *layout, const float *v, int32_t i, uint8_t *values) {
    uint8_t *to = values + (size_t)i * (size_t)layout->value_dim * kv_element_bytes(layout->v_type);
    if (layout->v_type == ASDSL_Q8_0) {
        append_value_q8(layout, v, i, values);
        return;
    }
    for (int32_t d = 0; d < layout->value_dim; d += ATTENTION_LANES) {
        f32x16 x = f32x16_load_n(v + d, smaller(layout->head_dim - d, ATTENTION_LANES));
        if (layout->v_type == ASDSL_F32) {
            f32x16_storeu((float *)(void *)to + d, x);
        } else {
            f32x16_store_f16((uint16_t *)(void *)to + d, x);
        }
    }
}

/* Tokens [begin, end) of the pass, which begin it or a block of attention_append_tokens. */
void KERNEL(kv_append)(const struct attention_job *job, int32_t begin, int32_t end) {
    const struct kv_layout *layout = job->layout;
    for (int32_t t = begin; t < end; t++) {
        int32_t position = job->position + t, i = position % ATTENTION_CHUNK;
        for (int32_t h = 0; h < job->n_kv_heads; h++) {
            uint8_t *head = kv_head(job, position / ATTENTION_CHUNK, h);
            size_t column = (size_t)h * (size_t)layout->head_dim;
            const float *k = job->k + (size_t)t * job->k_stride + column;
            if (layout->k_type == ASDSL_Q8_0) {
                append_key_q8(layout, k, position, head);
            } else {
                append_key(layout, k, i, head);
            }
            append_value(layout, job->v + (size_t)t * job->v_stride + column, i, head + layout->k_bytes);
        }
    }
}
