/* layout.c: facts of types and sizes of layouts. No instruction set, no threads. */
#include "layout.h"

static const struct type_facts facts[] = {
    {"f32", ASDSL_F32, 1, 4, ASDSL_ACT_F32},
    {"f16", ASDSL_F16, 1, 2, ASDSL_ACT_F32},
    {"bf16", ASDSL_BF16, 1, 2, ASDSL_ACT_F32},
    {"q4_0", ASDSL_Q4_0, 32, 18, ASDSL_ACT_Q8_32},
    {"q4_1", ASDSL_Q4_1, 32, 20, ASDSL_ACT_Q8_32},
    {"q5_0", ASDSL_Q5_0, 32, 22, ASDSL_ACT_Q8_32},
    {"q5_1", ASDSL_Q5_1, 32, 24, ASDSL_ACT_Q8_32},
    {"iq4_nl", ASDSL_IQ4_NL, 32, 18, ASDSL_ACT_Q8_32},
    {"q8_0", ASDSL_Q8_0, 32, 34, ASDSL_ACT_Q8_32},
    {"q2_k", ASDSL_Q2_K, 256, 84, ASDSL_ACT_Q8_256},
    {"q3_k", ASDSL_Q3_K, 256, 110, ASDSL_ACT_Q8_256},
    {"q4_k", ASDSL_Q4_K, 256, 144, ASDSL_ACT_Q8_256},
    {"q5_k", ASDSL_Q5_K, 256, 176, ASDSL_ACT_Q8_256},
    {"q6_k", ASDSL_Q6_K, 256, 210, ASDSL_ACT_Q8_256},
    {"iq4_xs", ASDSL_IQ4_XS, 256, 136, ASDSL_ACT_Q8_256},
};

const struct type_facts *type_facts(int32_t type) {
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].type == type) return &facts[i];
    return NULL;
}

double interleaved_bytes(const struct type_facts *t, int32_t rows, int32_t cols) {
    if (rows < 0 || cols < 0 || cols % t->block) return -1;
    uint64_t groups = ((uint64_t)(uint32_t)rows + KERNEL_ROWS - 1) / KERNEL_ROWS;
    return (double)groups * (double)group_bytes(t->type, cols);
}

size_t activation_row_bytes(int32_t act_type, int32_t cols) {
    size_t n = (size_t)(uint32_t)cols, bytes = 0;
    switch (act_type) {
    case ASDSL_ACT_F32: bytes = 4 * n; break;
    case ASDSL_ACT_Q8_32: bytes = (n + 31) / 32 * sizeof(struct act_q8_32); break;
    case ASDSL_ACT_Q8_256: bytes = (n + 255) / 256 * sizeof(struct act_q8_256); break;
    default: return 0;
    }
    return (bytes + 63) / 64 * 64;
}

/* Of matmul_panel.h; what else is unpacked stays in registers. */
size_t matmul_scratch_bytes(void) { return PANELS_BYTES; }
