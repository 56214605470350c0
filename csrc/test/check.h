/* check.h: what the engine's C tests share: one macro, one report. */
#ifndef ASDSL_TEST_CHECK_H
#define ASDSL_TEST_CHECK_H
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

static atomic_int failures, checks;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        atomic_fetch_add(&checks, 1);                                                                                  \
        if (!(condition) && atomic_fetch_add(&failures, 1) < 20) {                                                     \
            printf("FAIL %s:%d: ", __FILE__, __LINE__);                                                                \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

static inline int check_report(const char *name) {
    printf("%s: %d checks, %d failures\n", name, atomic_load(&checks), atomic_load(&failures));
    return atomic_load(&failures) ? 1 : 0;
}

/* xorshift64*, one state per generator */
static inline uint32_t random_u32(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(*state * 2685821657736338717u >> 32);
}

#endif
