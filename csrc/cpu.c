/* cpu.c: hand-written CPUID and XGETBV, cores by affinity and quota, cache sizes.
 *
 * By hand because __builtin_cpu_supports does not link in a shared library built by zig, and because a level counts
 * only when the operating system saves its registers (XCR0). Linux has everything; other systems get a count of cores.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "cpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

/* ---- small files of /proc and /sys ---- */
static bool read_text(const char *path, char *out, size_t out_bytes) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    size_t n = fread(out, 1, out_bytes - 1, file);
    fclose(file);
    out[n] = 0;
    return n > 0;
}

static double read_number(const char *path) { /* negative: absent or not a number */
    char line[64], *end;
    if (!read_text(path, line, sizeof line)) return -1;
    double x = strtod(line, &end);
    return end == line ? -1 : x;
}

/* ---- instruction sets ---- */
#if defined(__x86_64__) || defined(__i386__)
struct cpuid {
    uint32_t a, b, c, d;
};

static struct cpuid cpuid(uint32_t leaf, uint32_t sub) {
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}

static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool bits(uint64_t value, uint64_t mask) { return (value & mask) == mask; }

enum {
    LEAF1_C_FMA = 1 << 12,
    LEAF1_C_OSXSAVE = 1 << 27,
    LEAF1_C_AVX = 1 << 28,
    LEAF1_C_F16C = 1 << 29,
    LEAF7_B_AVX2 = 1 << 5,
    LEAF7_C_AVX512_VNNI = 1 << 11,
    LEAF7_D_HYBRID = 1 << 15,
    LEAF7_1_A_AVX_VNNI = 1 << 4,
    XCR0_YMM = 0x6,  /* SSE and AVX state */
    XCR0_ZMM = 0xe6, /* and opmask, upper halves of zmm 0-15, zmm 16-31 */
};
#define LEAF7_B_AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */

uint32_t cpu_levels(void) {
    uint32_t levels = 1u << ASDSL_LEVEL_PORTABLE | 1u << ASDSL_LEVEL_REFERENCE;
    uint32_t max_leaf = cpuid(0, 0).a;
    if (max_leaf < 7) return levels;
    struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0);
    if (!bits(one.c, LEAF1_C_OSXSAVE | LEAF1_C_AVX | LEAF1_C_FMA | LEAF1_C_F16C)) return levels;
    uint64_t xcr0 = xgetbv0();
    if (!bits(xcr0, XCR0_YMM) || !bits(seven.b, LEAF7_B_AVX2)) return levels;
    levels |= 1u << ASDSL_LEVEL_AVX2;
    if (seven.a >= 1 && bits(cpuid(7, 1).a, LEAF7_1_A_AVX_VNNI)) levels |= 1u << ASDSL_LEVEL_AVXVNNI;
    if (bits(xcr0, XCR0_ZMM) && bits(seven.b, LEAF7_B_AVX512) && bits(seven.c, LEAF7_C_AVX512_VNNI)) {
        levels |= 1u << ASDSL_LEVEL_AVX512;
#if defined(ASDSL_EVEX_AS_AVXVNNI) /* a library for tests: its level avxvnni is encoded as AVX-512 VNNI */
        levels |= 1u << ASDSL_LEVEL_AVXVNNI;
#endif
    }
    return levels;
}

static void read_brand(char brand[64]) {
    uint32_t words[12] = {0};
    if (cpuid(0x80000000u, 0).a >= 0x80000004u) {
        for (uint32_t i = 0; i < 3; i++) {
            struct cpuid r = cpuid(0x80000002u + i, 0);
            memcpy(words + 4 * i, &r, 16);
        }
    }
    char text[49] = {0}, *start = text;
    memcpy(text, words, 48);
    while (*start == ' ') start++;
    snprintf(brand, 64, "%s", *start ? start : "x86-64");
    for (size_t n = strlen(brand); n && brand[n - 1] == ' '; n--) brand[n - 1] = 0;
}

static bool is_hybrid(void) { return cpuid(0, 0).a >= 0x1a && cpuid(7, 0).d & LEAF7_D_HYBRID; }

/* Of the core this thread is running on: leaf 0x1A, type 0x40 Core, 0x20 Atom. */
static bool on_performance_core(void) { return cpuid(0x1a, 0).a >> 24 != 0x20; }

/* Intel's leaf 4 or AMD's 0x8000001D: cache level and type, ways, partitions, line size, sets. */
static void read_caches(int32_t out[3]) {
    uint32_t leaf = 4;
    if (cpuid(0, 0).c == 0x444d4163) leaf = 0x8000001du; /* "cAMD", the end of AuthenticAMD */
    if (leaf == 4 ? cpuid(0, 0).a < 4 : cpuid(0x80000000u, 0).a < leaf) return;
    for (uint32_t i = 0; i < 8; i++) {
        struct cpuid r = cpuid(leaf, i);
        uint32_t type = r.a & 31, level = r.a >> 5 & 7;
        if (type == 0) break;
        if (type == 2 || level < 1 || level > 3) continue; /* instructions */
        double bytes = ((r.b >> 22 & 1023) + 1.0) * ((r.b >> 12 & 1023) + 1.0) * ((r.b & 4095) + 1.0) * (r.c + 1.0);
        out[level - 1] = bytes < INT32_MAX ? (int32_t)bytes : INT32_MAX;
    }
}
#else
uint32_t cpu_levels(void) { return 1u << ASDSL_LEVEL_PORTABLE | 1u << ASDSL_LEVEL_REFERENCE; }

static void read_brand(char brand[64]) {
#if defined(__aarch64__)
    snprintf(brand, 64, "aarch64");
#else
    snprintf(brand, 64, "unknown");
#endif
}

static bool is_hybrid(void) { return false; }
static bool on_performance_core(void) { return true; }

static void read_caches(int32_t out[3]) {
    for (int i = 0; i < 4; i++) {
        char path[96], type[16];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
        if (!read_text(path, type, sizeof type) || type[0] == 'I') continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        double level = read_number(path);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        double kilobytes = read_number(path); /* "64K" */
        if (level >= 1 && level <= 3 && kilobytes > 0 && kilobytes < 2e6) {
            out[(int)level - 1] = (int32_t)(1024 * kilobytes);
        }
    }
}
#endif

int32_t cpu_best_level(uint32_t levels) {
    if (levels & 1u << ASDSL_LEVEL_AVX512) return ASDSL_LEVEL_AVX512;
    if (levels & 1u << ASDSL_LEVEL_AVXVNNI) return ASDSL_LEVEL_AVXVNNI;
    if (levels & 1u << ASDSL_LEVEL_AVX2) return ASDSL_LEVEL_AVX2;
    return ASDSL_LEVEL_PORTABLE;
}

/* ---- affinity ---- */
enum { WORD_BITS = 8 * sizeof(unsigned long) };

bool cpu_affinity_has(const struct cpu_affinity *affinity, int32_t core) {
    return core >= 0 && core < CPU_MAX_CORES && affinity->bits[core / WORD_BITS] >> core % WORD_BITS & 1;
}

#if defined(__linux__)
_Static_assert(sizeof(cpu_set_t) == CPU_MAX_CORES / 8, "cpu_set_t");

bool cpu_affinity_get(struct cpu_affinity *out) {
    memset(out, 0, sizeof *out);
    out->known = sched_getaffinity(0, sizeof out->bits, (cpu_set_t *)(void *)out->bits) == 0;
    return out->known;
}

bool cpu_affinity_set(const struct cpu_affinity *affinity) {
    return affinity->known &&
           sched_setaffinity(0, sizeof affinity->bits, (const cpu_set_t *)(const void *)affinity->bits) == 0;
}
#else
bool cpu_affinity_get(struct cpu_affinity *out) {
    memset(out, 0, sizeof *out);
    return false;
}

bool cpu_affinity_set(const struct cpu_affinity *affinity) {
    (void)affinity;
    return false;
}
#endif

bool cpu_pin(int32_t core) {
    struct cpu_affinity one = {.known = true};
    if (core < 0 || core >= CPU_MAX_CORES) return false;
    one.bits[core / WORD_BITS] = 1ul << core % WORD_BITS;
    return cpu_affinity_set(&one);
}

/* ---- cores ---- */
/* CPU time that the process may use, in cores; 0: no limit. Both versions, this process's group and those above it. */
#if defined(__linux__)
static double quota_v2(const char *folder) {
    char path[600], line[64], *end;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_text(path, line, sizeof line)) return 0;
    double quota = strtod(line, &end), period = strtod(end, NULL); /* "max 100000" or "150000 100000" */
    return end != line && quota > 0 && period > 0 ? quota / period : 0;
}

static double quota_v1(const char *folder) {
    char path[600];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    double quota = read_number(path); /* -1: none */
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    double period = read_number(path);
    return quota > 0 && period > 0 ? quota / period : 0;
}

static double memory_v2(const char *folder) {
    char path[600];
    snprintf(path, sizeof path, "%s/memory.max", folder);
    double bytes = read_number(path); /* "max": not a number */
    return bytes > 0 ? bytes : 0;
}

static double memory_v1(const char *folder) {
    char path[600];
    snprintf(path, sizeof path, "%s/memory.limit_in_bytes", folder);
    double bytes = read_number(path); /* no limit: about 2^63 */
    return bytes > 0 && bytes < 0x1p60 ? bytes : 0;
}

/* The smallest positive answer of `ask` from root/group up to root. Inside a container the group's path may not exist
 * under the mount, whose root is then the container's own group: that one is asked in any case. */
static double smallest_limit(const char *root, const char *group, double (*ask)(const char *folder)) {
    char folder[512];
    double least = 0;
    int n = snprintf(folder, sizeof folder, "%s%s", root, group);
    if (n < 0 || (size_t)n >= sizeof folder) return 0;
    for (size_t root_bytes = strlen(root);;) {
        double limit = ask(folder);
        if (limit > 0 && (least == 0 || limit < least)) least = limit;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= root_bytes || !slash) return least;
        *slash = 0;
    }
}

/* One line of /proc/self/cgroup: "0::/path" (version 2) or "4:cpu,cpuacct:/path". */
static double cgroup_limit(const char *controller, const char *const roots_v1[2], double (*v1)(const char *folder),
                           double (*v2)(const char *folder)) {
    char text[4096], *rest = NULL;
    double least = 0;
    if (!read_text("/proc/self/cgroup", text, sizeof text)) return 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        names++;
        double limit = 0;
        if (*names == 0) {
            limit = smallest_limit("/sys/fs/cgroup", group, v2);
        } else {
            char padded[256], wanted[32];
            snprintf(padded, sizeof padded, ",%s,", names);
            snprintf(wanted, sizeof wanted, ",%s,", controller);
            if (!strstr(padded, wanted)) continue;
            for (int i = 0; i < 2 && limit == 0; i++) limit = smallest_limit(roots_v1[i], group, v1);
        }
        if (limit > 0 && (least == 0 || limit < least)) least = limit;
    }
    return least;
}

static double quota_cores(void) {
    static const char *const roots[2] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    return cgroup_limit("cpu", roots, quota_v1, quota_v2);
}

static double limit_bytes(void) {
    static const char *const roots[2] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory"};
    return cgroup_limit("memory", roots, memory_v1, memory_v2);
}
#else
static double quota_cores(void) { return 0; }
static double limit_bytes(void) { return 0; }
#endif

double cpu_memory_bytes(void) {
    double bytes = 0, limit = limit_bytes();
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
#endif
    return limit > 0 && (bytes <= 0 || limit < bytes) ? limit : bytes > 0 ? bytes : 0;
}

/* The smallest sibling's number names the physical core; -1: unknown, a core of its own. */
static int32_t physical_of(int32_t core) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", core);
    double first = read_number(path); /* "0,4" or "0-1" */
    return first >= 0 && first < CPU_MAX_CORES ? (int32_t)first : core;
}

static int32_t list_allowed(int32_t id[CPU_MAX_CORES], struct cpu_affinity *affinity) {
    int32_t n = 0;
    if (cpu_affinity_get(affinity)) {
        for (int32_t i = 0; i < CPU_MAX_CORES; i++)
            if (cpu_affinity_has(affinity, i)) id[n++] = i;
    }
#if defined(_SC_NPROCESSORS_ONLN)
    if (n == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        for (int32_t i = 0; i < online && i < CPU_MAX_CORES; i++) id[n++] = i;
    }
#endif
    if (n == 0) id[n++] = 0;
    return n;
}

void cpu_cores(struct cpu_cores *out) {
    struct cpu_affinity affinity;
    char rank[CPU_MAX_CORES];
    bool seen[CPU_MAX_CORES] = {false};
    int32_t id[CPU_MAX_CORES];
    memset(out, 0, sizeof *out);
    int32_t n = list_allowed(id, &affinity);
    out->hybrid = is_hybrid();
    for (int32_t i = 0; i < n; i++) {
        int32_t physical = physical_of(id[i]);
        bool second = seen[physical];
        bool performance = !out->hybrid || !affinity.known || !cpu_pin(id[i]) || on_performance_core();
        seen[physical] = true;
        if (!second) out->n_physical++;
        if (!second && performance) out->n_performance++;
        /* An efficiency core comes before a performance core's second thread. */
        rank[i] = second ? (performance ? 2 : 3) : (performance ? 0 : 1);
    }
    if (out->hybrid) cpu_affinity_set(&affinity);
    for (char r = 0; r < 4; r++)
        for (int32_t i = 0; i < n; i++)
            if (rank[i] == r) out->id[out->n++] = id[i];
    double quota = quota_cores();
    out->n_allowed = quota > 0 && quota < out->n ? (quota < 1 ? 1 : (int32_t)(quota + 0.5)) : out->n;
}

void cpu_info(struct asdsl_info *out) {
    struct cpu_cores cores;
    memset(out, 0, sizeof *out);
    cpu_cores(&cores);
    read_brand(out->cpu);
    read_caches(out->cache_bytes);
    out->levels = cpu_levels();
    out->level = cpu_best_level(out->levels);
    out->n_cores = cores.n < cores.n_allowed ? cores.n : cores.n_allowed;
    out->n_physical = cores.n_physical < out->n_cores ? cores.n_physical : out->n_cores;
    out->n_performance = cores.n_performance < out->n_physical ? cores.n_performance : out->n_physical;
    out->hybrid = cores.hybrid;
}
