/* reference_matmul.c: the oracle of the matmul family: element after element, published formulas, double sums.
 *
 * Never optimised. It reads the interleaved records through layout_element and takes the same quantised activations as
 * the fast kernels; a test bounds the distance between the two. gemm_fast takes strips (matmul_fast.h) and the weights
 * as they are: what it and the fast kernels differ by is the second rounding of weights.
 */
#include "matmul_fast.h"
#include "reference.h"
#include <math.h>

#define REFERENCE(name) name##_reference

static double activation(int32_t type, const uint8_t *row, int32_t k) {
    if (type == ASDSL_ACT_F32) return ((const float *)(const void *)row)[k];
    if (type == ASDSL_ACT_Q8_32) {
        const struct act_q8_32 *block = (const struct act_q8_32 *)(const void *)row + k / 32;
        return (double)block->d * block->q[k % 32];
    }
    const struct act_q8_256 *block = (const struct act_q8_256 *)(const void *)row + k / 256;
    return (double)block->d * block->q[k % 256];
}

/* Input k of column t of strips. */
static double strip_activation(const struct matmul_job *job, int32_t t, int32_t k) {
    const uint8_t *strip = (const uint8_t *)job->act + (size_t)(t / STRIP_COLS) * job->act_stride;
    int32_t block = k / FAST_BLOCK, i = k % FAST_BLOCK, c = t % STRIP_COLS;
    int32_t left = fast_cols(job->cols) - FAST_BLOCK * block, steps = (left < FAST_BLOCK ? left : FAST_BLOCK) / 4;
    strip += (size_t)block * (FAST_BLOCK * STRIP_COLS + sizeof(struct strip_tail));
    return (double)tail_of(strip, steps)->d[c] * (int8_t)strip[STRIP_LINE * (i / 4) + 4 * c + i % 4];
}

enum form { ROWS, STRIPS, ROUNDED }; /* activations in rows or in strips; in rows, with rounded weights */

/* A weight as gemm_rounded has it: of iq4_nl, its table's value rounded. */
static double rounded(struct element e) {
    for (int32_t i = 0; i < 16; i++)
        if (iq4_nl_values[i] == e.q) return (double)e.scale * IQ4_NL_STEP * (iq4_nl_rounded[i] - IQ4_NL_ZERO);
    return NAN;
}

static double dot(int32_t type, const struct matmul_job *job, const void *w, int32_t row, int32_t t, enum form form) {
    const uint8_t *group = (const uint8_t *)w + (size_t)(row / KERNEL_ROWS) * group_bytes(type, job->cols);
    const uint8_t *act = (const uint8_t *)job->act + (size_t)t * job->act_stride; /* of ROWS */
    int32_t act_type = type_facts(type)->activation;
    double sum = 0;
    for (int32_t k = 0; k < job->cols; k++) {
        struct element e = layout_element(type, group, job->cols, row % KERNEL_ROWS, k);
        double x = form == STRIPS ? strip_activation(job, t, k) : activation(act_type, act, k);
        sum += (form == ROUNDED ? rounded(e) : (double)e.scale * e.q + e.offset) * x;
    }
    return sum;
}

/* With the tanh in it, as published: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units". */
static double gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))); }

static void matmul(int32_t type, const struct matmul_job *job, int32_t begin, int32_t end, enum form form) {
    int32_t stop = end <= job->rows / KERNEL_ROWS ? end * KERNEL_ROWS : job->rows;
    for (int32_t row = begin * KERNEL_ROWS; row < stop; row++)
        for (int32_t t = 0; t < job->n; t++) {
            float *out = job->out + (size_t)t * job->out_stride + row;
            double y = dot(type, job, job->w, row, t, form) + (job->bias ? (double)job->bias[row] : 0);
            if (job->epilogue == EPILOGUE_ADD) y += *out;
            if (job->epilogue == EPILOGUE_SILU_MUL) y = y / (1 + exp(-y)) * dot(type, job, job->w2, row, t, form);
            if (job->epilogue == EPILOGUE_GELU_MUL) y = gelu(y) * dot(type, job, job->w2, row, t, form);
            if (job->epilogue == EPILOGUE_SOFTCAP) y = job->softcap * tanh(y / job->softcap);
            *out = (float)y;
        }
}

#define TYPE(name, TYPE)                                                                                               \
    matmul_fn REFERENCE(name##_gemv), REFERENCE(name##_gemm), REFERENCE(name##_gemm_fast);                             \
    gather_row_fn REFERENCE(name##_gather_row);                                                                        \
    void REFERENCE(name##_gemv)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {             \
        (void)scratch;                                                                                                 \
        matmul(TYPE, job, begin, end, ROWS);                                                                           \
    }                                                                                                                  \
    void REFERENCE(name##_gemm)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {             \
        (void)scratch;                                                                                                 \
        matmul(TYPE, job, begin, end, ROWS);                                                                           \
    }                                                                                                                  \
    void REFERENCE(name##_gemm_fast)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {        \
        (void)scratch;                                                                                                 \
        matmul(TYPE, job, begin, end, STRIPS);                                                                         \
    }                                                                                                                  \
    void REFERENCE(name##_gather_row)(const void *table, int32_t rows, int32_t cols, int32_t row, float *out) {        \
        const uint8_t *group = (const uint8_t *)table + (size_t)(row / KERNEL_ROWS) * group_bytes(TYPE, cols);         \
        (void)rows;                                                                                                    \
        for (int32_t k = 0; k < cols; k++) {                                                                           \
            struct element e = layout_element(TYPE, group, cols, row % KERNEL_ROWS, k);                                \
            out[k] = (float)((double)e.scale * e.q + e.offset);                                                        \
        }                                                                                                              \
    }

matmul_fn REFERENCE(iq4_nl_gemm_rounded);
void REFERENCE(iq4_nl_gemm_rounded)(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch) {
    (void)scratch;
    matmul(ASDSL_IQ4_NL, job, begin, end, ROUNDED);
}

TYPE(f32, ASDSL_F32)
TYPE(f16, ASDSL_F16)
TYPE(bf16, ASDSL_BF16)
TYPE(q4_0, ASDSL_Q4_0)
TYPE(q4_1, ASDSL_Q4_1)
TYPE(q5_0, ASDSL_Q5_0)
TYPE(q5_1, ASDSL_Q5_1)
TYPE(iq4_nl, ASDSL_IQ4_NL)
TYPE(q8_0, ASDSL_Q8_0)
TYPE(q4_k, ASDSL_Q4_K)
TYPE(q5_k, ASDSL_Q5_K)
TYPE(q2_k, ASDSL_Q2_K)
TYPE(q3_k, ASDSL_Q3_K)
TYPE(iq4_xs, ASDSL_IQ4_XS)
TYPE(q6_k, ASDSL_Q6_K)

/* ---- activations: the rule of quantize.c in scalars ---- */

float reference_quantize(const float *x, int32_t left, int32_t n, int8_t *q) {
    float largest = 0, finite = 1;
    for (int32_t i = 0; i < n && i < left; i++) {
        if (!isfinite(x[i])) finite = 0;
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    }
    float inverse = largest >= 0x1p-100f && finite ? 127.0f / largest : 0.0f;
    for (int32_t i = 0; i < n; i++) q[i] = (int8_t)(i < left && finite ? nearbyintf(x[i] * inverse) : 0.0f);
    if (!finite) return NAN;
    return largest >= 0x1p-100f ? largest / 127.0f : 0.0f;
}

static int32_t sum_of(const int8_t *q, int32_t n, int32_t period, int32_t from, int32_t to) {
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        if (i % period >= from && i % period < to) sum += q[i];
    return sum;
}

quantize_row_fn REFERENCE(quantize_q8_32), REFERENCE(quantize_q8_256);

void REFERENCE(quantize_q8_32)(const float *x, int32_t cols, void *row) {
    struct act_q8_32 *block = row;
    for (int32_t k = 0; k < cols; k += 32, block++) {
        block->d = reference_quantize(x + k, cols - k, 32, block->q);
        int32_t sum = sum_of(block->q, 32, 1, 0, 1);
        block->s = block->d * (float)sum;
        block->minus8 = -8 * sum;
        block->minus128 = -128 * sum;
    }
}

void REFERENCE(quantize_q8_256)(const float *x, int32_t cols, void *row) {
    struct act_q8_256 *block = row;
    for (int32_t k = 0; k < cols; k += 256, block++) {
        memset(block, 0, sizeof *block);
        block->d = reference_quantize(x + k, cols - k, 256, block->q);
        for (int32_t i = 0; i < 16; i++) {
            const int8_t *q = block->q + 16 * i;
            for (int32_t j = 0; j < 2; j++) block->minus32[2 * i + j] = (int16_t)(-32 * sum_of(q + 8 * j, 8, 1, 0, 1));
            block->minus32_pairs[i][0] = (int16_t)(-32 * sum_of(q, 16, 4, 0, 2));
            block->minus32_pairs[i][1] = (int16_t)(-32 * sum_of(q, 16, 4, 2, 4));
        }
        for (int32_t i = 0; i < 8; i++) block->minus_sums[i] = (int16_t)-sum_of(block->q + 32 * i, 32, 1, 0, 1);
    }
}

/* ---- strips: the rule of matmul_fast_strip.c in scalars ---- */
/* Block of 256 inputs from k on of one row: q, what is missing zero, and its scale. */
static float strip_block(int32_t act_type, const uint8_t *row, int32_t cols, int32_t k, int8_t *q) {
    float d = 0;
    memset(q, 0, FAST_BLOCK);
    if (act_type == ASDSL_ACT_F32) {
        return reference_quantize((const float *)(const void *)row + k, cols - k, FAST_BLOCK, q);
    }
    if (act_type == ASDSL_ACT_Q8_256) {
        const struct act_q8_256 *block = (const struct act_q8_256 *)(const void *)row + k / FAST_BLOCK;
        memcpy(q, block->q, FAST_BLOCK);
        return block->d;
    }
    const struct act_q8_32 *blocks = (const struct act_q8_32 *)(const void *)row + k / 32;
    int32_t n = cols - k < FAST_BLOCK ? (cols - k + 31) / 32 : 8;
    for (int32_t b = 0; b < n; b++) {
        if (isnan(blocks[b].d) || isnan(d))
            d = NAN;
        else if (blocks[b].d > d)
            d = blocks[b].d;
    }
    for (int32_t i = 0; i < 32 * n && d > 0; i++) {
        q[i] = (int8_t)nearbyintf((float)blocks[i / 32].q[i % 32] * (blocks[i / 32].d / d));
    }
    return d;
}

static void strips(int32_t act_type, const void *act, size_t act_stride, int32_t cols, int32_t n, int32_t begin,
                   int32_t end, uint8_t *to) {
    to += (size_t)begin * strip_bytes(cols);
    for (int32_t s = begin; s < end; s++)
        for (int32_t k = 0; k < cols; k += FAST_BLOCK) {
            struct strip_tail tail = {0};
            int32_t inputs = fast_cols(cols - k < FAST_BLOCK ? cols - k : FAST_BLOCK);
            for (int32_t c = 0; c < STRIP_COLS; c++) {
                int8_t q[FAST_BLOCK] = {0};
                int32_t t = STRIP_COLS * s + c;
                if (t < n) tail.d[c] = strip_block(act_type, (const uint8_t *)act + (size_t)t * act_stride, cols, k, q);
                tail.minus128[c] = -128 * sum_of(q, FAST_BLOCK, 1, 0, 1);
                for (int32_t i = 0; i < inputs; i++) to[STRIP_LINE * (i / 4) + 4 * c + i % 4] = (uint8_t)q[i];
            }
            to += STRIP_COLS * inputs;
            memcpy(to, &tail, sizeof tail);
            to += sizeof tail;
        }
}

#define STRIPS_FN(name, TYPE)                                                                                          \
    strips_fn REFERENCE(strips_##name);                                                                                \
    void REFERENCE(strips_##name)(const void *act, size_t act_stride, int32_t cols, int32_t n, int32_t begin,          \
                                  int32_t end, void *to) {                                                             \
        strips(TYPE, act, act_stride, cols, n, begin, end, to);                                                        \
    }
STRIPS_FN(f32, ASDSL_ACT_F32)
STRIPS_FN(q8_32, ASDSL_ACT_Q8_32)
STRIPS_FN(q8_256, ASDSL_ACT_Q8_256)

int8_peak_fn REFERENCE(int8_peak);

double REFERENCE(int8_peak)(int64_t iterations) {
    volatile int32_t sum = 0, w = 3, a = 5;
    for (int64_t n = 0; n < iterations; n++) sum = sum + w * a;
    return (double)iterations;
}
