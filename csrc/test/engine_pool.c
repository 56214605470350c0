/* engine_pool.c: every unit exactly once, barriers that hold, sleep and waking, what a run gives back to its caller.
 *
 * Oracles: counts per unit; values that only a barrier makes visible; the affinity and control word from before.
 */
#include "../pool.h"
#include "check.h"
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MAX_UNITS = 5000, MAX_WORKERS = 5, BARRIERS = 3000 };

static struct placement cores;

static struct pool *make(int32_t n_threads, int32_t spin_us, bool pin) {
    struct pool *pool =
        pool_create(&(struct pool_options){.n_threads = n_threads, .spin_us = spin_us, .pin = pin}, &cores);
    CHECK(pool, "%s", asdsl_last_error());
    return pool;
}

/* ---- distribution ---- */
static struct dealing {
    int32_t n[3], grain;
    atomic_uchar taken[3][MAX_UNITS];
} dealing;

/* Three rounds without a barrier between them: a worker may be far ahead of another. */
static void take_units(void *context, struct worker *w) {
    (void)context;
    for (int round = 0; round < 3; round++) {
        int32_t begin, end;
        work_begin(w, dealing.n[round], dealing.grain);
        while (work_next(w, &begin, &end)) {
            CHECK(begin >= 0 && begin < end && end <= dealing.n[round], "[%d, %d) of %d", begin, end, dealing.n[round]);
            for (int32_t i = begin; i < end; i++)
                atomic_fetch_add_explicit(&dealing.taken[round][i], 1, memory_order_relaxed);
        }
    }
}

static void test_distribution(void) {
    static const int32_t sizes[] = {0, 1, 2, 3, 7, 16, 36, 37, 100, 1023, MAX_UNITS};
    static const int32_t grains[] = {1, 2, 3, 8, 100};
    for (int32_t threads = 1; threads <= MAX_WORKERS; threads++) {
        struct pool *pool = make(threads, 200, false);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++) {
                memset(&dealing, 0, sizeof dealing);
                dealing.grain = grains[g];
                for (int round = 0; round < 3; round++) dealing.n[round] = sizes[(s + (size_t)round * 3) % 11];
                pool_run(pool, take_units, NULL);
                for (int round = 0; round < 3; round++) {
                    int wrong = 0;
                    for (int32_t i = 0; i < MAX_UNITS; i++) {
                        wrong += atomic_load(&dealing.taken[round][i]) != (i < dealing.n[round]);
                    }
                    CHECK(wrong == 0, "%d threads, %d units by %d: %d not taken once", threads, dealing.n[round],
                          grains[g], wrong);
                }
            }
        pool_destroy(pool);
    }
}

/* ---- barriers ---- */
static struct padded_word {
    _Alignas(128) uint32_t value; /* not atomic on purpose: only the barrier orders it (TSan looks on) */
} words[MAX_WORKERS];

static void cross_barriers(void *context, struct worker *w) {
    int *wrong = context;
    for (uint32_t i = 1; i <= BARRIERS; i++) {
        words[w->index].value = i;
        worker_barrier(w);
        for (int32_t j = 0; j < w->count; j++)
            if (words[j].value != i && w->index == 0) (*wrong)++;
        worker_barrier(w);
    }
}

static void test_barriers(void) {
    for (int32_t threads = 1; threads <= MAX_WORKERS; threads++) {
        int wrong = 0;
        struct pool *pool = make(threads, -1, true);
        for (int run = 0; run < 3; run++) pool_run(pool, cross_barriers, &wrong);
        pool_destroy(pool);
        CHECK(wrong == 0, "%d threads: %d stale reads after a barrier", threads, wrong);
    }
}

/* ---- teams ---- */
enum { TEAM_RUNS = 120, RUN_NS = 600000 }; /* shorter runs teach nothing */

static struct {
    atomic_int workers, units;
    int32_t team; /* as worker 0 was told */
    bool open;    /* likewise: beside a neighbour, where there is a core for each, workers may come and go */
} turn;

static void work_in_team(void *context, struct worker *w) {
    int32_t begin, end, n = *(int32_t *)context;
    atomic_fetch_add(&turn.workers, 1);
    if (w->index == 0) turn.team = w->count, turn.open = w->plan->open;
    for (double until = clock_ns() + RUN_NS; clock_ns() < until;) thread_yield();
    pool_enter(w, NULL, NULL);
    work_begin(w, n, 3);
    while (work_next(w, &begin, &end)) atomic_fetch_add(&turn.units, end - begin);
    worker_barrier(w);
}

/* Teams are compared in turns, so workers are left out and called back, between runs of all; one of them is slow. */
static void test_teams(void) {
    static struct placement placement;
    int32_t seen[4] = {0};
    placement = cores;
    placement.n_teams = 3, placement.team[0] = 1, placement.team[1] = 2, placement.team[2] = 3;
    struct pool_options options = {.n_threads = 3, .spin_us = 100, .compares = true, .slow_percent = 50};
    struct pool *pool = pool_create(&options, &placement);
    CHECK(pool, "%s", asdsl_last_error());
    for (int32_t i = 0; i < TEAM_RUNS; i++) {
        int32_t n = i * 13 % 500;
        bool of_all = i % 7 == 6;
        atomic_store(&turn.workers, 0), atomic_store(&turn.units, 0);
        if (of_all)
            pool_run(pool, work_in_team, &n);
        else
            pool_run_phase(pool, PHASE_DECODE, 1, work_in_team, &n);
        CHECK((atomic_load(&turn.workers) == turn.team || turn.open) && atomic_load(&turn.units) == n,
              "%d of a team of %d worked, %d units of %d", atomic_load(&turn.workers), turn.team,
              atomic_load(&turn.units), n);
        CHECK(!of_all || turn.team == 3, "%d of 3 in a run of all", turn.team);
        if (!of_all) seen[turn.team]++;
    }
    CHECK(seen[1] && seen[2] && seen[3], "teams of 1, 2, 3: %d, %d, %d runs", seen[1], seen[2], seen[3]);
    int32_t taking_part = 0;
    for (int32_t i = 0; i < 3; i++) taking_part += pool_standing(pool, PHASE_DECODE, i).takes_part;
    CHECK(taking_part >= 1 && pool_standing(pool, PHASE_DECODE, 0).takes_part, "%d take part", taking_part);
    pool_destroy(pool);
}

static void count_worker(void *context, struct worker *w) {
    (void)w;
    atomic_fetch_add((atomic_int *)context, 1);
}

/* ---- open runs ---- */
enum { OPEN_STEPS = 40, OPEN_UNITS = 60, OPEN_RUNS = 30, UNIT_NS = 2000, OPEN_STAY_US = 10 };

/* Plain words on purpose: only joining, leaving and what lies between steps order them (TSan looks on). */
static struct {
    int32_t step, done[OPEN_UNITS], seen[OPEN_UNITS], wrong;
    atomic_int entries, leaves;
} steps;

static int32_t units_of(int32_t step) { return step * 7 % (OPEN_UNITS + 1); }

/* Every other step has a second part, which reads what others did in the first. */
static bool has_parts(int32_t step) { return step % 2; }

static void end_of_step(void *context) {
    (void)context;
    for (int32_t i = 0, n = units_of(steps.step); i < n; i++) {
        steps.wrong += steps.done[i] != 1 || steps.seen[i] != has_parts(steps.step);
        steps.done[i] = steps.seen[i] = 0;
    }
    steps.step++;
}

static void do_units(struct worker *w, bool second_part) {
    int32_t begin, end, n = units_of(steps.step);
    work_begin(w, n, 4);
    while (work_next(w, &begin, &end))
        for (int32_t i = begin; i < end; i++) {
            for (double until = clock_ns() + UNIT_NS; clock_ns() < until;) continue;
            if (second_part)
                steps.seen[i] += steps.done[n - 1 - i];
            else
                steps.done[i]++;
        }
}

static void first_step(void *context) {
    (void)context;
    steps.step++; /* from 0, which has no units, to 1: once a run */
}

static void walk_steps(void *context, struct worker *w) {
    (void)context;
    atomic_fetch_add(&steps.entries, 1);
    pool_enter(w, first_step, NULL);
    while (steps.step < OPEN_STEPS) {
        do_units(w, false);
        if (has_parts(steps.step)) {
            worker_barrier(w);
            do_units(w, true);
        }
        if (pool_end_step(w, end_of_step, NULL)) continue;
        atomic_fetch_add(&steps.leaves, 1);
        return;
    }
}

/* Workers come and go all the time; runs of all lie between, and times in which they fall asleep. */
static void test_open_runs(void) {
    for (int32_t threads = 1; threads <= MAX_WORKERS; threads++) {
        struct pool_options options = {.n_threads = threads, .spin_us = 20, .pin = true, .stay_us = OPEN_STAY_US};
        struct pool *pool = pool_create(&options, &cores);
        int entries = 0, leaves = 0, wrong = 0, expected = 0;
        atomic_int others = 0;
        for (int run = 0; run < OPEN_RUNS; run++) {
            memset(&steps, 0, sizeof steps);
            pool_run_phase(pool, PHASE_DECODE, 1, walk_steps, NULL);
            wrong += steps.wrong + (steps.step != OPEN_STEPS);
            entries += atomic_load(&steps.entries), leaves += atomic_load(&steps.leaves);
            if (run % 3 == 0) pool_run(pool, count_worker, &others), expected += threads;
            for (double until = clock_ns() + run % 5 * 50e3; clock_ns() < until;) thread_yield();
        }
        pool_destroy(pool);
        CHECK(wrong == 0, "%d threads: %d units not done once, or read too early", threads, wrong);
        CHECK(atomic_load(&others) == expected, "%d threads: %d calls of %d", threads, atomic_load(&others), expected);
        CHECK(threads == 1 ? entries == OPEN_RUNS && leaves == 0 : entries > OPEN_RUNS && leaves > 0,
              "%d threads came %d times in %d runs, and left %d times", threads, entries, OPEN_RUNS, leaves);
    }
}

/* ---- lives ---- */
static void test_lives(void) {
    atomic_int count = 0;
    int expected = 0;
    for (int i = 0; i < 1000; i++) {
        int32_t threads = 1 + i % 4;
        struct pool *pool = make(threads, i % 3 == 0 ? 0 : 50, i % 2);
        for (int run = 0; run < i % 3; run++, expected += threads) pool_run(pool, count_worker, &count);
        pool_destroy(pool);
    }
    CHECK(atomic_load(&count) == expected, "%d of %d worker calls", atomic_load(&count), expected);
    const int32_t impossible[] = {0, 100000};
    for (int i = 0; i < 2; i++) {
        CHECK(!pool_create(&(struct pool_options){.n_threads = impossible[i], .pin = true}, &cores), "a pool of %d",
              impossible[i]);
    }
    CHECK(strstr(asdsl_last_error(), "100000"), "%s", asdsl_last_error());
}

/* Workers asleep, half asleep and awake at the start of a run. */
static void test_sleep(void) {
    atomic_int count = 0;
    for (int32_t spin_us = 0; spin_us <= 400; spin_us += 200) {
        struct pool *pool = make(3, spin_us, false);
        for (int i = 0; i < 150; i++) {
            for (double until = clock_ns() + i % 3 * 150e3; clock_ns() < until;) thread_yield();
            pool_run(pool, count_worker, &count);
        }
        pool_destroy(pool);
    }
    CHECK(atomic_load(&count) == 3 * 3 * 150, "%d worker calls", atomic_load(&count));
}

/* ---- what a run leaves behind ---- */
#if defined(__x86_64__)
/* MXCSR without its sticky flags. STRANGE: subnormals flushed, rounding to zero. */
enum { CONTROL = 0x1f80, STRANGE = 0x1f80 | 0x8000 | 0x40 | 0x6000 };
static uint32_t get_control(void) { return _mm_getcsr() & ~0x3fu; }
static void set_control(uint32_t word) { _mm_setcsr(word); }
#else
/* FPCR. STRANGE: subnormals flushed, NaN without payload, rounding to zero. */
enum { CONTROL = 0, STRANGE = 1 << 24 | 1 << 25 | 3 << 22 };
static uint32_t get_control(void) {
    uint64_t word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return (uint32_t)word;
}
static void set_control(uint32_t word) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)word)); }
#endif

static void look_at_control(void *context, struct worker *w) {
    (void)context;
    volatile float smallest = 1e-38f; /* normal; a hundredth of it is not */
    CHECK(get_control() == CONTROL, "worker %d: control word 0x%x", w->index, get_control());
    CHECK(smallest * 0.01f > 0, "worker %d: subnormals are flushed", w->index);
}

static void test_control_word(void) {
    uint32_t before = get_control();
    struct pool *pool = make(2, -1, true);
    set_control(STRANGE);
    pool_run(pool, look_at_control, NULL);
    uint32_t after = get_control();
    set_control(before);
    CHECK(after == STRANGE, "control word 0x%x became 0x%x", STRANGE, after);
    pool_destroy(pool);
    /* A pool created under a strange word. */
    set_control(STRANGE);
    pool = make(2, -1, true);
    set_control(before);
    pool_run(pool, look_at_control, NULL);
    pool_destroy(pool);
}

static void look_at_affinity(void *context, struct worker *w) {
    struct affinity now;
    int32_t allowed = 0;
    (void)context;
    if (!affinity_get(&now)) return;
    for (int32_t i = 0; i < MAX_CORES; i++) allowed += affinity_has(&now, i);
    CHECK(allowed == 1 && affinity_has(&now, cores.core[w->index].id), "worker %d may run on %d cores", w->index,
          allowed);
}

static void test_affinity(void) {
    struct affinity before, after;
    if (!affinity_get(&before) || cores.n < 2) return;
    struct pool *pool = make(2, -1, true);
    for (int i = 0; i < 100; i++) pool_run(pool, i % 2 ? look_at_affinity : cross_barriers, &(int){0});
    affinity_get(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0, "the caller's affinity changed");
    /* A caller that may not use the first core is left where it is. */
    thread_pin(cores.core[1].id);
    atomic_int count = 0;
    pool_run(pool, count_worker, &count);
    affinity_get(&after);
    CHECK(affinity_has(&after, cores.core[1].id) && !affinity_has(&after, cores.core[0].id),
          "a restricted caller was moved");
    affinity_set(&before);
    pool_destroy(pool);
}

static void write_scratch(void *context, struct worker *w) {
    size_t bytes = *(size_t *)context;
    CHECK(w->scratch_bytes >= bytes && (uintptr_t)w->scratch % 64 == 0, "worker %d: %zu bytes", w->index,
          w->scratch_bytes);
    memset(w->scratch, w->index + 1, bytes);
    worker_barrier(w);
    const uint8_t *scratch = w->scratch;
    CHECK(scratch[0] == w->index + 1 && scratch[bytes - 1] == w->index + 1, "worker %d shares its scratch", w->index);
}

static void test_scratch(void) {
    struct pool *pool = make(3, -1, false);
    for (size_t bytes = 1; bytes < 1 << 20; bytes = bytes * 3 + 5) {
        CHECK(pool_reserve_scratch(pool, bytes), "%zu bytes refused", bytes);
        pool_run(pool, write_scratch, &bytes);
    }
    CHECK(!pool_reserve_scratch(pool, SIZE_MAX / 8), "an impossible scratch");
    pool_destroy(pool);
}

int main(void) {
    cpu_placement(NULL, &cores);
    CHECK(cores.n >= 1 && cores.n_allowed >= 1 && cores.n_physical >= 1, "cores %d", cores.n);
    test_distribution();
    test_barriers();
    test_teams();
    test_open_runs();
    test_lives();
    test_sleep();
    test_control_word();
    test_affinity();
    test_scratch();
    return check_report("engine_pool");
}
