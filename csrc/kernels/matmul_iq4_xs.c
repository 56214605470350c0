/* matmul_iq4_xs.c: products of iq4_xs (blocks of 256, weights out of a table of 16) with ACT_Q8_256 activations.
 *
 * Inside a block everything is an exact integer: sub-block dots times their signed 6-bit scales, summed, at most
 * 8 * 32 * 32 * 127 * 127 = 132 M; between blocks a row's sum is
 *   sum = fma(total, d_w * d_a, sum)
 * in block order. Table values are signed: they are multiplied as q8_0's weights are. Compiled once per level.
 */
#include "matmul_k.h"

enum { SUB_BLOCKS = 8 };

/* One sub-block of 32 inputs, 4 lines. minus128: -128 * sum(q) of its inputs, SUB_BLOCKS further that of the next
 * column.
 */
SIMD_INLINE void iq4_xs_sub_block(iv *totals, iv scale, const int32_t *minus128, const uint8_t *lines,
                                  const uint8_t *act, size_t stride, int n) {
    const bv low = bv_set1(15);
    dot8 dots[TILE_COLS];
    UNROLL
    for (int c = 0; c < n; c++) dots[c] = dot8_start(minus128 + SUB_BLOCKS * c);
    UNROLL
    for (int i = 0; i < 8; i++) { /* inputs 4l .. 4l + 3 of the low nibbles, then of the high ones */
        const int l = i / 2, high = i % 2;
        if (LANES == 8) SIMD_FORGET;
        bv x = bv_load(lines + LINE * l);
        w8 w = w8_lookup(iq4_nl_values, bv_and(high ? bv_shr(x, 4) : x, low));
        UNROLL
        for (int c = 0; c < n; c++) {
            dots[c] = dot8_add(dots[c], w, av_load(act + (size_t)c * stride + 16 * high + 4 * l));
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) totals[c] = dot8_scaled(totals[c], dots[c], scale);
}

/* The signed scales of even and odd sub-blocks of LANES rows, 4 bytes of each row. */
SIMD_INLINE void iq4_xs_scales(const uint8_t *tops, const uint8_t *nibbles, uint32_t *even, uint32_t *odd) {
    for (int r = 0; r < LANES; r++) {
        uint16_t high;
        uint32_t low, top;
        memcpy(&high, tops + 2 * r, 2);
        memcpy(&low, nibbles + 4 * r, 4);
        top = (high | (uint32_t)high << 8) & 0x00ff00ffu;
        top = (top | top << 4) & 0x0f0f0f0fu; /* a byte each: two bits of the even one, two of the odd one */
        uint32_t first = (low & 0x0f0f0f0fu) | (top << 4 & 0x30303030u);
        uint32_t second = (low >> 4 & 0x0f0f0f0fu) | (top << 2 & 0x30303030u);
        even[r] = (first + 0x60606060u) ^ 0x80808080u; /* less 32 in each byte, without a borrow */
        odd[r] = (second + 0x60606060u) ^ 0x80808080u;
    }
}

/* One record, LANES rows from half h on. */
SIMD_INLINE void iq4_xs_record(float *sums, const uint8_t *record, int h, const uint8_t *act, size_t stride, int n,
                               int prefetch) {
    const uint8_t *lines = record + 2 * LINE + 4 * LANES * h, *a = act;
    _Alignas(64) uint32_t even[LANES], odd[LANES];
    int32_t minus128[TILE_COLS][SUB_BLOCKS];
    iv totals[TILE_COLS];
    zero_totals(totals, n);
    UNROLL
    for (int c = 0; c < n; c++) {
        const int16_t *minus_sums = act_at(act, stride, c)->minus_sums;
        for (int j = 0; j < SUB_BLOCKS; j++) minus128[c][j] = 128 * minus_sums[j];
    }
    if (prefetch) prefetch_lines(record + PREFETCH_AHEAD, 2 * LINE);
    iq4_xs_scales(record + 32 + 2 * LANES * h, record + LINE + 4 * LANES * h, even, odd);
    ROLLED
    for (int i = 0; i < 4; i++, lines += 8 * LINE, a += 64) {
        if (prefetch) prefetch_lines(lines + PREFETCH_AHEAD, 8 * LINE);
        iq4_xs_sub_block(totals, dot8_scale(bv_load(even), i), minus128[0] + 2 * i, lines, a, stride, n);
        iq4_xs_sub_block(totals, dot8_scale(bv_load(odd), i), minus128[0] + 2 * i + 1, lines + 4 * LINE, a + 32, stride, n);
    }
    add_scaled(sums, totals, fv_load_f16(record + 2 * LANES * h), act, stride, n);
}

K_TILE(iq4_xs, IQ4_XS_RECORD)

MATMUL_SLOTS(iq4_xs, ASDSL_IQ4_XS, TILES_BYTES)
