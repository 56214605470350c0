/* control_word.h: the floating-point control word of engine threads: round to nearest, subnormals kept, no traps; the
 * same on each, or results would depend on what the program around the engine had set.
 */
#ifndef ASDSL_CONTROL_WORD_H
#define ASDSL_CONTROL_WORD_H
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The word from before. */
static inline uint64_t control_enter(void) {
#if defined(__x86_64__)
    uint32_t old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
#elif defined(__aarch64__)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(0)));
    return old;
#else
    return 0;
#endif
}

static inline void control_leave(uint64_t old) {
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    (void)old;
#endif
}

#endif
