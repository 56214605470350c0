/* cpu.h: what this CPU can do and what of it this process may use. Knows nothing of threads or kernels. */
#ifndef ASDSL_CPU_H
#define ASDSL_CPU_H
#include "asdsl.h"
#include "platform.h"
#include "topology.h"

/* Where workers of this process belong on this machine. mask: the cores that it is to keep to, NULL: all it may use.
 * False: it may use none of the mask, and *out is for all. */
bool cpu_placement(const struct affinity *mask, struct placement *out);

/* Bit per asdsl_level that both CPU and operating system support; PORTABLE and REFERENCE always. */
uint32_t cpu_levels(void);
int32_t cpu_best_level(uint32_t levels);
/* Of the levels that are not among `levels`, those of which only CPUID may be wrong: all else that they need is there.
 */
uint32_t cpu_hidden_levels(uint32_t levels);

/* Everything of asdsl_info except level and n_threads of an engine. */
void cpu_info(struct asdsl_info *out);

#endif
