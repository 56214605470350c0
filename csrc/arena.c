/* arena.c: zeroed, page-aligned memory, straight from the system: nothing is touched before its owner touches it. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "buffer.h"
#include "cpu.h"
#include "engine.h"
#include <stdlib.h>
#if defined(_WIN32)
#include <windows.h>
#else
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

#if defined(_WIN32)
void *pages_allocate(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void pages_free(void *pages, size_t bytes) {
    (void)bytes;
    if (pages) VirtualFree(pages, 0, MEM_RELEASE);
}
#else
#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

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
#if defined(MADV_HUGEPAGE)
        madvise(pages, whole, MADV_HUGEPAGE); /* a wish: without it the memory is as good, a little slower */
#endif
    }
    return pages;
}

void pages_free(void *pages, size_t bytes) {
    if (pages) munmap(pages, to_pages(bytes));
}
#endif

static void buffer_destroy(struct object *object) {
    struct buffer *buffer = (struct buffer *)object;
    pages_free(buffer->reserved, buffer->reserved_bytes);
    free(buffer);
}

struct buffer *buffer_allocate(double bytes) {
    double memory = cpu_memory_bytes();
    if (!(bytes >= 1 && bytes <= 0x1p53) || bytes != (double)(uint64_t)bytes) {
        asdsl_fail(ASDSL_E_ARGUMENT, "buffer: %g is not a number of bytes", bytes);
        return NULL;
    }
    /* Systems that overcommit grant anything and kill the process once it is used: refuse what can never fit. */
    if ((memory > 0 && bytes > memory) || bytes > (double)(SIZE_MAX / 4)) {
        asdsl_fail(ASDSL_E_MEMORY, "buffer: %.0f bytes asked for, this machine has %.0f", bytes, memory);
        return NULL;
    }
    struct buffer *buffer = calloc(1, sizeof *buffer);
    size_t reserved_bytes = (size_t)bytes + BUFFER_PADDING;
    void *pages = buffer ? pages_allocate(reserved_bytes) : NULL;
    if (!pages) {
        free(buffer);
        asdsl_fail(ASDSL_E_MEMORY, "buffer: the system refused %.0f bytes", bytes);
        return NULL;
    }
    object_init(&buffer->object, OBJECT_BUFFER, buffer_destroy);
    buffer->data = buffer->reserved = pages;
    buffer->bytes = (uint64_t)bytes;
    buffer->reserved_bytes = reserved_bytes;
    return buffer;
}
