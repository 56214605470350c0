/* schedule.h: who of an engine's workers takes part in a run, and how an operation's units are dealt out to them.
 *
 * Pure: no threads, no clock, no atomics. pool.c runs it on real cores, the simulator of csrc/test/engine_schedule.c on
 * machines that nobody here owns. Nothing here can change a result: units are the same whoever takes them.
 */
#ifndef ASDSL_SCHEDULE_H
#define ASDSL_SCHEDULE_H
#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULE_MAX_WORKERS = 256, SCHEDULE_MAX_TEAMS = 4 };

/* Kinds of run. What limits them differs (memory, arithmetic), and with it how fast cores are beside each other. */
enum schedule_phase { PHASE_DECODE, PHASE_PREFILL, N_PHASES };

/* Of the runs of one phase, until schedule_note. */
struct schedule_plan {
    int32_t team;    /* workers 0 .. team - 1 take part */
    bool open;       /* they come and go (pool.h): neighbours want their cores too */
    int32_t host;    /* the worker whose core worker 0 has, and that has worker 0's; 0: each has its own */
    bool floats;     /* they are not pinned: fewer than the cores, so that the system finds each a free one */
    bool yields;     /* they yield early when they wait: whom they wait for may need their core */
    double least;    /* share of the slowest, of the bands */
    double edge[SCHEDULE_MAX_WORKERS + 1]; /* worker i's share lies between edge[i] and edge[i + 1]; 0 to 1 */
    double speed[SCHEDULE_MAX_WORKERS];    /* 1: the team's mean */
    int32_t leave[SCHEDULE_MAX_WORKERS];   /* last units that worker i leaves to faster ones */
};

/* ---- dealing out units [0, n) of one operation ---- */
/* What one worker has before it: a band of its own, then units of the tail that all share. */
struct deal {
    int32_t band_next, band_end, tail_begin, tail_end, grain;
    double
        timed; /* what a tick in the band counts: the band in whole units against the share; 0: too short to be timed */
};
void schedule_deal(const struct schedule_plan *plan, int32_t worker, int32_t n, int32_t grain, struct deal *out);

/* Units of the tail that a worker takes when `first` is the next; 0: none any more. */
int32_t schedule_take(const struct schedule_plan *plan, int32_t worker, const struct deal *deal, int32_t first);

/* ---- learning, between runs ---- */
/* What a worker says of a run. */
struct schedule_sample {
    double band_ticks; /* in timed bands; any unit, the same for all workers */
    double wall_ns; /* of the whole run */
    double lost_ns; /* of it that the worker did not have a core: someone else had it, or it had stepped aside */
};

struct schedule_state {
    struct schedule_plan plan;
    double speed[SCHEDULE_MAX_WORKERS], last[SCHEDULE_MAX_WORKERS]; /* known; measured in the last run */
    int32_t mode, team; /* team: the best number of workers while nobody disturbs them */
    /* The runs since the present team was put together. */
    struct {
        int32_t runs;
        double ns, work, lost_ns[SCHEDULE_MAX_WORKERS];
    } window;
    /* Teams tried in turns, while the mode is that. */
    int32_t trial, trials;
    double best[SCHEDULE_MAX_TEAMS];
    /* Beside neighbours: open runs, or fewer workers than the team. */
    int32_t host; /* of plans of open runs */
    bool is_trial; /* of the present mode: it has to be faster than what was before */
    double rate_before, retry_ns, retry_at;
    int32_t mode_before, team_before, late; /* late: windows one after the other in which somebody was */
    bool goes_on; /* fewer still may be better */
};

struct schedule {
    int32_t n_workers;
    int32_t n_teams, size[SCHEDULE_MAX_TEAMS]; /* ascending, n_workers the last */
    bool crowded; /* more workers than cores */
    bool kept_open; /* tests: schedule_keep_open */
    struct schedule_state phase[N_PHASES];
};

/* speed: of each worker as far as known beforehand, NULL: all alike. teams: numbers of workers to be compared,
 * ascending, below n_workers; none: all take part. */
void schedule_init(struct schedule *s, int32_t n_workers, const double *speed, const int32_t *teams, int32_t n_teams,
                   bool crowded);

/* Tests: all runs of decode are open from here on, by all workers. */
void schedule_keep_open(struct schedule *s);

/* After a run by phase's plan. samples[plan.team]. work: how much it did, in a unit that makes runs of the phase
 * comparable (bytes read, products); 0: it says nothing of that. now_ns: of any clock. The plan may be another now. */
void schedule_note(struct schedule *s, enum schedule_phase phase, const struct schedule_sample *samples, double work,
                   double run_ns, double now_ns);

#endif
