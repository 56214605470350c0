/* gate.c: the word of an open run. */
#include "gate.h"

enum { ARRIVED_BITS = 12, MEMBER_BITS = 12, STATE_BITS = 8, MASK = (1 << 12) - 1 };
static const int round_at = ARRIVED_BITS + MEMBER_BITS + STATE_BITS;

static uint32_t arrived_of(uint64_t word) { return word & MASK; }
static uint32_t members_of(uint64_t word) { return word >> ARRIVED_BITS & MASK; }
static uint32_t round_of(uint64_t word) { return (uint32_t)(word >> round_at); }
static enum gate_state state_of(uint64_t word) {
    return (enum gate_state)(word >> (ARRIVED_BITS + MEMBER_BITS) & ((1 << STATE_BITS) - 1));
}

static uint64_t make_word(uint32_t round, enum gate_state state, uint32_t members) {
    return (uint64_t)round << round_at | (uint64_t)state << (ARRIVED_BITS + MEMBER_BITS) |
           (uint64_t)members << ARRIVED_BITS;
}

static const uint64_t member = UINT64_C(1) << ARRIVED_BITS;

uint32_t gate_round(const struct gate *gate) {
    return round_of(atomic_load_explicit(&gate->word, memory_order_relaxed));
}

bool gate_is_over(const struct gate *gate) {
    return state_of(atomic_load_explicit(&gate->word, memory_order_acquire)) == GATE_OVER;
}

/* A round of its own: who still waits for the end of the last run sees that it has moved. */
void gate_open(struct gate *gate) {
    atomic_store_explicit(&gate->word, make_word(gate_round(gate) + 1, GATE_CLOSED, 1), memory_order_release);
}

bool gate_join(struct gate *gate) {
    uint64_t word = atomic_load_explicit(&gate->word, memory_order_relaxed);
    do {
        if (state_of(word) != GATE_JOINABLE) return false;
    } while (!atomic_compare_exchange_weak_explicit(&gate->word, &word, word + member, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

enum gate_turn gate_arrive(struct gate *gate, bool leaves, uint32_t *round) {
    uint64_t word = atomic_load_explicit(&gate->word, memory_order_relaxed), next;
    bool is_last;
    do {
        is_last = arrived_of(word) + 1 == members_of(word);
        next = is_last ? make_word(round_of(word), GATE_CLOSED, members_of(word)) : leaves ? word - member : word + 1;
    } while (
        !atomic_compare_exchange_weak_explicit(&gate->word, &word, next, memory_order_acq_rel, memory_order_relaxed));
    *round = round_of(word);
    return is_last ? GATE_LAST : leaves ? GATE_LEFT : GATE_WAITS;
}

void gate_release(struct gate *gate, enum gate_state state, bool leaves) {
    uint64_t word = atomic_load_explicit(&gate->word, memory_order_relaxed);
    uint32_t members = members_of(word) - (leaves ? 1 : 0);
    atomic_store_explicit(&gate->word, make_word(round_of(word) + 1, state, members), memory_order_release);
}

bool gate_moved(const struct gate *gate, uint32_t round) {
    return round_of(atomic_load_explicit(&gate->word, memory_order_acquire)) != round;
}
