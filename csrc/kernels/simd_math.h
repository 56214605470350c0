/* simd_math.h: exp, 2^x, silu, gelu and tanh, written once in the vocabulary of simd.h, so that every level gives the
 * same bits. Included by simd.h, last. Coefficients: minimax fits of our own (weighted least squares, iterated),
 * float32.
 */
/* e^x, relative error below 2e-7. 0 below -87.3365 (no subnormal results); saturates at e^88.37 = 2.4e38; NaN stays. */
SIMD_INLINE f32x16 f32x16_exp(f32x16 x) {
    f32x16 low = f32x16_set1(-87.3365f), round = f32x16_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to integer */
    mask16 vanishes = f32x16_lt(x, low);
    x = f32x16_min(f32x16_set1(88.37f), f32x16_max(low, x)); /* constants first: a NaN in x passes through */
    f32x16 shifted = f32x16_fma(x, f32x16_set1(0x1.715476p+0f), round), n = f32x16_sub(shifted, round);
    f32x16 r = f32x16_fma(n, f32x16_set1(-0x1.63p-1f), x); /* exact: the constant has 9 bits */
    r = f32x16_fma(n, f32x16_set1(0x1.bd0106p-13f), r);
    f32x16 p = f32x16_set1(0x1.6a23ccp-10f); /* e^r = 1 + r + r^2 p(r), |r| <= ln2 / 2 */
    p = f32x16_fma(p, r, f32x16_set1(0x1.123a2p-7f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.5558f2p-5f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.555492p-3f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.fffffcp-2f));
    p = f32x16_fma(f32x16_fma(p, r, f32x16_set1(1.0f)), r, f32x16_set1(1.0f));
    /* shifted holds n in its low bits: into the exponent field. */
    i32x16 scale = i32x16_shl(i32x16_add(f32x16_bits(shifted), i32x16_set1(127)), 23);
    return f32x16_select(vanishes, f32x16_zero(), f32x16_mul(p, f32x16_from_bits(scale)));
}

/* 2^x for x below 127, relative error below 1.6e-7, 2^0 = 1. 0 below -126 (no subnormal results); NaN stays. */
SIMD_INLINE f32x16 f32x16_exp2(f32x16 x) {
#if defined(SIMD_SPLITS_EXPONENT)
    f32x16 n, r = simd_split(x, &n);
#else
    f32x16 low = f32x16_set1(-126.0f), round = f32x16_set1(12582912.0f); /* as above */
    mask16 vanishes = f32x16_lt(x, low);
    x = f32x16_max(low, x); /* the constant first: a NaN in x passes through */
    f32x16 shifted = f32x16_add(x, round), r = f32x16_sub(x, f32x16_sub(shifted, round));
#endif
    f32x16 p = f32x16_set1(0x1.5bf414p-10f); /* 2^r, |r| <= 1/2 */
    p = f32x16_fma(p, r, f32x16_set1(0x1.3ce91cp-7f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.c6b6acp-5f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.ebf9cp-3f));
    p = f32x16_fma(p, r, f32x16_set1(0x1.62e42ap-1f));
    p = f32x16_fma(p, r, f32x16_set1(1.0f));
#if defined(SIMD_SPLITS_EXPONENT)
    return simd_join(x, p, n);
#else
    i32x16 scale = i32x16_shl(i32x16_add(f32x16_bits(shifted), i32x16_set1(127)), 23);
    return f32x16_select(vanishes, f32x16_zero(), f32x16_mul(p, f32x16_from_bits(scale)));
#endif
}

#if !defined(SIMD_FOLDS_FOUR)
/* f32x16_sum and f32x16_hmax of four. */
SIMD_INLINE void f32x16_sum4(const f32x16 *a, float *out) {
    for (int i = 0; i < 4; i++) out[i] = f32x16_sum(a[i]);
}
SIMD_INLINE void f32x16_hmax4(const f32x16 *a, float *out) {
    for (int i = 0; i < 4; i++) out[i] = f32x16_hmax(a[i]);
}
#endif

#if !defined(SIMD_PACKS_FOUR)
/* i32x16_store_u8 of four, one behind the other. */
SIMD_INLINE void i32x16_store4_u8(weight8u *p, const i32x16 *a) {
    for (int i = 0; i < 4; i++) i32x16_store_u8(p + 16 * i, a[i]);
}
#endif

/* x / (1 + e^-x) */
SIMD_INLINE f32x16 f32x16_silu(f32x16 x) {
    return f32x16_div(x, f32x16_add(f32x16_set1(1.0f), f32x16_exp(f32x16_neg(x))));
}

/* x / 2 (1 + tanh(a (x + b x^3))) with a = sqrt(2 / pi), b = 0.044715. (1 + tanh t) / 2 = 1 / (1 + e^-2t), which loses
 * nothing where tanh is near -1: x / (1 + e^-(x (2a + 2ab x^2))). */
SIMD_INLINE f32x16 f32x16_gelu(f32x16 x) {
    f32x16 inner = f32x16_fma(f32x16_mul(x, x), f32x16_set1(0x1.2444f2p-4f), f32x16_set1(0x1.988454p+0f));
    return f32x16_div(x, f32x16_add(f32x16_set1(1.0f), f32x16_exp(f32x16_neg(f32x16_mul(x, inner)))));
}

/* tanh x, relative error below 5e-7: an odd polynomial up to 0.6, beyond it 1 - 2 / (e^2|x| + 1). */
SIMD_INLINE f32x16 f32x16_tanh(f32x16 x) {
    f32x16 a = f32x16_abs(x), z = f32x16_mul(x, x), p = f32x16_set1(-0x1.830be6p-8f);
    p = f32x16_fma(p, z, f32x16_set1(0x1.54e014p-6f));
    p = f32x16_fma(p, z, f32x16_set1(-0x1.b89ed8p-5f));
    p = f32x16_fma(p, z, f32x16_set1(0x1.1109dcp-3f));
    p = f32x16_fma(p, z, f32x16_set1(-0x1.55553ep-2f));
    f32x16 small = f32x16_fma(f32x16_mul(p, z), x, x);
    f32x16 one = f32x16_set1(1.0f), e = f32x16_exp(f32x16_add(a, a));
    f32x16 large = f32x16_sub(one, f32x16_div(f32x16_set1(2.0f), f32x16_add(e, one)));
    large = f32x16_select(f32x16_lt(x, f32x16_zero()), f32x16_neg(large), large);
    return f32x16_select(f32x16_lt(a, f32x16_set1(0.6f)), small, large);
}
