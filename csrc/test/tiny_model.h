/* tiny_model.h: one record of every operation over one buffer, as a one-layer model would have them. For tests only. */
#ifndef ASDSL_TEST_TINY_MODEL_H
#define ASDSL_TEST_TINY_MODEL_H
#include "../asdsl.h"
#include "../ops.h"
#include "check.h"
#include <stdbool.h>
#include <string.h>

enum {
    DIM = 256,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    HEAD_DIM = 64,
    KV_DIM = N_KV_HEADS * HEAD_DIM,
    QKV = DIM + 2 * KV_DIM,
    FFN = 512,
    N_EXPERTS = 5,
    N_USED = 2,
    EXPERT_FFN = 96,
    VOCAB = 96,
    MAX_TOKENS_TINY = 8,
    MAX_OUTPUTS_TINY = 4,
    TOP_K_TINY = 5,
    N_OPS_TINY = 25,
};

struct tiny_model {
    struct asdsl_op ops[N_OPS_TINY];
    struct asdsl_program_options options;
    struct asdsl_kv_options kv;
    uint64_t used; /* bytes of the buffer */
};

static inline struct asdsl_operand tiny_operand(struct tiny_model *m, int32_t type, int32_t layout, uint32_t rows,
                                                uint32_t cols) {
    struct asdsl_operand o = {.type = (uint32_t)type, .rows = rows, .cols = cols, .layout = (uint32_t)layout};
    o.offset = m->used;
    bool has_stride = (type == ASDSL_F32 || type == ASDSL_I32) && layout == ASDSL_ROWS;
    o.stride = has_stride ? cols : 0;
    m->used +=
        ((uint64_t)asdsl_tensor_bytes(type == ASDSL_I32 ? ASDSL_F32 : type, layout, (int32_t)rows, (int32_t)cols) +
         63) /
        64 * 64;
    return o;
}

static inline struct asdsl_operand tiny_rows(struct tiny_model *m, uint32_t cols) {
    return tiny_operand(m, ASDSL_F32, ASDSL_ROWS, MAX_TOKENS_TINY, cols);
}

static inline struct asdsl_operand tiny_weight(struct tiny_model *m, int32_t type, uint32_t rows, uint32_t cols) {
    return tiny_operand(m, type, ASDSL_INTERLEAVED, rows, cols);
}

/* A weight for each expert. */
static inline struct asdsl_operand tiny_experts(struct tiny_model *m, int32_t type, uint32_t rows, uint32_t cols) {
    struct asdsl_operand o = tiny_weight(m, type, rows * N_EXPERTS, cols); /* whole groups: nothing between experts */
    o.rows = rows;
    return o;
}

/* A row for each slot. */
static inline struct asdsl_operand tiny_slots(struct tiny_model *m, int32_t type, uint32_t cols) {
    return tiny_operand(m, type, ASDSL_ROWS, MAX_TOKENS_TINY * N_USED, cols);
}

/* Columns [first, first + cols) of float rows; first a multiple of 16. */
static inline struct asdsl_operand tiny_view(struct asdsl_operand o, uint32_t first, uint32_t cols) {
    o.offset += 4 * first;
    o.cols = cols;
    return o;
}

static inline struct asdsl_op *tiny_op(struct tiny_model *m, int32_t *n, int32_t code) {
    struct asdsl_op *op = &m->ops[(*n)++];
    *op = (struct asdsl_op){.code = (uint32_t)code};
    for (int i = 0; i < 8; i++) op->operand[i].buffer = ASDSL_NO_BUFFER;
    return op;
}

/* Index of the first record of an operation. */
static inline int32_t tiny_find(const struct tiny_model *m, uint32_t code) {
    for (int32_t i = 0; i < N_OPS_TINY; i++)
        if (m->ops[i].code == code) return i;
    return -1;
}

/* x += experts of f, whose quantised form is act. */
static inline void tiny_moe(struct tiny_model *m, int32_t *n, struct asdsl_operand x, struct asdsl_operand f,
                            struct asdsl_operand act) {
    struct asdsl_operand logits = tiny_rows(m, N_EXPERTS), weights = tiny_rows(m, N_USED);
    struct asdsl_operand experts = tiny_operand(m, ASDSL_I32, ASDSL_ROWS, MAX_TOKENS_TINY, N_USED);
    struct asdsl_operand hidden = tiny_slots(m, ASDSL_F32, EXPERT_FFN), made = tiny_slots(m, ASDSL_F32, DIM);
    struct asdsl_operand act_slots = tiny_slots(m, ASDSL_ACT_Q8_32, EXPERT_FFN);
    struct asdsl_op *op = tiny_op(m, n, ASDSL_OP_MATMUL);
    op->operand[0] = logits, op->operand[1] = f, op->operand[2] = tiny_weight(m, ASDSL_F32, N_EXPERTS, DIM);
    op = tiny_op(m, n, ASDSL_OP_MOE_ROUTE);
    op->operand[0] = logits, op->operand[1] = experts, op->operand[2] = weights, op->i[0] = 1, op->f[0] = 1;
    op = tiny_op(m, n, ASDSL_OP_MOE_GATE_UP);
    op->operand[0] = hidden, op->operand[1] = act, op->operand[2] = experts, op->i[0] = N_EXPERTS;
    op->operand[3] = tiny_experts(m, ASDSL_Q8_0, EXPERT_FFN, DIM);
    op->operand[4] = tiny_experts(m, ASDSL_Q8_0, EXPERT_FFN, DIM);
    op = tiny_op(m, n, ASDSL_OP_QUANTIZE);
    op->operand[0] = hidden, op->operand[1] = act_slots, op->i[0] = N_USED;
    op = tiny_op(m, n, ASDSL_OP_MOE_DOWN);
    op->operand[0] = made, op->operand[1] = act_slots, op->operand[2] = experts, op->i[0] = N_EXPERTS;
    op->operand[3] = tiny_experts(m, ASDSL_Q4_1, DIM, EXPERT_FFN);
    op = tiny_op(m, n, ASDSL_OP_MOE_COMBINE);
    op->operand[0] = x, op->operand[1] = made, op->operand[2] = experts, op->operand[3] = weights;
    op->i[0] = N_EXPERTS;
}

static inline void tiny_layer(struct tiny_model *m, int32_t *n, struct asdsl_operand x, struct asdsl_operand act) {
    struct asdsl_operand norm = tiny_operand(m, ASDSL_F32, ASDSL_ROWS, 1, DIM), qkv = tiny_rows(m, QKV);
    struct asdsl_operand inv_freq = tiny_operand(m, ASDSL_F32, ASDSL_ROWS, 1, HEAD_DIM / 2);
    struct asdsl_operand angles = tiny_rows(m, HEAD_DIM), mixed = tiny_rows(m, DIM), hidden = tiny_rows(m, FFN);
    struct asdsl_operand act_256 = tiny_operand(m, ASDSL_ACT_Q8_256, ASDSL_ROWS, MAX_TOKENS_TINY, FFN);
    struct asdsl_op *op = tiny_op(m, n, ASDSL_OP_ROPE_TABLE);
    op->operand[0] = angles, op->operand[1] = inv_freq, op->f[0] = 1;
    op = tiny_op(m, n, ASDSL_OP_RMS_NORM);
    op->operand[0] = x, op->operand[1] = norm, op->operand[3] = act, op->f[0] = 1e-5f;
    op = tiny_op(m, n, ASDSL_OP_MATMUL);
    op->operand[0] = qkv, op->operand[1] = act, op->operand[2] = tiny_weight(m, ASDSL_Q4_1, DIM, DIM);
    op->operand[3] = tiny_weight(m, ASDSL_Q8_0, KV_DIM, DIM), op->operand[4] = tiny_weight(m, ASDSL_Q4_0, KV_DIM, DIM);
    op->operand[6] = tiny_operand(m, ASDSL_F32, ASDSL_ROWS, 1, KV_DIM);
    for (int part = 0; part < 2; part++) { /* q, k */
        op = tiny_op(m, n, ASDSL_OP_ROPE);
        op->operand[0] = qkv, op->operand[1] = angles;
        op->i[0] = part ? DIM : 0, op->i[1] = part ? N_KV_HEADS : N_HEADS, op->i[2] = op->i[3] = HEAD_DIM;
    }
    op = tiny_op(m, n, ASDSL_OP_KV_APPEND);
    op->operand[0] = tiny_view(qkv, DIM, KV_DIM), op->operand[1] = tiny_view(qkv, DIM + KV_DIM, KV_DIM);
    op->i[0] = N_KV_HEADS, op->i[1] = HEAD_DIM;
    op = tiny_op(m, n, ASDSL_OP_ATTENTION);
    op->operand[0] = tiny_view(qkv, 0, DIM), op->operand[1] = mixed;
    op->i[0] = N_HEADS, op->i[1] = N_KV_HEADS, op->i[2] = HEAD_DIM, op->f[0] = 0.125f;
    op = tiny_op(m, n, ASDSL_OP_QUANTIZE);
    op->operand[0] = mixed, op->operand[1] = act;
    op = tiny_op(m, n, ASDSL_OP_MATMUL_ADD);
    op->operand[0] = x, op->operand[1] = act, op->operand[2] = tiny_weight(m, ASDSL_Q4_0, DIM, DIM);
    op = tiny_op(m, n, ASDSL_OP_RMS_NORM_ADD);
    op->operand[0] = x, op->operand[1] = mixed, op->operand[2] = norm, op->f[0] = 1e-5f;
    op = tiny_op(m, n, ASDSL_OP_RMS_NORM);
    op->operand[0] = x, op->operand[1] = norm, op->operand[2] = mixed, op->operand[3] = act, op->f[0] = 1e-5f;
    op = tiny_op(m, n, ASDSL_OP_GATE_UP);
    op->operand[0] = hidden, op->operand[1] = act;
    op->operand[2] = tiny_weight(m, ASDSL_Q8_0, FFN, DIM), op->operand[3] = tiny_weight(m, ASDSL_Q8_0, FFN, DIM);
    op = tiny_op(m, n, ASDSL_OP_QUANTIZE);
    op->operand[0] = hidden, op->operand[2] = act_256;
    op = tiny_op(m, n, ASDSL_OP_MATMUL_ADD);
    op->operand[0] = x, op->operand[1] = act_256, op->operand[2] = tiny_weight(m, ASDSL_Q6_K, DIM, FFN);
    tiny_moe(m, n, x, mixed, act);
}

static inline void tiny_model(struct tiny_model *m) {
    int32_t n = 0;
    memset(m, 0, sizeof *m);
    m->options =
        (struct asdsl_program_options){MAX_TOKENS_TINY, MAX_OUTPUTS_TINY, TOP_K_TINY, VOCAB, ASDSL_PREFILL_EXACT};
    m->kv = (struct asdsl_kv_options){1, N_KV_HEADS, HEAD_DIM, 64, ASDSL_F16, ASDSL_F16};
    struct asdsl_operand x = tiny_rows(m, DIM),
                         act = tiny_operand(m, ASDSL_ACT_Q8_32, ASDSL_ROWS, MAX_TOKENS_TINY, DIM);
    struct asdsl_operand logits = tiny_rows(m, VOCAB), last = tiny_rows(m, DIM);
    struct asdsl_op *op = tiny_op(m, &n, ASDSL_OP_EMBED);
    op->operand[0] = x, op->operand[1] = tiny_weight(m, ASDSL_F16, VOCAB, DIM), op->f[0] = 1;
    tiny_layer(m, &n, x, act);
    op = tiny_op(m, &n, ASDSL_OP_GATHER_OUTPUTS);
    op->operand[0] = last, op->operand[1] = x;
    op = tiny_op(m, &n, ASDSL_OP_RMS_NORM); /* in place */
    op->operand[0] = last, op->operand[1] = tiny_operand(m, ASDSL_F32, ASDSL_ROWS, 1, HEAD_DIM), op->operand[2] = last;
    op->i[0] = N_HEADS, op->f[0] = 1e-5f, op->flags = ASDSL_ROWS_OUTPUTS;
    op = tiny_op(m, &n, ASDSL_OP_MATMUL);
    op->operand[0] = logits, op->operand[1] = last, op->operand[2] = tiny_weight(m, ASDSL_BF16, VOCAB, DIM);
    op->flags = ASDSL_ROWS_OUTPUTS;
    op = tiny_op(m, &n, ASDSL_OP_TOP_K);
    op->operand[0] = logits;
    CHECK(n == N_OPS_TINY, "%d records, not %d", n, N_OPS_TINY);
}

/* Small floats everywhere; quantised weights get the same bytes, whose scales are then small too. */
static inline void tiny_fill(const struct tiny_model *m, uint8_t *data, uint64_t seed) {
    uint64_t state = seed;
    for (uint64_t i = 0; i + 4 <= m->used; i += 4) {
        /* Two f16, bf16 or the top of an f32 of size 2^-4 .. 1 or so: exponents 11 .. 14 of f16. */
        uint32_t bits = random_u32(&state);
        bits = (bits & 0x83ff83ff) | 0x2c002c00 | (bits >> 3 & 0x0c000c00);
        memcpy(data + i, &bits, 4);
    }
}

#endif
