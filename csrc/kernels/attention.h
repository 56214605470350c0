/* attention.h: the job of the attention slots, how keys and values lie in a cache, and how the work is cut.
 *
 * A cache is a list of chunks of 256 tokens. In a chunk each layer has its part, in it each key/value head its own:
 *   keys, f16, f32     blocks of 16 tokens, tokens are lanes: (head_dim, 16)
 *   keys, q8_0         blocks of 16 tokens, tokens are lanes: (head_dim / 4 rounded up, 16, 4) int8; then a scale for
 *                      each token; then an anchor for every 64 tokens: (value_dim) bf16
 *   values, f16, f32   token after token: (value_dim): head_dim rounded up to 16, the rest zero
 *   values, q8_0       blocks of 4 tokens, dimensions are lanes: (value_dim, 4) int8, the four being tokens 0, 2, 1, 3;
 *                      then a scale for each token
 * q8_0 is here one float scale for a token's head, by the rule of quantize.h; its keys are rotated and differences from
 * anchors: attention_q8.h.
 *
 * A query row is one head of one token. Scores count in powers of two: log2(e) is part of what queries are scaled by.
 * What a row reads of a chunk gives one partial result: the largest score rounded to an integer m, the sum l of
 * 2^(score - m), the sum of 2^(score - m) times value. Partials are merged in the order of chunks, which lie at fixed
 * positions: the result does not depend on how tokens were batched or chunks dealt out to threads.
 */
#ifndef ASDSL_ATTENTION_H
#define ASDSL_ATTENTION_H
#include "kernels.h"
#include <stdbool.h>

enum {
    /* Tokens: 64 KB of a head of 64 in f16, so that a work item's keys stay in the second cache. */
    ATTENTION_CHUNK = 256,
    ATTENTION_LANES = 16,
    ATTENTION_ANCHORED = 64, /* tokens that share an anchor */
    ATTENTION_ROWS = 16,     /* query rows of a work item: they share the reading of keys and values */
    ATTENTION_TILE_ROWS = 8, /* of them, those that share each load, at most */
    ATTENTION_MAX_DIM = 1024, /* head_dim */
};

/* head_dim rounded up to whole vectors. */
static inline int32_t attention_value_dim(int32_t head_dim) {
    return (head_dim + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES;
}

static inline size_t kv_element_bytes(int32_t type) { return type == ASDSL_F32 ? 4 : type == ASDSL_F16 ? 2 : 1; }

/* Groups of four dimensions of a q8_0 key. */
static inline int32_t attention_quads(int32_t head_dim) { return (head_dim + 3) / 4; }

/* Bytes inside one chunk of a cache. */
struct kv_layout {
    int32_t k_type, v_type; /* ASDSL_F16, ASDSL_F32 or ASDSL_Q8_0 */
    int32_t head_dim;
    int32_t value_dim;    /* attention_value_dim */
    int32_t chunk_tokens; /* ATTENTION_CHUNK, or fewer where the whole cache is smaller; a multiple of 16 */
    size_t k_bytes;       /* of one head: the keys come first, then the values */
    size_t k_scales, v_scales; /* where the scales of q8_0 lie, counted from the keys and from the values */
    size_t k_anchors;          /* likewise */
    size_t head_bytes, layer_bytes, chunk_bytes;
};

/* capacity: of the cache, tokens. */
static inline struct kv_layout kv_layout_of(const struct asdsl_kv_options *o) {
    struct kv_layout l = {.k_type = o->k_type, .v_type = o->v_type, .head_dim = o->head_dim};
    l.value_dim = attention_value_dim(o->head_dim);
    l.chunk_tokens = o->capacity < ATTENTION_CHUNK
                         ? (o->capacity + ATTENTION_LANES - 1) / ATTENTION_LANES * ATTENTION_LANES
                         : ATTENTION_CHUNK;
    size_t tokens = (size_t)l.chunk_tokens, scales = tokens * sizeof(float);
    size_t k_dim = (size_t)(o->k_type == ASDSL_Q8_0 ? 4 * attention_quads(l.head_dim) : l.head_dim);
    l.k_scales = tokens * k_dim * kv_element_bytes(l.k_type);
    l.v_scales = tokens * (size_t)l.value_dim * kv_element_bytes(l.v_type);
    size_t n_anchors = (tokens + ATTENTION_ANCHORED - 1) / ATTENTION_ANCHORED;
    l.k_anchors = l.k_scales + (l.k_type == ASDSL_Q8_0 ? scales : 0);
    l.k_bytes = l.k_anchors + (l.k_type == ASDSL_Q8_0 ? n_anchors * (size_t)l.value_dim * sizeof(uint16_t) : 0);
    l.head_bytes = l.k_bytes + l.v_scales + (l.v_type == ASDSL_Q8_0 ? scales : 0);
    l.layer_bytes = (size_t)o->n_kv_heads * l.head_bytes;
    l.chunk_bytes = (size_t)o->n_layers * l.layer_bytes;
    return l;
}

struct attention_job {
    /* attention: */
    const float *q; /* (n_tokens, n_heads * head_dim) */
    float *out;     /* likewise */
    size_t q_stride, out_stride; /* floats between rows */
    int32_t n_heads;
    int32_t window; /* > 0: a query sees this many keys at most, itself included */
    float scale, softcap;
    /* (n_chunks, n_tokens * n_heads, attention_partial_floats), or NULL: rows are finished at once. Workers take chunks
     * in turn: were those of a row neighbours, each would write beside the other's lines (4.0 us an item instead
     * of 3.1, 8 rows of 64, 2 threads of a Zen 4 VM, seen once). */
    float *partials;
    int32_t *prepared; /* the item whose queries are in the worker's scratch, from call to call; -1: none */
    /* kv_append: */
    const float *k, *v; /* (n_tokens, n_kv_heads * head_dim) */
    size_t k_stride, v_stride;
    /* both: */
    int32_t n_tokens, position, n_kv_heads;
    const struct kv_layout *layout;
    uint8_t *const *chunks; /* of the cache */
    size_t layer_offset;    /* bytes into each chunk */
    int32_t team; /* workers; where items are dealt out one by one, a worker's next is likely so many later */
};

/* The keys of a head in a chunk, followed by its values. */
static inline uint8_t *kv_head(const struct attention_job *job, int32_t chunk, int32_t head) {
    return job->chunks[chunk] + job->layer_offset + (size_t)head * job->layout->head_bytes;
}

/* Chunks that hold keys for this pass. */
static inline int32_t attention_n_chunks(const struct attention_job *job) {
    return (job->position + job->n_tokens - 1) / ATTENTION_CHUNK + 1;
}

/* m, l and padding to a line, then the sums of the values. */
static inline size_t attention_partial_floats(int32_t head_dim) {
    return ATTENTION_LANES + (size_t)attention_value_dim(head_dim);
}

/* Blocks of dimensions that q8_0 keys and their queries are rotated in: the largest power of two in head_dim. */
static inline int32_t attention_rotation(int32_t head_dim) { return head_dim & -head_dim; }

/* The token whose rotated key is the anchor of position's: the first of 64. The first of all, which is often unlike the
 * others, has none (-1); the second stands in for it. */
static inline int32_t attention_anchor(int32_t position) {
    if (position == 0) return -1;
    return position < ATTENTION_ANCHORED ? 1 : position / ATTENTION_ANCHORED * ATTENTION_ANCHORED;
}

/* Positions, blocks of which one worker appends: q8_0 keys need their anchor, others share lines. */
static inline int32_t attention_append_tokens(const struct kv_layout *layout) {
    return layout->k_type == ASDSL_Q8_0 ? ATTENTION_ANCHORED : ATTENTION_LANES;
}

/* A query for q8_0 keys: rotated, as int8; its floats (value_dim) lie behind the int8. */
struct attention_query {
    float factor;     /* of a dot product and the key's scale, to the score */
    float scale;      /* of a dot product of floats, to the score */
    int32_t minus128; /* -128 * sum(q) */
    float bases[ATTENTION_CHUNK / ATTENTION_ANCHORED]; /* scores of the present chunk's anchors */
    float first[ATTENTION_LANES]; /* those of the first keys: bases[0], where there is an anchor */
    int8_t q[]; /* (value_dim), past head_dim zero; 4 bytes behind are readable */
};
static inline size_t attention_query_floats_at(int32_t head_dim) { /* bytes; whole lines */
    return (sizeof(struct attention_query) + (size_t)attention_value_dim(head_dim) + 4 + 63) / 64 * 64;
}
static inline size_t attention_query_bytes(int32_t head_dim) {
    return (attention_query_floats_at(head_dim) + sizeof(float) * (size_t)attention_value_dim(head_dim) + 63) / 64 * 64;
}

/* A worker's scratch, each part on a line of its own. */
struct attention_scratch {
    float *scores; /* (ATTENTION_TILE_ROWS, ATTENTION_CHUNK) */
    float *partials, *states; /* (ATTENTION_ROWS, attention_partial_floats) of an item's rows */
    struct attention_query *queries; /* (ATTENTION_ROWS) of attention_query_bytes */
    float *factors; /* (ATTENTION_CHUNK) of q8_0 values */
    int16_t *weights; /* (ATTENTION_TILE_ROWS, ATTENTION_CHUNK) of q8_0 values: room for weight8u of any level */
};
/* scratch: where it begins, 64-byte aligned, or NULL. Returns its floats. */
static inline size_t attention_scratch_at(int32_t head_dim, float *scratch, struct attention_scratch *s) {
    size_t rows = ATTENTION_ROWS * attention_partial_floats(head_dim), at = 0;
    size_t sizes[] = {ATTENTION_TILE_ROWS * ATTENTION_CHUNK,
                      rows,
                      rows,
                      ATTENTION_ROWS * attention_query_bytes(head_dim) / sizeof(float),
                      ATTENTION_CHUNK,
                      ATTENTION_TILE_ROWS * ATTENTION_CHUNK * sizeof(int16_t) / sizeof(float)};
    float *parts[6] = {0};
    for (int i = 0; i < 6; at += sizes[i++]) parts[i] = scratch ? scratch + at : NULL;
    *s = (struct attention_scratch){parts[0], parts[1],
                                    parts[2], (struct attention_query *)(void *)parts[3],
                                    parts[4], (int16_t *)(void *)parts[5]};
    return at;
}
static inline size_t attention_scratch_floats(int32_t head_dim) {
    struct attention_scratch unused;
    return attention_scratch_at(head_dim, NULL, &unused);
}

/* Keys [first, end) of a chunk, counted from its start, that the query of token t sees; none: first == end == 0. */
struct key_span {
    int32_t first, end;
};
static inline struct key_span attention_span(const struct attention_job *job, int32_t t, int32_t chunk) {
    int32_t base = chunk * ATTENTION_CHUNK, last = job->position + t - base, first = 0;
    if (job->window > 0 && last >= job->window) first = last - job->window + 1;
    int32_t end = last < ATTENTION_CHUNK ? last + 1 : ATTENTION_CHUNK;
    return first < end ? (struct key_span){first, end} : (struct key_span){0, 0};
}

/* Work items: up to 16 heads that share a key head, times as many tokens as make 16 rows. Their count is what a slot's
 * range [begin, end) counts; with partials each item is there once for every chunk. */
struct attention_cut {
    int32_t heads, tokens; /* of one item, at most */
    int32_t head_parts; /* items that the heads of one key head make */
    int32_t token_parts; /* items that the tokens make */
    int32_t n_items;
};
static inline struct attention_cut attention_cut(const struct attention_job *job) {
    int32_t group = job->n_heads / job->n_kv_heads;
    struct attention_cut cut = {.heads = group < ATTENTION_ROWS ? group : ATTENTION_ROWS};
    cut.tokens = ATTENTION_ROWS / cut.heads;
    cut.head_parts = (group + cut.heads - 1) / cut.heads;
    cut.token_parts = (job->n_tokens + cut.tokens - 1) / cut.tokens;
    cut.n_items = job->n_kv_heads * cut.head_parts * cut.token_parts;
    return cut;
}

/* The rows of one item. */
struct attention_item {
    int32_t kv_head, head, n_heads, token, n_tokens;
};
/* Later tokens see more keys: parts are taken from both ends in turn, so that any run of items costs about the same. */
static inline struct attention_item attention_item(const struct attention_job *job, int32_t index) {
    struct attention_cut cut = attention_cut(job);
    int32_t group = job->n_heads / job->n_kv_heads, i = index % cut.token_parts, part = index / cut.token_parts;
    int32_t head = part % cut.head_parts * cut.heads;
    struct attention_item item = {.kv_head = part / cut.head_parts};
    item.head = item.kv_head * group + head;
    item.n_heads = group - head < cut.heads ? group - head : cut.heads;
    item.token = (i % 2 ? cut.token_parts - 1 - i / 2 : i / 2) * cut.tokens;
    item.n_tokens = job->n_tokens - item.token < cut.tokens ? job->n_tokens - item.token : cut.tokens;
    return item;
}

#endif
