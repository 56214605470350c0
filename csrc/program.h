/* program.h: engines and programs as asdsl.c, program.c, validate.c, probe.c and counters.c share them. */
#ifndef ASDSL_PROGRAM_H
#define ASDSL_PROGRAM_H
#include "buffer.h"
#include "engine.h"
#include "kernels/attention.h"
#include "platform.h"
#include "pool.h"
#include "tune.h"

/* Bounds of what a program may ask for. Far above any real model, far below what overflows: a product of any two
 * of them, times 4 bytes, stays below 2^63. */
enum {
    MAX_OPS = 65536,
    MAX_BUFFERS = 65536,
    MAX_TOKENS = 65536,   /* of one pass, and outputs of one pass */
    MAX_ROWS = 1 << 27,   /* of a weight matrix */
    MAX_COLS = 1 << 24,   /* of any matrix, and tokens of a vocabulary */
    MAX_STRIDE = 1 << 26, /* floats */
    MAX_LAYERS = 65536,
    MAX_HEADS = 65536,
    MAX_HEAD_DIM = ATTENTION_MAX_DIM,
    MAX_EXPERTS = 1024,
};

struct engine {
    struct object object;
    struct mutex lock; /* one run, probe, count or repacking at a time */
    struct pool *pool;
    const struct kernels *kernels;
    struct asdsl_info info;
    int64_t *events[N_EVENTS]; /* of each worker, by event_kind; NULL: not counted yet */
    struct tuner tuner;
};

struct engine *engine_create(const struct asdsl_engine_options *options); /* NULL with the error text set */
void engine_workers(struct engine *engine, struct asdsl_worker *out); /* out[n_threads] */
int32_t engine_try_level(int32_t level); /* ends the process if it traps: asdsl.h */
double engine_probe(struct engine *engine, int32_t kind); /* probe.c; negative with the error text set */
/* counters.c; likewise. */
double engine_count(struct engine *engine, int32_t counter);
void engine_end_counts(struct engine *engine);

/* One entry per operation, in the order of ops.h: program.c */
extern const struct op_kind op_kinds[ASDSL_OP_COUNT];

/* validate.c */
struct validation {
    const struct asdsl_program_options *options;
    struct buffer *const *buffers;
    int32_t n_buffers;
    const struct kernels *kernels;
};
int32_t validate_options(const struct asdsl_program_options *options);
/* ASDSL_OK: op may run with these buffers, options and kernels, for any parameters that pass asdsl_run's checks. */
int32_t validate_op(const struct validation *v, int32_t index, const struct asdsl_op *op);
/* The shape checks of the operations, for op_kinds. */
#define X(CODE, name, operands, ints, floats)                                                                          \
    bool validate_##name(const struct asdsl_op *op, const struct asdsl_program_options *options, char *why,            \
                         size_t why_bytes);
ASDSL_OPS(X)
#undef X

struct program;
struct program *program_create(struct engine *engine, const struct asdsl_op *ops, int32_t n_ops,
                               struct buffer *const *buffers, int32_t n_buffers,
                               const struct asdsl_program_options *options);
struct asdsl_params *program_params(struct program *program);
int32_t program_run(struct program *program, struct kv_cache *kv, int32_t first, int32_t count);
void program_cancel(struct program *program);
const char *program_op_slot(struct program *program, int32_t index); /* NULL with the error text set */
double program_op_time(struct program *program, int32_t index);

#endif
