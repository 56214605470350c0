/* mapping.c: read-only maps of whole regular files.
 *
 * Writing to such a buffer would kill the process, so the validator refuses it as an output. A file that another
 * program cuts short while it is mapped kills the process too: no system offers a way around it but a copy.
 */
#include "buffer.h"
#include "engine.h"
#include "platform.h"
#include <stdlib.h>

_Static_assert((int)FILE_PADDING >= (int)BUFFER_PADDING, "kernels may read past the end of a file");

static void mapping_destroy(struct object *object) {
    struct buffer *buffer = (struct buffer *)object;
    file_unmap(&buffer->file);
    free(buffer);
}

struct buffer *buffer_map(const char *path) {
    struct buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer) {
        asdsl_fail(ASDSL_E_MEMORY, "%s: the system refused %zu bytes", path, sizeof *buffer);
        return NULL;
    }
    if (!file_map(path, &buffer->file)) {
        asdsl_fail(ASDSL_E_IO, "%s: %s", path, platform_error());
        free(buffer);
        return NULL;
    }
    buffer->data = buffer->file.data;
    buffer->bytes = buffer->file.bytes;
    buffer->read_only = true;
    object_init(&buffer->object, OBJECT_BUFFER, mapping_destroy);
    return buffer;
}
