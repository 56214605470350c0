/* reference_rows.c: the oracle of norms, rotary embedding, attention, candidates and routing to experts: formula order,
 * double precision.
 *
 * Never optimised. Attention reads the same cache as the fast kernels, so what is compared is the arithmetic.
 */
#include "attention.h"
#include "layout.h"
#include "reference.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define REFERENCE(name) name##_reference

rms_norm_fn REFERENCE(rms_norm), REFERENCE(rms_norm_add);
rope_head_fn REFERENCE(rope_head);
attention_fn REFERENCE(attention_chunks), REFERENCE(attention_merge);
kv_append_fn REFERENCE(kv_append);
top_k_fn REFERENCE(top_k);
moe_route_fn REFERENCE(moe_route);
moe_combine_fn REFERENCE(moe_combine);

static double rms(const float *x, int32_t cols, float eps) {
    double sum = 0;
    for (int32_t i = 0; i < cols; i++) sum += (double)x[i] * x[i];
    return sqrt(sum / cols + eps);
}

void REFERENCE(rms_norm)(const float *x, const float *weight, int32_t cols, float eps, float *out) {
    double scale = 1 / rms(x, cols, eps);
    for (int32_t i = 0; i < cols; i++) out[i] = (float)(x[i] * scale * weight[i]);
}

void REFERENCE(rms_norm_add)(const float *x, const float *weight, int32_t cols, float eps, float *out) {
    double scale = 1 / rms(x, cols, eps);
    for (int32_t i = 0; i < cols; i++) out[i] = (float)(out[i] + x[i] * scale * weight[i]);
}

void REFERENCE(rope_head)(float *x, const float *table, int32_t n_rot, int32_t mode) {
    for (int32_t j = 0; j < n_rot / 2; j++) {
        int32_t a = mode == 0 ? 2 * j : j, b = mode == 0 ? 2 * j + 1 : j + n_rot / 2;
        double u = x[a], v = x[b], c = table[2 * j], s = table[2 * j + 1];
        x[a] = (float)(u * c - v * s);
        x[b] = (float)(u * s + v * c);
    }
}

/* ---- attention ---- */
static double element(int32_t type, const uint8_t *base, size_t index) {
    return type == ASDSL_F32 ? ((const float *)(const void *)base)[index] : f16_at(base + 2 * index);
}

static float scale_at(const uint8_t *scales, int32_t i) { return ((const float *)(const void *)scales)[i]; }

/* Place of an element of token i of a chunk: attention.h. */
static size_t key_index(const struct kv_layout *layout, int32_t i, int32_t d) {
    int32_t block = i / ATTENTION_LANES, lane = i % ATTENTION_LANES;
    if (layout->k_type != ASDSL_Q8_0) return (size_t)((block * layout->head_dim + d) * ATTENTION_LANES + lane);
    return (size_t)(((block * attention_quads(layout->head_dim) + d / 4) * ATTENTION_LANES + lane) * 4 + d % 4);
}

static size_t value_index(const struct kv_layout *layout, int32_t i, int32_t d) {
    static const int32_t order[] = {0, 2, 1, 3};
    if (layout->v_type != ASDSL_Q8_0) return (size_t)(i * layout->value_dim + d);
    return (size_t)((i / 4 * layout->value_dim + d) * 4 + order[i % 4]);
}

static double key_at(const struct attention_job *job, int32_t head, int32_t position, int32_t d) {
    const struct kv_layout *layout = job->layout;
    const uint8_t *keys = kv_head(job, position / ATTENTION_CHUNK, head);
    int32_t i = position % ATTENTION_CHUNK;
    size_t at = key_index(layout, i, d);
    if (layout->k_type != ASDSL_Q8_0) return element(layout->k_type, keys, at);
    return (double)(int8_t)keys[at] * (double)scale_at(keys + layout->k_scales, i);
}

static double value_at(const struct attention_job *job, int32_t head, int32_t position, int32_t d) {
    const struct kv_layout *layout = job->layout;
    const uint8_t *values = kv_head(job, position / ATTENTION_CHUNK, head) + layout->k_bytes;
    int32_t i = position % ATTENTION_CHUNK;
    size_t at = value_index(layout, i, d);
    if (layout->v_type != ASDSL_Q8_0) return element(layout->v_type, values, at);
    return (double)(int8_t)values[at] * (double)scale_at(values + layout->v_scales, i);
}

/* x times the Hadamard matrix, in blocks. */
static void rotate(const float *x, int32_t head_dim, float *head) {
    memcpy(head, x, sizeof *head * (size_t)head_dim);
    for (int32_t stride = 1; stride < attention_rotation(head_dim); stride *= 2)
        for (int32_t d = 0; d < head_dim; d++) {
            if (d & stride) continue;
            float a = head[d], b = head[d + stride];
            head[d] = a + b;
            head[d + stride] = a - b;
        }
}

/* The upper half of a float, as a float. */
static float top_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}

/* Dimension d of the anchor of a position, 0 where it has none. */
static double anchor_at(const struct attention_job *job, int32_t head, int32_t position, int32_t d) {
    const struct kv_layout *layout = job->layout;
    size_t block = (size_t)(position % ATTENTION_CHUNK / ATTENTION_ANCHORED);
    const uint8_t *at = kv_head(job, position / ATTENTION_CHUNK, head) + layout->k_anchors;
    uint32_t bits = 0;
    float x;
    if (attention_anchor(position) < 0) return 0;
    memcpy((uint8_t *)&bits + 2, at + 2 * (block * (size_t)layout->value_dim + (size_t)d), 2);
    memcpy(&x, &bits, 4);
    return x;
}

/* A query as its keys want it. For q8_0: rotated (the matrix is not normalised) and rounded; as it was for anchors. */
struct reference_query {
    double q[ATTENTION_MAX_DIM], exact[ATTENTION_MAX_DIM];
};
static void query_for(const struct attention_job *job, const float *q, struct reference_query *query) {
    int8_t rounded[ATTENTION_MAX_DIM];
    float head[ATTENTION_MAX_DIM];
    int32_t head_dim = job->layout->head_dim, n = attention_rotation(head_dim);
    for (int32_t d = 0; d < head_dim; d++) query->q[d] = q[d];
    if (job->layout->k_type != ASDSL_Q8_0) return;
    rotate(q, head_dim, head);
    double scale = reference_quantize(head, head_dim, head_dim, rounded);
    for (int32_t d = 0; d < head_dim; d++) query->q[d] = rounded[d] * scale / n, query->exact[d] = (double)head[d] / n;
}

static double score_at(const struct attention_job *job, const struct reference_query *query, int32_t head,
                       int32_t position) {
    double sum = 0;
    for (int32_t d = 0; d < job->layout->head_dim; d++) {
        sum += query->q[d] * key_at(job, head, position, d);
        if (job->layout->k_type == ASDSL_Q8_0) sum += query->exact[d] * anchor_at(job, head, position, d);
    }
    sum *= job->scale;
    return job->softcap > 0 ? job->softcap * tanh(sum / job->softcap) : sum;
}

/* Three passes over the keys, so that nothing has to be kept: the largest score, the sum of weights, the values. */
static void attend(const struct attention_job *job, int32_t t, int32_t h) {
    int32_t head_dim = job->layout->head_dim, head = h / (job->n_heads / job->n_kv_heads), last = job->position + t;
    int32_t first = job->window > 0 && last >= job->window ? last - job->window + 1 : 0;
    float *out = job->out + (size_t)t * job->out_stride + (size_t)h * (size_t)head_dim;
    double largest = -INFINITY, total = 0, sums[ATTENTION_MAX_DIM] = {0};
    struct reference_query query;
    query_for(job, job->q + (size_t)t * job->q_stride + (size_t)h * (size_t)head_dim, &query);
    for (int32_t p = first; p <= last; p++) largest = fmax(largest, score_at(job, &query, head, p));
    for (int32_t p = first; p <= last; p++) {
        double weight = exp(score_at(job, &query, head, p) - largest);
        total += weight;
        for (int32_t d = 0; d < head_dim; d++) sums[d] += weight * value_at(job, head, p, d);
    }
    for (int32_t d = 0; d < head_dim; d++) out[d] = (float)(sums[d] / total);
}

/* With partials the rows wait for attention_merge. */
void REFERENCE(attention_chunks)(const struct attention_job *job, int32_t begin, int32_t end, void *scratch) {
    (void)scratch;
    for (int32_t i = begin; i < end && !job->partials; i++) {
        struct attention_item item = attention_item(job, i);
        for (int32_t row = 0; row < item.n_tokens * item.n_heads; row++) {
            attend(job, item.token + row / item.n_heads, item.head + row % item.n_heads);
        }
    }
}

void REFERENCE(attention_merge)(const struct attention_job *job, int32_t begin, int32_t end, void *scratch) {
    (void)scratch;
    for (int32_t row = begin; row < end; row++) attend(job, row / job->n_heads, row % job->n_heads);
}

/* Nearest, ties to even, by the definition of the format. */
static uint16_t f16_of(float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs((double)x);
    int exponent;
    if (isnan(x)) return sign | 0x7e00;
    if (a >= 65520) return sign | 0x7c00;
    if (a < 0x1p-14) return sign | (uint16_t)nearbyint(a * 0x1p24);
    double fraction = frexp(a, &exponent); /* in [0.5, 1) */
    return sign | (uint16_t)(((exponent + 14) << 10) + (int)nearbyint(fraction * 2048 - 1024));
}

static void store(int32_t type, uint8_t *base, size_t index, float x) {
    if (type == ASDSL_F32) {
        ((float *)(void *)base)[index] = x;
    } else {
        ((uint16_t *)(void *)base)[index] = f16_of(x);
    }
}

/* A rotated key's difference from its anchor; an anchor is stored with its own token. */
static void append_key_q8(const struct attention_job *job, int32_t position, int32_t h, const float *k) {
    const struct kv_layout *layout = job->layout;
    int8_t q[ATTENTION_MAX_DIM];
    float head[ATTENTION_MAX_DIM];
    int32_t head_dim = layout->head_dim, i = position % ATTENTION_CHUNK;
    uint8_t *keys = kv_head(job, position / ATTENTION_CHUNK, h);
    rotate(k, head_dim, head);
    for (int32_t d = 0; d < head_dim && attention_anchor(position) == position; d++) {
        float top = top_half(head[d]);
        size_t at = (size_t)(i / ATTENTION_ANCHORED) * (size_t)layout->value_dim + (size_t)d;
        memcpy(keys + layout->k_anchors + 2 * at, (uint8_t *)&top + 2, 2);
    }
    for (int32_t d = 0; d < head_dim; d++) head[d] -= (float)anchor_at(job, h, position, d);
    float scale = reference_quantize(head, head_dim, head_dim, q);
    memcpy(keys + layout->k_scales + 4 * (size_t)i, &scale, 4);
    for (int32_t d = 0; d < head_dim; d++) keys[key_index(layout, i, d)] = (uint8_t)q[d];
}

static void append_value(const struct kv_layout *layout, const float *v, int32_t i, uint8_t *values) {
    int8_t q[ATTENTION_MAX_DIM];
    bool rounds = layout->v_type == ASDSL_Q8_0;
    float scale = rounds ? reference_quantize(v, layout->head_dim, layout->head_dim, q) : 0;
    if (rounds) memcpy(values + layout->v_scales + 4 * (size_t)i, &scale, 4);
    for (int32_t d = 0; d < layout->head_dim; d++) {
        size_t at = value_index(layout, i, d);
        if (rounds) {
            values[at] = (uint8_t)q[d];
        } else {
            store(layout->v_type, values, at, v[d]);
        }
    }
}

void REFERENCE(kv_append)(const struct attention_job *job, int32_t begin, int32_t end) {
    const struct kv_layout *layout = job->layout;
    for (int32_t t = begin; t < end; t++)
        for (int32_t h = 0; h < job->n_kv_heads; h++) {
            int32_t position = job->position + t, i = position % ATTENTION_CHUNK;
            uint8_t *head = kv_head(job, position / ATTENTION_CHUNK, h);
            size_t column = (size_t)h * (size_t)layout->head_dim;
            const float *k = job->k + (size_t)t * job->k_stride + column;
            if (layout->k_type == ASDSL_Q8_0) append_key_q8(job, position, h, k);
            for (int32_t d = 0; d < layout->head_dim && layout->k_type != ASDSL_Q8_0; d++) {
                store(layout->k_type, head, key_index(layout, i, d), k[d]);
            }
            append_value(layout, job->v + (size_t)t * job->v_stride + column, i, head + layout->k_bytes);
        }
}

/* ---- candidates ---- */
static int better_first(const void *left, const void *right) {
    const struct asdsl_candidate *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : 1;
}

/* The whole row is sorted in scratch. */
void REFERENCE(top_k)(const float *logits, int32_t n, int32_t k, struct asdsl_row_stats *stats,
                      struct asdsl_candidate *candidates, void *scratch) {
    struct asdsl_candidate *all = scratch;
    int32_t count = 0;
    double sum = 0;
    *stats = (struct asdsl_row_stats){.max = -INFINITY};
    for (int32_t i = 0; i < n; i++) {
        stats->n_not_finite += !isfinite(logits[i]);
        if (!isnan(logits[i])) all[count++] = (struct asdsl_candidate){i, logits[i]};
    }
    qsort(all, (size_t)count, sizeof *all, better_first);
    if (count) stats->max = all[0].logit, stats->argmax = all[0].token;
    for (int32_t i = 0; i < count; i++) sum += exp((double)all[i].logit - (double)stats->max);
    stats->logsumexp = isfinite(stats->max) ? (double)stats->max + log(sum) : (double)stats->max;
    stats->n_candidates = k < count ? k : count;
    for (int32_t i = 0; i < stats->n_candidates; i++) candidates[i] = all[i];
}

size_t top_k_scratch_bytes(int32_t n) { return sizeof(struct asdsl_candidate) * (size_t)n; }

/* ---- experts ---- */
/* Each in turn the largest of those left; NaN is smaller than everything. */
void REFERENCE(moe_route)(const float *logits, int32_t n_experts, int32_t n_used, int32_t normalise, float scale,
                          int32_t *experts, float *weights) {
    double total = 0, chosen = 0, largest = -INFINITY;
    for (int32_t i = 0; i < n_used; i++) {
        int32_t best = -1;
        for (int32_t e = 0; e < n_experts; e++) {
            bool taken = false;
            for (int32_t j = 0; j < i; j++) taken |= experts[j] == e;
            if (taken) continue;
            if (best < 0 || logits[e] > logits[best] || (isnan(logits[best]) && !isnan(logits[e]))) best = e;
        }
        experts[i] = best;
    }
    for (int32_t e = 0; e < n_experts; e++) largest = fmax(largest, (double)logits[e]);
    for (int32_t e = 0; e < n_experts; e++) total += exp((double)logits[e] - largest);
    for (int32_t i = 0; i < n_used; i++) chosen += exp((double)logits[experts[i]] - largest);
    for (int32_t e = 0; e < n_experts; e++)
        if (!isfinite(logits[e])) total = chosen = NAN;
    for (int32_t i = 0; i < n_used; i++) {
        weights[i] = (float)(scale * exp((double)logits[experts[i]] - largest) / (normalise ? chosen : total));
    }
}

void REFERENCE(moe_combine)(const float *rows, size_t stride, const int32_t *at, const float *weights, int32_t n,
                            int32_t cols, float *out) {
    for (int32_t j = 0; j < cols; j++) {
        double sum = out[j];
        for (int32_t i = 0; i < n; i++) sum += (double)weights[i] * rows[(size_t)at[i] * stride + (size_t)j];
        out[j] = (float)sum;
    }
}
