/* schedule.c: bands in proportion to measured speed, a tail in shrinking units, and the size of the team.
 *
 * Bands keep each worker on its own rows (its caches, its pages, one stream for the prefetcher); the tail takes up what
 * the bands did not foresee. Two things decide who takes part. A kind of core that does not pay (E-cores where P-cores
 * already fill the memory bus, a second socket across a slow link) is found by trying teams in turns on real runs, as
 * tune.c does: that costs nothing at a start. And neighbours: a worker whose core another process has half of the time
 * makes all others wait for milliseconds in the middle of an operation. So runs are open then: who has to give up its
 * core does so between two units, and nobody waits for it. Where that is no faster, as with more workers than cores,
 * fewer workers, free to move, are tried.
 */
#include "schedule.h"
#include <string.h>

enum {
    BAND_PERCENT = 85,  /* of the units are dealt out in bands, DESIGN decision 3 */
    TIMED_UNITS = 4,    /* a shorter band is rounded by too much to be timed */
    TRIALS_OF_TEAM = 2, /* turns of each team */
    WINDOW_RUNS = 2,
    LATE_WINDOWS = 3, /* before workers are left out: a collection of garbage or a compiler's thread has gone by then;
                         open runs cost so little that one is enough */
};

/* Runs of one turn of a team: both ways of tune.c, twice or, where a token takes long, once. A prompt's pass is long
 * enough alone. */
static const int32_t turn_runs[N_PHASES] = {4, 1}, turn_least_runs[N_PHASES] = {2, 1};
#define TURN_NS 100e6

#define LEARNING_NS 60e6 /* of runs replace half of what was known of speeds: a token of 15 ms counts for a fifth */
#define LONG_NS 200e6 /* a run in which hiccups even out */
#define EVEN 0.03 /* speeds that differ by less are alike: bands then stay where they are */
#define MIN_RUN_NS 5e5 /* shorter runs are mostly waiting */
#define WINDOW_NS 30e6 /* several time slices of a neighbour (1.5 to 4 ms) */
#define LATE                                                                                                           \
    0.2 /* of the time that a worker has lost: a neighbour takes a third to two thirds, housekeeping 1 to 2 % */
#define GAIN 1.02 /* what another team must at least bring */
#define SMALLER_IS 0.97 /* of the speed is as good from fewer workers: less power, and less to disturb */
#define RETRY_FIRST_NS 240e6 /* a try may cost a late run: from 60e6 on, doubling, they were five of the first 3 s */
#define RETRY_MOST_NS 2e9 /* a late token in two seconds is what looking for the end of a disturbance costs */

enum mode {
    COMPARING, /* teams in turns */
    STEADY, /* the best of them */
    SHARING, /* the same in open runs, because some are late */
    TRYING, /* fewer, because that was no better */
    REDUCED, /* that was faster */
};

/* ---- dealing out ---- */
void schedule_deal(const struct schedule_plan *plan, int32_t worker, int32_t n, int32_t grain, struct deal *out) {
    int32_t banded = plan->open ? 0 : plan->team == 1 ? n : (int32_t)((int64_t)n * BAND_PERCENT / 100);
    out->band_next = (int32_t)(banded * plan->edge[worker]);
    out->band_end = (int32_t)(banded * plan->edge[worker + 1]);
    out->tail_begin = banded;
    out->tail_end = n;
    out->grain = grain < 1 ? 1 : grain;
    double share = banded * (plan->edge[worker + 1] - plan->edge[worker]);
    bool timed = banded * plan->least >= TIMED_UNITS && out->band_end > out->band_next;
    out->timed = timed ? share / (out->band_end - out->band_next) : 0;
}

int32_t schedule_take(const struct schedule_plan *plan, int32_t worker, const struct deal *deal, int32_t first) {
    int32_t left = deal->tail_end - first;
    if (left <= 0 || left <= plan->leave[worker]) return 0;
    /* At most half of its share of what is left: the last units are small, and nobody waits long for them. */
    int32_t unit = (int32_t)(left * plan->speed[worker] / (2 * plan->team));
    return unit > deal->grain ? deal->grain : unit < 1 ? 1 : unit;
}

/* ---- plans ---- */
/* Shares of the plan's team by the speeds that are known now. */
static void share_out(struct schedule_state *state) {
    struct schedule_plan *plan = &state->plan;
    int32_t team = plan->team;
    double sum = 0, fastest = 0, least = 0, edge = 0;
    bool even = true;
    for (int32_t i = 0; i < team; i++) sum += state->speed[i];
    for (int32_t i = 0; i < team; i++) {
        double speed = state->speed[i] * team / sum;
        plan->speed[i] = speed;
        even = even && speed > 1 - EVEN && speed < 1 + EVEN;
        if (i == 0 || speed > fastest) fastest = speed;
        if (i == 0 || speed < least) least = speed;
    }
    for (int32_t i = 0; i < team; i++) {
        if (even) plan->speed[i] = 1;
        plan->edge[i] = edge;
        edge += plan->speed[i] / team;
        /* A unit that would take this worker longer than all of them need for what is left and the fastest for a unit.
         * Where these may be away nobody leaves anything. */
        plan->leave[i] = even || plan->open ? 0 : (int32_t)(team * (1 / plan->speed[i] - 1 / fastest));
    }
    plan->edge[team] = 1; /* sums are rounded */
    plan->least = team == 1 ? 0 : even ? 1.0 / team : least / team;
}

static void go(const struct schedule *s, struct schedule_state *state, enum mode mode, int32_t team) {
    state->mode = (int32_t)mode;
    state->plan.team = team;
    state->plan.open = mode == SHARING && !s->crowded && team > 1;
    state->plan.host = state->plan.open ? state->host : 0;
    state->plan.floats = mode == TRYING || mode == REDUCED;
    state->plan.yields = s->crowded; /* else who yields at a barrier gives a neighbour a whole time slice, each time */
    memset(&state->window, 0, sizeof state->window);
    share_out(state);
}

void schedule_init(struct schedule *s, int32_t n_workers, const double *speed, const int32_t *teams, int32_t n_teams,
                   bool crowded) {
    memset(s, 0, sizeof *s);
    s->n_workers = n_workers;
    s->crowded = crowded;
    for (int32_t i = 0; i < n_teams && s->n_teams < SCHEDULE_MAX_TEAMS - 1; i++)
        if (teams[i] < n_workers) s->size[s->n_teams++] = teams[i];
    s->size[s->n_teams++] = n_workers;
    for (int phase = 0; phase < N_PHASES; phase++) {
        struct schedule_state *state = &s->phase[phase];
        for (int32_t i = 0; i < n_workers; i++) state->speed[i] = state->last[i] = speed ? speed[i] : 1;
        state->team = n_workers;
        state->trial = s->n_teams - 1; /* the largest first: the first run is slow for other reasons */
        go(s, state, s->n_teams > 1 ? COMPARING : STEADY, n_workers);
    }
}

void schedule_keep_open(struct schedule *s) {
    struct schedule_state *state = &s->phase[PHASE_DECODE];
    s->kept_open = true;
    state->plan.open = s->n_workers > 1;
    share_out(state);
}

/* ---- speeds ---- */
/* What two runs agree on: one hiccup of the machine, a slice of 3 ms in a token of 15, moves nothing. */
static double agreed(double a, double b) { return a * b <= 0 ? 0 : a > 0 ? (a < b ? a : b) : a > b ? a : b; }

/* A worker's band was its share of the work: the time it took says how fast it was. */
static void learn_speeds(struct schedule_state *state, const struct schedule_sample *samples, double run_ns) {
    struct schedule_plan *plan = &state->plan;
    double measured[SCHEDULE_MAX_WORKERS], sum = 0, known = 0;
    for (int32_t i = 0; i < plan->team; i++) {
        if (samples[i].band_ticks <= 0) return;
        measured[i] = (plan->edge[i + 1] - plan->edge[i]) / samples[i].band_ticks;
        sum += measured[i];
        known += state->speed[i];
    }
    for (int32_t i = 0; i < plan->team; i++) {
        double now = measured[i] / sum * known;
        double step =
            run_ns < LONG_NS ? agreed(now - state->speed[i], state->last[i] - state->speed[i]) : now - state->speed[i];
        state->speed[i] += run_ns / (run_ns + LEARNING_NS) * step;
        state->last[i] = now;
    }
}

/* ---- teams ---- */
/* The smallest team that is as good as the best. */
static int32_t best_team(const struct schedule *s, const struct schedule_state *state) {
    double best = 0;
    int32_t i = 0;
    for (int32_t j = 0; j < s->n_teams; j++)
        if (state->best[j] > best) best = state->best[j];
    while (state->best[i] < SMALLER_IS * best) i++;
    return s->size[i];
}

static void compare(const struct schedule *s, struct schedule_state *state, enum schedule_phase phase, double rate) {
    int32_t runs = state->window.ns < TURN_NS ? turn_runs[phase] : turn_least_runs[phase];
    if (rate > state->best[state->trial]) state->best[state->trial] = rate;
    if (state->window.runs < runs) return;
    if (++state->trials == TRIALS_OF_TEAM * s->n_teams) {
        state->team = best_team(s, state);
        go(s, state, STEADY, state->team);
        return;
    }
    state->trial = (state->trial + s->n_teams - 1) % s->n_teams;
    go(s, state, COMPARING, s->size[state->trial]);
}

/* How many workers too many there are, by the time that they were without a core. */
static int32_t too_many(const struct schedule_state *state) {
    int32_t late = 0, team = state->plan.team;
    double lost = 0;
    for (int32_t i = 0; i < team; i++) {
        double of_run = state->window.lost_ns[i] / state->window.ns;
        late += of_run > LATE;
        lost += of_run;
    }
    if (late < team) return late;
    return lost < 1 ? 1 : (int32_t)(lost + 0.5); /* all are: the cores that they lacked */
}

static void wait_longer(struct schedule_state *state, double now_ns) {
    state->retry_ns *= 2;
    if (state->retry_ns < RETRY_FIRST_NS) state->retry_ns = RETRY_FIRST_NS;
    if (state->retry_ns > RETRY_MOST_NS) state->retry_ns = RETRY_MOST_NS;
    state->retry_at = now_ns + state->retry_ns;
}

static bool is_late(const struct schedule_state *state, int32_t worker) {
    return state->window.lost_ns[worker] > LATE * state->window.ns;
}

/* Worker 0, for whom all wait, belongs on the core that others want least. False: it is there. */
static bool move_host(struct schedule_state *state) {
    const double *lost = state->window.lost_ns;
    int32_t best = 0;
    if (!is_late(state, 0)) return false;
    for (int32_t i = 1; i < state->plan.team; i++)
        if (lost[i] < lost[best]) best = i;
    if (2 * lost[best] >= lost[0]) return false; /* nor is it worth a move */
    /* The core that `best` is on: worker 0's own, if worker 0 is its guest. */
    state->host = best == state->plan.host ? 0 : best;
    return true;
}

/* To another mode, which has to be faster than the present one is. */
static void try_mode(const struct schedule *s, struct schedule_state *state, enum mode mode, int32_t team,
                     double rate) {
    if (!state->is_trial) state->mode_before = state->mode;
    state->team_before = state->plan.team;
    state->rate_before = rate;
    state->is_trial = true;
    state->late = 0;
    go(s, state, mode, team);
}

static void try_fewer(const struct schedule *s, struct schedule_state *state, double rate) {
    int32_t team = state->plan.team, excess = too_many(state);
    try_mode(s, state, TRYING, excess < team ? team - excess : 1, rate);
}

static void stay(const struct schedule *s, struct schedule_state *state) {
    go(s, state, (enum mode)state->mode, state->plan.team);
}

/* Whether it is the last of so many late windows, one after the other. */
static bool count_late(struct schedule_state *state, bool late, int32_t windows) {
    state->late = late ? state->late + 1 : 0;
    return state->late >= windows;
}

static void leave_steady(const struct schedule *s, struct schedule_state *state, double rate) {
    bool late = state->plan.team > 1 && too_many(state) > 0;
    if (!late) state->retry_ns = 0;
    if (!count_late(state, late, s->crowded ? LATE_WINDOWS : 1)) {
        stay(s, state);
    } else if (s->crowded) {
        try_fewer(s, state, rate);
    } else {
        move_host(state);
        try_mode(s, state, SHARING, state->team, rate);
    }
}

static void leave_sharing(const struct schedule *s, struct schedule_state *state, double rate, double now_ns) {
    bool is_faster = rate > GAIN * state->rate_before, is_time = now_ns >= state->retry_at;
    if (too_many(state) == 0 || (s->crowded && is_faster)) {
        state->retry_ns = state->retry_at = 0;
        state->is_trial = false;
        go(s, state, STEADY, state->team);
    } else if (state->is_trial && !is_faster && state->mode_before == REDUCED) {
        wait_longer(state, now_ns);
        state->is_trial = false;
        go(s, state, REDUCED, state->team_before);
    } else if (state->is_trial && !is_faster) {
        try_fewer(s, state, rate > state->rate_before ? rate : state->rate_before);
    } else {
        state->is_trial = false;
        if (count_late(state, is_late(state, 0), LATE_WINDOWS) && is_time)
            try_fewer(s, state, rate);
        else
            stay(s, state);
    }
}

static void leave_trying(const struct schedule *s, struct schedule_state *state, double rate, double now_ns) {
    state->is_trial = false;
    state->goes_on = rate > GAIN * state->rate_before;
    wait_longer(state, now_ns);
    if (state->goes_on)
        go(s, state, REDUCED, state->plan.team);
    else
        go(s, state, (enum mode)state->mode_before, state->team_before);
}

static void leave_reduced(const struct schedule *s, struct schedule_state *state, double rate, double now_ns) {
    bool late = state->plan.team > 1 && too_many(state) > 0;
    state->goes_on = state->goes_on && late;
    if (now_ns >= state->retry_at)
        try_mode(s, state, SHARING, state->team, rate);
    else if (count_late(state, state->goes_on, LATE_WINDOWS))
        try_fewer(s, state, rate);
    else
        stay(s, state);
}

/* One late run of the whole team says enough: beside a neighbour it takes three times as long. */
static bool is_window_over(const struct schedule_state *state) {
    if (state->window.ns < WINDOW_NS) return false;
    bool is_whole = (state->mode == STEADY || state->mode == SHARING) && !state->plan.open;
    return state->window.runs >= WINDOW_RUNS || (is_whole && too_many(state) > 0);
}

/* At the end of a window of the present team. */
static void decide(const struct schedule *s, struct schedule_state *state, double now_ns) {
    double rate = state->window.work / state->window.ns;
    switch ((enum mode)state->mode) {
    case COMPARING: return;
    case STEADY:
        if (now_ns >= state->retry_at)
            leave_steady(s, state, rate);
        else
            stay(s, state);
        return;
    case SHARING: leave_sharing(s, state, rate, now_ns); return;
    case TRYING: leave_trying(s, state, rate, now_ns); return;
    case REDUCED: leave_reduced(s, state, rate, now_ns); return;
    }
}

void schedule_note(struct schedule *s, enum schedule_phase phase, const struct schedule_sample *samples, double work,
                   double run_ns, double now_ns) {
    struct schedule_state *state = &s->phase[phase];
    if (s->n_workers == 1 || run_ns < MIN_RUN_NS || (s->kept_open && phase == PHASE_DECODE)) return;
    learn_speeds(state, samples, run_ns);
    share_out(state);
    if (work <= 0) return;
    state->window.runs++;
    state->window.ns += run_ns;
    state->window.work += work;
    for (int32_t i = 0; i < state->plan.team; i++) state->window.lost_ns[i] += samples[i].lost_ns;
    if (state->plan.open && move_host(state)) {
        stay(s, state); /* a neighbour has come to worker 0's core: not for the rest of the window */
    } else if (state->mode == COMPARING) {
        compare(s, state, phase, work / run_ns);
    } else if (phase == PHASE_DECODE && is_window_over(state)) {
        decide(s, state, now_ns);
    }
}
