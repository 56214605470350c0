/* engine_gate.c: the word of an open run, against a model of it that counts members in plain variables.
 *
 * Oracle: the model. What threads do with the gate at the same time is engine_pool.c's, under TSan.
 */
#include "../gate.h"
#include "check.h"

enum { WALKS = 200, MOVES = 400 };

/* Members that are at work, and those that wait for the end of the round. */
struct model {
    uint32_t working, waiting, round;
    enum gate_state state;
};

static void check_state(const struct gate *gate, const struct model *m) {
    CHECK(gate_round(gate) == m->round && gate_is_over(gate) == (m->state == GATE_OVER), "round %u, not %u",
          gate_round(gate), m->round);
    CHECK(gate_moved(gate, m->round - 1) && !gate_moved(gate, m->round), "round %u", m->round);
}

static void join(struct gate *gate, struct model *m) {
    bool joined = gate_join(gate);
    CHECK(joined == (m->state == GATE_JOINABLE), "state %d, joined %d", m->state, joined);
    m->working += joined;
}

/* One of the working members is done; the last one begins the next round, in any state. */
static void arrive(struct gate *gate, struct model *m, bool leaves, enum gate_state next) {
    uint32_t round;
    enum gate_turn turn = gate_arrive(gate, leaves, &round);
    bool is_last = m->working == 1;
    CHECK(round == m->round, "round %u, not %u", round, m->round);
    CHECK(turn == (is_last  ? GATE_LAST
                   : leaves ? GATE_LEFT
                            : GATE_WAITS),
          "%u at work, %u wait: turn %d", m->working, m->waiting, turn);
    m->working--;
    m->waiting += !leaves;
    if (!is_last) return;
    CHECK(!gate_join(gate), "joined between two rounds");
    gate_release(gate, next, leaves);
    *m = (struct model){.working = m->waiting, .round = m->round + 1, .state = next};
}

int main(void) {
    struct gate gate = {0};
    struct model m = {.state = GATE_CLOSED};
    uint64_t random = 11;
    int left_empty = 0, overs = 0;
    CHECK(!gate_join(&gate), "joined before any run");
    for (int walk = 0; walk < WALKS; walk++) {
        gate_open(&gate);
        m = (struct model){.working = 1, .round = m.round + 1, .state = GATE_CLOSED};
        for (int i = 0; i < MOVES && m.state != GATE_OVER; i++) {
            uint32_t dice = random_u32(&random);
            bool leaves = dice >> 8 & 1, joinable = dice >> 9 & 1;
            check_state(&gate, &m);
            if (m.working == 0 || (dice % 3 == 0 && m.working + m.waiting < 250)) {
                join(&gate, &m);
            } else {
                /* Who leaves a round empty has to let others in. */
                enum gate_state next = dice >> 10 & 31 ? (leaves || joinable ? GATE_JOINABLE : GATE_CLOSED) : GATE_OVER;
                arrive(&gate, &m, leaves && next != GATE_OVER, next);
                left_empty += m.working + m.waiting == 0;
            }
        }
        overs += m.state == GATE_OVER;
        check_state(&gate, &m);
        if (m.state == GATE_OVER) CHECK(!gate_join(&gate), "joined what is over");
    }
    CHECK(left_empty > 0 && overs > 0, "%d rounds without members, %d runs that were over", left_empty, overs);
    return check_report("engine_gate");
}
