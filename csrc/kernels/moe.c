/* moe.c: which experts a row goes to, and the sum of what they made of it. What experts compute is matmul's business.
 *
 * The choice is by logits alone, so that rounding of exponentials cannot change it.
 */
#include "kernels.h"
#include "simd.h"

moe_route_fn KERNEL(moe_route);
moe_combine_fn KERNEL(moe_combine);

/* A larger logit comes first, and anything before NaN. */
static int precedes(float a, float b) { return a > b || (b != b && a == a); }

/* Ids come in ascending order and an equal logit stays behind, so ties are in order. */
static void choose(const float *logits, int32_t n_experts, int32_t n_used, int32_t *experts) {
    int32_t size = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        if (size == n_used && !precedes(logits[e], logits[experts[size - 1]])) continue;
        int32_t at = size < n_used ? size++ : size - 1;
        for (; at > 0 && precedes(logits[e], logits[experts[at - 1]]); at--) experts[at] = experts[at - 1];
        experts[at] = e;
    }
}

/* Sum of exp(logit - largest); NaN when a logit is not finite. */
static float sum_of_exp(const float *logits, int32_t n, float largest) {
    f32x16 sum = f32x16_zero(), poison = f32x16_zero(), top = f32x16_set1(largest);
    for (int32_t i = 0; i < n; i += 16) {
        int32_t lanes = n - i < 16 ? n - i : 16;
        f32x16 x = f32x16_load_n(logits + i, lanes), y = f32x16_exp(f32x16_sub(x, top));
        if (lanes < 16) y = f32x16_select(mask16_first(lanes), y, f32x16_zero());
        poison = f32x16_add(poison, f32x16_sub(x, x));
        sum = f32x16_add(sum, y);
    }
    return f32x16_sum(poison) == 0.0f ? f32x16_sum(sum) : NAN;
}

void KERNEL(moe_route)(const float *logits, int32_t n_experts, int32_t n_used, int32_t normalise, float scale,
                       int32_t *experts, float *weights) {
    choose(logits, n_experts, n_used, experts);
    float largest = logits[experts[0]], total = sum_of_exp(logits, n_experts, largest), chosen = 0;
    for (int32_t i = 0; i < n_used; i += 16) {
        int32_t lanes = n_used - i < 16 ? n_used - i : 16;
        float gathered[16];
        for (int32_t j = 0; j < lanes; j++) gathered[j] = logits[experts[i + j]];
        f32x16 x = f32x16_load_n(gathered, lanes);
        f32x16_store_n(weights + i, f32x16_exp(f32x16_sub(x, f32x16_set1(largest))), lanes);
    }
    for (int32_t i = 0; i < n_used; i++) chosen += weights[i];
    for (int32_t i = 0; i < n_used; i++) {
        weights[i] = total != total ? NAN : weights[i] / (normalise ? chosen : total) * scale;
    }
}

void KERNEL(moe_combine)(const float *rows, size_t stride, const int32_t *at, const float *weights, int32_t n,
                         int32_t cols, float *out) {
    for (int32_t j = 0; j < cols; j += 16) {
        int32_t lanes = cols - j < 16 ? cols - j : 16;
        f32x16 sum = f32x16_zero();
        for (int32_t i = 0; i < n; i++) {
            f32x16 x = f32x16_load_n(rows + (size_t)at[i] * stride + j, lanes);
            sum = f32x16_fma(f32x16_set1(weights[i]), x, sum);
        }
        f32x16_store_n(out + j, f32x16_add(f32x16_load_n(out + j, lanes), sum), lanes);
    }
}
