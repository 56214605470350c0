/* posix.c: the part of platform.h that is the same on Linux and macOS: threads, the clock, error texts. Files:
 * posix_files.c. */
#include "../platform.h"
#include "posix.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
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

/* ---- small files ---- */
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

/* The new thread inherits a mask that blocks every signal but those that a thread brings upon itself: posix_files.c
 * handles SIGBUS, and a blocked one ends the process without a word. */
static int start_without_signals(struct thread *thread, const pthread_attr_t *attributes) {
    sigset_t all, before;
    pthread_t id;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
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

double thread_cpu_ns(void) {
    struct timespec t;
    return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0 ? 1e9 * (double)t.tv_sec + (double)t.tv_nsec : -1;
}
