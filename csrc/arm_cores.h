/* arm_cores.h: names of Arm cores from the kernel's /proc/cpuinfo. Knows no file and no system. */
#ifndef ASDSL_ARM_CORES_H
#define ASDSL_ARM_CORES_H
#include <stdbool.h>

/* "Cortex-A55 + Cortex-A76": each kind of core once, in the order of /proc/cpuinfo, whose text may be cut off behind
 * some core. False: no core in it, one that is not known, or more than 63 bytes of names. */
bool arm_core_names(const char *cpuinfo, char name[64]);

#endif
