/* kernels.h: the table of kernel slots of one instruction-set level, and the jobs that slots take.
 *
 * Slots know addresses and ranges; they know nothing of threads, operands, programs or handles. Every slot of every
 * level computes the same bits: integers inside a block, one FMA chain per row in block order between blocks, one
 * canonical 16-lane order in reductions, one polynomial for exp (simd_math.h). Levels differ in speed only.
 * reference.c fills the same table with naive double-precision code: the oracle, within a derived bound.
 *
 * Each .c file in this folder (reference.c, table.c apart) is compiled once per level; KERNEL(name) appends the level.
 */
#ifndef ASDSL_KERNELS_H
#define ASDSL_KERNELS_H
#include "../asdsl.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KERNEL_ROWS = 16 };   /* rows of an interleaved record: DESIGN 4, measured best of 4, 8 and 16 */
enum { KERNEL_GEMV_MAX = 16 }; /* columns up to which the gemv slot serves; above it the gemm slot */

enum matmul_epilogue {
    EPILOGUE_STORE,    /* out  = W x (+ bias) */
    EPILOGUE_ADD,      /* out += W x (+ bias) */
    EPILOGUE_SILU_MUL, /* out  = silu(W x) * (W2 x) */
    EPILOGUE_GELU_MUL, /* out  = gelu(W x) * (W2 x), gelu in its tanh form */
    EPILOGUE_SOFTCAP,  /* out  = softcap * tanh((W x (+ bias)) / softcap) */
};

struct matmul_job {
    const void *w, *w2;  /* interleaved weights; w2 the up matrix of SILU_MUL and GELU_MUL, else NULL */
    int32_t rows, cols;  /* outputs, inputs */
    const void *act;     /* n rows in the ACT type of the weight type */
    size_t act_stride;   /* bytes between rows, = activation_row_bytes(type, cols) */
    int32_t n;           /* columns of the product: tokens */
    float *out;          /* out[t * out_stride + row] */
    size_t out_stride;   /* floats */
    const float *bias;   /* (rows) or NULL */
    enum matmul_epilogue epilogue;
    float softcap;       /* of SOFTCAP */
    bool fetch_ahead;    /* the weights come from memory, and instructions shall ask for them in advance */
};

/* Row groups [begin, end) of 16 rows, all n columns. scratch: matmul_scratch_bytes(), 64-byte aligned, per thread. */
typedef void matmul_fn(const struct matmul_job *job, int32_t begin, int32_t end, void *scratch);
/* Activations of n columns -> strips [begin, end) of gemm_fast: matmul_fast.h. */
typedef void strips_fn(const void *act, size_t act_stride, int32_t cols, int32_t n, int32_t begin, int32_t end,
                       void *strips);
typedef void gather_row_fn(const void *table, int32_t rows, int32_t cols, int32_t row, float *out);
typedef void quantize_row_fn(const float *x, int32_t cols, void *row);
typedef void rms_norm_fn(const float *x, const float *weight, int32_t cols, float eps, float *out); /* out may be x */
typedef void rope_head_fn(float *x, const float *table, int32_t n_rot, int32_t mode);

/* Interleaving (from rows to records) and back, both lossless: row groups [begin, end). */
typedef void repack_fn(const void *from, void *to, int32_t n_rows, int32_t cols, int32_t begin, int32_t end);

/* Floats -> blocks of a type (encode.h): n weights, whole rows of `cols`. importance: of each column (cols), or NULL.
 * All finite. */
typedef void encode_fn(const float *x, const float *importance, int32_t n, int32_t cols, void *out);
typedef void expand_fn(const void *half, int32_t n, float *out);

struct attention_job; /* attention.h */
typedef void attention_fn(const struct attention_job *job, int32_t begin, int32_t end, void *scratch);
typedef void kv_append_fn(const struct attention_job *job, int32_t begin, int32_t end);

/* One row of logits -> stats and the k best candidates, sorted. scratch: top_k_scratch_bytes(n). */
typedef void top_k_fn(const float *logits, int32_t n, int32_t k, struct asdsl_row_stats *stats,
                      struct asdsl_candidate *candidates, void *scratch);

/* One row of a router's logits -> the ids of its n_used largest and their weights: ops.h, moe_route. A row with NaN or
 * an infinity has NaN weights, so that the fault shows; its ids are ids. */
typedef void moe_route_fn(const float *logits, int32_t n_experts, int32_t n_used, int32_t normalise, float scale,
                          int32_t *experts, float *weights);
/* out += sum over i < n, in order, of weights[i] * row at[i] of rows */
typedef void moe_combine_fn(const float *rows, size_t stride, const int32_t *at, const float *weights, int32_t n,
                            int32_t cols, float *out);

/* Operations per second probe: runs `iterations` of independent integer dots, returns multiply-accumulates done. */
typedef double int8_peak_fn(int64_t iterations);

struct type_kernels {
    matmul_fn *gemv; /* 1 .. KERNEL_GEMV_MAX columns */
    matmul_fn *gemm; /* more columns; bit-identical with gemv */
    /* As gemm, but rounding weights once more (matmul_fast.h): act are strips, scratch the panels. Not exact. NULL
     * where it would not be faster. */
    matmul_fn *gemm_fast;
    /* As gemm, activations too, but with weights rounded while they are unpacked, to as few bits as multiply faster.
     * Not exact. NULL where it would not be faster. */
    matmul_fn *gemm_rounded;
    gather_row_fn *gather_row;
    const char *gemv_name, *gemm_name, *gemm_fast_name, *gemm_rounded_name,
        *gather_row_name; /* "q4_1.gemv.avx2": what struct step's slot says */
};

struct kernels {
    const char *level; /* "avx2" */
    struct type_kernels type[32]; /* by weight asdsl_type (< 32); unsupported: NULL slots */
    encode_fn *encode[32]; /* likewise */
    expand_fn *expand_f16;
    quantize_row_fn *quantize_q8_32, *quantize_q8_256;
    strips_fn *strips_f32, *strips_q8_32, *strips_q8_256; /* by activation type */
    rms_norm_fn *rms_norm, *rms_norm_add; /* out = norm; out += norm, out not x */
    rope_head_fn *rope_head;
    attention_fn *attention_chunks, *attention_merge;
    kv_append_fn *kv_append;
    top_k_fn *top_k;
    moe_route_fn *moe_route;
    moe_combine_fn *moe_combine;
    int8_peak_fn *int8_peak;
    /* "rms_norm.avx2": likewise */
    const char *quantize_q8_32_name, *quantize_q8_256_name, *strips_f32_name, *strips_q8_32_name, *strips_q8_256_name,
        *rms_norm_name, *rms_norm_add_name, *rope_head_name, *attention_chunks_name, *attention_merge_name,
        *kv_append_name, *top_k_name, *moe_route_name, *moe_combine_name, *int8_peak_name;
};

/* table.c. NULL: this build or CPU lacks the level. The mask of usable levels comes from cpu.c. */
const struct kernels *kernels_for(int32_t level);

/* Facts of a type that need no instruction set: layout.c. */
struct type_facts {
    const char *name; /* "q4_1" */
    int32_t type;
    int32_t block;       /* weights per block: 1, 32, 256 */
    int32_t block_bytes; /* in ROWS layout */
    int32_t activation;  /* ACT type */
};
const struct type_facts *type_facts(int32_t type);                          /* NULL: unknown */
double interleaved_bytes(const struct type_facts *t, int32_t rows, int32_t cols); /* padded to whole groups */
size_t activation_row_bytes(int32_t act_type, int32_t cols);                /* a multiple of 64 */
size_t matmul_scratch_bytes(void);                                          /* per thread, any product */
size_t top_k_scratch_bytes(int32_t n);
repack_fn *repack_for(int32_t type, int interleave); /* interleave 1: rows -> records, 0: back; NULL: unknown type */

#if defined(ASDSL_LEVEL_NAME)
#define KERNEL_PASTE2(a, b) a##_##b
#define KERNEL_PASTE(a, b) KERNEL_PASTE2(a, b)
#define KERNEL(name) KERNEL_PASTE(name, ASDSL_LEVEL_NAME)
#endif

#endif
