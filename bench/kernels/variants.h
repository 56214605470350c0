/* variants.h: what bench/layout.ts compares: each level's kernels with 4, 8 and 16 rows, and the float variant. */
#ifndef ASDSL_BENCH_VARIANTS_H
#define ASDSL_BENCH_VARIANTS_H
#include "rows.h"
#include <stdbool.h>

struct variant {
    const char *layout, *level;     /* "4", "8", "16", "fma" (16 rows, floats) */
    const struct kernels *product;  /* of 16 */
    const struct rows_kernels *few; /* of 4 and 8 */
};

/* A matrix in the variant's layout and one column in the form it takes. */
struct variant_job {
    int32_t type, cols;
    const uint8_t *w;
    void *act; /* by variant_activations; freed by the caller */
    float *out;
};

/* Those that this CPU runs; returns their number, at most MAX_VARIANTS. */
enum { MAX_VARIANTS = 16 };
int32_t variants_here(struct variant out[MAX_VARIANTS]);

int32_t variant_rows(const struct variant *v);
size_t variant_group_bytes(const struct variant *v, int32_t type, int32_t cols);
/* 64-byte aligned; NULL: no memory. */
void *variant_activations(const struct variant *v, int32_t type, const float *x, int32_t cols);
void variant_pack(const struct variant *v, int32_t type, const uint8_t *from, int32_t rows, int32_t cols, uint8_t *to);
/* Row groups [begin, end). */
void variant_run(const struct variant *v, const struct variant_job *job, int32_t begin, int32_t end);

/* steps.c: instructions that one call of run(context, which) takes, by address; false: the system does not let us. */
enum { MAX_STEPS = 1 << 14 };
struct steps {
    int32_t n;
    struct {
        uintptr_t address;
        int64_t count;
    } at[MAX_STEPS];
};
typedef void counted_fn(void *context, int32_t which);
bool count_steps(counted_fn *run, void *context, int32_t which, struct steps *out);

#endif
