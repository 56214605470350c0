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
    char *path;              /* likewise */
    _Atomic(struct prefetch *) prefetch;
};

/* NULL with the error text set. */
struct buffer *buffer_allocate(double bytes);
struct buffer *buffer_map(const char *path);

/* Was a page of the file gone when it was read? Then what was made of it since is worth nothing: ASDSL_E_IO with the
 * error text, which names the file. Memory: ASDSL_OK. */
int32_t buffer_check(const struct buffer *buffer);

/* ---- prefetch.c ---- */
/* Begins to bring bytes [offset, offset + bytes) of a mapped file in, front to back, on threads of its own that end
 * with the buffer at the latest. Once for a buffer. ASDSL_OK or a negative status with the error text. */
int32_t prefetch_start(struct buffer *buffer, uint64_t offset, uint64_t bytes);
void prefetch_end(struct buffer *buffer); /* stops and joins the threads, if there are any */
double prefetch_done(struct buffer *buffer); /* bytes so far */

/* Sleeps until the threads have come to `end`, or have ended; at once where there are none. */
void prefetch_await(struct buffer *buffer, uint64_t end);

#endif
