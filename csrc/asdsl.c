/* asdsl.c: the exported functions: pointers and handles checked here, the work done by the modules.
 *
 * Every handle is pinned for the whole of a call, so that a release on another thread waits for it.
 */
#include "asdsl.h"
#include "kv.h"
#include "program.h"
#include "quant.h"
#include "repack.h"
#include <stdlib.h>
#include <string.h>

/* A cache behind a handle: any thread may ask for its length while another runs. */
struct kv_object {
    struct object object;
    struct mutex lock; /* taken before an engine's */
    struct kv_cache *cache;
};

static bool is_null(const void *pointer, const char *call, const char *what) {
    if (!pointer) asdsl_fail(ASDSL_E_ARGUMENT, "%s: %s is NULL", call, what);
    return !pointer;
}

/* ---- library ---- */
void asdsl_abi(struct asdsl_abi *out) {
    if (is_null(out, "asdsl_abi", "out")) return;
    *out = (struct asdsl_abi){.version = ASDSL_ABI_VERSION,
                              .op_bytes = sizeof(struct asdsl_op),
                              .operand_bytes = sizeof(struct asdsl_operand),
                              .params_bytes = sizeof(struct asdsl_params),
                              .stats_bytes = sizeof(struct asdsl_row_stats),
                              .candidate_bytes = sizeof(struct asdsl_candidate),
                              .engine_options_bytes = sizeof(struct asdsl_engine_options),
                              .program_options_bytes = sizeof(struct asdsl_program_options),
                              .kv_options_bytes = sizeof(struct asdsl_kv_options),
                              .kv_state_bytes = sizeof(struct asdsl_kv_state),
                              .repack_job_bytes = sizeof(struct asdsl_repack_job),
                              .quantize_job_bytes = sizeof(struct asdsl_quantize_job),
                              .info_bytes = sizeof(struct asdsl_info),
                              .core_bytes = sizeof(struct asdsl_core),
                              .topology_bytes = sizeof(struct asdsl_topology),
                              .worker_bytes = sizeof(struct asdsl_worker),
                              .pages_bytes = sizeof(struct asdsl_pages),
                              .n_op_codes = ASDSL_OP_COUNT};
}

int32_t asdsl_cpu_info(struct asdsl_info *out) {
    if (is_null(out, "asdsl_cpu_info", "out")) return ASDSL_E_ARGUMENT;
    cpu_info(out);
    return ASDSL_OK;
}

int32_t asdsl_topology(const char *root, struct asdsl_topology *out) {
    if (is_null(root, "asdsl_topology", "root") || is_null(out, "asdsl_topology", "out")) return ASDSL_E_ARGUMENT;
    struct placement placement;
    if (!*root) {
        cpu_placement(NULL, &placement);
    } else if (!topology_placement(root, &placement)) {
        return asdsl_fail(ASDSL_E_IO, "topology: no CPU in %s/sys/devices/system/cpu/online", root);
    }
    placement_describe(&placement, out);
    return ASDSL_OK;
}

int32_t asdsl_try_level(int32_t level) { return engine_try_level(level); }

int32_t asdsl_release(asdsl_handle handle) { return handle ? handle_close(handle) : ASDSL_OK; }

/* ---- engine ---- */
asdsl_handle asdsl_engine_create(const struct asdsl_engine_options *options) {
    if (is_null(options, "asdsl_engine_create", "options")) return 0;
    struct asdsl_engine_options copy = *options;
    struct engine *engine = engine_create(&copy);
    return engine ? handle_open(&engine->object) : 0;
}

int32_t asdsl_engine_info(asdsl_handle handle, struct asdsl_info *out) {
    if (is_null(out, "asdsl_engine_info", "out")) return ASDSL_E_ARGUMENT;
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, "asdsl_engine_info");
    if (!engine) return ASDSL_E_HANDLE;
    *out = engine->info;
    out->n_barriers = pool_barriers(engine->pool);
    handle_unpin(handle);
    return ASDSL_OK;
}

int32_t asdsl_engine_workers(asdsl_handle handle, struct asdsl_worker *out) {
    if (is_null(out, "asdsl_engine_workers", "out")) return ASDSL_E_ARGUMENT;
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, "asdsl_engine_workers");
    if (!engine) return ASDSL_E_HANDLE;
    engine_workers(engine, out);
    handle_unpin(handle);
    return ASDSL_OK;
}

double asdsl_probe(asdsl_handle handle, int32_t kind) {
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, "asdsl_probe");
    if (!engine) return ASDSL_E_HANDLE;
    double result = engine_probe(engine, kind);
    handle_unpin(handle);
    return result;
}

double asdsl_count(asdsl_handle handle, int32_t counter) {
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, "asdsl_count");
    if (!engine) return ASDSL_E_HANDLE;
    double result = engine_count(engine, counter);
    handle_unpin(handle);
    return result;
}

/* ---- buffers ---- */
asdsl_handle asdsl_buffer_create(double bytes) {
    struct buffer *buffer = buffer_allocate(bytes);
    return buffer ? handle_open(&buffer->object) : 0;
}

asdsl_handle asdsl_buffer_map(const char *path) {
    if (is_null(path, "asdsl_buffer_map", "path")) return 0;
    struct buffer *buffer = buffer_map(path);
    return buffer ? handle_open(&buffer->object) : 0;
}

void *asdsl_buffer_data(asdsl_handle handle) {
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_data");
    if (!buffer) return NULL;
    void *data = buffer->data;
    handle_unpin(handle);
    return data;
}

double asdsl_buffer_bytes(asdsl_handle handle) {
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_bytes");
    if (!buffer) return ASDSL_E_HANDLE;
    double bytes = (double)buffer->bytes;
    handle_unpin(handle);
    return bytes;
}

asdsl_handle asdsl_buffer_share(asdsl_handle handle) {
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_share");
    if (!buffer) return 0;
    object_keep(&buffer->object);
    asdsl_handle other = handle_open(&buffer->object);
    handle_unpin(handle);
    return other;
}

int32_t asdsl_buffer_check(asdsl_handle handle) {
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_check");
    if (!buffer) return ASDSL_E_HANDLE;
    int32_t status = buffer_check(buffer);
    handle_unpin(handle);
    return status;
}

int32_t asdsl_buffer_prefetch(asdsl_handle handle, double offset, double bytes) {
    if (!(offset >= 0 && offset <= 0x1p53 && bytes >= 0 && bytes <= 0x1p53)) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "prefetch: %g bytes at %g", bytes, offset);
    }
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_prefetch");
    if (!buffer) return ASDSL_E_HANDLE;
    int32_t status = prefetch_start(buffer, (uint64_t)offset, (uint64_t)bytes);
    handle_unpin(handle);
    return status;
}

int32_t asdsl_buffer_lock(asdsl_handle handle) {
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_lock");
    if (!buffer) return ASDSL_E_HANDLE;
    int32_t status = ASDSL_OK;
    if (!pages_lock(buffer->data, buffer->bytes)) {
        status = asdsl_fail(ASDSL_E_MEMORY, "the system does not lock %llu bytes in memory: %s",
                            (unsigned long long)buffer->bytes, platform_error());
    }
    handle_unpin(handle);
    return status;
}

int32_t asdsl_buffer_pages(asdsl_handle handle, struct asdsl_pages *out) {
    if (is_null(out, "asdsl_buffer_pages", "out")) return ASDSL_E_ARGUMENT;
    struct buffer *buffer = handle_pin(handle, OBJECT_BUFFER, "asdsl_buffer_pages");
    if (!buffer) return ASDSL_E_HANDLE;
    struct page_counts counts;
    pages_count(buffer->data, buffer->bytes, &counts);
    *out = (struct asdsl_pages){.resident = counts.resident,
                                .proportional = counts.proportional,
                                .huge = counts.huge,
                                .locked = counts.locked,
                                .prefetched = prefetch_done(buffer)};
    handle_unpin(handle);
    return ASDSL_OK;
}

/* ---- weights ---- */
double asdsl_tensor_bytes(int32_t type, int32_t layout, int32_t rows, int32_t cols) {
    const struct type_facts *t = type_facts(type);
    bool activation = type == ASDSL_ACT_F32 || type == ASDSL_ACT_Q8_32 || type == ASDSL_ACT_Q8_256;
    int32_t block = t ? t->block : type == ASDSL_ACT_Q8_32 ? 32 : type == ASDSL_ACT_Q8_256 ? 256 : 1;
    if (!t && !activation) return asdsl_fail(ASDSL_E_UNSUPPORTED, "tensor type %d is not known", type);
    if (layout != ASDSL_ROWS && (activation || layout < 0 || layout > ASDSL_INTERLEAVED_4)) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "layout %d does not go with tensor type %d", layout, type);
    }
    if (rows < 1 || cols < 1 || cols % block) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "a %d x %d matrix of tensor type %d, whose blocks are of %d columns", rows,
                          cols, type, block);
    }
    if (activation) return (double)rows * (double)activation_row_bytes(type, cols);
    if (layout == ASDSL_INTERLEAVED) return interleaved_bytes(t, rows, cols);
    if (layout == ASDSL_INTERLEAVED_4) return small_groups_bytes(t, rows, cols);
    return (double)rows * ((double)cols / block) * t->block_bytes;
}

int32_t asdsl_activation_type(int32_t weight_type) {
    const struct type_facts *t = type_facts(weight_type);
    return t ? t->activation : asdsl_fail(ASDSL_E_UNSUPPORTED, "tensor type %d is not known", weight_type);
}

static int32_t repack_pinned(struct engine *engine, const struct asdsl_repack_job *job, struct buffer *src,
                             struct buffer *dst) {
    if (dst->read_only) return asdsl_fail(ASDSL_E_ARGUMENT, "repack: the destination is a read-only map of a file");
    struct repack_buffer from = {src->data, src->bytes}, to = {dst->data, dst->bytes};
    mutex_lock(&engine->lock);
    int32_t status = repack_run(engine->pool, job, from, to, src == dst);
    mutex_unlock(&engine->lock);
    return status == ASDSL_OK ? buffer_check(src) : status;
}

int32_t asdsl_repack(asdsl_handle handle, const struct asdsl_repack_job *job) {
    if (is_null(job, "asdsl_repack", "job")) return ASDSL_E_ARGUMENT;
    struct asdsl_repack_job copy = *job;
    int32_t status = ASDSL_E_HANDLE;
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, "asdsl_repack");
    struct buffer *src = engine ? handle_pin(copy.src_buffer, OBJECT_BUFFER, "asdsl_repack, source") : NULL;
    struct buffer *dst = src ? handle_pin(copy.dst_buffer, OBJECT_BUFFER, "asdsl_repack, destination") : NULL;
    if (dst) status = repack_pinned(engine, &copy, src, dst);
    if (dst) handle_unpin(copy.dst_buffer);
    if (src) handle_unpin(copy.src_buffer);
    if (engine) handle_unpin(handle);
    return status;
}

static double quantize_pinned(struct engine *engine, const struct asdsl_quantize_job *job, struct buffer *src,
                              struct buffer *dst, struct buffer *importance) {
    if (dst->read_only) return asdsl_fail(ASDSL_E_ARGUMENT, "quantize: the destination is a read-only map of a file");
    struct quantize_buffers buffers = {{src->data, src->bytes}, {dst->data, dst->bytes}, {NULL, 0}, src == dst};
    if (importance) buffers.importance = (struct quantize_buffer){importance->data, importance->bytes};
    mutex_lock(&engine->lock);
    double result = quantize_run(engine->pool, engine->kernels, job, &buffers);
    mutex_unlock(&engine->lock);
    return result;
}

double asdsl_quantize(asdsl_handle handle, const struct asdsl_quantize_job *job) {
    static const char call[] = "asdsl_quantize";
    if (is_null(job, call, "job")) return ASDSL_E_ARGUMENT;
    struct asdsl_quantize_job copy = *job;
    double result = ASDSL_E_HANDLE;
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, call);
    struct buffer *src = engine ? handle_pin(copy.src_buffer, OBJECT_BUFFER, "asdsl_quantize, source") : NULL;
    struct buffer *dst = src ? handle_pin(copy.dst_buffer, OBJECT_BUFFER, "asdsl_quantize, destination") : NULL;
    bool wants = dst && copy.importance_buffer;
    struct buffer *importance =
        wants ? handle_pin(copy.importance_buffer, OBJECT_BUFFER, "asdsl_quantize, importance") : NULL;
    if (dst && (importance || !wants)) result = quantize_pinned(engine, &copy, src, dst, importance);
    if (importance) handle_unpin(copy.importance_buffer);
    if (dst) handle_unpin(copy.dst_buffer);
    if (src) handle_unpin(copy.src_buffer);
    if (engine) handle_unpin(handle);
    return result;
}

/* ---- KV cache ---- */
static void kv_object_destroy(struct object *object) {
    struct kv_object *kv = (struct kv_object *)object;
    kv_destroy(kv->cache);
    free(kv);
}

/* Takes the cache over; NULL stays 0. */
static asdsl_handle kv_open(struct kv_cache *cache) {
    if (!cache) return 0;
    struct kv_object *kv = calloc(1, sizeof *kv);
    if (!kv) {
        kv_destroy(cache);
        asdsl_fail(ASDSL_E_MEMORY, "KV cache: the system refused %zu bytes", sizeof *kv);
        return 0;
    }
    kv->cache = cache;
    object_init(&kv->object, OBJECT_KV, kv_object_destroy);
    return handle_open(&kv->object);
}

static struct kv_object *kv_lock(asdsl_handle handle, const char *call) {
    struct kv_object *kv = handle_pin(handle, OBJECT_KV, call);
    if (kv) mutex_lock(&kv->lock);
    return kv;
}

static void kv_unlock(struct kv_object *kv, asdsl_handle handle) {
    mutex_unlock(&kv->lock);
    handle_unpin(handle);
}

asdsl_handle asdsl_kv_create(const struct asdsl_kv_options *options) {
    if (is_null(options, "asdsl_kv_create", "options")) return 0;
    struct asdsl_kv_options copy = *options;
    return kv_open(kv_create(&copy));
}

int32_t asdsl_kv_length(asdsl_handle handle) {
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_length");
    if (!kv) return ASDSL_E_HANDLE;
    int32_t length = kv_length(kv->cache);
    kv_unlock(kv, handle);
    return length;
}

int32_t asdsl_kv_truncate(asdsl_handle handle, int32_t length) {
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_truncate");
    if (!kv) return ASDSL_E_HANDLE;
    int32_t status = kv_truncate(kv->cache, length);
    kv_unlock(kv, handle);
    return status;
}

asdsl_handle asdsl_kv_fork(asdsl_handle handle) {
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_fork");
    if (!kv) return 0;
    struct kv_cache *copy = kv_fork(kv->cache);
    kv_unlock(kv, handle);
    return kv_open(copy);
}

double asdsl_kv_bytes(asdsl_handle handle) {
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_bytes");
    if (!kv) return ASDSL_E_HANDLE;
    double bytes = kv_bytes(kv->cache);
    kv_unlock(kv, handle);
    return bytes;
}

int32_t asdsl_kv_state(asdsl_handle handle, struct asdsl_kv_state *out) {
    if (is_null(out, "asdsl_kv_state", "out")) return ASDSL_E_ARGUMENT;
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_state");
    if (!kv) return ASDSL_E_HANDLE;
    kv_state(kv->cache, out);
    kv_unlock(kv, handle);
    return ASDSL_OK;
}

int32_t asdsl_kv_read(asdsl_handle handle, double offset, uint8_t *out, int32_t bytes) {
    if (is_null(out, "asdsl_kv_read", "out")) return ASDSL_E_ARGUMENT;
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_read");
    if (!kv) return ASDSL_E_HANDLE;
    int32_t status = kv_read(kv->cache, offset, out, bytes);
    kv_unlock(kv, handle);
    return status;
}

int32_t asdsl_kv_write(asdsl_handle handle, double offset, const uint8_t *in, int32_t bytes) {
    if (is_null(in, "asdsl_kv_write", "in")) return ASDSL_E_ARGUMENT;
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_write");
    if (!kv) return ASDSL_E_HANDLE;
    int32_t status = kv_write(kv->cache, offset, in, bytes);
    kv_unlock(kv, handle);
    return status;
}

int32_t asdsl_kv_restore(asdsl_handle handle, int32_t length) {
    struct kv_object *kv = kv_lock(handle, "asdsl_kv_restore");
    if (!kv) return ASDSL_E_HANDLE;
    int32_t status = kv_restore(kv->cache, length);
    kv_unlock(kv, handle);
    return status;
}

/* ---- programs ---- */
/* Pins the buffers of a table; how many it could. */
static int32_t pin_buffers(const asdsl_handle *handles, int32_t n, struct buffer **out) {
    int32_t i = 0;
    for (; i < n; i++) {
        out[i] = handle_pin(handles[i], OBJECT_BUFFER, "asdsl_program_create");
        if (!out[i]) break;
    }
    return i;
}

static asdsl_handle create_pinned(struct engine *engine, const struct asdsl_op *ops, int32_t n_ops,
                                  const asdsl_handle *handles, int32_t n_buffers,
                                  const struct asdsl_program_options *options) {
    struct program *program = NULL;
    asdsl_handle *copy = calloc((size_t)n_buffers + 1, sizeof *copy);
    struct buffer **buffers = calloc((size_t)n_buffers + 1, sizeof(struct buffer *));
    if (copy && buffers) {
        if (n_buffers) memcpy(copy, handles, (size_t)n_buffers * sizeof *copy);
        int32_t n_pinned = pin_buffers(copy, n_buffers, buffers);
        if (n_pinned == n_buffers) program = program_create(engine, ops, n_ops, buffers, n_buffers, options);
        for (int32_t i = 0; i < n_pinned; i++) handle_unpin(copy[i]);
    } else {
        asdsl_fail(ASDSL_E_MEMORY, "program: the system refused memory for %d buffers", n_buffers);
    }
    free(copy);
    free(buffers);
    return program ? handle_open((struct object *)program) : 0;
}

asdsl_handle asdsl_program_create(asdsl_handle handle, const struct asdsl_op *ops, int32_t n_ops,
                                  const asdsl_handle *buffers, int32_t n_buffers,
                                  const struct asdsl_program_options *options) {
    static const char call[] = "asdsl_program_create";
    if (is_null(ops, call, "ops") || is_null(options, call, "options")) return 0;
    if (n_ops < 1 || n_ops > MAX_OPS || n_buffers < 0 || n_buffers > MAX_BUFFERS) {
        asdsl_fail(ASDSL_E_ARGUMENT, "program: %d ops and %d buffers, 1 to %d and 0 to %d are possible", n_ops,
                   n_buffers, MAX_OPS, MAX_BUFFERS);
        return 0;
    }
    if (n_buffers > 0 && is_null(buffers, call, "buffers")) return 0;
    struct asdsl_program_options copy = *options;
    struct engine *engine = handle_pin(handle, OBJECT_ENGINE, call);
    if (!engine) return 0;
    asdsl_handle program = create_pinned(engine, ops, n_ops, buffers, n_buffers, &copy);
    handle_unpin(handle);
    return program;
}

struct asdsl_params *asdsl_program_params(asdsl_handle handle) {
    struct program *program = handle_pin(handle, OBJECT_PROGRAM, "asdsl_program_params");
    if (!program) return NULL;
    struct asdsl_params *params = program_params(program);
    handle_unpin(handle);
    return params;
}

int32_t asdsl_run(asdsl_handle handle, asdsl_handle kv_handle, int32_t first, int32_t count) {
    struct program *program = handle_pin(handle, OBJECT_PROGRAM, "asdsl_run");
    if (!program) return ASDSL_E_HANDLE;
    struct kv_object *kv = NULL;
    int32_t status = ASDSL_E_HANDLE;
    if (kv_handle) kv = kv_lock(kv_handle, "asdsl_run");
    if (kv || !kv_handle) status = program_run(program, kv ? kv->cache : NULL, first, count);
    if (kv) kv_unlock(kv, kv_handle);
    handle_unpin(handle);
    return status;
}

int32_t asdsl_cancel(asdsl_handle handle) {
    struct program *program = handle_pin(handle, OBJECT_PROGRAM, "asdsl_cancel");
    if (!program) return ASDSL_E_HANDLE;
    program_cancel(program);
    handle_unpin(handle);
    return ASDSL_OK;
}

const char *asdsl_op_slot(asdsl_handle handle, int32_t index) {
    struct program *program = handle_pin(handle, OBJECT_PROGRAM, "asdsl_op_slot");
    if (!program) return NULL;
    const char *slot = program_op_slot(program, index);
    handle_unpin(handle);
    return slot;
}

double asdsl_op_time(asdsl_handle handle, int32_t index) {
    struct program *program = handle_pin(handle, OBJECT_PROGRAM, "asdsl_op_time");
    if (!program) return ASDSL_E_HANDLE;
    double ns = program_op_time(program, index);
    handle_unpin(handle);
    return ns;
}
