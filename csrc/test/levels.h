/* levels.h: the levels that C tests run: those of this CPU and, where level avxvnni is built in the encoding of AVX-512
 * VNNI (build.zig), also that one on a CPU which has AVX-512 VNNI.
 */
#ifndef ASDSL_TEST_LEVELS_H
#define ASDSL_TEST_LEVELS_H
#include "../asdsl.h"

static const int32_t levels[] = {ASDSL_LEVEL_PORTABLE, ASDSL_LEVEL_AVX2, ASDSL_LEVEL_AVXVNNI, ASDSL_LEVEL_AVX512,
                                 ASDSL_LEVEL_NEON};
enum { N_LEVELS = sizeof levels / sizeof *levels };

/* Bit per asdsl_level; 0 with an error: nothing runs. */
static inline uint32_t usable_levels(void) {
    struct asdsl_info info;
    if (asdsl_cpu_info(&info) != 0) return 0;
#if defined(ASDSL_EVEX_AS_AVXVNNI)
    if (info.levels >> ASDSL_LEVEL_AVX512 & 1) return info.levels | 1u << ASDSL_LEVEL_AVXVNNI;
#endif
    return info.levels;
}

#endif
