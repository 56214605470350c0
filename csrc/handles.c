/* handles.c: the slot table behind handles. Knows nothing of what the objects are.
 *
 * A handle is generation << 16 | slot. A slot's whole state is one 64-bit atomic: generation, kind, open bit and the
 * number of calls inside, so that pinning is one compare-and-swap and a stale handle can never reach an object. Slots
 * are freed to the end of a queue and taken from its front: a generation comes back only after 65535 uses of the same
 * slot.
 */
#include "handles.h"
#include "engine.h"
#include "platform.h"

enum { MAX_SLOTS = 65536, MAX_GENERATION = 65535 };

#define PIN 1u                   /* bits 0-31: calls inside */
#define OPEN (UINT64_C(1) << 32) /* the caller has not released it */
#define KIND_SHIFT 33            /* bits 33-39: enum object_kind */
#define GENERATION_SHIFT 48      /* bits 48-63: 1 .. MAX_GENERATION */
#define PINS(state) ((uint32_t)(state))
#define KIND(state) ((enum object_kind)((state) >> KIND_SHIFT & 0x7f))
#define GENERATION(state) ((uint32_t)((state) >> GENERATION_SHIFT))

/* The object is an ordinary field: written before the state opens the slot, read only by those who pinned it. */
static struct slot {
    _Atomic uint64_t state;
    struct object *object;
    uint32_t next_free;
} slots[MAX_SLOTS]; /* slot 0 is never used: handle 0 means none */

static struct {
    struct mutex lock;
    uint32_t first_free, last_free; /* queue through next_free, 0: empty */
    uint32_t n_used;                /* slots ever used, slot 0 included */
} table = {.n_used = 1};

static const char *const kind_names[] = {"nothing", "an engine", "a buffer", "a KV cache", "a program"};

void object_init(struct object *object, enum object_kind kind, void (*destroy)(struct object *object)) {
    atomic_init(&object->references, 1);
    object->kind = kind;
    object->destroy = destroy;
}

void object_keep(struct object *object) { atomic_fetch_add_explicit(&object->references, 1, memory_order_relaxed); }

void object_drop(struct object *object) {
    if (object && atomic_fetch_sub_explicit(&object->references, 1, memory_order_acq_rel) == 1) object->destroy(object);
}

static uint32_t slot_take(void) {
    mutex_lock(&table.lock);
    uint32_t index = 0;
    /* Fresh slots first: a freed one rests as long as possible. */
    if (table.n_used < MAX_SLOTS) {
        index = table.n_used++;
    } else if (table.first_free) {
        index = table.first_free;
        table.first_free = slots[index].next_free;
        if (!table.first_free) table.last_free = 0;
    }
    mutex_unlock(&table.lock);
    return index;
}

static void slot_give_back(uint32_t index) {
    mutex_lock(&table.lock);
    slots[index].next_free = 0;
    if (table.last_free) {
        slots[table.last_free].next_free = index;
    } else {
        table.first_free = index;
    }
    table.last_free = index;
    mutex_unlock(&table.lock);
}

asdsl_handle handle_open(struct object *object) {
    uint32_t index = slot_take();
    if (!index) {
        object_drop(object);
        asdsl_fail(ASDSL_E_MEMORY, "%d objects are open already", MAX_SLOTS - 1);
        return 0;
    }
    struct slot *slot = &slots[index];
    uint32_t generation = GENERATION(atomic_load_explicit(&slot->state, memory_order_relaxed)) % MAX_GENERATION + 1;
    slot->object = object;
    uint64_t state = (uint64_t)generation << GENERATION_SHIFT | (uint64_t)object->kind << KIND_SHIFT | OPEN;
    atomic_store_explicit(&slot->state, state, memory_order_release);
    return generation << 16 | index;
}

/* The slot is closed and nobody is inside (`state`): the thread that saw this, and only it, empties the slot. The
 * generation stays, so that the next object gets the one after it. */
static void slot_empty(struct slot *slot, uint64_t state) {
    struct object *object = slot->object;
    slot->object = NULL;
    atomic_store_explicit(&slot->state, state & ~(UINT64_C(0x7f) << KIND_SHIFT), memory_order_release);
    slot_give_back((uint32_t)(slot - slots));
    object_drop(object);
}

static int32_t fail_stale(asdsl_handle handle, const char *call) {
    return asdsl_fail(ASDSL_E_HANDLE, "%s: handle 0x%08x is not open (released, or never given)", call,
                      (unsigned)handle);
}

void *handle_pin(asdsl_handle handle, enum object_kind kind, const char *call) {
    struct slot *slot = &slots[handle & 0xffff];
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
    do {
        if (handle == 0 || GENERATION(state) != handle >> 16 || !(state & OPEN)) {
            fail_stale(handle, call);
            return NULL;
        }
        if (KIND(state) != kind) {
            asdsl_fail(ASDSL_E_HANDLE, "%s: handle 0x%08x is %s, %s is needed", call, (unsigned)handle,
                       kind_names[KIND(state)], kind_names[kind]);
            return NULL;
        }
    } while (!atomic_compare_exchange_weak_explicit(&slot->state, &state, state + PIN, memory_order_acquire,
                                                    memory_order_acquire));
    return slot->object;
}

void handle_unpin(asdsl_handle handle) {
    struct slot *slot = &slots[handle & 0xffff];
    uint64_t state = atomic_fetch_sub_explicit(&slot->state, PIN, memory_order_acq_rel) - PIN;
    if (!(state & OPEN) && PINS(state) == 0) slot_empty(slot, state);
}

int32_t handle_close(asdsl_handle handle) {
    struct slot *slot = &slots[handle & 0xffff];
    uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
    do {
        if (GENERATION(state) != handle >> 16 || !(state & OPEN)) return fail_stale(handle, "asdsl_release");
    } while (!atomic_compare_exchange_weak_explicit(&slot->state, &state, state & ~OPEN, memory_order_acq_rel,
                                                    memory_order_acquire));
    if (PINS(state) == 0) slot_empty(slot, state & ~OPEN);
    return ASDSL_OK;
}
