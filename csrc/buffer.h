/* buffer.h: memory that operands point into: allocated (arena.c) or a mapped file (mapping.c). */
#ifndef ASDSL_BUFFER_H
#define ASDSL_BUFFER_H
#include "handles.h"
#include "platform.h"
#include <stdbool.h>
#include <stddef.h>

/* Readable bytes past the end of every buffer: kernels may load, not use, up to one register beyond their data. */
enum { BUFFER_PADDING = 64 };

struct buffer {
    struct object object;
    uint8_t *data;
    uint64_t bytes;
    bool read_only;
    struct mapped_file file; /* of buffer_map */
};

/* NULL with the error text set. */
struct buffer *buffer_allocate(double bytes);
struct buffer *buffer_map(const char *path);

#endif
