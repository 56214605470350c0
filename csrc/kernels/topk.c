/* topk.c: one row of logits -> its largest values, sorted, and the logarithm of the sum of their exponentials.
 *
 * A NaN is never a candidate and adds nothing: it is counted. Infinities are compared as they are, and counted too.
 */
#include "kernels.h"
#include "simd.h"

enum { SUM_BLOCK = 1024 }; /* logits whose exponentials are added in float; beyond, in double: 6 digits stay exact */

top_k_fn KERNEL(top_k);

/* ---- a heap of candidates, the worst at its root: lower logits are worse, and later tokens of equal ones ---- */
static int worse(struct asdsl_candidate a, struct asdsl_candidate b) {
    return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}

static void sift_down(struct asdsl_candidate *heap, int32_t n, int32_t at) {
    struct asdsl_candidate moved = heap[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* The k best, k > 0. Tokens come in ascending order, so an equal logit never replaces one that is in. */
static int32_t select_best(const float *logits, int32_t n, int32_t k, struct asdsl_candidate *heap) {
    int32_t size = 0, i = 0;
    for (; i < n && size < k; i++)
        if (logits[i] == logits[i]) heap[size++] = (struct asdsl_candidate){i, logits[i]};
    for (int32_t j = size / 2 - 1; j >= 0; j--) sift_down(heap, size, j);
    for (; i < n; i += 16) {
        int32_t count = n - i < 16 ? n - i : 16;
        mask16 better = f32x16_lt(f32x16_set1(heap[0].logit), f32x16_load_n(logits + i, count));
        uint32_t bits = mask16_bits(mask16_and(better, mask16_first(count)));
        for (; bits; bits &= bits - 1) {
            int32_t token = i + __builtin_ctz(bits);
            if (!(logits[token] > heap[0].logit)) continue;
            heap[0] = (struct asdsl_candidate){token, logits[token]};
            sift_down(heap, size, 0);
        }
    }
    for (int32_t left = size - 1; left > 0; left--) { /* the worst to the end, again and again */
        struct asdsl_candidate worst = heap[0];
        heap[0] = heap[left];
        heap[left] = worst;
        sift_down(heap, left, 0);
    }
    return size;
}

/* ---- statistics ---- */
static int32_t count_not_finite(const float *logits, int32_t n) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; i += 16) {
        int32_t lanes = n - i < 16 ? n - i : 16;
        f32x16 x = f32x16_load_n(logits + i, lanes), zero = f32x16_zero();
        count += lanes - __builtin_popcount(mask16_bits(f32x16_eq(f32x16_sub(x, x), zero)) & ((1u << lanes) - 1));
    }
    return count;
}

static double sum_of_exp(const float *logits, int32_t n, float largest, int has_nan) {
    double total = 0;
    for (int32_t begin = 0; begin < n; begin += SUM_BLOCK) {
        f32x16 sum = f32x16_zero(), top = f32x16_set1(largest);
        for (int32_t i = begin; i < n && i < begin + SUM_BLOCK; i += 16) {
            int32_t lanes = n - i < 16 ? n - i : 16;
            f32x16 x = f32x16_load_n(logits + i, lanes), y = f32x16_exp(f32x16_sub(x, top));
            if (lanes < 16) y = f32x16_select(mask16_first(lanes), y, f32x16_zero());
            if (has_nan) y = f32x16_select(f32x16_eq(x, x), y, f32x16_zero());
            sum = f32x16_add(sum, y);
        }
        total += (double)f32x16_sum(sum);
    }
    return total;
}

void KERNEL(top_k)(const float *logits, int32_t n, int32_t k, struct asdsl_row_stats *stats,
                   struct asdsl_candidate *candidates, void *scratch) {
    struct asdsl_candidate one, *best = k > 0 ? candidates : &one;
    (void)scratch;
    int32_t n_best = select_best(logits, n, k < 1 ? 1 : k < n ? k : n, best);
    stats->n_candidates = k > 0 ? n_best : 0;
    stats->max = n_best > 0 ? best[0].logit : -INFINITY; /* nothing but NaN */
    stats->argmax = n_best > 0 ? best[0].token : 0;
    stats->n_not_finite = count_not_finite(logits, n);
    stats->logsumexp = stats->max;
    if (stats->max - stats->max == 0) stats->logsumexp += log(sum_of_exp(logits, n, stats->max, stats->n_not_finite));
}
