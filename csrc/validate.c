/* validate.c: nothing runs that this file has not passed. Pure: it reads records and sizes, and allocates nothing.
 *
 * First what any operand needs by its role (type, layout, bounds inside its buffer, alignment, writable), then what one
 * operation needs of its operands together (validate_<operation>), then which operands may share memory, then whether
 * the engine's level has the kernels. Arithmetic is 64-bit; program.h bounds every factor.
 */
#include "validate.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum role {
    ABSENT,
    IN_F32,  /* float rows, read */
    OUT_F32, /* float rows, written (rope, matmul_add, rms_norm_add: and read) */
    IN_ACT,  /* rows in the activation type of a weight */
    OUT_Q8_32,
    OUT_Q8_256,
    WEIGHT,
    VECTOR, /* F32 (1, n) */
    IN_I32, /* ids, read */
    OUT_I32,
    EXPERTS, /* i[0] weights of one shape, one after the other */
    ROLE_MASK = 15,
    OPTIONAL = 16,
    SLOTS = 32, /* has a row for each slot: ops.h, moe_gate_up */
};

static const uint8_t roles[ASDSL_OP_COUNT][8] = {
    [ASDSL_OP_EMBED] = {OUT_F32, WEIGHT},
    [ASDSL_OP_RMS_NORM] = {IN_F32, VECTOR, OUT_F32 | OPTIONAL, OUT_Q8_32 | OPTIONAL, OUT_Q8_256 | OPTIONAL},
    [ASDSL_OP_RMS_NORM_ADD] = {OUT_F32, IN_F32, VECTOR},
    [ASDSL_OP_QUANTIZE] = {IN_F32 | SLOTS, OUT_Q8_32 | OPTIONAL | SLOTS, OUT_Q8_256 | OPTIONAL | SLOTS},
    [ASDSL_OP_MATMUL] = {OUT_F32, IN_ACT, WEIGHT, WEIGHT | OPTIONAL, WEIGHT | OPTIONAL, VECTOR | OPTIONAL,
                         VECTOR | OPTIONAL, VECTOR | OPTIONAL},
    [ASDSL_OP_MATMUL_ADD] = {OUT_F32, IN_ACT, WEIGHT, ABSENT, ABSENT, VECTOR | OPTIONAL},
    [ASDSL_OP_GATE_UP] = {OUT_F32, IN_ACT, WEIGHT, WEIGHT},
    [ASDSL_OP_MOE_ROUTE] = {IN_F32, OUT_I32, OUT_F32},
    [ASDSL_OP_MOE_GATE_UP] = {OUT_F32 | SLOTS, IN_ACT, IN_I32, EXPERTS, EXPERTS},
    [ASDSL_OP_MOE_DOWN] = {OUT_F32 | SLOTS, IN_ACT | SLOTS, IN_I32, EXPERTS},
    [ASDSL_OP_MOE_COMBINE] = {OUT_F32, IN_F32 | SLOTS, IN_I32, IN_F32},
    [ASDSL_OP_ROPE_TABLE] = {OUT_F32, VECTOR},
    [ASDSL_OP_ROPE] = {OUT_F32, IN_F32},
    [ASDSL_OP_KV_APPEND] = {IN_F32, IN_F32},
    [ASDSL_OP_ATTENTION] = {IN_F32, OUT_F32},
    [ASDSL_OP_GATHER_OUTPUTS] = {OUT_F32, IN_F32},
    [ASDSL_OP_TOP_K] = {IN_F32},
};

static const char *const operand_names[ASDSL_OP_COUNT] = {
#define X(CODE, name, operands, ints, floats) [ASDSL_OP_##CODE] = operands,
    ASDSL_OPS(X)
#undef X
};

static const char *const int_names[ASDSL_OP_COUNT] = {
#define X(CODE, name, operands, ints, floats) [ASDSL_OP_##CODE] = ints,
    ASDSL_OPS(X)
#undef X
};

static const char *const float_names[ASDSL_OP_COUNT] = {
#define X(CODE, name, operands, ints, floats) [ASDSL_OP_##CODE] = floats,
    ASDSL_OPS(X)
#undef X
};

static int32_t count_words(const char *words) {
    int32_t n = *words != 0;
    for (; *words; words++) n += *words == ' ';
    return n;
}

/* The role's name in ops.h: word `index` of the list. */
static const char *operand_name(uint32_t code, int32_t index, char out[32]) {
    const char *word = operand_names[code];
    for (; index > 0 && *word; index--) word += strcspn(word, " ") + (word[strcspn(word, " ")] == ' ');
    snprintf(out, 32, "%.*s", (int)strcspn(word, " "), word);
    return out;
}

bool refuse(char *why, size_t why_bytes, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, why_bytes, format, arguments);
    va_end(arguments);
    return false;
}

static bool is_written(uint32_t role) {
    return role == OUT_F32 || role == OUT_I32 || role == OUT_Q8_32 || role == OUT_Q8_256;
}

/* Matrices of a model, as opposed to rows. */
static bool is_weight(uint32_t role) { return role == WEIGHT || role == EXPERTS; }

/* Rows with a stride. */
static bool has_stride(const struct asdsl_operand *o) {
    return o->type == ASDSL_F32 || o->type == ASDSL_I32 || (o->type == ASDSL_ACT_F32 && o->stride);
}

/* ---- one operand ---- */
/* Rows that a pass may have at most. gather_outputs and top_k run over outputs by their nature. */
static uint64_t rows_needed(const struct asdsl_op *op, int32_t index, const struct asdsl_program_options *options) {
    bool outputs = op->flags & ASDSL_ROWS_OUTPUTS || op->code == ASDSL_OP_TOP_K ||
                   (op->code == ASDSL_OP_GATHER_OUTPUTS && index == 0);
    uint64_t rows = (uint64_t)(outputs ? options->max_outputs : options->max_tokens);
    if (!(roles[op->code][index] & SLOTS)) return rows;
    if (op->code == ASDSL_OP_QUANTIZE) return op->i[0] > 1 ? rows * (uint64_t)op->i[0] : rows;
    return rows * op->operand[2].cols; /* experts */
}

/* Bytes from an operand's first to its last; 0 when the type is none of the role's. */
static uint64_t operand_bytes(const struct asdsl_op *op, const struct asdsl_operand *o, uint32_t role) {
    if (is_weight(role)) {
        const struct type_facts *t = type_facts((int32_t)o->type);
        if (o->layout == ASDSL_ROWS)
            return (uint64_t)o->rows * (o->cols / (uint32_t)t->block) * (uint64_t)t->block_bytes;
        double bytes = interleaved_bytes(t, (int32_t)o->rows, (int32_t)o->cols);
        if (role == EXPERTS) bytes *= op->i[0];
        return bytes <= 0 ? 0 : bytes < 0x1p63 ? (uint64_t)bytes : UINT64_MAX;
    }
    if (role == VECTOR) return 4 * (uint64_t)o->cols;
    if (has_stride(o)) {
        return 4 * ((uint64_t)(o->rows - 1) * o->stride + o->cols);
    }
    return (uint64_t)o->rows * activation_row_bytes((int32_t)o->type, (int32_t)o->cols);
}

/* `gathers`: of the weights some rows are read, and they may lie as in a GGUF file. */
static bool check_type(const struct asdsl_operand *o, uint32_t role, bool gathers, int32_t *status, char *why,
                       size_t why_bytes) {
    const struct type_facts *t = o->type < 100 ? type_facts((int32_t)o->type) : NULL;
    bool right = true;
    switch (role) {
    case WEIGHT:
    case EXPERTS:
        if (!t) {
            *status = ASDSL_E_UNSUPPORTED;
            REFUSE("weight type %u is not known", o->type);
        }
        break;
    case IN_ACT:
        right = o->type == ASDSL_F32 || o->type == ASDSL_ACT_F32 || o->type == ASDSL_ACT_Q8_32 ||
                o->type == ASDSL_ACT_Q8_256;
        break;
    case IN_I32:
    case OUT_I32: right = o->type == ASDSL_I32; break;
    case OUT_Q8_32: right = o->type == ASDSL_ACT_Q8_32; break;
    case OUT_Q8_256: right = o->type == ASDSL_ACT_Q8_256; break;
    default: right = o->type == ASDSL_F32;
    }
    if (!right) REFUSE("type %u does not fit its role", o->type);
    uint32_t layout = is_weight(role) && !(gathers && o->layout == ASDSL_ROWS) ? ASDSL_INTERLEAVED : ASDSL_ROWS;
    if (o->layout != layout) REFUSE("layout is %u, not %u", o->layout, layout);
    return true;
}

static bool check_shape(const struct asdsl_op *op, const struct asdsl_operand *o, uint32_t role, uint64_t rows,
                        char *why, size_t why_bytes) {
    uint32_t max_rows = role == VECTOR ? 1 : MAX_ROWS;
    if (o->rows < 1 || o->rows > max_rows) REFUSE("%u rows, 1 to %u are possible", o->rows, max_rows);
    if (o->cols < 1 || o->cols > MAX_COLS) REFUSE("%u columns, 1 to %d are possible", o->cols, MAX_COLS);
    if (role == EXPERTS && (op->i[0] < 1 || op->i[0] > MAX_EXPERTS)) {
        REFUSE("%d experts, 1 to %d are possible", op->i[0], MAX_EXPERTS);
    }
    if (is_weight(role)) {
        const struct type_facts *t = type_facts((int32_t)o->type);
        if (o->stride != 0) REFUSE("stride is %u, weights have none (0)", o->stride);
        if (o->cols % (uint32_t)t->block) {
            REFUSE("%u columns are not a multiple of the %d of a %s block", o->cols, t->block, t->name);
        }
        return true;
    }
    bool floats = has_stride(o);
    if (role == VECTOR) {
        if (o->stride != 0 && o->stride < o->cols) REFUSE("stride %u is below its %u columns", o->stride, o->cols);
        return true;
    }
    if (floats && (o->stride < o->cols || o->stride > MAX_STRIDE)) {
        REFUSE("stride %u, %u (its columns) to %d are possible", o->stride, o->cols, MAX_STRIDE);
    }
    if (!floats && o->stride != 0 && o->stride != o->cols) {
        REFUSE("stride is %u, quantised rows have none (0)", o->stride);
    }
    int32_t block = o->type == ASDSL_ACT_Q8_32 ? 32 : o->type == ASDSL_ACT_Q8_256 ? 256 : 1;
    if (o->cols % (uint32_t)block) REFUSE("%u columns are not a multiple of its blocks of %d", o->cols, block);
    if (o->rows < rows) REFUSE("%u rows, a pass may have %llu", o->rows, (unsigned long long)rows);
    return true;
}

static bool check_place(const struct validation *v, const struct asdsl_op *op, const struct asdsl_operand *o,
                        uint32_t role, char *why, size_t why_bytes) {
    if (o->buffer >= (uint32_t)v->n_buffers) REFUSE("buffer %u of %d", o->buffer, v->n_buffers);
    const struct buffer *buffer = v->buffers[o->buffer];
    uint64_t bytes = operand_bytes(op, o, role);
    if (o->offset % 64) REFUSE("offset %llu is not a multiple of 64", (unsigned long long)o->offset);
    if (bytes == 0 || o->offset > buffer->bytes || bytes > buffer->bytes - o->offset) {
        REFUSE("needs %llu bytes at offset %llu, buffer %u has %llu", (unsigned long long)bytes,
               (unsigned long long)o->offset, o->buffer, (unsigned long long)buffer->bytes);
    }
    if (is_written(role) && buffer->read_only) REFUSE("written to buffer %u, a read-only map of a file", o->buffer);
    return true;
}

static bool check_operand(const struct validation *v, const struct asdsl_op *op, int32_t index, int32_t *status,
                          char *why, size_t why_bytes) {
    const struct asdsl_operand *o = &op->operand[index];
    uint32_t role = roles[op->code][index] & ROLE_MASK;
    if (!is_present(o)) {
        if (role == ABSENT || roles[op->code][index] & OPTIONAL) return true;
        REFUSE("is missing");
    }
    if (role == ABSENT) REFUSE("not an operand of this operation");
    return check_type(o, role, op->code == ASDSL_OP_EMBED, status, why, why_bytes) &&
           check_shape(op, o, role, rows_needed(op, index, v->options), why, why_bytes) &&
           check_place(v, op, o, role, why, why_bytes);
}

uint64_t operand_extent(const struct asdsl_op *op, int32_t index) {
    return operand_bytes(op, &op->operand[index], roles[op->code][index] & ROLE_MASK);
}

/* ---- operands that share memory ---- */
/* Two operands overlap when their byte ranges do, except two views of one row-major matrix (same stride) whose columns
 * lie side by side, such as q and k in the output of one matmul. */
static bool overlaps(const struct validation *v, const struct asdsl_op *op, const struct asdsl_operand *a,
                     uint32_t role_a, const struct asdsl_operand *b, uint32_t role_b) {
    uint64_t from_a = (uint64_t)(uintptr_t)v->buffers[a->buffer]->data + a->offset;
    uint64_t from_b = (uint64_t)(uintptr_t)v->buffers[b->buffer]->data + b->offset;
    uint64_t end_a = from_a + operand_bytes(op, a, role_a), end_b = from_b + operand_bytes(op, b, role_b);
    if (from_a >= end_b || from_b >= end_a) return false;
    bool rows = a->type == ASDSL_F32 && b->type == ASDSL_F32 && role_a != VECTOR && role_b != VECTOR &&
                !is_weight(role_a) && !is_weight(role_b);
    if (!rows || a->stride != b->stride) return true;
    uint64_t row_bytes = 4 * (uint64_t)a->stride;
    /* Where b's columns begin in a's rows, and the other way round: both must end before the other begins. */
    uint64_t b_in_a = (from_b + row_bytes - from_a % row_bytes) % row_bytes, a_in_b = (row_bytes - b_in_a) % row_bytes;
    return b_in_a < 4 * (uint64_t)a->cols || a_in_b < 4 * (uint64_t)b->cols;
}

static bool is_same_matrix(const struct validation *v, const struct asdsl_operand *a, const struct asdsl_operand *b) {
    return v->buffers[a->buffer] == v->buffers[b->buffer] && a->offset == b->offset && a->stride == b->stride;
}

static bool check_sharing(const struct validation *v, const struct asdsl_op *op, char *why, size_t why_bytes) {
    char name_a[32], name_b[32];
    for (int32_t i = 0; i < 8; i++) {
        uint32_t role = roles[op->code][i] & ROLE_MASK;
        if (!is_present(&op->operand[i]) || !is_written(role)) continue;
        for (int32_t j = 0; j < 8; j++) {
            if (j == i || !is_present(&op->operand[j])) continue;
            /* A norm may replace its input; everything else would read what it has overwritten. */
            bool in_place = op->code == ASDSL_OP_RMS_NORM && i == 2 && j == 0;
            if (in_place && is_same_matrix(v, &op->operand[i], &op->operand[j])) continue;
            if (overlaps(v, op, &op->operand[i], role, &op->operand[j], roles[op->code][j] & ROLE_MASK)) {
                REFUSE("%s overlaps %s", operand_name(op->code, i, name_a), operand_name(op->code, j, name_b));
            }
        }
    }
    return true;
}

/* ---- kernels ---- */
/* What the engine's level lacks for this op, or NULL. */
static const char *missing_kernel(const struct kernels *k, const struct asdsl_op *op) {
    for (int32_t i = 0; i < 8; i++) {
        if (!is_present(&op->operand[i]) || !is_weight(roles[op->code][i] & ROLE_MASK)) continue;
        uint32_t type = op->operand[i].type;
        const struct type_kernels *t = type < 32 ? &k->type[type] : NULL;
        if (!t || (op->code == ASDSL_OP_EMBED ? !t->gather_row : !t->gemv || !t->gemm)) {
            return type_facts((int32_t)type)->name;
        }
    }
    bool norm_or_quantize = op->code == ASDSL_OP_RMS_NORM || op->code == ASDSL_OP_QUANTIZE;
    int32_t q8 = op->code == ASDSL_OP_RMS_NORM ? 3 : 1;
    if (norm_or_quantize && is_present(&op->operand[q8]) && !k->quantize_q8_32) return "q8_32 activations";
    if (norm_or_quantize && is_present(&op->operand[q8 + 1]) && !k->quantize_q8_256) return "q8_256 activations";
    bool lacks = (op->code == ASDSL_OP_RMS_NORM && !k->rms_norm) ||
                 (op->code == ASDSL_OP_RMS_NORM_ADD && !k->rms_norm_add) ||
                 (op->code == ASDSL_OP_ROPE && !k->rope_head) || (op->code == ASDSL_OP_KV_APPEND && !k->kv_append) ||
                 (op->code == ASDSL_OP_ATTENTION && (!k->attention_chunks || !k->attention_merge)) ||
                 (op->code == ASDSL_OP_TOP_K && !k->top_k) || (op->code == ASDSL_OP_MOE_ROUTE && !k->moe_route) ||
                 (op->code == ASDSL_OP_MOE_COMBINE && !k->moe_combine);
    return lacks ? "this operation" : NULL;
}

/* ---- whole records ---- */
static bool check_record(const struct asdsl_op *op, char *why, size_t why_bytes) {
    if (op->flags & ~(uint32_t)ASDSL_ROWS_OUTPUTS) REFUSE("unknown flags 0x%x", (unsigned)op->flags);
    if (op->reserved != 0) REFUSE("reserved is %u, not 0", op->reserved);
    if (op->layer >= MAX_LAYERS) REFUSE("layer %u, up to %d are possible", op->layer, MAX_LAYERS - 1);
    for (int32_t i = count_words(int_names[op->code]); i < 8; i++)
        if (op->i[i] != 0) REFUSE("integer %d is %d, the operation has none there (0)", i, op->i[i]);
    for (int32_t i = 0; i < 8; i++) {
        if (!isfinite(op->f[i])) REFUSE("float %d is %g", i, (double)op->f[i]);
        if (i >= count_words(float_names[op->code]) && op->f[i] != 0) {
            REFUSE("float %d is %g, the operation has none there (0)", i, (double)op->f[i]);
        }
    }
    bool any_rows =
        op->code == ASDSL_OP_RMS_NORM || op->code == ASDSL_OP_RMS_NORM_ADD || op->code == ASDSL_OP_QUANTIZE ||
        op->code == ASDSL_OP_MATMUL || op->code == ASDSL_OP_MATMUL_ADD || op->code == ASDSL_OP_GATE_UP ||
        op->code == ASDSL_OP_MOE_ROUTE || op->code == ASDSL_OP_MOE_GATE_UP || op->code == ASDSL_OP_MOE_DOWN ||
        op->code == ASDSL_OP_MOE_COMBINE || op->code == ASDSL_OP_GATHER_OUTPUTS || op->code == ASDSL_OP_TOP_K;
    if (op->flags & ASDSL_ROWS_OUTPUTS && !any_rows) REFUSE("runs over tokens, not over outputs");
    return true;
}

int32_t validate_op(const struct validation *v, int32_t index, const struct asdsl_op *op) {
    char why[256] = "", name[32];
    int32_t status = ASDSL_E_ARGUMENT;
    if (op->code >= ASDSL_OP_COUNT) {
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "op %d: operation %u is not known, %d are", index, op->code,
                          ASDSL_OP_COUNT);
    }
    const struct op_kind *kind = &op_kinds[op->code];
    if (!check_record(op, why, sizeof why)) return asdsl_fail(status, "op %d %s: %s", index, kind->name, why);
    for (int32_t i = 0; i < 8; i++) {
        if (check_operand(v, op, i, &status, why, sizeof why)) continue;
        return asdsl_fail(status, "op %d %s: operand %d (%s): %s", index, kind->name, i,
                          operand_name(op->code, i, name), why);
    }
    if (!kind->validate(op, v->options, why, sizeof why) || !check_sharing(v, op, why, sizeof why)) {
        return asdsl_fail(status, "op %d %s: %s", index, kind->name, why);
    }
    const char *lacks = missing_kernel(v->kernels, op);
    if (lacks) {
        return asdsl_fail(ASDSL_E_UNSUPPORTED, "op %d %s: level %s has no kernel for %s", index, kind->name,
                          v->kernels->level, lacks);
    }
    return ASDSL_OK;
}

int32_t validate_options(const struct asdsl_program_options *o) {
    if (o->max_tokens < 1 || o->max_tokens > MAX_TOKENS) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "program: max_tokens is %d, 1 to %d are possible", o->max_tokens,
                          MAX_TOKENS);
    }
    if (o->max_outputs < 0 || o->max_outputs > MAX_TOKENS) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "program: max_outputs is %d, 0 to %d are possible", o->max_outputs,
                          MAX_TOKENS);
    }
    if (o->n_vocab < 1 || o->n_vocab > MAX_COLS) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "program: n_vocab is %d, 1 to %d are possible", o->n_vocab, MAX_COLS);
    }
    if (o->max_top_k < 0 || o->max_top_k > o->n_vocab) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "program: max_top_k is %d, 0 to n_vocab = %d are possible", o->max_top_k,
                          o->n_vocab);
    }
    if (o->prefill != ASDSL_PREFILL_EXACT && o->prefill != ASDSL_PREFILL_FAST) {
        return asdsl_fail(ASDSL_E_ARGUMENT, "program: prefill is %d, %d (exact) or %d (fast) are possible", o->prefill,
                          ASDSL_PREFILL_EXACT, ASDSL_PREFILL_FAST);
    }
    return ASDSL_OK;
}
