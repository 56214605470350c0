/* engine.c: an engine: a pool of the asked-for size and the kernel table of the asked-for level. */
#include "program.h"
#include <signal.h>
#include <stdlib.h>

enum { MAX_SLOW_PERCENT = 10000, MAX_STAY_US = 1000000 };

static void engine_destroy(struct object *object) {
    struct engine *engine = (struct engine *)object;
    engine_end_counts(engine);
    pool_destroy(engine->pool);
    free(engine);
}

/* Also of levels that other architectures have. */
static const char *level_name(int32_t level) {
    switch (level) {
    case ASDSL_LEVEL_PORTABLE: return "portable";
    case ASDSL_LEVEL_AVX2: return "avx2";
    case ASDSL_LEVEL_AVXVNNI: return "avxvnni";
    case ASDSL_LEVEL_AVX512: return "avx512";
    case ASDSL_LEVEL_NEON: return "neon";
    case ASDSL_LEVEL_REFERENCE: return "reference";
    default: return "of no known kind";
    }
}

/* Fills level and kernels, or says why not. */
static bool choose_level(struct engine *engine, int32_t level, bool force) {
    if (level == ASDSL_LEVEL_AUTO) level = cpu_best_level(engine->info.levels);
    if (force) engine->info.levels |= cpu_hidden_levels(engine->info.levels) & (level >= 0 ? 1u << (level & 31) : 0);
    engine->kernels = kernels_for(level);
    if (!engine->kernels || level < 0 || level > 31 || !(engine->info.levels >> level & 1)) {
        asdsl_fail(ASDSL_E_UNSUPPORTED, "engine: level %d (%s) does not run on this CPU, whose best is %d (%s)", level,
                   level_name(level), engine->info.level, level_name(engine->info.level));
        return false;
    }
    engine->info.level = level;
    return true;
}

static void leave(int signal_number) {
    (void)signal_number;
    _Exit(ASDSL_EXIT_TRAPPED);
}

int32_t engine_try_level(int32_t level) {
    uint32_t levels = cpu_levels();
    const struct kernels *kernels = kernels_for(level);
    if (!kernels || level < 0 || level > 31 || !(cpu_hidden_levels(levels) >> level & 1)) {
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "level %d (%s) is not one that CPUID may be hiding here", level,
                          level_name(level));
    }
    void (*before)(int) = signal(SIGILL, leave);
    kernels->int8_peak(1);
    signal(SIGILL, before);
    return ASDSL_OK;
}

/* The mask of the options; NULL: none. False, with the error text set: it has no core that this process may use. */
static bool place(const struct asdsl_engine_options *options, struct affinity *storage, const struct affinity **mask,
                  struct placement *placement) {
    *storage = (struct affinity){.known = true};
    *mask = NULL;
    for (int32_t i = 0; i < MAX_CORES / 32; i++) {
        storage->bits[i / 2] |= (uint64_t)options->cpu_mask[i] << 32 * (i % 2);
        if (options->cpu_mask[i]) *mask = storage;
    }
    if (cpu_placement(*mask, placement)) return true;
    asdsl_fail(ASDSL_E_ARGUMENT, "engine: none of the %d logical CPUs that this process may use is in the CPU mask",
               placement->n);
    return false;
}

struct reading {
    const struct pool *pool;
    struct asdsl_worker *out;
};

static void read_worker(void *context, struct worker *w) {
    struct reading *reading = context;
    struct affinity own;
    struct asdsl_worker *out = &reading->out[w->index];
    *out = (struct asdsl_worker){.core = pool_core(reading->pool, w->index), .allowed = -1};
    for (int phase = 0; phase < N_PHASES; phase++) {
        struct pool_standing standing = pool_standing(reading->pool, (enum schedule_phase)phase, w->index);
        out->takes_part[phase] = standing.takes_part;
        out->speed[phase] = (float)standing.speed;
    }
    if (!affinity_get(&own)) return;
    for (int32_t id = MAX_CORES - 1; id >= 0; id--) {
        if (!affinity_has(&own, id)) continue;
        out->n_allowed++;
        out->allowed = id;
    }
}

void engine_workers(struct engine *engine, struct asdsl_worker *out) {
    struct reading reading = {engine->pool, out};
    mutex_lock(&engine->lock);
    pool_run(engine->pool, read_worker, &reading);
    mutex_unlock(&engine->lock);
}

struct engine *engine_create(const struct asdsl_engine_options *options) {
    struct affinity storage;
    const struct affinity *mask;
    struct placement placement;
    if (options->force != 0 && options->force != 1) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: force is %d, not 0 or 1", options->force);
        return NULL;
    }
    if (options->pin != 0 && options->pin != 1) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: pin is %d, not 0 or 1", options->pin);
        return NULL;
    }
    if (options->slow_percent < 0 || options->slow_percent > MAX_SLOW_PERCENT) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: slow_percent is %d, 0 to %d are possible", options->slow_percent,
                   MAX_SLOW_PERCENT);
        return NULL;
    }
    if (options->stay_us < 0 || options->stay_us > MAX_STAY_US) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: stay_us is %d, 0 to %d are possible", options->stay_us, MAX_STAY_US);
        return NULL;
    }
    if (options->n_threads < 0 || options->n_threads > POOL_MAX_THREADS) {
        asdsl_fail(ASDSL_E_ARGUMENT, "engine: %d threads, 0 (as many as cores) to %d are possible", options->n_threads,
                   POOL_MAX_THREADS);
        return NULL;
    }
    if (!place(options, &storage, &mask, &placement)) return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        asdsl_fail(ASDSL_E_MEMORY, "engine: the system refused %zu bytes", sizeof *engine);
        return NULL;
    }
    object_init(&engine->object, OBJECT_ENGINE, engine_destroy);
    cpu_info(&engine->info);
    int32_t n_threads = options->n_threads ? options->n_threads : placement.n_workers;
    if (n_threads > POOL_MAX_THREADS) n_threads = POOL_MAX_THREADS;
    engine->info.n_threads = n_threads;
    if (choose_level(engine, options->level, options->force == 1)) {
        struct pool_options of_pool = {.n_threads = n_threads,
                                       .spin_us = options->spin_us,
                                       .pin = options->pin == 1,
                                       .mask = mask,
                                       .compares = options->n_threads == 0,
                                       .slow_percent = options->slow_percent,
                                       .stay_us = options->stay_us};
        engine->pool = pool_create(&of_pool, &placement);
    }
    if (!engine->pool) {
        object_drop(&engine->object);
        return NULL;
    }
    return engine;
}
