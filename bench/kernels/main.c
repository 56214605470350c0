/* main.c: the program that bench/layout.ts drives: lines of numbers, no judgement.
 *
 *   layout_bench check                                every variant against the reference kernel; silent when all agree
 *   layout_bench steps TYPE                           "LAYOUT LEVEL COLUMN_WEIGHTS ADDRESS COUNT": instructions of what
 *                                                     512 more inputs of one row group take
 *   layout_bench time TYPE THREADS BYTES ROUNDS MS    "read - BYTES_PER_SECOND", "peak LEVEL MACS_PER_SECOND" and
 *                                                     "LAYOUT LEVEL BYTES_PER_SECOND" of each round; BYTES a thread
 *
 * TYPE is an asdsl_type's number. Timed weights are arbitrary bytes (their scales small and positive): no instruction
 * here takes longer for some values than for others, and every variant reads the same memory.
 */
#include "variants.h"
#include "../../csrc/cpu.h"
#include "../../csrc/kernels/layout.h"
#include "../../csrc/platform.h"
#include "../../csrc/pool.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { COLS = 2048, CHECK_ROWS = 48, SPIN_US = 0 };

static const int32_t types[] = {ASDSL_Q4_1, ASDSL_Q5_0, ASDSL_Q8_0, ASDSL_Q4_K, ASDSL_Q6_K};

static uint64_t state = 88172645463325252u;

static uint32_t random_u32(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 2685821657736338717u >> 32);
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "layout_bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

static float *random_inputs(int32_t cols) {
    float *x = allocate(sizeof(float) * (size_t)cols);
    for (int32_t i = 0; i < cols; i++) x[i] = (float)(int32_t)random_u32() * 0x1p-31f;
    return x;
}

/* ---- check ---- */

static void put_scale(uint8_t *p) { /* 2^-7 .. 2 */
    p[0] = (uint8_t)random_u32();
    p[1] = (uint8_t)(0x20 + random_u32() % 32);
}

static uint8_t *random_rows(const struct type_facts *t, int32_t rows, int32_t cols) {
    size_t size = (size_t)t->block_bytes, blocks = (size_t)rows * (size_t)(cols / t->block);
    uint8_t *from = allocate(blocks * size);
    for (size_t i = 0; i < blocks * size; i++) from[i] = (uint8_t)random_u32();
    for (size_t b = 0; b < blocks; b++) {
        put_scale(from + b * size + (t->type == ASDSL_Q6_K ? 208 : 0));
        if (t->type == ASDSL_Q4_1 || t->type == ASDSL_Q4_K) put_scale(from + b * size + 2);
    }
    return from;
}

/* Rows past CHECK_ROWS, if a group has any, are not looked at. Tolerance: 2^-16 of the largest; the float variant does
 * not quantise its inputs, 2^-6 more. */
static bool check_variant(const struct variant *v, int32_t type, const uint8_t *from, const float *x,
                          const float *want) {
    int32_t rows = variant_rows(v), groups = (CHECK_ROWS + rows - 1) / rows;
    uint8_t *w = allocate(variant_group_bytes(v, type, COLS) * (size_t)groups);
    float *out = allocate(sizeof(float) * (size_t)(groups * rows)), largest = 0;
    bool is_right = true;
    variant_pack(v, type, from, CHECK_ROWS, COLS, w);
    struct variant_job job = {.type = type, .cols = COLS, .w = w, .out = out};
    job.act = variant_activations(v, type, x, COLS);
    variant_run(v, &job, 0, groups);
    for (int32_t r = 0; r < CHECK_ROWS; r++) largest = fmaxf(largest, fabsf(want[r]));
    for (int32_t r = 0; r < CHECK_ROWS; r++) {
        float tolerance = largest * (v->few || v->product ? 0x1p-16f : 0x1p-6f);
        if (fabsf(out[r] - want[r]) <= tolerance) continue;
        printf("%s %s %s row %d: %g, not %g\n", type_facts(type)->name, v->layout, v->level, r, (double)out[r],
               (double)want[r]);
        is_right = false;
    }
    free(job.act);
    free(out);
    free(w);
    return is_right;
}

static int check(const struct variant *variants, int32_t n) {
    bool is_right = true;
    float *x = random_inputs(COLS), want[CHECK_ROWS];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint8_t *from = random_rows(type_facts(types[i]), CHECK_ROWS, COLS);
        struct variant reference = {.product = kernels_for(ASDSL_LEVEL_REFERENCE)};
        uint8_t *w = allocate(variant_group_bytes(&reference, types[i], COLS) * (CHECK_ROWS / KERNEL_ROWS));
        variant_pack(&reference, types[i], from, CHECK_ROWS, COLS, w);
        struct variant_job job = {.type = types[i], .cols = COLS, .w = w, .out = want};
        job.act = variant_activations(&reference, types[i], x, COLS);
        variant_run(&reference, &job, 0, CHECK_ROWS / KERNEL_ROWS);
        for (int32_t v = 0; v < n; v++) is_right &= check_variant(&variants[v], types[i], from, x, want);
        free(job.act);
        free(w);
        free(from);
    }
    free(x);
    return is_right ? 0 : 1;
}

/* ---- steps ---- */

struct counted {
    const struct variant *variant;
    struct variant_job job;
};

/* One row group of `which` inputs. */
static void run_counted(void *context, int32_t which) {
    struct counted *c = context;
    struct variant_job job = c->job;
    job.cols = which;
    variant_run(c->variant, &job, 0, 1);
}

static int64_t count_of(const struct steps *steps, uintptr_t address) {
    for (int32_t i = 0; i < steps->n; i++)
        if (steps->at[i].address == address) return steps->at[i].count;
    return 0;
}

static int steps(const struct variant *variants, int32_t n, int32_t type) {
    static struct steps less, more;
    enum { MORE = 512 };
    float *x = random_inputs(COLS), out[KERNEL_ROWS];
    for (int32_t v = 0; v < n; v++) {
        struct counted c = {.variant = &variants[v], .job = {.type = type, .out = out}};
        uint8_t *w = allocate(variant_group_bytes(&variants[v], type, COLS));
        memset(w, 0x21, variant_group_bytes(&variants[v], type, COLS));
        c.job.w = w;
        c.job.act = variant_activations(&variants[v], type, x, COLS);
        if (!count_steps(run_counted, &c, MORE, &less) || !count_steps(run_counted, &c, 2 * MORE, &more)) {
            fprintf(stderr, "layout_bench: this system does not let a process be stepped through\n");
            return 1;
        }
        for (int32_t i = 0; i < more.n; i++) {
            int64_t count = more.at[i].count - count_of(&less, more.at[i].address);
            if (count == 0) continue;
            printf("%s %s %d %#lx %ld\n", variants[v].layout, variants[v].level, MORE * variant_rows(&variants[v]),
                   (unsigned long)more.at[i].address, (long)count);
        }
        free(c.job.act);
        free(w);
    }
    free(x);
    return 0;
}

/* ---- time ---- */

struct timed {
    const struct variant *variant; /* NULL: a plain read loop */
    struct variant_job job;
    size_t bytes; /* of one thread */
    int32_t groups, repeats;
    struct {
        _Alignas(128) uint64_t sum; /* escapes: the reads cannot be left out */
    } read[POOL_MAX_THREADS];
};

/* csrc/probe.c's loop. */
static uint64_t read_bytes(const uint8_t *from, size_t bytes) {
    uint64_t sums[8] = {0}, sum = 0;
    for (const uint8_t *at = from; at < from + bytes; at += 64) {
        uint64_t line[8];
        memcpy(line, at, 64);
        for (int i = 0; i < 8; i++) sums[i] += line[i];
    }
    for (int i = 0; i < 8; i++) sum += sums[i];
    return sum;
}

static void run_timed(void *context, struct worker *w) {
    struct timed *t = context;
    const uint8_t *own = t->job.w + t->bytes * (size_t)w->index;
    struct variant_job job = t->job;
    job.w = own;
    if (t->variant) job.out += (size_t)w->index * (size_t)(t->groups * variant_rows(t->variant));
    for (int32_t i = 0; i < t->repeats; i++) {
        if (t->variant) {
            variant_run(t->variant, &job, 0, t->groups);
        } else {
            t->read[w->index].sum += read_bytes(own, t->bytes);
        }
        __asm__ volatile("" ::: "memory");
    }
}

/* Bytes/s of one measurement of at least `ms`. */
static double measure(struct pool *pool, struct timed *t, double ms) {
    size_t bytes = t->variant ? (size_t)t->groups * variant_group_bytes(t->variant, t->job.type, COLS) : t->bytes;
    for (t->repeats = 1;;) {
        double since = clock_ns();
        pool_run(pool, run_timed, t);
        double ns = clock_ns() - since;
        if (ns >= ms * 1e6) return (double)bytes * t->repeats * pool_threads(pool) / ns * 1e9;
        double more = 1.2 * ms * 1e6 / ns;
        t->repeats = more > 2 ? (int32_t)(t->repeats * more) : 2 * t->repeats;
    }
}

struct peak {
    int8_peak_fn *fn;
    int64_t iterations;
    struct {
        _Alignas(128) double done;
    } of[POOL_MAX_THREADS];
};

static void run_peak(void *context, struct worker *w) {
    struct peak *p = context;
    p->of[w->index].done = p->fn(p->iterations);
}

static double measure_peak(struct pool *pool, int8_peak_fn *fn) {
    static struct peak p;
    p = (struct peak){.fn = fn, .iterations = 1 << 20};
    double since = clock_ns(), done = 0;
    pool_run(pool, run_peak, &p);
    double ns = clock_ns() - since;
    for (int32_t i = 0; i < pool_threads(pool); i++) done += p.of[i].done;
    return done / ns * 1e9;
}

static void fill(uint8_t *w, size_t bytes) {
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t four = (random_u32() & 0x0f0f0f0f) | 0x20202020; /* as f16: 2^-7 or so */
        memcpy(w + i, &four, 4);
    }
}

static int time_all(const struct variant *variants, int32_t n, int32_t type, int32_t threads, size_t bytes,
                    int32_t rounds, double ms) {
    static struct timed t;
    struct placement cores;
    cpu_placement(NULL, &cores);
    struct pool_options options = {.n_threads = threads, .spin_us = SPIN_US, .pin = true};
    struct pool *pool = pool_create(&options, &cores);
    float *x = random_inputs(COLS);
    size_t all = bytes * (size_t)threads;
    uint8_t *w = pages_allocate(all + (64 << 10)); /* kernels fetch ahead */
    float *out = allocate(sizeof(float) * (all / 256 + KERNEL_ROWS)); /* a row of COLS has more bytes */
    void *acts[MAX_VARIANTS];
    if (!pool || !w) {
        fprintf(stderr, "layout_bench: no pool of %d threads or no memory for %zu bytes\n", threads, all);
        return 1;
    }
    fill(w, all);
    for (int32_t v = 0; v < n; v++) acts[v] = variant_activations(&variants[v], type, x, COLS);
    for (int32_t round = -1; round < rounds; round++) { /* the first warms up */
        t = (struct timed){.job = {.w = w}, .bytes = bytes};
        double rate = measure(pool, &t, ms);
        if (round >= 0) printf("read - %.6g\n", rate);
        for (int32_t v = 0; v < n; v++) {
            const struct variant *variant = &variants[v];
            if (variant->product) {
                rate = measure_peak(pool, variant->product->int8_peak);
                if (round >= 0) printf("peak %s %.6g\n", variant->level, rate);
            }
            t = (struct timed){.variant = variant, .bytes = bytes / 64 * 64};
            t.job = (struct variant_job){.type = type, .cols = COLS, .w = w, .act = acts[v], .out = out};
            t.groups = (int32_t)(t.bytes / variant_group_bytes(variant, type, COLS));
            rate = measure(pool, &t, ms);
            if (round >= 0) printf("%s %s %.6g\n", variant->layout, variant->level, rate);
        }
    }
    for (int32_t v = 0; v < n; v++) free(acts[v]);
    free(out);
    free(x);
    pages_free(w, all + (64 << 10));
    pool_destroy(pool);
    return 0;
}

int main(int argc, char **argv) {
    struct variant variants[MAX_VARIANTS];
    int32_t n = variants_here(variants), type = argc > 2 ? atoi(argv[2]) : -1;
    bool is_known = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) is_known |= types[i] == type;
    if (argc == 2 && strcmp(argv[1], "check") == 0) return check(variants, n);
    if (argc == 3 && is_known && strcmp(argv[1], "steps") == 0) return steps(variants, n, type);
    if (argc == 7 && is_known && strcmp(argv[1], "time") == 0) {
        int32_t threads = atoi(argv[3]), rounds = atoi(argv[5]);
        double bytes = atof(argv[4]), ms = atof(argv[6]);
        if (threads > 0 && threads <= POOL_MAX_THREADS && bytes >= 1 << 18 && bytes < 1e12 && rounds > 0 && ms > 0) {
            return time_all(variants, n, type, threads, (size_t)bytes / 4096 * 4096, rounds, ms);
        }
    }
    fprintf(stderr, "layout_bench: see the head of bench/kernels/main.c\n");
    return 2;
}
