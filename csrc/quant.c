/* quant.c: one asdsl_quantize job: bounds in 64 bits, then groups of 16 rows over all workers, each made floats and
 * encoded. Handles are asdsl.c's business, the search for scales kernels/encode.h's.
 */
#include "quant.h"
#include <math.h>
#include <string.h>

enum { MAX_COLS = 1 << 26 }; /* 16 rows of floats: 2^30 weights, counted in 32 bits */

/* A validated job with addresses: what every worker of a run works on. */
struct task {
    const struct kernels *k;
    const struct type_facts *src, *dst;
    const uint8_t *from;
    uint8_t *to;
    const float *importance; /* (cols) or NULL */
    uint64_t from_row, to_row; /* bytes */
    int32_t rows, cols;
    size_t records_bytes; /* of the scratch: a group of block types, interleaved */
    _Atomic uint64_t n_not_finite;
};

static bool inside(uint64_t offset, double bytes, uint64_t size) {
    return offset <= size && bytes <= (double)(size - offset);
}

static int32_t fail_outside(const char *what, double bytes, uint64_t offset, uint64_t size) {
    return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: the %s needs %.0f bytes at %llu, the buffer has %llu", what, bytes,
                      (unsigned long long)offset, (unsigned long long)size);
}

static int32_t check_importance(const struct asdsl_quantize_job *job, const struct quantize_buffer *buffer) {
    if (!buffer->data) return ASDSL_OK;
    double bytes = 4.0 * job->cols;
    if (!inside(job->importance_offset, bytes, buffer->bytes)) {
        return fail_outside("importance", bytes, job->importance_offset, buffer->bytes);
    }
    if (job->importance_offset % 4 != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: the importance's offset %llu is not a multiple of 4",
                          (unsigned long long)job->importance_offset);
    }
    const float *values = (const float *)(const void *)((const uint8_t *)buffer->data + job->importance_offset);
    for (uint32_t i = 0; i < job->cols; i++) {
        if (!(values[i] >= 0) || isinf(values[i])) {
            return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: importance %u is %g, a finite number of 0 or more is needed",
                              i, (double)values[i]);
        }
    }
    return ASDSL_OK;
}

static int32_t prepare(const struct kernels *k, const struct asdsl_quantize_job *job,
                       const struct quantize_buffers *buffers, struct task *task) {
    const struct type_facts *src = job->src_type <= INT32_MAX ? type_facts((int32_t)job->src_type) : NULL;
    const struct type_facts *dst = job->dst_type <= INT32_MAX ? type_facts((int32_t)job->dst_type) : NULL;
    if (!src) return asdsl_fail(ASDSL_E_UNSUPPORTED, "quantize: unknown tensor type %u", job->src_type);
    if (!dst || !k->encode[dst->type]) {
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "quantize: tensor type %u (%s) cannot be made", job->dst_type,
                          dst ? dst->name : "unknown");
    }
    if (job->reserved != 0) return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: reserved is %u, not 0", job->reserved);
    if (job->rows == 0 || job->cols == 0 || job->rows > INT32_MAX || job->cols > MAX_COLS ||
        job->cols % (uint32_t)src->block != 0 || job->cols % (uint32_t)dst->block != 0) {
        return asdsl_fail(ASDSL_E_ARGUMENT,
                          "quantize: a %u x %u matrix from %s to %s: the second must be a multiple of %d and of %d, %d "
                          "at most",
                          job->rows, job->cols, src->name, dst->name, src->block, dst->block, MAX_COLS);
    }
    task->from_row = job->cols / (uint32_t)src->block * (uint64_t)src->block_bytes;
    task->to_row = job->cols / (uint32_t)dst->block * (uint64_t)dst->block_bytes;
    double from_bytes = (double)job->rows * (double)task->from_row, to_bytes = (double)job->rows * (double)task->to_row;
    if (!inside(job->src_offset, from_bytes, buffers->src.bytes)) {
        return fail_outside("source", from_bytes, job->src_offset, buffers->src.bytes);
    }
    if (!inside(job->dst_offset, to_bytes, buffers->dst.bytes)) {
        return fail_outside("destination", to_bytes, job->dst_offset, buffers->dst.bytes);
    }
    if (buffers->same && (double)job->src_offset < (double)job->dst_offset + to_bytes &&
        (double)job->dst_offset < (double)job->src_offset + from_bytes) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: source and destination overlap in one buffer");
    }
    int32_t status = check_importance(job, &buffers->importance);
    if (status != ASDSL_OK) return status;
    task->k = k;
    task->src = src;
    task->dst = dst;
    task->from = (const uint8_t *)buffers->src.data + job->src_offset;
    task->to = (uint8_t *)buffers->dst.data + job->dst_offset;
    if (buffers->importance.data) {
        const void *at = (const uint8_t *)buffers->importance.data + job->importance_offset;
        task->importance = at;
    }
    task->rows = (int32_t)job->rows;
    task->cols = (int32_t)job->cols;
    task->records_bytes = src->block == 1 ? 0 : (size_t)interleaved_bytes(src, KERNEL_ROWS, task->cols);
    return ASDSL_OK;
}

/* n rows as floats. Block types go through the engine's own layout: the kernels that read it are tested to the bit. */
static void expand(const struct task *task, const uint8_t *from, int32_t n, void *records, float *out) {
    size_t count = (size_t)n * (size_t)task->cols;
    if (task->src->type == ASDSL_F32) {
        memcpy(out, from, 4 * count);
    } else if (task->src->type == ASDSL_F16) {
        task->k->expand_f16(from, (int32_t)count, out);
    } else if (task->src->type == ASDSL_BF16) {
        for (size_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)(from[2 * i] | from[2 * i + 1] << 8) << 16;
            memcpy(out + i, &bits, 4);
        }
    } else {
        repack_for(task->src->type, 1)(from, records, n, task->cols, 0, 1);
        for (int32_t row = 0; row < n; row++) {
            task->k->type[task->src->type].gather_row(records, n, task->cols, row, out + (size_t)row * task->cols);
        }
    }
}

/* Replaces what is not finite by 0; how many there were. */
static uint64_t make_finite(float *x, size_t n) {
    uint64_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bool is_finite = (bits & 0x7f800000) != 0x7f800000;
        found += !is_finite;
        x[i] = is_finite ? x[i] : 0.0f;
    }
    return found;
}

static void quantize_work(void *context, struct worker *w) {
    struct task *task = context;
    uint8_t *records = w->scratch;
    float *floats = (float *)(void *)(records + task->records_bytes);
    int32_t begin, end;
    work_begin(w, (task->rows + KERNEL_ROWS - 1) / KERNEL_ROWS, 1);
    while (work_next(w, &begin, &end)) {
        for (int32_t group = begin; group < end; group++) {
            int32_t row = group * KERNEL_ROWS, n = task->rows - row < KERNEL_ROWS ? task->rows - row : KERNEL_ROWS;
            expand(task, task->from + (uint64_t)row * task->from_row, n, records, floats);
            uint64_t found = make_finite(floats, (size_t)n * (size_t)task->cols);
            if (found) atomic_fetch_add_explicit(&task->n_not_finite, found, memory_order_relaxed);
            uint8_t *to = task->to + (uint64_t)row * task->to_row;
            task->k->encode[task->dst->type](floats, task->importance, n * task->cols, task->cols, to);
        }
    }
}

double quantize_run(struct pool *pool, const struct kernels *k, const struct asdsl_quantize_job *job,
                    const struct quantize_buffers *buffers) {
    struct task task = {0};
    int32_t status = prepare(k, job, buffers, &task);
    if (status != ASDSL_OK) return status;
    size_t scratch = task.records_bytes + (size_t)KERNEL_ROWS * (size_t)task.cols * 4;
    if (!pool_reserve_scratch(pool, scratch)) {
        return asdsl_fail(ASDSL_E_MEMORY, "quantize: the system refused %zu bytes for each of %d threads", scratch,
                          pool_threads(pool));
    }
    pool_run(pool, quantize_work, &task);
    return (double)atomic_load(&task.n_not_finite);
}
