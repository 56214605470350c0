/* engine.h: what the engine's own files share: workers, resolved steps, runners, errors. Not part of the ABI.
 *
 * A program is an array of steps. asdsl_run wakes the pool once; every worker walks the same steps and calls each
 * step's runner; the executor (program.c) puts one barrier between steps. A runner distributes its units with
 * work_begin/work_next and may place further barriers with worker_barrier (attention does, before it merges).
 */
#ifndef ASDSL_ENGINE_H
#define ASDSL_ENGINE_H
#include "asdsl.h"
#include "kernels/kernels.h"
#include "ops.h"
#include "schedule.h"
#include <stdbool.h>
#include <stdint.h>

struct buffer;   /* buffer.h */
struct kv_cache; /* kv.h */
struct pool;     /* pool.c */

/* One worker inside a run. Worker 0 is the calling thread. */
struct worker {
    struct pool *pool;
    int32_t index, count;
    void *scratch; /* private, 64-byte aligned */
    size_t scratch_bytes;
    /* work_begin/work_next state: */
    const struct schedule_plan *plan;
    struct deal deal;
    uint32_t phase;
    uint64_t band_begin; /* clock ticks: when the present band was taken */
    double band_ticks;   /* spent in timed bands of this run */
    int32_t spins;       /* looks at a barrier before it yields */
    double stays_until;  /* of open runs (pool.c), by clock_ns: when it should give its core up */
    bool has_left;       /* likewise: it is no longer in the run */
    bool is_first;       /* worker 0 that has not entered the run yet */
    int32_t slow_percent;            /* tests: units take so much longer, by waiting */
    uint64_t slow_since;             /* clock ticks when the present units were taken */
};

/* One operation with its operands resolved: what a runner sees. Lives as long as its program. */
struct step {
    const struct asdsl_op *op;
    void *at[8];            /* operand addresses, NULL where absent */
    int32_t rows;           /* R of this run: n_tokens or n_outputs, times a quantize's slots; set before the run */
    const struct kernels *k;
    struct asdsl_params *params;
    struct kv_cache *kv;    /* of this run, NULL without */
    const char *slot;       /* the slot that last ran, "q4_1.gemv.avx2" or "rms_norm.avx2" */
    bool fast_prefill;
    void *shared;           /* memory of one step at a time, for all workers (attention partials, strips), or NULL */
    size_t shared_bytes;
    struct buffer *mapped; /* the file that weights lie in which it reads whole, or NULL */
    uint64_t mapped_end;   /* where they end in it */
    const bool *fetch_one;  /* by weight type: whether products of one column fetch ahead (tune.h) */
};

typedef void step_runner(struct step *step, struct worker *w);

/* Everything the executor knows of an operation kind: ops_table in program.c, one row per ops.h entry. */
struct op_kind {
    const char *name;
    /* Checks shapes, types and integers beyond what operands need in general; fills `why` and returns false. */
    bool (*validate)(const struct asdsl_op *op, const struct asdsl_program_options *options, char *why,
                     size_t why_bytes);
    step_runner *run;
    bool small; /* per-row work of about a microsecond: with few rows worker 0 runs it alone, without a barrier */
    bool needs_kv;
};

/* Splits units [0, n) over all workers: a band each in proportion to its speed (about 85 %), the rest from an atomic
 * counter in units of up to `grain`, smaller towards the end (schedule.h). Every worker must call it the same number of
 * times in a step, and worker->count is the same for all: how many there may be at most. */
void work_begin(struct worker *w, int32_t n, int32_t grain);
bool work_next(struct worker *w, int32_t *begin, int32_t *end);
void worker_barrier(struct worker *w);

/* Runners. run_matmul.c: */
step_runner run_embed, run_quantize, run_matmul, run_matmul_add, run_gate_up;
/* run_rows.c: */
step_runner run_rms_norm, run_rms_norm_add, run_rope_table, run_rope, run_gather_outputs, run_top_k;
/* run_moe.c: */
step_runner run_moe_route, run_moe_gate_up, run_moe_down, run_moe_combine;
/* Per-thread scratch of an operation over slots: run_moe.c */
size_t moe_scratch_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options);
/* Bytes of step->shared and per-thread scratch that a matrix product needs; 0 for other operations: run_matmul.c */
size_t matmul_shared_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options);
size_t matmul_scratch_of(const struct asdsl_op *op, const struct asdsl_program_options *options);
/* Per-thread scratch of embed: run_matmul.c */
size_t embed_scratch_bytes(const struct asdsl_op *op);
/* Bytes between the rows of a matmul's activations: run_matmul.c */
size_t activation_stride(const struct asdsl_operand *in);
/* run_attention.c: */
step_runner run_kv_append, run_attention;
/* Bytes of step->shared that attention needs for a KV capacity, and per-thread scratch: run_attention.c */
size_t attention_shared_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options);
size_t attention_scratch_bytes(const struct asdsl_op *op);

/* error.c: formats into the calling thread's last error and returns `status`. */
int32_t asdsl_fail(int32_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
