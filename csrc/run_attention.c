/* run_attention.c: runners of kv_append and attention: operands and cache -> jobs, items -> workers.
 *
 * Where the rows make enough items for all workers, each finishes its rows over all chunks. Else (decode, verification)
 * the chunks are dealt out too, their partial results wait in step->shared for a barrier, and the rows are merged.
 */
#include "engine.h"
#include "kernels/attention.h"
#include "kv.h"

enum {
    ITEMS_PER_WORKER = 4,          /* below it the last item of a pass leaves the others waiting for too long */
    PARTIALS_TO = 4096,            /* chunks of one query row: a million keys */
    MAX_SHARED_BYTES = 64 << 20,   /* only pages that are written to count */
    MERGE_ROWS_AT_ONCE = 4,
};

static struct attention_job job_of(const struct step *step) {
    return (struct attention_job){.n_tokens = step->rows,
                                  .position = step->params->position,
                                  .n_kv_heads = kv_options(step->kv)->n_kv_heads,
                                  .layout = kv_layout(step->kv),
                                  .chunks = kv_chunks(step->kv),
                                  .layer_offset = step->op->layer * kv_layout(step->kv)->layer_bytes};
}

void run_kv_append(struct step *step, struct worker *w) {
    struct attention_job job = job_of(step);
    int32_t block = attention_append_tokens(job.layout), before = job.position % block, begin, end;
    job.k = step->at[0], job.k_stride = step->op->operand[0].stride;
    job.v = step->at[1], job.v_stride = step->op->operand[1].stride;
    if (w->index == 0) step->slot = step->k->kv_append_name;
    work_begin(w, (before + job.n_tokens + block - 1) / block, 1);
    while (work_next(w, &begin, &end)) {
        int32_t first = begin * block - before, last = end * block - before;
        step->k->kv_append(&job, first > 0 ? first : 0, last < job.n_tokens ? last : job.n_tokens);
    }
}

static bool wants_partials(const struct step *step, const struct attention_job *job, int32_t n_items, int32_t workers) {
    int32_t n_chunks = attention_n_chunks(job);
    if (n_chunks == 1 || n_items >= ITEMS_PER_WORKER * workers) return false;
    size_t rows = (size_t)job->n_tokens * (size_t)job->n_heads;
    return rows * (size_t)n_chunks * attention_partial_floats(job->layout->head_dim) * sizeof(float) <=
           step->shared_bytes;
}

void run_attention(struct step *step, struct worker *w) {
    const struct asdsl_op *op = step->op;
    struct attention_job job = job_of(step);
    job.q = step->at[0], job.q_stride = op->operand[0].stride;
    job.out = step->at[1], job.out_stride = op->operand[1].stride;
    job.n_heads = op->i[0], job.window = op->i[3];
    job.scale = op->f[0], job.softcap = op->f[1];
    job.team = w->count;
    int32_t n_items = attention_cut(&job).n_items, prepared = -1, begin, end;
    job.prepared = &prepared;
    bool partials = wants_partials(step, &job, n_items, w->count);
    if (w->index == 0) step->slot = step->k->attention_chunks_name;
    if (partials) {
        job.partials = step->shared;
        n_items *= attention_n_chunks(&job);
    }
    work_begin(w, n_items, 1);
    while (work_next(w, &begin, &end)) step->k->attention_chunks(&job, begin, end, w->scratch);
    if (!partials) return;
    worker_barrier(w);
    work_begin(w, job.n_tokens * job.n_heads, MERGE_ROWS_AT_ONCE);
    while (work_next(w, &begin, &end)) step->k->attention_merge(&job, begin, end, w->scratch);
}

size_t attention_shared_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    size_t row = sizeof(float) * attention_partial_floats(op->i[2]) * PARTIALS_TO;
    size_t rows =
        (size_t)op->i[0] * (size_t)(options->max_tokens < KERNEL_GEMV_MAX ? options->max_tokens : KERNEL_GEMV_MAX);
    return rows > MAX_SHARED_BYTES / row ? MAX_SHARED_BYTES : rows * row;
}

size_t attention_scratch_bytes(const struct asdsl_op *op) { return sizeof(float) * attention_scratch_floats(op->i[2]); }
