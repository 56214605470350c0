/* run_matmul.c: runners of embed, quantize, matmul, matmul_add and gate_up: operands -> jobs, row groups -> workers.
 *
 * Operands are resolved and validated (program.c); this file picks the slot by the number of columns and deals out row
 * groups. Weights of one matmul are one sequence of row groups, so that small ones (k, v) do not end in a barrier each.
 * With `--prefill fast` weights may be rounded: while they are unpacked (gemm_rounded), or, where that is not faster,
 * in long passes, for which the workers first make strips of the activations, together, and meet at a barrier
 * (gemm_fast).
 */
#include "engine.h"
#include "kernels/layout.h"
#include "kernels/matmul_fast.h"

enum {
    MAX_WEIGHTS = 3,
    /* Rounding the weights again costs 54 ms a pass of a 1.1 B file (2 threads of a Zen 4 VM, avx512), which 115 tokens
     * win back. */
    FAST_ROWS = 128,
    /* Row groups of a unit. Decode: a stream of 50 to 300 KB each; GB/s at 1, 2, 4 and 8 groups of 18 KB, 300 MB of
     * q4_k, one column, 2 threads of a Zen 4 VM whose plain read loop gave 56 (seen once): gate and up 48 51 53 54, one
     * matrix 48 50 50 51. Prefill: so many share one pass over the activations. */
    GRAIN = 8,
};

static int32_t groups_of(const struct asdsl_operand *w) { return (int32_t)((w->rows + KERNEL_ROWS - 1) / KERNEL_ROWS); }

/* One matrix product of a step: the job and its row groups. */
struct part {
    struct matmul_job job;
    matmul_fn *slot;
    const char *slot_name;
    int32_t groups;
};

/* Bytes between activation rows: float rows say their stride, quantised rows lie one after the other. */
size_t activation_stride(const struct asdsl_operand *in) {
    bool floats = in->type == ASDSL_F32 || in->type == ASDSL_ACT_F32;
    if (floats && in->stride) return sizeof(float) * (size_t)in->stride;
    return activation_row_bytes((int32_t)in->type, (int32_t)in->cols);
}

/* ---- `--prefill fast` ---- */
/* Rows of logits stay exact: they are few but for perplexity, and what is sampled from should be as good as it gets. */
static bool may_be_fast(const struct asdsl_op *op) {
    bool product = op->code == ASDSL_OP_MATMUL || op->code == ASDSL_OP_MATMUL_ADD || op->code == ASDSL_OP_GATE_UP;
    return product && !(op->flags & ASDSL_ROWS_OUTPUTS);
}

/* Of all its weights; roles of operands: ops.h. */
static bool has_fast_slots(const struct step *step) {
    int32_t end = step->op->code == ASDSL_OP_GATE_UP ? 4 : 2 + MAX_WEIGHTS;
    for (int32_t i = 2; i < end; i++)
        if (step->at[i] && !step->k->type[step->op->operand[i].type].gemm_fast) return false;
    return true;
}

/* A pass that wants logits of all its tokens verifies a draft: as exact as the tokens one by one. */
static bool may_round(const struct step *step) {
    bool verifies = step->params->n_outputs == step->params->n_tokens;
    return step->fast_prefill && step->rows > KERNEL_GEMV_MAX && !verifies && may_be_fast(step->op);
}

static bool is_fast(const struct step *step) {
    return may_round(step) && step->rows >= FAST_ROWS && has_fast_slots(step);
}

static int32_t strips_of(int32_t rows) { return (rows + STRIP_COLS - 1) / STRIP_COLS; }

size_t matmul_shared_bytes(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    if (options->prefill != ASDSL_PREFILL_FAST || !may_be_fast(op)) return 0;
    return (size_t)strips_of(options->max_tokens) * strip_bytes((int32_t)op->operand[1].cols);
}

size_t matmul_scratch_of(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    int32_t cols = (int32_t)op->operand[1].cols, n_weights = op->code == ASDSL_OP_GATE_UP ? 2 : 1;
    size_t exact = matmul_scratch_bytes();
    if (options->prefill != ASDSL_PREFILL_FAST || !may_be_fast(op)) return exact;
    size_t fast = panel_bytes(cols) * (size_t)(n_weights * panels_at_once(cols, n_weights));
    return fast > exact ? fast : exact;
}

/* The activations of a step -> strips in step->shared, by all workers. */
static void make_strips(struct step *step, struct worker *w) {
    const struct asdsl_operand *in = &step->op->operand[1];
    strips_fn *fn = in->type == ASDSL_ACT_Q8_256  ? step->k->strips_q8_256
                    : in->type == ASDSL_ACT_Q8_32 ? step->k->strips_q8_32
                                                  : step->k->strips_f32;
    int32_t begin, end;
    work_begin(w, strips_of(step->rows), 1);
    while (work_next(w, &begin, &end)) {
        fn(step->at[1], activation_stride(in), (int32_t)in->cols, step->rows, begin, end, step->shared);
    }
    worker_barrier(w);
}

/* Operand indices of the weight, a second weight and a bias (-1: none); `column`: where its outputs begin in a row. */
static struct part part_of(const struct step *step, int32_t w, int32_t w2, int32_t bias, size_t column,
                           enum matmul_epilogue epilogue) {
    const struct asdsl_operand *out = &step->op->operand[0], *in = &step->op->operand[1],
                               *weights = &step->op->operand[w];
    const struct type_kernels *t = &step->k->type[weights->type];
    bool gemv = step->rows <= KERNEL_GEMV_MAX, fast = is_fast(step), rounded = t->gemm_rounded && may_round(step);
    return (struct part){.job = {.w = step->at[w],
                                 .w2 = w2 < 0 ? NULL : step->at[w2],
                                 .rows = (int32_t)weights->rows,
                                 .cols = (int32_t)weights->cols,
                                 .act = fast ? step->shared : step->at[1],
                                 .act_stride = fast ? strip_bytes((int32_t)in->cols) : activation_stride(in),
                                 .n = step->rows,
                                 .out = (float *)step->at[0] + column,
                                 .out_stride = out->stride,
                                 .bias = bias < 0 ? NULL : step->at[bias],
                                 .epilogue = epilogue,
                                 .fetch_ahead = step->rows > 1 || step->fetch_one[weights->type]},
                         .slot = gemv      ? t->gemv
                                 : fast    ? t->gemm_fast
                                 : rounded ? t->gemm_rounded
                                           : t->gemm,
                         .slot_name = gemv      ? t->gemv_name
                                      : fast    ? t->gemm_fast_name
                                      : rounded ? t->gemm_rounded_name
                                                : t->gemm_name,
                         .groups = groups_of(weights)};
}

static void run_parts(struct step *step, const struct part *parts, int32_t n, struct worker *w) {
    int32_t total = 0, begin, end;
    if (w->index == 0) step->slot = parts[0].slot_name;
    for (int32_t i = 0; i < n; i++) total += parts[i].groups;
    if (is_fast(step)) make_strips(step, w);
    work_begin(w, total, GRAIN);
    while (work_next(w, &begin, &end)) {
        int32_t base = 0;
        for (int32_t i = 0; i < n; base += parts[i].groups, i++) {
            int32_t from = begin > base ? begin - base : 0;
            int32_t to = end - base < parts[i].groups ? end - base : parts[i].groups;
            if (from < to) parts[i].slot(&parts[i].job, from, to, w->scratch);
        }
    }
}

void run_matmul(struct step *step, struct worker *w) {
    struct part parts[MAX_WEIGHTS];
    enum matmul_epilogue epilogue = step->op->f[0] > 0 ? EPILOGUE_SOFTCAP : EPILOGUE_STORE;
    int32_t n = 0;
    size_t column = 0;
    for (int32_t i = 0; i < MAX_WEIGHTS; i++) {
        if (!step->at[2 + i]) continue;
        parts[n] = part_of(step, 2 + i, -1, 5 + i, column, epilogue);
        parts[n++].job.softcap = step->op->f[0];
        column += step->op->operand[2 + i].rows;
    }
    run_parts(step, parts, n, w);
}

void run_matmul_add(struct step *step, struct worker *w) {
    struct part part = part_of(step, 2, -1, 5, 0, EPILOGUE_ADD);
    run_parts(step, &part, 1, w);
}

void run_gate_up(struct step *step, struct worker *w) {
    struct part part = part_of(step, 2, 3, -1, 0, step->op->i[0] == 1 ? EPILOGUE_GELU_MUL : EPILOGUE_SILU_MUL);
    run_parts(step, &part, 1, w);
}

/* ---- embed ---- */
size_t embed_scratch_bytes(const struct asdsl_op *op) {
    const struct asdsl_operand *table = &op->operand[1];
    return table->layout == ASDSL_ROWS ? (size_t)group_bytes((int32_t)table->type, (int32_t)table->cols) : 0;
}

/* Row `row` of a table that lies row after row: a matrix of that row alone, interleaved, is what kernels gather from.
 */
static void gather_of_rows(const struct step *step, int32_t row, float *out, void *scratch) {
    const struct asdsl_operand *table = &step->op->operand[1];
    const struct type_facts *t = type_facts((int32_t)table->type);
    int32_t cols = (int32_t)table->cols;
    size_t row_bytes = (size_t)(cols / t->block) * (size_t)t->block_bytes;
    repack_for(t->type, 1)((const uint8_t *)step->at[1] + (size_t)row * row_bytes, scratch, 1, cols, 0, 1);
    step->k->type[t->type].gather_row(scratch, 1, cols, 0, out);
}

void run_embed(struct step *step, struct worker *w) {
    const struct asdsl_operand *out = &step->op->operand[0], *table = &step->op->operand[1];
    const int32_t *tokens =
        (const int32_t *)(const void *)((const uint8_t *)step->params + step->params->tokens_offset);
    int32_t begin, end, cols = (int32_t)table->cols;
    float scale = step->op->f[0];
    if (w->index == 0) step->slot = step->k->type[table->type].gather_row_name;
    work_begin(w, step->rows, 4);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            float *row = (float *)step->at[0] + (size_t)t * out->stride;
            if (table->layout == ASDSL_ROWS) {
                gather_of_rows(step, tokens[t], row, w->scratch);
            } else {
                step->k->type[table->type].gather_row(step->at[1], (int32_t)table->rows, cols, tokens[t], row);
            }
            for (int32_t i = 0; i < cols && scale != 1; i++) row[i] *= scale;
        }
}

void run_quantize(struct step *step, struct worker *w) {
    const struct asdsl_operand *in = &step->op->operand[0];
    quantize_row_fn *const fns[] = {step->k->quantize_q8_32, step->k->quantize_q8_256};
    static const int32_t types[] = {ASDSL_ACT_Q8_32, ASDSL_ACT_Q8_256};
    int32_t begin, end;
    if (w->index == 0) step->slot = step->at[1] ? step->k->quantize_q8_32_name : step->k->quantize_q8_256_name;
    work_begin(w, step->rows, 4);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++)
            for (int32_t i = 0; i < 2; i++) {
                if (!step->at[1 + i]) continue;
                size_t bytes = activation_row_bytes(types[i], (int32_t)in->cols);
                fns[i]((const float *)step->at[0] + (size_t)t * in->stride, (int32_t)in->cols,
                       (uint8_t *)step->at[1 + i] + (size_t)t * bytes);
            }
}
