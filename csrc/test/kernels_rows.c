/* kernels_rows.c: norms, rotary embedding, candidates, and attention with appending to a cache, at every level.
 *
 * Oracles: reference_rows.c (double precision) within bounds of first-order rounding analysis; the portable level to
 * the bit for every other level, for rows cut in other ways and for chunks merged later. Buffers end at a guard page.
 */
#include "../asdsl.h"
#include "../kernels/attention.h"
#include "check.h"
#include "guarded.h"
#include "levels.h"
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static const double EPS = 0x1p-24; /* half an ulp, relative */
static uint32_t usable;
static uint64_t state = 0x9e3779b97f4a7c15u;

static float uniform(void) { return (float)(int32_t)random_u32(&state) * 0x1p-31f; }

/* ---- norms ---- */
/* out: what the row has before. A norm may run in place, one that adds may not. */
static void test_norm(bool adds, int32_t cols, float size, int tail) {
    const struct kernels *oracle = kernels_for(ASDSL_LEVEL_REFERENCE);
    size_t bytes = 4 * (size_t)cols;
    struct guarded x = guarded_alloc(bytes, tail), w = guarded_alloc(bytes, 0), y = guarded_alloc(bytes, tail);
    struct guarded before = guarded_alloc(bytes, 0), expected = guarded_alloc(bytes, 0);
    struct guarded golden = guarded_alloc(bytes, 0);
    float *in = (float *)(void *)x.data, *weight = (float *)(void *)w.data, *out = (float *)(void *)y.data;
    float *start = (float *)(void *)before.data, *wanted = (float *)(void *)expected.data;
    for (int32_t i = 0; i < cols; i++) in[i] = uniform() * size, weight[i] = uniform(), start[i] = uniform();
    if (!adds) memcpy(start, in, bytes);
    memcpy(wanted, start, bytes);
    (adds ? oracle->rms_norm_add : oracle->rms_norm)(in, weight, cols, 1e-5f, wanted);
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        const struct kernels *k = kernels_for(levels[l]);
        memcpy(out, start, bytes);
        (adds ? k->rms_norm_add : k->rms_norm)(adds ? in : out, weight, cols, 1e-5f, out);
        if (l == 0) memcpy(golden.data, out, bytes);
        CHECK(memcmp(golden.data, out, bytes) == 0, "rms_norm%s of %d at level %d: other bits", adds ? "_add" : "",
              cols, levels[l]);
    }
    for (int32_t i = 0; i < cols; i++) {
        /* A chain of cols / 16 sums and 4 folds, half of it after the root, then four roundings, and that of the sum.
         */
        double want = wanted[i], norm = adds ? want - (double)start[i] : want;
        CHECK(fabs((double)out[i] - want) <= (cols / 16 + 10) * EPS * fabs(norm) + 2 * EPS * adds * fabs(want),
              "rms_norm%s of %d: %g, not %g", adds ? "_add" : "", cols, (double)out[i], want);
    }
    guarded_free(&x), guarded_free(&w), guarded_free(&y), guarded_free(&before), guarded_free(&expected);
    guarded_free(&golden);
}

static void test_rms_norm(void) {
    static const float sizes[] = {1.0f, 1e-6f, 1e15f, 0.0f};
    for (int32_t cols = 1; cols <= 600; cols += cols < 70 ? 1 : 53)
        for (size_t s = 0; s < 4; s++) {
            test_norm(false, cols, sizes[s], s % 2);
            test_norm(true, cols, sizes[s], s % 2);
        }
}

/* ---- rotary embedding ---- */
static void test_rope(void) {
    for (int32_t n_rot = 2; n_rot <= 256; n_rot += n_rot < 40 ? 2 : 30)
        for (int32_t mode = 0; mode < 2; mode++) {
            size_t bytes = 4 * (size_t)n_rot;
            struct guarded x = guarded_alloc(bytes, 0), table = guarded_alloc(bytes, 0);
            float start[256], golden[256], expected[256], *head = (float *)(void *)x.data;
            for (int32_t i = 0; i < n_rot; i++) start[i] = uniform() * 10, ((float *)(void *)table.data)[i] = uniform();
            memcpy(expected, start, bytes);
            kernels_for(ASDSL_LEVEL_REFERENCE)->rope_head(expected, (float *)(void *)table.data, n_rot, mode);
            for (int l = 0; l < N_LEVELS; l++) {
                if (!(usable >> levels[l] & 1)) continue;
                memcpy(head, start, bytes);
                kernels_for(levels[l])->rope_head(head, (float *)(void *)table.data, n_rot, mode);
                if (l == 0) memcpy(golden, head, bytes);
                CHECK(memcmp(golden, head, bytes) == 0, "rope %d at level %d: other bits", n_rot, levels[l]);
            }
            for (int32_t i = 0; i < n_rot; i++) {
                CHECK(fabs((double)head[i] - (double)expected[i]) <= 3 * EPS * 20, "rope %d: %g, not %g", n_rot,
                      (double)head[i], (double)expected[i]);
            }
            guarded_free(&x), guarded_free(&table);
        }
}

/* ---- candidates ---- */
enum logits { SPREAD, TIES, FALLING, HUGE_ONES, WITH_FAULTS, ALL_NAN, KINDS };

static float logit_of(enum logits kind, int32_t i) {
    switch (kind) {
    case TIES: return (float)(random_u32(&state) % 7);
    case FALLING: return -(float)i;
    case HUGE_ONES: return uniform() * 1e38f;
    case WITH_FAULTS: return random_u32(&state) % 5 ? uniform() : random_u32(&state) % 2 ? NAN : -INFINITY;
    case ALL_NAN: return NAN;
    default: return uniform() * 20;
    }
}

static void check_top_k(int32_t n, int32_t k, enum logits kind) {
    struct guarded logits = guarded_alloc(4 * (size_t)n, 0), scratch = guarded_alloc(top_k_scratch_bytes(n), 0);
    size_t bytes = sizeof(struct asdsl_candidate) * (size_t)(k ? k : 1);
    struct guarded got = guarded_alloc(bytes, 0), want = guarded_alloc(bytes, 0);
    struct asdsl_row_stats stats, expected, golden;
    for (int32_t i = 0; i < n; i++) ((float *)(void *)logits.data)[i] = logit_of(kind, i);
    memset(&golden, 0, sizeof golden);
    kernels_for(ASDSL_LEVEL_REFERENCE)
        ->top_k((float *)(void *)logits.data, n, k, &expected, (void *)want.data, scratch.data);
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        memset(&stats, 0, sizeof stats);
        kernels_for(levels[l])->top_k((float *)(void *)logits.data, n, k, &stats, (void *)got.data, scratch.data);
        if (l == 0) golden = stats;
        CHECK(memcmp(&golden, &stats, sizeof stats) == 0, "top_k %d of %d, kind %d, level %d: other stats", k, n, kind,
              levels[l]);
        CHECK(stats.n_candidates == expected.n_candidates && stats.argmax == expected.argmax &&
                  stats.n_not_finite == expected.n_not_finite && stats.max == expected.max,
              "top_k %d of %d, kind %d, level %d: %d candidates, argmax %d; not %d and %d", k, n, kind, levels[l],
              stats.n_candidates, stats.argmax, expected.n_candidates, expected.argmax);
        CHECK(memcmp(got.data, want.data, sizeof(struct asdsl_candidate) * (size_t)expected.n_candidates) == 0,
              "top_k %d of %d, kind %d, level %d: other candidates", k, n, kind, levels[l]);
        /* exp is good to 2^-21; 64 float additions a lane, 4 folds. */
        bool same = stats.logsumexp == expected.logsumexp; /* infinities */
        CHECK(same || fabs(stats.logsumexp - expected.logsumexp) <= 0x1p-21 + 70 * EPS, "logsumexp %g, not %g",
              stats.logsumexp, expected.logsumexp);
    }
    guarded_free(&logits), guarded_free(&scratch), guarded_free(&got), guarded_free(&want);
}

static void test_top_k(void) {
    static const int32_t sizes[] = {1, 2, 15, 16, 17, 31, 100, 1023, 1040, 4999};
    static const int32_t counts[] = {0, 1, 2, 16, 40, 999, 5000};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            for (int kind = 0; kind < KINDS; kind++) check_top_k(sizes[n], counts[k], (enum logits)kind);
}

/* ---- attention ---- */
enum { N_CHUNKS = 4, MAX_Q = 21, MAX_DIM = 256 };

struct attention_case {
    int32_t n_heads, n_kv_heads, head_dim, k_type, v_type;
    int32_t length, n_tokens; /* tokens held after the pass, and in it */
    int32_t window;
    float softcap, size; /* of queries */
};

struct attention_world {
    struct attention_case c;
    struct kv_layout layout;
    struct guarded chunk[N_CHUNKS], k, v, q, out;
    uint8_t *chunks[N_CHUNKS];
};

static float *floats_of(struct guarded *g) { return (float *)(void *)g->data; }

static void build_world(struct attention_world *w, struct attention_case c) {
    struct kv_layout *l = &w->layout;
    w->c = c;
    struct asdsl_kv_options options = {.n_layers = 1, .n_kv_heads = c.n_kv_heads, .head_dim = c.head_dim};
    options.capacity = c.length, options.k_type = c.k_type, options.v_type = c.v_type;
    *l = kv_layout_of(&options);
    size_t kv_bytes = 4 * (size_t)(c.length * c.n_kv_heads * c.head_dim);
    size_t q_bytes = 4 * (size_t)(c.n_tokens * c.n_heads * c.head_dim);
    for (int32_t i = 0; i < N_CHUNKS; i++) {
        w->chunk[i] = guarded_alloc(l->chunk_bytes, i % 2);
        w->chunks[i] = w->chunk[i].data;
    }
    w->k = guarded_alloc(kv_bytes, 0), w->v = guarded_alloc(kv_bytes, 0);
    w->q = guarded_alloc(q_bytes, 0), w->out = guarded_alloc(q_bytes, 0);
    for (size_t i = 0; i < kv_bytes / 4; i++) floats_of(&w->k)[i] = uniform(), floats_of(&w->v)[i] = uniform() * 4;
    for (size_t i = 0; i < q_bytes / 4; i++) floats_of(&w->q)[i] = uniform() * c.size;
}

static void free_world(struct attention_world *w) {
    for (int32_t i = 0; i < N_CHUNKS; i++) guarded_free(&w->chunk[i]);
    guarded_free(&w->k), guarded_free(&w->v), guarded_free(&w->q), guarded_free(&w->out);
}

/* A pass over tokens [first, first + n) of the case's queries. */
static struct attention_job job_of(struct attention_world *w, int32_t first, int32_t n) {
    const struct attention_case *c = &w->c;
    size_t stride = (size_t)(c->n_heads * c->head_dim);
    return (struct attention_job){.q = floats_of(&w->q) + (size_t)first * stride,
                                  .out = floats_of(&w->out) + (size_t)first * stride,
                                  .q_stride = stride,
                                  .out_stride = stride,
                                  .n_heads = c->n_heads,
                                  .window = c->window,
                                  .scale = 1.0f / sqrtf((float)c->head_dim),
                                  .softcap = c->softcap,
                                  .n_tokens = n,
                                  .position = c->length - c->n_tokens + first,
                                  .n_kv_heads = c->n_kv_heads,
                                  .layout = &w->layout,
                                  .chunks = w->chunks};
}

static void append_all(struct attention_world *w, const struct kernels *k) {
    const struct attention_case *c = &w->c;
    struct attention_job job = job_of(w, 0, c->length);
    job.position = 0;
    job.k = floats_of(&w->k), job.v = floats_of(&w->v);
    job.k_stride = job.v_stride = (size_t)(c->n_kv_heads * c->head_dim);
    for (int32_t i = 0; i < N_CHUNKS; i++) memset(w->chunk[i].data, 0, w->chunk[i].bytes);
    int32_t half = c->length / 2 / ATTENTION_ANCHORED * ATTENTION_ANCHORED;
    k->kv_append(&job, 0, half);
    k->kv_append(&job, half, c->length);
}

/* Runs the pass with the tokens in batches, with partials or without. */
static void attend_all(struct attention_world *w, const struct kernels *k, int32_t batch, bool partials) {
    memset(w->out.data, 0xff, w->out.bytes);
    for (int32_t first = 0; first < w->c.n_tokens; first += batch) {
        int32_t n = w->c.n_tokens - first < batch ? w->c.n_tokens - first : batch;
        struct attention_job job = job_of(w, first, n);
        size_t floats = attention_partial_floats(w->c.head_dim), rows = (size_t)(n * w->c.n_heads);
        struct guarded shared = guarded_alloc(4 * floats * rows * (size_t)attention_n_chunks(&job), 0);
        struct guarded scratch = guarded_alloc(4 * attention_scratch_floats(w->c.head_dim), 0);
        int32_t n_items = attention_cut(&job).n_items, prepared = -1;
        job.prepared = &prepared;
        if (partials) job.partials = floats_of(&shared);
        if (partials) n_items *= attention_n_chunks(&job);
        k->attention_chunks(&job, n_items / 3, n_items, scratch.data);
        k->attention_chunks(&job, 0, n_items / 3, scratch.data);
        if (partials) k->attention_merge(&job, 0, (int32_t)rows, scratch.data);
        guarded_free(&shared), guarded_free(&scratch);
    }
}

static void check_attention(struct attention_case c) {
    struct attention_world w;
    static float expected[MAX_Q * 32 * MAX_DIM], golden[MAX_Q * 32 * MAX_DIM];
    build_world(&w, c);
    append_all(&w, kernels_for(ASDSL_LEVEL_REFERENCE));
    struct guarded cache = guarded_alloc(w.layout.chunk_bytes * N_CHUNKS, 0);
    for (int32_t i = 0; i < N_CHUNKS; i++) {
        memcpy(cache.data + (size_t)i * w.layout.chunk_bytes, w.chunks[i], w.layout.chunk_bytes);
    }
    attend_all(&w, kernels_for(ASDSL_LEVEL_REFERENCE), c.n_tokens, false);
    memcpy(expected, w.out.data, w.out.bytes);
    for (int l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        const struct kernels *k = kernels_for(levels[l]);
        append_all(&w, k);
        for (int32_t i = 0; i < N_CHUNKS; i++) {
            CHECK(memcmp(cache.data + (size_t)i * w.layout.chunk_bytes, w.chunks[i], w.layout.chunk_bytes) == 0,
                  "kv_append at level %d: chunk %d differs from the oracle's", levels[l], i);
        }
        for (int32_t batch = 1; batch <= c.n_tokens; batch += batch == 1 ? 2 : c.n_tokens)
            for (int partials = 0; partials < 2; partials++) {
                attend_all(&w, k, batch, partials);
                if (l == 0 && batch == 1 && partials == 0) memcpy(golden, w.out.data, w.out.bytes);
                CHECK(memcmp(golden, w.out.data, w.out.bytes) == 0,
                      "attention %d/%d heads of %d, %d of %d, level %d, batch %d, partials %d: other bits", c.n_heads,
                      c.n_kv_heads, c.head_dim, c.n_tokens, c.length, levels[l], batch, partials);
            }
    }
    /* A score is a chain of head_dim terms of at most size; exp, sums and merges follow; values are at most 4. */
    double score = (c.head_dim + 10) * EPS * sqrt(c.head_dim) * (double)c.size;
    double bound = 4 * 2 * (2 * (score + 0x1p-21) + 2 * (ATTENTION_CHUNK / 4 + 20 + c.length) * EPS), worst = 0;
    /* Of integer weights each is off by up to half a unit, 1 / 255 of the largest of 64 keys': six standard deviations
     * of what they sum to. With size 300 one key takes all, with others no weight is above 8 times the mean. */
    if (c.v_type == ASDSL_Q8_0) {
        double largest = c.size > 1 ? 8 : fmin(8, 8 * 8 / sqrt(c.length)); /* sqrt(64) of them alike; of all keys' */
        bound += 6 * 4 / sqrt(3) / (255 * sqrt(12)) * largest;
    }
    for (size_t i = 0; i < w.out.bytes / 4; i++) {
        double distance = fabs((double)golden[i] - (double)expected[i]);
        worst = fmax(worst, isnan(golden[i]) ? INFINITY : distance);
    }
    CHECK(worst <= bound, "attention %d/%d heads of %d, %d of %d, size %g: off by %g, %g allowed", c.n_heads,
          c.n_kv_heads, c.head_dim, c.n_tokens, c.length, (double)c.size, worst, bound);
    guarded_free(&cache);
    free_world(&w);
}

static void test_attention(void) {
    static const int32_t dims[] = {1, 8, 16, 32, 48, 64, 80, 96, 100, 128, 160, 256};
    static const int32_t heads[][2] = {{1, 1}, {3, 1}, {4, 4}, {6, 2}, {9, 3}, {20, 1}, {32, 4}};
    static const int32_t lengths[] = {1, 2, 15, 16, 17, 40, 255, 256, 257, 300, 511, 512, 513, 1000, 1024};
    static const int32_t tokens[] = {1, 2, 3, 5, 16, 21};
    static const int32_t types[][2] = {
        {ASDSL_Q8_0, ASDSL_Q8_0}, {ASDSL_F16, ASDSL_F16}, {ASDSL_Q8_0, ASDSL_F32}, {ASDSL_F16, ASDSL_Q8_0}};
    int32_t n = 0;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++, n++) {
            const int32_t *h = heads[n % 7];
            int32_t n_tokens = tokens[n % 6] < lengths[l] ? tokens[n % 6] : lengths[l];
            struct attention_case c = {h[0], h[1], dims[d], types[n % 4][0], types[n % 4][1], lengths[l], n_tokens,
                                       0,    0,    1};
            if (n % 3 == 1) c.window = 1 + n % 400;
            if (n % 5 == 2) c.softcap = 5;
            if (n % 7 == 3) c.size = 300; /* one key takes it all */
            if (n % 11 == 4) c.size = 0;  /* all alike */
            check_attention(c);
        }
}

int main(void) {
    usable = usable_levels();
    test_rms_norm();
    test_rope();
    test_top_k();
    test_attention();
    return check_report("kernels_rows");
}
