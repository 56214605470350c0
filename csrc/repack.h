/* repack.h: between asdsl_repack (asdsl.c, which owns handles) and the work of it. */
#ifndef ASDSL_REPACK_H
#define ASDSL_REPACK_H
#include "pool.h"

/* One side of a job: the whole buffer. */
struct repack_buffer {
    void *data;
    uint64_t bytes;
};

/* regroup.c: a matrix in records of 16 rows (large) and of 4 (small); one of them is written. */
struct regroup_job {
    uint8_t *large, *small;
    int32_t type, rows, cols;
    bool to_small;
};
void regroup(const struct regroup_job *job, int32_t begin, int32_t end); /* groups of 16 rows [begin, end) */
double small_groups_bytes(const struct type_facts *t, int32_t rows, int32_t cols); /* of a matrix in records of 4 */

/* Checks the job's type, layouts, shape and both byte ranges, then repacks on all workers. `same_buffer`: src and dst
 * are one buffer, so the ranges may not overlap. The caller holds both buffers and the engine's mutex, and has refused
 * a read-only dst. ASDSL_OK, or a negative status with the error text set and nothing written. */
int32_t repack_run(struct pool *pool, const struct asdsl_repack_job *job, struct repack_buffer src,
                   struct repack_buffer dst, bool same_buffer);

#endif
