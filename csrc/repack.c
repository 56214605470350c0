/* repack.c: one asdsl_repack job: bounds in 64 bits, then row groups over all workers. Handles are asdsl.c's business.
 */
#include "repack.h"

/* A validated job with addresses: what every worker of a run works on. */
struct task {
    repack_fn *fn; /* NULL: regroups */
    const void *from;
    void *to;
    int32_t rows, cols, groups; /* groups: of 16 rows */
    struct regroup_job regroup;
};

/* Does [offset, offset + bytes) lie in a buffer of `size` bytes? */
static bool inside(uint64_t offset, double bytes, uint64_t size) {
    return bytes >= 0 && offset <= size && bytes <= (double)(size - offset);
}

/* Of a sound matrix; below 2^65: never wraps. */
static double layout_bytes(const struct type_facts *t, uint32_t layout, uint32_t rows, uint32_t cols) {
    if (layout == ASDSL_ROWS) return (double)rows * ((double)cols / t->block) * t->block_bytes;
    return layout == ASDSL_INTERLEAVED ? interleaved_bytes(t, (int32_t)rows, (int32_t)cols)
                                       : small_groups_bytes(t, (int32_t)rows, (int32_t)cols);
}

/* Kernels and regrouping read lines; rows may lie anywhere. */
static uint64_t layout_alignment(uint32_t layout) {
    return layout == ASDSL_ROWS ? 1 : layout == ASDSL_INTERLEAVED ? 64 : 16;
}

static int32_t check_matrix(const struct asdsl_repack_job *job, const struct type_facts *t) {
    if (!t || job->type > INT32_MAX)
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "repack: unknown tensor type %u", job->type);
    if (job->reserved != 0) return asdsl_fail(ASDSL_E_ARGUMENT, "repack: reserved is %u, not 0", job->reserved);
    uint32_t src = job->src_layout, dst = job->dst_layout;
    if (src > ASDSL_INTERLEAVED_4 || dst > ASDSL_INTERLEAVED_4 || src == dst ||
        (src != ASDSL_INTERLEAVED && dst != ASDSL_INTERLEAVED)) {
        return asdsl_fail(ASDSL_E_ARGUMENT,
                          "repack: layouts %u and %u, one must be interleaved (1), the other rows (0) or of 4 rows (2)",
                          src, dst);
    }
    if (job->rows == 0 || job->cols == 0 || job->rows > INT32_MAX || job->cols > INT32_MAX ||
        job->cols % (uint32_t)t->block != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: %s matrix of %u x %u, the second must be a multiple of %d",
                          t->name, job->rows, job->cols, t->block);
    }
    return ASDSL_OK;
}

static int32_t check_side(const char *side, uint32_t layout, uint64_t offset, double bytes, uint64_t size) {
    if (!inside(offset, bytes, size)) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: %s needs %.0f bytes at %llu, the buffer has %llu", side, bytes,
                          (unsigned long long)offset, (unsigned long long)size);
    }
    if (offset % layout_alignment(layout) != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: interleaved offset %llu is not a multiple of %llu",
                          (unsigned long long)offset, (unsigned long long)layout_alignment(layout));
    }
    return ASDSL_OK;
}

static int32_t repack_prepare(const struct asdsl_repack_job *job, struct repack_buffer src, struct repack_buffer dst,
                              bool same_buffer, struct task *task) {
    const struct type_facts *t = type_facts((int32_t)job->type);
    if (check_matrix(job, t) != ASDSL_OK) return asdsl_last_status();
    double from_bytes = layout_bytes(t, job->src_layout, job->rows, job->cols);
    double to_bytes = layout_bytes(t, job->dst_layout, job->rows, job->cols);
    int32_t status = check_side("source", job->src_layout, job->src_offset, from_bytes, src.bytes);
    if (status == ASDSL_OK) {
        status = check_side("destination", job->dst_layout, job->dst_offset, to_bytes, dst.bytes);
    }
    if (status != ASDSL_OK) return status;
    if (same_buffer && (double)job->src_offset < (double)job->dst_offset + to_bytes &&
        (double)job->dst_offset < (double)job->src_offset + from_bytes) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "repack: source and destination overlap in one buffer");
    }
    bool by_rows = job->src_layout == ASDSL_ROWS || job->dst_layout == ASDSL_ROWS;
    uint8_t *from = (uint8_t *)src.data + job->src_offset, *to = (uint8_t *)dst.data + job->dst_offset;
    bool to_small = job->dst_layout == ASDSL_INTERLEAVED_4;
    *task = (struct task){.fn = by_rows ? repack_for(t->type, job->dst_layout == ASDSL_INTERLEAVED) : NULL,
                          .from = from,
                          .to = to,
                          .rows = (int32_t)job->rows,
                          .cols = (int32_t)job->cols,
                          .groups = (int32_t)((job->rows + KERNEL_ROWS - 1) / KERNEL_ROWS),
                          .regroup = {.large = to_small ? from : to,
                                      .small = to_small ? to : from,
                                      .type = t->type,
                                      .rows = (int32_t)job->rows,
                                      .cols = (int32_t)job->cols,
                                      .to_small = to_small}};
    return ASDSL_OK;
}

static void repack_work(void *context, struct worker *w) {
    const struct task *task = context;
    int32_t begin, end;
    work_begin(w, task->groups, 4);
    while (work_next(w, &begin, &end)) {
        if (task->fn) {
            task->fn(task->from, task->to, task->rows, task->cols, begin, end);
        } else {
            regroup(&task->regroup, begin, end);
        }
    }
}

int32_t repack_run(struct pool *pool, const struct asdsl_repack_job *job, struct repack_buffer src,
                   struct repack_buffer dst, bool same_buffer) {
    struct task task;
    int32_t status = repack_prepare(job, src, dst, same_buffer, &task);
    if (status == ASDSL_OK) pool_run(pool, repack_work, &task);
    return status;
}
