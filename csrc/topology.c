/* topology.c: /sys/devices/system/cpu and its like -> cores; cores -> placement. */
#include "topology.h"
#include "cgroup.h"
#include "text_file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- files -> cores ---- */
static bool list_of(const char *root, const char *path, struct affinity *out) {
    char text[TEXT_BYTES];
    return text_read(text, sizeof text, root, "%s", path) && text_cpu_list(text, out);
}

static void intersect(struct affinity *set, const struct affinity *with) {
    for (int32_t i = 0; i < MAX_CORES / 64; i++) set->bits[i] &= with->bits[i];
}

static bool is_empty(const struct affinity *set) {
    for (int32_t i = 0; i < MAX_CORES / 64; i++)
        if (set->bits[i]) return false;
    return true;
}

/* "Cpus_allowed_list:" of the process's own status. */
static bool list_of_status(const char *root, struct affinity *out) {
    static const char key[] = "Cpus_allowed_list:";
    char text[TEXT_BYTES];
    if (!text_read(text, sizeof text, root, "/proc/self/status")) return false;
    const char *line = strstr(text, key);
    if (!line) return false;
    line += sizeof key - 1;
    while (*line == ' ' || *line == '\t') line++;
    return text_cpu_list(line, out);
}

static int32_t number_of_cpu(const char *root, int32_t cpu, const char *file, int32_t otherwise) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
    double x = text_number(root, path);
    return x >= 0 && x < INT32_MAX ? (int32_t)x : otherwise;
}

/* Intel's kernels have a list for each kind since 5.13; Arm's (and some others') a capacity for each core, 1024 for the
 * fastest: big cores of one chip differ by a third (Cortex-X1 1024, A78 about 700 to 900, A55 200 to 300). */
static void find_kinds(const char *root, struct core *core, int32_t n) {
    struct affinity performance, efficiency;
    bool has_lists = list_of(root, "/sys/devices/cpu_core/cpus", &performance) &&
                     list_of(root, "/sys/devices/cpu_atom/cpus", &efficiency);
    int32_t capacity[MAX_CORES], largest = 0, least = INT32_MAX;
    for (int32_t i = 0; i < n; i++) {
        capacity[i] = number_of_cpu(root, core[i].id, "cpu_capacity", 0);
        if (capacity[i] > largest) largest = capacity[i];
        if (capacity[i] < least) least = capacity[i];
    }
    for (int32_t i = 0; i < n; i++) {
        if (has_lists) {
            core[i].kind = affinity_has(&performance, core[i].id) ? CORE_PERFORMANCE : CORE_EFFICIENCY;
        } else if (least > 0 && least < largest) {
            core[i].kind = capacity[i] > largest / 2 ? CORE_PERFORMANCE : CORE_EFFICIENCY;
        }
    }
}

int32_t topology_cores(const char *root, const struct affinity *allowed, struct core out[MAX_CORES]) {
    struct affinity usable, status, cpuset;
    int32_t n = 0;
    if (!list_of(root, "/sys/devices/system/cpu/online", &usable)) return 0;
    if (allowed || list_of_status(root, &status)) intersect(&usable, allowed ? allowed : &status);
    if (cgroup_cpuset(root, &cpuset)) {
        struct affinity both = usable;
        intersect(&both, &cpuset);
        if (!is_empty(&both)) usable = both;
    }
    for (int32_t i = 0; i < MAX_CORES; i++) {
        if (!affinity_has(&usable, i)) continue;
        /* "0,4" or "0-1": the smallest sibling's number names the physical core. */
        int32_t physical = number_of_cpu(root, i, "topology/thread_siblings_list", i);
        int32_t package = number_of_cpu(root, i, "topology/physical_package_id", 0);
        out[n++] = (struct core){i, physical < MAX_CORES ? physical : i, package, CORE_UNKNOWN};
    }
    find_kinds(root, out, n);
    return n;
}

bool topology_placement(const char *root, struct placement *out) {
    struct core core[MAX_CORES];
    int32_t n = topology_cores(root, NULL, core);
    if (n > 0) placement_choose(core, n, cgroup_quota_cores(root), true, out);
    return n > 0;
}

/* ---- cores -> placement ---- */
/* What comes first: first threads of P-cores, E-cores, second threads of P-cores; packages, then ids. */
static int64_t rank_of(const struct core *core, bool second) {
    int64_t kind = second ? 2 : core->kind == CORE_EFFICIENCY ? 1 : 0;
    return (kind << 20 | (core->package & 0x3ff) << 10 | core->id);
}

static void sort_cores(struct placement *p, const struct core *cores, int32_t n) {
    bool seen[MAX_CORES] = {false};
    int64_t rank[MAX_CORES];
    p->n = n;
    for (int32_t i = 0; i < n; i++) {
        bool second = seen[cores[i].physical], performance = cores[i].kind != CORE_EFFICIENCY;
        seen[cores[i].physical] = true;
        p->n_physical += !second;
        p->n_performance += !second && performance;
        int64_t own = rank_of(&cores[i], second);
        int32_t at = i; /* insertion: ids ascend, so almost everything is in its place */
        for (; at > 0 && rank[at - 1] > own; at--) {
            rank[at] = rank[at - 1];
            p->core[at] = p->core[at - 1];
        }
        rank[at] = own;
        p->core[at] = cores[i];
    }
    p->hybrid = p->n_performance > 0 && p->n_performance < p->n_physical;
}

static void add_team(struct placement *p, int32_t size) {
    if (size >= 1 && (p->n_teams == 0 || size > p->team[p->n_teams - 1])) p->team[p->n_teams++] = size;
}

static void find_teams(struct placement *p) {
    int32_t of_package = 0, performance = p->n_performance < p->n_workers ? p->n_performance : p->n_workers;
    p->n_teams = 0;
    while (of_package < performance && p->core[of_package].package == p->core[0].package) of_package++;
    add_team(p, of_package);
    add_team(p, performance);
    add_team(p, p->n_workers);
}

void placement_choose(const struct core *cores, int32_t n, double quota_cores, bool can_pin, struct placement *out) {
    memset(out, 0, sizeof *out);
    sort_cores(out, cores, n);
    out->quota_cores = quota_cores;
    /* Rounded down: a worker beyond the quota stops all of them for the rest of each period. */
    out->n_allowed = quota_cores > 0 && quota_cores < n ? (quota_cores < 1 ? 1 : (int32_t)quota_cores) : n;
    /* Second hardware threads of a core add nothing to integer arithmetic and little to streaming. */
    out->n_workers = out->n_physical < out->n_allowed ? out->n_physical : out->n_allowed;
    out->pinned = can_pin && out->n_allowed == n;
    /* A thread that cannot be told to stay on an E-core cannot be dealt an E-core's share. */
    if (!can_pin && out->hybrid && out->n_workers > out->n_performance) out->n_workers = out->n_performance;
    find_teams(out);
}

bool placement_restrict(struct placement *placement, const struct affinity *mask, bool can_pin) {
    struct core kept[MAX_CORES];
    int32_t n = 0;
    for (int32_t id = 0; id < MAX_CORES; id++) { /* ascending */
        if (!affinity_has(mask, id)) continue;
        for (int32_t i = 0; i < placement->n; i++)
            if (placement->core[i].id == id) kept[n++] = placement->core[i];
    }
    if (n == 0) return false;
    placement_choose(kept, n, placement->quota_cores, can_pin, placement);
    return true;
}

_Static_assert(CORE_UNKNOWN == (int)ASDSL_CORE_UNKNOWN && CORE_PERFORMANCE == (int)ASDSL_CORE_PERFORMANCE &&
                   CORE_EFFICIENCY == (int)ASDSL_CORE_EFFICIENCY,
               "platform.h and asdsl.h");

void placement_describe(const struct placement *placement, struct asdsl_topology *out) {
    _Static_assert(sizeof out->team == sizeof placement->team, "teams");
    _Static_assert(sizeof out->cores / sizeof *out->cores == MAX_CORES, "cores");
    memset(out, 0, sizeof *out);
    out->quota_cores = placement->quota_cores;
    out->n_cores = placement->n;
    out->n_physical = placement->n_physical;
    out->n_performance = placement->n_performance;
    out->n_workers = placement->n_workers;
    out->pinned = placement->pinned;
    out->n_teams = placement->n_teams;
    memcpy(out->team, placement->team, sizeof out->team);
    for (int32_t i = 0; i < placement->n; i++) {
        const struct core *core = &placement->core[i];
        out->cores[i] = (struct asdsl_core){core->id, core->physical, core->package, (int32_t)core->kind};
    }
}
