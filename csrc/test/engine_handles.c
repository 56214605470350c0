/* engine_handles.c: handles that are stale, invented, of another kind, closed twice, closed by many threads at once.
 *
 * Oracle: the contract in asdsl.h and the counts of objects destroyed.
 */
#include "../asdsl.h"
#include "../handles.h"
#include "../platform.h"
#include "check.h"
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 500 };

static atomic_int destroyed;

static void count_destroyed(struct object *object) {
    atomic_fetch_add(&destroyed, 1);
    free(object);
}

static asdsl_handle open_one(void) {
    struct object *object = malloc(sizeof *object);
    if (!object) abort();
    object_init(object, OBJECT_KV, count_destroyed);
    return handle_open(object);
}

static void test_wrong_handles(void) {
    uint64_t state = 7;
    asdsl_handle buffer = asdsl_buffer_create(100);
    CHECK(buffer != 0, "%s", asdsl_last_error());
    CHECK(asdsl_buffer_bytes(buffer) == 100, "bytes %g", asdsl_buffer_bytes(buffer));
    CHECK(asdsl_kv_length(buffer) == ASDSL_E_HANDLE, "a buffer taken for a KV cache");
    CHECK(strstr(asdsl_last_error(), "is a buffer, a KV cache is needed"), "%s", asdsl_last_error());
    CHECK(asdsl_run(buffer, 0, 0, 1) == ASDSL_E_HANDLE, "a buffer taken for a program");
    CHECK(asdsl_probe(buffer, 0) == ASDSL_E_HANDLE, "a buffer taken for an engine");
    CHECK(asdsl_count(buffer, 0) == ASDSL_E_HANDLE, "a buffer taken for an engine");
    for (int i = 0; i < 100000; i++) {
        asdsl_handle h = random_u32(&state);
        if (h == buffer || h == 0) continue;
        CHECK(asdsl_buffer_data(h) == NULL && asdsl_release(h) == ASDSL_E_HANDLE && asdsl_cancel(h) == ASDSL_E_HANDLE,
              "invented handle 0x%08x", h);
    }
    CHECK(asdsl_release(0) == ASDSL_OK, "0 is ignored");
    CHECK(asdsl_release(buffer) == ASDSL_OK, "%s", asdsl_last_error());
    CHECK(asdsl_release(buffer) == ASDSL_E_HANDLE, "released twice");
    CHECK(asdsl_buffer_data(buffer) == NULL && asdsl_buffer_bytes(buffer) == ASDSL_E_HANDLE, "stale handle");
}

/* All slots, then none; a slot used again never answers to its old handle. */
static void test_exhaustion(void) {
    enum { MOST = 65535 };
    asdsl_handle *h = malloc(MOST * sizeof *h);
    if (!h) abort();
    int n = 0;
    while (n < MOST && (h[n] = open_one()) != 0) n++;
    CHECK(n >= MOST - 2, "%d objects open at once", n); /* slot 0 and what other tests hold */
    int before = atomic_load(&destroyed);
    CHECK(open_one() == 0 && strstr(asdsl_last_error(), "65535"), "%s", asdsl_last_error());
    CHECK(atomic_load(&destroyed) == before + 1, "the object without a slot was kept");
    for (int i = 0; i < n; i++) CHECK(asdsl_release(h[i]) == ASDSL_OK, "%s", asdsl_last_error());
    CHECK(atomic_load(&destroyed) == before + 1 + n, "%d of %d destroyed", atomic_load(&destroyed), before + 1 + n);
    asdsl_handle again[64];
    for (int i = 0; i < 64; i++) again[i] = open_one();
    for (int i = 0; i < n; i++) CHECK(handle_pin(h[i], OBJECT_KV, "test") == NULL, "stale handle 0x%08x", h[i]);
    for (int i = 0; i < 64; i++) CHECK(asdsl_release(again[i]) == ASDSL_OK, "%s", asdsl_last_error());
    free(h);
}

/* ---- many threads, one handle ---- */
static struct shared {
    atomic_int met;
    _Atomic asdsl_handle handle;
    atomic_int closed, pinned;
} shared;

/* All threads and main: none goes on before the last has come. */
static void meet(void) {
    int everybody = THREADS + 1, mine = atomic_fetch_add(&shared.met, 1);
    while (atomic_load(&shared.met) < (mine / everybody + 1) * everybody) thread_yield();
}

static void use_and_close(void *argument) {
    (void)argument;
    for (int round = 0; round < ROUNDS; round++) {
        meet();
        asdsl_handle h = atomic_load(&shared.handle);
        struct object *object = handle_pin(h, OBJECT_KV, "test");
        if (object) {
            CHECK(object->kind == OBJECT_KV, "a destroyed object");
            atomic_fetch_add(&shared.pinned, 1);
        }
        if (asdsl_release(h) == ASDSL_OK) atomic_fetch_add(&shared.closed, 1);
        if (object) {
            CHECK(object->kind == OBJECT_KV, "destroyed under a pin");
            handle_unpin(h);
        }
        meet();
    }
}

static void test_concurrent_close(void) {
    struct thread threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(thread_start(&threads[i], use_and_close, NULL), "%s", platform_error());
    for (int round = 0; round < ROUNDS; round++) {
        int before = atomic_load(&destroyed);
        atomic_store(&shared.closed, 0);
        atomic_store(&shared.handle, open_one());
        meet();
        meet();
        CHECK(atomic_load(&shared.closed) == 1, "closed %d times", atomic_load(&shared.closed));
        CHECK(atomic_load(&destroyed) == before + 1, "destroyed %d times", atomic_load(&destroyed) - before);
    }
    for (int i = 0; i < THREADS; i++) thread_join(&threads[i]);
    CHECK(atomic_load(&shared.pinned) > 0, "no thread ever got in");
}

/* The text is the calling thread's own. */
static void fail_otherwise(void *argument) {
    (void)argument;
    CHECK(asdsl_last_error()[0] == 0, "a fresh thread has the error of another: %s", asdsl_last_error());
    asdsl_buffer_create(-1);
}

static void test_error_texts(void) {
    char before[512];
    struct thread thread;
    asdsl_release(0x12345678);
    snprintf(before, sizeof before, "%s", asdsl_last_error());
    CHECK(strstr(before, "0x12345678"), "%s", before);
    CHECK(thread_start(&thread, fail_otherwise, NULL), "%s", platform_error());
    thread_join(&thread);
    CHECK(strcmp(before, asdsl_last_error()) == 0, "%s became %s", before, asdsl_last_error());
}

int main(void) {
    test_error_texts();
    test_wrong_handles();
    test_concurrent_close();
    test_exhaustion();
    return check_report("engine_handles");
}
