/* posix.c: the part of platform.h that is the same on Linux and macOS: files, threads, the clock, error texts. */
#include "../platform.h"
#include "posix.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Stacks of the engine's threads: systems' defaults lie between 128 KiB (musl) and 8 MiB (glibc). */
#define STACK_BYTES ((size_t)2 << 20)

/* ---- errors ---- */
static _Thread_local char error_text[256];

const char *platform_error(void) { return error_text; }

bool posix_refused_for(const char *why) {
    snprintf(error_text, sizeof error_text, "%s", why);
    return false;
}

bool posix_refused(int reason) { return posix_refused_for(strerror(reason)); }

/* ---- files ---- */
/* The descriptor of a regular file of at least one byte; negative: refused. */
static int open_regular(const char *path, uint64_t *bytes) {
    struct stat facts;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a pipe without a writer would hang */
    if (file < 0 || fstat(file, &facts) != 0) {
        posix_refused(errno);
        if (file >= 0) close(file);
        return -1;
    }
    const char *wrong = S_ISDIR(facts.st_mode)    ? "is a folder, not a file"
                        : !S_ISREG(facts.st_mode) ? "is not a regular file"
                        : facts.st_size == 0      ? "is empty"
                                                  : NULL;
    if (wrong) {
        posix_refused_for(wrong);
        close(file);
        return -1;
    }
    *bytes = (uint64_t)facts.st_size;
    return file;
}

bool file_map(const char *path, struct mapped_file *out) {
    uint64_t bytes = 0;
    int file = open_regular(path, &bytes);
    if (file < 0) return false;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page + page;
    /* One page more than the file, empty: FILE_PADDING. */
    uint8_t *at = MAP_FAILED;
    errno = ENOMEM;
    if (whole <= SIZE_MAX / 2) at = mmap(NULL, (size_t)whole, PROT_READ, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (at != MAP_FAILED && mmap(at, (size_t)bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
        int reason = errno;
        munmap(at, (size_t)whole);
        at = MAP_FAILED;
        errno = reason;
    }
    int reason = errno;
    close(file);
    if (at == MAP_FAILED) {
        snprintf(error_text, sizeof error_text, "the system refused to map %llu bytes: %s", (unsigned long long)bytes,
                 strerror(reason));
        return false;
    }
    *out = (struct mapped_file){.data = at, .bytes = bytes, .reserved_bytes = (size_t)whole};
    return true;
}

void file_unmap(const struct mapped_file *file) { munmap(file->data, file->reserved_bytes); }

size_t file_read_text(const char *path, char *out, size_t out_bytes) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t n = 0;
    while (file >= 0 && n < out_bytes - 1) {
        ssize_t more = read(file, out + n, out_bytes - 1 - n);
        if (more <= 0) break;
        n += (size_t)more;
    }
    if (file >= 0) close(file);
    out[n] = 0;
    return n;
}

/* ---- clock ---- */
double clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* ---- threads ---- */
_Static_assert(sizeof(pthread_t) == sizeof(uintptr_t), "struct thread keeps a pthread_t as a number");

static void *thread_main(void *argument) {
    struct thread *thread = argument;
    thread_begins();
    thread->main(thread->argument);
    return NULL;
}

/* The new thread inherits a mask that blocks every signal. */
static int start_without_signals(struct thread *thread, const pthread_attr_t *attributes) {
    sigset_t all, before;
    pthread_t id;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = pthread_create(&id, attributes, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (reason == 0) thread->id = (uintptr_t)id;
    return reason;
}

bool thread_start(struct thread *thread, void (*main)(void *argument), void *argument) {
    pthread_attr_t attributes;
    *thread = (struct thread){.main = main, .argument = argument};
    int reason = pthread_attr_init(&attributes);
    if (reason) return posix_refused(reason);
    reason = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (!reason) reason = start_without_signals(thread, &attributes);
    pthread_attr_destroy(&attributes);
    return reason ? posix_refused(reason) : true;
}

void thread_join(struct thread *thread) { pthread_join((pthread_t)thread->id, NULL); }

void thread_yield(void) { sched_yield(); }
