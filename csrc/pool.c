/* pool.c: workers that spin between runs, a spin barrier, and units dealt out to them as schedule.c says.
 *
 * Measured on the two-core VM of the notes: a spin barrier costs 0.4 us, a futex round trip 90 us. So workers spin for
 * spin_us after a run (the next token comes within that) and only then sleep; barriers inside a run spin, and yield
 * when it takes long or when there are more threads than cores. Every word that several workers write has 128 bytes to
 * itself (cores fetch lines in pairs). All sharing is through C11 atomics.
 *
 * Where neighbours want the cores too, runs are open: workers join when they have a core and leave before they lose it
 * (gate.h). A thread that the system takes off its core in the middle of a unit makes all others wait for milliseconds;
 * one that gives its core up between two units costs its share.
 */
#include "pool.h"
#include "control_word.h"
#include "gate.h"
#include "platform.h"
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    HOT = 128,            /* bytes between words that different workers write */
    BARRIER_SPINS = 4096, /* with a pause each, about 100 us, then yield: the other worker lost its core */
    CROWDED_SPINS = 32,   /* the same when there are more threads than cores: it is likely not running at all */
    SPINS_PER_CLOCK = 64, /* looks at the epoch between two looks at the clock */
    TEAM_BITS = 9,        /* of the word `run`: 0 to POOL_MAX_THREADS */
    OPEN_RUN = 1 << TEAM_BITS,
    RUN_BITS = TEAM_BITS + 1,
};

/* How long a worker of an open run keeps its core: less than a time slice, or the system takes it, which happens in the
 * middle of a unit; not much less, for who yields often is given less. `bench/neighbour.ts -r 3 --stay` 300, 1000,
 * 2500, 10000 (Emerald Rapids, Linux 6.18, 250 Hz, 1.1 B): 59.4, 71.2, 68.9, 62.2 % of the quiet speed. */
#define STAY_NS 1e6

struct pool {
    /* Written by the caller at the start of a run, awaited by the workers: the number of the run << RUN_BITS | OPEN_RUN
     * | how many take part. One word: a worker that is left out, or not a member yet, learns that and nothing else, for
     * the rest may change any time. */
    _Alignas(HOT) atomic_uint run;
    pool_job *job; /* NULL: leave */
    void *context;
    const struct schedule_plan *plan;
    uint32_t phase; /* of the workers at the start of the run; of an open run, of the round */
    double started_ns;
    /* How many workers have gone to sleep on `run`. */
    _Alignas(HOT) atomic_uint sleepers;
    /* Grows when a team does: what workers sleep on that were left out. */
    _Alignas(HOT) atomic_uint recall;
    /* The barrier: arrivals of this round, and the round. */
    _Alignas(HOT) atomic_uint arrived;
    _Alignas(HOT) atomic_uint round;
    /* Of open runs, instead of the two; and whether the caller is in, who never stops before a step's units are done */
    _Alignas(HOT) struct gate gate;
    atomic_bool caller_is_in;
    /* The units behind the bands: phase << 32 | next unit. One word, so that a worker still in an older phase can
     * neither take a unit of a newer one nor set it back: no reset, no barrier for it. */
    _Alignas(HOT) _Atomic uint64_t tail;

    _Alignas(HOT) int32_t n_threads;
    int32_t spin_us;
    double stay_ns;
    int32_t n_started;
    int32_t last_team;
    bool pin;
    struct affinity mask; /* of workers that are not pinned; unknown: as the system gave it */
    struct affinity home; /* of the thread that made the pool */
    struct padded_worker {
        _Alignas(HOT) struct worker w;
        int32_t pinned_to;
        struct schedule_sample sample; /* of the last run */
        /* Of open runs: how long it has been without its core so far, and since when it is, by clock_ns; 0: it is not.
         * For the caller, who asks while it is away. */
        _Atomic uint64_t away_ns, away_since;
        double away_before; /* what the caller knew of it after the run before */
    } workers[POOL_MAX_THREADS], alone;
    int32_t core[POOL_MAX_THREADS];
    struct schedule schedule;
    struct schedule_plan all, one; /* of runs that the schedule has no say in; of `alone` */
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

static int32_t team_of(unsigned run) { return (int32_t)(run & ((1u << TEAM_BITS) - 1)); }

static struct padded_worker *padded(struct worker *w) { return &w->pool->workers[w->index]; }

/* ---- sleeping: until pool->run is no longer `seen` ---- */
static void sleep_while(struct pool *pool, unsigned seen) {
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->run) == seen) word_wait(&pool->run, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
}

/* Until a run that this worker takes part in; its word. Sequentially consistent against start_run: either it sees the
 * new run or its word of recall is old and it does not sleep. */
static unsigned sleep_until_recalled(struct pool *pool, int32_t index) {
    for (;;) {
        unsigned recall = atomic_load(&pool->recall), word = atomic_load(&pool->run);
        if (index < team_of(word)) return word;
        word_wait(&pool->recall, recall);
    }
}

/* Sequentially consistent against sleep_while: either it sees the new run or this sees the sleeper. */
static void start_run(struct pool *pool, int32_t team, bool open) {
    unsigned before = atomic_load_explicit(&pool->run, memory_order_relaxed);
    atomic_store(&pool->run, ((before >> RUN_BITS) + 1) << RUN_BITS | (open ? OPEN_RUN : 0) | (unsigned)team);
    if (atomic_load(&pool->sleepers)) word_wake_all(&pool->run);
    if (team > pool->last_team) {
        atomic_fetch_add(&pool->recall, 1);
        word_wake_all(&pool->recall);
    }
    pool->last_team = team;
}

/* ---- barriers ---- */
/* The i-th look at what another worker has to change first; the next i. It reads nothing that belongs to the run, which
 * may be over. */
static int32_t wait_a_little(const struct worker *w, int32_t i) {
    if (i >= w->spins) {
        thread_yield();
        return i;
    }
    /* No pause at first: 435 against 616 ns where the others are close behind. */
    if (i >= 64) pause_core();
    return i + 1;
}

/* Between two rounds of an open run. */
static void meet(struct worker *w, pool_section *section, void *context, enum gate_state next, bool leaves) {
    struct pool *pool = w->pool;
    uint32_t round;
    enum gate_turn turn = gate_arrive(&pool->gate, leaves, &round);
    if (turn == GATE_LAST) {
        if (section) section(context);
        pool->phase = w->phase;
        gate_release(&pool->gate, next, leaves);
    } else if (turn == GATE_WAITS) {
        for (int32_t i = 0; !gate_moved(&pool->gate, round);) i = wait_a_little(w, i);
    }
    w->has_left = leaves;
}

static void barrier(struct worker *w, pool_section *section, void *context) {
    struct pool *pool = w->pool;
    unsigned round = atomic_load_explicit(&pool->round, memory_order_relaxed);
    if (w->count == 1) {
        if (section) section(context);
        if (pool->n_threads > 1) atomic_store_explicit(&pool->round, round + 1, memory_order_relaxed);
        return;
    }
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == (unsigned)w->count) {
        if (section) section(context);
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->round, round + 1, memory_order_release);
        return;
    }
    for (int32_t i = 0; atomic_load_explicit(&pool->round, memory_order_acquire) == round;) i = wait_a_little(w, i);
}

void worker_barrier(struct worker *w) {
    if (w->plan->open)
        meet(w, NULL, NULL, GATE_CLOSED, false);
    else
        barrier(w, NULL, NULL);
}

void pool_enter(struct worker *w, pool_section *section, void *context) {
    if (w->is_first && section) section(context);
    if (!w->plan->open)
        barrier(w, NULL, NULL);
    else if (w->is_first)
        meet(w, NULL, NULL, GATE_JOINABLE, false);
    w->is_first = false;
}

static bool is_time_up(const struct worker *w) { return clock_ns() >= w->stays_until; }

static void end_step_of_open_run(struct worker *w, pool_section *section, void *context) {
    struct pool *pool = w->pool;
    bool leaves = is_time_up(w);
    if (w->index == 0 && leaves) atomic_store_explicit(&pool->caller_is_in, false, memory_order_relaxed);
    meet(w, section, context, GATE_JOINABLE, leaves);
}

bool pool_end_step(struct worker *w, pool_section *section, void *context) {
    if (w->plan->open)
        end_step_of_open_run(w, section, context);
    else
        barrier(w, section, context);
    return !w->has_left;
}

uint32_t pool_barriers(struct pool *pool) {
    return atomic_load_explicit(&pool->round, memory_order_relaxed) + gate_round(&pool->gate);
}

/* ---- dealing out units ---- */
/* Tests: waits as long as a slower core would still be busy with what it took. */
static void be_slow(struct worker *w) {
    if (!w->slow_since) return;
    uint64_t wait = (clock_ticks() - w->slow_since) * (uint64_t)w->slow_percent / 100;
    for (uint64_t since = clock_ticks(); clock_ticks() - since < wait;) pause_core();
    w->slow_since = 0;
}

void work_begin(struct worker *w, int32_t n, int32_t grain) {
    w->phase++;
    w->band_begin = 0;
    schedule_deal(w->plan, w->index, n, grain, &w->deal);
}

static bool take_band(struct worker *w, int32_t *begin, int32_t *end) {
    struct deal *deal = &w->deal;
    if (deal->band_next >= deal->band_end) return false;
    *begin = deal->band_next;
    *end = deal->band_next = deal->band_end;
    if (deal->timed > 0) w->band_begin = clock_ticks();
    return true;
}

static bool take_of_tail(struct worker *w, int32_t *begin, int32_t *end) {
    const struct deal *deal = &w->deal;
    if (deal->tail_begin >= deal->tail_end) return false;
    struct pool *pool = w->pool;
    uint64_t seen = atomic_load_explicit(&pool->tail, memory_order_relaxed), taken;
    int32_t first, next;
    do {
        int32_t age = (int32_t)(w->phase - (uint32_t)(seen >> 32));
        if (age < 0) return false; /* somebody is in a later phase: he left this one because it was used up */
        first = age == 0 ? (int32_t)(uint32_t)seen : deal->tail_begin;
        int32_t units = schedule_take(w->plan, w->index, deal, first);
        if (units == 0) return false;
        next = first + units;
        taken = (uint64_t)w->phase << 32 | (uint32_t)next;
    } while (
        !atomic_compare_exchange_weak_explicit(&pool->tail, &seen, taken, memory_order_relaxed, memory_order_relaxed));
    *begin = first;
    *end = next;
    return true;
}

/* Whether it leaves the rest of the units to others. Of these only the caller is sure to stay as long as there are any.
 */
static bool stops(const struct worker *w) {
    return w->plan->open && w->index > 0 && atomic_load_explicit(&w->pool->caller_is_in, memory_order_relaxed) &&
           is_time_up(w);
}

bool work_next(struct worker *w, int32_t *begin, int32_t *end) {
    if (w->slow_percent) be_slow(w);
    if (w->band_begin) {
        w->band_ticks += w->deal.timed * (double)(clock_ticks() - w->band_begin);
        w->band_begin = 0;
    }
    bool any = !stops(w) && (take_band(w, begin, end) || take_of_tail(w, begin, end));
    if (any && w->slow_percent) w->slow_since = clock_ticks();
    return any;
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

/* The next run that this worker takes part in. */
static unsigned await_run(struct worker *w, unsigned seen) {
    struct pool *pool = w->pool;
    if (!spin_for_run(pool, seen)) sleep_while(pool, seen);
    unsigned word = atomic_load_explicit(&pool->run, memory_order_acquire);
    return w->index < team_of(word) ? word : sleep_until_recalled(pool, w->index);
}

/* What the run is, for one of its members. */
static void begin_part(struct worker *w) {
    struct pool *pool = w->pool;
    w->plan = pool->plan;
    w->count = w->plan->team;
    w->spins = w->plan->yields ? CROWDED_SPINS : BARRIER_SPINS;
    w->phase = pool->phase;
    w->band_ticks = 0;
    w->slow_since = 0;
    w->has_left = false;
}

/* Time with and without a core is from the start of the run on: waking up may mean waiting for a core. */
static void begin_sample(struct worker *w) {
    struct schedule_sample *sample = &padded(w)->sample;
    sample->lost_ns = thread_cpu_ns();
    sample->wall_ns = w->pool->started_ns;
}

static void end_sample(struct worker *w) {
    struct schedule_sample *sample = &padded(w)->sample;
    double before = sample->lost_ns, now = thread_cpu_ns();
    sample->band_ticks = w->band_ticks;
    sample->wall_ns = clock_ns() - sample->wall_ns;
    sample->lost_ns = before < 0 || now < 0 ? 0 : sample->wall_ns - (now - before);
}

/* The core that a worker is pinned to in the present run; -1: to none. */
static int32_t core_of(const struct pool *pool, const struct schedule_plan *plan, int32_t worker) {
    if (!pool->pin || plan->floats) return -1;
    return pool->core[worker == 0 ? plan->host : worker == plan->host ? 0 : worker];
}

/* A worker of the pool's own, to its core or to all that it may use. */
static void place_worker(struct worker *w, int32_t core) {
    struct pool *pool = w->pool;
    if (core == padded(w)->pinned_to) return;
    padded(w)->pinned_to = core;
    if (core >= 0) {
        thread_pin(core);
    } else {
        affinity_set(pool->mask.known ? &pool->mask : &pool->home);
    }
}

/* ---- open runs ---- */
static void step_aside(struct worker *w) {
    struct padded_worker *p = padded(w);
    double since = clock_ns();
    atomic_store_explicit(&p->away_since, (uint64_t)since, memory_order_relaxed);
    thread_yield();
    double now = clock_ns();
    uint64_t before = atomic_load_explicit(&p->away_ns, memory_order_relaxed);
    atomic_store_explicit(&p->away_ns, before + (uint64_t)(now - since), memory_order_relaxed);
    atomic_store_explicit(&p->away_since, 0, memory_order_relaxed);
    w->stays_until = now + w->pool->stay_ns;
}

/* Since the last call, by the caller's clock. It may be off by one absence; the next call makes up for that. */
static double time_away(struct padded_worker *p) {
    uint64_t since = atomic_load_explicit(&p->away_since, memory_order_relaxed);
    double now = clock_ns(), away = (double)atomic_load_explicit(&p->away_ns, memory_order_relaxed);
    if (since && now > (double)since) away += now - (double)since;
    double grown = away - p->away_before;
    p->away_before = away;
    return grown > 0 ? grown : 0;
}

/* Joins when it has a core. False: the run is over. */
static bool join(struct worker *w) {
    struct pool *pool = w->pool;
    while (!gate_is_over(&pool->gate)) {
        if (is_time_up(w))
            step_aside(w);
        else if (gate_join(&pool->gate))
            return true;
        else
            pause_core();
    }
    return false;
}

/* In and out of an open run until it is over. Nothing of the run may be read but by a member. */
static void take_part(struct worker *w, bool is_member) {
    struct pool *pool = w->pool;
    for (; is_member || join(w); is_member = false) {
        begin_part(w);
        if (w->index == 0)
            atomic_store_explicit(&pool->caller_is_in, true, memory_order_relaxed);
        else
            place_worker(w, core_of(pool, w->plan, w->index));
        pool->job(pool->context, w);
        if (w->has_left) continue;
        meet(w, NULL, NULL, GATE_OVER, false);
        return;
    }
}

/* ---- runs ---- */
static void run_closed(struct worker *w) {
    struct pool *pool = w->pool;
    begin_part(w);
    begin_sample(w);
    if (w->index > 0) place_worker(w, core_of(pool, w->plan, w->index));
    pool->job(pool->context, w);
    end_sample(w);
    barrier(w, NULL, NULL);
}

static void worker_main(void *argument) {
    struct worker *w = argument;
    struct pool *pool = w->pool;
    control_enter();
    if (pool->mask.known) affinity_set(&pool->mask);
    padded(w)->pinned_to = -1;
    if (pool->pin) place_worker(w, pool->core[w->index]);
    for (unsigned seen = 0;;) {
        seen = await_run(w, seen);
        if (seen & OPEN_RUN) {
            take_part(w, false);
        } else {
            if (!pool->job) return;
            run_closed(w);
        }
    }
}

/* Takes the calling thread to where worker 0 belongs. A caller that may not use that core stays where it is allowed to
 * be. False: not moved. */
static bool move_caller(const struct pool *pool, int32_t core, struct affinity *before) {
    if (core >= 0) return affinity_get(before) && affinity_has(before, core) && thread_pin(core);
    return pool->mask.known && affinity_get(before) && affinity_set(&pool->mask);
}

static void run_by_plan(struct pool *pool, const struct schedule_plan *plan, pool_job *job, void *context) {
    struct worker *first = &pool->workers[0].w;
    struct affinity before = {.known = false};
    uint64_t control = control_enter();
    bool moved = move_caller(pool, core_of(pool, plan, 0), &before);
    pool->job = job;
    pool->context = context;
    pool->plan = plan;
    pool->started_ns = clock_ns();
    if (plan->open) gate_open(&pool->gate);
    if (pool->n_threads > 1) start_run(pool, plan->team, plan->open);
    first->is_first = true;
    if (plan->open) {
        begin_sample(first);
        take_part(first, true);
        end_sample(first);
    } else {
        run_closed(first);
        pool->phase = first->phase;
    }
    if (moved) affinity_set(&before);
    control_leave(control);
}

void pool_run(struct pool *pool, pool_job *job, void *context) { run_by_plan(pool, &pool->all, job, context); }

void pool_run_phase(struct pool *pool, enum schedule_phase phase, double work, pool_job *job, void *context) {
    const struct schedule_plan *plan = &pool->schedule.phase[phase].plan;
    struct schedule_sample samples[POOL_MAX_THREADS];
    int32_t team = plan->team;
    run_by_plan(pool, plan, job, context);
    if (pool->n_threads == 1) return;
    for (int32_t i = 0; i < team; i++) {
        samples[i] = pool->workers[i].sample;
        if (plan->open && i > 0) samples[i] = (struct schedule_sample){.lost_ns = time_away(&pool->workers[i])};
    }
    schedule_note(&pool->schedule, phase, samples, work, samples[0].wall_ns, clock_ns());
}

struct pool_standing pool_standing(const struct pool *pool, enum schedule_phase phase, int32_t worker) {
    const struct schedule_state *state = &pool->schedule.phase[phase];
    double sum = 0;
    for (int32_t i = 0; i < pool->n_threads; i++) sum += state->speed[i];
    return (struct pool_standing){state->speed[worker] * pool->n_threads / sum, worker < state->plan.team};
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

/* Half of a P-core is what an E-core reads or multiplies, until it is measured. Where threads are not told where to run
 * nothing is known of any. */
static void init_schedule(struct pool *pool, const struct pool_options *options, const struct placement *placement) {
    double speed[POOL_MAX_THREADS];
    int32_t n = options->n_threads;
    bool crowded = n > placement->n_allowed;
    for (int32_t i = 0; i < n; i++) speed[i] = pool->pin && placement->core[i].kind == CORE_EFFICIENCY ? 0.5 : 1;
    schedule_init(&pool->schedule, n, speed, placement->team, options->compares ? placement->n_teams : 0, crowded);
    pool->stay_ns = options->stay_us ? 1e3 * options->stay_us : STAY_NS;
    if (options->stay_us) schedule_keep_open(&pool->schedule);
    struct schedule constant;
    schedule_init(&constant, n, speed, NULL, 0, crowded);
    pool->all = constant.phase[0].plan;
    schedule_init(&constant, 1, NULL, NULL, 0, false);
    pool->one = constant.phase[0].plan;
    /* Spinning takes the core from whom it waits for when cores are short. */
    pool->spin_us = options->spin_us >= 0 ? options->spin_us : crowded ? 50 : POOL_SPIN_US;
}

static void init_workers(struct pool *pool, const struct pool_options *options, const struct placement *placement) {
    int32_t n = options->n_threads;
    pool->alone.w = (struct worker){.pool = pool, .count = 1, .plan = &pool->one};
    for (int32_t i = 0; i < n; i++) {
        pool->core[i] = pool->pin ? placement->core[i].id : -1;
        pool->workers[i].w = (struct worker){.pool = pool, .index = i, .count = n, .plan = &pool->all};
    }
    pool->workers[n - 1].w.slow_percent = options->slow_percent;
}

struct pool *pool_create(const struct pool_options *options, const struct placement *placement) {
    int32_t n_threads = options->n_threads;
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: %d threads, 1 to %d are possible", n_threads, POOL_MAX_THREADS);
        return NULL;
    }
    struct pool *pool = pages_allocate(sizeof *pool); /* zeroed: every atomic starts at 0 */
    if (!pool) {
        asdsl_fail(ASDSL_E_MEMORY, "engine: the system refused %zu bytes", sizeof *pool);
        return NULL;
    }
    pool->n_threads = pool->last_team = n_threads;
    /* A caller that works alone may stay where it is. */
    pool->pin = options->pin && placement->pinned && n_threads <= placement->n && (n_threads > 1 || options->mask);
    if (options->mask) pool->mask = *options->mask;
    affinity_get(&pool->home);
    init_schedule(pool, options, placement);
    init_workers(pool, options, placement);
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
    start_run(pool, pool->n_threads, false);
    for (int32_t i = 1; i < pool->n_started; i++) thread_join(&pool->threads[i]);
    pages_free(pool->scratch, pool->scratch_bytes * (size_t)pool->n_threads);
    pages_free(pool, sizeof *pool);
}
