/* reference.h: the rule of quantize.h in scalars, for the references that round as the kernels do: reference_matmul.c.
 */
#ifndef ASDSL_REFERENCE_H
#define ASDSL_REFERENCE_H
#include <stdint.h>

/* n inputs, those past `left` being 0, to q; returns the scale, NaN where an input was not finite (q is then 0). */
float reference_quantize(const float *x, int32_t left, int32_t n, int8_t *q);

#endif
