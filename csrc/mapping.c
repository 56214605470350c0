/* mapping.c: read-only maps of whole regular files.
 *
 * Writing to such a buffer would kill the process, so the validator refuses it as an output. A file that another
 * program cuts short while it is mapped kills the process too: no system offers a way around it but a copy.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "buffer.h"
#include "engine.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>

/* Kernels may read BUFFER_PADDING bytes past the end: a file that fills its last page has none there. */
static bool map_file(const char *path, struct buffer *buffer) {
    wchar_t wide[4096];
    LARGE_INTEGER size;
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 4096)) {
        asdsl_fail(ASDSL_E_IO, "%s: not a path", path);
        return false;
    }
    HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE || !GetFileSizeEx(file, &size) || size.QuadPart == 0) {
        asdsl_fail(ASDSL_E_IO, "%s: cannot be opened, or is empty", path);
        if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
        return false;
    }
    HANDLE map = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    buffer->data = map ? MapViewOfFile(map, FILE_MAP_READ, 0, 0, 0) : NULL;
    if (map) CloseHandle(map);
    CloseHandle(file);
    if (!buffer->data) {
        asdsl_fail(ASDSL_E_IO, "%s: the system refused to map %lld bytes", path, (long long)size.QuadPart);
        return false;
    }
    buffer->reserved = buffer->data;
    buffer->bytes = (uint64_t)size.QuadPart;
    return true;
}

static void unmap_file(struct buffer *buffer) { UnmapViewOfFile(buffer->reserved); }
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

/* The descriptor of a regular file of at least one byte; negative with the error text set. */
static int open_regular(const char *path, uint64_t *bytes) {
    struct stat facts;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a pipe without a writer would hang */
    if (file < 0 || fstat(file, &facts) != 0) {
        asdsl_fail(ASDSL_E_IO, "%s: %s", path, strerror(errno));
        if (file >= 0) close(file);
        return -1;
    }
    const char *wrong = S_ISDIR(facts.st_mode)    ? "is a folder, not a file"
                        : !S_ISREG(facts.st_mode) ? "is not a regular file"
                        : facts.st_size == 0      ? "is empty"
                                                  : NULL;
    if (wrong) {
        asdsl_fail(ASDSL_E_IO, "%s: %s", path, wrong);
        close(file);
        return -1;
    }
    *bytes = (uint64_t)facts.st_size;
    return file;
}

static bool map_file(const char *path, struct buffer *buffer) {
    int file = open_regular(path, &buffer->bytes);
    if (file < 0) return false;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), whole = (buffer->bytes + page - 1) / page * page + page;
    /* One page more than the file, empty: kernels may read BUFFER_PADDING bytes past the end. */
    uint8_t *at = MAP_FAILED;
    if (whole <= SIZE_MAX / 2) at = mmap(NULL, (size_t)whole, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED && mmap(at, (size_t)buffer->bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
        munmap(at, (size_t)whole);
        at = MAP_FAILED;
    }
    int reason = errno;
    close(file);
    if (at == MAP_FAILED) {
        asdsl_fail(ASDSL_E_IO, "%s: the system refused to map %llu bytes: %s", path, (unsigned long long)buffer->bytes,
                   strerror(reason));
        return false;
    }
    buffer->data = buffer->reserved = at;
    buffer->reserved_bytes = (size_t)whole;
    return true;
}

static void unmap_file(struct buffer *buffer) { munmap(buffer->reserved, buffer->reserved_bytes); }
#endif

static void mapping_destroy(struct object *object) {
    unmap_file((struct buffer *)object);
    free(object);
}

struct buffer *buffer_map(const char *path) {
    struct buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer) {
        asdsl_fail(ASDSL_E_MEMORY, "%s: the system refused %zu bytes", path, sizeof *buffer);
        return NULL;
    }
    if (!map_file(path, buffer)) {
        free(buffer);
        return NULL;
    }
    buffer->read_only = true;
    object_init(&buffer->object, OBJECT_BUFFER, mapping_destroy);
    return buffer;
}
