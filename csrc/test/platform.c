/* platform.c: what platform.h promises, on the system that runs this.
 *
 * Oracles: the contract in platform.h; the C library's own view of a file's bytes; the kernel's own count of faults.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* mkfifo */
#endif
#include "../platform.h"
#include "check.h"
#include "temporary.h"
#include <math.h>
#include <string.h>
#if !defined(_WIN32)
#include <sys/stat.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/resource.h>
#endif

/* ---- memory ---- */
static void test_pages(void) {
    for (size_t bytes = 1; bytes < 40u << 20; bytes = bytes * 5 + 1) {
        uint8_t *pages = pages_allocate(bytes);
        CHECK(pages && (uintptr_t)pages % 4096 == 0, "%zu bytes at %p", bytes, (void *)pages);
        if (!pages) return;
        uint32_t any = 0;
        if (bytes % 2 == 0) pages_sparse(pages, bytes);
        for (size_t i = 0; i < bytes; i++) any |= pages[i];
        CHECK(any == 0, "%zu bytes are not zero", bytes);
        memset(pages, 1, bytes);
        pages_free(pages, bytes);
    }
    pages_free(NULL, 1);
    CHECK(!pages_allocate(0) && !pages_allocate(SIZE_MAX) && !pages_allocate(SIZE_MAX / 4), "impossible sizes");
    CHECK(platform_memory_bytes() > 1 << 20, "%g bytes of memory", platform_memory_bytes());
}

/* ---- files ---- */
static void refuse(const char *path, const char *text) {
    struct mapped_file file;
    CHECK(!file_map(path, &file), "%s was mapped", path);
    CHECK(strstr(platform_error(), text), "%s: \"%s\" was expected, not \"%s\"", path, text, platform_error());
}

static void test_refused_files(void) {
    char path[600];
    temporary_path(path);
#if defined(_WIN32)
    refuse(path, "(error 2)");
    refuse("", "(error 3)");
    refuse("NUL", "not a regular file");
    refuse("\xff\xfe", "is no path in UTF-8");
#else
    refuse(path, "No such file");
    refuse("", "No such file");
    refuse("/dev/null", "not a regular file");
    CHECK(mkfifo(path, 0600) == 0, "mkfifo");
    refuse(path, "not a regular file"); /* and does not wait for a writer */
    remove(path);
#endif
    refuse(".", "is a folder");
}

static void test_files(void) {
    static const size_t sizes[] = {0,     1,     4032,  4033,  4095,   4096,   12288,  61440,   65472,
                                   65473, 65535, 65536, 65537, 131071, 131072, 200000, 1048576, 3000001};
    char path[600];
    temporary_path(path);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        FILE *stream = temporary_open(path, "wb");
        if (!stream) abort();
        for (size_t i = 0; i < sizes[s]; i++) fputc((int)(i % 251), stream);
        fclose(stream);
        struct mapped_file file;
        if (sizes[s] == 0) {
            refuse(path, "is empty");
            continue;
        }
        bool mapped = file_map(path, &file);
        CHECK(mapped && file.bytes == sizes[s], "%zu bytes: %s", sizes[s], platform_error());
        if (!mapped) continue;
        const uint8_t *data = file.data;
        size_t wrong = 0;
        for (size_t i = 0; i < sizes[s] + FILE_PADDING; i++) wrong += data[i] != (i < sizes[s] ? i % 251 : 0);
        CHECK(wrong == 0, "a file of %zu bytes: %zu differ", sizes[s], wrong);
        file_unmap(&file);
    }
    temporary_remove(path);
}

static void write_ones(const char *path, size_t bytes) {
    FILE *stream = temporary_open(path, "wb");
    if (!stream) abort();
    for (size_t i = 0; i < bytes; i++) fputc(1, stream);
    fclose(stream);
}

/* qemu-user takes every madvise and does little of it: scripts/test-arm64.ts says so. */
static bool is_emulated(void) { return getenv("ASDSL_EMULATED") != NULL; }

static void test_fetch(void) {
    enum { BYTES = 6 << 20 };
    char path[600];
    struct mapped_file file;
    struct page_counts counts;
    temporary_path(path);
    write_ones(path, BYTES);
    if (!file_map(path, &file)) abort();
    file_fetch_begins(&file, 5000, BYTES - 5000);
    CHECK(file_fetch(&file, 5000, BYTES - 5000), "%s", platform_error());
    file_fetch_ends(&file);
    CHECK(!file_is_lost(&file), "a sound file is lost");
    pages_count(file.data, file.bytes, &counts);
    CHECK(counts.resident < 0 || is_emulated() || counts.resident >= BYTES - 8192, "%g bytes of %d are resident",
          counts.resident, BYTES);
    CHECK(counts.huge <= counts.resident && counts.proportional <= counts.resident, "%g huge, %g proportional",
          counts.huge, counts.proportional);
    file_unmap(&file);
    temporary_remove(path);
}

#if !defined(_WIN32) /* where no program can cut a mapped file short */
static void test_lost_file(void) {
    enum { BYTES = 1 << 16, LEFT = 1 << 14 };
    char path[600];
    struct mapped_file file, other;
    temporary_path(path);
    write_ones(path, BYTES);
    if (!file_map(path, &file) || !file_map(path, &other)) abort();
    const volatile uint8_t *data = file.data, *theirs = other.data;
    CHECK(data[0] == 1 && data[BYTES - 1] == 1, "the file as it was");
    CHECK(truncate(path, LEFT) == 0, "truncate");
    CHECK(is_emulated() || (!file_fetch(&file, 0, BYTES) && platform_error()[0]), "what is gone was fetched");
    CHECK(data[BYTES - 1] == 0 && file_is_lost(&file), "what is gone was read");
    CHECK(data[0] == 0 && data[LEFT] == 0, "a lost map has other bytes than zeros");
    CHECK(!file_is_lost(&other) && theirs[0] == 1, "another map of the file is lost before its gap is read");
    file_unmap(&file);
    CHECK(file_map(path, &file) && file.bytes == LEFT && !file_is_lost(&file), "the shorter file");
    file_unmap(&file);
    file_unmap(&other);
    temporary_remove(path);
}
#endif

/* ---- threads ---- */
enum { THREADS = 4, ROUNDS = 20000 };

static struct {
    struct mutex lock;
    int counted; /* under the lock, and not atomic */
    atomic_uint word;
    atomic_int awake;
} shared;

static void count_often(void *argument) {
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        mutex_lock(&shared.lock);
        shared.counted++;
        mutex_unlock(&shared.lock);
    }
}

static void sleep_in_turns(void *argument) {
    (void)argument;
    for (unsigned seen = 0; seen < 50; seen++) {
        while (atomic_load(&shared.word) == seen) word_wait(&shared.word, seen);
        atomic_fetch_add(&shared.awake, 1);
    }
}

static void start_all(struct thread threads[THREADS], void (*main)(void *argument)) {
    for (int i = 0; i < THREADS; i++) CHECK(thread_start(&threads[i], main, NULL), "%s", platform_error());
}

static void test_threads(void) {
    struct thread threads[THREADS];
    start_all(threads, count_often);
    for (int i = 0; i < THREADS; i++) thread_join(&threads[i]);
    CHECK(shared.counted == THREADS * ROUNDS, "%d of %d under the mutex", shared.counted, THREADS * ROUNDS);
    start_all(threads, sleep_in_turns);
    for (int round = 1; round <= 50; round++) {
        atomic_fetch_add(&shared.word, 1);
        word_wake_all(&shared.word);
        while (atomic_load(&shared.awake) < round * THREADS) thread_yield();
    }
    for (int i = 0; i < THREADS; i++) thread_join(&threads[i]);
    word_wait(&shared.word, 49); /* no longer the word: comes back at once */
}

/* ---- cores ---- */
static void test_cores(void) {
    static struct core core[MAX_CORES];
    struct affinity before, pinned, after;
    int32_t n = platform_cores(core);
    bool known = affinity_get(&before);
    CHECK(n >= 1 && n <= MAX_CORES && platform_quota_cores() >= 0, "%d cores, quota %g", n, platform_quota_cores());
    for (int32_t i = 0; i < n; i++) {
        CHECK(core[i].id >= 0 && core[i].id < MAX_CORES && (i == 0 || core[i].id > core[i - 1].id), "core %d", i);
        CHECK(core[i].physical >= 0 && core[i].physical < MAX_CORES, "core %d: physical %d", i, core[i].physical);
        if (!known || !affinity_has(&before, core[i].id)) continue;
        CHECK(thread_pin(core[i].id) && affinity_get(&pinned), "core %d", core[i].id);
        for (int32_t j = 0; j < MAX_CORES; j++) CHECK(affinity_has(&pinned, j) == (j == core[i].id), "core %d", j);
    }
    if (!known) return;
    CHECK(affinity_set(&before) && affinity_get(&after), "%s", "the affinity from before was refused");
    CHECK(memcmp(&before, &after, sizeof before) == 0, "the affinity was not restored");
    CHECK(!thread_pin(-1) && !thread_pin(MAX_CORES), "impossible cores");
}

/* ---- event counters ---- */
#if defined(__linux__)
static double faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (double)usage.ru_minflt;
}
#endif

static void test_counters(void) {
    for (int kind = 0; kind < N_EVENTS; kind++) {
        int64_t event = event_begin((enum event_kind)kind);
        CHECK(event >= 0 || platform_error()[0], "counter %d was refused without a reason", kind);
        if (event < 0) continue;
        enum { BYTES = 1 << 20 }; /* below huge pages: 256 faults */
        double before = event_count(event), least = 0, most = HUGE_VAL;
#if defined(__linux__)
        if (kind == EVENT_PAGE_FAULTS) least = 1, most = -faults();
#endif
        uint8_t *pages = pages_allocate(BYTES);
        for (size_t i = 0; pages && i < BYTES; i += 4096) ((volatile uint8_t *)pages)[i] = 1;
#if defined(__linux__)
        if (kind == EVENT_PAGE_FAULTS) most += faults();
#endif
        double count = event_count(event) - before;
        CHECK(count >= least && count <= most, "counter %d: %g, from %g to %g expected", kind, count, least, most);
        pages_free(pages, BYTES);
        event_end(event);
    }
}

static void test_clock(void) {
    double since = clock_ns(), last = since;
    while (last - since < 2e6) {
        double now = clock_ns();
        CHECK(now >= last && now - last < 60e9, "%g ns after %g ns", now, last);
        last = now;
    }
}

int main(void) {
    test_pages();
    test_refused_files();
    test_files();
    test_fetch();
#if !defined(_WIN32)
    test_lost_file();
#endif
    test_threads();
    test_cores();
    test_counters();
    test_clock();
    return check_report("platform");
}
