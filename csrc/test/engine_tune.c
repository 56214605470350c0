/* engine_tune.c: both ways are tried in turns, the faster one stays, and types do not learn from each other. The oracle
 * is a made-up machine: what a byte costs is the test's to say.
 */
#include "../tune.h"
#include "check.h"

enum { COLS = 256, ROWS = 64, TOKENS = 40 };

static struct asdsl_op product(uint32_t code, uint32_t type, uint32_t type2) {
    struct asdsl_op op = {.code = code};
    for (int32_t i = 0; i < 8; i++) op.operand[i].buffer = ASDSL_NO_BUFFER;
    op.operand[2] = (struct asdsl_operand){.buffer = 0, .type = type, .rows = ROWS, .cols = COLS};
    if (type2) op.operand[3] = (struct asdsl_operand){.buffer = 0, .type = type2, .rows = ROWS, .cols = COLS};
    return op;
}

/* Ticks of a run of op i; one run in five is disturbed. */
static uint64_t cost(int fetches, uint64_t without, uint64_t with, int token) {
    return (fetches ? with : without) * (token % 5 == 4 ? 10 : 1);
}

static void test_faster_way_stays(uint64_t without, uint64_t with) {
    const struct asdsl_op ops[] = {
        product(ASDSL_OP_MATMUL_ADD, ASDSL_Q4_K, 0), product(ASDSL_OP_GATE_UP, ASDSL_Q6_K, ASDSL_Q6_K),
        product(ASDSL_OP_MATMUL, ASDSL_Q8_0, ASDSL_Q4_1), product(ASDSL_OP_RMS_NORM, ASDSL_F32, 0)};
    enum { N = sizeof ops / sizeof *ops };
    uint64_t ticks[N] = {1000, 2000, 3000, 4000};
    struct tuner tuner = {0};
    struct tune_sample sample;
    int32_t tried[2] = {0}, samples = 0;
    for (int token = 0; token < TOKENS; token++) {
        bool tunes = tune_begin(&tuner, ops, ticks, 0, N, &sample);
        if (tunes) {
            samples++;
            tried[tuner.fetch[ASDSL_Q4_K]]++;
        }
        ticks[0] += cost(tuner.fetch[ASDSL_Q4_K], without, with, token);
        ticks[1] += cost(tuner.fetch[ASDSL_Q6_K], with, without, token); /* the other way round */
        ticks[2] += 7;
        if (tunes) tune_end(&tuner, ops, ticks, 0, N, &sample);
    }
    CHECK(samples < TOKENS && tried[0] == tried[1] && tried[0] > 1, "%d samples, %d and %d", samples, tried[0],
          tried[1]);
    CHECK(tuner.fetch[ASDSL_Q4_K] == (with < without), "q4_k fetches: %d", tuner.fetch[ASDSL_Q4_K]);
    CHECK(tuner.fetch[ASDSL_Q6_K] == (without < with), "q6_k fetches: %d", tuner.fetch[ASDSL_Q6_K]);
    /* Products of several types say nothing about one of them, and norms have no weights to fetch. */
    CHECK(!tuner.trial[ASDSL_Q8_0].runs[0] && !tuner.trial[ASDSL_Q4_1].runs[0] && !tuner.trial[ASDSL_F32].runs[0],
          "learned from an op without one type");
}

int main(void) {
    test_faster_way_stays(900, 1000);
    test_faster_way_stays(1000, 900);
    return check_report("engine_tune");
}
