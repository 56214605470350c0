/* engine_validate.c: records that must be refused, each with its reason, and random ones that must not hurt.
 *
 * Oracles: the words of the error; the bytes after every buffer, which no accepted record may change.
 */
#include "../asdsl.h"
#include "../program.h"
#include "temporary.h"
#include "tiny_model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FUZZ_ROUNDS = 60000 };

static struct tiny_model model;
static asdsl_handle engine, buffers[2], kv;

static asdsl_handle create_one(const struct asdsl_op *op) {
    return asdsl_program_create(engine, op, 1, buffers, 2, &model.options);
}

static void refuse(const struct asdsl_op *op, const char *text, int line) {
    asdsl_handle program = create_one(op);
    CHECK(program == 0, "line %d: accepted, \"%s\" was expected", line, text);
    CHECK(program || strstr(asdsl_last_error(), text), "line %d: \"%s\", not \"%s\"", line, asdsl_last_error(), text);
    CHECK(program || strncmp(asdsl_last_error(), "op 0", 4) == 0, "line %d: %s", line, asdsl_last_error());
    asdsl_release(program);
}

/* The op of that code, changed, is refused with that text. */
#define REFUSED(CODE, text, ...)                                                                                       \
    do {                                                                                                               \
        struct asdsl_op op = model.ops[tiny_find(&model, ASDSL_OP_##CODE)];                                            \
        struct asdsl_operand *o = op.operand;                                                                          \
        (void)o;                                                                                                       \
        __VA_ARGS__;                                                                                                   \
        refuse(&op, text, __LINE__);                                                                                   \
    } while (0)

static void test_operands(void) {
    REFUSED(EMBED, "operation 17 is not known", op.code = ASDSL_OP_COUNT);
    REFUSED(EMBED, "operation 4294967295 is not known", op.code = UINT32_MAX);
    REFUSED(EMBED, "unknown flags 0x2", op.flags = 2);
    REFUSED(EMBED, "reserved is 7", op.reserved = 7);
    REFUSED(EMBED, "layer 65536", op.layer = 65536);
    REFUSED(EMBED, "runs over tokens", op.flags = ASDSL_ROWS_OUTPUTS);
    REFUSED(EMBED, "integer 0 is 1", op.i[0] = 1);
    REFUSED(EMBED, "float 3 is", op.f[3] = NAN);
    REFUSED(RMS_NORM, "float 0 is inf", op.f[0] = INFINITY);
    REFUSED(EMBED, "operand 0 (out): is missing", o[0].buffer = ASDSL_NO_BUFFER);
    REFUSED(EMBED, "operand 2 (): not an operand", o[2].buffer = 0);
    REFUSED(EMBED, "buffer 2 of 2", o[0].buffer = 2);
    REFUSED(EMBED, "weight type 99 is not known", o[1].type = 99);
    REFUSED(EMBED, "weight type 3000000000 is not known", o[1].type = 3000000000u);
    REFUSED(EMBED, "layout is 2, not 1", o[1].layout = 2);
    REFUSED(EMBED, "type 1 does not fit", o[0].type = ASDSL_F16);
    REFUSED(EMBED, "0 rows", o[1].rows = 0);
    REFUSED(EMBED, "4294967295 rows", o[1].rows = UINT32_MAX);
    REFUSED(EMBED, "columns", o[0].cols = o[1].cols = UINT32_MAX);
    REFUSED(EMBED, "stride 255, 256 (its columns)", o[0].stride = 255);
    REFUSED(EMBED, "stride 4294967295", o[0].stride = UINT32_MAX);
    REFUSED(EMBED, "weights have none", o[1].stride = 4);
    REFUSED(EMBED, "7 rows, a pass may have 8", o[0].rows = 7);
    REFUSED(EMBED, "not a multiple of 64", o[0].offset += 32);
    REFUSED(EMBED, "needs 8192 bytes at offset 18446744073709551552", o[0].offset = UINT64_MAX - 63);
    REFUSED(EMBED, "bytes at offset", o[1].offset = model.used - 64);
    REFUSED(EMBED, "read-only map", o[0].buffer = 1, o[0].offset = 0);
    REFUSED(EMBED, "out overlaps table", o[0].offset = o[1].offset);
    REFUSED(MATMUL, "are not a multiple of the 32 of a q4_1 block", o[2].cols = 250);
    REFUSED(QUANTIZE, "stride is 64", o[1].stride = 64);
    REFUSED(QUANTIZE, "columns are not a multiple of its blocks of 32", o[1].cols = o[0].cols = 250);
}

static void test_shapes(void) {
    REFUSED(EMBED, "out has 192 columns, the table 256", o[0].cols = 192);
    REFUSED(EMBED, "the table has 95 rows, the vocabulary 96", o[1].rows = 95);
    REFUSED(EMBED, "scale is 0", op.f[0] = 0);
    REFUSED(RMS_NORM, "weight has 192 values", o[1].cols = 192);
    REFUSED(RMS_NORM, "3 heads do not divide 256", op.i[0] = 3);
    REFUSED(RMS_NORM, "-1 heads", op.i[0] = -1);
    REFUSED(RMS_NORM, "eps is -1", op.f[0] = -1);
    REFUSED(RMS_NORM, "no output", o[3].buffer = ASDSL_NO_BUFFER);
    REFUSED(RMS_NORM, "in has 256 columns, out 128", o[3].cols = 128);
    REFUSED(RMS_NORM, "out_f32 overlaps in", o[2] = o[0], o[2].offset += 64);
    REFUSED(RMS_NORM_ADD, "in has 256 columns, out 192", o[0].cols = 192);
    REFUSED(RMS_NORM_ADD, "weight has 192 values, a row of 256 columns needs 256", o[2].cols = 192);
    REFUSED(RMS_NORM_ADD, "eps is -1", op.f[0] = -1);
    REFUSED(RMS_NORM_ADD, "out overlaps in", o[0] = o[1]);
    REFUSED(QUANTIZE, "no output", o[1].buffer = ASDSL_NO_BUFFER);
    REFUSED(MATMUL, "weights have 128 inputs, activations 256", o[3].cols = 128);
    REFUSED(MATMUL, "take activations of type 101, not 0", o[1] = model.ops[0].operand[0]);
    REFUSED(MATMUL, "weights have 496 outputs, out 512 columns", o[2].rows = 240);
    REFUSED(MATMUL, "their bias 64", o[6].cols = 64);
    REFUSED(MATMUL, "a bias without its weights", o[3].buffer = ASDSL_NO_BUFFER);
    REFUSED(MATMUL, "w2 without w1", o[3].buffer = o[6].buffer = ASDSL_NO_BUFFER);
    REFUSED(MATMUL, "out overlaps in", o[0].offset = o[1].offset);
    REFUSED(MATMUL, "out overlaps w0", o[0].offset = o[2].offset);
    REFUSED(MATMUL, "softcap is -2", op.f[0] = -2);
    REFUSED(MATMUL_ADD, "float 0 is 1", op.f[0] = 1);
    REFUSED(MATMUL_ADD, "operand 3 (-): not an operand", o[3] = o[2]);
    REFUSED(GATE_UP, "gate is of type 8, up of type 2", o[3].type = ASDSL_Q4_0);
    REFUSED(GATE_UP, "activation 2 is not known", op.i[0] = 2);
    REFUSED(GATE_UP, "gate has 512 outputs, up 496", o[3].rows = 496);
    REFUSED(ROPE_TABLE, "frequencies need 32", o[1].cols = 16);
    REFUSED(ROPE, "head_dim is 63", op.i[2] = 63);
    REFUSED(ROPE, "do not fit rows of 512", op.i[0] = 512);
    REFUSED(ROPE, "do not fit rows of 512", op.i[0] = INT32_MAX, op.i[1] = 65536, op.i[2] = 1024);
    REFUSED(ROPE, "do not fit rows of 512", op.i[0] = -64);
    REFUSED(ROPE, "n_rot is 66", op.i[3] = 66);
    REFUSED(ROPE, "the table has 64 columns, n_rot is 32", op.i[3] = 32);
    REFUSED(ROPE, "mode 2", op.i[4] = 2);
    REFUSED(KV_APPEND, "k has 128 columns, 3 heads of 64", op.i[0] = 3);
    REFUSED(KV_APPEND, "head_dim is 0", op.i[1] = 0);
    REFUSED(ATTENTION, "4 query heads over 3 key heads", op.i[1] = 3);
    REFUSED(ATTENTION, "window is -1", op.i[3] = -1);
    REFUSED(ATTENTION, "softcap is -2", op.f[1] = -2);
    REFUSED(ATTENTION, "out overlaps q", o[1].offset = o[0].offset);
    REFUSED(GATHER_OUTPUTS, "in has 256 columns, out 192", o[0].cols = 192);
    REFUSED(TOP_K, "logits have 112 columns", o[0].cols = 112, o[0].stride = 112);
}

static void test_experts(void) {
    REFUSED(QUANTIZE, "8 rows, a pass may have 16", op.i[0] = 2);
    REFUSED(QUANTIZE, "-1 slots", op.i[0] = -1);
    REFUSED(QUANTIZE, "1025 slots, 0 to 1024", op.i[0] = 1025, o[0].rows = o[1].rows = 8200, o[0].cols = o[1].cols = 32,
            o[0].stride = 32, o[0].offset = o[1].offset = 0);
    REFUSED(MOE_ROUTE, "2 ids, 1 weights", o[2].cols = 1);
    REFUSED(MOE_ROUTE, "6 of 5 experts", o[1].cols = o[2].cols = 6, o[1].stride = o[2].stride = 6);
    REFUSED(MOE_ROUTE, "normalise is 2", op.i[0] = 2);
    REFUSED(MOE_ROUTE, "scale is 0", op.f[0] = 0);
    REFUSED(MOE_ROUTE, "operand 1 (experts): type 0 does not fit", o[1].type = ASDSL_F32);
    REFUSED(MOE_ROUTE, "operand 0 (in): type 26 does not fit", o[0].type = ASDSL_I32);
    REFUSED(MOE_ROUTE, "experts overlaps in", o[1].offset = o[0].offset);
    REFUSED(MOE_GATE_UP, "0 experts, 1 to 1024", op.i[0] = 0);
    REFUSED(MOE_GATE_UP, "1025 experts", op.i[0] = 1025);
    REFUSED(MOE_GATE_UP, "bytes at offset", op.i[0] = 1024);
    REFUSED(MOE_GATE_UP, "2 of 1 experts", op.i[0] = 1);
    REFUSED(MOE_GATE_UP, "out overlaps gate", o[3].offset = o[0].offset);
    REFUSED(MOE_GATE_UP, "16 rows, a pass may have 24", o[2].cols = o[2].stride = 3);
    REFUSED(MOE_GATE_UP, "a pass may have 34359738360", o[2].cols = UINT32_MAX);
    REFUSED(MOE_GATE_UP, "gate is of type 8, up of type 2", o[4].type = ASDSL_Q4_0);
    REFUSED(MOE_GATE_UP, "gate has 96 outputs, up 80", o[4].rows = 80);
    REFUSED(MOE_GATE_UP, "weights have 80 outputs, out 96", o[3].rows = o[4].rows = 80);
    REFUSED(MOE_GATE_UP, "is missing", o[4].buffer = ASDSL_NO_BUFFER);
    REFUSED(MOE_DOWN, "weights have 64 inputs, activations 96", o[3].cols = 64);
    REFUSED(MOE_DOWN, "weights have 240 outputs, out 256", o[3].rows = 240);
    REFUSED(MOE_DOWN, "operand 1 (in): 8 rows, a pass may have 16", o[1].rows = 8);
    REFUSED(MOE_COMBINE, "in has 240 columns, x 256", o[1].cols = 240);
    REFUSED(MOE_COMBINE, "2 ids, 1 weights", o[3].cols = 1);
    REFUSED(MOE_COMBINE, "2 of 1 experts", op.i[0] = 1);
    REFUSED(MOE_COMBINE, "0 experts", op.i[0] = 0);
    REFUSED(MOE_COMBINE, "x overlaps in", o[0].offset = o[1].offset);
}

static void test_accepted(void) {
    asdsl_handle all = asdsl_program_create(engine, model.ops, N_OPS_TINY, buffers, 2, &model.options);
    CHECK(all, "%s", asdsl_last_error());
    asdsl_release(all);
    /* Views of one matrix whose columns lie side by side do not overlap: attention back into the v columns. */
    struct asdsl_op op = model.ops[tiny_find(&model, ASDSL_OP_ATTENTION)];
    op.operand[1] = tiny_view(op.operand[0], DIM, DIM);
    asdsl_handle program = create_one(&op);
    CHECK(program, "%s", asdsl_last_error());
    asdsl_release(program);
    op.operand[1].offset -= 64;
    CHECK(create_one(&op) == 0 && strstr(asdsl_last_error(), "out overlaps q"), "%s", asdsl_last_error());
}

static void test_options(void) {
    static const struct {
        struct asdsl_program_options options;
        const char *text;
    } wrong[] = {
        {{0, 1, 1, VOCAB, 0}, "max_tokens is 0"},    {{70000, 1, 1, VOCAB, 0}, "max_tokens is 70000"},
        {{8, -1, 1, VOCAB, 0}, "max_outputs is -1"}, {{8, 70000, 1, VOCAB, 0}, "max_outputs is 70000"},
        {{8, 1, -1, VOCAB, 0}, "max_top_k is -1"},   {{8, 1, VOCAB + 1, VOCAB, 0}, "max_top_k is 97"},
        {{8, 1, 1, 0, 0}, "n_vocab is 0"},           {{8, 1, 1, INT32_MAX, 0}, "n_vocab is 2147483647"},
        {{8, 1, 1, VOCAB, -1}, "prefill is -1"},     {{8, 1, 1, VOCAB, 2}, "prefill is 2"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(asdsl_program_create(engine, model.ops, N_OPS_TINY, buffers, 2, &wrong[i].options) == 0 &&
                  strstr(asdsl_last_error(), wrong[i].text),
              "%s: %s", wrong[i].text, asdsl_last_error());
    }
    /* A parameter block of 65536 * 2^24 candidates. */
    struct asdsl_op op = model.ops[tiny_find(&model, ASDSL_OP_ROPE_TABLE)];
    struct asdsl_program_options huge = {8, 65536, 1 << 24, 1 << 24, 0};
    CHECK(asdsl_program_create(engine, &op, 1, buffers, 2, &huge) == 0 && strstr(asdsl_last_error(), "parameter block"),
          "%s", asdsl_last_error());
    const struct asdsl_program_options *o = &model.options;
    CHECK(asdsl_program_create(engine, NULL, 1, buffers, 2, o) == 0, "ops NULL");
    CHECK(asdsl_program_create(engine, model.ops, 1, NULL, 2, o) == 0, "buffers NULL");
    CHECK(asdsl_program_create(engine, model.ops, 1, buffers, 2, NULL) == 0, "options NULL");
    CHECK(asdsl_program_create(engine, model.ops, 0, buffers, 2, o) == 0, "no ops");
    CHECK(asdsl_program_create(engine, model.ops, INT32_MAX, buffers, 2, o) == 0, "too many ops");
    CHECK(asdsl_program_create(engine, model.ops, 1, buffers, -1, o) == 0, "-1 buffers");
    CHECK(asdsl_program_create(buffers[0], model.ops, 1, buffers, 2, o) == 0, "a buffer as engine");
    CHECK(asdsl_program_create(engine, model.ops, 1, (asdsl_handle[]){buffers[0], engine}, 2, o) == 0,
          "an engine as buffer");
}

/* ---- random records ---- */
static uint64_t state = 20260101;
static uint32_t pick(uint32_t n) { return random_u32(&state) % n; }

static uint32_t odd_number(uint32_t old) {
    static const uint32_t numbers[] = {0,   1,    2,     3,          7,           8,           15,
                                       16,  17,   31,    32,         64,          100,         128,
                                       256, 1024, 65536, 0x7fffffff, 0x80000000u, 0xfffffff0u, 0xffffffffu};
    switch (pick(4)) {
    case 0: return numbers[pick(sizeof numbers / sizeof *numbers)];
    case 1: return old + pick(9) - 4;
    case 2: return old * 2;
    default: return pick(3) ? old / 2 : random_u32(&state);
    }
}

static void mutate(struct asdsl_op *op) {
    struct asdsl_operand *o = &op->operand[pick(6)];
    uint32_t i = pick(8);
    switch (pick(14)) {
    case 0: op->code = pick(ASDSL_OP_COUNT + 1); break;
    case 1: op->flags ^= pick(2); break;
    case 2: op->layer = odd_number(op->layer); break;
    case 3: o->buffer = pick(4) ? pick(3) : ASDSL_NO_BUFFER; break;
    case 4:
        o->type = pick(4) ? (uint32_t)(int32_t[]){0, 1, 2, 3, 8, 12, 14, 26, 30, 100, 101, 102}[pick(12)] : pick(200);
        break;
    case 5: o->offset += 64 * (uint64_t)pick(64); break;
    case 6: o->offset = pick(2) ? model.used - 64 * (uint64_t)pick(4096) : (uint64_t)odd_number(64) << pick(40); break;
    case 7: o->rows = odd_number(o->rows); break;
    case 8: o->cols = odd_number(o->cols); break;
    case 9: o->stride = odd_number(o->stride); break;
    case 10: o->layout = pick(3); break;
    case 11: op->i[i] = (int32_t)odd_number((uint32_t)op->i[i]); break;
    case 12: op->f[i] = pick(3) ? (float)(int32_t)odd_number(1) : (pick(2) ? NAN : INFINITY); break;
    default: *o = model.ops[pick(N_OPS_TINY)].operand[pick(6)]; break;
    }
}

/* Runs what the validator let through with as many rows as a pass may have. Returns whether it did. */
static int run_accepted(asdsl_handle program) {
    struct asdsl_params *p = asdsl_program_params(program);
    p->n_tokens = 1 + (int32_t)pick(MAX_TOKENS_TINY);
    p->n_outputs = p->n_tokens < MAX_OUTPUTS_TINY ? p->n_tokens : MAX_OUTPUTS_TINY;
    p->top_k = (int32_t)pick(TOP_K_TINY + 1);
    p->position = asdsl_kv_length(kv);
    int32_t *tokens = (void *)((uint8_t *)p + p->tokens_offset), *outputs = (void *)((uint8_t *)p + p->outputs_offset);
    for (int32_t t = 0; t < p->n_tokens; t++) tokens[t] = (int32_t)pick(VOCAB);
    for (int32_t j = 0; j < p->n_outputs; j++) outputs[j] = j + p->n_tokens - p->n_outputs;
    int32_t status = asdsl_run(program, kv, 0, 1);
    CHECK(status == ASDSL_OK || (status < 0 && asdsl_last_error()[0]), "status %d without a text", status);
    asdsl_kv_truncate(kv, 0);
    return status == ASDSL_OK;
}

static void test_fuzz(void) {
    int accepted = 0, ran = 0;
    const uint8_t *data = asdsl_buffer_data(buffers[0]);
    for (int round = 0; round < FUZZ_ROUNDS; round++) {
        struct asdsl_op op = model.ops[pick(N_OPS_TINY)];
        for (uint32_t n = 1 + pick(4); n > 0; n--) mutate(&op);
        if (pick(500) == 0) {
            for (size_t i = 0; i < sizeof op; i++) ((uint8_t *)&op)[i] = (uint8_t)random_u32(&state);
        }
        asdsl_handle program = create_one(&op);
        CHECK(program || strncmp(asdsl_last_error(), "op 0", 4) == 0, "refused without a reason: %s",
              asdsl_last_error());
        if (!program) continue;
        accepted++;
        ran += run_accepted(program);
        asdsl_release(program);
        for (int i = 0; i < BUFFER_PADDING; i++) {
            CHECK(data[model.used + (uint64_t)i] == 0, "round %d: op %u wrote past its buffer", round, op.code);
        }
    }
    CHECK(accepted > FUZZ_ROUNDS / 200, "only %d of %d were accepted: the fuzzer shows nothing", accepted, FUZZ_ROUNDS);
    CHECK(ran > accepted / 4, "only %d of %d accepted ones ran", ran, accepted);
    CHECK(accepted < FUZZ_ROUNDS * 3 / 4, "%d of %d were accepted: the fuzzer shows nothing", accepted, FUZZ_ROUNDS);
}

int main(void) {
    char path[600];
    struct asdsl_engine_options options = {.n_threads = 2, .level = ASDSL_LEVEL_AUTO, .spin_us = -1, .pin = 1};
    tiny_model(&model);
    temporary_path(path);
    FILE *stream = temporary_open(path, "wb");
    if (!stream) return 1;
    for (uint64_t i = 0; i < model.used; i++) fputc(0, stream);
    fclose(stream);
    engine = asdsl_engine_create(&options);
    buffers[0] = asdsl_buffer_create((double)model.used);
    buffers[1] = asdsl_buffer_map(path);
    kv = asdsl_kv_create(&model.kv);
    CHECK(engine && buffers[0] && buffers[1] && kv, "%s", asdsl_last_error());
    tiny_fill(&model, asdsl_buffer_data(buffers[0]), 3);
    test_accepted();
    test_operands();
    test_shapes();
    test_experts();
    test_options();
    test_fuzz();
    for (int i = 0; i < 2; i++) CHECK(asdsl_release(buffers[i]) == ASDSL_OK, "%s", asdsl_last_error());
    temporary_remove(path);
    CHECK(asdsl_release(kv) == ASDSL_OK && asdsl_release(engine) == ASDSL_OK, "%s", asdsl_last_error());
    return check_report("engine_validate");
}
