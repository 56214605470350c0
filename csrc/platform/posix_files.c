/* posix_files.c: mapped files on Linux and macOS, and what happens when one of them is taken away.
 *
 * A file that another program cuts short, or that a disk no longer gives, raises SIGBUS in whoever reads the page. The
 * handler here replaces the whole map by zero pages and notes it: the reader goes on, and who runs the engine asks
 * file_is_lost afterwards and throws the results away. Faults anywhere else go to whose handler was there before.
 */
#include "../platform.h"
#include "posix.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- maps that are watched ---- */
enum { MAX_MAPS = 1024 };
static struct watched {
    atomic_bool taken;
    atomic_uintptr_t begin, end; /* end 0: no map yet, or none any more */
    atomic_bool lost;
} maps[MAX_MAPS];
static struct sigaction before;

static void pass_on(int number, siginfo_t *info, void *context) {
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else {
        signal(number, SIG_DFL); /* the instruction runs again and ends the process */
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    uintptr_t at = (uintptr_t)info->si_addr;
    int reason = errno;
    for (int32_t i = 0; i < MAX_MAPS; i++) {
        uintptr_t begin = atomic_load(&maps[i].begin), end = atomic_load(&maps[i].end);
        if (at < begin || at >= end) continue;
        atomic_store(&maps[i].lost, true);
        void *zeros = mmap((void *)begin, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1, 0);
        errno = reason;
        if (zeros == MAP_FAILED) break;
        return;
    }
    pass_on(number, info, context);
}

static void watch_for_bus_errors(void) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    action.sa_sigaction = on_bus_error;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

/* The slot of a map; negative: all are taken. */
static int32_t watch(const void *data, size_t bytes) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_for_bus_errors);
    for (int32_t i = 0; i < MAX_MAPS; i++) {
        if (atomic_exchange(&maps[i].taken, true)) continue;
        atomic_store(&maps[i].lost, false);
        atomic_store(&maps[i].begin, (uintptr_t)data);
        atomic_store(&maps[i].end, (uintptr_t)data + bytes);
        return i;
    }
    return -1;
}

bool file_is_lost(const struct mapped_file *file) { return atomic_load(&maps[file->slot].lost); }

/* ---- mapping ---- */
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

/* Address space for a file, behind it an empty page (FILE_PADDING), and one that nobody may touch. Its first byte is
 * aligned as HUGE_PAGE, or the system could not map huge pages of the file. NULL: refused. */
static uint8_t *reserve(uint64_t bytes, size_t *reserved_bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page + 2 * page;
    uint64_t spare = bytes < HUGE_PAGE ? 0 : HUGE_PAGE;
    errno = ENOMEM;
    if (whole + spare > SIZE_MAX / 2) return NULL;
    uint8_t *at = mmap(NULL, (size_t)(whole + spare), PROT_READ, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (at == MAP_FAILED) return NULL;
    if (spare) {
        size_t ahead = (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
        if (ahead) munmap(at, ahead);
        if (spare - ahead) munmap(at + ahead + whole, (size_t)spare - ahead);
        at += ahead;
    }
    mprotect(at + whole - page, (size_t)page, PROT_NONE);
    *reserved_bytes = (size_t)whole;
    return at;
}

bool file_map(const char *path, struct mapped_file *out) {
    uint64_t bytes = 0;
    size_t reserved_bytes = 0;
    int file = open_regular(path, &bytes);
    if (file < 0) return false;
    uint8_t *at = reserve(bytes, &reserved_bytes);
    if (!at || mmap(at, (size_t)bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
        char text[128];
        snprintf(text, sizeof text, "the system refused to map %llu bytes: %s", (unsigned long long)bytes,
                 strerror(errno));
        if (at) munmap(at, reserved_bytes);
        close(file);
        return posix_refused_for(text);
    }
    *out = (struct mapped_file){.data = at, .bytes = bytes, .reserved_bytes = reserved_bytes, .descriptor = file};
    out->slot = watch(at, (size_t)bytes);
    if (out->slot >= 0) return true;
    munmap(at, reserved_bytes);
    close(file);
    return posix_refused_for("1024 files are mapped already");
}

void file_unmap(const struct mapped_file *file) {
    struct watched *map = &maps[file->slot];
    atomic_store(&map->end, 0);
    munmap(file->data, file->reserved_bytes);
    close(file->descriptor);
    atomic_store(&map->taken, false);
}

bool posix_touch(const struct mapped_file *file, uint64_t offset, uint64_t bytes) {
    const volatile uint8_t *data = file->data;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = offset; at < offset + bytes; at += page) (void)data[at];
    return file_is_lost(file) ? posix_refused(EIO) : true;
}

bool pages_lock(const void *pages, uint64_t bytes) {
    return mlock(pages, (size_t)bytes) == 0 ? true : posix_refused(errno);
}
