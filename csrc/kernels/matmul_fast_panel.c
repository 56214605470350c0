/* matmul_fast_panel.c: weights of any type -> panels of `--prefill fast` (matmul_fast.h), a row group at a time.
 *
 * A type unpacks a block of 256 inputs into unsigned bytes, and scale and offset of each sub-block; the rest is common:
 * the largest magnitude of each row, from the least and the greatest byte of each sub-block, then every weight as
 * round(weight * PANEL_MAX / largest). Rounding is at most half a step of largest / PANEL_MAX. A block whose largest
 * weight is below 2^-100 counts as zero; one with NaN or infinity has a scale that is not finite, so that the fault
 * shows. Knows nothing of activations. Compiled once per level.
 */
#include "matmul_fast.h"
#include "simd.h"

enum { BLOCK_LINES = FAST_BLOCK / 4, MAX_SUB_BLOCKS = 16 };
#define ZERO_BELOW 0x1p-100f

/* One block of 16 rows: weight = scale * byte + offset. Lines are those of a panel. */
struct unpacked {
    _Alignas(64) uint8_t lines[BLOCK_LINES][LINE];
    _Alignas(64) float scale[MAX_SUB_BLOCKS][KERNEL_ROWS], offset[MAX_SUB_BLOCKS][KERNEL_ROWS];
};

SIMD_INLINE i32x16 line_load(const uint8_t *p) { return i32x16_loadu((const int32_t *)(const void *)p); }
SIMD_INLINE void line_store(uint8_t *p, i32x16 line) { i32x16_storeu((int32_t *)(void *)p, line); }
SIMD_INLINE f32x16 f16_rows(const uint8_t *p) { return f32x16_load_f16((const uint16_t *)(const void *)p); }

/* Bits of `mask` in each byte, after a shift within the byte. */
#define BITS(line, from, mask) i32x16_and(i32x16_shr(line, from), i32x16_set1((mask) * 0x01010101))
#define BITS_UP(line, by, mask) i32x16_and(i32x16_shl(line, by), i32x16_set1((mask) * 0x01010101))

/* ---- from bytes to the panel ---- */
/* Byte i of each lane, as a number. */
#define BYTE(line, i) f32x16_from_i32(i32x16_and(i32x16_shr(line, 8 * (i)), i32x16_set1(255)))

/* The least byte of each lane where `least`, else the greatest. */
SIMD_INLINE f32x16 extreme_byte(i32x16 line, const int least) {
    i32x16 halves = i32x16_shr(line, 16);
    line = least ? i32x16_min_u8(line, halves) : i32x16_max_u8(line, halves);
    i32x16 odd = i32x16_shr(line, 8);
    return BYTE(least ? i32x16_min_u8(line, odd) : i32x16_max_u8(line, odd), 0);
}

/* Scale of the rows, stored, and what weights are multiplied by. bad: NaN where a weight is not finite, else 0. */
SIMD_INLINE f32x16 put_scale(f32x16 largest, f32x16 bad, uint8_t *panel) {
    f32x16 most = f32x16_set1(PANEL_MAX);
    mask16 counts = f32x16_le(f32x16_set1(ZERO_BELOW), largest);
    f32x16 scale = f32x16_select(counts, f32x16_div(largest, most), f32x16_zero());
    f32x16_store((float *)(void *)panel, f32x16_add(scale, bad));
    return f32x16_select(counts, f32x16_div(most, largest), f32x16_zero());
}

/* Four weights of each row, multiplied, with the offset added. */
SIMD_INLINE void put_line(f32x16 a, f32x16 b, f32x16 c, f32x16 d, uint8_t *line) {
    i32x16 low = i32x16_add(f32x16_to_i32(a), i32x16_shl(f32x16_to_i32(b), 8));
    i32x16 high = i32x16_add(f32x16_to_i32(c), i32x16_shl(f32x16_to_i32(d), 8));
    line_store(line, i32x16_add(low, i32x16_shl(high, 16)));
}

/* n_lines lines, `per` to a sub-block. */
SIMD_INLINE void requantise(const struct unpacked *u, int32_t n_lines, const int32_t per, uint8_t *panel) {
    f32x16 largest = f32x16_zero(), bad = f32x16_zero();
    for (int32_t s = 0; s < n_lines / per; s++) {
        i32x16 least = line_load(u->lines[per * s]), greatest = least;
    UNROLL
        for (int32_t l = 1; l < per; l++) {
            i32x16 line = line_load(u->lines[per * s + l]);
            least = i32x16_min_u8(least, line);
            greatest = i32x16_max_u8(greatest, line);
        }
        f32x16 scale = f32x16_load(u->scale[s]), offset = f32x16_load(u->offset[s]);
        f32x16 a = f32x16_fma(extreme_byte(least, 1), scale, offset);
        f32x16 b = f32x16_fma(extreme_byte(greatest, 0), scale, offset);
        largest = f32x16_max(f32x16_max(f32x16_abs(a), f32x16_abs(b)), largest);
        bad = f32x16_add(bad, f32x16_add(f32x16_sub(a, a), f32x16_sub(b, b)));
    }
    f32x16 inverse = put_scale(largest, bad, panel);
    for (int32_t s = 0; s < n_lines / per; s++) {
        f32x16 scale = f32x16_mul(f32x16_load(u->scale[s]), inverse);
        f32x16 offset = f32x16_fma(f32x16_load(u->offset[s]), inverse, f32x16_set1(PANEL_OFFSET));
        UNROLL
        for (int32_t l = 0; l < per; l++) {
            i32x16 line = line_load(u->lines[per * s + l]);
            put_line(f32x16_fma(BYTE(line, 0), scale, offset), f32x16_fma(BYTE(line, 1), scale, offset),
                     f32x16_fma(BYTE(line, 2), scale, offset), f32x16_fma(BYTE(line, 3), scale, offset),
                     panel + LINE + LINE * (per * s + l));
        }
    }
}

/* ---- blocks of 32: where block i of a group is, its scales, its 8 lines ---- */
SIMD_INLINE void put_rows(struct unpacked *u, int32_t s, f32x16 scale, f32x16 offset) {
    f32x16_store(u->scale[s], scale);
    f32x16_store(u->offset[s], offset);
}

/* Four lines of nibbles: inputs of the low ones, then of the high ones. */
SIMD_INLINE void put_nibbles(uint8_t (*lines)[LINE], const uint8_t *from) {
    for (int32_t l = 0; l < 4; l++) {
        i32x16 x = line_load(from + LINE * l);
        line_store(lines[l], BITS(x, 0, 15));
        line_store(lines[4 + l], BITS(x, 4, 15));
    }
}

/* The same, indices into iq4_nl_values, 128 added. */
SIMD_INLINE void put_values(uint8_t (*lines)[LINE], const uint8_t *from) {
    put_nibbles(lines, from);
    for (int32_t l = 0; l < 8; l++) {
        i32x16 values = i32x16_lookup(iq4_nl_values, line_load(lines[l]));
        line_store(lines[l], i32x16_xor(values, i32x16_set1((int32_t)0x80808080u)));
    }
}

/* The same with a line of fifth bits before: bit f of a byte is that of line f. */
SIMD_INLINE void put_fives(uint8_t (*lines)[LINE], const uint8_t *from) {
    i32x16 top = line_load(from);
    put_nibbles(lines, from + LINE);
    UNROLL
    for (int32_t f = 0; f < 8; f++) {
        i32x16 fifth = f < 4 ? BITS_UP(top, f < 4 ? 4 - f : 0, 16) : BITS(top, f < 4 ? 0 : f - 4, 16);
        line_store(lines[f], i32x16_add(line_load(lines[f]), fifth));
    }
}

SIMD_INLINE void put_signed(uint8_t (*lines)[LINE], const uint8_t *from) {
    for (int32_t l = 0; l < 8; l++) {
        line_store(lines[l], i32x16_xor(line_load(from + LINE * l), i32x16_set1((int32_t)0x80808080u)));
    }
}

/* Records of a pair of blocks; the byte of a weight 0 is `zero`. */
#define BLOCK_OF_PAIRS(NAME, PAIR, LINES, PUT, zero)                                                                   \
    SIMD_INLINE void NAME##_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {             \
        int32_t left = cols / 32 - 8 * block;                                                                          \
        for (int32_t s = 0; s < 8 && s < left; s++) {                                                                  \
            const uint8_t *record = group + (size_t)(4 * block + s / 2) * PAIR;                                        \
            f32x16 d = f16_rows(record + s % 2 * 32);                                                                  \
            put_rows(u, s, d, f32x16_mul(d, f32x16_set1(-(zero))));                                                    \
            PUT(u->lines + 8 * s, record + LINE + s % 2 * (LINES * LINE));                                             \
        }                                                                                                              \
    }
#define BLOCK_OF_SINGLES(NAME, RECORD, PUT)                                                                            \
    SIMD_INLINE void NAME##_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {             \
        int32_t left = cols / 32 - 8 * block;                                                                          \
        for (int32_t s = 0; s < 8 && s < left; s++) {                                                                  \
            const uint8_t *record = group + (size_t)(8 * block + s) * RECORD;                                          \
            put_rows(u, s, f16_rows(record), f16_rows(record + 32));                                                   \
            PUT(u->lines + 8 * s, record + LINE);                                                                      \
        }                                                                                                              \
    }
BLOCK_OF_PAIRS(q4_0, Q4_0_PAIR, 4, put_nibbles, 8.0f)
BLOCK_OF_PAIRS(q5_0, Q5_0_PAIR, 5, put_fives, 16.0f)
BLOCK_OF_PAIRS(iq4_nl, IQ4_NL_PAIR, 4, put_values, 128.0f)
BLOCK_OF_PAIRS(q8_0, Q8_0_PAIR, 8, put_signed, 128.0f)
BLOCK_OF_SINGLES(q4_1, Q4_1_RECORD, put_nibbles)
BLOCK_OF_SINGLES(q5_1, Q5_1_RECORD, put_fives)

/* ---- blocks of 256 ---- */
/* A line whose quarters serve 4 rows each (layout.h) -> byte j of each row. */
SIMD_INLINE void bytes_of_rows(uint8_t (*bytes)[KERNEL_ROWS], const uint8_t *line) {
    for (int32_t quarter = 0; quarter < 4; quarter++)
        for (int32_t j = 0; j < 4; j++) memcpy(bytes[j] + 4 * quarter, line + 16 * quarter + 4 * j, 4);
}

/* The first four lines of q4_k and q5_k. */
SIMD_INLINE void put_scales_6bit(struct unpacked *u, const uint8_t *record) {
    uint8_t scales[4][KERNEL_ROWS], minima[4][KERNEL_ROWS], tops[4][KERNEL_ROWS];
    _Alignas(64) float d[KERNEL_ROWS], dmin[KERNEL_ROWS];
    f32x16_store(d, f16_rows(record));
    f32x16_store(dmin, f16_rows(record + 32));
    bytes_of_rows(scales, record + LINE);
    bytes_of_rows(minima, record + 2 * LINE);
    bytes_of_rows(tops, record + 3 * LINE);
    for (int32_t j = 0; j < 4; j++)
        for (int32_t r = 0; r < KERNEL_ROWS; r++) {
            int32_t s = scales[j][r], m = minima[j][r], t = tops[j][r];
            u->scale[j][r] = d[r] * (float)((s & 15) | (t & 3) << 4);
            u->scale[j + 4][r] = d[r] * (float)(s >> 4 | (t & 12) << 2);
            u->offset[j][r] = -dmin[r] * (float)((m & 15) | (t & 48));
            u->offset[j + 4][r] = -dmin[r] * (float)(m >> 4 | (t & 192) >> 2);
        }
}

SIMD_INLINE void q4_k_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + (size_t)block * Q4_K_RECORD;
    (void)cols;
    put_scales_6bit(u, record);
    for (int32_t s = 0; s < 8; s++) put_nibbles(u->lines + 8 * s, record + 4 * LINE + 4 * LINE * s);
}

SIMD_INLINE void q5_k_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + (size_t)block * Q5_K_RECORD;
    (void)cols;
    put_scales_6bit(u, record);
    for (int32_t s = 0; s < 8; s++) {
        const uint8_t *from = record + 4 * LINE + 5 * LINE * s;
        uint8_t(*to)[LINE] = u->lines + 8 * s;
        i32x16 x[5];
        UNROLL
        for (int32_t l = 0; l < 5; l++) {
            x[l] = line_load(from + LINE * l);
            line_store(to[l < 2 ? l : l < 4 ? l + 1 : 6], BITS(x[l], 0, 31));
        }
        line_store(to[2], i32x16_add(BITS(x[0], 5, 7), BITS(x[1], 2, 0x18)));
        line_store(to[5], i32x16_add(BITS(x[2], 5, 7), BITS(x[3], 2, 0x18)));
        line_store(to[7], i32x16_add(i32x16_add(BITS(x[4], 5, 7), BITS(x[1], 4, 8)), BITS(x[3], 3, 16)));
    }
}

SIMD_INLINE void q2_k_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + (size_t)block * Q2_K_RECORD;
    _Alignas(64) float d[KERNEL_ROWS], dmin[KERNEL_ROWS];
    (void)cols;
    f32x16_store(d, f16_rows(record));
    f32x16_store(dmin, f16_rows(record + 32));
    for (int32_t t = 0; t < 4; t++) {
        uint8_t both[4][KERNEL_ROWS];
        bytes_of_rows(both, record + LINE + LINE * t);
        for (int32_t j = 0; j < 4; j++)
            for (int32_t r = 0; r < KERNEL_ROWS; r++) {
                u->scale[4 * t + j][r] = d[r] * (float)(both[j][r] & 15);
                u->offset[4 * t + j][r] = -dmin[r] * (float)(both[j][r] >> 4);
            }
    }
    for (int32_t s = 0; s < 16; s++) {
        i32x16 x = line_load(record + 5 * LINE + LINE * s);
        UNROLL
        for (int32_t f = 0; f < 4; f++) line_store(u->lines[4 * s + f], BITS(x, 2 * f, 3));
    }
}

SIMD_INLINE void q3_k_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + header_bytes(cols) + (size_t)block * Q3_K_RECORD;
    uint8_t nibbles[8][KERNEL_ROWS], tops[4][KERNEL_ROWS];
    _Alignas(64) float d[KERNEL_ROWS];
    f32x16_store(d, f16_rows(group + (size_t)block * 32));
    bytes_of_rows(nibbles, record);
    bytes_of_rows(nibbles + 4, record + LINE);
    bytes_of_rows(tops, record + 2 * LINE);
    for (int32_t s = 0; s < 16; s++)
        for (int32_t r = 0; r < KERNEL_ROWS; r++) {
            int32_t scale = (nibbles[s % 8][r] >> s / 8 * 4 & 15) | (tops[s % 4][r] >> s / 4 * 2 & 3) << 4;
            u->scale[s][r] = d[r] * (float)(scale - 32);
            u->offset[s][r] = u->scale[s][r] * -4.0f;
        }
    for (int32_t s = 0; s < 8; s++) { /* 32 inputs */
        uint8_t(*to)[LINE] = u->lines + 8 * s;
        i32x16 x[3];
        UNROLL
        for (int32_t l = 0; l < 3; l++) {
            x[l] = line_load(record + 3 * LINE + LINE * (3 * s + l));
            line_store(to[2 * l], BITS(x[l], 0, 7));
            line_store(to[2 * l + 1], BITS(x[l], 3, 7));
        }
        line_store(to[6], i32x16_add(BITS(x[0], 6, 3), BITS(x[2], 4, 4)));
        line_store(to[7], i32x16_add(BITS(x[1], 6, 3), BITS(x[2], 5, 4)));
    }
}

SIMD_INLINE void iq4_xs_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + (size_t)block * IQ4_XS_RECORD;
    f32x16 d = f16_rows(record);
    /* 16 bits of each row as the upper half of its lane. */
    i32x16 tops = f32x16_bits(f32x16_load_bf16((const uint16_t *)(const void *)(record + 32)));
    i32x16 nibbles = line_load(record + LINE);
    (void)cols;
    UNROLL
    for (int32_t s = 0; s < 8; s++) {
        i32x16 low = i32x16_and(i32x16_shr(nibbles, 4 * s), i32x16_set1(15));
        i32x16 top = i32x16_and(i32x16_shr(tops, 16 + 2 * s), i32x16_set1(3));
        i32x16 scale = i32x16_sub(i32x16_add(low, i32x16_shl(top, 4)), i32x16_set1(32));
        f32x16 product = f32x16_mul(d, f32x16_from_i32(scale));
        put_rows(u, s, product, f32x16_mul(product, f32x16_set1(-128.0f)));
        put_values(u->lines + 8 * s, record + 2 * LINE + 4 * LINE * s);
    }
}

SIMD_INLINE void q6_k_block(struct unpacked *u, const uint8_t *group, int32_t cols, int32_t block) {
    const uint8_t *record = group + header_bytes(cols) + (size_t)block * Q6_K_RECORD;
    f32x16 d = f16_rows(group + (size_t)block * 32);
    for (int32_t t = 0; t < 4; t++) {
        i32x16 scales = line_load(record + LINE * t); /* int8 of sub-blocks 4t .. 4t + 3 */
        UNROLL
        for (int32_t j = 0; j < 4; j++) {
            i32x16 scale = i32x16_shr(i32x16_shl(scales, 24 - 8 * j), 24);
            f32x16 product = f32x16_mul(d, f32x16_from_i32(scale));
            put_rows(u, 4 * t + j, product, f32x16_mul(product, f32x16_set1(-32.0f)));
        }
    }
    for (int32_t half = 0; half < 2; half++) { /* 128 inputs: byte i of qh has the tops of i, i + 32, i + 64, i + 96 */
        uint8_t(*to)[LINE] = u->lines + 32 * half;
        for (int32_t l = 0; l < 8; l++) {
            const uint8_t *lines = record + LINE * (q6_k_line(8 + 2 * half + l / 4) + l % 4); /* qh, then twice ql */
            i32x16 a = line_load(lines + 4 * LINE), b = line_load(lines + 8 * LINE), top = line_load(lines);
            line_store(to[l], i32x16_add(BITS(a, 0, 15), BITS_UP(top, 4, 0x30)));
            line_store(to[8 + l], i32x16_add(BITS(b, 0, 15), BITS_UP(top, 2, 0x30)));
            line_store(to[16 + l], i32x16_add(BITS(a, 4, 15), BITS(top, 0, 0x30)));
            line_store(to[24 + l], i32x16_add(BITS(b, 4, 15), BITS(top, 2, 0x30)));
        }
    }
}

#define PANEL(NAME, PER)                                                                                               \
    panel_fn KERNEL(NAME##_panel);                                                                                     \
    void KERNEL(NAME##_panel)(const void *group, int32_t cols, void *panel) {                                          \
        struct unpacked u;                                                                                             \
        uint8_t *to = panel;                                                                                           \
        for (int32_t block = 0; FAST_BLOCK * block < cols; block++) {                                                  \
            int32_t left = cols / 4 - BLOCK_LINES * block, n_lines = left < BLOCK_LINES ? left : BLOCK_LINES;          \
            NAME##_block(&u, group, cols, block);                                                                      \
            requantise(&u, n_lines, PER, to);                                                                          \
            to += LINE + LINE * n_lines;                                                                               \
        }                                                                                                              \
    }
PANEL(q8_0, 8)
PANEL(q2_k, 4)
PANEL(iq4_xs, 8)
#if !HAS_PANELS /* table.c: PANEL_TYPES, ROUNDED_TYPES */
PANEL(iq4_nl, 8)
PANEL(q4_0, 8)
PANEL(q4_1, 8)
PANEL(q5_0, 8)
PANEL(q5_1, 8)
PANEL(q3_k, 4)
PANEL(q4_k, 8)
PANEL(q5_k, 8)
PANEL(q6_k, 4)
#endif

/* ---- floats: 16 rows of an input side by side, BYTES each ---- */
#define FLOAT_PANEL(NAME, BYTES, LOAD)                                                                                 \
    panel_fn KERNEL(NAME##_panel);                                                                                     \
    void KERNEL(NAME##_panel)(const void *group, int32_t cols, void *panel) {                                          \
        const f32x16 middle = f32x16_set1(PANEL_OFFSET);                                                               \
        const uint8_t *from = group;                                                                                   \
        uint8_t *to = panel;                                                                                           \
        for (int32_t k0 = 0; k0 < cols; k0 += FAST_BLOCK, from += KERNEL_ROWS * BYTES * FAST_BLOCK) {                  \
            int32_t n = cols - k0 < FAST_BLOCK ? cols - k0 : FAST_BLOCK;                                               \
            f32x16 largest = f32x16_zero(), bad = f32x16_zero();                                                       \
            for (int32_t k = 0; k < n; k++) {                                                                          \
                f32x16 w = LOAD((const void *)(from + KERNEL_ROWS * BYTES * k));                                       \
                largest = f32x16_max(f32x16_abs(w), largest);                                                          \
                bad = f32x16_add(bad, f32x16_sub(w, w));                                                               \
            }                                                                                                          \
            f32x16 inverse = put_scale(largest, bad, to);                                                              \
            to += LINE;                                                                                                \
            for (int32_t k = 0; k < fast_cols(n); k += 4, to += LINE) {                                                \
                f32x16 w[4];                                                                                           \
                UNROLL                                                                                                 \
                for (int32_t i = 0; i < 4; i++) {                                                                      \
                    w[i] = middle;                                                                                     \
                    if (k + i >= n) continue;                                                                          \
                    f32x16 x = LOAD((const void *)(from + KERNEL_ROWS * BYTES * (k + i)));                             \
                    w[i] = f32x16_fma(x, inverse, middle);                                                             \
                }                                                                                                      \
                put_line(w[0], w[1], w[2], w[3], to);                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }
FLOAT_PANEL(f32, 4, f32x16_loadu)
FLOAT_PANEL(f16, 2, f32x16_load_f16)
FLOAT_PANEL(bf16, 2, f32x16_load_bf16)
