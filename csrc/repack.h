/* repack.h: between asdsl_repack (asdsl.c, which owns handles) and the work of it. */
#ifndef ASDSL_REPACK_H
#define ASDSL_REPACK_H
#include "engine.h"

/* A validated job with addresses: what every worker of a run works on. */
struct repack_task {
    repack_fn *fn;
    const void *from;
    void *to;
    int32_t rows, cols, groups;
};

/* Checks type, layouts, shape and both byte ranges against the sizes of the buffers; `same_buffer`: src and dst are one
 * buffer, so the ranges may not overlap. ASDSL_OK fills *task; else a negative status and the error text. */
int32_t repack_prepare(const struct asdsl_repack_job *job, const void *src, uint64_t src_bytes, void *dst,
                       uint64_t dst_bytes, bool same_buffer, struct repack_task *task);

/* The share of worker w, called by every worker of one pool run. */
void repack_work(const struct repack_task *task, struct worker *w);

#endif
