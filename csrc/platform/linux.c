/* linux.c: platform.h on Linux, with posix.c: futex, affinity, huge pages, perf events, cgroups' limits, /proc and
 * /sys. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "../arm_cores.h"
#include "../platform.h"
#include "posix.h"
#include <errno.h>
#include <linux/futex.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

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

/* ---- memory ---- */
static size_t to_pages(size_t bytes) {
    size_t unit = bytes < HUGE_PAGE ? 16384 : HUGE_PAGE; /* 16384: the largest page of common systems */
    return (bytes + unit - 1) / unit * unit;
}

void *pages_allocate(size_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX / 4) return NULL;
    size_t whole = to_pages(bytes), spare = whole < HUGE_PAGE ? 0 : HUGE_PAGE;
    uint8_t *pages = mmap(NULL, whole + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    if (spare) {
        /* A huge page needs its own alignment: cut off what lies before and after. */
        size_t before = (HUGE_PAGE - (uintptr_t)pages % HUGE_PAGE) % HUGE_PAGE;
        if (before) munmap(pages, before);
        if (spare - before) munmap(pages + before + whole, spare - before);
        pages += before;
        madvise(pages, whole, MADV_HUGEPAGE); /* a wish: without it the memory is as good, a little slower */
    }
    return pages;
}

void pages_free(void *pages, size_t bytes) {
    if (pages) munmap(pages, to_pages(bytes));
}

/* ---- limits: this process's control group and those above it, both versions ---- */
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

double platform_quota_cores(void) {
    static const char *const roots[2] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    return cgroup_limit("cpu", roots, quota_v1, quota_v2);
}

static double limit_bytes(void) {
    static const char *const roots[2] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory"};
    return cgroup_limit("memory", roots, memory_v1, memory_v2);
}
double platform_memory_bytes(void) {
    double limit = limit_bytes(), bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    return limit > 0 && (bytes <= 0 || limit < bytes) ? limit : bytes > 0 ? bytes : 0;
}

/* ---- event counters: perf_event_open(2) ---- */
static const struct {
    uint32_t type;
    uint64_t config;
} events[N_EVENTS] = {
    [EVENT_INSTRUCTIONS] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    [EVENT_CYCLES] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    [EVENT_L1D_MISSES] = {PERF_TYPE_HW_CACHE, PERF_COUNT_HW_CACHE_L1D | PERF_COUNT_HW_CACHE_OP_READ << 8 |
                                                  PERF_COUNT_HW_CACHE_RESULT_MISS << 16},
    [EVENT_LLC_MISSES] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    [EVENT_PAGE_FAULTS] = {PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS},
};

int64_t event_begin(enum event_kind kind) {
    struct perf_event_attr attributes = {
        .size = sizeof attributes,
        .type = events[kind].type,
        .config = events[kind].config,
        .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    int file = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (file >= 0) return file;
    if (errno == ENOENT || errno == ENODEV || errno == EOPNOTSUPP) {
        posix_refused_for("neither the processor nor the hypervisor offers this counter");
    } else if (errno == EACCES || errno == EPERM) {
        posix_refused_for("the kernel does not allow it, see kernel.perf_event_paranoid");
    } else {
        posix_refused(errno);
    }
    return -1;
}

double event_count(int64_t event) {
    uint64_t
        read_back[3]; /* events, ns since its beginning, ns of them on a counter: more events than counters share */
    if (read((int)event, read_back, sizeof read_back) != (ssize_t)sizeof read_back) {
        posix_refused(errno);
        return -1;
    }
    if (read_back[2] == 0) return 0;
    return (double)read_back[0] * ((double)read_back[1] / (double)read_back[2]);
}

void event_end(int64_t event) { close((int)event); }

/* ---- threads ---- */
void thread_begins(void) {}

_Static_assert(sizeof(atomic_uint) == 4, "futex word");

void word_wait(atomic_uint *word, unsigned seen) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }

void word_wake_all(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }

/* glibc and musl: PTHREAD_MUTEX_INITIALIZER is zeros, and a mutex holds nothing that would have to be given back. */
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(struct mutex), "struct mutex");

void mutex_lock(struct mutex *mutex) { pthread_mutex_lock((pthread_mutex_t *)(void *)mutex); }
void mutex_unlock(struct mutex *mutex) { pthread_mutex_unlock((pthread_mutex_t *)(void *)mutex); }

/* ---- cores ---- */
_Static_assert(sizeof(cpu_set_t) == MAX_CORES / 8, "cpu_set_t");

bool affinity_get(struct affinity *out) {
    memset(out, 0, sizeof *out);
    out->known = sched_getaffinity(0, sizeof out->bits, (cpu_set_t *)(void *)out->bits) == 0;
    return out->known;
}

bool affinity_set(const struct affinity *affinity) {
    return affinity->known &&
           sched_setaffinity(0, sizeof affinity->bits, (const cpu_set_t *)(const void *)affinity->bits) == 0;
}

bool thread_pin(int32_t core) {
    struct affinity one = {.known = true};
    if (core < 0 || core >= MAX_CORES) return false;
    one.bits[core / 64] = UINT64_C(1) << core % 64;
    return affinity_set(&one);
}

/* The smallest sibling's number names the physical core; -1: unknown, a core of its own. */
static int32_t physical_of(int32_t core) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", core);
    double first = read_number(path); /* "0,4" or "0-1" */
    return first >= 0 && first < MAX_CORES ? (int32_t)first : core;
}

/* Of the kinds of core the kernel tells user programs nothing that holds everywhere: cpu.c asks the CPU. */
int32_t platform_cores(struct core out[MAX_CORES]) {
    struct affinity affinity;
    int32_t n = 0;
    bool known = affinity_get(&affinity);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (int32_t i = 0; i < MAX_CORES; i++) {
        if (known ? affinity_has(&affinity, i) : i < online) out[n++] = (struct core){i, physical_of(i), CORE_UNKNOWN};
    }
    if (n == 0) out[n++] = (struct core){0, 0, CORE_UNKNOWN};
    return n;
}

/* ---- the CPU ---- */
uint32_t platform_cpu_features(void) {
    uint32_t features = 0;
#if defined(__aarch64__)
    /* Numbers of the kernel's asm/hwcap.h, which old headers do not have. */
    enum { DOTPROD_BIT = 20, FP16_BIT = 10, I8MM_BIT_2 = 13 };
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    if (first >> DOTPROD_BIT & 1) features |= CPU_DOTPROD;
    if (first >> FP16_BIT & 1) features |= CPU_FP16;
    if (second >> I8MM_BIT_2 & 1) features |= CPU_I8MM;
#endif
    return features;
}

#if defined(__aarch64__)
/* The kinds of core or, where not all are known, the machine: "Raspberry Pi 5 Model B Rev 1.0". */
bool platform_cpu_name(char name[64]) {
    char text[16384], model[64];
    if (read_text("/proc/cpuinfo", text, sizeof text) && arm_core_names(text, name)) return true;
    if (!read_text("/proc/device-tree/model", model, sizeof model)) return false;
    memcpy(name, model, sizeof model);
    return true;
}
#else
bool platform_cpu_name(char name[64]) { /* cpu.c asks the CPU itself */
    (void)name;
    return false;
}
#endif

void platform_caches(int32_t bytes[3]) {
    for (int i = 0; i < 4; i++) {
        char path[96], type[16];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
        if (!read_text(path, type, sizeof type) || type[0] == 'I') continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        double level = read_number(path);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        double kilobytes = read_number(path); /* "64K" */
        if (level >= 1 && level <= 3 && kilobytes > 0 && kilobytes < 2e6) {
            bytes[(int)level - 1] = (int32_t)(1024 * kilobytes);
        }
    }
}
