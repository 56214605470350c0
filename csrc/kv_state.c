/* kv_state.c: a cache's content as plain bytes, for whoever keeps it outside this process: chunk after chunk, as far as
 * there are tokens. Knows nothing of what a chunk's bytes mean: KV_LAYOUT_VERSION (kv.h) stands for that.
 */
#include "engine.h"
#include "kv.h"
#include <string.h>

void kv_state(const struct kv_cache *kv, struct asdsl_kv_state *out) {
    const struct kv_layout *layout = kv_layout(kv);
    *out = (struct asdsl_kv_state){
        .chunk_bytes = layout->chunk_bytes, .chunk_tokens = layout->chunk_tokens, .version = KV_LAYOUT_VERSION};
}

static int64_t chunks_for(const struct kv_cache *kv, int64_t tokens) {
    int64_t chunk_tokens = kv_layout(kv)->chunk_tokens;
    return (tokens + chunk_tokens - 1) / chunk_tokens;
}

/* Whether [offset, offset + bytes) is a whole range below `end`. */
static bool check_span(const char *call, double offset, int32_t bytes, double end) {
    if (bytes >= 0 && offset >= 0 && offset + bytes <= end && (double)(int64_t)offset == offset) return true;
    asdsl_fail(ASDSL_E_ARGUMENT, "%s: %d bytes from byte %.17g, the state has %.0f bytes", call, bytes, offset, end);
    return false;
}

/* The n bytes of one chunk, or as many of them as it has, from byte `offset` of the state. */
static uint8_t *span_begin(const struct kv_cache *kv, uint64_t offset, size_t *n) {
    size_t chunk_bytes = kv_layout(kv)->chunk_bytes, within = offset % chunk_bytes;
    if (*n > chunk_bytes - within) *n = chunk_bytes - within;
    return kv_chunks(kv)[offset / chunk_bytes] + within;
}

int32_t kv_read(const struct kv_cache *kv, double offset, uint8_t *out, int32_t bytes) {
    double end = (double)chunks_for(kv, kv_length(kv)) * (double)kv_layout(kv)->chunk_bytes;
    if (!check_span("asdsl_kv_read", offset, bytes, end)) return ASDSL_E_ARGUMENT;
    for (size_t done = 0, n; done < (size_t)bytes; done += n) {
        n = (size_t)bytes - done;
        const uint8_t *from = span_begin(kv, (uint64_t)offset + done, &n);
        memcpy(out + done, from, n);
    }
    return ASDSL_OK;
}

static int32_t check_empty(const struct kv_cache *kv, const char *call) {
    int32_t length = kv_length(kv);
    if (length == 0) return ASDSL_OK;
    return asdsl_fail(ASDSL_E_STATE, "%s: the cache holds %d tokens, it has to be empty", call, length);
}

int32_t kv_write(struct kv_cache *kv, double offset, const uint8_t *in, int32_t bytes) {
    static const char call[] = "asdsl_kv_write";
    const struct kv_layout *layout = kv_layout(kv);
    int32_t status = check_empty(kv, call), capacity = kv_options(kv)->capacity;
    if (status != ASDSL_OK) return status;
    double end = (double)chunks_for(kv, capacity) * (double)layout->chunk_bytes;
    if (!check_span(call, offset, bytes, end)) return ASDSL_E_ARGUMENT;
    if (bytes == 0) return ASDSL_OK;
    uint64_t n_chunks = ((uint64_t)offset + (uint64_t)bytes - 1) / layout->chunk_bytes + 1;
    uint64_t tokens = n_chunks * (uint64_t)layout->chunk_tokens;
    status = kv_reserve(kv, tokens < (uint64_t)capacity ? (int32_t)tokens : capacity);
    if (status != ASDSL_OK) return status;
    for (size_t done = 0, n; done < (size_t)bytes; done += n) {
        n = (size_t)bytes - done;
        uint8_t *to = span_begin(kv, (uint64_t)offset + done, &n);
        memcpy(to, in + done, n);
    }
    return ASDSL_OK;
}

int32_t kv_restore(struct kv_cache *kv, int32_t length) {
    int32_t status = check_empty(kv, "asdsl_kv_restore"), capacity = kv_options(kv)->capacity;
    if (status != ASDSL_OK) return status;
    if (length < 0 || length > capacity) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "KV cache: length %d, 0 to %d are possible", length, capacity);
    }
    status = kv_reserve(kv, length); /* what was not written is zero */
    if (status == ASDSL_OK) kv_commit(kv, length);
    return status;
}
