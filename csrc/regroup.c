/* regroup.c: records of 16 rows <-> records of 4 rows (ASDSL_INTERLEAVED_4), every type by one rule.
 *
 * A line of 16 rows has 4 bytes of each, a row's beside the next's, or twice 2 bytes of each (scales; all of f16 and
 * bf16): a quarter of it belongs to 4 rows. A group of 4 rows is its quarters, line after line, so 4 such groups are
 * one of 16 rows, and what lies where inside a line is layout.h's business alone.
 */
#include "repack.h"
#include "kernels/layout.h"

enum { SMALL_ROWS = 4, QUARTERS = KERNEL_ROWS / SMALL_ROWS, QUARTER = LINE / QUARTERS };

/* Which lines have 2 bytes of each row, twice: every `period`-th, or the first `header` ones. 0: none such. */
struct two_byte_lines {
    uint64_t period, header;
};

static struct two_byte_lines two_byte_lines(int32_t type, int32_t cols) {
    switch (type) {
    case ASDSL_F16:
    case ASDSL_BF16: return (struct two_byte_lines){.period = 1};
    case ASDSL_Q4_0:
    case ASDSL_IQ4_NL: return (struct two_byte_lines){.period = Q4_0_PAIR / LINE};
    case ASDSL_Q4_1: return (struct two_byte_lines){.period = Q4_1_RECORD / LINE};
    case ASDSL_Q5_0: return (struct two_byte_lines){.period = Q5_0_PAIR / LINE};
    case ASDSL_Q5_1: return (struct two_byte_lines){.period = Q5_1_RECORD / LINE};
    case ASDSL_Q8_0: return (struct two_byte_lines){.period = Q8_0_PAIR / LINE};
    case ASDSL_Q2_K: return (struct two_byte_lines){.period = Q2_K_RECORD / LINE};
    case ASDSL_Q4_K: return (struct two_byte_lines){.period = Q4_K_RECORD / LINE};
    case ASDSL_Q5_K: return (struct two_byte_lines){.period = Q5_K_RECORD / LINE};
    case ASDSL_IQ4_XS: return (struct two_byte_lines){.period = IQ4_XS_RECORD / LINE};
    case ASDSL_Q3_K:
    case ASDSL_Q6_K: return (struct two_byte_lines){.header = header_bytes(cols) / LINE};
    default: return (struct two_byte_lines){0}; /* f32 */
    }
}

/* Quarter q of a line <-> 16 bytes of its own. */
static void move_quarter(uint8_t *line, uint8_t *quarter, int32_t q, bool two_bytes, bool to_quarter) {
    int32_t n = two_bytes ? 2 : 1, bytes = QUARTER / n;
    for (int32_t half = 0; half < n; half++) {
        uint8_t *in_line = line + half * (LINE / 2) + q * bytes, *own = quarter + half * bytes;
        memcpy(to_quarter ? own : in_line, to_quarter ? in_line : own, (size_t)bytes);
    }
}

void regroup(const struct regroup_job *job, int32_t begin, int32_t end) {
    uint64_t bytes = group_bytes(job->type, job->cols), n_lines = bytes / LINE;
    struct two_byte_lines two = two_byte_lines(job->type, job->cols);
    int32_t small_groups = (job->rows + SMALL_ROWS - 1) / SMALL_ROWS;
    for (int32_t g = begin; g < end; g++) {
        uint8_t *large = job->large + (uint64_t)g * bytes;
        if (!job->to_small) memset(large, 0, (size_t)bytes);
        for (int32_t q = 0; q < QUARTERS && g * QUARTERS + q < small_groups; q++) {
            uint8_t *small = job->small + (uint64_t)(g * QUARTERS + q) * (bytes / QUARTERS);
            for (uint64_t l = 0; l < n_lines; l++) {
                bool two_bytes = l < two.header || (two.period && l % two.period == 0);
                move_quarter(large + l * LINE, small + l * QUARTER, q, two_bytes, job->to_small);
            }
        }
    }
}

double small_groups_bytes(const struct type_facts *t, int32_t rows, int32_t cols) {
    double groups = (double)(((uint64_t)(uint32_t)rows + SMALL_ROWS - 1) / SMALL_ROWS);
    return groups * (double)(group_bytes(t->type, cols) / QUARTERS);
}
