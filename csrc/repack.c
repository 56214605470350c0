/* repack.c: one asdsl_repack job: bounds in 64 bits, then row groups over all workers. Handles are asdsl.c's business.
 */
#include "repack.h"

/* A validated job with addresses: what every worker of a run works on. */
struct task {
    repack_fn *fn;
    const void *from;
    void *to;
    int32_t rows, cols, groups;
};

/* Does [offset, offset + bytes) lie in a buffer of `size` bytes? */
static bool inside(uint64_t offset, double bytes, uint64_t size) {
    return bytes >= 0 && offset <= size && bytes <= (double)(size - offset);
}

static int32_t repack_prepare(const struct asdsl_repack_job *job, struct repack_buffer src, struct repack_buffer dst,
                              bool same_buffer, struct task *task) {
    const struct type_facts *t = type_facts((int32_t)job->type);
    if (!t || job->type > INT32_MAX)
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "repack: unknown tensor type %u", job->type);
    if (job->reserved != 0) return asdsl_fail(ASDSL_E_ARGUMENT, "repack: reserved is %u, not 0", job->reserved);
    if (job->src_layout > ASDSL_INTERLEAVED || job->dst_layout > ASDSL_INTERLEAVED ||
        job->src_layout == job->dst_layout) {
        return asdsl_fail(ASDSL_E_ARGUMENT,
                          "repack: layouts %u and %u, one must be rows (0), the other interleaved (1)", job->src_layout,
                          job->dst_layout);
    }
    if (job->rows == 0 || job->cols == 0 || job->rows > INT32_MAX || job->cols > INT32_MAX ||
        job->cols % (uint32_t)t->block != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: %s matrix of %u x %u, the second must be a multiple of %d",
                          t->name, job->rows, job->cols, t->block);
    }
    double rows_bytes =
        (double)job->rows * ((double)job->cols / t->block) * t->block_bytes; /* below 2^65: never wraps */
    double records_bytes = interleaved_bytes(t, (int32_t)job->rows, (int32_t)job->cols);
    bool interleave = job->dst_layout == ASDSL_INTERLEAVED;
    double from_bytes = interleave ? rows_bytes : records_bytes, to_bytes = interleave ? records_bytes : rows_bytes;
    if (!inside(job->src_offset, from_bytes, src.bytes)) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: source needs %.0f bytes at %llu, the buffer has %llu", from_bytes,
                          (unsigned long long)job->src_offset, (unsigned long long)src.bytes);
    }
    if (!inside(job->dst_offset, to_bytes, dst.bytes)) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: destination needs %.0f bytes at %llu, the buffer has %llu",
                          to_bytes, (unsigned long long)job->dst_offset, (unsigned long long)dst.bytes);
    }
    uint64_t records_offset = interleave ? job->dst_offset : job->src_offset;
    if (records_offset % 64 != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: interleaved offset %llu is not a multiple of 64",
                          (unsigned long long)records_offset);
    }
    if (same_buffer && (double)job->src_offset < (double)job->dst_offset + to_bytes &&
        (double)job->dst_offset < (double)job->src_offset + from_bytes) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: source and destination overlap in one buffer");
    }
    *task = (struct task){.fn = repack_for(t->type, interleave),
                          .from = (const uint8_t *)src.data + job->src_offset,
                          .to = (uint8_t *)dst.data + job->dst_offset,
                          .rows = (int32_t)job->rows,
                          .cols = (int32_t)job->cols,
                          .groups = (int32_t)((job->rows + KERNEL_ROWS - 1) / KERNEL_ROWS)};
    return ASDSL_OK;
}

static void repack_work(void *context, struct worker *w) {
    const struct task *task = context;
    int32_t begin, end;
    work_begin(w, task->groups, 4);
    while (work_next(w, &begin, &end)) task->fn(task->from, task->to, task->rows, task->cols, begin, end);
}

int32_t repack_run(struct pool *pool, const struct asdsl_repack_job *job, struct repack_buffer src,
                   struct repack_buffer dst, bool same_buffer) {
    struct task task;
    int32_t status = repack_prepare(job, src, dst, same_buffer, &task);
    if (status == ASDSL_OK) pool_run(pool, repack_work, &task);
    return status;
}
