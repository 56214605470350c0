/* run_rows.c: runners of the operations that go row by row: norms, rotary embedding, gathering, candidates.
 *
 * A row is one token. What a row costs, about a microsecond, is what `small` in program.c refers to.
 */
#include "engine.h"
#include <math.h>
#include <string.h>

enum { ROWS_AT_ONCE = 4 };

/* Row t of a float operand. */
static float *row_of(const struct step *step, int32_t index, int32_t t) {
    return (float *)step->at[index] + (size_t)t * step->op->operand[index].stride;
}

/* Quantises a float row into row t of the operands `q8_32` and `q8_32 + 1`, where present. */
static void quantize_into(const struct step *step, int32_t q8_32, int32_t t, const float *row, int32_t cols) {
    if (step->at[q8_32]) {
        size_t bytes = activation_row_bytes(ASDSL_ACT_Q8_32, cols);
        step->k->quantize_q8_32(row, cols, (uint8_t *)step->at[q8_32] + (size_t)t * bytes);
    }
    if (step->at[q8_32 + 1]) {
        size_t bytes = activation_row_bytes(ASDSL_ACT_Q8_256, cols);
        step->k->quantize_q8_256(row, cols, (uint8_t *)step->at[q8_32 + 1] + (size_t)t * bytes);
    }
}

/* Without a float output the normalised row lives in the worker's scratch, on its way into int8. */
void run_rms_norm(struct step *step, struct worker *w) {
    const struct asdsl_op *op = step->op;
    int32_t cols = (int32_t)op->operand[0].cols, heads = op->i[0] ? op->i[0] : 1, head_cols = cols / heads, begin, end;
    if (w->index == 0) step->slot = step->k->rms_norm_name;
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            const float *x = row_of(step, 0, t);
            float *y = step->at[2] ? row_of(step, 2, t) : w->scratch;
            for (int32_t h = 0; h < heads; h++) {
                step->k->rms_norm(x + h * head_cols, step->at[1], head_cols, op->f[0], y + h * head_cols);
            }
            quantize_into(step, 3, t, y, cols);
        }
}

void run_rms_norm_add(struct step *step, struct worker *w) {
    int32_t cols = (int32_t)step->op->operand[0].cols, begin, end;
    if (w->index == 0) step->slot = step->k->rms_norm_add_name;
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            step->k->rms_norm_add(row_of(step, 1, t), step->at[2], cols, step->op->f[0], row_of(step, 0, t));
        }
}

/* Angles in double: at position 100,000 a float angle is off by 0.004 rad, and every layer would see it. */
void run_rope_table(struct step *step, struct worker *w) {
    const struct asdsl_op *op = step->op;
    const float *inv_freq = step->at[1]; /* (n_rot / 2) */
    int32_t n = (int32_t)op->operand[1].cols, begin, end;
    double magnitude = op->f[0];
    if (w->index == 0) step->slot = "rope_table.double";
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            float *out = row_of(step, 0, t); /* (n_rot / 2) pairs of cos, sin */
            for (int32_t j = 0; j < n; j++) {
                double angle = ((double)step->params->position + t) * (double)inv_freq[j];
                out[2 * j] = (float)(magnitude * cos(angle));
                out[2 * j + 1] = (float)(magnitude * sin(angle));
            }
        }
}

void run_rope(struct step *step, struct worker *w) {
    const int32_t *i = step->op->i; /* heads_offset heads head_dim n_rot mode */
    int32_t begin, end;
    if (w->index == 0) step->slot = step->k->rope_head_name;
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t t = begin; t < end; t++) {
            float *x = row_of(step, 0, t) + i[0];
            const float *table = row_of(step, 1, t);
            for (int32_t h = 0; h < i[1]; h++) step->k->rope_head(x + h * i[2], table, i[3], i[4]);
        }
}

void run_gather_outputs(struct step *step, struct worker *w) {
    const struct asdsl_params *p = step->params;
    const int32_t *outputs = (const int32_t *)(const void *)((const uint8_t *)p + p->outputs_offset);
    size_t bytes = sizeof(float) * (size_t)step->op->operand[0].cols;
    int32_t begin, end;
    if (w->index == 0) step->slot = "gather_outputs.copy";
    work_begin(w, step->rows, ROWS_AT_ONCE);
    while (work_next(w, &begin, &end))
        for (int32_t j = begin; j < end; j++) memcpy(row_of(step, 0, j), row_of(step, 1, outputs[j]), bytes);
}

void run_top_k(struct step *step, struct worker *w) {
    struct asdsl_params *p = step->params;
    struct asdsl_row_stats *stats = (void *)((uint8_t *)p + p->stats_offset);
    struct asdsl_candidate *candidates = (void *)((uint8_t *)p + p->candidates_offset);
    int32_t begin, end;
    if (w->index == 0) step->slot = step->k->top_k_name;
    work_begin(w, step->rows, 1);
    while (work_next(w, &begin, &end))
        for (int32_t j = begin; j < end; j++) {
            step->k->top_k(row_of(step, 0, j), (int32_t)step->op->operand[0].cols, p->top_k, &stats[j],
                           candidates + (size_t)j * (size_t)p->max_top_k, w->scratch);
        }
}
