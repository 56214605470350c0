/* variants.c: one call for all of variants.h's kernels, so that what is timed differs in the kernel alone. */
#include "variants.h"
#include "../../csrc/cpu.h"
#include "../../csrc/kernels/layout.h"
#include "../../csrc/oracle/matmul_fma.h"
#include <stdlib.h>
#include <string.h>

struct level {
    int32_t number;
    const char *name;
    const struct rows_kernels *four, *eight;
};

static const struct level levels[] = {
    {ASDSL_LEVEL_AVX2, "avx2", &rows_4_avx2, &rows_8_avx2},
    {ASDSL_LEVEL_AVXVNNI, "avxvnni", &rows_4_avxvnni, &rows_8_avxvnni},
    {ASDSL_LEVEL_AVX512, "avx512", &rows_4_avx512, &rows_8_avx512},
};

int32_t variants_here(struct variant out[MAX_VARIANTS]) {
    uint32_t usable = cpu_levels();
    int32_t n = 0;
/* Level avxvnni was built with the EVEX encoding: any CPU with AVX-512 VNNI runs it. */
#if defined(ASDSL_EVEX_AS_AVXVNNI)
    if (usable >> ASDSL_LEVEL_AVX512 & 1) usable |= 1u << ASDSL_LEVEL_AVXVNNI;
#endif
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        if (!(usable >> levels[l].number & 1)) continue;
        out[n++] = (struct variant){.layout = "4", .level = levels[l].name, .few = levels[l].four};
        out[n++] = (struct variant){.layout = "8", .level = levels[l].name, .few = levels[l].eight};
        out[n++] = (struct variant){.layout = "16", .level = levels[l].name, .product = kernels_for(levels[l].number)};
    }
    if (usable >> ASDSL_LEVEL_AVX2 & 1) out[n++] = (struct variant){.layout = "fma", .level = "avx2"};
    return n;
}

int32_t variant_rows(const struct variant *v) { return v->few ? v->few->shape.rows : KERNEL_ROWS; }

size_t variant_group_bytes(const struct variant *v, int32_t type, int32_t cols) {
    return v->few ? rows_group_bytes(type, v->few->shape, cols) : (size_t)group_bytes(type, cols);
}

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

void *variant_activations(const struct variant *v, int32_t type, const float *x, int32_t cols) {
    const struct kernels *k = kernels_for(ASDSL_LEVEL_PORTABLE);
    int32_t act_type = type_facts(type)->activation;
    if (!v->few && !v->product) { /* inputs, then sums of 16 */
        float *floats = allocate(sizeof(float) * (size_t)(cols + cols / 16));
        if (!floats) return NULL;
        memcpy(floats, x, sizeof(float) * (size_t)cols);
        fma_sums(x, cols, floats + cols);
        return floats;
    }
    void *act = allocate(activation_row_bytes(act_type, cols));
    if (!act) return NULL;
    (act_type == ASDSL_ACT_Q8_32 ? k->quantize_q8_32 : k->quantize_q8_256)(x, cols, act);
    if (v->product) return act;
    void *spread = allocate(rows_act_bytes(type, v->few->shape, cols));
    if (spread) rows_activations(type, v->few->shape, act, cols, spread);
    free(act);
    return spread;
}

void variant_pack(const struct variant *v, int32_t type, const uint8_t *from, int32_t rows, int32_t cols, uint8_t *to) {
    if (v->few) {
        rows_pack(type, v->few->shape, from, rows, cols, to);
    } else {
        repack_for(type, 1)(from, to, rows, cols, 0, (rows + KERNEL_ROWS - 1) / KERNEL_ROWS);
    }
}

static rows_fn *few_of(const struct rows_kernels *k, int32_t type) {
    switch (type) {
    case ASDSL_Q4_1: return k->q4_1;
    case ASDSL_Q5_0: return k->q5_0;
    case ASDSL_Q8_0: return k->q8_0;
    case ASDSL_Q4_K: return k->q4_k;
    default: return k->q6_k;
    }
}

void variant_run(const struct variant *v, const struct variant_job *job, int32_t begin, int32_t end) {
    if (v->few) {
        struct rows_job few = {.w = job->w, .act = job->act, .cols = job->cols, .out = job->out};
        few_of(v->few, job->type)(&few, begin, end);
    } else if (v->product) {
        struct matmul_job product = {.w = job->w,
                                     .rows = end * KERNEL_ROWS,
                                     .cols = job->cols,
                                     .act = job->act,
                                     .act_stride = activation_row_bytes(type_facts(job->type)->activation, job->cols),
                                     .n = 1,
                                     .out = job->out,
                                     .out_stride = (size_t)end * KERNEL_ROWS,
                                     .epilogue = EPILOGUE_STORE};
        v->product->type[job->type].gemv(&product, begin, end, NULL);
    } else {
        const float *x = job->act;
        struct fma_job floats = {
            .type = job->type, .w = job->w, .cols = job->cols, .x = x, .x16 = x + job->cols, .out = job->out};
        matmul_fma(&floats, begin, end);
    }
}
