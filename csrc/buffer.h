/* buffer.h: memory that operands point into: allocated (arena.c) or a mapped file (mapping.c). */
#ifndef ASDSL_BUFFER_H
#define ASDSL_BUFFER_H
#include "handles.h"
#include <stdbool.h>
#include <stddef.h>

/* Readable bytes past the end of every buffer: kernels may load, not use, up to one register beyond their data. */
enum { BUFFER_PADDING = 64 };

struct buffer {
    struct object object;
    uint8_t *data;
    uint64_t bytes;
    bool read_only;
    void *reserved; /* what goes back to the system: from, and how much */
    size_t reserved_bytes;
};

/* NULL with the error text set. */
struct buffer *buffer_allocate(double bytes);
struct buffer *buffer_map(const char *path);

/* Zeroed pages, at least 64-byte aligned, for the engine's own blocks; NULL when refused (no error text). Above 2 MiB
 * they are huge pages where the system has them free. */
void *pages_allocate(size_t bytes);
void pages_free(void *pages, size_t bytes);

#endif
