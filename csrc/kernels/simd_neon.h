/* simd_neon.h: the vocabulary of simd.h in NEON with the dot product of ARMv8.2-A. Included by simd.h alone.
 *
 * Owns the 16-lane types as four q registers (val[i] holds lanes 4i .. 4i+3) and the tiles' vectors of 8 rows as two.
 * Comparisons, conversions and NaN are as on x86, where the instructions of the two differ: vminq and vmaxq give NaN
 * when either side is one, vcvtnq saturates.
 */
/* clang-format off: one line to a function reads as a table */
#include <arm_neon.h>

typedef float32x4x4_t f32x16;
typedef int32x4x4_t i32x16;
typedef uint32x4x4_t mask16; /* all ones or all zeros per lane */

#define SIMD_NEON 1
#define SIMD_PREFETCH(address) __builtin_prefetch(address, 0, 2) /* into L2 */
#define SIMD_1(type, f, a) ((type){{f((a).val[0]), f((a).val[1]), f((a).val[2]), f((a).val[3])}})
#define SIMD_2(type, f, a, b)                                                                                          \
    ((type){                                                                                                           \
        {f((a).val[0], (b).val[0]), f((a).val[1], (b).val[1]), f((a).val[2], (b).val[2]), f((a).val[3], (b).val[3])}})
/* The compiler forgets what it knows of x, a bv or an iv: for probes. */
#define SIMD_OPAQUE(x) __asm__ volatile("" : "+w"((x).lo), "+w"((x).hi))
#define SIMD_FORGET __asm__ volatile("" ::: "memory") /* simd_avx2.h */

/* ---- floats ---- */
SIMD_INLINE f32x16 f32x16_set1(float x) {
    float32x4_t a = vdupq_n_f32(x);
    return (f32x16){{a, a, a, a}};
}
SIMD_INLINE f32x16 f32x16_zero(void) { return f32x16_set1(0.0f); }
SIMD_INLINE f32x16 f32x16_loadu(const float *p) {
    return (f32x16){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
SIMD_INLINE f32x16 f32x16_load(const float *p) { return f32x16_loadu(p); } /* 64-byte aligned */
SIMD_INLINE void f32x16_storeu(float *p, f32x16 a) {
    vst1q_f32(p, a.val[0]);
    vst1q_f32(p + 4, a.val[1]);
    vst1q_f32(p + 8, a.val[2]);
    vst1q_f32(p + 12, a.val[3]);
}
SIMD_INLINE void f32x16_store(float *p, f32x16 a) { f32x16_storeu(p, a); } /* 64-byte aligned */
/* First n lanes (0 .. 16), the others zero; memory beyond them is not touched. */
SIMD_INLINE f32x16 f32x16_load_n(const float *p, int n) {
    float some[16] = {0};
    if (n >= 16) return f32x16_loadu(p);
    if (n > 0) memcpy(some, p, 4 * (size_t)n);
    return f32x16_loadu(some);
}
SIMD_INLINE void f32x16_store_n(float *p, f32x16 a, int n) {
    float all[16];
    if (n >= 16) {
        f32x16_storeu(p, a);
    } else if (n > 0) {
        f32x16_storeu(all, a);
        memcpy(p, all, 4 * (size_t)n);
    }
}
SIMD_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) { return SIMD_2(f32x16, vaddq_f32, a, b); }
SIMD_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) { return SIMD_2(f32x16, vsubq_f32, a, b); }
SIMD_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) { return SIMD_2(f32x16, vmulq_f32, a, b); }
SIMD_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) { return SIMD_2(f32x16, vdivq_f32, a, b); }
SIMD_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) { /* a * b + c */
    return (f32x16){{vfmaq_f32(c.val[0], a.val[0], b.val[0]), vfmaq_f32(c.val[1], a.val[1], b.val[1]),
                     vfmaq_f32(c.val[2], a.val[2], b.val[2]), vfmaq_f32(c.val[3], a.val[3], b.val[3])}};
}
SIMD_INLINE float32x4_t simd_min(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
SIMD_INLINE float32x4_t simd_max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SIMD_INLINE f32x16 f32x16_min(f32x16 a, f32x16 b) { return SIMD_2(f32x16, simd_min, a, b); } /* b when NaN */
SIMD_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) { return SIMD_2(f32x16, simd_max, a, b); } /* b when NaN */
SIMD_INLINE f32x16 f32x16_sqrt(f32x16 a) { return SIMD_1(f32x16, vsqrtq_f32, a); }
SIMD_INLINE f32x16 f32x16_neg(f32x16 a) { return SIMD_1(f32x16, vnegq_f32, a); }
SIMD_INLINE f32x16 f32x16_abs(f32x16 a) { return SIMD_1(f32x16, vabsq_f32, a); }

/* ---- comparisons (false when a side is NaN) and selection ---- */
SIMD_INLINE mask16 f32x16_lt(f32x16 a, f32x16 b) { return SIMD_2(mask16, vcltq_f32, a, b); }
SIMD_INLINE mask16 f32x16_le(f32x16 a, f32x16 b) { return SIMD_2(mask16, vcleq_f32, a, b); }
SIMD_INLINE mask16 f32x16_eq(f32x16 a, f32x16 b) { return SIMD_2(mask16, vceqq_f32, a, b); }
SIMD_INLINE f32x16 f32x16_select(mask16 m, f32x16 yes, f32x16 no) {
    return (f32x16){{vbslq_f32(m.val[0], yes.val[0], no.val[0]), vbslq_f32(m.val[1], yes.val[1], no.val[1]),
                     vbslq_f32(m.val[2], yes.val[2], no.val[2]), vbslq_f32(m.val[3], yes.val[3], no.val[3])}};
}
SIMD_INLINE mask16 mask16_first(int n) { /* lanes below n, n in 0 .. 16 */
    int32x4_t lanes = {0, 1, 2, 3}, end = vdupq_n_s32(n), four = vdupq_n_s32(4);
    int32x4_t end1 = vsubq_s32(end, four), end2 = vsubq_s32(end1, four), end3 = vsubq_s32(end2, four);
    return (mask16){{vcltq_s32(lanes, end), vcltq_s32(lanes, end1), vcltq_s32(lanes, end2), vcltq_s32(lanes, end3)}};
}
SIMD_INLINE mask16 mask16_and(mask16 a, mask16 b) { return SIMD_2(mask16, vandq_u32, a, b); }
SIMD_INLINE uint32_t mask16_bits(mask16 m) { /* bit i: lane i */
    uint32x4_t bit = {1, 2, 4, 8}, low = vandq_u32(m.val[0], bit), high = vandq_u32(m.val[2], bit);
    low = vorrq_u32(low, vandq_u32(m.val[1], vshlq_n_u32(bit, 4)));
    high = vorrq_u32(high, vandq_u32(m.val[3], vshlq_n_u32(bit, 4)));
    return vaddvq_u32(vorrq_u32(low, vshlq_n_u32(high, 8)));
}

/* ---- int32 lanes ---- */
SIMD_INLINE i32x16 i32x16_set1(int32_t x) {
    int32x4_t a = vdupq_n_s32(x);
    return (i32x16){{a, a, a, a}};
}
SIMD_INLINE i32x16 i32x16_zero(void) { return i32x16_set1(0); }
SIMD_INLINE i32x16 i32x16_loadu(const int32_t *p) {
    return (i32x16){{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
SIMD_INLINE void i32x16_storeu(int32_t *p, i32x16 a) {
    vst1q_s32(p, a.val[0]);
    vst1q_s32(p + 4, a.val[1]);
    vst1q_s32(p + 8, a.val[2]);
    vst1q_s32(p + 12, a.val[3]);
}
SIMD_INLINE i32x16 i32x16_add(i32x16 a, i32x16 b) { return SIMD_2(i32x16, vaddq_s32, a, b); }
SIMD_INLINE i32x16 i32x16_sub(i32x16 a, i32x16 b) { return SIMD_2(i32x16, vsubq_s32, a, b); }
SIMD_INLINE i32x16 i32x16_mul(i32x16 a, i32x16 b) { return SIMD_2(i32x16, vmulq_s32, a, b); }
SIMD_INLINE i32x16 i32x16_and(i32x16 a, i32x16 b) { return SIMD_2(i32x16, vandq_s32, a, b); }
SIMD_INLINE i32x16 i32x16_xor(i32x16 a, i32x16 b) { return SIMD_2(i32x16, veorq_s32, a, b); }
SIMD_INLINE int32x4_t simd_min_u8(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_u8(vminq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
}
SIMD_INLINE int32x4_t simd_max_u8(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_u8(vmaxq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
}
SIMD_INLINE i32x16 i32x16_min_u8(i32x16 a, i32x16 b) { return SIMD_2(i32x16, simd_min_u8, a, b); } /* of each byte */
SIMD_INLINE i32x16 i32x16_max_u8(i32x16 a, i32x16 b) { return SIMD_2(i32x16, simd_max_u8, a, b); }
/* Each byte, 0 .. 15, as an index into 16 bytes. */
SIMD_INLINE int32x4_t simd_lookup(int8x16_t values, int32x4_t bytes) {
    return vreinterpretq_s32_s8(vqtbl1q_s8(values, vreinterpretq_u8_s32(bytes)));
}
SIMD_INLINE i32x16 i32x16_lookup(const int8_t *table, i32x16 bytes) {
    int8x16_t values = vld1q_s8(table);
    return (i32x16){{simd_lookup(values, bytes.val[0]), simd_lookup(values, bytes.val[1]),
                     simd_lookup(values, bytes.val[2]), simd_lookup(values, bytes.val[3])}};
}
SIMD_INLINE i32x16 i32x16_shl(i32x16 a, int bits) {
    int32x4_t by = vdupq_n_s32(bits);
    return (i32x16){
        {vshlq_s32(a.val[0], by), vshlq_s32(a.val[1], by), vshlq_s32(a.val[2], by), vshlq_s32(a.val[3], by)}};
}
SIMD_INLINE i32x16 i32x16_shr(i32x16 a, int bits) { return i32x16_shl(a, -bits); } /* arithmetic */
SIMD_INLINE f32x16 f32x16_from_i32(i32x16 a) { return SIMD_1(f32x16, vcvtq_f32_s32, a); }
/* Nearest, ties to even; INT32_MIN for NaN and what does not fit. */
SIMD_INLINE int32x4_t simd_to_i32(float32x4_t a) {
    uint32x4_t fits = vandq_u32(vcgeq_f32(a, vdupq_n_f32(-0x1p31f)), vcltq_f32(a, vdupq_n_f32(0x1p31f)));
    return vbslq_s32(fits, vcvtnq_s32_f32(a), vdupq_n_s32(INT32_MIN));
}
SIMD_INLINE i32x16 f32x16_to_i32(f32x16 a) { return SIMD_1(i32x16, simd_to_i32, a); }
SIMD_INLINE f32x16 f32x16_from_bits(i32x16 a) { return SIMD_1(f32x16, vreinterpretq_f32_s32, a); }
SIMD_INLINE i32x16 f32x16_bits(f32x16 a) { return SIMD_1(i32x16, vreinterpretq_s32_f32, a); }
/* The low byte of each lane, 16 bytes. */
SIMD_INLINE void i32x16_store_i8(int8_t *p, i32x16 a) {
    int16x8_t lo = vcombine_s16(vmovn_s32(a.val[0]), vmovn_s32(a.val[1]));
    int16x8_t hi = vcombine_s16(vmovn_s32(a.val[2]), vmovn_s32(a.val[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
/* Each lane, which must fit, as one of 16 int16. */
SIMD_INLINE void i32x16_store_i16(int16_t *p, i32x16 a) {
    for (int i = 0; i < 4; i++) vst1_s16(p + 4 * i, vmovn_s32(a.val[i]));
}
/* Sum of all lanes. */
SIMD_INLINE int32_t i32x16_sum(i32x16 a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.val[0], a.val[1]), vaddq_s32(a.val[2], a.val[3])));
}

/* ---- half floats: a NaN comes out quiet, with its sign and the top of its payload, as on x86 ---- */
SIMD_INLINE float32x4_t simd_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
SIMD_INLINE float32x4_t simd_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
SIMD_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return (f32x16){{simd_load_f16(p), simd_load_f16(p + 4), simd_load_f16(p + 8), simd_load_f16(p + 12)}};
}
SIMD_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) { /* nearest even */
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.val[i])));
}
SIMD_INLINE f32x16 f32x16_load_bf16(const uint16_t *p) {
    return (f32x16){{simd_load_bf16(p), simd_load_bf16(p + 4), simd_load_bf16(p + 8), simd_load_bf16(p + 12)}};
}

/* ---- horizontal: the canonical fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half ---- */
SIMD_INLINE float f32x16_sum(f32x16 a) {
    float32x4_t b = vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
SIMD_INLINE float f32x16_hmax(f32x16 a) {
    float32x4_t b = simd_max(simd_max(a.val[0], a.val[2]), simd_max(a.val[1], a.val[3]));
    float32x4_t c = simd_max(b, vextq_f32(b, b, 2));
    return vgetq_lane_f32(simd_max(c, vextq_f32(c, c, 1)), 0);
}

/* Lane i with lane i ^ 1, 2, 4, 8. */
SIMD_INLINE f32x16 f32x16_swap1(f32x16 a) { return SIMD_1(f32x16, vrev64q_f32, a); }
SIMD_INLINE float32x4_t simd_swap2(float32x4_t a) { return vextq_f32(a, a, 2); }
SIMD_INLINE f32x16 f32x16_swap2(f32x16 a) { return SIMD_1(f32x16, simd_swap2, a); }
SIMD_INLINE f32x16 f32x16_swap4(f32x16 a) { return (f32x16){{a.val[1], a.val[0], a.val[3], a.val[2]}}; }
SIMD_INLINE f32x16 f32x16_swap8(f32x16 a) { return (f32x16){{a.val[2], a.val[3], a.val[0], a.val[1]}}; }

/* ---- lanes of the matmul tiles: LANES rows at a time ----
 *   fv floats   iv int32   bv 4 bytes a row (weights)   av 4 activation bytes, the same for every row: in lane 0
 */
enum { LANES = 8 };
typedef struct {
    float32x4_t lo, hi;
} fv;
typedef struct {
    int32x4_t lo, hi;
} iv;
typedef struct {
    uint8x16_t lo, hi;
} bv;
typedef int8x8_t av;

SIMD_INLINE fv fv_set1(float x) { return (fv){vdupq_n_f32(x), vdupq_n_f32(x)}; }
SIMD_INLINE fv fv_zero(void) { return fv_set1(0.0f); }
SIMD_INLINE fv fv_load(const void *p) { return (fv){vld1q_f32(p), vld1q_f32((const float *)p + 4)}; }
SIMD_INLINE fv fv_load_f16(const void *p) { return (fv){simd_load_f16(p), simd_load_f16((const uint16_t *)p + 4)}; }
SIMD_INLINE fv fv_load_bf16(const void *p) { return (fv){simd_load_bf16(p), simd_load_bf16((const uint16_t *)p + 4)}; }
SIMD_INLINE void fv_store(float *p, fv a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
SIMD_INLINE fv fv_mul(fv a, fv b) { return (fv){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
SIMD_INLINE fv fv_fma(fv a, fv b, fv c) { return (fv){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
SIMD_INLINE fv fv_from_i32(iv a) { return (fv){vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)}; }
SIMD_INLINE iv simd_set1_at(const int32_t *p) { return (iv){vld1q_dup_s32(p), vld1q_dup_s32(p)}; }
SIMD_INLINE iv iv_zero(void) { return (iv){vdupq_n_s32(0), vdupq_n_s32(0)}; }
SIMD_INLINE bv bv_load(const void *p) { return (bv){vld1q_u8(p), vld1q_u8((const uint8_t *)p + 16)}; }
SIMD_INLINE bv bv_set1(uint8_t x) { return (bv){vdupq_n_u8(x), vdupq_n_u8(x)}; }
SIMD_INLINE bv bv_and(bv a, bv b) { return (bv){vandq_u8(a.lo, b.lo), vandq_u8(a.hi, b.hi)}; }
SIMD_INLINE bv bv_or(bv a, bv b) { return (bv){vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)}; }
/* Here bits do not cross into the neighbouring byte; on x86 they do: mask after. */
#define bv_shl(a, bits) ((bv){vshlq_n_u8((a).lo, bits), vshlq_n_u8((a).hi, bits)})
#define bv_shr(a, bits) ((bv){vshrq_n_u8((a).lo, bits), vshrq_n_u8((a).hi, bits)})
/* 8 bytes, of which the dot takes the first four by lane: that needs no broadcast. What follows the quants of an
 * activation block is readable (layout.h). */
SIMD_INLINE av av_load(const void *p) { return vld1_s8(p); }

/* Weights of 0 .. 63 are signed bytes as they are, and the instruction sums int32: no bound to watch. */
SIMD_INLINE iv simd_dot(iv acc, bv w, av a) {
    return (iv){vdotq_lane_s32(acc.lo, vreinterpretq_s8_u8(w.lo), a, 0),
                vdotq_lane_s32(acc.hi, vreinterpretq_s8_u8(w.hi), a, 0)};
}
SIMD_INLINE iv simd_mla(iv acc, iv a, iv b) {
    return (iv){vmlaq_s32(acc.lo, a.lo, b.lo), vmlaq_s32(acc.hi, a.hi, b.hi)};
}

/* dot4: weights 0 .. 15. offset: int32 that the sum starts from, or NULL. */
typedef iv dot4;
SIMD_INLINE dot4 dot4_start(const int32_t *offset) { return offset ? simd_set1_at(offset) : iv_zero(); }
SIMD_INLINE dot4 dot4_add(dot4 acc, bv w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE iv dot4_sum(dot4 acc, const int32_t *offset) { return (void)offset, acc; }

/* dot5: weights 0 .. 31. minus8: int32 of which the sum takes the double, or NULL. */
typedef iv dot5;
SIMD_INLINE dot5 dot5_start(const int32_t *minus8) {
    if (!minus8) return iv_zero();
    iv start = simd_set1_at(minus8);
    return (iv){vaddq_s32(start.lo, start.lo), vaddq_s32(start.hi, start.hi)};
}
SIMD_INLINE dot5 dot5_add(dot5 acc, bv w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE dot5 dot5_widen(dot5 acc) { return acc; }
SIMD_INLINE iv dot5_sum(dot5 acc, const int32_t *minus8) { return (void)minus8, acc; }

/* dot8: signed weights. */
typedef iv dot8;
typedef bv w8;
SIMD_INLINE w8 w8_load(const void *p) { return bv_load(p); }
SIMD_INLINE dot8 dot8_start(const int32_t *minus128) { return (void)minus128, iv_zero(); }
SIMD_INLINE dot8 dot8_add(dot8 acc, w8 w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE iv dot8_sum(dot8 acc) { return acc; }
/* Weights of 4-bit indices into a table. */
SIMD_INLINE w8 w8_lookup(const int8_t *table, bv indices) {
    uint8x16_t values = vreinterpretq_u8_s8(vld1q_s8(table));
    return (w8){vqtbl1q_u8(values, indices.lo), vqtbl1q_u8(values, indices.hi)};
}
/* Byte j of each row's four, signed, as dot8_scaled wants it. */
SIMD_INLINE iv dot8_scale(bv line, int j) {
    int32x4_t up = vdupq_n_s32(24 - 8 * j);
    return (iv){vshrq_n_s32(vshlq_s32(vreinterpretq_s32_u8(line.lo), up), 24),
                vshrq_n_s32(vshlq_s32(vreinterpretq_s32_u8(line.hi), up), 24)};
}
SIMD_INLINE iv dot8_scaled(iv total, dot8 acc, iv scale) { return simd_mla(total, acc, scale); }

/* Bytes of q4_k's scale lines (layout.h) as int16: of four rows each, byte `from`, then byte `then`. */
SIMD_INLINE iv iv_pick_pairs(bv bytes, int from, int then) {
    const uint64x2_t rows = {0x8003800280018000u, 0x8003800280018000u}; /* 0x80: a zero byte */
    uint64x2_t at = {4 * (uint64_t)(unsigned)from * 0x0001000100010001u,
                     4 * (uint64_t)(unsigned)then * 0x0001000100010001u};
    uint8x16_t pick = vreinterpretq_u8_u64(vaddq_u64(rows, at));
    return (iv){vreinterpretq_s32_u8(vqtbl1q_u8(bytes.lo, pick)), vreinterpretq_s32_u8(vqtbl1q_u8(bytes.hi, pick))};
}
/* acc + a[0] * b[0] + a[1] * b[1] of int16 pairs; b from memory, the same for every row. */
SIMD_INLINE int32x4_t simd_dot_pairs(int32x4_t acc, int16x8_t a, int16x4_t b) {
    return vmlal_high_lane_s16(vmlal_lane_s16(acc, vget_low_s16(a), b, 0), a, b, 1);
}
SIMD_INLINE iv iv_dot_pairs(iv acc, iv a, const int16_t *b) {
    int32_t both;
    memcpy(&both, b, 4);
    int16x4_t pair = vreinterpret_s16_s32(vdup_n_s32(both));
    return (iv){simd_dot_pairs(acc.lo, vreinterpretq_s16_s32(a.lo), pair),
                simd_dot_pairs(acc.hi, vreinterpretq_s16_s32(a.hi), pair)};
}

/* dot8u: as at level avx2, bytes 0 and 2 of each row's four beside 1 and 3. */
typedef int16_t weight8u;
typedef struct {
    iv even, odd;
} b8u;
SIMD_INLINE int32x4_t simd_unzip(int16x8_t a) { /* the first of each pair, then the second */
    return vreinterpretq_s32_s16(vcombine_s16(vget_low_s16(vuzp1q_s16(a, a)), vget_low_s16(vuzp2q_s16(a, a))));
}
SIMD_INLINE iv simd_odd_bytes(bv a) {
    return (iv){simd_unzip(vshrq_n_s16(vreinterpretq_s16_u8(a.lo), 8)),
                simd_unzip(vshrq_n_s16(vreinterpretq_s16_u8(a.hi), 8))};
}
SIMD_INLINE iv simd_even_bytes(bv a) {
    return (iv){simd_unzip(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_u8(a.lo), 8), 8)),
                simd_unzip(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_u8(a.hi), 8), 8))};
}
SIMD_INLINE void i32x16_store_u8(weight8u *p, i32x16 a) { i32x16_store_i16(p, a); }
SIMD_INLINE b8u b8u_load(const void *p) {
    bv a = bv_load(p);
    return (b8u){simd_even_bytes(a), simd_odd_bytes(a)};
}
SIMD_INLINE iv dot8u_add(iv acc, b8u bytes, const weight8u *w) {
    return iv_dot_pairs(iv_dot_pairs(acc, bytes.even, w), bytes.odd, w + 2);
}

/* dot4k: a line of nibbles against inputs of the low and of the high nibbles, then times a 6-bit scale. */
typedef iv dot4k;
SIMD_INLINE dot4k dot4k_zero(void) { return iv_zero(); }
SIMD_INLINE bv dot4k_low(bv x) { return bv_and(x, bv_set1(15)); }
SIMD_INLINE bv dot4k_high(bv x) { return bv_shr(x, 4); }
SIMD_INLINE dot4k dot4k_add_low(dot4k acc, bv w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE dot4k dot4k_add_high(dot4k acc, bv w, av a) { return simd_dot(acc, w, a); }
/* The first of each pair of iv_pick_pairs, as int32. */
SIMD_INLINE iv simd_first(iv pairs) {
    return (iv){vmovl_s16(vget_low_s16(vreinterpretq_s16_s32(pairs.lo))),
                vmovl_s16(vget_low_s16(vreinterpretq_s16_s32(pairs.hi)))};
}
SIMD_INLINE iv dot4k_scaled(iv total, dot4k acc, iv scale) { return simd_mla(total, acc, simd_first(scale)); }

SIMD_INLINE iv iv_sub_pairs(iv pairs, int x) {
    int16x8_t all = vdupq_n_s16((int16_t)x);
    return (iv){vreinterpretq_s32_s16(vsubq_s16(vreinterpretq_s16_s32(pairs.lo), all)),
                vreinterpretq_s32_s16(vsubq_s16(vreinterpretq_s16_s32(pairs.hi), all))};
}

/* Byte j of each row's four in scale lines, less `minus`, for the dot4 of a sub-block of 16. */
SIMD_INLINE iv dot4_scale(bv bytes, int j, int minus) {
    return simd_first(iv_sub_pairs(iv_pick_pairs(bytes, j, j), minus));
}
SIMD_INLINE iv dot4_scaled(iv total, dot4 acc, iv scale) { return simd_mla(total, acc, scale); }

/* dot5k: weights 0 .. 31, DOT5K_STEPS steps of 4 inputs, then times byte j of q4_k's scale lines. */
enum { DOT5K_STEPS = 8 };
typedef iv dot5k;
SIMD_INLINE dot5k dot5k_zero(void) { return iv_zero(); }
SIMD_INLINE dot5k dot5k_add(dot5k acc, bv w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE iv dot5k_scale(bv bytes, int j) { return simd_first(iv_pick_pairs(bytes, j, j)); }
SIMD_INLINE iv dot5k_scaled(iv total, dot5k acc, iv scale) { return simd_mla(total, acc, scale); }

/* dot6: weights 0 .. 63, DOT6_STEPS steps of 4 inputs, then times a signed 8-bit scale. minus32: two for those inputs,
 * whose sum is where the sum starts. */
enum { DOT6_STEPS = 4 };
typedef iv dot6;
SIMD_INLINE dot6 dot6_start(const int16_t *minus32, const int16_t *pairs) {
    int32x4_t sum = vpaddlq_s16(vreinterpretq_s16_s32(vld1q_dup_s32((const int32_t *)(const void *)minus32)));
    return (void)pairs, (iv){sum, sum};
}
SIMD_INLINE dot6 dot6_add(dot6 acc, bv w, av a) { return simd_dot(acc, w, a); }
SIMD_INLINE iv dot6_scale(bv line, int j) { return dot8_scale(line, j); }
SIMD_INLINE iv dot6_scaled(iv total, dot6 acc, iv scale) { return simd_mla(total, acc, scale); }

/* Panels of matmul_fast.h: the instruction takes signed weights. av_load reads 4 bytes more than it needs: those behind
 * a strip's quants are its scales. */
enum { PANEL_MAX = 127, PANEL_OFFSET = 128 };
#define PANEL_TILES(X) X(1) X(2) /* strips of a tile */
SIMD_INLINE bv panel_load(const void *p) {
    bv w = bv_load(p);
    return (bv){veorq_u8(w.lo, vdupq_n_u8(0x80)), veorq_u8(w.hi, vdupq_n_u8(0x80))};
}
SIMD_INLINE iv panel_start(const int32_t *minus128) { return (void)minus128, iv_zero(); }
SIMD_INLINE iv panel_dot(iv acc, bv w, av a) { return simd_dot(acc, w, a); }
