/* run_moe.c: runners of the mixture of experts: ids -> slots grouped by expert -> matmul jobs, row groups -> workers.
 *
 * Each worker groups the slots by itself in its own scratch: that takes a few nanoseconds a slot, needs no barrier, and
 * trusts nothing that lies in shared memory beyond the ids, which are read once and checked. An expert's slots lie
 * together in the outputs of moe_gate_up, so moe_down reads them where they are and only moe_combine goes back to rows.
 */
#include "engine.h"
#include <string.h>

enum {
    ROWS_AT_ONCE = 4,
    GATHER_ROWS = 512, /* of activations that a worker copies for one job: an expert's weights come from memory once */
    PREFILL_GRAINS = 32, /* units behind the bands, for each worker: a grain costs one more copy of an expert's rows */
};

/* The slots of a pass in the order of ops.h: by expert, then by row. */
struct slots {
    int32_t n, n_experts;
    int32_t *begin; /* (n_experts + 1): expert e has the places begin[e] .. begin[e + 1] - 1 */
    int32_t *row; /* (n): of a place */
    int32_t *place; /* (n): of slot row * n_used + i */
    int32_t largest; /* most slots of one expert */
    uint8_t *gathered; /* GATHER_ROWS activation rows, 64-byte aligned */
    void *matmul; /* scratch of matmul slots */
};

static size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Activation rows as they are copied. Float rows have a stride; what lies beyond their columns is not theirs. */
static size_t gathered_bytes(const struct asdsl_operand *in) {
    bool floats = in->type == ASDSL_F32 || in->type == ASDSL_ACT_F32;
    return floats ? sizeof(float) * (size_t)in->cols : activation_row_bytes((int32_t)in->type, (int32_t)in->cols);
}

size_t moe_scratch_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    const struct asdsl_operand *in = &op->operand[1];
    size_t rows = (size_t)(op->flags & ASDSL_ROWS_OUTPUTS ? options->max_outputs : options->max_tokens);
    size_t slots = rows * op->operand[2].cols, ints = 2 * slots + (size_t)op->i[0] + 1;
    size_t bytes = whole_lines(matmul_scratch_bytes()) + whole_lines(sizeof(int32_t) * ints);
    if (op->code != ASDSL_OP_MOE_GATE_UP) return bytes;
    /* Ids that are no router's may give all slots of a row to one expert. */
    return bytes + (slots < GATHER_ROWS ? slots : GATHER_ROWS) * whole_lines(gathered_bytes(in));
}

/* Groups the slots of this pass. The ids lie in memory that others may write to: each is read once, and one that is no
 * expert's counts as 0. */
static struct slots take_slots(const struct step *step, struct worker *w) {
    const struct asdsl_operand *experts = &step->op->operand[2];
    int32_t n_used = (int32_t)experts->cols, n_experts = step->op->i[0], n = step->rows * n_used;
    uint8_t *ints = (uint8_t *)w->scratch + whole_lines(matmul_scratch_bytes());
    struct slots s = {.n = n, .n_experts = n_experts, .begin = (int32_t *)(void *)ints, .matmul = w->scratch};
    s.row = s.begin + n_experts + 1;
    s.place = s.row + n;
    s.gathered = ints + whole_lines(sizeof(int32_t) * ((size_t)(n_experts + 1) + 2 * (size_t)n));
    memset(s.begin, 0, sizeof *s.begin * ((size_t)n_experts + 1));
    for (int32_t i = 0; i < n; i++) {
        const volatile int32_t *ids = (const int32_t *)step->at[2] + (size_t)(i / n_used) * experts->stride;
        int32_t id = ids[i % n_used];
        s.place[i] = id < 0 || id >= n_experts ? 0 : id;
        s.begin[s.place[i] + 1]++;
    }
    for (int32_t e = 0; e < n_experts; e++) {
        if (s.begin[e + 1] > s.largest) s.largest = s.begin[e + 1];
        s.begin[e + 1] += s.begin[e];
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t place = s.begin[s.place[i]]++;
        s.row[place] = i / n_used;
        s.place[i] = place;
    }
    memmove(s.begin + 1, s.begin, sizeof *s.begin * (size_t)n_experts); /* each has become the next one's */
    s.begin[0] = 0;
    return s;
}

/* ---- products ---- */
/* What all experts' jobs have in common. */
struct product {
    struct matmul_job job; /* of expert 0; act: row 0 */
    const struct type_kernels *kernels;
    size_t expert_bytes; /* between the weights of two experts */
    int32_t groups; /* of one expert's rows */
    bool gathers; /* activations are rows of the pass, not slots */
    size_t row_bytes; /* of what is gathered */
};

static struct product product_of(const struct step *step, int32_t w, int32_t w2) {
    const struct asdsl_operand *weights = &step->op->operand[w], *in = &step->op->operand[1];
    return (struct product){.job = {.w = step->at[w],
                                    .w2 = w2 < 0 ? NULL : step->at[w2],
                                    .rows = (int32_t)weights->rows,
                                    .cols = (int32_t)weights->cols,
                                    .act = step->at[1],
                                    .act_stride = activation_stride(in),
                                    .out = step->at[0],
                                    .out_stride = step->op->operand[0].stride,
                                    .epilogue = w2 < 0 ? EPILOGUE_STORE : EPILOGUE_SILU_MUL,
                                    .fetch_ahead = step->fetch_one[weights->type]},
                            .kernels = &step->k->type[weights->type],
                            .expert_bytes = (size_t)interleaved_bytes(type_facts((int32_t)weights->type),
                                                                      (int32_t)weights->rows, (int32_t)weights->cols),
                            .groups = (int32_t)((weights->rows + KERNEL_ROWS - 1) / KERNEL_ROWS),
                            .row_bytes = gathered_bytes(in)};
}

/* The activations of places [first, first + job->n) side by side. */
static void gather(const struct product *p, const struct slots *s, int32_t first, struct matmul_job *job) {
    const uint8_t *act = p->job.act;
    job->act = act + (size_t)s->row[first] * p->job.act_stride;
    if (job->n == 1) return;
    job->act = s->gathered;
    job->act_stride = whole_lines(p->row_bytes);
    for (int32_t i = 0; i < job->n; i++) {
        memcpy(s->gathered + (size_t)i * job->act_stride, act + (size_t)s->row[first + i] * p->job.act_stride,
               p->row_bytes);
    }
}

/* Row groups [from, to) of one expert, for all its slots. */
static void run_expert(const struct product *p, const struct slots *s, int32_t e, int32_t from, int32_t to) {
    struct matmul_job job = p->job;
    job.w = (const uint8_t *)p->job.w + (size_t)e * p->expert_bytes;
    if (p->job.w2) job.w2 = (const uint8_t *)p->job.w2 + (size_t)e * p->expert_bytes;
    for (int32_t first = s->begin[e]; first < s->begin[e + 1]; first += job.n) {
        job.n = s->begin[e + 1] - first;
        if (p->gathers) {
            if (job.n > GATHER_ROWS) job.n = GATHER_ROWS;
            gather(p, s, first, &job);
        } else {
            job.act = (const uint8_t *)p->job.act + (size_t)first * p->job.act_stride;
        }
        job.fetch_ahead = job.n > 1 || p->job.fetch_ahead;
        job.out = p->job.out + (size_t)first * p->job.out_stride;
        (job.n <= KERNEL_GEMV_MAX ? p->kernels->gemv : p->kernels->gemm)(&job, from, to, s->matmul);
    }
}

/* A unit is one slot in one row group; a group of an expert with c slots is c units, and belongs to whoever has the
 * first of them. So all workers have about the same to do however the slots fall to the experts. */
static void run_units(const struct product *p, const struct slots *s, int32_t begin, int32_t end) {
    for (int32_t e = 0; e < s->n_experts; e++) {
        int32_t count = s->begin[e + 1] - s->begin[e], base = s->begin[e] * p->groups;
        if (count == 0 || base + count * p->groups <= begin) continue;
        if (base >= end) return;
        int32_t from = begin <= base ? 0 : (begin - base - 1) / count + 1, to = (end - base - 1) / count + 1;
        if (to > p->groups) to = p->groups;
        if (from < to) run_expert(p, s, e, from, to);
    }
}

static void run_product(struct step *step, struct worker *w, const struct product *p) {
    struct slots s = take_slots(step, w);
    int32_t total = s.n * p->groups, grain = total / (PREFILL_GRAINS * w->count), begin, end;
    if (w->index == 0) {
        step->slot = s.largest <= KERNEL_GEMV_MAX ? p->kernels->gemv_name : p->kernels->gemm_name;
    }
    /* One slot for an expert, as in decode: nothing is copied, and a group is 6 to 40 KB of weights. */
    work_begin(w, total, s.largest == 1 ? 1 : grain > s.largest ? grain : s.largest);
    while (work_next(w, &begin, &end)) run_units(p, &s, begin, end);
}

void run_moe_gate_up(struct step *step, struct worker *w) {
    struct product p = product_of(step, 3, 4);
    p.gathers = true;
    run_product(step, w, &p);
}

void run_moe_down(struct step *step, struct worker *w) {
    struct product p = product_of(step, 3, -1);
    run_product(step, w, &p);
}

/* ---- rows ---- */
void run_moe_route(struct step *step, struct worker *w) {
    const struct asdsl_operand *in = &step->op->operand[0], *experts = &step->op->operand[1],
                               *weights = &step->op->operand[2];
    int32_t begin, end;
    if (w->index == 0) step->slot = step->k->moe_route_name;
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            step->k->moe_route((const float *)step->at[0] + (size_t)t * in->stride, (int32_t)in->cols,
                               (int32_t)experts->cols, step->op->i[0], step->op->f[0],
                               (int32_t *)step->at[1] + (size_t)t * experts->stride,
                               (float *)step->at[2] + (size_t)t * weights->stride);
        }
}

void run_moe_combine(struct step *step, struct worker *w) {
    const struct asdsl_operand *x = &step->op->operand[0], *in = &step->op->operand[1],
                               *weights = &step->op->operand[3];
    struct slots s = take_slots(step, w);
    int32_t n_used = (int32_t)weights->cols, begin, end;
    if (w->index == 0) step->slot = step->k->moe_combine_name;
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            step->k->moe_combine(step->at[1], in->stride, s.place + (size_t)t * (size_t)n_used,
                                 (const float *)step->at[3] + (size_t)t * weights->stride, n_used, (int32_t)x->cols,
                                 (float *)step->at[0] + (size_t)t * x->stride);
        }
}
