/* kv.h: the key/value cache of one sequence: keys and values of all layers, its length, truncation and copies.
 *
 * Owns the memory and the length. It knows nothing of handles or locks: asdsl.c wraps a cache into a handle with a
 * mutex, and the executor (program.c) holds that mutex for the whole of a run. How keys and values lie inside is a
 * matter between kv.c, run_attention.c and the attention kernels.
 */
#ifndef ASDSL_KV_H
#define ASDSL_KV_H
#include "asdsl.h"
#include "kernels/attention.h"
#include <stdbool.h>

/* Of what the bytes of a chunk mean. Whoever changes where or how a chunk keeps its keys and values adds one: saved
 * sessions of before are refused then. What a cache knows outside its chunks has to find its way into kv_state.c. */
enum { KV_LAYOUT_VERSION = 1 };

struct kv_cache;

/* Checks the options; NULL with the error text set (ASDSL_E_ARGUMENT, ASDSL_E_UNSUPPORTED or ASDSL_E_MEMORY). */
struct kv_cache *kv_create(const struct asdsl_kv_options *options);
void kv_destroy(struct kv_cache *kv);

const struct asdsl_kv_options *kv_options(const struct kv_cache *kv);
int32_t kv_length(const struct kv_cache *kv);
int32_t kv_truncate(struct kv_cache *kv, int32_t length); /* 0 .. kv_length, else ASDSL_E_ARGUMENT */
struct kv_cache *kv_fork(const struct kv_cache *kv);      /* NULL with the error text set */
double kv_bytes(const struct kv_cache *kv);

/* The content as bytes: kv_state.c, contracts in asdsl.h. */
void kv_state(const struct kv_cache *kv, struct asdsl_kv_state *out);
int32_t kv_read(const struct kv_cache *kv, double offset, uint8_t *out, int32_t bytes);
int32_t kv_write(struct kv_cache *kv, double offset, const uint8_t *in, int32_t bytes);
int32_t kv_restore(struct kv_cache *kv, int32_t length);

/* For run_attention.c and kv_state.c: how a chunk is laid out, and the chunks. Growing the cache moves the array, not
 * the chunks. */
const struct kv_layout *kv_layout(const struct kv_cache *kv);
uint8_t *const *kv_chunks(const struct kv_cache *kv);

/* Before a run, on the calling thread: memory for positions [0, length) is there afterwards, or ASDSL_E_MEMORY.
 * length <= capacity was checked. The cache's own length does not change. */
int32_t kv_reserve(struct kv_cache *kv, int32_t length);

/* After a run that appended to the last layer and did not fail: the new length. */
void kv_commit(struct kv_cache *kv, int32_t length);

#endif
