/* macos.c: platform.h on macOS 11 and later, with posix.c.
 *
 * Threads cannot be pinned here: what tells performance from efficiency cores is a thread's quality of service. Waiting
 * on a word has a public function since macOS 14.4 only: a mutex and a condition for all words do it everywhere.
 */
#include "../platform.h"
#include "posix.h"
#include <fcntl.h>
#include <os/lock.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysctl.h>

/* A number that the system knows by name; `otherwise` where it does not. */
static int64_t system_number(const char *name, int64_t otherwise) {
    int64_t wide = 0;
    size_t bytes = sizeof wide;
    if (sysctlbyname(name, &wide, &bytes, NULL, 0) != 0) return otherwise;
    if (bytes == sizeof wide) return wide;
    int32_t narrow;
    memcpy(&narrow, &wide, sizeof narrow);
    return bytes == sizeof narrow ? narrow : otherwise;
}

/* ---- memory ---- */
void *pages_allocate(size_t bytes) {
    if (bytes == 0 || bytes > SIZE_MAX / 4) return NULL;
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

void pages_free(void *pages, size_t bytes) {
    if (pages) munmap(pages, bytes);
}

void pages_sparse(void *pages, size_t bytes) { /* there are no huge pages */
    (void)pages;
    (void)bytes;
}

void file_fetch_begins(const struct mapped_file *file, uint64_t offset, uint64_t bytes) { /* no huge pages of files */
    (void)file;
    (void)offset;
    (void)bytes;
}

void file_fetch_ends(const struct mapped_file *file) { (void)file; }

bool file_fetch(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    struct radvisory ahead = {.ra_offset = (off_t)offset, .ra_count = (int)bytes};
    if (bytes <= INT32_MAX) fcntl(file->descriptor, F_RDADVISE, &ahead); /* advice: begins to read all of it */
    return posix_touch(file, offset, bytes);
}

/* What vmmap prints is another task's privilege; mincore knows residence in memory, not in this process. */
void pages_count(const void *pages, uint64_t bytes, struct page_counts *out) {
    (void)pages;
    (void)bytes;
    *out = (struct page_counts){-1, -1, -1, -1};
}

double platform_memory_bytes(void) { return (double)system_number("hw.memsize", 0); }

/* ---- event counters: none that a program may use without rights of its own ---- */
int64_t event_begin(enum event_kind kind) {
    (void)kind;
    posix_refused_for("macOS gives programs no event counters");
    return -1;
}

double event_count(int64_t event) { return (double)event; }

void event_end(int64_t event) { (void)event; }

/* ---- threads ---- */
void thread_begins(void) { pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0); }

static pthread_mutex_t parking = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t leaving = PTHREAD_COND_INITIALIZER;

void word_wait(atomic_uint *word, unsigned seen) {
    pthread_mutex_lock(&parking);
    while (atomic_load(word) == seen) pthread_cond_wait(&leaving, &parking);
    pthread_mutex_unlock(&parking);
}

/* Under the mutex: whoever saw the old word is waiting by now. */
void word_wake_all(atomic_uint *word) {
    (void)word;
    pthread_mutex_lock(&parking);
    pthread_cond_broadcast(&leaving);
    pthread_mutex_unlock(&parking);
}

_Static_assert(sizeof(os_unfair_lock) <= sizeof(struct mutex), "struct mutex");

void mutex_lock(struct mutex *mutex) { os_unfair_lock_lock((os_unfair_lock_t)(void *)mutex); }
void mutex_unlock(struct mutex *mutex) { os_unfair_lock_unlock((os_unfair_lock_t)(void *)mutex); }

/* ---- cores ---- */
double platform_quota_cores(void) { return 0; }

/* One kind of core, its physical ones first: the numbers are ours, for the system has none. */
static int32_t add_cores(struct core *out, int32_t n, int64_t logical, int64_t physical, enum core_kind kind) {
    int32_t first = n;
    if (physical < 1 || physical > logical) physical = logical;
    for (int64_t i = 0; i < logical && n < MAX_CORES; i++, n++) {
        out[n] = (struct core){n, first + (int32_t)(i % physical), 0, kind};
    }
    return n;
}

static int64_t of_level(int64_t level, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "hw.perflevel%lld.%s", (long long)level, what);
    return system_number(name, 0);
}

int32_t platform_cores(struct core out[MAX_CORES]) {
    int32_t n = 0;
    int64_t n_levels = system_number("hw.nperflevels", 0); /* 0: before macOS 12; level 0 is the fastest */
    for (int64_t level = 0; level < n_levels; level++) {
        n = add_cores(out, n, of_level(level, "logicalcpu"), of_level(level, "physicalcpu"),
                      level == 0 ? CORE_PERFORMANCE : CORE_EFFICIENCY);
    }
    if (n == 0) {
        n = add_cores(out, n, system_number("hw.logicalcpu", 1), system_number("hw.physicalcpu", 1), CORE_UNKNOWN);
    }
    return n;
}

bool affinity_get(struct affinity *out) {
    memset(out, 0, sizeof *out);
    return false;
}

bool affinity_set(const struct affinity *affinity) {
    (void)affinity;
    return false;
}

bool thread_pin(int32_t core) {
    (void)core;
    return false;
}

/* ---- the CPU ---- */
uint32_t platform_cpu_features(void) {
    uint32_t features = 0;
#if defined(__aarch64__)
    /* Names of macOS 12; before, the M1 (which has the first two) was all there was. */
    if (system_number("hw.optional.arm.FEAT_DotProd", 1)) features |= CPU_DOTPROD;
    if (system_number("hw.optional.arm.FEAT_FP16", 1)) features |= CPU_FP16;
    if (system_number("hw.optional.arm.FEAT_I8MM", 0)) features |= CPU_I8MM;
#endif
    return features;
}

bool platform_cpu_name(char name[64]) {
    size_t bytes = 64;
    if (sysctlbyname("machdep.cpu.brand_string", name, &bytes, NULL, 0) != 0) return false;
    name[63] = 0;
    return name[0] != 0;
}

void platform_caches(int32_t bytes[3]) {
    static const char *const names[3][2] = {
        {"hw.perflevel0.l1dcachesize", "hw.l1dcachesize"},
        {"hw.perflevel0.l2cachesize", "hw.l2cachesize"},
        {"hw.perflevel0.l3cachesize", "hw.l3cachesize"},
    };
    for (int i = 0; i < 3; i++) {
        int64_t size = system_number(names[i][0], system_number(names[i][1], 0));
        if (size > 0 && size <= INT32_MAX) bytes[i] = (int32_t)size;
    }
}
