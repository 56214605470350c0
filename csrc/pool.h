/* pool.h: the persistent threads of one engine. What they run is the caller's; placement is decided once, here. */
#ifndef ASDSL_POOL_H
#define ASDSL_POOL_H
#include "cpu.h"
#include "engine.h"

enum { POOL_MAX_THREADS = 256, POOL_SPIN_US = 1500 };

/* Called by every worker of a run, worker 0 on the calling thread. Runs end with a barrier. */
typedef void pool_job(void *context, struct worker *w);

struct pool_options {
    int32_t n_threads; /* the caller included */
    int32_t spin_us;   /* < 0: default */
    bool pin;          /* where the placement says so and there is a core for each */
    const struct affinity *mask; /* cores to keep to where workers are not pinned; NULL: the caller's */
    bool compares;        /* the placement's teams are compared while running; false: all workers take part */
    int32_t slow_percent; /* tests: the last worker takes so much longer for its units */
    int32_t stay_us; /* tests: > 0: runs of decode are open, and workers stay so long */
};

/* NULL with the error text set. */
struct pool *pool_create(const struct pool_options *options, const struct placement *placement);
void pool_destroy(struct pool *pool); /* joins all threads; no run may be under way */

int32_t pool_threads(const struct pool *pool);
int32_t pool_core(const struct pool *pool, int32_t worker); /* that it is pinned to while it runs; -1: none */

/* What the schedule has come to for worker i in a phase: its speed (mean of all workers: 1), and whether it takes part.
 */
struct pool_standing {
    double speed;
    bool takes_part;
};
struct pool_standing pool_standing(const struct pool *pool, enum schedule_phase phase, int32_t worker);

/* A run of all workers, whatever the schedule has learned. One run at a time (the engine's mutex sees to it). While it
 * runs the calling thread has the engine's floating-point control word and the first core to itself; it gets its own
 * back afterwards. */
void pool_run(struct pool *pool, pool_job *job, void *context);

/* A run of those workers and in those bands that the schedule thinks best for the phase, which learns from it. `work`
 * as in schedule_note. Beside neighbours the run may be open: workers come and go, job is called each time that one
 * comes and never for one that does not. So it has this form:
 *
 *   pool_enter(w, what one worker prepares, context);
 *   while (there is a next step) {
 *       the step: work_begin, work_next, worker_barrier
 *       if (!pool_end_step(w, section, context)) return;
 *   }
 *
 * where nothing but the section changes what the next step is. */
void pool_run_phase(struct pool *pool, enum schedule_phase phase, double work, pool_job *job, void *context);

typedef void pool_section(void *context); /* NULL: nothing */

/* The section is run once, by worker 0: the others may still be waking up. */
void pool_enter(struct worker *w, pool_section *section, void *context);

/* A barrier with a section inside it: the last worker to arrive runs it while the others wait. One barrier where a
 * serial step between two parallel ones would need two. False: this worker has left, and must not touch what belongs to
 * the run. */
bool pool_end_step(struct worker *w, pool_section *section, void *context);

/* Barriers of all runs so far, modulo 2^32; 0 with one thread. */
uint32_t pool_barriers(struct pool *pool);

/* A worker that runs alone: no bands, no barriers, the scratch of worker 0. For small steps, inside a run. */
struct worker *pool_alone(struct pool *pool);

/* A run on the calling thread alone: the others are not woken, the caller is not moved. */
void pool_run_alone(pool_section *section, void *context);

/* Scratch of at least `bytes` for each worker from the next run on; false: refused. Not during a run. */
bool pool_reserve_scratch(struct pool *pool, size_t bytes);

uint64_t clock_ticks(void); /* of unknown length, a few ns to read */

#endif
