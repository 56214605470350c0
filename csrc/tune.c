/* tune.c: tokens are decoded with and without fetching ahead in pairs, and each weight type does what its last pairs
 * say is faster.
 *
 * No rule fits all machines, nor one machine for long: a Zen 4 VM whose read bandwidth moves between 33 and 62 GB/s
 * from minute to minute gives a q6_k stream 35 GB/s both ways in its slow state, 54 without fetching and 41 with it in
 * its fast one (avx512, 2 threads, one column; 25 and 33, 26 and 41 before its lines were loaded in order). So looking
 * never ends (seen once; bench/gemm.ts compares two builds); two tokens in a row are told the same state. A probe on
 * memory of its own would cost 50 ms at each start; the weights themselves cost nothing, and results do not depend on
 * it.
 */
#include "tune.h"

enum {
    FIRST_PAIRS = 8, /* one after the other */
    IDLE_RUNS = 30,  /* between later pairs: the slower way takes one run of 32 */
    VOTES = 5,       /* of pairs: two disturbed ones change nothing, a new state of the machine is seen after three */
};

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

static bool is_measured(const struct tuner *tuner, int32_t type) { return type >= 0 && !tuner->trial[type].idle; }

static void add_ticks(const struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first,
                      int32_t end, double sign, struct tune_sample *sample) {
    for (int32_t i = first; i < end; i++) {
        int32_t type = type_of(&ops[i]);
        if (is_measured(tuner, type)) sample->ticks[type] += sign * (double)ticks[i];
    }
}

void tune_begin(const struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first,
                int32_t end, struct tune_sample *sample) {
    *sample = (struct tune_sample){0};
    add_ticks(tuner, ops, ticks, first, end, -1, sample);
}

/* What most of the last pairs were for. */
static bool faster_way(const struct trial *t) {
    int32_t votes = 0;
    for (int i = 0; i < VOTES; i++) votes += t->votes >> i & 1;
    return 2 * votes > VOTES;
}

/* The way of a pair's first run: by turns, so that a machine that gets slower or faster favours neither. */
static bool first_way(const struct trial *t) { return faster_way(t) != (t->n_pairs % 2 == 1); }

static void end_pair(struct trial *t, bool *fetch, bool is_told) {
    t->is_second = false;
    if (is_told) t->n_pairs++;
    t->idle = is_told && t->n_pairs < FIRST_PAIRS ? 0 : IDLE_RUNS;
    *fetch = t->idle ? faster_way(t) : first_way(t);
}

static void take_sample(struct trial *t, bool *fetch, double cost, double bytes) {
    if (!t->is_second) {
        t->cost = cost;
        t->bytes = bytes;
        t->is_second = true;
        *fetch = !*fetch;
        return;
    }
    /* Another program's run came between, a draft model's: they do not compare. */
    bool is_told = bytes == t->bytes && cost > 0 && t->cost > 0;
    if (is_told) t->votes = t->votes << 1 | (*fetch == (cost < t->cost));
    end_pair(t, fetch, is_told);
}

void tune_end(struct tuner *tuner, const struct asdsl_op *ops, const double *weight_bytes, const uint64_t *ticks,
              int32_t first, int32_t end, struct tune_sample *sample) {
    add_ticks(tuner, ops, ticks, first, end, 1, sample);
    for (int32_t i = first; i < end; i++) {
        int32_t type = type_of(&ops[i]);
        if (type >= 0) sample->bytes[type] += weight_bytes[i];
    }
    for (int32_t type = 0; type < TUNE_TYPES; type++) {
        struct trial *t = &tuner->trial[type];
        if (sample->bytes[type] == 0) continue;
        if (t->idle == 0) {
            take_sample(t, &tuner->fetch[type], sample->ticks[type] / sample->bytes[type], sample->bytes[type]);
        } else if (--t->idle == 0) {
            tuner->fetch[type] = first_way(t);
        }
    }
}
