/* mapping.c: read-only maps of whole regular files.
 *
 * Writing to such a buffer would kill the process, so the validator refuses it as an output. A file that another
 * program cuts short while it is mapped reads as zeros (platform.h): whoever has read from it asks buffer_check.
 */
#include "buffer.h"
#include "engine.h"
#include "platform.h"
#include <stdlib.h>
#include <string.h>

_Static_assert((int)FILE_PADDING >= (int)BUFFER_PADDING, "kernels may read past the end of a file");

static void mapping_destroy(struct object *object) {
    struct buffer *buffer = (struct buffer *)object;
    prefetch_end(buffer);
    file_unmap(&buffer->file);
    free(buffer->path);
    free(buffer);
}

struct buffer *buffer_map(const char *path) {
    struct buffer *buffer = calloc(1, sizeof *buffer);
    size_t path_bytes = strlen(path) + 1;
    char *copy = buffer ? malloc(path_bytes) : NULL;
    if (!copy) {
        free(buffer);
        asdsl_fail(ASDSL_E_MEMORY, "%s: the system refused %zu bytes", path, sizeof *buffer + path_bytes);
        return NULL;
    }
    memcpy(copy, path, path_bytes);
    if (!file_map(path, &buffer->file)) {
        asdsl_fail(ASDSL_E_IO, "%s: %s", path, platform_error());
        free(copy);
        free(buffer);
        return NULL;
    }
    buffer->path = copy;
    buffer->data = buffer->file.data;
    buffer->bytes = buffer->file.bytes;
    buffer->read_only = true;
    object_init(&buffer->object, OBJECT_BUFFER, mapping_destroy);
    return buffer;
}

int32_t buffer_check(const struct buffer *buffer) {
    if (!buffer->read_only || !file_is_lost(&buffer->file)) return ASDSL_OK;
    return asdsl_fail(
        ASDSL_E_IO,
        "%s: a part of the file is gone: it was cut short while it was in use (it had %llu bytes), or the "
        "disk no longer gives it; load the model again",
        buffer->path, (unsigned long long)buffer->bytes);
}
