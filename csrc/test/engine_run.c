/* engine_run.c: buffers, files, engines and whole runs of a tiny model through the ABI.
 *
 * Oracles: the contract in asdsl.h; the same bits from 1, 2 and 3 threads, that stay or come and go, from one run, from
 * one run per op, from any split of the tokens, and at every level of this CPU.
 */
#include "../asdsl.h"
#include "../cpu.h"
#include "levels.h"
#include "temporary.h"
#include "tiny_model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_TEXT = 13 };

static struct tiny_model model;
static asdsl_handle buffer;

static asdsl_handle make_open_engine(int32_t n_threads, int32_t level, int32_t stay_us) {
    struct asdsl_engine_options options = {
        .n_threads = n_threads, .level = level, .spin_us = 100, .pin = 1, .stay_us = stay_us};
    options.force = level == ASDSL_LEVEL_AVXVNNI; /* in the twin's build: levels.h */
    asdsl_handle engine = asdsl_engine_create(&options);
    CHECK(engine, "%s", asdsl_last_error());
    return engine;
}

static asdsl_handle make_engine(int32_t n_threads, int32_t level) { return make_open_engine(n_threads, level, 0); }

static asdsl_handle make_program(asdsl_handle engine) {
    asdsl_handle program = asdsl_program_create(engine, model.ops, N_OPS_TINY, &buffer, 1, &model.options);
    CHECK(program, "%s", asdsl_last_error());
    return program;
}

static int32_t *tokens_of(struct asdsl_params *p) { return (void *)((uint8_t *)p + p->tokens_offset); }
static int32_t *outputs_of(struct asdsl_params *p) { return (void *)((uint8_t *)p + p->outputs_offset); }

static int says(const char *text) { return strstr(asdsl_last_error(), text) != NULL; }
#define SAYS(condition, text)                                                                                          \
    CHECK((condition) && says(text), "\"%s\" was expected, not \"%s\"", text, asdsl_last_error())

/* ---- buffers and files ---- */
static void test_buffers(void) {
    static const double wrong[] = {0, -1, 0.5, 1.5, -1e18, 1e300, NAN, INFINITY};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SAYS(asdsl_buffer_create(wrong[i]) == 0, "is not a number of bytes");
    }
    SAYS(asdsl_buffer_create(0x1p52) == 0, "4503599627370496 bytes");
    for (double bytes = 1; bytes < 20e6; bytes = bytes * 7 + 1) {
        asdsl_handle h = asdsl_buffer_create(bytes);
        uint8_t *data = asdsl_buffer_data(h);
        CHECK(h && data && (uintptr_t)data % 4096 == 0, "%g bytes: %s", bytes, asdsl_last_error());
        CHECK(asdsl_buffer_bytes(h) == bytes, "%g bytes are %g", bytes, asdsl_buffer_bytes(h));
        uint32_t sum = 0;
        for (size_t i = 0; i < (size_t)bytes + 64; i++) sum |= data[i]; /* zero, and readable past the end */
        CHECK(sum == 0, "%g bytes are not zero", bytes);
        memset(data, 1, (size_t)bytes);
        asdsl_release(h);
    }
}

static void test_files(void) {
    char path[600];
    temporary_path(path);
    SAYS(asdsl_buffer_map(NULL) == 0, "path is NULL");
    SAYS(asdsl_buffer_map(path) == 0, path); /* and the reason: platform.c */
    SAYS(asdsl_buffer_map(".") == 0, ".: is a folder");
    FILE *file = temporary_open(path, "wb");
    if (!file) abort();
    for (int i = 0; i < 4096; i++) fputc(i % 251, file);
    fclose(file);
    asdsl_handle h = asdsl_buffer_map(path);
    CHECK(h && asdsl_buffer_bytes(h) == 4096, "%s", asdsl_last_error());
    const uint8_t *data = h ? asdsl_buffer_data(h) : NULL;
    int wrong = 0;
    for (int i = 0; data && i < 4096 + 64; i++) wrong += data[i] != (i < 4096 ? i % 251 : 0);
    CHECK(data && wrong == 0, "%d bytes differ", wrong);
    asdsl_release(h);
    temporary_remove(path);
}

static void test_engines(void) {
    struct asdsl_info info, facts;
    CHECK(asdsl_cpu_info(NULL) == ASDSL_E_ARGUMENT && asdsl_engine_create(NULL) == 0, "NULL");
    CHECK(asdsl_cpu_info(&facts) == 0 && facts.cpu[0] && facts.n_cores >= 1 && facts.n_threads == 0, "cpu info");
    CHECK(facts.levels & 1 && facts.levels >> facts.level & 1, "levels 0x%x, best %d", facts.levels, facts.level);
    CHECK(facts.n_physical <= facts.n_cores && facts.n_performance <= facts.n_physical, "cores");
#if defined(__aarch64__)
    enum { FOREIGN_LEVEL = ASDSL_LEVEL_AVX2 };
    const char *foreign = "level 1 (avx2)";
#else
    enum { FOREIGN_LEVEL = ASDSL_LEVEL_NEON };
    const char *foreign = "level 4 (neon)";
#endif
    const struct {
        int32_t n_threads, level, spin_us, pin, force, stay_us;
        const char *text;
    } wrong[] = {{-1, -1, -1, 1, 0, 0, "-1 threads"},      {100000, -1, -1, 1, 0, 0, "100000 threads"},
                 {1, 99, -1, 1, 0, 0, "level 99"},         {1, -2, -1, 1, 0, 0, "level -2"},
                 {1, FOREIGN_LEVEL, -1, 1, 0, 0, foreign}, {1, FOREIGN_LEVEL, -1, 1, 1, 0, foreign},
                 {1, -1, -1, 2, 0, 0, "pin is 2"},         {1, -1, -1, 1, 2, 0, "force is 2"},
                 {1, -1, -1, 1, 0, -1, "stay_us is -1"},   {1, -1, -1, 1, 0, 1000001, "stay_us is 1000001"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct asdsl_engine_options options = {.n_threads = wrong[i].n_threads,
                                               .level = wrong[i].level,
                                               .spin_us = wrong[i].spin_us,
                                               .pin = wrong[i].pin,
                                               .force = wrong[i].force,
                                               .stay_us = wrong[i].stay_us};
        SAYS(asdsl_engine_create(&options) == 0, wrong[i].text);
    }
    struct asdsl_engine_options outside = {.level = ASDSL_LEVEL_AUTO, .spin_us = -1, .cpu_mask = {[31] = 1u << 31}};
    SAYS(asdsl_engine_create(&outside) == 0, "is in the CPU mask");
    asdsl_handle engine = make_engine(0, ASDSL_LEVEL_AUTO);
    CHECK(asdsl_engine_info(engine, &info) == 0 && info.n_threads == facts.n_physical && info.level == facts.level,
          "%d threads at level %d", info.n_threads, info.level);
    CHECK(asdsl_engine_info(engine, NULL) == ASDSL_E_ARGUMENT, "NULL");
    double bandwidth = asdsl_probe(engine, ASDSL_PROBE_READ_BANDWIDTH),
           peak = asdsl_probe(engine, ASDSL_PROBE_INT8_PEAK);
    CHECK(bandwidth > 1e8 && bandwidth < 1e13, "%g bytes/s", bandwidth);
    CHECK(peak > 1e6 && peak < 1e15, "%g multiply-accumulates/s", peak);
    SAYS(asdsl_probe(engine, 2) == ASDSL_E_ARGUMENT, "kind 2");
    for (int32_t counter = ASDSL_COUNT_INSTRUCTIONS; counter <= ASDSL_COUNT_PAGE_FAULTS; counter++) {
        double start = asdsl_count(engine, counter);
        if (start == 0)
            CHECK(asdsl_count(engine, counter) >= 0, "counter %d", counter);
        else
            SAYS(start == ASDSL_E_UNSUPPORTED, "count: no ");
    }
    SAYS(asdsl_count(engine, 5) == ASDSL_E_ARGUMENT, "counter 5");
    asdsl_release(engine);
    SAYS(asdsl_try_level(FOREIGN_LEVEL) == ASDSL_E_UNSUPPORTED, foreign);
    SAYS(asdsl_try_level(ASDSL_LEVEL_PORTABLE) == ASDSL_E_UNSUPPORTED, "level 0 (portable)");
    SAYS(asdsl_try_level(-1) == ASDSL_E_UNSUPPORTED, "level -1");
    if (usable_levels() & ~facts.levels) { /* built so that it runs, and CPUID knows nothing of it */
        struct asdsl_engine_options hidden = {.n_threads = 1, .level = ASDSL_LEVEL_AVXVNNI, .spin_us = -1, .pin = 1};
        SAYS(asdsl_engine_create(&hidden) == 0, "level 2 (avxvnni) does not run");
        CHECK(asdsl_try_level(ASDSL_LEVEL_AVXVNNI) == ASDSL_OK, "%s", asdsl_last_error());
        engine = make_engine(1, ASDSL_LEVEL_AVXVNNI);
        CHECK(asdsl_engine_info(engine, &info) == 0 && info.level == ASDSL_LEVEL_AVXVNNI &&
                  info.levels >> ASDSL_LEVEL_AVXVNNI & 1,
              "level %d of 0x%x", info.level, info.levels);
        asdsl_release(engine);
    }
}

/* ---- runs ---- */
static int32_t text_token(int32_t t) { return (t * 37 + 11) % VOCAB; }

/* Sets up a pass over tokens [position, position + n) of the text, its last row an output. */
static void set_pass(struct asdsl_params *p, int32_t position, int32_t n) {
    p->n_tokens = n;
    p->n_outputs = 1;
    p->position = position;
    p->top_k = TOP_K_TINY;
    for (int32_t t = 0; t < n; t++) tokens_of(p)[t] = text_token(position + t);
    outputs_of(p)[0] = n - 1;
}

/* Everything that the last row of a text gives: logits, stats, candidates. */
struct outcome {
    float logits[VOCAB];
    struct asdsl_row_stats stats;
    struct asdsl_candidate candidates[TOP_K_TINY];
};

static void take_outcome(const struct asdsl_params *p, struct outcome *out) {
    const uint8_t *data = asdsl_buffer_data(buffer);
    memset(out, 0, sizeof *out);
    memcpy(out->logits, data + model.ops[N_OPS_TINY - 1].operand[0].offset, sizeof out->logits);
    memcpy(&out->stats, (const uint8_t *)p + p->stats_offset, sizeof out->stats);
    memcpy(out->candidates, (const uint8_t *)p + p->candidates_offset, sizeof out->candidates);
}

/* The text in passes of `batch` tokens; `one_by_one`: a run for each op. */
static void run_text(asdsl_handle engine, int32_t batch, int one_by_one, bool is_open, struct outcome *out) {
    asdsl_handle program = make_program(engine), kv = asdsl_kv_create(&model.kv);
    struct asdsl_params *p = asdsl_program_params(program);
    for (int32_t at = 0; at < N_TEXT; at += batch) {
        int32_t n = N_TEXT - at < batch ? N_TEXT - at : batch;
        set_pass(p, at, n);
        for (int32_t i = 0; i < (one_by_one ? N_OPS_TINY : 1); i++) {
            int32_t status = asdsl_run(program, kv, i, one_by_one ? 1 : N_OPS_TINY);
            CHECK(status == ASDSL_OK, "op %d: %s", i, asdsl_last_error());
        }
        CHECK(asdsl_kv_length(kv) == at + n, "KV length %d after %d tokens", asdsl_kv_length(kv), at + n);
    }
    take_outcome(p, out);
    for (int32_t i = 0; i < N_OPS_TINY; i++) {
        const char *slot = asdsl_op_slot(program, i);
        /* Of an open run worker 0 may have missed every run of an op: it is who says what ran. */
        CHECK(slot && (slot[0] || is_open) && asdsl_op_time(program, i) > 0, "op %d ran in \"%s\", %g ns", i, slot,
              asdsl_op_time(program, i));
    }
    CHECK(asdsl_op_slot(program, N_OPS_TINY) == NULL && asdsl_op_time(program, -1) < 0, "ops out of range");
    asdsl_release(kv);
    asdsl_release(program);
}

static void test_same_bits(void) {
    struct outcome first, other;
    uint32_t usable = usable_levels();
    asdsl_handle engine = make_engine(1, ASDSL_LEVEL_PORTABLE);
    run_text(engine, MAX_TOKENS_TINY, 0, false, &first);
    asdsl_release(engine);
    int finite = 0, distinct = 0;
    for (int i = 0; i < VOCAB; i++)
        finite += isfinite(first.logits[i]) != 0, distinct += first.logits[i] != first.logits[0];
    CHECK(finite == VOCAB && distinct > VOCAB / 2, "%d finite, %d distinct logits", finite, distinct);
    for (size_t l = 0; l < N_LEVELS; l++) {
        if (!(usable >> levels[l] & 1)) continue;
        for (int32_t i = 0; i < 5; i++) {
            int32_t threads = i < 3 ? 1 + i : i - 1, stay_us = i < 3 ? 0 : 5; /* a run takes 30 to 300 us */
            engine = make_open_engine(threads, levels[l], stay_us);
            for (int32_t batch = 1; batch <= MAX_TOKENS_TINY; batch += batch < 3 ? 1 : 5) {
                for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
                    run_text(engine, batch, one_by_one, stay_us > 0, &other);
                    CHECK(memcmp(first.logits, other.logits, sizeof first.logits) == 0,
                          "level %d, %d threads for %d us, batch %d, one by one %d: other logits", levels[l], threads,
                          stay_us, batch, one_by_one);
                    CHECK(memcmp(&first, &other, sizeof first) == 0,
                          "level %d, %d threads for %d us, batch %d: other candidates", levels[l], threads, stay_us,
                          batch);
                }
            }
            asdsl_release(engine);
        }
    }
}

/* The oracle level beside the portable one: the same model in double precision. Bound: float32 rounding through 8 bits
 * of activations moves an activation by a step now and then; 1 % of the spread of the logits is far below any real
 * fault. */
static void test_reference(void) {
    struct outcome fast, oracle;
    asdsl_handle engine = make_engine(2, ASDSL_LEVEL_AUTO);
    run_text(engine, 4, 0, false, &fast);
    asdsl_release(engine);
    engine = make_engine(2, ASDSL_LEVEL_REFERENCE);
    run_text(engine, 4, 0, false, &oracle);
    asdsl_release(engine);
    double spread = 0, worst = 0;
    for (int i = 0; i < VOCAB; i++) {
        spread = fmax(spread, fabs((double)oracle.logits[i]));
        worst = fmax(worst, fabs((double)oracle.logits[i] - (double)fast.logits[i]));
    }
    CHECK(worst <= 0.01 * spread, "logits differ by %g, their size is %g", worst, spread);
}

static void test_parameters(void) {
    asdsl_handle engine = make_engine(2, ASDSL_LEVEL_AUTO), program = make_program(engine);
    asdsl_handle kv = asdsl_kv_create(&model.kv), other_kv;
    struct asdsl_params *p = asdsl_program_params(program);
    struct asdsl_kv_options options = model.kv;
    int32_t attention = tiny_find(&model, ASDSL_OP_ATTENTION);
    CHECK((uintptr_t)p % 64 == 0 && p->max_tokens == MAX_TOKENS_TINY && p->max_outputs == MAX_OUTPUTS_TINY &&
              p->max_top_k == TOP_K_TINY && p->bytes > p->candidates_offset,
          "parameter block");
#define WRONG(text, ...)                                                                                               \
    do {                                                                                                               \
        set_pass(p, 0, 3);                                                                                             \
        __VA_ARGS__;                                                                                                   \
        SAYS(asdsl_run(program, kv, 0, N_OPS_TINY) < 0, text);                                                         \
        CHECK(asdsl_kv_length(kv) == 0, "KV length %d", asdsl_kv_length(kv));                                          \
    } while (0)
    WRONG("n_tokens is 0", p->n_tokens = 0);
    WRONG("n_tokens is 9, 1 to 8", p->n_tokens = 9);
    WRONG("n_tokens is -2147483648", p->n_tokens = INT32_MIN);
    WRONG("n_outputs is -1", p->n_outputs = -1);
    WRONG("n_outputs is 5, 0 to 4", p->n_outputs = 5);
    WRONG("top_k is 6, 0 to 5", p->top_k = 6);
    WRONG("top_k is -1", p->top_k = -1);
    WRONG("position is -1", p->position = -1);
    WRONG("position is 2147483647 with 3 tokens", p->position = INT32_MAX);
    WRONG("position is 1, the KV cache holds 0", p->position = 1);
    WRONG("token 1 is 96, 0 to 95", tokens_of(p)[1] = VOCAB);
    WRONG("token 0 is -1", tokens_of(p)[0] = -1);
    WRONG("output 0 is row 3", outputs_of(p)[0] = 3);
    WRONG("output 0 is row -1", outputs_of(p)[0] = -1);
    WRONG("output 1 is row 1", p->n_outputs = 2, outputs_of(p)[0] = outputs_of(p)[1] = 1);
    set_pass(p, 0, 3);
    SAYS(asdsl_run(program, kv, -1, 1) < 0, "1 ops from op -1");
    SAYS(asdsl_run(program, kv, 0, 0) < 0, "0 ops");
    SAYS(asdsl_run(program, kv, 1, N_OPS_TINY) < 0, "25 ops from op 1");
    SAYS(asdsl_run(program, kv, INT32_MAX, INT32_MAX) < 0, "the program has 25");
    SAYS(asdsl_run(program, 0, 0, N_OPS_TINY) < 0, "needs a KV cache");
    SAYS(asdsl_run(program, buffer, 0, N_OPS_TINY) == ASDSL_E_HANDLE, "is a buffer, a KV cache is needed");
    options.head_dim = 32;
    other_kv = asdsl_kv_create(&options);
    SAYS(asdsl_run(program, other_kv, attention, 1) < 0, "the KV cache has 1 layers, 2 heads of 32");
    asdsl_release(other_kv);
    /* What TypeScript writes where C owns is not believed. */
    set_pass(p, 0, 3);
    struct asdsl_params kept = *p;
    p->max_tokens = INT32_MAX, p->tokens_offset = 0x7fffffff, p->stats_offset = 0x7fffffff, p->max_top_k = 1 << 30;
    CHECK(asdsl_run(program, kv, 0, N_OPS_TINY) == ASDSL_OK, "%s", asdsl_last_error());
    *p = kept;
    for (int32_t at = 3; at < 63; at += 6) {
        set_pass(p, at, 6);
        CHECK(asdsl_run(program, kv, 0, N_OPS_TINY) == ASDSL_OK, "%s", asdsl_last_error());
    }
    set_pass(p, 63, 2);
    SAYS(asdsl_run(program, kv, 0, N_OPS_TINY) == ASDSL_E_STATE,
         "position 63 and 2 tokens, the KV cache has room for 64");
    set_pass(p, 63, 1);
    p->n_outputs = 0;
    CHECK(asdsl_run(program, kv, 0, N_OPS_TINY) == ASDSL_OK && asdsl_kv_length(kv) == 64, "%s", asdsl_last_error());
    /* Handles in any order: the program keeps its engine. */
    asdsl_release(engine);
    CHECK(asdsl_kv_truncate(kv, 60) == ASDSL_OK, "%s", asdsl_last_error());
    set_pass(p, 60, 1);
    CHECK(asdsl_run(program, kv, 0, N_OPS_TINY) == ASDSL_OK, "%s", asdsl_last_error());
    asdsl_release(kv);
    asdsl_release(program);
}

/* ---- cancelling ---- */
static struct canceller {
    asdsl_handle program;
    atomic_int stop, cancels;
} canceller;

static void cancel_often(void *argument) {
    (void)argument;
    while (!atomic_load(&canceller.stop)) {
        CHECK(asdsl_cancel(canceller.program) == ASDSL_OK, "%s", asdsl_last_error());
        atomic_fetch_add(&canceller.cancels, 1);
        for (double until = clock_ns() + 150e3; clock_ns() < until;) thread_yield();
    }
}

static void test_cancel(void) {
    struct thread thread;
    asdsl_handle engine = make_engine(2, ASDSL_LEVEL_AUTO), kv = asdsl_kv_create(&model.kv);
    canceller.program = make_program(engine);
    struct asdsl_params *p = asdsl_program_params(canceller.program);
    set_pass(p, 0, 8);
    CHECK(asdsl_cancel(canceller.program) == ASDSL_OK, "%s", asdsl_last_error());
    SAYS(asdsl_run(canceller.program, kv, 0, N_OPS_TINY) == ASDSL_E_CANCELLED, "cancelled before op 0 embed");
    CHECK(asdsl_kv_length(kv) == 0, "KV length %d", asdsl_kv_length(kv));
    CHECK(asdsl_run(canceller.program, kv, 0, N_OPS_TINY) == ASDSL_OK, "the flag was not used up");
    CHECK(thread_start(&thread, cancel_often, NULL), "%s", platform_error());
    int cancelled = 0, inside = 0, length = 8;
    for (int i = 0; i < 100000 && inside < 20; i++) {
        asdsl_kv_truncate(kv, 0);
        length = 0;
        int32_t status = asdsl_run(canceller.program, kv, 0, N_OPS_TINY);
        if (status == ASDSL_E_CANCELLED) {
            cancelled++;
            inside += !says("before op 0 ");
        } else {
            CHECK(status == ASDSL_OK, "%s", asdsl_last_error());
            length = 8;
        }
        CHECK(asdsl_kv_length(kv) == length, "KV length %d, status %d", asdsl_kv_length(kv), status);
    }
    atomic_store(&canceller.stop, 1);
    thread_join(&thread);
    CHECK(cancelled > 0 && cancelled <= atomic_load(&canceller.cancels), "%d of %d", cancelled, canceller.cancels);
    CHECK(inside > 0, "never inside a run, %d times before one", cancelled);
    asdsl_release(canceller.program);
    asdsl_release(kv);
    asdsl_release(engine);
}

/* ---- two threads, one engine; the caller as it was ---- */
static void run_often(void *argument) {
    asdsl_handle program = make_program(*(asdsl_handle *)argument), kv = asdsl_kv_create(&model.kv);
    struct asdsl_params *p = asdsl_program_params(program);
    for (int i = 0; i < 100; i++) {
        asdsl_kv_truncate(kv, 0);
        set_pass(p, 0, 2);
        CHECK(asdsl_run(program, kv, 0, 1) == ASDSL_OK, "%s", asdsl_last_error());
    }
    asdsl_release(kv);
    asdsl_release(program);
}

static void test_two_callers(void) {
    struct thread threads[2];
    struct affinity before, after;
    affinity_get(&before);
    asdsl_handle engine = make_engine(2, ASDSL_LEVEL_AUTO);
    for (int i = 0; i < 2; i++) CHECK(thread_start(&threads[i], run_often, &engine), "%s", platform_error());
    run_often(&engine);
    for (int i = 0; i < 2; i++) thread_join(&threads[i]);
    asdsl_release(engine);
    affinity_get(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0, "runs changed the caller's affinity");
}

int main(void) {
    tiny_model(&model);
    buffer = asdsl_buffer_create((double)model.used);
    CHECK(buffer, "%s", asdsl_last_error());
    tiny_fill(&model, asdsl_buffer_data(buffer), 5);
    test_buffers();
    test_files();
    test_engines();
    test_same_bits();
    test_reference();
    test_parameters();
    test_cancel();
    test_two_callers();
    asdsl_release(buffer);
    return check_report("engine_run");
}
