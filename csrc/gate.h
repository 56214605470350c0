/* gate.h: who is inside an open run. Members come and go between units, the others neither ask nor wait for who is
 * away.
 *
 * One word holds the round, the number of members and how many of them have arrived at its end, so arriving, joining
 * and leaving are one compare-and-swap each and always agree on who is the last. Knows no threads and no work: pool.c
 * does.
 */
#ifndef ASDSL_GATE_H
#define ASDSL_GATE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
    _Atomic uint64_t word; /* round << 32 | enum gate_state << 24 | members << 12 | arrived */
};

enum gate_state {
    GATE_CLOSED,   /* nobody may join: a round that began without newcomers, or the time between two rounds */
    GATE_JOINABLE, /* a round that newcomers may join at any time until its end */
    GATE_OVER,     /* no run */
};

enum gate_turn {
    GATE_WAITS, /* for others: until gate_moved */
    GATE_LAST,  /* nobody can join or arrive any more: what has to be done between two rounds, then gate_release,
                   whether it leaves or not */
    GATE_LEFT,  /* no longer a member */
};

/* A run begins; the caller is its only member, and the round is closed. Not while a run is under way. */
void gate_open(struct gate *gate);

/* Becomes a member of the present round, and sees what was written before it began. False: it is not joinable. */
bool gate_join(struct gate *gate);

/* Of a run that was left: then all that was done in it is seen. */
bool gate_is_over(const struct gate *gate);

/* A member is done with the round. `leaves`: it will not be there for the next. *round: for gate_moved. */
enum gate_turn gate_arrive(struct gate *gate, bool leaves, uint32_t *round);

/* The last member's: the next round begins, and all see what it wrote. `leaves`: without it, perhaps without anybody:
 * then it waits for who joins. */
void gate_release(struct gate *gate, enum gate_state state, bool leaves);

bool gate_moved(const struct gate *gate, uint32_t round);

/* Rounds so far, modulo 2^32. */
uint32_t gate_round(const struct gate *gate);

#endif
