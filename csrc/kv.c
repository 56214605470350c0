/* kv.c: memory and length of a key/value cache. Chunks come when they are first needed and stay until the end: a cache
 * costs what its longest text so far needed, and growing it moves nothing.
 *
 * Chunks lie side by side in slabs, each as large as all before it: huge pages begin where the last chunk ends. A slab
 * for a chunk is rounded up to huge pages, which costs a quarter of the memory (q8_0 of 22 layers of 4 heads of 64: 3.1
 * MB in 4.2); of a larger one, what no chunk has needed is not touched.
 */
#include "kv.h"
#include "buffer.h"
#include "cpu.h"
#include "engine.h"
#include "program.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_SLABS = 64 }; /* 23 hold 2^30 tokens; more where the system refused large ones */

struct slab {
    uint8_t *pages;
    size_t bytes;
};

struct kv_cache {
    struct asdsl_kv_options options;
    struct kv_layout layout;
    int32_t length, n_chunks, room; /* room: of chunks[] */
    uint8_t **chunks;
    struct slab slabs[MAX_SLABS];
    int32_t n_slabs, n_spare; /* n_spare: chunks of the last slab that nothing has needed */
};

const struct asdsl_kv_options *kv_options(const struct kv_cache *kv) { return &kv->options; }
const struct kv_layout *kv_layout(const struct kv_cache *kv) { return &kv->layout; }
uint8_t *const *kv_chunks(const struct kv_cache *kv) { return kv->chunks; }
int32_t kv_length(const struct kv_cache *kv) { return kv->length; }
void kv_commit(struct kv_cache *kv, int32_t length) { kv->length = length; }
double kv_bytes(const struct kv_cache *kv) { return (double)kv->n_chunks * (double)kv->layout.chunk_bytes; }

static bool check_range(const char *what, int32_t value, int32_t max) {
    if (value >= 1 && value <= max) return true;
    asdsl_fail(ASDSL_E_ARGUMENT, "KV cache: %s is %d, 1 to %d are possible", what, value, max);
    return false;
}

static bool check_type(const char *what, int32_t type) {
    if (type == ASDSL_F16 || type == ASDSL_F32 || type == ASDSL_Q8_0) return true;
    asdsl_fail(ASDSL_E_UNSUPPORTED, "KV cache: %s is of type %d, f16 (%d), f32 (%d) and q8_0 (%d) are possible", what,
               type, ASDSL_F16, ASDSL_F32, ASDSL_Q8_0);
    return false;
}

static bool check_options(const struct asdsl_kv_options *o) {
    if (!check_range("n_layers", o->n_layers, MAX_LAYERS) || !check_range("n_kv_heads", o->n_kv_heads, MAX_HEADS) ||
        !check_range("head_dim", o->head_dim, MAX_HEAD_DIM) || !check_range("capacity", o->capacity, 1 << 30) ||
        !check_type("k", o->k_type) || !check_type("v", o->v_type)) {
        return false;
    }
    if ((int64_t)o->n_kv_heads * o->head_dim <= MAX_COLS) return true;
    asdsl_fail(ASDSL_E_ARGUMENT, "KV cache: %d heads of %d are more than %d columns", o->n_kv_heads, o->head_dim,
               MAX_COLS);
    return false;
}

struct kv_cache *kv_create(const struct asdsl_kv_options *options) {
    if (!check_options(options)) return NULL;
    struct kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv) {
        asdsl_fail(ASDSL_E_MEMORY, "KV cache: the system refused %zu bytes", sizeof *kv);
        return NULL;
    }
    kv->options = *options;
    kv->layout = kv_layout_of(options);
    return kv;
}

void kv_destroy(struct kv_cache *kv) {
    for (int32_t i = 0; i < kv->n_slabs; i++) pages_free(kv->slabs[i].pages, kv->slabs[i].bytes);
    free(kv->chunks);
    free(kv);
}

int32_t kv_truncate(struct kv_cache *kv, int32_t length) {
    if (length < 0 || length > kv->length) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "KV cache: length %d, 0 to %d are possible", length, kv->length);
    }
    kv->length = length;
    return ASDSL_OK;
}

static int32_t chunks_for(int32_t tokens) { return (tokens - 1) / ATTENTION_CHUNK + 1; }

/* As many chunks as there are, within the capacity, or fewer where the system refuses them. */
static bool add_slab(struct kv_cache *kv) {
    if (kv->n_slabs == MAX_SLABS) return false;
    int32_t n = kv->n_chunks ? kv->n_chunks : 1, most = chunks_for(kv->options.capacity) - kv->n_chunks;
    for (n = n < most ? n : most; n > 0; n /= 2) {
        size_t bytes = (size_t)n * kv->layout.chunk_bytes;
        uint8_t *pages = pages_allocate(bytes);
        if (!pages) continue;
        kv->slabs[kv->n_slabs++] = (struct slab){pages, bytes};
        kv->n_spare = n;
        return true;
    }
    return false;
}

static bool add_chunk(struct kv_cache *kv) {
    if (kv->n_chunks == kv->room) {
        int32_t room = kv->room ? 2 * kv->room : 16;
        uint8_t **chunks = realloc(kv->chunks, (size_t)room * sizeof *chunks);
        if (!chunks) return false;
        kv->chunks = chunks;
        kv->room = room;
    }
    if (kv->n_spare == 0 && !add_slab(kv)) return false;
    const struct slab *last = &kv->slabs[kv->n_slabs - 1];
    kv->chunks[kv->n_chunks++] = last->pages + last->bytes - (size_t)kv->n_spare-- * kv->layout.chunk_bytes;
    return true;
}

int32_t kv_reserve(struct kv_cache *kv, int32_t length) {
    int32_t wanted = length > 0 ? chunks_for(length) : 0;
    double bytes = (double)wanted * (double)kv->layout.chunk_bytes, memory = platform_memory_bytes();
    bool fits = kv->n_chunks >= wanted || memory <= 0 || bytes <= memory; /* as buffer_allocate does */
    while (fits && kv->n_chunks < wanted) fits = add_chunk(kv);
    if (fits) return ASDSL_OK;
    return asdsl_fail(ASDSL_E_MEMORY, "KV cache: %d tokens need %.0f bytes, the system refused them (%.0f are held)",
                      length, bytes, kv_bytes(kv));
}

struct kv_cache *kv_fork(const struct kv_cache *kv) {
    struct kv_cache *copy = kv_create(&kv->options);
    if (!copy) return NULL;
    if (kv_reserve(copy, kv->length) != ASDSL_OK) {
        kv_destroy(copy);
        return NULL;
    }
    for (int32_t i = 0; i < copy->n_chunks; i++) memcpy(copy->chunks[i], kv->chunks[i], kv->layout.chunk_bytes);
    copy->length = kv->length;
    return copy;
}
