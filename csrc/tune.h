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
    struct trial {
        uint32_t votes; /* for fetching, of the last pairs: a bit each */
        double cost, bytes; /* of a byte, and how many, in the first run of a pair */
        int32_t n_pairs, idle; /* pairs made; runs until the next one */
        bool is_second;
    } trial[TUNE_TYPES];
};

/* Ticks spent in products of each weight type, and the bytes of their weights. */
struct tune_sample {
    double ticks[TUNE_TYPES], bytes[TUNE_TYPES];
};

/* Before a run of one token, its logits wanted, of ops [first, end); ticks: (n_ops), spent in each op so far. */
void tune_begin(const struct tuner *tuner, const struct asdsl_op *ops, const uint64_t *ticks, int32_t first,
                int32_t end, struct tune_sample *sample);
/* After it; weight_bytes: (n_ops), tune_weight_bytes of each. */
void tune_end(struct tuner *tuner, const struct asdsl_op *ops, const double *weight_bytes, const uint64_t *ticks,
              int32_t first, int32_t end, struct tune_sample *sample);

#endif
