/* engine_allocations.c: a pass asks nobody for memory: tokens one by one, and passes of several.
 *
 * Oracle: this program's own malloc and mmap, which count and hand on to the C library's. Only glibc lets a program do
 * that, and a sanitizer has allocators of its own: elsewhere there is nothing to see here. A KV cache grows by
 * chunks of 256 tokens in slabs, which are the only memory that is asked for, and not asked for again when the cache is
 * cut. And a
 * thousand engines leave not a byte behind.
 */
#include "../asdsl.h"
#include "check.h"
#include "tiny_model.h"
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER
#endif

#if defined(__GLIBC__) && !defined(HAS_SANITIZER)
#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes), *__libc_calloc(size_t n, size_t bytes), *__libc_realloc(void *old, size_t n),
    *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *memory);

static atomic_int allocations, mappings;
static _Atomic int64_t live_bytes, mapped_bytes; /* not given back yet */

static void *note(void *memory) {
    atomic_fetch_add(&allocations, 1);
    atomic_fetch_add(&live_bytes, (int64_t)malloc_usable_size(memory));
    return memory;
}

void *malloc(size_t bytes) { return note(__libc_malloc(bytes)); }

void *calloc(size_t n, size_t bytes) { return note(__libc_calloc(n, bytes)); }

void *realloc(void *old, size_t bytes) {
    int64_t before = (int64_t)malloc_usable_size(old);
    void *memory = __libc_realloc(old, bytes);
    if (memory || bytes == 0) atomic_fetch_sub(&live_bytes, before);
    return note(memory);
}

void *aligned_alloc(size_t alignment, size_t bytes) { return note(__libc_memalign(alignment, bytes)); }

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    *out = aligned_alloc(alignment, bytes);
    return *out ? 0 : ENOMEM;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    atomic_fetch_add(&mappings, 1);
    atomic_fetch_add(&mapped_bytes, (int64_t)bytes); /* refused ones are not given back: there are none here */
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}

int munmap(void *address, size_t bytes) {
    atomic_fetch_sub(&mapped_bytes, (int64_t)bytes);
    return (int)syscall(SYS_munmap, address, bytes);
}

void free(void *memory) {
    atomic_fetch_sub(&live_bytes, (int64_t)malloc_usable_size(memory));
    __libc_free(memory);
}

enum { N_TOKENS = 1000, CHUNK_TOKENS = 256, N_CHUNKS = (N_TOKENS + CHUNK_TOKENS - 1) / CHUNK_TOKENS };

struct decoder {
    asdsl_handle program, kv;
    struct asdsl_params *params;
};

/* Passes of n tokens over [position, end). */
static void decode(struct decoder *d, int32_t n, int32_t position, int32_t end) {
    struct asdsl_params *p = d->params;
    int32_t *tokens = (void *)((uint8_t *)p + p->tokens_offset), *outputs = (void *)((uint8_t *)p + p->outputs_offset);
    for (; position < end; position += n) {
        p->n_tokens = n, p->n_outputs = 1, p->position = position, p->top_k = TOP_K_TINY;
        for (int32_t t = 0; t < n; t++) tokens[t] = (position + t) * 37 % VOCAB;
        outputs[0] = n - 1;
        CHECK(asdsl_run(d->program, d->kv, 0, N_OPS_TINY) == ASDSL_OK, "%s", asdsl_last_error());
    }
}

static void test_engine(const struct tiny_model *model, asdsl_handle buffer, int32_t n_threads) {
    struct asdsl_engine_options engine_options = {
        .n_threads = n_threads, .level = ASDSL_LEVEL_AUTO, .spin_us = 100, .pin = 1};
    struct asdsl_kv_options kv_options = model->kv;
    kv_options.capacity = 2 * N_TOKENS;
    asdsl_handle engine = asdsl_engine_create(&engine_options);
    struct decoder d = {
        .program = asdsl_program_create(engine, model->ops, N_OPS_TINY, &buffer, 1, &model->options),
        .kv = asdsl_kv_create(&kv_options),
    };
    CHECK(d.program && d.kv, "%s", asdsl_last_error());
    d.params = asdsl_program_params(d.program);
    int before = atomic_load(&allocations);
    asdsl_release(asdsl_kv_create(&kv_options));
    CHECK(atomic_load(&allocations) > before, "what is allocated is not seen here");
    decode(&d, 1, 0, 1); /* the first chunk, and the list of chunks */
    atomic_store(&allocations, 0), atomic_store(&mappings, 0);
    decode(&d, 1, 1, N_TOKENS);
    CHECK(atomic_load(&allocations) == 0, "%d threads: %d allocations", n_threads, atomic_load(&allocations));
    int slabs = 0; /* kv.c: each as large as all before it */
    for (int chunks = 1; chunks < N_CHUNKS; chunks *= 2) slabs++;
    CHECK(atomic_load(&mappings) == slabs, "%d threads: %d mappings, %d chunks were new", n_threads,
          atomic_load(&mappings), N_CHUNKS - 1);
    atomic_store(&mappings, 0);
    CHECK(asdsl_kv_truncate(d.kv, 0) == ASDSL_OK, "%s", asdsl_last_error());
    decode(&d, MAX_TOKENS_TINY, 0, N_TOKENS);
    CHECK(atomic_load(&allocations) == 0 && atomic_load(&mappings) == 0, "passes of %d: %d allocations, %d mappings",
          MAX_TOKENS_TINY, atomic_load(&allocations), atomic_load(&mappings));
    asdsl_release(d.kv);
    asdsl_release(d.program);
    asdsl_release(engine);
}

/* Engines, with a run in some, come and go. */
static void test_lives(void) {
    int64_t live = 0, mapped = 0;
    enum { WARM = 24, CYCLES = 1000 };
    for (int i = 0; i < WARM + CYCLES; i++) {
        if (i == WARM) live = atomic_load(&live_bytes), mapped = atomic_load(&mapped_bytes);
        struct asdsl_engine_options options = {
            .n_threads = 1 + i % 4, .level = ASDSL_LEVEL_AUTO, .spin_us = i % 3 * 20, .pin = i % 2};
        struct asdsl_worker workers[4];
        asdsl_handle engine = asdsl_engine_create(&options);
        CHECK(engine, "%s", asdsl_last_error());
        if (i % 5 == 0) CHECK(asdsl_engine_workers(engine, workers) == ASDSL_OK, "%s", asdsl_last_error());
        asdsl_release(engine);
    }
    CHECK(atomic_load(&live_bytes) == live, "%d engines left %lld bytes of the heap", CYCLES,
          (long long)(atomic_load(&live_bytes) - live));
    CHECK(atomic_load(&mapped_bytes) == mapped, "%d engines left %lld bytes mapped", CYCLES,
          (long long)(atomic_load(&mapped_bytes) - mapped));
}

int main(void) {
    struct tiny_model model;
    tiny_model(&model);
    asdsl_handle buffer = asdsl_buffer_create((double)model.used);
    CHECK(buffer, "%s", asdsl_last_error());
    tiny_fill(&model, asdsl_buffer_data(buffer), 5);
    for (int32_t n_threads = 1; n_threads <= 2; n_threads++) test_engine(&model, buffer, n_threads);
    asdsl_release(buffer);
    test_lives();
    return check_report("engine_allocations");
}
#else
int main(void) { return check_report("engine_allocations: allocations cannot be counted here"); }
#endif
