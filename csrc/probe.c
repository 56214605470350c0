/* probe.c: the machine's two limits, measured with the engine's own threads: read bandwidth and the int8 rate. */
#include "program.h"
#include <string.h>

/* No third cache keeps it from pass to pass: of 1 GB the probe says the same on a VM that sees 260 MB of one. */
#define PROBE_BYTES ((size_t)256 << 20)

/* A core has few lines under way that it loads, and more that it asks for ahead; which way is faster depends on the
 * processor, so passes alternate: on an Emerald Rapids VM products, which ask ahead, read more than plain loads can.
 * FETCH_AHEAD is theirs (PREFETCH_AHEAD in kernels/matmul.h). */
enum { PASSES = 10, FETCH_AHEAD = 6144 };

struct padded_double {
    _Alignas(128) double value;
};

struct bandwidth {
    uint8_t *data;
    struct padded_double sum[POOL_MAX_THREADS]; /* escapes: the reads cannot be left out */
};

/* Bytes of one worker: fixed equal shares, whole pages. */
static void share_of(const struct worker *w, size_t *begin, size_t *end) {
    size_t pages = PROBE_BYTES / 4096;
    *begin = pages * (size_t)w->index / (size_t)w->count * 4096;
    *end = pages * ((size_t)w->index + 1) / (size_t)w->count * 4096;
}

static void fill_share(void *context, struct worker *w) {
    struct bandwidth *b = context;
    size_t begin, end;
    share_of(w, &begin, &end);
    memset(b->data + begin, 1, end - begin); /* each worker's pages are its own from the first touch */
}

/* Eight sums of 8 bytes: the compiler makes vectors of them; any vector width outruns memory. */
static inline void read_lines(struct bandwidth *b, const struct worker *w, bool fetches) {
    uint64_t sums[8] = {0};
    size_t begin, end;
    share_of(w, &begin, &end);
    for (const uint8_t *at = b->data + begin; at < b->data + end; at += 64) {
        uint64_t line[8];
        if (fetches) __builtin_prefetch(at + FETCH_AHEAD, 0, 2);
        memcpy(line, at, 64);
        for (int i = 0; i < 8; i++) sums[i] += line[i];
    }
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum += sums[i];
    b->sum[w->index].value += (double)(sum & 0xffff);
}
static void read_share(void *context, struct worker *w) { read_lines(context, w, false); }
static void read_share_ahead(void *context, struct worker *w) { read_lines(context, w, true); }

static double probe_bandwidth(struct engine *engine) {
    struct bandwidth b = {.data = pages_allocate(PROBE_BYTES)};
    volatile double escaped = 0;
    double best = 0;
    if (!b.data) return asdsl_fail(ASDSL_E_MEMORY, "probe: the system refused %zu bytes", PROBE_BYTES);
    pool_run(engine->pool, fill_share, &b);
    for (int pass = 0; pass < PASSES; pass++) {
        double since = clock_ns();
        pool_run(engine->pool, pass % 2 ? read_share_ahead : read_share, &b);
        double rate = (double)PROBE_BYTES / (clock_ns() - since) * 1e9;
        if (rate > best) best = rate;
    }
    for (int32_t i = 0; i < pool_threads(engine->pool); i++) escaped += b.sum[i].value;
    pages_free(b.data, PROBE_BYTES);
    return best;
}

struct peak {
    int8_peak_fn *fn;
    int64_t iterations;
    struct padded_double done[POOL_MAX_THREADS];
};

static void run_peak(void *context, struct worker *w) {
    struct peak *p = context;
    p->done[w->index].value = p->fn(p->iterations);
}

static double probe_peak(struct engine *engine) {
    struct peak p = {.fn = engine->kernels->int8_peak, .iterations = 1000};
    double best = 0;
    if (!p.fn) return asdsl_fail(ASDSL_E_UNSUPPORTED, "probe: level %s has no int8 peak", engine->kernels->level);
    /* Longer and longer until one measurement takes 20 ms: the clock's frequency has settled by then. */
    for (int32_t measured = 0; measured < 5;) {
        double since = clock_ns(), done = 0;
        pool_run(engine->pool, run_peak, &p);
        double ns = clock_ns() - since;
        for (int32_t i = 0; i < pool_threads(engine->pool); i++) done += p.done[i].value;
        if (ns < 20e6 && p.iterations < INT64_MAX / 4) {
            p.iterations *= ns < 2e6 ? 4 : 2;
            continue;
        }
        if (done / ns * 1e9 > best) best = done / ns * 1e9;
        measured++;
    }
    return best;
}

double engine_probe(struct engine *engine, int32_t kind) {
    double result;
    mutex_lock(&engine->lock);
    switch (kind) {
    case ASDSL_PROBE_READ_BANDWIDTH: result = probe_bandwidth(engine); break;
    case ASDSL_PROBE_INT8_PEAK: result = probe_peak(engine); break;
    default: result = asdsl_fail(ASDSL_E_ARGUMENT, "probe: kind %d is not known, 0 and 1 are", kind);
    }
    mutex_unlock(&engine->lock);
    return result;
}
