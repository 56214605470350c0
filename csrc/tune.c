/* tune.c: the first tokens are decoded with and without fetching ahead in turns, then each weight type keeps what was
 * faster.
 *
 * No rule fits all machines: on a Zen 4 VM that had 57 GB/s a q4_k GEMV read 50 GB/s by the hardware's own prefetching
 * and 40 with instructions beside it, q6_k 16 and 37; on an Emerald Rapids VM the instructions gave q4_k 16 to 57 %.
 * A probe on memory of its own would cost 50 ms at each start; the weights themselves cost nothing, and the results do
 * not depend on it.
 */
#include "tune.h"

enum { RUNS = 8 }; /* of each way: the fastest of 8 tokens is not one that something disturbed */

/* Operands 2 .. that are weights; 0: no product. */
static int32_t weights_of(const struct asdsl_op *op) {
    switch (op->code) {
    case ASDSL_OP_MATMUL: return 3;
    case ASDSL_OP_GATE_UP: return 2;
    case ASDSL_OP_MATMUL_ADD: return 1;
    default: return 0;
    }
}

/* The weight type of a product, or -1: no product, or of several types. */
static int32_t type_of(const struct asdsl_op *op) {
    int32_t n = weights_of(op);
    for (int32_t i = 1; i < n; i++) {
        const struct asdsl_operand *w = &op->operand[2 + i];
        if (w->buffer != ASDSL_NO_BUFFER && w->type != op->operand[2].type) return -1;
    }
    return n ? (int32_t)op->operand[2].type : -1;
}

double tune_weight_bytes(const struct asdsl_op *op) {
    double bytes = 0;
    for (int32_t i = 0; i < weights_of(op); i++) {
        const struct asdsl_operand *w = &op->operand[2 + i];
        if (w->buffer == ASDSL_NO_BUFFER) continue;
        bytes += interleaved_bytes(type_facts((int32_t)w->type), (int32_t)w->rows, (int32_t)w->cols);
    }
    return bytes;
}

static bool is_settled(const struct tuner *tuner, int32_t type) {
    return tuner->trial[type].runs[0] >= RUNS && tuner->trial[type].runs[1] >= RUNS;
}

bool tune_begin(const struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first,
                int32_t end, struct tune_sample *sample) {
    bool any = false;
    *sample = (struct tune_sample){0};
    for (int32_t i = first; i < end; i++) {
        int32_t type = type_of(&ops[i]);
        if (type < 0 || is_settled(tuner, type)) continue;
        any = true;
        sample->ticks[type] += (double)ticks[i];
    }
    return any;
}

void tune_end(struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first, int32_t end,
              const struct tune_sample *begin) {
    struct tune_sample sample = {0};
    for (int32_t i = first; i < end; i++) {
        int32_t type = type_of(&ops[i]);
        if (type < 0 || is_settled(tuner, type)) continue;
        sample.ticks[type] += (double)ticks[i];
        sample.bytes[type] += tune_weight_bytes(&ops[i]);
    }
    for (int32_t type = 0; type < TUNE_TYPES; type++) {
        if (sample.bytes[type] == 0) continue;
        double rate = (sample.ticks[type] - begin->ticks[type]) / sample.bytes[type];
        int way = tuner->fetch[type];
        double *least = &tuner->trial[type].least[way];
        if (tuner->trial[type].runs[way]++ == 0 || rate < *least) *least = rate;
        bool faster = tuner->trial[type].least[1] < tuner->trial[type].least[0];
        tuner->fetch[type] = is_settled(tuner, type) ? faster : !way;
    }
}
