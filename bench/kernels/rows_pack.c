/* rows_pack.c: rows as in a GGUF file -> rows.h's records, and quantised activations -> its order. Slow and plain.
 *
 * Formats of blocks: ggml's block_q4_1, block_q5_0, block_q8_0, block_q4_K, block_q6_K.
 */
#include "rows.h"
#include "../../csrc/kernels/layout.h"
#include <stdbool.h>

/* Where things go: line l behind `at`, lane `lane`, byte i. */
static uint8_t *byte_at(uint8_t *at, struct shape s, int32_t l, int32_t lane, int32_t i) {
    return at + 4 * s.lanes * l + 4 * lane + i;
}

struct source {
    const uint8_t *from;
    size_t row_bytes, block_bytes;
    int32_t n_rows;
};

/* Block b of row `row`; NULL past the matrix. */
static const uint8_t *block_at(const struct source *m, int32_t row, int32_t b) {
    return row < m->n_rows ? m->from + (size_t)row * m->row_bytes + (size_t)b * m->block_bytes : NULL;
}

/* 16 bytes of nibbles of a block of 32: ggml's order is that of lines already. */
static void put_nibbles(uint8_t *lines, struct shape s, int32_t lane, const uint8_t *qs) {
    for (int32_t i = 0; i < 16; i++) *byte_at(lines, s, i / 4, lane, i % 4) = qs[i];
}

/* ggml's 32 fifth bits, bit i of input i. */
static void put_fifth_bits(uint8_t *line, struct shape s, int32_t lane, const uint8_t *bits) {
    for (int32_t i = 0; i < 32; i++) {
        *byte_at(line, s, 0, lane, i % 4) |= (uint8_t)((bits[i / 8] >> i % 8 & 1) << i / 4);
    }
}

static void pack_block_32(int32_t type, struct shape s, uint8_t *group, int32_t set, int32_t lane,
                          const uint8_t *block) {
    size_t line = 4 * (size_t)s.lanes;
    uint8_t *pair = group + (size_t)(set / 2) * line * (type == ASDSL_Q5_0 ? 11 : 17), *at;
    switch (type) {
    case ASDSL_Q4_1:
        at = group + (size_t)set * 5 * line;
        memcpy(at + 2 * lane, block, 2);
        memcpy(at + line / 2 + 2 * lane, block + 2, 2);
        put_nibbles(at + line, s, lane, block + 4);
        break;
    case ASDSL_Q5_0:
        at = pair + line + (size_t)(set % 2) * 5 * line;
        memcpy(pair + (size_t)(set % 2) * line / 2 + 2 * lane, block, 2);
        put_fifth_bits(at, s, lane, block + 2);
        put_nibbles(at + line, s, lane, block + 6);
        break;
    default:
        at = pair + line + (size_t)(set % 2) * 8 * line;
        memcpy(pair + (size_t)(set % 2) * line / 2 + 2 * lane, block, 2);
        for (int32_t i = 0; i < 32; i++) *byte_at(at, s, i / 4, lane, i % 4) = block[2 + i];
    }
}

/* Input i of a q4_k block: 64 inputs share 32 bytes, the first 32 the low nibbles. */
static uint8_t q4_k_code(const uint8_t *block, int32_t i) {
    uint8_t byte = block[16 + i / 64 * 32 + i % 32];
    return i % 64 < 32 ? byte & 15 : byte >> 4;
}

/* Scale (which 0) or minimum (1) of sub-block j: ggml's get_scale_min_k4. */
static uint8_t q4_k_scale(const uint8_t *block, int32_t which, int32_t j) {
    const uint8_t *q = block + 4;
    if (j < 4) return q[j + 4 * which] & 63;
    uint8_t low = which ? q[j + 4] >> 4 : q[j + 4] & 15;
    return (uint8_t)(low | (q[j - 4 + 4 * which] >> 6) << 4);
}

static void pack_q4_k(struct shape s, uint8_t *record, int32_t row, const uint8_t *block) {
    int32_t rows = s.rows, parts = parts_of(s);
    memcpy(record + 2 * row, block, 2);
    memcpy(record + 2 * rows + 2 * row, block + 2, 2);
    for (int32_t j = 0; j < 8; j++) {
        int32_t at = row / 4 * 16 + j % 4 * 4 + row % 4, shift = j < 4 ? 0 : 4;
        uint8_t scale = q4_k_scale(block, 0, j), minimum = q4_k_scale(block, 1, j);
        record[4 * rows + at] |= (uint8_t)((scale & 15) << shift);
        record[8 * rows + at] |= (uint8_t)((minimum & 15) << shift);
        record[12 * rows + at] |= (uint8_t)((scale >> 4) << shift / 2 | (minimum >> 4) << (4 + shift / 2));
    }
    for (int32_t i = 0; i < 256; i++) {
        int32_t j = i / 32, lane = j % parts * rows + row;
        uint8_t *lines = record + 16 * rows + 4 * 4 * s.lanes * (j / parts);
        *byte_at(lines, s, i % 16 / 4, lane, i % 4) |= (uint8_t)(q4_k_code(block, i) << (i % 32 < 16 ? 0 : 4));
    }
}

/* Input i of a q6_k block as its 6 bits. */
static uint8_t q6_k_code(const uint8_t *block, int32_t i) {
    int32_t half = i / 128, quarter = i % 128 / 32, l = i % 32;
    uint8_t low = block[64 * half + 32 * (quarter % 2) + l], high = block[128 + 32 * half + l];
    return (uint8_t)((quarter < 2 ? low & 15 : low >> 4) | (high >> 2 * quarter & 3) << 4);
}

static void pack_q6_k(struct shape s, uint8_t *record, int32_t row, const uint8_t *block) {
    int32_t parts = parts_of(s);
    for (int32_t i = 0; i < 256; i++) {
        int32_t sub = i / 16, set = sub / parts, lane = sub % parts * s.rows + row, of_four = set % 4, l = i % 16 / 4;
        uint8_t *lines = record + 13 * 4 * s.lanes * (set / 4), code = q6_k_code(block, i);
        *byte_at(lines, s, 4 * (of_four % 2) + l, lane, i % 4) |= (uint8_t)((code & 15) << (of_four < 2 ? 0 : 4));
        *byte_at(lines, s, 8 + l, lane, i % 4) |= (uint8_t)(code >> 4 << 2 * of_four);
        *byte_at(lines, s, 12, lane, of_four) = block[192 + sub];
    }
}

void rows_pack(int32_t type, struct shape s, const uint8_t *from, int32_t n_rows, int32_t cols, uint8_t *to) {
    const struct type_facts *t = type_facts(type);
    int32_t blocks = cols / t->block, groups = (n_rows + s.rows - 1) / s.rows, parts = parts_of(s);
    size_t stride = rows_group_bytes(type, s, cols), size = (size_t)t->block_bytes;
    struct source m = {.from = from, .row_bytes = (size_t)blocks * size, .block_bytes = size, .n_rows = n_rows};
    memset(to, 0, stride * (size_t)groups);
    for (int32_t row = 0; row < groups * s.rows; row++)
        for (int32_t b = 0; b < blocks; b++) {
            uint8_t *group = to + (size_t)(row / s.rows) * stride;
            const uint8_t *block = block_at(&m, row, b);
            int32_t r = row % s.rows;
            if (!block) continue;
            if (type == ASDSL_Q4_K) {
                pack_q4_k(s, group + (size_t)b * 144 * (size_t)s.rows, r, block);
            } else if (type == ASDSL_Q6_K) {
                size_t header = (size_t)(blocks * 2 * s.rows + 63) / 64 * 64;
                memcpy(group + (size_t)b * 2 * (size_t)s.rows + 2 * r, block + 208, 2);
                pack_q6_k(s, group + header + (size_t)b * 208 * (size_t)s.rows, r, block);
            } else {
                pack_block_32(type, s, group, b / parts, b % parts * s.rows + r, block);
            }
        }
}

size_t rows_act_bytes(int32_t type, struct shape s, int32_t cols) {
    bool is_wide = type_facts(type)->activation == ASDSL_ACT_Q8_256;
    return is_wide ? (size_t)cols / 256 * act256_bytes(s) : (size_t)(cols / 32 / parts_of(s)) * act32_bytes(s);
}

/* Word `value` of lane values i behind p, for the lanes of part g. */
static void put_word(uint8_t *p, struct shape s, int32_t i, int32_t g, const void *value) {
    int32_t spread = spread_of(s);
    for (int32_t lane = spread == 1 ? 0 : g * s.rows, n = spread == 1 ? 1 : s.rows; n > 0; n--, lane++) {
        memcpy(p + 4 * (spread * i + lane), value, 4);
    }
}

static void spread_32(struct shape s, const struct act_q8_32 *act, int32_t blocks, uint8_t *to) {
    int32_t parts = parts_of(s);
    for (int32_t b = 0; b < blocks; b++) {
        uint8_t *set = to + (size_t)(b / parts) * act32_bytes(s), *values = set + 32 * parts;
        int32_t g = b % parts, minus16 = 2 * act[b].minus8;
        for (int32_t i = 0; i < 32; i += 4) memcpy(set + step_offset(s, 32, 32 * g + i), act[b].q + i, 4);
        put_word(values, s, 0, g, &act[b].d);
        put_word(values, s, 1, g, &act[b].s);
        put_word(values, s, 2, g, &minus16);
        put_word(values, s, 3, g, &act[b].minus128);
    }
}

static void spread_256(struct shape s, int32_t block, const struct act_q8_256 *act, uint8_t *to) {
    int32_t parts = parts_of(s), sets = 8 / parts, spread = spread_of(s);
    uint8_t *pairs = to + 256, *minus32 = pairs + 4 * spread * (sets / 2),
            *minus32_pairs = minus32 + 4 * spread * 2 * sets;
    for (int32_t k = 0; k < 256; k += 4) memcpy(to + step_offset(s, block, k), act->q + k, 4);
    for (int32_t set = 0; set < sets; set += 2)
        for (int32_t g = 0; g < parts; g++) {
            int16_t pair[2] = {act->minus_sums[set * parts + g], act->minus_sums[(set + 1) * parts + g]};
            put_word(pairs, s, set / 2, g, pair);
        }
    for (int32_t sub = 0; sub < 16; sub++) {
        put_word(minus32, s, sub / parts, sub % parts, &act->minus32[sub]);
        put_word(minus32_pairs, s, sub / parts, sub % parts, act->minus32_pairs[sub]);
    }
    memcpy(minus32_pairs + 4 * spread * 2 * sets, &act->d, 4);
}

void rows_activations(int32_t type, struct shape s, const void *act, int32_t cols, uint8_t *to) {
    const struct act_q8_256 *wide = act;
    if (type_facts(type)->activation == ASDSL_ACT_Q8_32) {
        spread_32(s, act, cols / 32, to);
        return;
    }
    for (int32_t b = 0; b < cols / 256; b++) {
        spread_256(s, type == ASDSL_Q6_K ? 16 : 32, wide + b, to + (size_t)b * act256_bytes(s));
    }
}
