/* linux.c: platform.h on Linux, with posix.c: futex, affinity, huge pages, perf events; what /proc and /sys say is read
 * by cgroup.c and topology.c. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "../arm_cores.h"
#include "../cgroup.h"
#include "../platform.h"
#include "../text_file.h"
#include "../topology.h"
#include "posix.h"
#include <errno.h>
#include <fcntl.h>
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

void pages_sparse(void *pages, size_t bytes) { madvise(pages, to_pages(bytes), MADV_NOHUGEPAGE); }

/* Of a file that is hardly in memory, what is there of bytes [offset, offset + bytes) goes: read ahead behind its
 * header in small pieces, it would keep huge ones out. */
static void drop_remains(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    uint64_t n = 0, n_present = 0, page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = offset / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE / 2; at < offset + bytes; at += HUGE_PAGE, n++) {
        unsigned char present = 1;
        mincore((uint8_t *)file->data + at, (size_t)page, &present); /* 1 to those who may not know */
        n_present += present & 1;
    }
    if (n_present < n / 4) posix_fadvise(file->descriptor, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

/* What decides whether a file's pages are huge is the size of its pieces in the page cache, made once, when they were
 * written or read (Linux 6.18, ext4, measured): written by calls of 2 MiB and more, or read under MADV_HUGEPAGE, all of
 * it lies in pieces of 2 MiB and 491 MB map in 0.4 ms; written by calls of 128 KB, as cp does, or read by
 * MADV_WILLNEED, none of it, and mapping takes 40 ms. The read-ahead of other reads goes its own way: where it has left
 * its mark in the cache, a fault goes on with it in smaller pieces, wish or not (58 % behind an ordinary read of the
 * header). MADV_RANDOM keeps to the wish; and whoever gathers from the rest of the file meanwhile does not queue
 * megabytes before it. */
void file_fetch_begins(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = offset / page * page;
    madvise(file->data, (size_t)file->bytes, MADV_RANDOM);
    if (bytes >= HUGE_PAGE) madvise((uint8_t *)file->data + from, (size_t)(offset + bytes - from), MADV_HUGEPAGE);
    drop_remains(file, offset, bytes);
}

void file_fetch_ends(const struct mapped_file *file) { madvise(file->data, (size_t)file->bytes, MADV_NORMAL); }

/* Linux 5.14; older headers do not have it. */
#if !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22
#endif

bool file_fetch(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = offset / page * page;
    uint8_t *at = (uint8_t *)file->data + from;
    size_t n = (size_t)(offset + bytes - from);
    int result;
    do result = madvise(at, n, MADV_POPULATE_READ);
    while (result != 0 && errno == EINTR);
    if (result == 0) return true;
    if (errno != EINVAL) return posix_refused(errno); /* EFAULT: what the file no longer has; EHWPOISON */
    madvise(at, n, MADV_WILLNEED);
    return posix_touch(file, from, n);
}

/* /proc/self/smaps names the addresses of each mapping, then its counts, "Rss:  1234 kB". */
void pages_count(const void *pages, uint64_t bytes, struct page_counts *out) {
    unsigned long long first = (unsigned long long)(uintptr_t)pages, begin, end;
    char line[512];
    bool inside = false;
    FILE *smaps = fopen("/proc/self/smaps", "re");
    *out = smaps ? (struct page_counts){0} : (struct page_counts){-1, -1, -1, -1};
    while (smaps && fgets(line, sizeof line, smaps)) {
        double kilobytes;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            inside = begin < first + bytes && end > first;
        } else if (!inside) {
            continue;
        } else if (sscanf(line, "Rss: %lf", &kilobytes) == 1) {
            out->resident += 1024 * kilobytes;
        } else if (sscanf(line, "Pss: %lf", &kilobytes) == 1) {
            out->proportional += 1024 * kilobytes;
        } else if (sscanf(line, "AnonHugePages: %lf", &kilobytes) == 1 ||
                   sscanf(line, "FilePmdMapped: %lf", &kilobytes) == 1) {
            out->huge += 1024 * kilobytes;
        } else if (sscanf(line, "Locked: %lf", &kilobytes) == 1) {
            out->locked += 1024 * kilobytes;
        }
    }
    if (smaps) fclose(smaps);
}

/* ---- limits ---- */
double platform_quota_cores(void) { return cgroup_quota_cores(""); }

double platform_memory_bytes(void) {
    double limit = cgroup_memory_bytes(""), bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
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

/* Where the kernel does not know kinds of core, cpu.c asks the CPU. */
int32_t platform_cores(struct core out[MAX_CORES]) {
    struct affinity affinity;
    bool known = affinity_get(&affinity);
    int32_t n = topology_cores("", known ? &affinity : NULL, out);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (int32_t i = 0; n == 0 && i < MAX_CORES; i++) { /* without /sys */
        if (known ? affinity_has(&affinity, i) : i < online) out[n++] = (struct core){i, i, 0, CORE_UNKNOWN};
    }
    if (n == 0) out[n++] = (struct core){0, 0, 0, CORE_UNKNOWN};
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
    if (file_read_text("/proc/cpuinfo", text, sizeof text) && arm_core_names(text, name)) return true;
    if (!file_read_text("/proc/device-tree/model", model, sizeof model)) return false;
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
        char folder[96], path[128], type[16];
        snprintf(folder, sizeof folder, "/sys/devices/system/cpu/cpu0/cache/index%d", i);
        if (!text_read(type, sizeof type, folder, "/type") || type[0] == 'I') continue;
        snprintf(path, sizeof path, "%s/level", folder);
        double level = text_number("", path);
        snprintf(path, sizeof path, "%s/size", folder);
        double kilobytes = text_number("", path); /* "64K" */
        if (level >= 1 && level <= 3 && kilobytes > 0 && kilobytes < 2e6) {
            bytes[(int)level - 1] = (int32_t)(1024 * kilobytes);
        }
    }
}
