/* simd.h: the only file with intrinsics' vocabulary. Kernels are written in these types and functions; each level
 * (build.zig's ASDSL_NEED_*) gives them its instructions, with the same bits.
 *
 *   f32x16   16 floats            i32x16   16 int32
 *
 * Rules that make levels agree to the bit: every multiply-add is an explicit fma; nothing is contracted or reassociated
 * by the compiler (-ffp-contract=off); horizontal reductions fold 16 -> 8 -> 4 -> 2 -> 1 (lane i with lane i + half).
 */
#ifndef ASDSL_SIMD_H
#define ASDSL_SIMD_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(ASDSL_NEED_AVX2) && !(defined(__AVX2__) && defined(__FMA__) && defined(__F16C__))
#error "level avx2: the compiler did not get AVX2, FMA and F16C"
#endif
#if defined(ASDSL_NEED_AVXVNNI) && !(defined(__AVXVNNI__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__))
#error "level avxvnni: the compiler did not get AVX-VNNI"
#endif
#if defined(ASDSL_NEED_AVX512) &&                                                                                      \
    !(defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__))
#error "level avx512: the compiler did not get AVX-512 F BW DQ VL VNNI"
#endif
#if defined(ASDSL_NEED_NEON) && !(defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD))
#error "level neon: the compiler did not get NEON and its dot product"
#endif
/* Every Mac's baseline has the dot product. */
#if defined(ASDSL_NEED_PORTABLE) &&                                                                                    \
    (defined(__AVX__) || defined(__SSE4_1__) || (defined(__ARM_FEATURE_DOTPROD) && !defined(__APPLE__)))
#error "level portable: the compiler was given more than the baseline"
#endif

#define SIMD_INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of a constant count that has to vanish, or has to stay. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL
#define ROLLED
#endif

#if defined(__AVX512VNNI__) && !defined(ASDSL_EVEX_AS_AVXVNNI)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(ASDSL_NEED_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif
#if !defined(HAS_PANELS)
#define HAS_PANELS 0
#endif
#if !defined(HAS_K_PANELS)
#define HAS_K_PANELS 0
#endif
#if !defined(SIMD_HOLD)
#define SIMD_HOLD(pointer) ((void)0) /* measured at level avx512 alone */
#endif
#include "simd_math.h"

#endif
