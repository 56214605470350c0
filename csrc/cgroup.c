/* cgroup.c: /proc/self/cgroup names this process's groups; their limits are files below /sys/fs/cgroup.
 *
 * Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
 */
#include "cgroup.h"
#include "text_file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a controller of version 1 may be mounted, the mount points of one group, and what to ask of a group. */
struct question {
    const char *controller;
    const char *roots_v1[2];
    /* A limit of one group's folder, 0: none. */
    double (*v1)(const char *root, const char *folder);
    double (*v2)(const char *root, const char *folder);
};

static double number_of(const char *root, const char *folder, const char *file) {
    char path[TEXT_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    return n > 0 && (size_t)n < sizeof path ? text_number(root, path) : -1;
}

static double quota_v2(const char *root, const char *folder) {
    char line[64], *end;
    if (!text_read(line, sizeof line, root, "%s/cpu.max", folder)) return 0;
    double quota = strtod(line, &end), period = strtod(end, NULL); /* "max 100000" or "150000 100000" */
    return end != line && quota > 0 && period > 0 ? quota / period : 0;
}

static double quota_v1(const char *root, const char *folder) {
    double quota = number_of(root, folder, "cpu.cfs_quota_us"); /* -1: none */
    double period = number_of(root, folder, "cpu.cfs_period_us");
    return quota > 0 && period > 0 ? quota / period : 0;
}

static double memory_v2(const char *root, const char *folder) {
    double bytes = number_of(root, folder, "memory.max"); /* "max": not a number */
    return bytes > 0 ? bytes : 0;
}

static double memory_v1(const char *root, const char *folder) {
    double bytes = number_of(root, folder, "memory.limit_in_bytes"); /* no limit: about 2^63 */
    return bytes > 0 && bytes < 0x1p60 ? bytes : 0;
}

static const struct question quota = {"cpu", {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}, quota_v1, quota_v2};
static const struct question memory = {
    "memory", {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory"}, memory_v1, memory_v2};

/* The smallest limit from mount/group up to the mount. Inside a container the group's path may not exist under the
 * mount, whose root is then the container's own group: that one is asked in any case. */
static double smallest_limit(const char *root, const char *mount, const char *group,
                             double (*ask)(const char *root, const char *folder)) {
    char folder[512];
    double least = 0;
    int n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (n < 0 || (size_t)n >= sizeof folder) return 0;
    for (size_t mount_bytes = strlen(mount);;) {
        double limit = ask(root, folder);
        if (limit > 0 && (least == 0 || limit < least)) least = limit;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= mount_bytes || !slash) return least;
        *slash = 0;
    }
}

/* A line of /proc/self/cgroup, "0::/path" (version 2) or "4:cpu,cpuacct:/path": its controllers ("" is version 2) and
 * path. False: neither. Writes into the line. */
static bool split_line(char *line, char **controllers, char **group) {
    char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
    if (!path) return false;
    *path = 0;
    *controllers = names + 1;
    *group = path + 1;
    return true;
}

static bool has_word(const char *list, const char *word) {
    char padded[256], wanted[32];
    snprintf(padded, sizeof padded, ",%s,", list);
    snprintf(wanted, sizeof wanted, ",%s,", word);
    return strstr(padded, wanted) != NULL;
}

/* The line at *rest, which moves behind it; NULL: no more. */
static char *next_line(char **rest) {
    char *line = *rest;
    if (!*line) return NULL;
    char *end = strchr(line, '\n');
    *rest = end ? end + 1 : line + strlen(line);
    if (end) *end = 0;
    return line;
}

static double least_limit(const char *root, const struct question *q) {
    char text[TEXT_BYTES], *rest = text, *line, *controllers, *group;
    double least = 0;
    text_read(text, sizeof text, root, "/proc/self/cgroup");
    while ((line = next_line(&rest))) {
        double limit = 0;
        if (!split_line(line, &controllers, &group)) continue;
        if (*controllers == 0) limit = smallest_limit(root, "/sys/fs/cgroup", group, q->v2);
        for (int i = 0; i < 2 && limit == 0 && has_word(controllers, q->controller); i++) {
            limit = smallest_limit(root, q->roots_v1[i], group, q->v1);
        }
        if (limit > 0 && (least == 0 || limit < least)) least = limit;
    }
    return least;
}

double cgroup_quota_cores(const char *root) { return least_limit(root, &quota); }
double cgroup_memory_bytes(const char *root) { return least_limit(root, &memory); }

/* The file of the group itself, else of the mount: effective sets are subsets of all above them. */
static bool cpuset_of(const char *root, const char *mount, const char *group, const char *file, struct affinity *out) {
    char text[TEXT_BYTES];
    return (text_read(text, sizeof text, root, "%s%s/%s", mount, group, file) && text_cpu_list(text, out)) ||
           (text_read(text, sizeof text, root, "%s/%s", mount, file) && text_cpu_list(text, out));
}

bool cgroup_cpuset(const char *root, struct affinity *out) {
    char text[TEXT_BYTES], *rest = text, *line, *controllers, *group;
    text_read(text, sizeof text, root, "/proc/self/cgroup");
    while ((line = next_line(&rest))) {
        if (!split_line(line, &controllers, &group)) continue;
        bool is_v1 = has_word(controllers, "cpuset");
        if (is_v1 && cpuset_of(root, "/sys/fs/cgroup/cpuset", group, "cpuset.effective_cpus", out)) return true;
        if (is_v1 && cpuset_of(root, "/sys/fs/cgroup/cpuset", group, "cpuset.cpus", out)) return true;
        if (*controllers == 0 && cpuset_of(root, "/sys/fs/cgroup", group, "cpuset.cpus.effective", out)) return true;
    }
    return false;
}
