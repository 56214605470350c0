/* quant.h: between asdsl_quantize (asdsl.c, which owns handles) and the work of it. */
#ifndef ASDSL_QUANT_H
#define ASDSL_QUANT_H
#include "pool.h"

/* A buffer of a job, whole; data NULL where the job has none. */
struct quantize_buffer {
    void *data;
    uint64_t bytes;
};

struct quantize_buffers {
    struct quantize_buffer src, dst, importance;
    bool same; /* src and dst are one buffer, so the ranges may not overlap */
};

/* Checks the job's types, shape and byte ranges, then encodes on all workers with the encoders of `k`. The caller holds
 * the buffers and the engine's mutex, and has refused a read-only dst. How many weights were not finite and counted as
 * 0; or a negative status with the error text set and nothing written. */
double quantize_run(struct pool *pool, const struct kernels *k, const struct asdsl_quantize_job *job,
                    const struct quantize_buffers *buffers);

#endif
