/* prefetch.c: threads that bring a mapped file in, front to back, ahead of the first pass over it.
 *
 * A model lies in its file in the order in which a pass reads it, so one number says which operations may run: those
 * whose weights end before it. Others wait here, asleep, and do not send faults of their own between the threads' large
 * reads. How a system brings pages in is platform.h's business.
 */
#include "buffer.h"
#include "engine.h"
#include "platform.h"
#include <stdlib.h>

/* As large as lets the disk stream, as small as an operation's weights: below it, layers wait for what is not theirs.
 * A multiple of a huge page. */
#define PIECE ((uint64_t)4 << 20)

/* A read is waited for, so a disk is kept busy by several of them. */
enum { READERS = 2 };

struct prefetch {
    const struct buffer *buffer;
    struct reader {
        struct prefetch *owner;
        struct thread thread;
        _Atomic uint64_t at; /* all before it that this one has taken is in */
        bool runs;
    } readers[READERS];
    uint64_t offset, end;
    _Atomic uint64_t next;     /* what nobody has taken begins here */
    _Atomic uint64_t position; /* all before it is in */
    atomic_uint pieces;        /* changes with the position: what waiters sleep on */
    atomic_uint waiters;
    atomic_int n_running;
    atomic_bool stops;
};

static void publish(struct prefetch *p, uint64_t position) {
    uint64_t known = atomic_load(&p->position);
    while (known < position && !atomic_compare_exchange_weak(&p->position, &known, position)) {
    }
    if (known >= position) return;
    atomic_fetch_add(&p->pieces, 1);
    if (atomic_load(&p->waiters)) word_wake_all(&p->pieces);
}

/* Pieces are taken in order, so all is in before the earliest that is at work. */
static void publish_common(struct prefetch *p) {
    uint64_t position = UINT64_MAX;
    for (int32_t i = 0; i < READERS; i++) {
        uint64_t at = atomic_load(&p->readers[i].at);
        if (at < position) position = at;
    }
    publish(p, position);
}

/* The next piece, which ends at a multiple of PIECE, so that none divides a huge page. False: there is none. */
static bool take(struct reader *reader, uint64_t *begin, uint64_t *end) {
    struct prefetch *p = reader->owner;
    uint64_t at = atomic_load(&p->next), next;
    do {
        if (at >= p->end) return false;
        next = (at / PIECE + 1) * PIECE;
        if (next > p->end) next = p->end;
    } while (!atomic_compare_exchange_weak(&p->next, &at, next));
    *begin = at;
    *end = next;
    return true;
}

static void reader_ends(struct reader *reader) {
    struct prefetch *p = reader->owner;
    if (atomic_fetch_sub(&p->n_running, 1) == 1) file_fetch_ends(&p->buffer->file);
    atomic_store(&reader->at, UINT64_MAX);
    publish_common(p);
}

static void reader_main(void *argument) {
    struct reader *reader = argument;
    struct prefetch *p = reader->owner;
    uint64_t begin, end;
    while (!atomic_load(&p->stops) && take(reader, &begin, &end)) {
        atomic_store(&reader->at, begin);
        publish_common(p);
        if (file_fetch(&p->buffer->file, begin, end - begin)) continue;
        atomic_store(&p->stops, true);
        publish(p, UINT64_MAX); /* who reads the pages finds out what there is to find */
    }
    reader_ends(reader);
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
    atomic_store(&p->next, offset);
    atomic_store(&p->position, offset);
    atomic_store(&p->n_running, READERS);
    /* Published before its threads are there: nobody else may start any, and waiters would only sleep. */
    if (!atomic_compare_exchange_strong(&buffer->prefetch, &none, p)) {
        free(p);
        return asdsl_fail(ASDSL_E_STATE, "prefetch: it was begun before");
    }
    for (int32_t i = 0; i < READERS; i++) {
        p->readers[i].owner = p;
        atomic_store(&p->readers[i].at, offset);
    }
    file_fetch_begins(&buffer->file, offset, bytes);
    int32_t started = 0;
    for (int32_t i = 0; i < READERS; i++) {
        p->readers[i].runs = thread_start(&p->readers[i].thread, reader_main, &p->readers[i]);
        if (p->readers[i].runs)
            started++;
        else
            reader_ends(&p->readers[i]);
    }
    if (started > 0) return ASDSL_OK;
    return asdsl_fail(ASDSL_E_MEMORY, "prefetch: the system refused a thread: %s", platform_error());
}

void prefetch_end(struct buffer *buffer) {
    struct prefetch *p = atomic_load(&buffer->prefetch);
    if (!p) return;
    atomic_store(&p->stops, true);
    for (int32_t i = 0; i < READERS; i++) {
        if (p->readers[i].runs) thread_join(&p->readers[i].thread);
    }
    free(p);
}

double prefetch_done(struct buffer *buffer) {
    struct prefetch *p = atomic_load(&buffer->prefetch);
    if (!p) return 0;
    uint64_t position = atomic_load(&p->position);
    return (double)((position < p->end ? position : p->end) - p->offset);
}
