/* rope.c: rotates the pairs of one head by a row of (cos, sin). No fused steps: the same bits everywhere. */
#include "kernels.h"
#include "simd.h"

rope_head_fn KERNEL(rope_head);

SIMD_INLINE void rotate(float *a, float *b, const float *turn) {
    float x = *a, y = *b;
    *a = x * turn[0] - y * turn[1];
    *b = x * turn[1] + y * turn[0];
}

/* table: (n_rot / 2) pairs. mode 0: pairs (2j, 2j + 1), as in llama; 1: (j, j + n_rot / 2), as in NeoX. */
void KERNEL(rope_head)(float *x, const float *table, int32_t n_rot, int32_t mode) {
    int32_t n = n_rot / 2;
    if (mode == 0) {
        for (int32_t j = 0; j < n; j++) rotate(x + 2 * j, x + 2 * j + 1, table + 2 * j);
    } else {
        for (int32_t j = 0; j < n; j++) rotate(x + j, x + n + j, table + 2 * j);
    }
}
