/* counters.c: events on the threads of an engine (instructions, cache misses), each counted by its own thread's
 * counter. */
#include "program.h"
#include <stdlib.h>

static const char *const names[N_EVENTS] = {
    [EVENT_INSTRUCTIONS] = "instructions", [EVENT_CYCLES] = "cycles",
    [EVENT_L1D_MISSES] = "L1 data misses", [EVENT_LLC_MISSES] = "last-level cache misses",
    [EVENT_PAGE_FAULTS] = "page faults",
};
_Static_assert(EVENT_INSTRUCTIONS == (int)ASDSL_COUNT_INSTRUCTIONS && EVENT_CYCLES == (int)ASDSL_COUNT_CYCLES &&
                   EVENT_L1D_MISSES == (int)ASDSL_COUNT_L1D_MISSES && EVENT_LLC_MISSES == (int)ASDSL_COUNT_LLC_MISSES &&
                   EVENT_PAGE_FAULTS == (int)ASDSL_COUNT_PAGE_FAULTS,
               "platform.h and asdsl.h");

struct beginning {
    enum event_kind kind;
    int64_t *events;
};

static void begin_own(void *context, struct worker *w) {
    struct beginning *beginning = context;
    beginning->events[w->index] = event_begin(beginning->kind);
}

static void end_all(int64_t *events, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (events[i] >= 0) event_end(events[i]);
    }
    free(events);
}

/* All threads or none. */
static double begin(struct engine *engine, enum event_kind kind) {
    int32_t n = pool_threads(engine->pool);
    int64_t *events = calloc((size_t)n, sizeof *events);
    if (!events) return asdsl_fail(ASDSL_E_MEMORY, "count: the system refused memory for %d counters", n);
    pool_run(engine->pool, begin_own, &(struct beginning){kind, events});
    for (int32_t i = 0; i < n; i++) {
        if (events[i] >= 0) continue;
        end_all(events, n);
        /* What is refused to one thread is refused to all, so to this one too. */
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "count: no %s: %s", names[kind], platform_error());
    }
    engine->events[kind] = events;
    return 0;
}

static double total(const int64_t *events, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        double count = event_count(events[i]);
        if (count < 0) return asdsl_fail(ASDSL_E_IO, "count: thread %d: %s", i, platform_error());
        sum += count;
    }
    return sum;
}

double engine_count(struct engine *engine, int32_t counter) {
    if (counter < 0 || counter >= N_EVENTS) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "count: counter %d is not known, 0 to %d are", counter, N_EVENTS - 1);
    }
    mutex_lock(&engine->lock);
    int64_t *events = engine->events[counter];
    double result = events ? total(events, pool_threads(engine->pool)) : begin(engine, (enum event_kind)counter);
    mutex_unlock(&engine->lock);
    return result;
}

void engine_end_counts(struct engine *engine) {
    for (int kind = 0; kind < N_EVENTS; kind++) {
        if (engine->events[kind]) end_all(engine->events[kind], pool_threads(engine->pool));
    }
}
