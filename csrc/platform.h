/* platform.h: everything the engine asks of an operating system.
 *
 * csrc/platform/ has a file per system (and posix.c, what Linux and macOS share); build.zig takes those of its target.
 * No other file of csrc/ includes a system's header or asks which system it is. What belongs to the CPU alone (CPUID,
 * control words, tick counters) is in cpu.c and pool.c.
 *
 * A call that is refused says so by its result, and platform_error() has the reason. Paths are UTF-8.
 */
#ifndef ASDSL_PLATFORM_H
#define ASDSL_PLATFORM_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why the calling thread's last call was refused, in the system's words where it has some. Valid until the thread's
 * next refused call; never NULL. */
const char *platform_error(void);

/* ---- memory ---- */
/* Zeroed pages that nothing has touched, at least 4096-byte aligned; NULL when refused. Above 2 MiB they are huge pages
 * where the system gives them to anyone. `bytes` of pages_free as it was asked for; NULL is ignored. */
void *pages_allocate(size_t bytes);
void pages_free(void *pages, size_t bytes);

/* Of pages that nobody has touched little will be: no huge ones, each of which would be all there for a byte of it. */
void pages_sparse(void *pages, size_t bytes);

/* Physical memory, or less by a limit on this process; 0: unknown. */
double platform_memory_bytes(void);

/* ---- files ---- */
enum { FILE_PADDING = 4096 }; /* readable zero bytes behind a mapped file, at least */

struct mapped_file {
    void *data;
    uint64_t bytes;
    size_t reserved_bytes; /* of address space, for file_unmap */
    int32_t descriptor;    /* POSIX: open as long as the map */
    int32_t slot;          /* POSIX: of the maps that posix_files.c watches */
};

/* The whole of a regular file that is not empty, to read, by huge pages where the file lies in such. False: refused. */
bool file_map(const char *path, struct mapped_file *out);
void file_unmap(const struct mapped_file *file);

/* The first bytes of a small file that may have no size of its own (/proc, /sys), NUL terminated; how many: 0, absent
 * or refused. */
size_t file_read_text(const char *path, char *out, size_t out_bytes);

/* Bytes [offset, offset + bytes) will be fetched, piece by piece: by huge pages, where the system has them of files.
 * Until file_fetch_ends the system reads little ahead of what is touched otherwise. */
void file_fetch_begins(const struct mapped_file *file, uint64_t offset, uint64_t bytes);
void file_fetch_ends(const struct mapped_file *file);

/* Waits until bytes [offset, offset + bytes) are in memory and, where the system can do so, in the process' page
 * tables. False: refused, or it cannot be read. */
bool file_fetch(const struct mapped_file *file, uint64_t offset, uint64_t bytes);

/* Has a page of it been asked for that the file no longer had or that could not be read? POSIX: all of the map reads as
 * zeros from then on. Windows: always false; no program can cut a mapped file short there, and what a failing disk
 * does ends the process. */
bool file_is_lost(const struct mapped_file *file);

/* Keeps pages from being swapped out or dropped, until they are unmapped or freed. False: refused. */
bool pages_lock(const void *pages, uint64_t bytes);

/* How pages are kept, in bytes; negative: the system does not say. */
struct page_counts {
    double resident;     /* in this process' page tables */
    double proportional; /* the same, each page divided by the number of processes that have it */
    double huge;         /* in pages of 2 MiB */
    double locked;
};
void pages_count(const void *pages, uint64_t bytes, struct page_counts *out);

/* ---- clock ---- */
double clock_ns(void); /* monotonic */

/* ---- event counters ---- */
/* In the order of asdsl_counter. */
enum event_kind { EVENT_INSTRUCTIONS, EVENT_CYCLES, EVENT_L1D_MISSES, EVENT_LLC_MISSES, EVENT_PAGE_FAULTS, N_EVENTS };

/* Begins to count events of the calling thread in user mode: a number for the other two, which any thread may call.
 * Negative: refused. */
int64_t event_begin(enum event_kind kind);
double event_count(int64_t event); /* since its beginning; negative: refused */
void event_end(int64_t event);

/* ---- threads ---- */
struct thread {
    void (*main)(void *argument);
    void *argument;
    uintptr_t id;
};

/* Runs main(argument) on a thread of its own, where no signal handler of the program runs and where the system, if it
 * can be told so, does not save energy. *thread stays where it is until thread_join. False: refused. */
bool thread_start(struct thread *thread, void (*main)(void *argument), void *argument);
void thread_join(struct thread *thread);
void thread_yield(void);
double thread_cpu_ns(void); /* time that the calling thread has had a core; negative: the system does not say */

/* Sleeps until word_wake_all, if the word still is `seen`; may come back for no reason. The waker changes the word
 * first. */
void word_wait(atomic_uint *word, unsigned seen);
void word_wake_all(atomic_uint *word);

/* Zero is unlocked; needs no making and no end. Not recursive. */
struct mutex {
    uint64_t storage[6];
};
void mutex_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);

/* ---- cores ---- */
enum { MAX_CORES = 1024 };

/* CPU time that this process may use, in cores; 0: no limit. */
double platform_quota_cores(void);

enum core_kind {
    CORE_UNKNOWN, /* the system does not say */
    CORE_PERFORMANCE,
    CORE_EFFICIENCY,
};

/* A logical CPU that the calling thread may run on. */
struct core {
    int32_t id;       /* for thread_pin; below MAX_CORES */
    int32_t physical; /* the same for hardware threads of one core; below MAX_CORES */
    int32_t package;  /* socket */
    enum core_kind kind;
};

/* How many there are in out[]: at least 1, by ascending id. */
int32_t platform_cores(struct core out[MAX_CORES]);

/* The cores that the calling thread may run on. Systems that have no such thing (macOS): false, and nothing happens. */
struct affinity {
    bool known;
    uint64_t bits[MAX_CORES / 64];
};
bool affinity_get(struct affinity *out);
bool affinity_set(const struct affinity *affinity);
bool thread_pin(int32_t core);

static inline bool affinity_has(const struct affinity *affinity, int32_t core) {
    return core >= 0 && core < MAX_CORES && affinity->bits[core / 64] >> core % 64 & 1;
}

/* ---- what only the system knows about the CPU ---- */
/* Instructions beyond the baseline of an architecture that user programs cannot ask the CPU for. */
enum cpu_feature {
    CPU_DOTPROD = 1, /* aarch64: SDOT, UDOT */
    CPU_FP16 = 2,    /* aarch64: arithmetic on half floats */
    CPU_I8MM = 4,    /* aarch64: SMMLA, UMMLA, USMMLA */
};
uint32_t platform_cpu_features(void); /* 0 on x86 */

/* The CPU's name as a person knows it; false where the system has none. */
bool platform_cpu_name(char name[64]);

/* Bytes of the first core's L1d, L2 and L3; what is not known is left as it is. */
void platform_caches(int32_t bytes[3]);

#endif
