/* prefetch.c: a thread that brings a mapped file in, front to back, ahead of the first pass over it.
 *
 * A model lies in its file in the order in which a pass reads it, so one number says which operations may run: those
 * whose weights end before it. Others wait here, asleep, and do not send faults of their own between the thread's large
 * reads. How a system brings pages in is platform.h's business.
 */
#include "buffer.h"
#include "engine.h"
#include "platform.h"
#include <stdlib.h>

/* As large as lets the disk stream, as small as an operation's weights: below it, layers wait for what is not theirs.
 * A multiple of a huge page. */
#define PIECE ((uint64_t)4 << 20)

struct prefetch {
    const struct buffer *buffer;
    struct thread thread;
    uint64_t offset, end;
    _Atomic uint64_t position; /* all before it is in */
    atomic_uint pieces;        /* changes with the position: what waiters sleep on */
    atomic_uint waiters;
    atomic_bool stops;
};

static void publish(struct prefetch *p, uint64_t position) {
    atomic_store(&p->position, position);
    atomic_fetch_add(&p->pieces, 1);
    if (atomic_load(&p->waiters)) word_wake_all(&p->pieces);
}

/* Pieces end at multiples of PIECE, so that none of them divides a huge page. */
static void prefetch_main(void *argument) {
    struct prefetch *p = argument;
    file_fetch_begins(&p->buffer->file, p->offset, p->end - p->offset);
    for (uint64_t at = p->offset; at < p->end && !atomic_load(&p->stops);) {
        uint64_t next = (at / PIECE + 1) * PIECE;
        if (next > p->end) next = p->end;
        if (!file_fetch(&p->buffer->file, at, next - at)) break;
        publish(p, at = next);
    }
    publish(p, UINT64_MAX); /* also where it failed: who reads the pages finds out what there is to find */
}

void prefetch_await(struct buffer *buffer, uint64_t end) {
    struct prefetch *p = atomic_load_explicit(&buffer->prefetch, memory_order_acquire);
    if (!p || atomic_load_explicit(&p->position, memory_order_acquire) >= end) return;
    atomic_fetch_add(&p->waiters, 1);
    for (;;) {
        unsigned seen = atomic_load(&p->pieces);
        if (atomic_load(&p->position) >= end) break;
        word_wait(&p->pieces, seen);
    }
    atomic_fetch_sub(&p->waiters, 1);
}

int32_t prefetch_start(struct buffer *buffer, uint64_t offset, uint64_t bytes) {
    if (!buffer->read_only) return asdsl_fail(ASDSL_E_ARGUMENT, "prefetch: the buffer is no map of a file");
    if (offset > buffer->bytes || bytes > buffer->bytes - offset) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "prefetch: %llu bytes at %llu, the buffer has %llu",
                          (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)buffer->bytes);
    }
    struct prefetch *p = calloc(1, sizeof *p), *none = NULL;
    if (!p) return asdsl_fail(ASDSL_E_MEMORY, "prefetch: the system refused %zu bytes", sizeof *p);
    p->buffer = buffer;
    p->offset = offset;
    p->end = offset + bytes;
    atomic_store(&p->position, offset);
    /* Published before its thread is there: nobody else may start one, and waiters would only sleep. */
    if (!atomic_compare_exchange_strong(&buffer->prefetch, &none, p)) {
        free(p);
        return asdsl_fail(ASDSL_E_STATE, "prefetch: it was begun before");
    }
    if (thread_start(&p->thread, prefetch_main, p)) return ASDSL_OK;
    p->thread.id = 0;
    publish(p, UINT64_MAX);
    return asdsl_fail(ASDSL_E_MEMORY, "prefetch: the system refused a thread: %s", platform_error());
}

void prefetch_end(struct buffer *buffer) {
    struct prefetch *p = atomic_load(&buffer->prefetch);
    if (!p) return;
    atomic_store(&p->stops, true);
    if (p->thread.id) thread_join(&p->thread);
    free(p);
}

double prefetch_done(struct buffer *buffer) {
    struct prefetch *p = atomic_load(&buffer->prefetch);
    if (!p) return 0;
    uint64_t position = atomic_load(&p->position);
    return (double)((position < p->end ? position : p->end) - p->offset);
}
