/* handles.h: 32-bit names for objects that outlive a call, and reference counts.
 *
 * Two counts, two owners. An object has a reference count: the handle holds one, a program holds one of its engine and
 * of each of its buffers. A handle has the caller's side: it is open until asdsl_release, and every call that uses it
 * pins it meanwhile. The handle gives back its reference when it is closed and no call is inside, so that neither a
 * second release nor a release during a run frees anything in use.
 */
#ifndef ASDSL_HANDLES_H
#define ASDSL_HANDLES_H
#include "asdsl.h"
#include <stdatomic.h>

enum object_kind { OBJECT_NONE, OBJECT_ENGINE, OBJECT_BUFFER, OBJECT_KV, OBJECT_PROGRAM };

/* First member of everything that a handle can name. */
struct object {
    atomic_int references;
    enum object_kind kind;
    void (*destroy)(struct object *object);
};

void object_init(struct object *object, enum object_kind kind, void (*destroy)(struct object *object));
void object_keep(struct object *object);
void object_drop(struct object *object); /* NULL is ignored; the last one destroys */

/* Takes over the caller's reference. 0 with the error text when all slots are taken; the object is dropped then. */
asdsl_handle handle_open(struct object *object);

/* The object, pinned until handle_unpin; NULL with the error text (ASDSL_E_HANDLE). Lock-free. `call`: for the text. */
void *handle_pin(asdsl_handle handle, enum object_kind kind, const char *call);
void handle_unpin(asdsl_handle handle);

int32_t handle_close(asdsl_handle handle);

#endif
