/* cpu.h: what this CPU can do and what of it this process may use. Knows nothing of threads or kernels. */
#ifndef ASDSL_CPU_H
#define ASDSL_CPU_H
#include "asdsl.h"
#include "platform.h"

/* Logical CPUs that the calling thread may run on, in the order in which workers should take them: one of each physical
 * core before second hardware threads, performance cores before efficiency cores. */
struct cpu_cores {
    int32_t n;             /* logical CPUs in id[] */
    int32_t n_physical;    /* distinct physical cores among them */
    int32_t n_performance; /* physical P-cores among them; n_physical when not hybrid */
    int32_t n_allowed;     /* logical CPUs' worth of time: n, or less by a cgroup quota; at least 1 */
    int32_t hybrid;
    int32_t id[MAX_CORES];
};

void cpu_cores(struct cpu_cores *out);

/* Bit per asdsl_level that both CPU and operating system support; PORTABLE and REFERENCE always. */
uint32_t cpu_levels(void);
int32_t cpu_best_level(uint32_t levels);
/* Of the levels that are not among `levels`, those of which only CPUID may be wrong: all else that they need is there.
 */
uint32_t cpu_hidden_levels(uint32_t levels);

/* Everything of asdsl_info except level and n_threads of an engine. */
void cpu_info(struct asdsl_info *out);

#endif
