/* pool.c: workers that spin between runs, a spin barrier, and the dealing out of units.
 *
 * Measured on the two-core VM of the notes: a spin barrier costs 0.4 us, a futex round trip 90 us. So workers spin for
 * spin_us after a run (the next token comes within that) and only then sleep; barriers inside a run spin, and yield
 * when it takes long or when there are more threads than cores. Every word that several workers write has 128 bytes to
 * itself (cores fetch lines in pairs). All sharing is through C11 atomics.
 */
#include "pool.h"
#include "platform.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    HOT = 128,            /* bytes between words that different workers write */
    BARRIER_SPINS = 4096, /* with a pause each, about 100 us, then yield: the other worker lost its core */
    CROWDED_SPINS = 32,   /* the same when there are more threads than cores: it is likely not running at all */
    SPINS_PER_CLOCK = 64, /* looks at the epoch between two looks at the clock */
    BAND_PERCENT = 85,    /* of the units are dealt out in fixed bands, DESIGN decision 3 */
};

struct pool {
    /* Written by the caller at the start of a run, awaited by the workers. */
    _Alignas(HOT) atomic_uint run;
    pool_job *job; /* NULL: leave */
    void *context;
    /* How many workers have gone to sleep on `run`. */
    _Alignas(HOT) atomic_uint sleepers;
    /* The barrier: arrivals of this round, and the round. */
    _Alignas(HOT) atomic_uint arrived;
    _Alignas(HOT) atomic_uint round;
    /* The units behind the bands: phase << 32 | next unit. One word, so that a worker still in an older phase can
     * neither take a unit of a newer one nor set it back: no reset, no barrier for it. */
    _Alignas(HOT) _Atomic uint64_t tail;

    _Alignas(HOT) int32_t n_threads;
    int32_t spin_us;
    int32_t barrier_spins;
    int32_t n_started;
    bool pin;
    struct affinity mask; /* of workers that are not pinned; unknown: as the system gave it */
    struct padded_worker {
        _Alignas(HOT) struct worker w;
    } workers[POOL_MAX_THREADS], alone;
    int32_t core[POOL_MAX_THREADS];
    struct thread threads[POOL_MAX_THREADS]; /* [0] unused: the caller */
    void *scratch;
    size_t scratch_bytes; /* of one worker */
};

uint64_t clock_ticks(void) {
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return (uint64_t)clock_ns();
#endif
}

static inline void pause_core(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* ---- floating-point control: round to nearest, subnormals kept, no traps; the same on every engine thread, or results
 * would depend on what the program around the engine had set ---- */
static uint64_t control_enter(void) {
#if defined(__x86_64__)
    uint32_t old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
#elif defined(__aarch64__)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(0)));
    return old;
#else
    return 0;
#endif
}

static void control_leave(uint64_t old) {
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    (void)old;
#endif
}

/* ---- sleeping: until pool->run is no longer `seen` ---- */
static void sleep_while(struct pool *pool, unsigned seen) {
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->run) == seen) word_wait(&pool->run, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
}

/* Sequentially consistent against sleep_while: either it sees the new run or this sees the sleeper. */
static void wake_all(struct pool *pool) {
    atomic_fetch_add(&pool->run, 1);
    if (atomic_load(&pool->sleepers)) word_wake_all(&pool->run);
}

/* ---- barrier ---- */
void pool_barrier(struct worker *w, pool_section *section, void *context) {
    struct pool *pool = w->pool;
    if (w->count == 1) {
        if (section) section(context);
        return;
    }
    unsigned round = atomic_load_explicit(&pool->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == (unsigned)w->count) {
        if (section) section(context);
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->round, round + 1, memory_order_release);
        return;
    }
    for (int32_t i = 0; atomic_load_explicit(&pool->round, memory_order_acquire) == round;) {
        if (i < pool->barrier_spins) {
            /* No pause at first: 435 against 616 ns where the others are close behind. */
            if (i++ >= 64) pause_core();
        } else {
            thread_yield();
        }
    }
}

void worker_barrier(struct worker *w) { pool_barrier(w, NULL, NULL); }

uint32_t pool_barriers(struct pool *pool) { return atomic_load_explicit(&pool->round, memory_order_relaxed); }

/* ---- dealing out units ---- */
void work_begin(struct worker *w, int32_t n, int32_t grain) {
    int64_t banded = w->count == 1 ? n : (int64_t)n * BAND_PERCENT / 100;
    w->phase++;
    w->grain = grain < 1 ? 1 : grain;
    w->band_next = (int32_t)(banded * w->index / w->count);
    w->band_end = (int32_t)(banded * (w->index + 1) / w->count);
    w->tail_end = n;
    w->tail_begin = (int32_t)banded;
}

bool work_next(struct worker *w, int32_t *begin, int32_t *end) {
    if (w->band_next < w->band_end) {
        *begin = w->band_next;
        *end = w->band_next = w->band_end;
        return true;
    }
    if (w->tail_begin >= w->tail_end) return false;
    struct pool *pool = w->pool;
    uint64_t seen = atomic_load_explicit(&pool->tail, memory_order_relaxed), taken;
    int32_t first, next;
    do {
        int32_t age = (int32_t)(w->phase - (uint32_t)(seen >> 32));
        if (age < 0) return false; /* somebody is in a later phase: he left this one because it was used up */
        first = age == 0 ? (int32_t)(uint32_t)seen : w->tail_begin;
        if (first >= w->tail_end) return false;
        /* At most half of an equal share of what is left: the last units are small, and nobody waits long for them. */
        int32_t unit = (w->tail_end - first) / (2 * w->count);
        unit = unit > w->grain ? w->grain : unit < 1 ? 1 : unit;
        next = first + unit;
        taken = (uint64_t)w->phase << 32 | (uint32_t)next;
    } while (
        !atomic_compare_exchange_weak_explicit(&pool->tail, &seen, taken, memory_order_relaxed, memory_order_relaxed));
    *begin = first;
    *end = next;
    return true;
}

/* ---- threads ---- */
/* True when a run after `seen` has begun within the spinning time. */
static bool spin_for_run(struct pool *pool, unsigned seen) {
    double until = 0;
    for (;;) {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(&pool->run, memory_order_acquire) != seen) return true;
            pause_core();
        }
        double now = clock_ns();
        if (until == 0) until = now + 1e3 * pool->spin_us;
        if (now >= until) return false;
    }
}

static void worker_main(void *argument) {
    struct worker *w = argument;
    struct pool *pool = w->pool;
    control_enter();
    if (pool->pin) {
        thread_pin(pool->core[w->index]);
    } else {
        affinity_set(&pool->mask);
    }
    for (unsigned seen = 0;; seen++) {
        if (!spin_for_run(pool, seen)) sleep_while(pool, seen);
        if (!pool->job) return;
        pool->job(pool->context, w);
        worker_barrier(w);
    }
}

/* Takes the calling thread to where worker 0 belongs. A caller that may not use that core stays where it is allowed to
 * be. False: not moved. */
static bool move_caller(const struct pool *pool, struct affinity *before) {
    if (pool->mask.known && !pool->pin) return affinity_get(before) && affinity_set(&pool->mask);
    return pool->pin && affinity_get(before) && affinity_has(before, pool->core[0]) && thread_pin(pool->core[0]);
}

void pool_run(struct pool *pool, pool_job *job, void *context) {
    struct affinity before = {.known = false};
    uint64_t control = control_enter();
    bool moved = move_caller(pool, &before);
    pool->job = job;
    pool->context = context;
    if (pool->n_threads > 1) wake_all(pool);
    job(context, &pool->workers[0].w);
    worker_barrier(&pool->workers[0].w);
    if (moved) affinity_set(&before);
    control_leave(control);
}

void pool_run_alone(pool_section *section, void *context) {
    uint64_t control = control_enter();
    section(context);
    control_leave(control);
}

struct worker *pool_alone(struct pool *pool) { return &pool->alone.w; }

int32_t pool_threads(const struct pool *pool) { return pool->n_threads; }

int32_t pool_core(const struct pool *pool, int32_t worker) { return pool->core[worker]; }

bool pool_reserve_scratch(struct pool *pool, size_t bytes) {
    if (bytes <= pool->scratch_bytes) return true;
    if (bytes > SIZE_MAX / 4 / POOL_MAX_THREADS) return false;
    bytes = (bytes + 4095) / 4096 * 4096;
    uint8_t *scratch = pages_allocate(bytes * (size_t)pool->n_threads);
    if (!scratch) return false;
    pages_free(pool->scratch, pool->scratch_bytes * (size_t)pool->n_threads);
    pool->scratch = scratch;
    pool->scratch_bytes = bytes;
    for (int32_t i = 0; i < pool->n_threads; i++) {
        pool->workers[i].w.scratch = scratch + bytes * (size_t)i;
        pool->workers[i].w.scratch_bytes = bytes;
    }
    pool->alone.w.scratch = scratch;
    pool->alone.w.scratch_bytes = bytes;
    return true;
}

static bool start_threads(struct pool *pool) {
    for (pool->n_started = 1; pool->n_started < pool->n_threads; pool->n_started++) {
        int32_t i = pool->n_started;
        if (!thread_start(&pool->threads[i], worker_main, &pool->workers[i].w)) return false;
    }
    return true;
}

struct pool *pool_create(const struct pool_options *options, const struct placement *placement) {
    int32_t n_threads = options->n_threads, spin_us = options->spin_us;
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: %d threads, 1 to %d are possible", n_threads, POOL_MAX_THREADS);
        return NULL;
    }
    struct pool *pool = pages_allocate(sizeof *pool); /* zeroed: every atomic starts at 0 */
    if (!pool) {
        asdsl_fail(ASDSL_E_MEMORY, "engine: the system refused %zu bytes", sizeof *pool);
        return NULL;
    }
    bool crowded = n_threads > placement->n_allowed;
    pool->n_threads = n_threads;
    /* Spinning takes the core from whom it waits for when cores are short. */
    pool->spin_us = spin_us >= 0 ? spin_us : crowded ? 50 : POOL_SPIN_US;
    pool->barrier_spins = crowded ? CROWDED_SPINS : BARRIER_SPINS;
    /* A caller that works alone may stay where it is. */
    pool->pin = options->pin && placement->pinned && n_threads <= placement->n && (n_threads > 1 || options->mask);
    if (options->mask) pool->mask = *options->mask;
    pool->alone.w = (struct worker){.pool = pool, .count = 1};
    for (int32_t i = 0; i < n_threads; i++) {
        pool->core[i] = pool->pin ? placement->core[i].id : -1;
        pool->workers[i].w = (struct worker){.pool = pool, .index = i, .count = n_threads};
    }
    if (!start_threads(pool)) {
        asdsl_fail(ASDSL_E_MEMORY, "engine: the system refused thread %d of %d: %s", pool->n_started + 1, n_threads,
                   platform_error());
        pool_destroy(pool);
        return NULL;
    }
    return pool;
}

void pool_destroy(struct pool *pool) {
    if (!pool) return;
    pool->job = NULL;
    wake_all(pool);
    for (int32_t i = 1; i < pool->n_started; i++) thread_join(&pool->threads[i]);
    pages_free(pool->scratch, pool->scratch_bytes * (size_t)pool->n_threads);
    pages_free(pool, sizeof *pool);
}
