/* repack.h: between asdsl_repack (asdsl.c, which owns handles) and the work of it. */
#ifndef ASDSL_REPACK_H
#define ASDSL_REPACK_H
#include "pool.h"

/* One side of a job: the whole buffer. */
struct repack_buffer {
    void *data;
    uint64_t bytes;
};

/* Checks the job's type, layouts, shape and both byte ranges, then repacks on all workers. `same_buffer`: src and dst
 * are one buffer, so the ranges may not overlap. The caller holds both buffers and the engine's mutex, and has refused
 * a read-only dst. ASDSL_OK, or a negative status with the error text set and nothing written. */
int32_t repack_run(struct pool *pool, const struct asdsl_repack_job *job, struct repack_buffer src,
                   struct repack_buffer dst, bool same_buffer);

#endif
