/* engine_tune.c: ways are tried in pairs, the faster one is used for the rest, also after the machine has changed, and
 * types do not learn from each other. The oracle is a made-up machine: what a byte costs is the test's to say.
 */
#include "../tune.h"
#include "check.h"
#include <string.h>

enum { COLS = 256, ROWS = 64, TOKENS = 400 };

static struct asdsl_op product(uint32_t code, uint32_t type, uint32_t type2) {
    struct asdsl_op op = {.code = code};
    for (int32_t i = 0; i < 8; i++) op.operand[i].buffer = ASDSL_NO_BUFFER;
    op.operand[2] = (struct asdsl_operand){.buffer = 0, .type = type, .rows = ROWS, .cols = COLS};
    if (type2) op.operand[3] = (struct asdsl_operand){.buffer = 0, .type = type2, .rows = ROWS, .cols = COLS};
    return op;
}

/* Ticks of a run of an op; one run in 11 is disturbed. */
static uint64_t cost(bool fetches, uint64_t without, uint64_t with, int token) {
    return (fetches ? with : without) * (token % 11 == 4 ? 10 : 1);
}

enum { N = 4 };
struct machine {
    struct asdsl_op ops[N];
    double weight_bytes[N];
    uint64_t ticks[N];
    struct tuner tuner;
    int32_t slower[2]; /* runs of q4_k and q6_k in the way that is slower */
};

/* A token. q6_k costs with fetching what q4_k costs without, and the other way round. */
static void decode(struct machine *m, uint64_t without, uint64_t with, int token) {
    struct tune_sample sample;
    bool q4 = m->tuner.fetch[ASDSL_Q4_K], q6 = m->tuner.fetch[ASDSL_Q6_K];
    m->slower[0] += q4 == (without < with);
    m->slower[1] += q6 == (with < without);
    tune_begin(&m->tuner, m->ops, m->ticks, 0, N, &sample);
    m->ticks[0] += cost(q4, without, with, token);
    m->ticks[1] += cost(q6, with, without, token);
    m->ticks[2] += 7;
    tune_end(&m->tuner, m->ops, m->weight_bytes, m->ticks, 0, N, &sample);
}

static void check_slower(struct machine *m, int32_t from, int32_t most, const char *when) {
    for (int i = 0; i < 2; i++)
        CHECK(m->slower[i] >= from && m->slower[i] <= most, "%s: %d of %d tokens in the slower way", when, m->slower[i],
              TOKENS);
    memset(m->slower, 0, sizeof m->slower);
}

static void test_faster_way_is_used(uint64_t without, uint64_t with) {
    struct machine m = {
        .ops = {product(ASDSL_OP_MATMUL_ADD, ASDSL_Q4_K, 0), product(ASDSL_OP_GATE_UP, ASDSL_Q6_K, ASDSL_Q6_K),
                product(ASDSL_OP_MATMUL, ASDSL_Q8_0, ASDSL_Q4_1), product(ASDSL_OP_RMS_NORM, ASDSL_F32, 0)},
        .ticks = {1000, 2000, 3000, 4000}};
    for (int i = 0; i < N; i++) m.weight_bytes[i] = tune_weight_bytes(&m.ops[i]);
    /* 8 pairs, then one of 32 runs; before the first pair is made nothing is known. */
    const int32_t pairs = 8 + (TOKENS - 16) / 32;
    for (int token = 0; token < TOKENS; token++) decode(&m, without, with, token);
    check_slower(&m, pairs - 1, pairs + 2, "at first");
    /* The machine changes: three pairs of the last five say so, four where one is disturbed. */
    for (int token = 0; token < TOKENS; token++) decode(&m, with, without, token);
    check_slower(&m, TOKENS / 32 - 1, 5 * 32 + TOKENS / 32, "of a changed machine");
    for (int token = 0; token < TOKENS; token++) decode(&m, with, without, token);
    check_slower(&m, TOKENS / 32 - 1, TOKENS / 32 + 1, "after it has changed");
    /* Products of several types say nothing about one of them, and norms have no weights to fetch. */
    const struct trial *t = m.tuner.trial;
    CHECK(!t[ASDSL_Q8_0].n_pairs && !t[ASDSL_Q4_1].n_pairs && !t[ASDSL_F32].n_pairs,
          "learned from an op without one type");
}

/* Runs of two programs by turns, one of twice the weights: no pair says anything, and no way is kept that was only
 * tried. */
static void test_programs_by_turns(void) {
    struct asdsl_op small = product(ASDSL_OP_MATMUL_ADD, ASDSL_Q4_K, 0),
                    large = product(ASDSL_OP_GATE_UP, ASDSL_Q4_K, ASDSL_Q4_K);
    struct tuner tuner = {0};
    int32_t fetched = 0;
    for (int token = 0; token < TOKENS; token++) {
        uint64_t ticks = 0;
        struct tune_sample sample;
        const struct asdsl_op *op = token % 2 ? &large : &small;
        const double weight_bytes = tune_weight_bytes(op);
        fetched += tuner.fetch[ASDSL_Q4_K];
        tune_begin(&tuner, op, &ticks, 0, 1, &sample);
        ticks = 1000;
        tune_end(&tuner, op, &weight_bytes, &ticks, 0, 1, &sample);
    }
    CHECK(tuner.trial[ASDSL_Q4_K].n_pairs == 0, "%d pairs of different programs", tuner.trial[ASDSL_Q4_K].n_pairs);
    CHECK(fetched <= TOKENS / 32 + 1, "%d tokens in the way that was only tried", fetched);
}

int main(void) {
    test_faster_way_is_used(900, 1000);
    test_faster_way_is_used(1000, 900);
    test_programs_by_turns();
    return check_report("engine_tune");
}
