/* tune.h: whether products of one column fetch their weights ahead, learned while decoding. Knows no kernels. */
#ifndef ASDSL_TUNE_H
#define ASDSL_TUNE_H
#include "engine.h"

enum { TUNE_TYPES = 32 }; /* asdsl_type of weights, as in struct kernels */

/* Bytes of the weights that an op multiplies a row with; 0: no product. */
double tune_weight_bytes(const struct asdsl_op *op);

/* All zero: nothing learned. An engine has one; it changes between runs only. */
struct tuner {
    bool fetch[TUNE_TYPES]; /* what the next run does: job.fetch_ahead of one column */
    struct {
        double least[2]; /* clock ticks for a byte without and with fetching, of the fastest run */
        int32_t runs[2];
    } trial[TUNE_TYPES];
};

/* Ticks spent in products of each weight type, and the bytes of their weights. */
struct tune_sample {
    double ticks[TUNE_TYPES], bytes[TUNE_TYPES];
};

/* False: nothing is left to learn from ops [first, end), and no sample is needed. */
bool tune_begin(const struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first,
                int32_t end, struct tune_sample *sample);
/* After a run of one token, its logits wanted, over the same range. */
void tune_end(struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first, int32_t end,
              const struct tune_sample *begin);

#endif
