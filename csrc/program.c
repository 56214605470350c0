/* program.c: a program from its records to its runs: copy, validate, resolve, execute.
 *
 * The parameter block is TypeScript's to write at any time, so a run copies and checks it and its steps see only the
 * copy. The copy lies before the public block in one allocation: results go to the public block through the copy's
 * offsets.
 */
#include "program.h"
#include "kv.h"
#include "validate.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Below this many rows one worker does a small step alone: a row takes about a microsecond, a barrier half of one. */
enum { ALONE_ROWS = 4 };

struct program {
    struct object object;
    struct engine *engine;
    struct buffer **buffers;
    int32_t n_buffers, n_ops;
    struct asdsl_op *ops;
    struct step *steps;
    double *weight_bytes;     /* (n_ops), that one row of each op reads */
    uint64_t *ticks;          /* (n_ops), spent in each op */
    double run_ns, run_ticks; /* of all runs, in both units: what a tick is worth */
    struct asdsl_program_options options;
    struct asdsl_params *copy, *params; /* what runs see; what TypeScript sees */
    size_t block_bytes;                 /* of both */
    void *shared;                       /* of all steps: one runs at a time */
    size_t shared_bytes;
    atomic_bool cancel;
};
_Static_assert(offsetof(struct program, object) == 0, "asdsl.c sees a program as an object");

#define KIND_embed .run = run_embed, .small = true
#define KIND_rms_norm .run = run_rms_norm, .small = true
#define KIND_rms_norm_add .run = run_rms_norm_add, .small = true
#define KIND_quantize .run = run_quantize, .small = true
#define KIND_matmul .run = run_matmul
#define KIND_matmul_add .run = run_matmul_add
#define KIND_gate_up .run = run_gate_up
#define KIND_moe_route .run = run_moe_route, .small = true
#define KIND_moe_gate_up .run = run_moe_gate_up
#define KIND_moe_down .run = run_moe_down
#define KIND_moe_combine .run = run_moe_combine, .small = true
#define KIND_rope_table .run = run_rope_table, .small = true
#define KIND_rope .run = run_rope, .small = true
#define KIND_kv_append .run = run_kv_append, .small = true, .needs_kv = true
#define KIND_attention .run = run_attention, .needs_kv = true
#define KIND_gather_outputs .run = run_gather_outputs, .small = true
#define KIND_top_k .run = run_top_k

const struct op_kind op_kinds[ASDSL_OP_COUNT] = {
#define X(CODE, op_name, operands, ints, floats)                                                                       \
    [ASDSL_OP_##CODE] = {.name = #op_name, .validate = validate_##op_name, KIND_##op_name},
    ASDSL_OPS(X)
#undef X
};

/* ---- the parameter block ---- */
static uint32_t place(uint64_t *end, uint64_t bytes) {
    uint64_t at = *end;
    *end = (at + bytes + 63) / 64 * 64;
    return (uint32_t)at;
}

static bool allocate_params(struct program *p) {
    const struct asdsl_program_options *o = &p->options;
    struct asdsl_params head = {.max_tokens = o->max_tokens, .max_outputs = o->max_outputs, .max_top_k = o->max_top_k};
    uint64_t end = 0, tokens_bytes = 4 * (uint64_t)o->max_tokens, outputs_bytes = 4 * (uint64_t)o->max_outputs;
    place(&end, sizeof head);
    head.tokens_offset = place(&end, tokens_bytes);
    head.outputs_offset = place(&end, outputs_bytes);
    uint64_t copy_bytes = end;
    head.stats_offset = place(&end, sizeof(struct asdsl_row_stats) * (uint64_t)o->max_outputs);
    head.candidates_offset =
        place(&end, sizeof(struct asdsl_candidate) * (uint64_t)o->max_outputs * (uint64_t)o->max_top_k);
    uint64_t all = copy_bytes + end;
    if (all > INT32_MAX) {
        asdsl_fail(ASDSL_E_MEMORY,
                   "program: %d outputs of %d candidates need a parameter block of %llu bytes, %d are possible",
                   o->max_outputs, o->max_top_k, (unsigned long long)all, INT32_MAX);
        return false;
    }
    uint8_t *block = pages_allocate((size_t)all);
    if (!block) {
        asdsl_fail(ASDSL_E_MEMORY, "program: the system refused %llu bytes for the parameter block",
                   (unsigned long long)all);
        return false;
    }
    head.bytes = (uint32_t)end;
    p->block_bytes = (size_t)all;
    p->copy = (struct asdsl_params *)(void *)block;
    p->params = (struct asdsl_params *)(void *)(block + copy_bytes);
    *p->params = head;
    *p->copy = head;
    p->copy->stats_offset += (uint32_t)copy_bytes;
    p->copy->candidates_offset += (uint32_t)copy_bytes;
    return true;
}

struct asdsl_params *program_params(struct program *program) { return program->params; }

static int32_t *tokens_of(struct asdsl_params *params, const struct asdsl_params *offsets) {
    return (int32_t *)(void *)((uint8_t *)params + offsets->tokens_offset);
}

static int32_t *outputs_of(struct asdsl_params *params, const struct asdsl_params *offsets) {
    return (int32_t *)(void *)((uint8_t *)params + offsets->outputs_offset);
}

/* From the public block into the copy, then checks of the copy: what is written meanwhile cannot be seen. */
static int32_t take_params(struct program *p) {
    struct asdsl_params *c = p->copy;
    const struct asdsl_program_options *o = &p->options;
    c->n_tokens = p->params->n_tokens;
    c->n_outputs = p->params->n_outputs;
    c->position = p->params->position;
    c->top_k = p->params->top_k;
    if (c->n_tokens < 1 || c->n_tokens > o->max_tokens) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: n_tokens is %d, 1 to %d are possible", c->n_tokens, o->max_tokens);
    }
    if (c->n_outputs < 0 || c->n_outputs > o->max_outputs) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: n_outputs is %d, 0 to %d are possible", c->n_outputs, o->max_outputs);
    }
    if (c->top_k < 0 || c->top_k > o->max_top_k) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: top_k is %d, 0 to %d are possible", c->top_k, o->max_top_k);
    }
    if (c->position < 0 || c->position > INT32_MAX - c->n_tokens) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: position is %d with %d tokens", c->position, c->n_tokens);
    }
    int32_t *tokens = tokens_of(c, c), *outputs = outputs_of(c, c);
    memcpy(tokens, tokens_of(p->params, c), sizeof *tokens * (size_t)c->n_tokens);
    memcpy(outputs, outputs_of(p->params, c), sizeof *outputs * (size_t)c->n_outputs);
    for (int32_t t = 0; t < c->n_tokens; t++) {
        if (tokens[t] >= 0 && tokens[t] < o->n_vocab) continue;
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: token %d is %d, 0 to %d are possible", t, tokens[t], o->n_vocab - 1);
    }
    for (int32_t j = 0; j < c->n_outputs; j++) {
        if (outputs[j] > (j ? outputs[j - 1] : -1) && outputs[j] < c->n_tokens) continue;
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: output %d is row %d: rows must ascend and lie in 0 to %d", j,
                          outputs[j], c->n_tokens - 1);
    }
    return ASDSL_OK;
}

/* ---- creation ---- */
static void program_destroy(struct object *object) {
    struct program *p = (struct program *)object;
    for (int32_t i = 0; i < p->n_buffers; i++) object_drop(&p->buffers[i]->object);
    if (p->engine) object_drop(&p->engine->object);
    pages_free(p->copy, p->block_bytes);
    pages_free(p->shared, p->shared_bytes);
    free(p->buffers);
    free(p->ops);
    free(p->steps);
    free(p->ticks);
    free(p->weight_bytes);
    free(p);
}

static uint64_t larger_offset(uint64_t a, uint64_t b) { return a > b ? a : b; }

static void resolve_step(struct program *p, int32_t index) {
    struct step *step = &p->steps[index];
    const struct asdsl_op *op = &p->ops[index];
    *step = (struct step){
        .op = op, .k = p->engine->kernels, .params = p->copy, .slot = "", .fetch_one = p->engine->tuner.fetch};
    step->fast_prefill = p->options.prefill == ASDSL_PREFILL_FAST;
    for (int32_t j = 0; j < 8; j++) {
        const struct asdsl_operand *o = &op->operand[j];
        if (o->buffer == ASDSL_NO_BUFFER) continue;
        step->at[j] = p->buffers[o->buffer]->data + o->offset;
        /* Of a table that is gathered from a pass reads a few rows: nothing to wait for. */
        if (!p->buffers[o->buffer]->read_only || op->code == ASDSL_OP_EMBED) continue;
        uint64_t end = o->offset + operand_extent(op, j);
        if (step->mapped && step->mapped != p->buffers[o->buffer]) continue; /* of several files wait for one */
        step->mapped = p->buffers[o->buffer];
        step->mapped_end = larger_offset(step->mapped_end, end);
    }
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Of step->shared, which has what the step that needs most needs. */
static size_t shared_of(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    if (op->code == ASDSL_OP_ATTENTION) return attention_shared_bytes(op, options);
    return matmul_shared_bytes(op, options);
}

static size_t scratch_of(const struct asdsl_op *op, const struct asdsl_program_options *options) {
    int32_t cols = (int32_t)op->operand[0].cols;
    switch ((enum asdsl_op_code)op->code) {
    case ASDSL_OP_EMBED: return embed_scratch_bytes(op);
    case ASDSL_OP_MATMUL:
    case ASDSL_OP_MATMUL_ADD:
    case ASDSL_OP_GATE_UP: return matmul_scratch_of(op, options);
    case ASDSL_OP_MOE_GATE_UP:
    case ASDSL_OP_MOE_DOWN:
    case ASDSL_OP_MOE_COMBINE: return moe_scratch_bytes(op, options);
    case ASDSL_OP_RMS_NORM: return sizeof(float) * (size_t)cols;
    case ASDSL_OP_TOP_K: return top_k_scratch_bytes(cols);
    case ASDSL_OP_ATTENTION: return attention_scratch_bytes(op);
    default: return 0;
    }
}

/* Memory that steps need beyond their operands. The pool's scratch may move: not while a run is using it. */
static bool reserve_memory(struct program *p) {
    size_t scratch_bytes = 64;
    for (int32_t i = 0; i < p->n_ops; i++) {
        const struct asdsl_op *op = &p->ops[i];
        scratch_bytes = larger(scratch_bytes, scratch_of(op, &p->options));
        p->shared_bytes = larger(p->shared_bytes, shared_of(op, &p->options));
    }
    if (p->shared_bytes) {
        double memory = platform_memory_bytes();
        p->shared = memory > 0 && (double)p->shared_bytes > memory ? NULL : pages_allocate(p->shared_bytes);
        if (!p->shared) {
            asdsl_fail(ASDSL_E_MEMORY, "program: the system refused %zu bytes for its workers to share",
                       p->shared_bytes);
            return false;
        }
        for (int32_t i = 0; i < p->n_ops; i++) {
            if (shared_of(&p->ops[i], &p->options) == 0) continue;
            p->steps[i].shared = p->shared;
            p->steps[i].shared_bytes = p->shared_bytes;
        }
    }
    mutex_lock(&p->engine->lock);
    bool reserved = pool_reserve_scratch(p->engine->pool, scratch_bytes);
    mutex_unlock(&p->engine->lock);
    if (!reserved) asdsl_fail(ASDSL_E_MEMORY, "program: the system refused %zu bytes for each worker", scratch_bytes);
    return reserved;
}

static bool validate_all(struct program *p) {
    struct validation v = {
        .options = &p->options, .buffers = p->buffers, .n_buffers = p->n_buffers, .kernels = p->engine->kernels};
    for (int32_t i = 0; i < p->n_ops; i++)
        if (validate_op(&v, i, &p->ops[i]) != ASDSL_OK) return false;
    return true;
}

struct program *program_create(struct engine *engine, const struct asdsl_op *ops, int32_t n_ops,
                               struct buffer *const *buffers, int32_t n_buffers,
                               const struct asdsl_program_options *options) {
    struct program *p = calloc(1, sizeof *p);
    if (!p) {
        asdsl_fail(ASDSL_E_MEMORY, "program: the system refused %zu bytes", sizeof *p);
        return NULL;
    }
    object_init(&p->object, OBJECT_PROGRAM, program_destroy);
    p->options = *options; /* a copy before the checks: what is checked is what runs */
    p->ops = malloc((size_t)n_ops * sizeof *ops);
    p->steps = calloc((size_t)n_ops, sizeof *p->steps);
    p->ticks = calloc((size_t)n_ops, sizeof *p->ticks);
    p->weight_bytes = calloc((size_t)n_ops, sizeof *p->weight_bytes);
    p->buffers = calloc((size_t)n_buffers + 1, sizeof *buffers);
    if (!p->ops || !p->steps || !p->ticks || !p->weight_bytes || !p->buffers) {
        asdsl_fail(ASDSL_E_MEMORY, "program: the system refused memory for %d ops", n_ops);
        object_drop(&p->object);
        return NULL;
    }
    memcpy(p->ops, ops, (size_t)n_ops * sizeof *ops);
    p->n_ops = n_ops;
    p->engine = engine;
    object_keep(&engine->object);
    for (; p->n_buffers < n_buffers; p->n_buffers++) {
        p->buffers[p->n_buffers] = buffers[p->n_buffers];
        object_keep(&buffers[p->n_buffers]->object);
    }
    bool ready = validate_options(&p->options) == ASDSL_OK && validate_all(p) && allocate_params(p);
    for (int32_t i = 0; ready && i < n_ops; i++) {
        resolve_step(p, i);
        p->weight_bytes[i] = tune_weight_bytes(&p->ops[i]);
    }
    if (!ready || !reserve_memory(p)) {
        object_drop(&p->object);
        return NULL;
    }
    return p;
}

/* ---- a run ---- */
/* Between two parallel steps lies one barrier, and what is small between them is done inside that barrier by the worker
 * that came last (pool_end_step): five barriers a layer, not ten. */
struct run {
    struct program *program;
    int32_t end;
    int32_t next;      /* the parallel step after the present one, or end: written inside barriers, read after them */
    int32_t cancelled; /* the step before which the run was cancelled, or -1: likewise */
    uint64_t since; /* when the present step began, for whoever ends it: any worker, on any core */
};

static bool runs_alone(const struct step *step) {
    return step->rows == 0 || (op_kinds[step->op->code].small && step->rows < ALONE_ROWS);
}

static void end_step(struct run *run) {
    uint64_t now = clock_ticks();
    /* Cores' clocks agree, but that is the system's word for it. */
    run->program->ticks[run->next] += now > run->since ? now - run->since : 0;
    run->since = now;
}

/* The small steps from run->next on; leaves run->next at a parallel step or the end. */
static void run_alone(void *context) {
    struct run *run = context;
    struct program *p = run->program;
    for (; run->next < run->end; run->next++) {
        struct step *step = &p->steps[run->next];
        if (atomic_load_explicit(&p->cancel, memory_order_relaxed)) {
            run->cancelled = run->next;
            run->next = run->end;
            break;
        }
        if (!runs_alone(step)) break;
        if (step->rows == 0) continue;
        if (step->mapped) prefetch_await(step->mapped, step->mapped_end);
        op_kinds[step->op->code].run(step, pool_alone(p->engine->pool));
        end_step(run);
    }
}

static void run_between(void *context) {
    struct run *run = context;
    end_step(run);
    run->next++; /* the parallel step that everybody has finished */
    run_alone(run);
}

/* Every worker walks the same parallel steps. */
static void run_steps(void *context, struct worker *w) {
    struct run *run = context;
    struct program *p = run->program;
    pool_enter(w, run_alone, run);
    while (run->next < run->end) {
        struct step *step = &p->steps[run->next];
        if (step->mapped) prefetch_await(step->mapped, step->mapped_end);
        op_kinds[step->op->code].run(step, w);
        if (!pool_end_step(w, run_between, run)) return;
    }
}

/* KV operations of the range against the cache and the position. */
static int32_t check_kv(struct program *p, struct kv_cache *kv, int32_t first, int32_t end) {
    const struct asdsl_params *c = p->copy;
    const struct asdsl_kv_options *o = kv ? kv_options(kv) : NULL;
    bool any = false, appends = false;
    for (int32_t i = first; i < end; i++) {
        const struct asdsl_op *op = &p->ops[i];
        const struct op_kind *kind = &op_kinds[op->code];
        if (!kind->needs_kv) continue;
        bool append = op->code == ASDSL_OP_KV_APPEND;
        int32_t n_kv_heads = append ? op->i[0] : op->i[1], head_dim = append ? op->i[1] : op->i[2];
        any = true;
        appends |= append;
        if (!kv) return asdsl_fail(ASDSL_E_ARGUMENT, "op %d %s: needs a KV cache", i, kind->name);
        if (op->layer >= (uint32_t)o->n_layers || n_kv_heads != o->n_kv_heads || head_dim != o->head_dim) {
            return asdsl_fail(ASDSL_E_ARGUMENT,
                              "op %d %s: layer %u, %d heads of %d; the KV cache has %d layers, %d heads of %d", i,
                              kind->name, op->layer, n_kv_heads, head_dim, o->n_layers, o->n_kv_heads, o->head_dim);
        }
    }
    if (!any) return ASDSL_OK;
    int32_t length = kv_length(kv), after = c->position + c->n_tokens;
    /* A range that only reads may follow, step by step, a range that has appended already. */
    if (c->position != length && (appends || after != length)) {
        return asdsl_fail(ASDSL_E_STATE, "run: position is %d, the KV cache holds %d tokens", c->position, length);
    }
    if (after > o->capacity) {
        return asdsl_fail(ASDSL_E_STATE, "run: position %d and %d tokens, the KV cache has room for %d", c->position,
                          c->n_tokens, o->capacity);
    }
    return kv_reserve(kv, after);
}

static bool appends_last_layer(const struct program *p, const struct kv_cache *kv, int32_t first, int32_t end) {
    for (int32_t i = first; i < end; i++) {
        if (p->ops[i].code == ASDSL_OP_KV_APPEND && p->ops[i].layer + 1 == (uint32_t)kv_options(kv)->n_layers)
            return true;
    }
    return false;
}

/* Files that the program's weights are mapped from are still what they were. */
static int32_t check_buffers(const struct program *p) {
    for (int32_t i = 0; i < p->n_buffers; i++)
        if (buffer_check(p->buffers[i]) != ASDSL_OK) return ASDSL_E_IO;
    return ASDSL_OK;
}

static void set_rows(struct program *p, struct kv_cache *kv, int32_t first, int32_t end) {
    for (int32_t i = first; i < end; i++) {
        const struct asdsl_op *op = &p->ops[i];
        bool outputs =
            op->flags & ASDSL_ROWS_OUTPUTS || op->code == ASDSL_OP_GATHER_OUTPUTS || op->code == ASDSL_OP_TOP_K;
        int32_t slots = op->code == ASDSL_OP_QUANTIZE && op->i[0] > 1 ? op->i[0] : 1;
        p->steps[i].rows = (outputs ? p->copy->n_outputs : p->copy->n_tokens) * slots;
        p->steps[i].kv = kv;
    }
}

/* Bytes of weights that the range multiplies rows with: a measure of its work. 0: passes of a few tokens, a draft to
 * verify, do not compare with others. */
static double work_of(const struct program *p, int32_t first, int32_t end) {
    int32_t n_tokens = p->copy->n_tokens;
    double bytes = 0;
    if (n_tokens > 1 && n_tokens <= KERNEL_GEMV_MAX) return 0;
    for (int32_t i = first; i < end; i++) bytes += p->weight_bytes[i] * p->steps[i].rows;
    return bytes;
}

static bool has_parallel_step(const struct program *p, int32_t first, int32_t end) {
    for (int32_t i = first; i < end; i++)
        if (!runs_alone(&p->steps[i])) return true;
    return false;
}

static int32_t run_range(struct program *p, struct kv_cache *kv, int32_t first, int32_t end) {
    int32_t status = take_params(p);
    if (status == ASDSL_OK) status = check_kv(p, kv, first, end);
    if (status == ASDSL_OK) status = check_buffers(p);
    if (status != ASDSL_OK) return status;
    double since_ns = clock_ns();
    uint64_t since = clock_ticks();
    struct run run = {.program = p, .end = end, .next = first, .cancelled = -1, .since = since};
    struct tune_sample sample;
    /* Without an output the last products read nothing, and the run says nothing of what their bytes cost. */
    bool tunes = p->copy->n_tokens == 1 && p->copy->n_outputs == 1;
    if (tunes) tune_begin(&p->engine->tuner, p->ops, p->ticks, first, end, &sample);
    set_rows(p, kv, first, end);
    if (has_parallel_step(p, first, end)) {
        enum schedule_phase phase = p->copy->n_tokens <= KERNEL_GEMV_MAX ? PHASE_DECODE : PHASE_PREFILL;
        pool_run_phase(p->engine->pool, phase, work_of(p, first, end), run_steps, &run);
    } else {
        pool_run_alone(run_alone, &run);
    }
    p->run_ticks += (double)(clock_ticks() - since);
    p->run_ns += clock_ns() - since_ns;
    if (tunes && run.cancelled < 0) tune_end(&p->engine->tuner, p->ops, p->weight_bytes, p->ticks, first, end, &sample);
    if (run.cancelled >= 0) {
        atomic_store(&p->cancel, false);
        return asdsl_fail(ASDSL_E_CANCELLED, "run: cancelled before op %d %s", run.cancelled,
                          op_kinds[p->ops[run.cancelled].code].name);
    }
    if (check_buffers(p) != ASDSL_OK) return ASDSL_E_IO;
    if (kv && appends_last_layer(p, kv, first, end)) kv_commit(kv, p->copy->position + p->copy->n_tokens);
    return ASDSL_OK;
}

int32_t program_run(struct program *p, struct kv_cache *kv, int32_t first, int32_t count) {
    if (first < 0 || count < 1 || count > p->n_ops || first > p->n_ops - count) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "run: %d ops from op %d, the program has %d", count, first, p->n_ops);
    }
    mutex_lock(&p->engine->lock);
    int32_t status = run_range(p, kv, first, first + count);
    mutex_unlock(&p->engine->lock);
    return status;
}

void program_cancel(struct program *program) { atomic_store(&program->cancel, true); }

static bool check_index(const struct program *p, int32_t index) {
    if (index >= 0 && index < p->n_ops) return true;
    asdsl_fail(ASDSL_E_ARGUMENT, "op %d: the program has %d", index, p->n_ops);
    return false;
}

const char *program_op_slot(struct program *p, int32_t index) {
    if (!check_index(p, index)) return NULL;
    mutex_lock(&p->engine->lock);
    const char *slot = p->steps[index].slot;
    mutex_unlock(&p->engine->lock);
    return slot ? slot : "";
}

double program_op_time(struct program *p, int32_t index) {
    if (!check_index(p, index)) return ASDSL_E_ARGUMENT;
    mutex_lock(&p->engine->lock);
    double ns = p->run_ticks > 0 ? (double)p->ticks[index] * (p->run_ns / p->run_ticks) : 0;
    mutex_unlock(&p->engine->lock);
    return ns;
}
