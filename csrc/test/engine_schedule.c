/* engine_schedule.c: the scheduler on machines that nobody here owns: a simulation of cores of different speed, noise,
 * stolen time and neighbours around the very code that the pool runs (schedule.c).
 *
 * Oracle: the ideal finish time, the work divided by the speed of all cores of the best team, as if it were a fluid.
 * Machines are those of test/fixtures/machines (their lines `speed`), whose placement test/checkpoint-4.test.ts checks.
 */
#include "../schedule.h"
#include "check.h"
#include <stdlib.h>
#include <string.h>

static const char folder[] = "test/fixtures/machines";

/* ---- machines ---- */
struct machine {
    int32_t n_workers, n_performance, n_teams, team[SCHEDULE_MAX_TEAMS];
    double efficiency; /* speed of an E-core; a P-core's is 1 */
    double memory;     /* what memory feeds in decode, in P-cores; 0: all of them */
    double noise;      /* of a unit's time, standard deviation */
    double stolen;     /* of every core's time, in slices */
    double slow_last;  /* how many times slower the last worker is than its core; 0: not at all */
};

static int32_t count_list(const char *list) { /* "0 2 4-7" */
    int32_t n = 0;
    for (char *at = (char *)(uintptr_t)list; *at >= '0' && *at <= '9';) {
        long first = strtol(at, &at, 10), last = *at == '-' ? strtol(at + 1, &at, 10) : first;
        n += (int32_t)(last - first + 1);
        if (*at == ' ') at++;
    }
    return n;
}

static const char *after(const char *line, const char *key) {
    size_t n = strlen(key);
    return strncmp(line, key, n) == 0 ? line + n : NULL;
}

static void read_line(struct machine *m, const char *line) {
    const char *value;
    if ((value = after(line, "expect workers "))) m->n_workers = count_list(value);
    if ((value = after(line, "expect performance "))) m->n_performance = atoi(value);
    if ((value = after(line, "speed efficiency "))) m->efficiency = atof(value);
    if ((value = after(line, "speed memory "))) m->memory = atof(value);
    if ((value = after(line, "speed noise "))) m->noise = atof(value);
    if ((value = after(line, "speed stolen "))) m->stolen = atof(value);
    if (!(value = after(line, "expect teams "))) return;
    for (char *at = (char *)(uintptr_t)value; *at >= '0' && *at <= '9' && m->n_teams < SCHEDULE_MAX_TEAMS;) {
        m->team[m->n_teams++] = (int32_t)strtol(at, &at, 10);
        if (*at == ' ') at++;
    }
}

static bool read_machine(const char *name, struct machine *m) {
    char path[256], line[512];
    snprintf(path, sizeof path, "%s/%s.txt", folder, name);
    FILE *file = fopen(path, "r");
    *m = (struct machine){.efficiency = 1};
    CHECK(file, "%s cannot be read: run this in the project's folder", path);
    while (file && fgets(line, sizeof line, file)) read_line(m, line);
    if (file) fclose(file);
    CHECK(m->n_workers > 0 && m->n_teams > 0, "%s says nothing of workers and teams", path);
    return m->n_workers > 0 && m->n_teams > 0;
}

/* ---- the simulated world ---- */
#define SLICE_NS 3e6    /* for which a neighbour or the host has a core */
#define BARRIER_NS 500. /* measured: 435 */
#define STAY_NS                                                                                                        \
    1e6     /* of an open run's worker on its core; then it is away, so that two fifths of the core are its own */
#define AWAY_NS 1.5e6

struct world {
    const struct machine *machine;
    struct schedule schedule;
    double now;
    double busy_until[SCHEDULE_MAX_WORKERS]; /* when the last theft of a core ended or will end */
    double next_theft[SCHEDULE_MAX_WORKERS];
    int32_t neighbour; /* the core that another process shares while workers are pinned; -1: none */
    uint64_t random;
};

static double random_unit(struct world *w) { return (random_u32(&w->random) + 0.5) / 4294967296.0; }

/* About normal, mean 1. */
static double noisy(struct world *w) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += random_unit(w) - 0.5;
    double factor = 1 + w->machine->noise * sum * 1.732;
    return factor > 0.1 ? factor : 0.1;
}

static double core_speed(const struct machine *m, int32_t worker) {
    double speed = worker < m->n_performance ? 1 : m->efficiency;
    return m->slow_last > 0 && worker == m->n_workers - 1 ? speed / m->slow_last : speed;
}

/* What all of a team do in the time in which one P-core does 1. */
static double team_speed(const struct machine *m, int32_t team, enum schedule_phase phase) {
    double sum = 0;
    for (int32_t i = 0; i < team; i++) sum += core_speed(m, i);
    return phase == PHASE_DECODE && m->memory > 0 && m->memory < sum ? m->memory : sum;
}

static bool is_disturbed(const struct world *w, int32_t worker) {
    const struct schedule_plan *plan = &w->schedule.phase[PHASE_DECODE].plan;
    int32_t core = worker == 0 ? plan->host : worker == plan->host ? 0 : worker;
    return core == w->neighbour && !plan->floats;
}

/* How much of worker's core somebody else takes while it works. */
static double share_stolen(const struct world *w, int32_t worker) {
    bool steps_aside = w->schedule.phase[PHASE_DECODE].plan.open && worker > 0;
    return is_disturbed(w, worker) && !steps_aside ? 0.5 : w->machine->stolen;
}

/* When a worker that has `need` ns of work from `start` on is through with it; *lost grows by what was stolen. */
static double work_from(struct world *w, int32_t worker, double start, double need, double *lost) {
    double share = share_stolen(w, worker);
    if (share <= 0) return start + need;
    for (double at = start;;) {
        if (w->next_theft[worker] < at) { /* it came while the worker waited for something else */
            w->busy_until[worker] = w->next_theft[worker] + SLICE_NS;
            double gap = SLICE_NS * (1 - share) / share;
            w->next_theft[worker] = w->busy_until[worker] + gap * (0.5 + random_unit(w));
        }
        if (w->busy_until[worker] > at) {
            *lost += w->busy_until[worker] - at;
            at = w->busy_until[worker];
        }
        double free = w->next_theft[worker] - at;
        if (need <= free) return at + need;
        need -= free > 0 ? free : 0;
        at = free > 0 ? w->next_theft[worker] + 1e-3 : at + 1e-3;
    }
}

/* Before a worker of an open run takes more units: true when it is away until *at. */
static bool steps_aside(struct world *w, int32_t worker, double *at, double *lost) {
    if (worker == 0 || !is_disturbed(w, worker)) return false;
    double back = w->busy_until[worker];
    if (*at >= back && *at < back + STAY_NS) return false;
    if (*at >= back) w->busy_until[worker] = back = *at + AWAY_NS;
    *lost += back - *at;
    *at = back;
    return true;
}

enum { GRAIN = 8 }; /* of run_matmul.c */

/* An operation of n units that take a P-core unit_ns each; its end. */
static void run_op(struct world *w, enum schedule_phase phase, int32_t n, double unit_ns,
                   struct schedule_sample *samples) {
    const struct schedule_plan *plan = &w->schedule.phase[phase].plan;
    const struct machine *m = w->machine;
    struct deal deal[SCHEDULE_MAX_WORKERS];
    double at[SCHEDULE_MAX_WORKERS], sum = 0, last = w->now;
    bool done[SCHEDULE_MAX_WORKERS] = {false};
    int32_t taken = 0, first = -1;
    for (int32_t i = 0; i < plan->team; i++) {
        schedule_deal(plan, i, n, GRAIN, &deal[i]);
        at[i] = w->now;
        sum += core_speed(m, i);
        if (first < 0) first = deal[i].tail_begin;
    }
    double shared = team_speed(m, plan->team, phase) / sum; /* of its speed that memory leaves each core */
    for (int32_t n_done = 0; n_done < plan->team;) {
        int32_t next = -1;
        for (int32_t i = 0; i < plan->team; i++)
            if (!done[i] && (next < 0 || at[i] < at[next])) next = i;
        if (plan->open && first < n && steps_aside(w, next, &at[next], &samples[next].lost_ns)) continue;
        struct deal *d = &deal[next];
        int32_t units = d->band_end - d->band_next;
        bool band = units > 0;
        if (band) {
            d->band_next = d->band_end;
        } else {
            units = schedule_take(plan, next, d, first);
            first += units;
        }
        if (units == 0) {
            done[next] = true;
            n_done++;
            continue;
        }
        double need = units * unit_ns * noisy(w) / (core_speed(m, next) * shared), since = at[next];
        taken += units;
        at[next] = work_from(w, next, since, need, &samples[next].lost_ns);
        if (band) samples[next].band_ticks += d->timed * (at[next] - since);
        if (at[next] > last) last = at[next];
    }
    CHECK(taken == n, "%d units taken of %d", taken, n);
    w->now = last + BARRIER_NS;
}

/* A pass through 8 of the 32 layers of a model of 8 billion weights and its output matrix, 4.5 bits each: groups of 16
 * rows, 10 GB/s or 200 GMAC/s a core. */
enum { LAYERS = 8, LEARNING_PASSES = 30, MEASURED_PASSES = 30 };
static const struct {
    int32_t units;
    double kilobytes;
} layer_ops[] = {{384, 37}, {256, 37}, {896, 74}, {256, 129}}, output_op = {8016, 37};

static double run_pass(struct world *w, enum schedule_phase phase) {
    double ns_of_kilobyte = phase == PHASE_DECODE ? 100 : 512 * 1024 * 8 / 4.5 / 200, work = 0, since = w->now;
    struct schedule_sample samples[SCHEDULE_MAX_WORKERS] = {0};
    for (int layer = 0; layer < LAYERS; layer++)
        for (int op = 0; op < 4; op++) {
            double unit = layer_ops[op].kilobytes * ns_of_kilobyte;
            run_op(w, phase, layer_ops[op].units, unit, samples);
            work += layer_ops[op].units * unit;
        }
    if (phase == PHASE_DECODE) {
        run_op(w, phase, output_op.units, output_op.kilobytes * ns_of_kilobyte, samples);
        work += output_op.units * output_op.kilobytes * ns_of_kilobyte;
    }
    double wall = w->now - since;
    for (int32_t i = 0; i < w->machine->n_workers; i++) samples[i].wall_ns = wall;
    schedule_note(&w->schedule, phase, samples, work, wall, w->now);
    w->now += 2e5; /* sampling, printing */
    return work;
}

/* Work done in a nanosecond by so many passes, or those of so many seconds. */
static double rate_of(struct world *w, enum schedule_phase phase, int32_t passes, double seconds) {
    double since = w->now, work = 0, ns = 0;
    for (int32_t i = 0; i < passes || w->now - since < seconds * 1e9; i++) {
        double before = w->now;
        work += run_pass(w, phase);
        ns += w->now - before - 2e5;
    }
    return work / ns;
}

static void make_world(struct world *w, const struct machine *m, bool crowded) {
    double speed[SCHEDULE_MAX_WORKERS];
    memset(w, 0, sizeof *w);
    w->machine = m;
    w->random = 88172645463325252u;
    w->neighbour = -1;
    for (int32_t i = 0; i < m->n_workers; i++) {
        speed[i] = i < m->n_performance ? 1 : 0.5; /* what pool.c says of kinds */
        w->next_theft[i] = 1e7 * random_unit(w);
    }
    schedule_init(&w->schedule, m->n_workers, speed, m->team, m->n_teams, crowded);
}

static double best_speed(const struct machine *m, enum schedule_phase phase) {
    double best = 0;
    for (int32_t i = 0; i < m->n_teams; i++) {
        double speed = team_speed(m, m->team[i], phase) * (1 - m->stolen);
        if (speed > best) best = speed;
    }
    return best;
}

/* ---- tests ---- */
/* Share of the ideal speed that has to be reached, and the measured one. */
static void expect_ideal(const char *name, const struct machine *m) {
    static const char *const names[] = {"decode", "prefill"};
    for (int phase = 0; phase < N_PHASES; phase++) {
        struct world w;
        make_world(&w, m, false);
        rate_of(&w, (enum schedule_phase)phase, LEARNING_PASSES, 0);
        double rate = rate_of(&w, (enum schedule_phase)phase, MEASURED_PASSES, 0);
        double share = rate / best_speed(m, (enum schedule_phase)phase);
        printf("%s, %s: %.1f %% of the ideal by %d of %d workers\n", name, names[phase], 100 * share,
               w.schedule.phase[phase].plan.team, m->n_workers);
        CHECK(share >= 0.95 && share <= 1.02, "%s, %s: %.3f of the ideal", name, names[phase], share);
    }
}

static void test_fixtures(void) {
    static const char *const names[] = {"alder-lake-8p8e",     "laptop-4p8e",       "zen4-16",
                                        "dual-xeon",           "graviton3",         "vm-2-cores",
                                        "container-1.5-of-64", "cpuset-v1-4-of-16", "taskset-on-hybrid"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct machine m;
        if (read_machine(names[i], &m)) expect_ideal(names[i], &m);
    }
}

/* A core that is slower than anybody said costs its share and no more. */
static void test_slow_core(void) {
    for (int32_t workers = 2; workers <= 16; workers *= 2) {
        struct machine m = {.n_workers = workers,
                            .n_performance = workers,
                            .n_teams = 1,
                            .team = {workers},
                            .efficiency = 1,
                            .noise = 0.02,
                            .slow_last = 3};
        char name[64];
        snprintf(name, sizeof name, "%d cores, one of them 3 times slower", workers);
        expect_ideal(name, &m);
    }
}

/* A team that does not pay is left, one that pays is kept. */
static void test_teams(void) {
    struct machine m;
    struct world w;
    if (!read_machine("alder-lake-8p8e", &m)) return;
    make_world(&w, &m, false);
    rate_of(&w, PHASE_DECODE, LEARNING_PASSES, 0);
    rate_of(&w, PHASE_PREFILL, LEARNING_PASSES, 0);
    CHECK(w.schedule.phase[PHASE_DECODE].plan.team == 8, "decode on %d: memory feeds 4.5 P-cores",
          w.schedule.phase[PHASE_DECODE].plan.team);
    CHECK(w.schedule.phase[PHASE_PREFILL].plan.team == 16, "prefill on %d", w.schedule.phase[PHASE_PREFILL].plan.team);
}

/* A neighbour comes, keeps a core half busy, moves to worker 0's, and goes. Workers share that core, or, where they are
 * crowded, leave one out: `ideal`, of the quiet speed. */
static void test_neighbour_of(int32_t n, bool crowded, double ideal) {
    struct machine m = {.n_workers = n, .n_performance = n, .n_teams = 1, .team = {n}, .efficiency = 1, .noise = 0.02};
    struct world w;
    make_world(&w, &m, crowded);
    const struct schedule_plan *plan = &w.schedule.phase[PHASE_DECODE].plan;
    double quiet = rate_of(&w, PHASE_DECODE, 0, 2), share[2];
    for (int i = 0; i < 2; i++) {
        w.neighbour = i == 0 ? n - 1 : 0;
        rate_of(&w, PHASE_DECODE, 0, 2);
        share[i] = rate_of(&w, PHASE_DECODE, 0, 4) / quiet;
        CHECK(share[i] > 0.95 * ideal, "%d workers, a neighbour on core %d: %.3f of the quiet speed, ideal %.3f", n,
              w.neighbour, share[i], ideal);
        CHECK(plan->open == !crowded, "%d of %d workers beside a neighbour, open %d", plan->team, n, plan->open);
    }
    w.neighbour = -1;
    rate_of(&w, PHASE_DECODE, 0, 3); /* a pause of two seconds and what decides it */
    CHECK(plan->team == n && !plan->open, "%d of %d workers after the neighbour has gone, open %d", plan->team, n,
          plan->open);
    double after_it = rate_of(&w, PHASE_DECODE, 0, 1) / quiet;
    CHECK(after_it > 0.97, "%.3f of the quiet speed after the neighbour has gone", after_it);
    printf("%d %sworkers and a neighbour: %.1f %% of the quiet speed, on worker 0's core %.1f %%, then %.1f %%\n", n,
           crowded ? "crowded " : "", 100 * share[0], 100 * share[1], 100 * after_it);
}

static void test_neighbour(void) {
    for (int32_t n = 2; n <= 16; n *= n == 2 ? 2 : 4) {
        test_neighbour_of(n, false, (n - 1 + STAY_NS / (STAY_NS + AWAY_NS)) / n);
        test_neighbour_of(n, true, (n - 1.0) / n);
    }
}

/* Any split deals out every unit once, whatever the speeds. */
static void test_deals(void) {
    static struct schedule s;
    uint64_t random = 7;
    for (int round = 0; round < 2000; round++) {
        int32_t n_workers = 1 + (int32_t)(random_u32(&random) % 24), n = (int32_t)(random_u32(&random) % 700);
        double speed[SCHEDULE_MAX_WORKERS];
        for (int32_t i = 0; i < n_workers; i++) speed[i] = 0.05 + random_u32(&random) / 4e9;
        schedule_init(&s, n_workers, speed, NULL, 0, false);
        const struct schedule_plan *plan = &s.phase[PHASE_DECODE].plan;
        int32_t at = 0, first = 0, grain = 1 + (int32_t)(random_u32(&random) % 9);
        struct deal deal;
        for (int32_t i = 0; i < n_workers; i++) {
            schedule_deal(plan, i, n, grain, &deal);
            CHECK(deal.band_next == at && deal.band_end >= at, "band %d of %d begins at %d, not %d", i, n_workers,
                  deal.band_next, at);
            at = deal.band_end;
        }
        CHECK(at == deal.tail_begin, "bands end at %d, the tail begins at %d", at, deal.tail_begin);
        first = deal.tail_begin;
        for (int32_t idle = 0, i = 0; idle < n_workers; i = (i + 1) % n_workers) {
            int32_t units = schedule_take(plan, i, &deal, first);
            CHECK(units >= 0 && units <= grain && first + units <= n, "%d units at %d of %d", units, first, n);
            first += units;
            idle = units == 0 ? idle + 1 : 0;
        }
        CHECK(first == n, "%d workers left %d units of %d", n_workers, n - first, n);
    }
}

int main(void) {
    test_deals();
    test_fixtures();
    test_slow_core();
    test_teams();
    test_neighbour();
    return check_report("engine_schedule");
}
