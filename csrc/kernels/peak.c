/* peak.c: the integer dot rate of one core, operands in registers: what `asdsl info` calls the int8 peak.
 *
 * Ten independent sums hide the latency of the instruction (4 or 5 cycles, up to two a cycle). On AVX2 the dot is the
 * one that the 4-bit kernels use (vpmaddubsw and a 16-bit addition). Compiled once per level.
 */
#include "kernels.h"
#include "simd.h"

enum { SUMS = 10 };

int8_peak_fn KERNEL(int8_peak);

double KERNEL(int8_peak)(int64_t iterations) {
    static const uint8_t bytes[64] = {1, 2, 3, 4, 5, 6, 7};
    dot4 sums[SUMS];
    bv w = bv_load(bytes);
    av a = av_load(bytes);
    for (int i = 0; i < SUMS; i++) sums[i] = dot4_start(NULL);
    for (int64_t n = 0; n < iterations; n++) {
        for (int i = 0; i < SUMS; i++) {
            SIMD_OPAQUE(w); /* or one product would serve all the sums */
            sums[i] = dot4_add(sums[i], w, a);
        }
    }
    for (int i = 0; i < SUMS; i++) SIMD_OPAQUE(sums[i]);
    return (double)iterations * SUMS * LANES * 4;
}
