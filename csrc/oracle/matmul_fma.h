/* matmul_fma.h: the float variant of the matmul kernels, as the mission wrote it down: nibbles dequantised to YMM
 * registers, _mm256_fmadd_ps with float activations, no quantisation of them. AVX2 + FMA + F16C alone.
 *
 * Not part of the library. Tests hold the integer slots against it (their activations are quantised, its are not), and
 * bench/layout.ts measures what integers are worth.
 */
#ifndef ASDSL_MATMUL_FMA_H
#define ASDSL_MATMUL_FMA_H
#include "../kernels/kernels.h"

struct fma_job {
    int32_t type;     /* q4_1, q5_0, q8_0, q4_k, q6_k */
    const void *w;    /* interleaved (kernels/layout.h) */
    int32_t cols;     /* inputs; a multiple of the type's block */
    const float *x;   /* (cols) */
    const float *x16; /* (cols / 16): sums of 16 inputs each, by fma_sums */
    float *out;       /* (16 * groups): rows past the matrix are written too, as 0 */
};

void fma_sums(const float *x, int32_t cols, float *x16);
/* Row groups [begin, end) of 16 rows, one column. Reads up to 8 KB ahead by prefetch, which never faults. */
void matmul_fma(const struct fma_job *job, int32_t begin, int32_t end);

#endif
