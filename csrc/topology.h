/* topology.h: the cores of a Linux machine as the kernel's files tell, and where workers belong on the cores of any
 * machine. Knows nothing of threads. */
#ifndef ASDSL_TOPOLOGY_H
#define ASDSL_TOPOLOGY_H
#include "asdsl.h"
#include "platform.h"

/* The logical CPUs that a process may run on, by ascending id: online, in its cpuset and in its affinity mask
 * (`allowed`; NULL: as /proc/self/status says). `root` is put in front of every path. Returns how many; 0: the files
 * say nothing. */
int32_t topology_cores(const char *root, const struct affinity *allowed, struct core out[MAX_CORES]);

enum { MAX_TEAMS = 4 };

/* Who works where. */
struct placement {
    /* Logical CPUs in the order in which workers take them: one of each physical core before second hardware threads,
     * performance before efficiency cores, one package after the other. */
    int32_t n;
    struct core core[MAX_CORES];
    int32_t n_physical;    /* distinct physical cores among them */
    int32_t n_performance; /* physical P-cores among them; n_physical when not hybrid */
    bool hybrid;
    double quota_cores; /* CPU time that the process gets, in cores; 0: no limit */
    int32_t n_allowed;  /* logical CPUs' worth of time, in whole cores: n, or less by the quota; at least 1 */
    int32_t n_workers;  /* one per physical core, within n_allowed */
    /* A quota far below the cores means neighbours on them: the system finds a free core, a pinned worker would wait.
     */
    bool pinned;
    /* Numbers of workers worth comparing, ascending, n_workers the last: where a kind of core or a package ends. */
    int32_t n_teams, team[MAX_TEAMS];
};

/* `cores` of all kinds known, by ascending id. can_pin: threads can be told where to run. */
void placement_choose(const struct core *cores, int32_t n, double quota_cores, bool can_pin, struct placement *out);

/* What a Linux machine's files below `root` say; false: nothing. */
bool topology_placement(const char *root, struct placement *out);

/* For other programs. */
void placement_describe(const struct placement *placement, struct asdsl_topology *out);

/* The cores of a placement that are in the mask; unchanged, and false, when none is. */
bool placement_restrict(struct placement *placement, const struct affinity *mask, bool can_pin);

#endif
