/* gather.c: one row of an interleaved matrix as floats, to the bit what the published formulas give (`gguf.quants` of
 * the Python package): every product below is exact in float, the one addition rounds. Compiled once per level.
 */
#include "layout.h"

#define GATHER(name, TYPE)                                                                                             \
    gather_row_fn KERNEL(name##_gather_row);                                                                           \
    void KERNEL(name##_gather_row)(const void *table, int32_t rows, int32_t cols, int32_t row, float *out) {           \
        const uint8_t *group = (const uint8_t *)table + (size_t)(row / KERNEL_ROWS) * group_bytes(TYPE, cols);         \
        (void)rows;                                                                                                    \
        for (int32_t k = 0; k < cols; k++) {                                                                           \
            struct element w = layout_element(TYPE, group, cols, row % KERNEL_ROWS, k);                                \
            out[k] = w.scale * (float)w.q + w.offset;                                                                  \
        }                                                                                                              \
    }

GATHER(f32, ASDSL_F32)
GATHER(f16, ASDSL_F16)
GATHER(bf16, ASDSL_BF16)
GATHER(q4_0, ASDSL_Q4_0)
GATHER(q4_1, ASDSL_Q4_1)
GATHER(q5_0, ASDSL_Q5_0)
GATHER(q5_1, ASDSL_Q5_1)
GATHER(iq4_nl, ASDSL_IQ4_NL)
GATHER(q8_0, ASDSL_Q8_0)
GATHER(q4_k, ASDSL_Q4_K)
GATHER(q5_k, ASDSL_Q5_K)
GATHER(q2_k, ASDSL_Q2_K)
GATHER(q3_k, ASDSL_Q3_K)
GATHER(iq4_xs, ASDSL_IQ4_XS)
GATHER(q6_k, ASDSL_Q6_K)
