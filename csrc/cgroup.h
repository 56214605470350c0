/* cgroup.h: what Linux's control groups, of both versions, allow this process: its own group and those above it.
 *
 * Every function takes the root in front of /proc and /sys: "" is this machine. 0 or false: no limit. */
#ifndef ASDSL_CGROUP_H
#define ASDSL_CGROUP_H
#include "platform.h"

double cgroup_quota_cores(const char *root); /* CPU time per time */
double cgroup_memory_bytes(const char *root);
bool cgroup_cpuset(const char *root, struct affinity *out);

#endif
