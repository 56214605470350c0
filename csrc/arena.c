/* arena.c: buffers of zeroed memory: nothing is touched before its owner touches it. */
#include "buffer.h"
#include "engine.h"
#include "platform.h"
#include <stdlib.h>

/* An arena has room for the longest of passes, and a chat's are short: by huge pages 6 to 8 MB of SmolLM2's 12 would be
 * resident, by small ones 2 (seen once; bench/footprint.ts). What is larger holds weights, or a model beside which it
 * does not count. */
#define SPARSE_BYTES 0x1p24

static void buffer_destroy(struct object *object) {
    struct buffer *buffer = (struct buffer *)object;
    pages_free(buffer->data, (size_t)buffer->bytes + BUFFER_PADDING);
    free(buffer);
}

struct buffer *buffer_allocate(double bytes) {
    double memory = platform_memory_bytes();
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
    void *pages = buffer ? pages_allocate((size_t)bytes + BUFFER_PADDING) : NULL;
    if (!pages) {
        free(buffer);
        asdsl_fail(ASDSL_E_MEMORY, "buffer: the system refused %.0f bytes", bytes);
        return NULL;
    }
    if (bytes < SPARSE_BYTES) pages_sparse(pages, (size_t)bytes + BUFFER_PADDING);
    object_init(&buffer->object, OBJECT_BUFFER, buffer_destroy);
    buffer->data = pages;
    buffer->bytes = (uint64_t)bytes;
    return buffer;
}
