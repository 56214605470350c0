/* layout.c: facts of types, sizes of layouts, and one weight out of a group of rows. No instruction set, no threads. */
#include "layout.h"

static const struct type_facts facts[] = {
    {"f32", ASDSL_F32, 1, 4, ASDSL_ACT_F32},          {"f16", ASDSL_F16, 1, 2, ASDSL_ACT_F32},
    {"bf16", ASDSL_BF16, 1, 2, ASDSL_ACT_F32},        {"q4_0", ASDSL_Q4_0, 32, 18, ASDSL_ACT_Q8_32},
    {"q4_1", ASDSL_Q4_1, 32, 20, ASDSL_ACT_Q8_32},    {"q8_0", ASDSL_Q8_0, 32, 34, ASDSL_ACT_Q8_32},
    {"q4_k", ASDSL_Q4_K, 256, 144, ASDSL_ACT_Q8_256}, {"q6_k", ASDSL_Q6_K, 256, 210, ASDSL_ACT_Q8_256},
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

/* The kernels keep a tile's sums in registers and unpack weights there too: nothing per thread. */
size_t matmul_scratch_bytes(int32_t max_cols) {
    (void)max_cols;
    return 0;
}

static uint32_t u16_at(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static float f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static float f16_at(const uint8_t *p) {
    uint32_t h = u16_at(p), sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Input i (0-31) of row r out of 4 lines of nibbles. */
static int32_t nibble_at(const uint8_t *lines, int32_t r, int32_t i) {
    uint8_t byte = lines[i % 16 / 4 * LINE + 4 * r + i % 4];
    return i < 16 ? byte & 15 : byte >> 4;
}

static struct element q4_k_element(const uint8_t *record, int32_t r, int32_t i) {
    int32_t j = i / 32, at = r / 4 * 16 + j % 4 * 4 + r % 4, shift = j < 4 ? 0 : 4;
    int32_t tops = record[192 + at] >> shift / 2, scale = record[64 + at] >> shift & 15;
    int32_t minimum = record[128 + at] >> shift & 15;
    scale |= (tops & 3) << 4;
    minimum |= (tops >> 4 & 3) << 4;
    return (struct element){.scale = f16_at(record + 2 * r) * (float)scale,
                            .offset = -(f16_at(record + 32 + 2 * r) * (float)minimum),
                            .q = nibble_at(record + 4 * LINE + 4 * LINE * j, r, i % 32)};
}

static struct element q6_k_element(const uint8_t *group, int32_t cols, int32_t r, int32_t k) {
    const uint8_t *d = group + (size_t)k / 256 * 32 + 2 * r;
    const uint8_t *record = group + q6_k_header_bytes(cols) + (size_t)k / 256 * Q6_K_RECORD;
    int32_t i = k % 256, half = i / 128, quarter = i % 128 / 32, l = i % 32;
    int32_t low = half * 64 + quarter % 2 * 32 + l, high = half * 32 + l, sub = i / 16; /* bytes of the GGUF block */
    uint8_t ql = record[low / 4 * LINE + 4 * r + low % 4], qh = record[32 * LINE + high / 4 * LINE + 4 * r + high % 4];
    int8_t scale = (int8_t)record[48 * LINE + sub / 4 * LINE + 4 * r + sub % 4];
    int32_t q = (quarter < 2 ? ql & 15 : ql >> 4) | (qh >> 2 * quarter & 3) << 4;
    return (struct element){.scale = f16_at(d) * (float)scale, .q = q - 32};
}

struct element layout_element(int32_t type, const void *group, int32_t cols, int32_t r, int32_t k) {
    const uint8_t *at = group;
    size_t block = (size_t)k / 32, pair = block / 2, odd = block % 2;
    int32_t i = k % 32;
    switch (type) {
    case ASDSL_F32: return (struct element){.scale = f32_from_bits(u16_at(at + 64 * (size_t)k + 4 * r) |
                                                                   u16_at(at + 64 * (size_t)k + 4 * r + 2) << 16), .q = 1};
    case ASDSL_F16: return (struct element){.scale = f16_at(at + 32 * (size_t)k + 2 * r), .q = 1};
    case ASDSL_BF16: return (struct element){.scale = f32_from_bits(u16_at(at + 32 * (size_t)k + 2 * r) << 16), .q = 1};
    case ASDSL_Q4_1:
        at += block * Q4_1_RECORD;
        return (struct element){f16_at(at + 2 * r), f16_at(at + 32 + 2 * r), nibble_at(at + LINE, r, i)};
    case ASDSL_Q4_0:
        at += pair * Q4_0_PAIR;
        return (struct element){.scale = f16_at(at + 32 * odd + 2 * r),
                                .q = nibble_at(at + LINE + 4 * LINE * odd, r, i) - 8};
    case ASDSL_Q8_0:
        at += pair * Q8_0_PAIR;
        return (struct element){.scale = f16_at(at + 32 * odd + 2 * r),
                                .q = (int8_t)at[LINE + 8 * LINE * odd + (size_t)i / 4 * LINE + 4 * r + i % 4]};
    case ASDSL_Q4_K: return q4_k_element(at + (size_t)k / 256 * Q4_K_RECORD, r, k % 256);
    case ASDSL_Q6_K: return q6_k_element(at, cols, r, k);
    default: return (struct element){0};
    }
}
